"""What is due and what comes is told without acquiring it; it wakes whoever waits for work."""

from __future__ import annotations

import pytest

from langchain_convsync.stores import EventStore
from langchain_convsync.stores.base import APART, AcceptRules, Upcoming
from tests.store_cases import (
    KEYS,
    Clock,
    Do,
    blocking,
    committed,
    conversation,
    event,
    queue_of,
    turn_of,
)

pytest_plugins = ("tests.store_fixtures",)


def test_an_empty_store_has_nothing_to_come(store: EventStore, do: Do) -> None:
    """So whoever asks may rest."""
    assert do(store.upcoming()) == Upcoming(due={})


def test_what_is_due_is_counted_and_what_is_not_has_a_time(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Of all accounts; the debounce window, a lease and a delay are waited for."""
    for customer, account in (("ana", "ventas"), ("eva", "ventas"), ("zoe", "soporte")):
        do(store.accept(event("1", customer=customer, account=account)))
    rules = AcceptRules(debounce=2.0, max_debounce=2.0)
    do(store.accept(event("1", customer="leo"), rules))

    assert do(store.upcoming()) == Upcoming(due={"inbox": 3}, next_in=2.0)

    do(store.acquire("inbox", "one", lease=1.5))
    assert do(store.upcoming()) == Upcoming(due={"inbox": 2}, next_in=1.5)
    clock.advance(2.0)
    assert do(store.upcoming()) == Upcoming(due={"inbox": 4})


def test_writes_and_replies_are_left_for_a_moment_to_who_left_them(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """It delivers them itself, unless it dies."""
    committed(store, do, writes=1, replies=1)

    assert do(store.upcoming()) == Upcoming(due={}, next_in=APART / 1000)

    clock.advance(APART / 1000)
    assert do(store.upcoming()) == Upcoming(due={"outbox": 1, "replies": 1})
    queue_of(store, do, "replies")
    assert do(store.upcoming()).due == {"outbox": 1}


def test_an_inbox_that_no_turn_holds_up_is_free(store: EventStore, do: Do) -> None:
    """Whoever waits for it may have its turn, or learn what became of the event."""
    turn = turn_of(store, do, event("1", customer="ana"))
    do(store.accept(event("1", customer="eva")))
    names = [conversation("ana"), conversation("eva"), conversation("zoe", "soporte")]

    assert do(store.upcoming(names)).free == (names[1], names[2])

    do(store.release(turn.lease))
    assert set(do(store.upcoming(names)).free) == set(names)


def test_claims_are_nobodys_work(store: EventStore, do: Do) -> None:
    """They wait for their claimer, not for a worker."""
    key = KEYS.claim("tests", "1")
    from langchain_convsync.stores import NewEvent

    do(store.accept(NewEvent(event_key=key, conversation_key=key), token="mine"))

    assert do(store.upcoming()) == Upcoming(due={})


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_hint_tells_when_to_look(store: EventStore, clock: Clock, seconds: float) -> None:
    """As soon as something is left: by another process, or by this one for later."""
    listener = store.listen()
    store.keys().block()
    listener.wait(0.2).block()  # it begins to listen
    turn = turn_of(store, blocking, event("1"))
    store.release(turn.lease, delay=seconds).block()

    assert listener.wait(5.0).block()
    listener.close()
    assert not listener.wait(60.0).block()  # at once
