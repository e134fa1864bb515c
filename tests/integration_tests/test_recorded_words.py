"""Whoever records the customer's words, in time or late, and whatever the profile says: once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync._flow import Flow
from langchain_convsync.models import InboundEvent
from langchain_convsync.settings import ServerProfile
from langchain_convsync.stores import EventStore, SQLiteEventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from langchain_convsync.turns.deliveries import Deliveries
from tests import promises
from tests.promises import CUSTOMER, Answer, sync_and_async

server = promises.server

#: Which of the customer's messages the server records by itself, and whether before a turn reads.
Habit: TypeAlias = Literal["none", "first", "all", "first, late", "all, late"]
HABITS: tuple[Habit, ...] = ("none", "first", "all", "first, late", "all, late")

Line: TypeAlias = tuple[str, str]


@dataclass
class World:
    """A server with a habit, its customer, and a bot whose process may be killed."""

    server: ReferenceServer
    store: EventStore
    answer: Answer
    habit: Habit
    expects: bool
    names_bot: bool = True
    said: list[Line] = field(default_factory=list)
    read: list[list[str]] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    number: int = 0

    def runner(self, **options: Any) -> TurnRunner:
        """A process."""
        client = self.server.client(profile=ServerProfile(records_inbound=self.expects))
        agent: Any = RunnableLambda(self.agent)
        return TurnRunner(agent, client=client, store=self.store, **options)

    def writes(self, text: str) -> InboundEvent:
        """WAHA tells both the API server and the bot."""
        self.number += 1
        self.said.append(("user", text))
        if self.habit.startswith("all") or (self.habit.startswith("first") and self.number == 1):
            self.late.append(text)
        if "late" not in self.habit:
            self.record()
        bot = "bot123" if self.names_bot else None
        return InboundEvent(
            event_id=f"evt_{self.number}", phone_number=CUSTOMER, text=text, bot_id=bot
        )

    def record(self) -> None:
        """The server records what it has heard."""
        with self.server.client() as own:
            for text in self.late:
                own.add_message(self.server.conversation(CUSTOMER).session_id, "user", text)
        self.late.clear()

    def agent(self, messages: list[BaseMessage]) -> AIMessage:
        self.read.append([str(message.content) for message in messages])
        self.record()
        reply = f"re {self.number}"
        self.said.append(("bot", reply))
        return AIMessage(reply)

    @property
    def history(self) -> list[Line]:
        return [(m.role, m.content) for m in self.server.conversation(CUSTOMER).messages]


@pytest.fixture
def world(server: ReferenceServer, answer: Answer, habit: Habit, expects: bool) -> Iterator[World]:
    store = SQLiteEventStore(":memory:")
    yield World(server, store, answer, habit, expects)
    store.close()


by_every_server = pytest.mark.parametrize("habit", HABITS)
by_every_profile = pytest.mark.parametrize("expects", [False, True], ids=["silent", "told"])


@by_every_server
@by_every_profile
@sync_and_async
@pytest.mark.parametrize("names_bot", [True, False], ids=["named", "unnamed"])
def test_each_message_stands_there_once(world: World, names_bot: bool) -> None:
    """One after the other, the same words again among them."""
    world.names_bot = names_bot
    runner = world.runner()

    for text in ("Hola", "sí", "sí", "Hola", "Hola"):
        world.answer(runner, world.writes(text))

    assert world.history == world.said
    assert world.read[-1] == [text for _, text in world.said[:-1]]


@by_every_server
@by_every_profile
@sync_and_async
def test_each_message_of_a_burst_stands_there_once(world: World) -> None:
    """Repeated words within it, and from the last one."""
    runner = world.runner()

    for burst in (("sí", "sí", "Hola"), ("Hola", "sí"), ("sí",), ("sí", "sí")):
        *first, last = [world.writes(text) for text in burst]
        for event in first:
            runner.accept(event)
        world.answer(runner, last)

    assert Counter(world.history) == Counter(world.said)
    assert [role for role, _ in world.history] == [role for role, _ in world.said]


@pytest.mark.parametrize("habit", [each for each in HABITS if each != "all, late"])
@by_every_profile
@sync_and_async
@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_what_a_killed_process_has_left_is_not_taken_for_the_servers(
    world: World, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died behind its commit; the next one finds its writes on their way."""
    texts = ("sí", "sí", "sí", "Hola")

    def killed(_self: Deliveries, _conversation_key: str) -> Flow[None]:
        raise KeyboardInterrupt

    for number, text in enumerate(texts, 1):
        event = world.writes(text)
        if number != killed_at:
            world.answer(world.runner(), event)
            continue
        with monkeypatch.context() as patched:
            patched.setattr(Deliveries, "drain", killed)
            with pytest.raises(KeyboardInterrupt):
                world.answer(world.runner(), event)

    assert Counter(world.history) == Counter(world.said)


@pytest.mark.parametrize("expects", [False], ids=["silent"])
@by_every_server
@sync_and_async
def test_messages_that_come_while_the_agent_thinks_stand_there_once(
    world: World,
) -> None:
    """The server's record of them stands before the reply to the one before."""
    runner, waiting = world.runner(), []

    def meanwhile(messages: list[BaseMessage]) -> AIMessage:
        reply = World.agent(world, messages)
        if world.number == 1:
            waiting.append(world.writes("sí"))
            world.said[-2:] = world.said[:-3:-1]
        return reply

    world.agent = meanwhile  # type: ignore[method-assign]
    runner = world.runner()
    world.answer(runner, world.writes("sí"))
    world.answer(runner, waiting[0])

    assert Counter(world.history) == Counter(world.said)


def asked(server: ReferenceServer) -> int:
    return sum("/lookup/conversation/" in request.path for request in server.requests)


@pytest.mark.parametrize("habit", ["none"])
@pytest.mark.parametrize("expects", [False], ids=["silent"])
@sync_and_async
def test_a_server_that_records_nothing_is_asked_once_a_turn(world: World) -> None:
    """And once more at the beginning of a history, behind the reply."""
    runner, reads = world.runner(), []

    for text in ("Hola", "sí", "sí"):
        world.server.requests.clear()
        world.answer(runner, world.writes(text))
        reads.append(asked(world.server))

    assert reads == [2, 1, 1]


@pytest.mark.parametrize("habit", ["none"])
@pytest.mark.parametrize("expects", [False], ids=["silent"])
@sync_and_async
def test_older_words_that_nobody_answered_are_not_the_events(world: World) -> None:
    """Nothing is known here of the conversation, but when they were written."""
    world.late.append("Hola")
    world.record()
    event = world.writes("Hola")
    later = datetime.now(UTC) + timedelta(hours=1)

    world.answer(world.runner(), event.model_copy(update={"sent_at": later}))

    assert world.history == [("user", "Hola"), *world.said]


@pytest.mark.parametrize("habit", ["none"])
@pytest.mark.parametrize("expects", [False], ids=["silent"])
@sync_and_async
def test_our_own_words_without_an_answer_are_not_the_servers(world: World) -> None:
    """A human had the conversation, so nothing was answered; the customer says it again."""
    world.names_bot, runner = False, world.runner()
    world.answer(runner, world.writes("Hola"))
    runner.pause(CUSTOMER, seconds=60.0)
    for text in ("sí", "sí"):
        assert world.answer(runner, world.writes(text)).status == "paused"

    assert world.history == world.said
