"""A human takes a conversation over, and gives it back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from langchain_convsync.stores import EventStore
from tests.store_cases import Clock, Do, commit_of, conversation, event, lane_of, turn_of

pytest_plugins = ("tests.store_fixtures",)


def test_a_turn_sees_that_a_human_has_the_conversation(store: EventStore, do: Do) -> None:
    """Even one that had no event before."""
    do(store.pause(conversation(), seconds=60.0))

    assert turn_of(store, do, event()).paused
    assert not turn_of(store, do, event("2", customer="eva"), "other").paused


def test_a_takeover_ends_by_itself(store: EventStore, do: Do, clock: Clock) -> None:
    """Nobody has to think of it."""
    do(store.pause(conversation(), seconds=60.0))
    clock.advance(60.0)

    assert not turn_of(store, do, event()).paused


@pytest.mark.parametrize(("seconds", "later"), [(0.0, 0.0), (10.0, 10.0)])
def test_the_latest_takeover_counts(
    store: EventStore, do: Do, clock: Clock, seconds: float, later: float
) -> None:
    """Zero seconds give the conversation back at once."""
    do(store.pause(conversation(), seconds=60.0))
    do(store.pause(conversation(), seconds=seconds))
    clock.advance(later)

    assert not turn_of(store, do, event()).paused


def test_a_commit_can_refuse_to_answer_over_a_human(store: EventStore, do: Do) -> None:
    """The human came while the agent was thinking; the turn may be committed in another way."""
    taken = turn_of(store, do, event())
    do(store.pause(conversation(), seconds=60.0))
    commit = commit_of(taken, writes=1, unless_paused=True)

    assert do(store.commit_turn(taken.lease, commit)) == "paused"
    assert do(store.backlog()).queued == 1
    assert do(store.commit_turn(taken.lease, replace(commit, unless_paused=False))) == "done"


def test_a_commit_can_refuse_to_answer_half_of_what_was_said(store: EventStore, do: Do) -> None:
    """Another message came while the agent was thinking."""
    taken = turn_of(store, do, event("1"))
    do(store.accept(event("2")))
    commit = commit_of(taken, unless_newer=True)

    assert do(store.commit_turn(taken.lease, commit)) == "newer"
    do(store.release(taken.lease))
    both = lane_of(store, do, "turn", "again")
    assert do(store.commit_turn(both.lease, commit_of(both, unless_newer=True))) == "done"


def test_a_guarded_commit_again_is_done_again(store: EventStore, do: Do) -> None:
    """What came after the commit does not undo its answer."""
    taken = turn_of(store, do, event("1"))
    commit = commit_of(taken, unless_paused=True, unless_newer=True)
    do(store.commit_turn(taken.lease, commit))
    do(store.pause(conversation(), seconds=60.0))
    do(store.accept(event("2")))

    assert do(store.commit_turn(taken.lease, commit)) == "done"


def test_a_takeover_follows_the_customers_other_name(store: EventStore, do: Do) -> None:
    """A human answered under the LID, before anybody knew whose it is."""
    do(store.pause(conversation("lid"), seconds=60.0))

    taken = turn_of(store, do, event(alias="lid"))
    do(store.release(taken.lease))
    do(store.pause(conversation("lid"), seconds=0.0))

    assert taken.paused
    assert not lane_of(store, do, "turn", "again").paused


def test_linking_a_name_never_shortens_a_takeover(store: EventStore, do: Do, clock: Clock) -> None:
    """The longer one of both counts."""
    do(store.pause(conversation(), seconds=60.0))
    do(store.pause(conversation("lid"), seconds=10.0))
    do(store.link(conversation("lid"), conversation()))
    clock.advance(30.0)

    assert turn_of(store, do, event()).paused


def test_an_account_runs_no_more_turns_at_once_than_it_may(store: EventStore, do: Do) -> None:
    """The others wait, and other accounts do not wait with them."""
    for number, customer in enumerate(("ana", "eva", "leo")):
        do(store.accept(event(str(number), customer=customer)))
    do(store.accept(event("other", account="soporte")))
    takes = [do(store.take("turn", f"token {n}", at_once=2)) for n in range(4)]

    accounts = [taken and taken.lease.cid[:15] for taken in takes]
    ventas, soporte = conversation()[:15], conversation(account="soporte")[:15]
    assert sorted(filter(None, accounts)) == sorted([ventas, ventas, soporte])


def test_a_turn_that_ended_makes_room_for_the_next(store: EventStore, do: Do, clock: Clock) -> None:
    """As does one whose process died."""
    first = do(store.accept(event("1"), token="1", at_once=1)).taken
    waiting = event("2", customer="eva")
    assert do(store.accept(waiting, token="2", at_once=1)).taken is None
    do(store.commit_turn(first.lease, commit_of(first)))
    assert do(store.accept(waiting, token="3", at_once=1)).taken is not None
    do(store.accept(event("3")))
    clock.advance(30.0)

    assert do(store.take("turn", "4", at_once=1)) is not None
