"""A voice message becomes words: once, whatever crashes, and the history holds them."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from langchain_convsync import SQLiteEventStore, TurnRunner, WAHAReply, telemetry
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.stores import open_store
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import FakeWAHA, ReferenceServer
from tests import promises
from tests.files import JPEG, VOICE, Attentive, sent
from tests.promises import (
    Answer,
    awaited,
    blocking,
    history,
    on_sqlite,
    said,
    sync_and_async,
)
from tests.stored import rows

server = promises.server

WORDS = "Quiero dos pizzas"
SAID = f"{WORDS}\n[voice message]"


@pytest.fixture
def waha() -> Iterator[FakeWAHA]:
    with FakeWAHA(api_key="waha-secret") as running:
        yield running


@pytest.fixture
def memory() -> Iterator[SQLiteEventStore]:
    store = SQLiteEventStore(":memory:")
    yield store
    store.close()


def runner_of(
    server: ReferenceServer, store: EventStore, agent: Any, waha: FakeWAHA, **named: Any
) -> TurnRunner:
    sender = WAHAReply(waha.base_url, api_key="waha-secret")
    return TurnRunner(agent, reply=sender, client=server.client(), store=store, **named)


def voice(waha: FakeWAHA, **named: Any) -> Any:
    """A voice message of the customer."""
    return sent(waha, VOICE, "", "audio/ogg; codecs=opus", **named)


class Ear:
    """A transcription that counts.

    Attributes:
        heard: What it was given.
    """

    def __init__(self, *fates: Any) -> None:
        self.heard: list[tuple[bytes, str]] = []
        self._fates = list(fates)

    def __call__(self, data: bytes, mimetype: str) -> str:
        self.heard.append((data, mimetype))
        fate = self._fates.pop(0) if self._fates else WORDS
        if isinstance(fate, Exception):
            raise fate
        return fate

    async def slowly(self, data: bytes, mimetype: str) -> str:
        """The same, awaited."""
        await asyncio.sleep(0)
        return self(data, mimetype)


@sync_and_async
def test_a_voice_message_is_heard_and_stands_in_the_history_as_words(
    server: ReferenceServer, event_store: EventStore, waha: FakeWAHA, answer: Answer
) -> None:
    """The agent reads them, and is told that they were spoken."""
    ear, attentive = Ear(), Attentive()
    runner = runner_of(server, event_store, attentive.agent, waha, transcribe=ear)
    turn = answer(runner, voice(waha))

    assert turn.status == "answered"
    assert attentive.prompt == SAID
    assert history(server) == [("user", SAID), ("bot", "Claro")]
    assert ear.heard == [(VOICE, "audio/ogg")]


def test_an_awaited_function_is_awaited(
    server: ReferenceServer, memory: SQLiteEventStore, waha: FakeWAHA
) -> None:
    """A blocking call says at once that it cannot."""
    ear, attentive = Ear(), Attentive()
    runner = runner_of(server, memory, attentive.agent, waha, transcribe=ear.slowly)
    with pytest.raises(ConfigurationError, match="transcribe= can only be awaited"):
        runner.run(voice(waha))
    asyncio.run(runner.arun(voice(waha)))

    assert attentive.prompt == SAID


def test_a_plain_function_holds_up_no_event_loop(
    server: ReferenceServer, memory: SQLiteEventStore, waha: FakeWAHA
) -> None:
    """It is called on a thread."""
    threads: list[threading.Thread] = []

    def transcribe(_data: bytes, _mimetype: str) -> str:
        threads.append(threading.current_thread())
        return WORDS

    runner = runner_of(server, memory, Attentive().agent, waha, transcribe=transcribe)
    asyncio.run(runner.arun(voice(waha)))

    assert threads != [threading.main_thread()]


@sync_and_async
def test_a_run_that_fails_is_not_heard_again(
    server: ReferenceServer,
    event_store: EventStore,
    waha: FakeWAHA,
    answer: Answer,
    no_pause: None,
) -> None:
    """What was heard is kept until the turn is done."""
    failures = iter([RuntimeError("overloaded"), RuntimeError("overloaded")])

    def fails_twice(_messages: Any) -> str:
        if failure := next(failures, None):
            raise failure
        return "Claro"

    ear, attentive = Ear(), Attentive(fails_twice)
    runner = runner_of(server, event_store, attentive.agent, waha, transcribe=ear, media="blocks")
    turn = answer(runner, voice(waha))

    assert (turn.status, len(attentive.given), len(ear.heard)) == ("answered", 3, 1)
    assert [each[-1].content for each in attentive.given] == [SAID] * 3
    assert history(server) == [("user", SAID), ("bot", "Claro")]


#: Hears, and hangs in the agent, so that it can be killed there.
WORKER = """
import sys, time
from langchain_core.runnables import RunnableLambda
from langchain_convsync import ConvSyncClient, InboundEvent, TurnRunner, WAHAReply
from langchain_convsync.stores import open_store

base_url, store_url, waha_url, event = sys.argv[1:]

def hang(_):
    print("here", flush=True)
    time.sleep(600)

runner = TurnRunner(
    RunnableLambda(hang), client=ConvSyncClient(base_url), store=open_store(store_url), lease=1.0,
    reply=WAHAReply(waha_url, api_key="waha-secret"), transcribe=lambda *_: "Quiero dos pizzas",
)
runner.run(InboundEvent.model_validate_json(event))
"""


@on_sqlite
def test_the_process_after_a_killed_one_hears_nothing_again(
    server: ReferenceServer, durable_store_url: str, waha: FakeWAHA
) -> None:
    """Its transcription was paid for."""
    event = voice(waha)
    given = [server.base_url, durable_store_url, waha.base_url, event.model_dump_json()]
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, *given], stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "here\n"
        worker.kill()
    store = open_store(durable_store_url)
    ear, attentive = Ear("otra cosa"), Attentive()
    turn = runner_of(server, store, attentive.agent, waha, transcribe=ear, lease=1.0).run(event)
    store.close()

    assert (turn.status, attentive.prompt, ear.heard) == ("answered", SAID, [])
    assert history(server) == [("user", SAID), ("bot", "Claro")]


def test_what_was_heard_is_kept_no_longer_than_its_turn(
    server: ReferenceServer, waha: FakeWAHA, tmp_path: Path
) -> None:
    """It is among what tools returned, and goes with that."""
    path, seen = tmp_path / "events.db", list[list[Any]]()

    def looks(_messages: Any = None) -> str:
        seen.append([row["result"] for table, row in rows(path) if table == "calls"])
        return "Claro"

    store = SQLiteEventStore(path)
    runner_of(server, store, Attentive(looks).agent, waha, transcribe=Ear()).run(voice(waha))
    looks()
    store.close()

    assert seen == [[WORDS.encode()], []]


@sync_and_async
@pytest.mark.parametrize(
    ("fate", "why"),
    [
        (RuntimeError("the customer said secret things"), "the transcription failed"),
        (None, "the transcription failed"),
        (" \n", "no words were heard"),
    ],
)
def test_a_transcription_that_fails_is_told_the_model_and_fails_no_turn(
    fate: Any,
    why: str,
    server: ReferenceServer,
    memory: SQLiteEventStore,
    waha: FakeWAHA,
    answer: Answer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log has its class and its place, and no word of it."""
    ear, attentive = Ear(fate), Attentive()
    before = telemetry.counted("media", what="audio", outcome=why)
    with caplog.at_level(logging.WARNING):
        runner = runner_of(server, memory, attentive.agent, waha, transcribe=ear)
        turn = answer(runner, voice(waha))

    assert turn.status == "answered"
    assert attentive.prompt == f"[voice message: could not be transcribed: {why}]"
    assert history(server) == [("user", "[voice message]"), ("bot", "Claro")]
    assert telemetry.counted("media", what="audio", outcome=why) == before + 1
    assert f"could not be transcribed: {why}" in caplog.text
    assert "secret things" not in caplog.text


@pytest.mark.parametrize(
    ("kind", "answer"),
    [("plain", blocking), ("plain", awaited), ("awaited", awaited)],
    ids=["plain-sync", "plain-async", "awaited-async"],
)
def test_a_transcription_that_hangs_is_left_behind(
    kind: str,
    server: ReferenceServer,
    memory: SQLiteEventStore,
    waha: FakeWAHA,
    answer: Answer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The customer is answered all the same."""
    monkeypatch.setattr("langchain_convsync.turns.media.TRANSCRIPTION_TIME", 0.3)
    over = threading.Event()

    def plain(_data: bytes, _mimetype: str) -> str:
        over.wait()
        return WORDS

    async def slow(_data: bytes, _mimetype: str) -> str:
        await asyncio.Event().wait()
        return WORDS

    transcribe: Callable[..., Any] = plain if kind == "plain" else slow
    attentive = Attentive()
    turn = answer(
        runner_of(server, memory, attentive.agent, waha, transcribe=transcribe), voice(waha)
    )
    over.set()

    assert turn.status == "answered"
    assert attentive.prompt.endswith("could not be transcribed: it took too long]")


def test_a_file_that_is_no_audio_is_not_heard(
    server: ReferenceServer, memory: SQLiteEventStore, waha: FakeWAHA
) -> None:
    """Whatever its message says."""
    ear, attentive = Ear(), Attentive()
    runner = runner_of(server, memory, attentive.agent, waha, transcribe=ear)
    runner.run(sent(waha, JPEG, "", "audio/ogg"))

    assert attentive.prompt.endswith("could not be transcribed: it is not what it says it is]")
    assert ear.heard == []


def test_an_image_beside_it_is_left_to_media(
    server: ReferenceServer, memory: SQLiteEventStore, waha: FakeWAHA
) -> None:
    """Only what can be heard is loaded for it."""
    attentive = Attentive()
    runner = runner_of(server, memory, attentive.agent, waha, transcribe=Ear())
    runner.run(sent(waha, JPEG, "¿Qué es?"))

    assert attentive.prompt == "¿Qué es?\n[image]"


def test_an_input_of_ones_own_reads_the_words(
    server: ReferenceServer, memory: SQLiteEventStore, waha: FakeWAHA
) -> None:
    """As the event's text."""
    attentive = Attentive()

    def prepare(_conversation: Any, events: Any) -> list[HumanMessage]:
        return [HumanMessage(each.text) for each in events]

    runner = runner_of(server, memory, attentive.agent, waha, transcribe=Ear(), prepare=prepare)
    runner.run(voice(waha))

    assert attentive.prompt == WORDS


def test_a_question_is_answered_by_voice(
    server: ReferenceServer, memory: SQLiteEventStore, waha: FakeWAHA
) -> None:
    """What was heard is the answer."""

    def ask(_state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"Oído: {interrupt('¿Qué deseas?')}")]}

    graph: Any = StateGraph(MessagesState)
    graph.add_node(ask).add_edge(START, "ask").add_edge("ask", END)
    agent = graph.compile(checkpointer=InMemorySaver())
    runner = runner_of(server, memory, agent, waha, transcribe=Ear(), media="blocks")
    turns = [runner.run(said("Hola")), runner.run(voice(waha))]

    assert [turn.reply for turn in turns] == ["¿Qué deseas?", f"Oído: {SAID}"]
