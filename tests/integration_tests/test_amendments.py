"""What a customer edits or takes back while it waits is answered as it is then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync import ServerProfile, telemetry, waha
from langchain_convsync._flow import run
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests import promises
from tests.promises import CUSTOMER, Answer, awaited, blocking, history, said

pytestmark = pytest.mark.usefixtures("no_pause")

STANZA = "3EB0A1"
Amend = Callable[[TurnRunner, waha.Ignored], bool]


def awaited_amend(runner: TurnRunner, change: waha.Ignored) -> bool:
    return asyncio.run(runner.aamend(change))


sync_and_async = pytest.mark.parametrize(
    ("answer", "amend"),
    [(blocking, TurnRunner.amend), (awaited, awaited_amend)],
    ids=["sync", "async"],
)


def edited(text: str, *, second: int | None = None, **fields: Any) -> waha.Ignored:
    sent_at = None if second is None else datetime(2026, 1, 1, 12, second, tzinfo=UTC)
    about = {"target_id": STANZA, "from_me": False, "sent_at": sent_at, **fields}
    return waha.Ignored(reason="edited", text=text, **about)


def revoked(stanza: str = STANZA) -> waha.Ignored:
    return waha.Ignored(reason="revoked", target_id=stanza, from_me=False)


def message(text: str, stanza: str = STANZA, **fields: Any) -> Any:
    return said(text, event_id=waha.event_id(stanza), **fields)


class Agent:
    """Answers everything that is new, and keeps what it was told; in its first run it does more."""

    def __init__(self) -> None:
        self.read: list[list[str]] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.runnable = RunnableLambda(self.reply)

    def reply(self, messages: list[BaseMessage]) -> AIMessage:
        self.read.append([str(m.content) for m in messages])
        if len(self.read) == 1:
            self.meanwhile()
        return AIMessage("Vale")


server = promises.server


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def runner(server: ReferenceServer, event_store: EventStore, agent: Agent) -> TurnRunner:
    return TurnRunner(agent.runnable, client=server.client(), store=event_store)


@sync_and_async
def test_an_edit_replaces_what_waits(
    runner: TurnRunner, server: ReferenceServer, agent: Agent, answer: Answer, amend: Amend
) -> None:
    """For the agent and in the history; what came along with the text stays."""
    runner.accept(message("Una piza", notes=("[image]",)))
    applied = amend(runner, edited("Una pizza"))
    again = runner.accept(message("Una piza", notes=("[image]",)))
    answer(runner, message("con queso", "3EB0A2"))

    assert (applied, again.status) == (True, "queued")
    assert agent.read == [["Una pizza\n[image]", "con queso"]]
    assert history(server)[0] == ("user", "Una pizza\n[image]")


@sync_and_async
def test_what_was_taken_back_is_neither_read_nor_recorded(
    runner: TurnRunner, server: ReferenceServer, agent: Agent, answer: Answer, amend: Amend
) -> None:
    """The rest is answered."""
    runner.accept(message("Te odio"))
    applied = amend(runner, revoked())
    turn = answer(runner, message("Una pizza", "3EB0A2"))

    assert (applied, turn.status) == (True, "answered")
    assert agent.read == [["Una pizza"]]
    assert history(server) == [("user", "Una pizza"), ("bot", "Vale")]
    assert turn.events == (waha.event_id(STANZA), waha.event_id("3EB0A2"))


@sync_and_async
def test_where_nothing_is_left_to_answer_the_turn_ends_without_the_agent(
    runner: TurnRunner, server: ReferenceServer, agent: Agent, answer: Answer, amend: Amend
) -> None:
    """Nor is the API server asked anything, and nobody gets a fallback."""
    runner.accept(message("Te odio"))
    amend(runner, revoked())
    turn = answer(runner, message("Te odio"))
    again = answer(runner, message("Te odio"))

    assert (turn.status, turn.reply, again.status) == ("dropped", None, "duplicate")
    assert (agent.read, history(server), server.requests) == ([], [], [])
    assert run(runner.store.backlog()).dead_letters == 0


def test_a_colleagues_words_can_be_taken_back_too(
    runner: TurnRunner, server: ReferenceServer, agent: Agent
) -> None:
    """They are not recorded then; the conversation stays theirs."""
    about: Any = {
        "message_id": "3EB0B1",
        "chat_id": f"{CUSTOMER[1:]}@c.us",
        "phone_number": CUSTOMER,
    }
    words = waha.OperatorMessage(event_id=waha.event_id("3EB0B1", from_me=True), text="x", **about)
    runner.take_over(words, seconds=600.0)

    assert runner.amend(waha.Ignored(reason="revoked", target_id="3EB0B1", from_me=True))
    assert runner.run(message("Hola")).status == "paused"
    assert history(server) == [("user", "Hola")]


@sync_and_async
def test_what_was_answered_stays_as_it_is(
    runner: TurnRunner, server: ReferenceServer, answer: Answer, amend: Amend
) -> None:
    """The API has no call that changes a message; it is counted."""
    before = telemetry.counted("amendments", outcome="too late")
    answer(runner, message("Una piza"))

    assert not amend(runner, edited("Una pizza"))
    assert not amend(runner, revoked())
    assert not amend(runner, revoked("3EB0FF"))
    assert history(server) == [("user", "Una piza"), ("bot", "Vale")]
    assert telemetry.counted("amendments", outcome="too late") == before + 3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ([edited("second", second=2), edited("first", second=1)], "second"),
        ([edited("first", second=1), edited("second", second=2)], "second"),
        ([edited("first"), edited("first"), edited("second")], "second"),
        ([edited("second", second=2), edited("of unknown time")], "of unknown time"),
        ([revoked(), edited("first", second=1)], None),
        ([edited("")], "zero"),
        ([edited("of nothing", target_id=None)], "zero"),
        ([waha.Ignored(reason="reaction", target_id=STANZA, text="👍")], "zero"),
    ],
)
def test_deliveries_come_in_any_order(
    runner: TurnRunner, agent: Agent, changes: list[waha.Ignored], text: str | None
) -> None:
    """The latest edit counts, and a revocation for good; what says nothing changes nothing."""
    runner.accept(message("zero"))
    for change in changes:
        runner.amend(change)
    runner.run(message("end", "3EB0A2"))

    assert agent.read == [[text, "end"] if text else ["end"]]


@sync_and_async
def test_a_turn_that_runs_goes_on_with_the_words_that_it_read(
    runner: TurnRunner, server: ReferenceServer, agent: Agent, answer: Answer, amend: Amend
) -> None:
    """What it answers is what stands in the history."""
    agent.meanwhile = lambda: runner.amend(edited("Una pizza"))
    answer(runner, message("Una piza"))

    assert history(server) == [("user", "Una piza"), ("bot", "Vale")]


@sync_and_async
def test_a_turn_that_has_to_begin_again_reads_the_new_ones(
    runner: TurnRunner, server: ReferenceServer, agent: Agent, answer: Answer, amend: Amend
) -> None:
    """Its first run failed, or its process died."""

    def change_and_fail() -> None:
        runner.amend(edited("Una pizza"))
        raise ValueError

    agent.meanwhile = change_and_fail
    answer(runner, message("Una piza"))

    assert agent.read == [["Una piza"], ["Una pizza"]]
    assert history(server) == [("user", "Una pizza"), ("bot", "Vale")]


@pytest.mark.parametrize("change", [edited("Una pizza"), revoked()], ids=["edited", "revoked"])
def test_the_servers_own_record_of_the_old_words_is_not_read_beside_them(
    server: ReferenceServer, event_store: EventStore, agent: Agent, change: waha.Ignored
) -> None:
    """It recorded the message when it came."""
    client = server.client(profile=ServerProfile(records_inbound=True))
    runner = TurnRunner(agent.runnable, client=client, store=event_store)
    session = server.conversation(CUSTOMER).session_id
    for text, stanza in (("Una piza", STANZA), ("con queso", "3EB0A2")):
        client.add_message(session, "user", text)
        runner.accept(message(text, stanza))
    runner.amend(change)
    runner.run(message("con queso", "3EB0A2"))

    assert agent.read == [[change.text, "con queso"] if change.text else ["con queso"]]
