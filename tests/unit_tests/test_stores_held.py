"""An event that a turn leaves at the head of its inbox, held until something answers it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from langchain_convsync.stores import Acquired, EventStore
from langchain_convsync.stores.base import AcceptRules, Commit, HeldEvent
from tests.store_cases import (
    KEYS,
    Clock,
    Do,
    commit_of,
    committed,
    conversation,
    event,
    queue_of,
    turn_of,
)

pytest_plugins = ("tests.store_fixtures",)

HELD = HeldEvent(
    event_key=KEYS.event("ventas", "", "interrupt", "1"), payload='{"who": "ñ"}', seconds=30.0
)


def interrupted(store: EventStore, do: Do) -> None:
    """A turn that leaves an event at the head of its inbox."""
    acquired = turn_of(store, do, event("1"))
    assert do(store.commit_turn(acquired.lease, commit_of(acquired, held=HELD))) == "done"


def due(store: EventStore, do: Do) -> float | None:
    found: float | None = do(store.due("inbox", conversation()))
    return found


def keys_of(acquired: Acquired) -> list[str]:
    return [queued.event_key for queued in acquired.events]


def test_it_is_due_by_itself_when_its_time_is_over(store: EventStore, do: Do, clock: Clock) -> None:
    """Not before: no worker looks at it, and no one is told that work is late."""
    interrupted(store, do)

    assert (due(store, do), do(store.acquire("inbox", "early"))) == (30.0, None)
    left = do(store.backlog())
    assert (left.queued, left.interrupts) == (0, 1)
    clock.advance(30)

    assert keys_of(queue_of(store, do, "inbox")) == [HELD.event_key]
    assert do(store.backlog()).interrupts == 0


def test_it_stands_before_what_came_while_the_turn_ran(store: EventStore, do: Do) -> None:
    """What came is due at once, with the event at its head."""
    acquired = turn_of(store, do, event("1"))
    do(store.accept(event("2")))

    do(store.commit_turn(acquired.lease, commit_of(acquired, held=HELD)))

    assert due(store, do) == 0.0
    assert keys_of(queue_of(store, do, "inbox")) == [HELD.event_key, event("2").event_key]


def test_what_arrives_behind_it_is_due_after_a_window_of_its_own(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """However old the event at the head is."""
    interrupted(store, do)
    clock.advance(20)

    do(store.accept(event("2"), AcceptRules(debounce=2.0, max_debounce=5.0)))
    clock.advance(1)
    do(store.accept(event("3"), AcceptRules(debounce=2.0, max_debounce=5.0)))

    assert due(store, do) == 2.0


def test_what_was_looked_at_is_held_with_it(store: EventStore, do: Do, clock: Clock) -> None:
    """Only what arrives behind that is news; an acquire that gives back takes no start."""
    interrupted(store, do)
    do(store.accept(event("2")))
    acquired = queue_of(store, do, "inbox")

    do(store.release(acquired.lease, delay=25.0, held=2))
    assert due(store, do) == 25.0
    left = do(store.backlog())
    assert (left.queued, left.interrupts) == (1, 1)
    do(store.accept(event("3")))

    assert due(store, do) == 0.0
    assert [one.starts for one in queue_of(store, do, "inbox", "again").events] == [1, 0, 0]


def test_what_arrives_while_it_is_looked_at_is_not_held(store: EventStore, do: Do) -> None:
    """Nobody has seen it."""
    interrupted(store, do)
    do(store.accept(event("2")))
    acquired = queue_of(store, do, "inbox")
    do(store.accept(event("3")))

    do(store.release(acquired.lease, delay=25.0, held=2))

    assert due(store, do) == 0.0


@pytest.mark.parametrize("while_looked_at", [False, True])
def test_an_answer_makes_it_due(store: EventStore, do: Do, while_looked_at: bool) -> None:
    """Also where a worker that has not seen the answer holds it again."""
    interrupted(store, do)
    do(store.accept(event("2")))
    lease = queue_of(store, do, "inbox").lease
    if not while_looked_at:
        do(store.release(lease, delay=25.0, held=2))

    for _ in range(2):  # the same call again answers the same
        assert do(store.amend(HELD.event_key, HELD.payload, "yes", due=True)) == "yes"
    if while_looked_at:
        do(store.release(lease, delay=25.0, held=2))

    assert due(store, do) == 0.0
    assert queue_of(store, do, "inbox", "again").events[0].payload == "yes"


def test_an_amended_event_that_fails_waits_like_any_other(store: EventStore, do: Do) -> None:
    """A hold that ended is over: the next delay is a retry's."""
    interrupted(store, do)
    do(store.amend(HELD.event_key, HELD.payload, "yes", due=True))
    acquired = queue_of(store, do, "inbox")

    do(store.release(acquired.lease, delay=0.2, failed=True))

    assert due(store, do) == 0.2


def test_its_turn_ends_like_any_other(store: EventStore, do: Do, clock: Clock) -> None:
    """What waits behind it is due then, and it may be followed by another one."""
    interrupted(store, do)
    do(store.accept(event("2")))
    acquired = queue_of(store, do, "inbox")
    alone = replace(commit_of(acquired), event_keys=[HELD.event_key], outcomes={})
    again = HeldEvent(
        event_key=KEYS.event("ventas", "", "interrupt", "2"), payload="{}", seconds=30.0
    )

    assert do(store.commit_turn(acquired.lease, replace(alone, held=again))) == "done"

    assert due(store, do) == 0.0
    assert keys_of(queue_of(store, do, "inbox", "next")) == [
        again.event_key,
        event("2").event_key,
    ]


def test_it_is_of_the_turns_account(store: EventStore, do: Do) -> None:
    """Another one's would be in another shard."""
    acquired = turn_of(store, do, event("1"))
    foreign = replace(HELD, event_key=KEYS.event("cocina", "", "interrupt", "1"))

    with pytest.raises(ValueError, match="account"):
        do(store.commit_turn(acquired.lease, commit_of(acquired, held=foreign)))


def test_it_is_forgotten_with_its_conversation(store: EventStore, do: Do) -> None:
    """Nothing counts it any more."""
    interrupted(store, do)

    assert do(store.forget(conversation()))

    left = do(store.backlog())
    assert (left.queued, left.interrupts, due(store, do)) == (0, 0, None)


def test_it_goes_along_where_its_name_leads_elsewhere(store: EventStore, do: Do) -> None:
    """And is looked at there, since it may not stand at the head any more."""
    interrupted(store, do)
    committed(store, do, "9", customer="luis", writes=0)

    assert do(store.alias(conversation(), conversation("luis"))) == conversation("luis")

    assert do(store.backlog()).interrupts == 0
    assert keys_of(queue_of(store, do, "inbox")) == [HELD.event_key]


def test_what_is_kept_stays_where_it_is_and_the_rest_is_answered(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Its time has not come: it is due by itself, or with what arrives behind it."""
    acquired = turn_of(store, do, event("1"))
    do(store.accept(event("2")))
    do(store.accept(event("3")))
    first, second, third = (event(name).event_key for name in "123")
    done = Commit(event_keys=[second], outcomes={}, kept=[first], kept_for=30.0)

    assert do(store.commit_turn(acquired.lease, done)) == "done"
    assert do(store.commit_turn(acquired.lease, done)) == "done"
    behind = queue_of(store, do, "inbox")
    assert keys_of(behind) == [first, third]
    assert behind.events[0].starts == 1

    rest = Commit(event_keys=[third], outcomes={}, kept=[first], kept_for=30.0)
    do(store.commit_turn(behind.lease, rest))
    assert (due(store, do), do(store.backlog()).interrupts) == (30.0, 1)
    clock.advance(30)
    assert keys_of(queue_of(store, do, "inbox")) == [first]


def test_it_is_kept_behind_what_a_turn_leaves_at_the_head(store: EventStore, do: Do) -> None:
    """The sooner one decides when both are due."""
    acquired = turn_of(store, do, event("1"))
    do(store.accept(event("2")))
    first, second = (event(name).event_key for name in "12")
    done = Commit(event_keys=[second], outcomes={}, kept=[first], kept_for=10.0, held=HELD)

    do(store.commit_turn(acquired.lease, done))

    assert due(store, do) == 10.0
    do(store.accept(event("3")))
    assert keys_of(queue_of(store, do, "inbox")) == [
        HELD.event_key,
        first,
        event("3").event_key,
    ]


def test_what_an_answer_made_due_meanwhile_is_held_no_longer(store: EventStore, do: Do) -> None:
    """A human answers what is kept while another event's turn runs."""
    interrupted(store, do)
    do(store.accept(event("2")))
    acquired = queue_of(store, do, "inbox")
    do(store.amend(HELD.event_key, HELD.payload, "{}", due=True))
    kept = Commit(
        event_keys=[event("2").event_key], outcomes={}, kept=[HELD.event_key], kept_for=30.0
    )

    do(store.commit_turn(acquired.lease, kept))

    assert due(store, do) == 0.0


def test_a_commit_that_names_others_than_the_head_is_fenced(store: EventStore, do: Do) -> None:
    """Whatever is kept has to stand among what is answered, in order."""
    acquired = turn_of(store, do, event("1"))
    for name in "23":
        do(store.accept(event(name)))
    first, second, third = (event(name).event_key for name in "123")

    for events, kept in (([second], []), ([third], [first]), ([third], [second, first])):
        wrong = Commit(event_keys=events, outcomes={}, kept=kept)
        assert do(store.commit_turn(acquired.lease, wrong)) == "fenced"
    with pytest.raises(ValueError, match="keeps none"):
        do(store.commit_turn(acquired.lease, Commit(event_keys=[first], outcomes={}, kept=[first])))
