"""Committing a turn: everything it changes, at one point, once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from langchain_convsync.stores import Backlog, Commit, EventStore, Op
from tests.store_cases import (
    Clock,
    Do,
    commit_of,
    committed,
    conversation,
    event,
    lane_of,
    turn_of,
)

pytest_plugins = ("tests.store_fixtures",)


def test_a_commit_ends_the_events_and_queues_the_operations(store: EventStore, do: Do) -> None:
    """At once, or not at all."""
    taken = turn_of(store, do, event())
    done = do(store.commit_turn(taken.lease, commit_of(taken, writes=2, says=1)))

    assert done == "done"
    assert do(store.backlog()) == Backlog(writes=2, says=1)


def test_a_commit_gives_the_lane_back(store: EventStore, do: Do) -> None:
    """The next message is answered at once, under the next epoch."""
    committed(store, do, "1")

    assert turn_of(store, do, event("2")).lease.epoch == 2


def test_the_same_commit_again_is_done_again(store: EventStore, do: Do) -> None:
    """An answer lost on the wire doubles nothing."""
    taken = turn_of(store, do, event())
    commit = commit_of(taken, writes=1)
    answers = [do(store.commit_turn(taken.lease, commit)) for _ in range(3)]

    assert answers == ["done", "done", "done"]
    assert do(store.backlog()).writes == 1
    assert turn_of(store, do, event("2")).turns == 1


def test_a_turn_that_another_lease_committed_is_already_done(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """The slow process learns that the winner answered."""
    slow = turn_of(store, do, event(), token="slow")
    clock.advance(30.0)
    fast = lane_of(store, do, "turn", token="fast")
    do(store.commit_turn(fast.lease, commit_of(fast)))

    assert do(store.commit_turn(slow.lease, commit_of(slow, writes=1))) == "already"
    assert do(store.backlog()).writes == 0


def test_events_that_arrived_meanwhile_stay_queued(store: EventStore, do: Do) -> None:
    """A turn answers what it saw; the rest is the next turn's."""
    taken = turn_of(store, do, event("1"))
    do(store.accept(event("2")))
    do(store.commit_turn(taken.lease, commit_of(taken)))

    assert [e.eid for e in lane_of(store, do, "turn").events] == [event("2").eid]


def test_a_turn_may_answer_a_part_of_the_inbox(store: EventStore, do: Do) -> None:
    """From its head on, in order."""
    for source in ("1", "2", "3"):
        do(store.accept(event(source)))
    taken = lane_of(store, do, "turn")
    commit = Commit(eids=[e.eid for e in taken.events[:2]], outcomes={})

    assert do(store.commit_turn(taken.lease, commit)) == "done"
    assert [e.eid for e in lane_of(store, do, "turn", "next").events] == [event("3").eid]


@pytest.mark.parametrize("picked", [[1], [1, 0], [0, 2], [0, 1, 2, 0]])
def test_anything_but_the_head_of_the_inbox_is_fenced(
    store: EventStore, do: Do, picked: list[int]
) -> None:
    """No event is skipped, reordered or answered twice."""
    for source in ("1", "2", "3"):
        do(store.accept(event(source)))
    taken = lane_of(store, do, "turn")
    commit = Commit(eids=[taken.events[n].eid for n in picked], outcomes={})

    assert do(store.commit_turn(taken.lease, commit)) == "fenced"
    assert do(store.backlog()).queued == 3


def test_each_event_keeps_its_own_outcome(store: EventStore, do: Do) -> None:
    """Events that a turn merged need not repeat its reply."""
    do(store.accept(event("1")))
    taken = turn_of(store, do, event("2"))
    outcomes = {event("2").eid: "\ud83d the reply"}
    do(store.commit_turn(taken.lease, commit_of(taken, outcomes=outcomes)))

    assert do(store.accept(event("1"))).outcome is None
    assert do(store.accept(event("2"))).outcome == "\ud83d the reply"


def test_a_dead_letter_is_kept_for_an_operator(store: EventStore, do: Do) -> None:
    """It is out of the way, and a redelivery does not bring it back."""
    taken = turn_of(store, do, event())
    do(store.commit_turn(taken.lease, commit_of(taken, dead=True)))
    again = do(store.accept(event(), token="again"))

    assert do(store.backlog()) == Backlog(dead=1)
    assert (again.status, again.state, again.outcome) == ("duplicate", "dead", '"answered"')
    assert again.taken is None


def test_a_snapshot_serves_the_next_turn_while_it_is_valid(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Should the API server not answer then."""
    taken = turn_of(store, do, event("1"))
    commit = commit_of(taken, snapshot='{"step": "ñ"}', snapshot_ttl=60.0)
    do(store.commit_turn(taken.lease, commit))
    clock.advance(59.0)
    valid = turn_of(store, do, event("2"), token="b")
    do(store.release(valid.lease))
    clock.advance(1.0)
    expired = lane_of(store, do, "turn", token="c")

    assert (valid.snapshot, expired.snapshot) == ('{"step": "ñ"}', None)


@pytest.mark.parametrize("newer", [{}, {"snapshot": "{}", "snapshot_ttl": 0.0}])
def test_the_last_commit_decides_on_the_snapshot(
    store: EventStore, do: Do, newer: dict[str, Any]
) -> None:
    """A turn that left none leaves no older one behind."""
    first = turn_of(store, do, event("1"), token="a")
    do(store.commit_turn(first.lease, commit_of(first, snapshot="old", snapshot_ttl=60.0)))
    second = turn_of(store, do, event("2"), token="b")
    do(store.commit_turn(second.lease, commit_of(second, **newer)))

    assert turn_of(store, do, event("3"), token="c").snapshot is None


def test_operations_queue_behind_those_of_earlier_turns(store: EventStore, do: Do) -> None:
    """Order of turns is order of delivery."""
    committed(store, do, "1", writes=2)
    committed(store, do, "2", writes=1)
    ids = [op.id for op in lane_of(store, do).ops]

    assert ids == [f"{event('1').eid}/0", f"{event('1').eid}/1", f"{event('2').eid}/0"]


def test_any_text_survives_in_operations(store: EventStore, do: Do) -> None:
    """Bodies are opaque to the store."""
    taken = turn_of(store, do, event())
    op = Op(id=f"{event().eid}/0", body="nul \0, lone \udfff, 🍕, " + "x" * 1_000_000)
    do(store.commit_turn(taken.lease, replace(commit_of(taken), ops=[op])))

    assert lane_of(store, do).ops == (op,)


@pytest.mark.parametrize(
    "broken",
    [
        {"eids": []},
        {"outcomes": {"another": "{}"}},
        {"ops": [Op(id="another/0", body="")]},
        {"ops": [Op(id=f"{event().eid}/0", body=""), Op(id=f"{event().eid}/0", body="")]},
        {"snapshot_ttl": float("nan")},
        {"snapshot_ttl": -1.0},
    ],
    ids=["no events", "foreign outcome", "foreign op", "same op twice", "no number", "negative"],
)
def test_a_commit_that_contradicts_itself_is_refused(
    store: EventStore, do: Do, broken: dict[str, Any]
) -> None:
    """Before anything is written."""
    taken = turn_of(store, do, event())
    commit = replace(commit_of(taken), **broken)

    with pytest.raises(ValueError, match=r"commit|duration"):
        do(store.commit_turn(taken.lease, commit))
    assert do(store.backlog()).queued == 1


def test_a_lease_on_another_lane_commits_no_turn(store: EventStore, do: Do) -> None:
    """The lanes have tokens and epochs of their own."""
    committed(store, do, "1", writes=1)
    write = lane_of(store, do)
    do(store.accept(event("2")))
    commit = Commit(eids=[event("2").eid], outcomes={})

    with pytest.raises(ValueError, match="turn lane"):
        do(store.commit_turn(write.lease, commit))
    assert do(store.take("turn", "turn", cid=conversation())) is not None
