"""Committing a turn: everything it changes, at one point, once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from langchain_convsync.stores import Backlog, Commit, EventStore, Operation
from tests.store_cases import (
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


def test_a_commit_ends_the_events_and_queues_the_operations(store: EventStore, do: Do) -> None:
    """At once, or not at all."""
    acquired = turn_of(store, do, event())
    done = do(store.commit_turn(acquired.lease, commit_of(acquired, writes=2, replies=1)))

    assert done == "done"
    assert do(store.backlog()) == Backlog(writes=2, replies=1)


def test_a_commit_releases_the_queue(store: EventStore, do: Do) -> None:
    """The next message is answered at once, under the next epoch."""
    committed(store, do, "1")

    assert turn_of(store, do, event("2")).lease.epoch == 2


def test_the_same_commit_again_is_done_again(store: EventStore, do: Do) -> None:
    """An answer lost on the wire doubles nothing."""
    acquired = turn_of(store, do, event())
    commit = commit_of(acquired, writes=1)
    answers = [do(store.commit_turn(acquired.lease, commit)) for _ in range(3)]

    assert answers == ["done", "done", "done"]
    assert do(store.backlog()).writes == 1
    assert turn_of(store, do, event("2")).turns == 1


def test_a_turn_that_another_lease_committed_is_already_done(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """The slow process learns that the winner answered."""
    slow = turn_of(store, do, event(), token="slow")
    clock.advance(30.0)
    fast = queue_of(store, do, "inbox", token="fast")
    do(store.commit_turn(fast.lease, commit_of(fast)))

    assert do(store.commit_turn(slow.lease, commit_of(slow, writes=1))) == "already"
    assert do(store.backlog()).writes == 0


def test_events_that_arrived_meanwhile_stay_queued(store: EventStore, do: Do) -> None:
    """A turn answers what it saw; the rest is the next turn's."""
    acquired = turn_of(store, do, event("1"))
    do(store.accept(event("2")))
    do(store.commit_turn(acquired.lease, commit_of(acquired)))

    assert [e.event_key for e in queue_of(store, do, "inbox").events] == [event("2").event_key]


def test_a_turn_may_answer_a_part_of_the_inbox(store: EventStore, do: Do) -> None:
    """From its head on, in order."""
    for source in ("1", "2", "3"):
        do(store.accept(event(source)))
    acquired = queue_of(store, do, "inbox")
    commit = Commit(event_keys=[e.event_key for e in acquired.events[:2]], outcomes={})

    assert do(store.commit_turn(acquired.lease, commit)) == "done"
    assert [e.event_key for e in queue_of(store, do, "inbox", "next").events] == [
        event("3").event_key
    ]


@pytest.mark.parametrize("picked", [[1], [1, 0], [0, 2], [0, 1, 2, 0]])
def test_anything_but_the_head_of_the_inbox_is_fenced(
    store: EventStore, do: Do, picked: list[int]
) -> None:
    """No event is skipped, reordered or answered twice."""
    for source in ("1", "2", "3"):
        do(store.accept(event(source)))
    acquired = queue_of(store, do, "inbox")
    commit = Commit(event_keys=[acquired.events[n].event_key for n in picked], outcomes={})

    assert do(store.commit_turn(acquired.lease, commit)) == "fenced"
    assert do(store.backlog()).queued == 3


def test_the_words_of_an_outcome_are_kept_for_an_hour_and_its_fact_for_longer(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """A sender that repeats itself later is told that it is done."""
    acquired = turn_of(store, do, event("1"))
    outcomes = {event("1").event_key: "words"}
    do(store.commit_turn(acquired.lease, commit_of(acquired, outcomes=outcomes, fact="fact")))
    told = []
    for seconds in (0.0, 3599.999, 0.001, 24 * 3600.0):
        clock.advance(seconds)
        told.append(do(store.accept(event("1"))))

    assert [accepted.outcome for accepted in told] == ["words", "words", "fact", "fact"]
    assert {(accepted.status, accepted.state) for accepted in told} == {("duplicate", "done")}


def test_a_snapshot_is_kept_for_a_day_at_most(store: EventStore, do: Do, clock: Clock) -> None:
    """Whatever the API server says of its session's life."""
    acquired = turn_of(store, do, event("1"))
    commit = commit_of(acquired, snapshot="words", snapshot_ttl=9e8)
    do(store.commit_turn(acquired.lease, commit))
    clock.advance(24 * 3600.0 - 0.001)
    before = turn_of(store, do, event("2"), token="before")
    do(store.release(before.lease))
    clock.advance(0.001)
    after = turn_of(store, do, event("3"), token="after")

    assert (before.snapshot, after.snapshot) == ("words", None)


def test_each_event_keeps_its_own_outcome(store: EventStore, do: Do) -> None:
    """Events that a turn merged need not repeat its reply."""
    do(store.accept(event("1")))
    acquired = turn_of(store, do, event("2"))
    outcomes = {event("2").event_key: "\ud83d the reply"}
    do(store.commit_turn(acquired.lease, commit_of(acquired, outcomes=outcomes)))

    assert do(store.accept(event("1"))).outcome is None
    assert do(store.accept(event("2"))).outcome == "\ud83d the reply"


def test_a_dead_letter_is_kept_for_an_operator(store: EventStore, do: Do) -> None:
    """It is out of the way, and a redelivery does not bring it back."""
    acquired = turn_of(store, do, event())
    do(store.commit_turn(acquired.lease, commit_of(acquired, dead=True)))
    again = do(store.accept(event(), token="again"))

    assert do(store.backlog()) == Backlog(dead_letters=1)
    assert (again.status, again.state, again.outcome) == ("duplicate", "dead", '"answered"')
    assert again.acquired is None


def test_a_snapshot_serves_the_next_turn_while_it_is_valid(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Should the API server not answer then."""
    acquired = turn_of(store, do, event("1"))
    commit = commit_of(acquired, snapshot='{"step": "ñ"}', snapshot_ttl=60.0)
    do(store.commit_turn(acquired.lease, commit))
    clock.advance(59.0)
    valid = turn_of(store, do, event("2"), token="b")
    do(store.release(valid.lease))
    clock.advance(1.0)
    expired = queue_of(store, do, "inbox", token="c")

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
    ids = [operation.id for operation in queue_of(store, do).operations]

    assert ids == [
        f"{event('1').event_key}/0",
        f"{event('1').event_key}/1",
        f"{event('2').event_key}/0",
    ]


def test_any_text_survives_in_operations(store: EventStore, do: Do) -> None:
    """Bodies are opaque to the store."""
    acquired = turn_of(store, do, event())
    operation = Operation(
        id=f"{event().event_key}/0", body="nul \0, lone \udfff, 🍕, " + "x" * 1_000_000
    )
    do(store.commit_turn(acquired.lease, replace(commit_of(acquired), operations=[operation])))

    assert queue_of(store, do).operations == (operation,)


@pytest.mark.parametrize(
    "broken",
    [
        {"event_keys": []},
        {"outcomes": {"another": "{}"}},
        {"operations": [Operation(id="another/0", body="")]},
        {
            "operations": [
                Operation(id=f"{event().event_key}/0", body=""),
                Operation(id=f"{event().event_key}/0", body=""),
            ]
        },
        {"snapshot_ttl": float("nan")},
        {"snapshot_ttl": -1.0},
    ],
    ids=["no events", "foreign outcome", "foreign op", "same op twice", "no number", "negative"],
)
def test_a_commit_that_contradicts_itself_is_refused(
    store: EventStore, do: Do, broken: dict[str, Any]
) -> None:
    """Before anything is written."""
    acquired = turn_of(store, do, event())
    commit = replace(commit_of(acquired), **broken)

    with pytest.raises(ValueError, match=r"commit|duration"):
        do(store.commit_turn(acquired.lease, commit))
    assert do(store.backlog()).queued == 1


def test_a_lease_on_another_queue_commits_no_turn(store: EventStore, do: Do) -> None:
    """The queues have tokens and epochs of their own."""
    committed(store, do, "1", writes=1)
    write = queue_of(store, do)
    do(store.accept(event("2")))
    commit = Commit(event_keys=[event("2").event_key], outcomes={})

    with pytest.raises(ValueError, match="inbox"):
        do(store.commit_turn(write.lease, commit))
    assert do(store.acquire("inbox", "inbox", conversation_key=conversation())) is not None


def test_a_turn_leaves_a_note_for_the_next_ones(store: EventStore, do: Do, clock: Clock) -> None:
    """Until another one is left, for as long as the conversation is remembered, however quiet."""
    first = turn_of(store, do, event("1"), token="a")
    do(store.commit_turn(first.lease, commit_of(first, note='{"step": "ñ"}')))
    second = turn_of(store, do, event("2"), token="b")
    do(store.commit_turn(second.lease, commit_of(second)))
    clock.advance(6 * 24 * 3600.0)
    seen = do(store.view(conversation())).note
    third = turn_of(store, do, event("3"), token="c")
    do(store.commit_turn(third.lease, commit_of(third, note="newer", writes=1)))

    assert (first.note, second.note, seen, third.note) == (None, *['{"step": "ñ"}'] * 3)
    assert turn_of(store, do, event("4"), token="d").note == "newer"
    assert queue_of(store, do).note is None
    do(store.forget(conversation()))
    assert do(store.view(conversation())).note is None


def test_a_commit_may_pause_its_conversation(store: EventStore, do: Do, clock: Clock) -> None:
    """In the same step; the same commit again does not begin the pause anew."""
    acquired = turn_of(store, do, event("1"))
    commit = commit_of(acquired, pause=60.0, unless_paused=True)
    answers = [do(store.commit_turn(acquired.lease, commit))]
    clock.advance(30.0)
    answers.append(do(store.commit_turn(acquired.lease, commit)))
    during = turn_of(store, do, event("2"), token="during")
    do(store.release(during.lease))
    clock.advance(30.0)

    assert answers == ["done", "done"]
    assert (during.paused, queue_of(store, do, "inbox", token="after").paused) == (True, False)
