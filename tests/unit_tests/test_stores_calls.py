"""What a store keeps of the tools that a turn calls: until the turn is committed, and no longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from langchain_convsync.stores import (
    Commit,
    EventStore,
    KeptCall,
    RedisEventStore,
    SQLiteEventStore,
)
from tests.redis_server import RedisServer
from tests.store_cases import (
    Clock,
    Do,
    blocking,
    commit_of,
    conversation,
    event,
    queue_of,
    turn_of,
)
from tests.stored import redis_records, sqlite_records

pytest_plugins = ("tests.store_fixtures",)

HEAD = event("1").event_key


def begun(store: EventStore, do: Do, has: Any, call: str = "charge", token: str = "run") -> Any:
    """What is kept of a call that a turn begins."""
    event_keys = [queued.event_key for queued in has.events]
    return do(store.begin_call(has.lease, event_keys, call, token=token))


def ended(
    store: EventStore,
    do: Do,
    has: Any,
    call: str = "charge",
    result: str | None = "paid",
    token: str = "run",
) -> Any:
    """Whether a call's result could be kept."""
    head = has.events[0].event_key
    return do(store.end_call(has.lease, head, call, token=token, result=result))


def test_a_call_is_begun_once_and_its_result_answers_later_runs(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Whoever runs the turn next is told what came of it."""
    first = turn_of(store, do, event())
    told = [begun(store, do, first), ended(store, do, first)]
    clock.advance(31.0)
    next_run = queue_of(store, do, "inbox", "next")

    assert told == [KeptCall(by="run"), True]
    assert begun(store, do, next_run, token="next") == KeptCall(by="run", result="paid")
    assert begun(store, do, next_run, "another", "next") == KeptCall(by="next")


def test_a_call_that_has_no_result_tells_who_began_it(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """The same call again, after a lost answer, is told that it is its own."""
    first = turn_of(store, do, event())
    told = [begun(store, do, first, token=token) for token in ("run", "run", "other")]
    clock.advance(31.0)
    next_run = queue_of(store, do, "inbox", "next")

    assert told == [KeptCall(by="run")] * 3
    assert begun(store, do, next_run, token="next") == KeptCall(by="run")


def test_a_call_that_was_taken_back_was_never_begun(store: EventStore, do: Do) -> None:
    """By a human's interrupt."""
    has = turn_of(store, do, event())
    begun(store, do, has)

    assert [ended(store, do, has, result=None) for _ in range(2)] == [True, True]
    assert begun(store, do, has, token="later") == KeptCall(by="later")


def test_who_lost_the_lease_begins_no_call_and_keeps_no_result(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Its successor is told that the call is begun, and no more."""
    zombie = turn_of(store, do, event())
    begun(store, do, zombie, token="zombie")
    clock.advance(31.0)
    successor = queue_of(store, do, "inbox", "successor")

    assert begun(store, do, zombie, "another", "zombie") is None
    assert not ended(store, do, zombie, token="zombie")
    assert not ended(store, do, zombie, result=None, token="zombie")
    assert begun(store, do, successor, token="mine") == KeptCall(by="zombie")


def test_a_turn_that_is_committed_or_given_back_calls_no_tool(store: EventStore, do: Do) -> None:
    """A tool that outlasts its turn leaves nothing behind."""
    committed, released = turn_of(store, do, event()), turn_of(store, do, event("2", customer="b"))
    do(store.commit_turn(committed.lease, commit_of(committed)))
    do(store.release(released.lease))

    for late in (committed, released):
        assert begun(store, do, late) is None
        assert not ended(store, do, late)


def test_the_result_follows_its_event_behind_another_one(store: EventStore, do: Do) -> None:
    """The customer's number became known: the turn's head is another event now."""
    by_lid = turn_of(store, do, event("1", customer="lid"))
    begun(store, do, by_lid)
    ended(store, do, by_lid)
    do(store.accept(event("2", customer="ana")))
    do(store.alias(conversation("lid"), conversation("ana"), lease=by_lid.lease))
    together = queue_of(store, do, "inbox", "next")

    assert len(together.events) == 2
    assert begun(store, do, together, token="next") == KeptCall(by="run", result="paid")


def test_the_next_turn_knows_no_call_of_the_last_one(store: EventStore, do: Do) -> None:
    """The customer who orders the same again pays again."""
    first = turn_of(store, do, event("1"))
    begun(store, do, first)
    ended(store, do, first)
    do(store.commit_turn(first.lease, commit_of(first)))

    assert begun(store, do, turn_of(store, do, event("2"), "t2"), token="2") == KeptCall(by="2")


def test_an_operators_retry_knows_results_and_no_call_without_one(
    store: EventStore, do: Do
) -> None:
    """What was done is not done again; of what is unknown, the operator has decided."""
    has = turn_of(store, do, event())
    begun(store, do, has, "booked")
    ended(store, do, has, "booked", "table 7")
    begun(store, do, has, "unknown")
    do(store.commit_turn(has.lease, commit_of(has, dead=True)))
    [letter] = do(store.dead_letters())
    do(store.requeue(letter, token="retry"))
    again = queue_of(store, do, "inbox", "again")

    assert begun(store, do, again, "booked", "b") == KeptCall(by="run", result="table 7")
    assert begun(store, do, again, "unknown", "b") == KeptCall(by="b")


def test_what_no_turn_could_call_is_refused(store: EventStore, do: Do) -> None:
    """Under a lease of the wrong queue, without an event, or with a malformed key."""
    has = turn_of(store, do, event("0"))
    do(store.commit_turn(has.lease, commit_of(has, writes=1)))
    writes, turn = queue_of(store, do, "outbox", "w"), turn_of(store, do, event("1"), "t")

    with pytest.raises(ValueError, match="a lease on the inbox"):
        store.begin_call(writes.lease, [HEAD], "charge", token="run")
    with pytest.raises(ValueError, match="a lease on the inbox"):
        store.end_call(writes.lease, HEAD, "charge", token="run", result=None)
    with pytest.raises(ValueError, match="not a key"):
        store.begin_call(turn.lease, ["no key"], "charge", token="run")
    with pytest.raises(ValueError, match="at least one event"):
        store.begin_call(turn.lease, [], "charge", token="run")


#: What ends a turn, and with it what is kept of its calls.
def _commit(store: EventStore, has: Any) -> None:
    blocking(store.commit_turn(has.lease, commit_of(has)))


def _discard(store: EventStore, has: Any) -> None:
    blocking(store.commit_turn(has.lease, commit_of(has, dead=True)))
    [letter] = blocking(store.dead_letters())
    blocking(store.discard(letter, token="mine"))


def _retry(store: EventStore, has: Any) -> None:
    blocking(store.commit_turn(has.lease, commit_of(has, dead=True)))
    [letter] = blocking(store.dead_letters())
    blocking(store.requeue(letter, token="mine"))
    _commit(store, queue_of(store, blocking, "inbox", "again"))


def _forget(store: EventStore, has: Any) -> None:
    blocking(store.forget(has.lease.conversation_key))


def _forget_a_dead_letter(store: EventStore, has: Any) -> None:
    blocking(store.commit_turn(has.lease, commit_of(has, dead=True)))
    _forget(store, has)


def _merge(store: EventStore, has: Any) -> None:
    """A turn of several events ends all of them."""
    blocking(store.accept(event("0", customer="ana")))
    blocking(store.alias(has.lease.conversation_key, conversation("ana"), lease=has.lease))
    both = queue_of(store, blocking, "inbox", "both")
    event_keys = [queued.event_key for queued in both.events]
    assert len(event_keys) == 2
    blocking(store.commit_turn(both.lease, Commit(event_keys=event_keys, outcomes={})))


ENDS = [_commit, _discard, _retry, _forget, _forget_a_dead_letter, _merge]
WORDS = b"paid-25-by-card"


@pytest.mark.parametrize("end", ENDS)
def test_no_byte_of_a_result_outlives_its_turn_in_a_file(end: Any, tmp_path: Path) -> None:
    """Neither in the file nor in a row."""
    path = tmp_path / "events.db"
    store = SQLiteEventStore(path)
    has = turn_of(store, blocking, event("1", customer="lid"))
    begun(store, blocking, has)
    ended(store, blocking, has, result=WORDS.decode())
    assert any(WORDS in whole for _, whole in sqlite_records(path))

    end(store, has)
    calls = [table for table, _ in sqlite_records(path) if table == "calls"]
    store.close()

    assert not calls
    assert WORDS not in path.read_bytes()


@pytest.mark.parametrize("end", ENDS)
def test_no_byte_of_a_result_outlives_its_turn_in_redis(end: Any, server: RedisServer) -> None:
    """In no key, neither the result nor that there was a call."""
    store = RedisEventStore(server.url)
    has = turn_of(store, blocking, event("1", customer="lid"))
    begun(store, blocking, has)
    ended(store, blocking, has, result=WORDS.decode())
    assert any(WORDS in whole for _, whole in redis_records(server))

    end(store, has)
    left = [key for key, whole in redis_records(server) if WORDS in whole or b"call" in whole]
    store.close()

    assert left == []
