"""An event that waits may still change: the customer edited it, or took it back."""

from __future__ import annotations

import pytest

from langchain_convsync.stores import EventStore
from tests.store_cases import Do, commit_of, event, queue_of, turn_of

pytest_plugins = ("tests.store_fixtures",)

ONE = event("1")
EVENT_KEY, OLD = ONE.event_key, ONE.payload
NEW = "ñ\0\ud83d"


def test_a_turn_takes_what_an_event_has_become(store: EventStore, do: Do) -> None:
    """Whatever was written; it is the same event, and its other deliveries are duplicates."""
    do(store.accept(ONE))

    assert [do(store.amend(EVENT_KEY, OLD, NEW)) for _ in range(2)] == [NEW, NEW]
    again = do(store.accept(ONE))
    assert (again.status, again.differs) == ("duplicate", False)
    assert [queued.payload for queued in queue_of(store, do, "inbox").events] == [NEW]


def test_of_two_changes_at_once_one_is_told_of_the_other(store: EventStore, do: Do) -> None:
    """It may change what became of it, so neither is lost."""
    do(store.accept(ONE))
    do(store.amend(EVENT_KEY, OLD, "first"))

    assert do(store.amend(EVENT_KEY, OLD, "second")) == "first"
    assert do(store.amend(EVENT_KEY, "first", "both")) == "both"


@pytest.mark.parametrize("dead", [False, True])
def test_what_was_answered_stays_as_it_is(store: EventStore, do: Do, dead: bool) -> None:
    """So does what there is not."""
    acquired = turn_of(store, do, ONE)
    do(store.commit_turn(acquired.lease, commit_of(acquired, dead=dead)))

    assert do(store.amend(EVENT_KEY, OLD, NEW)) is None
    assert do(store.amend(event("2").event_key, OLD, NEW)) is None
    assert [one.body for one in do(store.dead_letters())] == [OLD] * dead


def test_a_turn_that_runs_goes_on_with_what_it_took(store: EventStore, do: Do) -> None:
    """If it has to begin again, it takes what the event has become."""
    acquired = turn_of(store, do, ONE)
    do(store.amend(EVENT_KEY, OLD, NEW))

    do(store.release(acquired.lease))
    again = queue_of(store, do, "inbox", "again")
    assert (acquired.events[0].payload, again.events[0].payload) == (OLD, NEW)
    assert do(store.commit_turn(again.lease, commit_of(again))) == "done"


def test_an_event_has_a_key(store: EventStore, do: Do) -> None:
    """Anything else is a mistake."""
    with pytest.raises(ValueError, match="key"):
        do(store.amend("evt_1", OLD, NEW))
