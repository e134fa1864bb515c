"""A human takes a conversation over, and gives it back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from langchain_convsync.stores import AcceptRules, EventStore
from tests.store_cases import Clock, Do, commit_of, conversation, event, queue_of, turn_of

pytest_plugins = ("tests.store_fixtures",)


def test_a_turn_sees_that_a_human_has_the_conversation(store: EventStore, do: Do) -> None:
    """Even one that had no event before."""
    do(store.pause(conversation(), seconds=60.0))

    assert turn_of(store, do, event()).paused
    assert not turn_of(store, do, event("2", customer="eva"), "other").paused


def test_the_words_of_a_human_pause_in_the_step_that_records_them(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Their copies pause nothing: who gave the conversation back keeps the agent."""
    words = replace(event("1"), pause=60.0)
    recorded = do(store.accept(words))
    paused = do(store.view(conversation())).paused_until
    do(store.pause(conversation(), seconds=0.0))
    again = do(store.accept(words))

    assert (recorded.status, again.status) == ("new", "duplicate")
    assert paused == clock() + 60.0
    assert do(store.view(conversation())).paused_until is None


def test_a_human_has_a_conversation_that_has_no_room_for_the_words(
    store: EventStore, do: Do
) -> None:
    """The agent must not go on while they are delivered again."""
    full = AcceptRules(max_queued=0)

    assert do(store.accept(replace(event("1"), pause=60.0), full)).status == "busy"
    assert do(store.view(conversation())).paused_until is not None


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
    acquired = turn_of(store, do, event())
    do(store.pause(conversation(), seconds=60.0))
    commit = commit_of(acquired, writes=1, unless_paused=True)

    assert do(store.commit_turn(acquired.lease, commit)) == "paused"
    assert do(store.backlog()).queued == 1
    assert do(store.commit_turn(acquired.lease, replace(commit, unless_paused=False))) == "done"


def test_a_commit_can_refuse_to_answer_half_of_what_was_said(store: EventStore, do: Do) -> None:
    """Another message came while the agent was thinking."""
    acquired = turn_of(store, do, event("1"))
    do(store.accept(event("2")))
    commit = commit_of(acquired, unless_newer=True)

    assert do(store.commit_turn(acquired.lease, commit)) == "newer"
    do(store.release(acquired.lease))
    both = queue_of(store, do, "inbox", "again")
    assert do(store.commit_turn(both.lease, commit_of(both, unless_newer=True))) == "done"


def test_a_guarded_commit_again_is_done_again(store: EventStore, do: Do) -> None:
    """What came after the commit does not undo its answer."""
    acquired = turn_of(store, do, event("1"))
    commit = commit_of(acquired, unless_paused=True, unless_newer=True)
    do(store.commit_turn(acquired.lease, commit))
    do(store.pause(conversation(), seconds=60.0))
    do(store.accept(event("2")))

    assert do(store.commit_turn(acquired.lease, commit)) == "done"


def test_a_takeover_follows_the_customers_other_name(store: EventStore, do: Do) -> None:
    """A human answered under the LID, before anybody knew whose it is."""
    do(store.pause(conversation("lid"), seconds=60.0))

    acquired = turn_of(store, do, event(alias="lid"))
    do(store.release(acquired.lease))
    do(store.pause(conversation("lid"), seconds=0.0))

    assert acquired.paused
    assert not queue_of(store, do, "inbox", "again").paused


def test_linking_a_name_never_shortens_a_takeover(store: EventStore, do: Do, clock: Clock) -> None:
    """The longer one of both counts."""
    do(store.pause(conversation(), seconds=60.0))
    do(store.pause(conversation("lid"), seconds=10.0))
    do(store.alias(conversation("lid"), conversation()))
    clock.advance(30.0)

    assert turn_of(store, do, event()).paused


def test_an_account_runs_no_more_turns_at_once_than_it_may(store: EventStore, do: Do) -> None:
    """The others wait, and other accounts do not wait with them."""
    for number, customer in enumerate(("ana", "eva", "leo")):
        do(store.accept(event(str(number), customer=customer)))
    do(store.accept(event("other", account="soporte")))
    takes = [do(store.acquire("inbox", f"token {n}", account_concurrency=2)) for n in range(4)]

    accounts = [acquired and acquired.lease.conversation_key[:15] for acquired in takes]
    ventas, soporte = conversation()[:15], conversation(account="soporte")[:15]
    assert sorted(filter(None, accounts)) == sorted([ventas, ventas, soporte])


def test_a_turn_that_ended_makes_room_for_the_next(store: EventStore, do: Do, clock: Clock) -> None:
    """As does one whose process died."""
    first = do(store.accept(event("1"), AcceptRules(account_concurrency=1), token="1")).acquired
    waiting = event("2", customer="eva")
    assert do(store.accept(waiting, AcceptRules(account_concurrency=1), token="2")).acquired is None
    do(store.commit_turn(first.lease, commit_of(first)))
    assert (
        do(store.accept(waiting, AcceptRules(account_concurrency=1), token="3")).acquired
        is not None
    )
    do(store.accept(event("3")))
    clock.advance(30.0)

    assert do(store.acquire("inbox", "4", account_concurrency=1)) is not None
