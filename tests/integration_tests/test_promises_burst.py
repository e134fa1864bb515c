"""Five hundred messages of one customer at once: none lost, none twice, none out of order."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync._flow import Io, run
from langchain_convsync.stores.base import Accepted, EventStore, NewEvent
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner
from langchain_convsync.turns.naming import Naming
from tests.promises import echo, history, said, served
from tests.redis_topologies import until

THREADS = 50


def texts(count: int) -> list[str]:
    """The messages of a burst."""
    return [f"message {n}" for n in range(count)]


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with served() as running:
        yield running


class Witness:
    """Notes when each event was offered first, and when the store had taken it.

    Two events were accepted in a known order only if the one was taken before the other was
    offered: that is what everybody else can know about the order of two messages.
    """

    def __init__(self, store: EventStore) -> None:
        self._accept = store.accept
        self._ticks = itertools.count()
        self._lock = threading.Lock()
        self.offered: dict[str, int] = {}
        self.acquired: dict[str, int] = {}

    def accept(self, event: NewEvent, *rules: Any, **options: Any) -> Io[Accepted]:
        """The store's own, observed."""
        io = self._accept(event, *rules, **options)

        def block() -> Accepted:
            self._note(self.offered, event)
            answer = io.block()
            self._note(self.acquired, event)
            return answer

        async def wait() -> Accepted:
            self._note(self.offered, event)
            answer = await io.wait()
            self._note(self.acquired, event)
            return answer

        return Io(block, wait)

    def _note(self, times: dict[str, int], event: NewEvent) -> None:
        with self._lock:
            times.setdefault(event.event_key, next(self._ticks))

    def contradictions(self, event_keys: list[str]) -> int:
        """How often an event stands behind one that was offered only after it had been taken."""
        latest, wrong = -1, 0
        for event_key in event_keys:
            wrong += self.acquired[event_key] < latest
            latest = max(latest, self.offered[event_key])
        return wrong


def threads(runner: TurnRunner, count: int) -> list[Turn]:
    """The whole burst, over many threads."""
    with runner, ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda text: runner.run(said(text)), texts(count)))


def tasks(runner: TurnRunner, count: int) -> list[Turn]:
    """The whole burst, in as many tasks of one loop."""

    async def burst() -> list[Turn]:
        async with runner:
            return await asyncio.gather(*(runner.arun(said(text)) for text in texts(count)))

    return asyncio.run(burst())


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("burst", [threads, tasks])
def test_a_burst_is_answered_whole_once_and_in_the_order_in_which_it_was_accepted(
    burst: Any,
    count: int,
    server: ReferenceServer,
    event_store: EventStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every event is in exactly one turn, and one call per turn is told to send its reply."""
    witness = Witness(event_store)
    monkeypatch.setattr(event_store, "accept", witness.accept)
    runner = TurnRunner(
        echo(),
        client=server.client(),
        store=event_store,
        shutdown_timeout=60.0,
        max_turns_per_minute=None,
    )

    turns: list[Turn] = burst(runner, count)

    answered = {turn.turn_id: turn for turn in turns if turn.status == "answered"}
    statuses = Counter(turn.status for turn in turns)
    assert statuses == {"answered": len(answered), "merged": count - len(answered)}
    assert Counter(text for turn in answered.values() for text in turn.events) == Counter(
        texts(count)
    )
    assert all(text in turn.events for text, turn in zip(texts(count), turns, strict=True))
    kept = history(server)
    words = [text for role, text in kept if role == "user"]
    in_order = sorted(answered.values(), key=lambda turn: words.index(turn.events[0]))
    assert kept == [entry for turn in in_order for entry in remembered(turn)]
    naming = Naming(event_store)
    event_keys = [run(naming.event(said(text), "")).event_key for text in words]
    assert witness.contradictions(event_keys) == 0
    assert (backlog := run(event_store.backlog())).queued == backlog.writes == 0


def remembered(turn: Turn) -> list[tuple[str, str]]:
    """What one turn adds to the history."""
    return [*(("user", text) for text in turn.events), ("bot", f"re: {turn.events[-1]}")]


@pytest.mark.parametrize("count", [60])
def test_what_comes_while_the_agent_runs_is_one_turn(
    count: int, server: ReferenceServer, event_store: EventStore
) -> None:
    """However many they are: so a burst is a few turns."""
    arrived = threading.Event()

    def slow(messages: list[BaseMessage]) -> AIMessage:
        arrived.wait()
        return AIMessage(f"re: {messages[-1].content}")

    runner = TurnRunner(RunnableLambda(slow), client=server.client(), store=event_store)
    with runner, ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(runner.run, said(text)) for text in texts(count)]
        until(lambda: run(event_store.backlog()).queued == count)
        arrived.set()
        turns = [call.result() for call in calls]

    assert Counter(turn.status for turn in turns) == {"answered": 2, "merged": count - 2}
