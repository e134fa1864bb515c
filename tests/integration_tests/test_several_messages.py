"""An answer of several messages: each is sent once, in order, with a pause before it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_convsync import (
    ConfigurationError,
    ConvSyncClient,
    Reply,
    SQLiteEventStore,
    TurnRunner,
    WAHAReply,
)
from langchain_convsync._flow import run
from langchain_convsync.outbox.reply import LONGEST_PAUSE
from langchain_convsync.stores import EventStore
from langchain_convsync.testing import ReferenceServer
from tests import promises, waha_chats
from tests.faulty_server import answers
from tests.promises import CUSTOMER, Answer, history, said, sync_and_async
from tests.waha_chats import WahaChats

server, chats = promises.server, waha_chats.chats

LONG = "Uno\n\n```\ncódigo\n\ncódigo\n```\n\nTres"
PIECES = ["Uno", "```\ncódigo\n\ncódigo\n```", "Tres"]


def returns(output: object) -> Runnable[Any, Any]:
    """An agent that returns this."""
    return RunnableLambda(lambda _: output)


def runner_of(
    agent: Runnable[Any, Any],
    client: ConvSyncClient,
    store: EventStore,
    chats: WahaChats,
    **options: Any,
) -> TurnRunner:
    """A runner that sends through the WAHA of the test."""
    sender = WAHAReply(chats.url, settle=0.0, **options)
    return TurnRunner(agent, client=client, store=store, reply=sender)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses before messages, none of which takes any time."""
    taken: list[float] = []

    def sleep(seconds: float) -> Iterator[Any]:
        taken.append(seconds)
        yield from ()

    monkeypatch.setattr("langchain_convsync.outbox.replies.sleep", sleep)
    return taken


@sync_and_async
@pytest.mark.parametrize(
    ("output", "bubbles", "texts"),
    [
        (Reply(texts=["Uno", "Dos"]), None, ["Uno", "Dos"]),
        (LONG, None, [LONG]),
        (LONG, 5, PIECES),
        (Reply(texts=["Hola", LONG]), 5, ["Hola", *PIECES]),
    ],
)
def test_each_is_sent_once_and_in_order(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    pauses: list[float],
    answer: Answer,
    output: object,
    bubbles: int | None,
    texts: list[str],
) -> None:
    """They are one reply of the turn, and one message of the history."""
    runner = runner_of(returns(output), server.client(), event_store, chats, bubbles=bubbles)
    turn = answer(runner, said("Hola"))
    again = answer(runner, said("Hola"))

    assert chats.texts == texts
    assert (turn.reply, again.reply) == ("\n\n".join(texts), turn.reply)
    assert [text for reply in turn.said for text in reply.texts] == texts
    assert history(server) == [("user", "Hola"), ("bot", "\n\n".join(texts))]
    assert [0 < pause <= LONGEST_PAUSE for pause in pauses] == [True] * (len(texts) - 1)


def test_a_longer_message_takes_longer(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, pauses: list[float]
) -> None:
    """As if it were typed; and typed it is, where that is shown."""
    reply = Reply(texts=["Uno", "Dos tres cuatro", "x" * 10_000])
    runner = runner_of(returns(reply), server.client(), event_store, chats, typing=20.0)
    runner.run(said("Hola"))

    assert pauses == [3 / 15, 1.0, 20.0]
    one = ["startTyping", "stopTyping", "sendText"]
    assert [what for what, _ in chats.posts] == ["startTyping", *one * 3]


def test_the_first_message_quotes_what_it_answers(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, pauses: list[float]
) -> None:
    """Where the customer's message has an id of WAHA's."""
    reply = Reply(texts=["Uno", "Dos"], quote=True)
    runner = runner_of(returns(reply), server.client(), event_store, chats)
    chat_id = f"{CUSTOMER[1:]}@c.us"
    runner.run(said("Hola", event_id="false_3A0123456789ABCDEF01", chat_id=chat_id))
    runner.run(said("Y otra", event_id="evt_1", chat_id=chat_id))

    assert chats.quotes == [f"false_{chat_id}_3A0123456789ABCDEF01", None, None, None]


@pytest.mark.usefixtures("pauses")
def test_one_that_is_refused_for_good_takes_the_rest_along(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """Half an answer is not sent out of order; an operator decides."""
    chats.fates = [chats.carried_out, answers({"message": "bad request"}, status=400)]
    reply = Reply(texts=["Uno", "Dos", "Tres"])
    runner = runner_of(returns(reply), server.client(), event_store, chats)
    runner.run(said("Hola"))

    assert chats.texts == ["Uno"]
    assert run(event_store.backlog()).dead_letters == 2


@pytest.mark.usefixtures("pauses")
def test_an_answer_that_expires_is_not_sent_late(
    server: ReferenceServer, chats: WahaChats, tmp_path: Path
) -> None:
    """Its seconds count from the commit."""
    moment = [1000.0]
    store = SQLiteEventStore(tmp_path / "events.db", clock=lambda: moment[0])
    chats.fates = [answers({"message": "slow down"}, status=429)] * 2
    reply = Reply(texts=["Solo hoy"], expires=60.0)
    runner = runner_of(returns(reply), server.client(), store, chats)
    runner._deliveries.budget = 0.0
    runner.run(said("Hola"))
    moment[0] += 3600.0
    runner._deliveries.budget = 5.0
    runner.run(said("Hola"))

    assert chats.texts == []
    assert run(store.backlog()).dead_letters == 1
    store.close()


def test_a_format_that_makes_no_text_fails_the_run(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """And says so."""
    given: Any = lambda _: None  # noqa: E731
    runner = runner_of(returns("Hola"), server.client(), event_store, chats, format=given)
    turn = runner.run(said("Hola"))

    assert (turn.status, chats.texts) == ("failed", [])
    assert isinstance(turn.error, ConfigurationError)


LINES = [f"{n} " + "línea " * 8 for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("on_newer_message", "sent"),
    [("answer", [*LINES, "Cuatro"]), ("rerun", [LINES[0], "Cuatro"])],
)
@pytest.mark.parametrize("is_written", [True, False])
def test_a_newer_message_may_cancel_the_rest(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    monkeypatch: pytest.MonkeyPatch,
    on_newer_message: Any,
    sent: list[str],
    is_written: bool,
) -> None:
    """As ``on_newer_message`` says; the history holds what was sent, the agent reads it.

    Whether or not it has been written when the next turn begins.
    """
    heard: list[list[str]] = []

    def agent(messages: list[BaseMessage]) -> object:
        heard.append([str(each.content) for each in messages])
        return Reply(texts=LINES) if messages[-1].content == "Hola" else "Cuatro"

    runner = TurnRunner(
        RunnableLambda(agent),
        client=server.client(),
        store=event_store,
        reply=WAHAReply(chats.url, settle=0.0),
        on_newer_message=on_newer_message,
    )
    newer = iter([said("¿Y mañana?")])

    def sleep(seconds: float) -> Iterator[Any]:
        """The customer writes while the second message seems to be typed."""
        if event := next(newer, None):
            runner.accept(event)
        yield from ()

    monkeypatch.setattr("langchain_convsync.outbox.replies.sleep", sleep)
    budget, runner._deliveries.budget = runner._deliveries.budget, 10.0 if is_written else 0.0
    runner.run(said("Hola"))
    runner._deliveries.budget = budget
    runner.run(said("¿Y mañana?"))

    texts = [text.strip() for text in sent]
    assert chats.texts == texts
    bot = "\n\n".join(texts[:-1])
    assert history(server) == [
        *(("user", "Hola"), ("bot", bot)),
        *(("user", "¿Y mañana?"), ("bot", "Cuatro")),
    ]
    assert heard[-1] == ["Hola", bot, "¿Y mañana?"]
    assert run(event_store.backlog()).dead_letters == 0


MARKDOWN = "**Pizza** [menú](https://x.pe)\n# Ofertas"


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, "*Pizza* menú (https://x.pe)\n*Ofertas*"),
        ({"format": None}, MARKDOWN),
        ({"format": str.upper}, MARKDOWN.upper()),
    ],
)
def test_markdown_is_sent_in_whatsapps_formatting(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    options: dict[str, Any],
    sent: str,
) -> None:
    """The history holds what was sent; another function does it another way, or none."""
    runner = runner_of(returns(MARKDOWN), server.client(), event_store, chats, **options)
    turn = runner.run(said("Hola"))

    assert (chats.texts, turn.reply) == ([sent], sent)
    assert history(server) == [("user", "Hola"), ("bot", sent)]


DYING = """
import os, signal, sys
from langchain_core.runnables import RunnableLambda
from langchain_convsync import ConvSyncClient, Reply, SQLiteEventStore, TurnRunner, WAHAReply
from langchain_convsync.outbox import replies
from tests.promises import said

replies.LONGEST_PAUSE, replies.SEND_TIME = 0.0, 0.1
when, api, waha, path = sys.argv[1:]

class Dying(SQLiteEventStore):
    def begin(self, lease, operation_id, *given, **named):
        if when == "before" and operation_id.endswith("/2"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().begin(lease, operation_id, *given, **named)

    def release(self, lease, **named):
        if lease.queue == "replies":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().release(lease, **named)

runner = TurnRunner(RunnableLambda(lambda _: Reply(texts=["Uno", "Dos", "Tres"])),
                    client=ConvSyncClient(api), store=Dying(path), lease=0.1,
                    reply=WAHAReply(waha))
runner.run(said("Hola"))
"""


@pytest.mark.slow  # the simulator ends a process between any two
@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize("when", ["before", "after"])
def test_whoever_dies_between_two_messages_each_is_sent_once(
    server: ReferenceServer,
    chats: WahaChats,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    """A process is killed before the third was sent, or before that could be noted."""
    monkeypatch.setattr("langchain_convsync.outbox.reply.SEND_TIME", 0.0)
    path = tmp_path / "events.db"
    arguments = [sys.executable, "-c", DYING, when, server.base_url, chats.url, str(path)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    died = subprocess.run(arguments, env=env, check=False, capture_output=True)
    by_then = list(chats.texts)
    store = SQLiteEventStore(path)
    runner_of(returns("Cuatro"), server.client(), store, chats).run(said("¿Sigues ahí?"))
    left = run(store.backlog()).replies
    store.close()

    assert died.returncode == -signal.SIGKILL, died.stderr
    assert by_then == ["Uno", "Dos", "Tres"][: 2 if when == "before" else 3]
    assert (chats.texts, left) == (["Uno", "Dos", "Tres", "Cuatro"], 0)
