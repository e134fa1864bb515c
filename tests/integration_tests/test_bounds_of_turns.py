"""More waits than one turn takes: the rest is the next turn's, in order, and nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync.models import InboundEvent
from langchain_convsync.outbox import WAHAReply
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import FakeWAHA, ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner
from tests.promises import CUSTOMER, Answer, said, server, sync_and_async

__all__ = ["server"]


class Agent:
    """Says how many new messages it read, and remembers their texts."""

    def __init__(self) -> None:
        self.heard: list[list[str]] = []

    def __call__(self, messages: list[BaseMessage]) -> str:
        new: list[str] = []
        for message in reversed(messages):
            if message.type != "human":
                break
            new.insert(0, str(message.content))
        self.heard.append(new)
        return f"read {len(new)}"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three events a turn."""
    monkeypatch.setattr("langchain_convsync.turns.bounds.MOST_EVENTS", 3)


@sync_and_async
@pytest.mark.parametrize("on_newer", ["answer", "rerun"])
def test_a_caller_gets_the_replies_of_all_turns_on_the_way(
    answer: Answer, on_newer: Any, server: ReferenceServer, event_store: EventStore
) -> None:
    """A caller who sends replies has one turn to do so, whatever had waited before."""
    agent = Agent()
    runner = TurnRunner(
        RunnableLambda(agent),
        client=server.client(),
        store=event_store,
        on_newer_message=on_newer,
    )
    texts = [str(number) for number in range(8)]
    for text in texts[:-1]:
        runner.accept(said(text))

    turn = answer(runner, said(texts[-1]))

    assert (turn.status, turn.reply) == ("answered", "read 3\n\nread 3\n\nread 2")
    assert list(turn.events) == texts
    assert agent.heard == [texts[:3], texts[3:6], texts[6:]]
    assert answer(runner, said("2")).reply == "read 3"
    assert answer(runner, said("7")).reply == "read 2"


@sync_and_async
def test_on_reply_is_called_for_each_turn(
    answer: Answer, server: ReferenceServer, event_store: EventStore
) -> None:
    """Each has its own reply, and none is told twice."""
    told: list[Turn] = []
    runner = TurnRunner(
        RunnableLambda(Agent()), client=server.client(), store=event_store, on_reply=told.append
    )
    for number in range(4):
        runner.accept(said(str(number)))

    assert answer(runner, said("4")).reply == "read 2"
    assert [turn.reply for turn in told] == ["read 3", "read 2"]


def test_workers_take_turn_after_turn(server: ReferenceServer, event_store: EventStore) -> None:
    """The rest of an inbox is due at once."""
    agent = Agent()
    with FakeWAHA() as waha:
        reply = WAHAReply(waha.base_url)
        runner = TurnRunner(
            RunnableLambda(agent), client=server.client(), store=event_store, reply=reply
        )
        for number in range(8):
            runner.accept(said(str(number)))
        with runner:
            sent = waha.wait_for_sent(3, timeout=120.0)
    assert [each.text for each in sent] == ["read 3", "read 3", "read 2"]


@sync_and_async
def test_a_text_that_never_ends_is_cut(
    answer: Answer, server: ReferenceServer, event_store: EventStore
) -> None:
    """In what the agent reads and in the history alike."""
    agent = Agent()
    runner = TurnRunner(RunnableLambda(agent), client=server.client(), store=event_store)
    event = InboundEvent(event_id="1", phone_number=CUSTOMER, text="x" * 1_000_000)

    assert answer(runner, event).status == "answered"
    ((heard,),) = agent.heard
    assert len(heard) == 65_536
    assert heard.endswith("more characters are left out]")
    assert server.conversation(CUSTOMER).messages[0].content == heard
    assert answer(runner, event).status == "duplicate"
