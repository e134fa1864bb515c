"""A server's clock that steps, or a primary whose clock is another one's: nothing waits for it."""

from __future__ import annotations

import time

import pytest

from langchain_convsync._flow import Io
from langchain_convsync.stores import EventStore, SQLiteEventStore
from tests.store_cases import Clock, Do, commit_of, conversation, event, turn_of

pytest_plugins = ("tests.store_fixtures",)

HOUR = 3600.0


class Stepped(Clock):
    """What a store reads its time from, and a step of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.passed = 0.0
        monkeypatch.setattr(time, "time", lambda: self.now)

    def monotonic(self) -> float:
        """What no user sets."""
        return self.passed

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self.passed += seconds

    def step(self, seconds: float) -> None:
        """Set the clock; no time passes."""
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Stepped:
    """The wall clock, which for Redis is the only one, beside one that only counts."""
    stepped = Stepped(monkeypatch)
    monkeypatch.setattr("langchain_convsync.stores.sqlite.monotonic", stepped.monotonic)
    return stepped


@pytest.fixture
def stepped(store: EventStore, do: Do) -> EventStore:
    """A store by that clock; SQLite's is not given it, as in production."""
    if not isinstance(store, SQLiteEventStore):
        return store
    do(Io(store.close, store.aclose))
    return SQLiteEventStore(":memory:")


both_ways = pytest.mark.parametrize("step", [-HOUR, HOUR, -24 * HOUR], ids=str)


@both_ways
def test_a_retry_waits_for_its_own_pause(
    stepped: EventStore, do: Do, clock: Stepped, step: float
) -> None:
    """A write that failed before the step is due after its seconds, not after the step's."""
    turn = turn_of(stepped, do, event())
    assert do(stepped.commit_turn(turn.lease, commit_of(turn, writes=1))) == "done"
    work = do(stepped.acquire("outbox", "w1"))
    do(stepped.retry(work.lease, work.operations[0].id, 0, delay=5.0, sent=False))
    do(stepped.release(work.lease))

    clock.step(step)
    do(stepped.backlog())  # as workers look all the time
    clock.advance(5.0)

    assert do(stepped.acquire("outbox", "w2")) is not None
    do(Io(stepped.close, stepped.aclose))


@both_ways
def test_what_comes_after_a_step_is_due_at_once(
    stepped: EventStore, do: Do, clock: Stepped, step: float
) -> None:
    """An empty queue keeps the delay of what was in it last: it must not keep the step."""
    for n in range(3):
        clock.step(step if n else 0.0)
        turn = turn_of(stepped, do, event(str(n)), f"t{n}")
        assert do(stepped.commit_turn(turn.lease, commit_of(turn, writes=1))) == "done"
        work = do(stepped.acquire("outbox", f"w{n}"))
        assert work is not None
        operation = work.operations[0].id
        assert do(stepped.begin(work.lease, operation, 0, attempt=1, need=1.0)) is not None
        assert do(stepped.confirm(work.lease, operation, 0, last=True)) == "done"
        assert do(stepped.release(work.lease))
    do(Io(stepped.close, stepped.aclose))


@both_ways
def test_a_dead_workers_lease_ends_when_it_would_have(
    stepped: EventStore, do: Do, clock: Stepped, step: float
) -> None:
    """Set back, a lease must not last for the step; and it is one worker's at a time."""
    turn = turn_of(stepped, do, event())
    clock.step(step)
    do(stepped.backlog())  # as workers look all the time
    clock.advance(30.0)

    taken = do(stepped.acquire("inbox", "another"))

    assert taken is not None
    assert do(stepped.commit_turn(turn.lease, commit_of(turn))) == "fenced"
    assert do(stepped.commit_turn(taken.lease, commit_of(taken))) == "done"
    do(Io(stepped.close, stepped.aclose))


def test_a_clock_that_is_set_back_ends_no_lease(
    stepped: EventStore, do: Do, clock: Stepped
) -> None:
    """Who holds it goes on, and renews it."""
    turn = turn_of(stepped, do, event())
    clock.step(-HOUR)

    assert do(stepped.acquire("inbox", "another")) is None
    assert do(stepped.renew(turn.lease)) is not None
    assert do(stepped.commit_turn(turn.lease, commit_of(turn))) == "done"
    do(Io(stepped.close, stepped.aclose))


@both_ways
def test_a_pause_and_a_debounce_end_when_they_would_have(
    stepped: EventStore, do: Do, clock: Stepped, step: float
) -> None:
    """A human's takeover is no longer, and nobody's message waits for the step."""
    do(stepped.pause(conversation(), seconds=60.0))
    do(stepped.accept(event()))
    clock.step(step)
    do(stepped.backlog())  # as workers look all the time
    clock.advance(61.0)

    acquired = do(stepped.acquire("inbox", "t"))

    assert acquired is not None
    assert not acquired.paused
    do(Io(stepped.close, stepped.aclose))


def test_a_step_forward_and_back_again_leaves_nothing_behind(
    stepped: EventStore, do: Do, clock: Stepped
) -> None:
    """A clock that was wrong for a moment: what was stored meanwhile waits for no hour."""
    clock.step(HOUR)
    turn = turn_of(stepped, do, event())
    do(stepped.release(turn.lease, delay=2.0))
    clock.step(-HOUR)
    do(stepped.backlog())
    clock.advance(2.0)

    assert do(stepped.due("inbox", conversation())) == 0.0
    do(Io(stepped.close, stepped.aclose))
