"""A customer has two names, and at first nobody knows: their LID, and their phone number."""

from __future__ import annotations

import pytest

from langchain_convsync.stores import AcceptRules, Acquired, EventStore
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


def waiting(acquired: Acquired) -> list[str]:
    """What a turn is to answer, in order."""
    return [queued.event_key for queued in acquired.events]


def test_a_linked_name_leads_to_the_conversation(store: EventStore, do: Do) -> None:
    """WAHA told later whose LID it is."""
    assert do(store.alias(conversation("lid"), conversation()))
    assert do(store.accept(event(customer="lid"))).conversation_key == conversation()


def test_what_waits_under_a_name_goes_along(store: EventStore, do: Do, clock: Clock) -> None:
    """Behind what waits there, in order; nothing is left, and nothing doubled."""
    first, second, third = event("1", customer="lid"), event("2"), event("3", customer="lid")
    do(store.accept(first, AcceptRules(debounce=2.0, max_debounce=5.0)))
    do(store.accept(second))
    do(store.accept(third, AcceptRules(debounce=2.0, max_debounce=5.0)))

    assert do(store.alias(conversation("lid"), conversation()))
    assert do(store.due("inbox", conversation("lid"))) is None
    assert do(store.backlog()).queued == 3
    acquired = queue_of(store, do, "inbox")
    assert waiting(acquired) == [second.event_key, first.event_key, third.event_key]
    assert do(store.commit_turn(acquired.lease, commit_of(acquired))) == "done"
    assert do(store.accept(first)).state == "done"


def test_a_conversation_that_begins_so_waits_as_the_name_did(store: EventStore, do: Do) -> None:
    """The customer is still writing."""
    do(store.accept(event(customer="lid"), AcceptRules(debounce=2.0, max_debounce=5.0)))
    do(store.alias(conversation("lid"), conversation()))

    assert do(store.due("inbox", conversation())) == 2.0


def test_an_event_that_tells_both_names_brings_the_others_along(store: EventStore, do: Do) -> None:
    """They arrived before it, so they stand before it."""
    first, second = event("1", customer="lid"), event("2", alias="lid")
    do(store.accept(first))
    again = do(store.accept(second, token="turn"))

    assert again.conversation_key == conversation()
    assert waiting(again.acquired) == [first.event_key, second.event_key]
    assert do(store.accept(first)).conversation_key == conversation()


def test_a_repeated_event_that_brings_itself_along_is_told_where_it_is(
    store: EventStore, do: Do
) -> None:
    """Its second delivery told both names."""
    do(store.accept(event(customer="lid")))

    assert (
        do(store.accept(event(alias="lid"), token="turn")).acquired.lease.conversation_key
        == conversation()
    )


@pytest.mark.parametrize("queue", ["outbox", "replies"])
def test_a_name_with_something_to_deliver_is_not_linked(
    store: EventStore, do: Do, queue: str
) -> None:
    """It would be delivered beside that of the conversation, in no order."""
    committed(store, do, "1", writes=queue == "outbox", replies=queue == "replies", customer="lid")
    do(store.accept(event("2", customer="lid")))

    assert not do(store.alias(conversation("lid"), conversation()))
    assert do(store.accept(event("3", customer="lid"))).conversation_key == conversation("lid")


def test_a_name_whose_turn_runs_is_not_linked(store: EventStore, do: Do, clock: Clock) -> None:
    """Until it ends, or its process died; which can commit nothing any more."""
    acquired = turn_of(store, do, event(customer="lid"))

    assert not do(store.alias(conversation("lid"), conversation()))
    clock.advance(30.0)
    assert do(store.alias(conversation("lid"), conversation()))
    assert do(store.commit_turn(acquired.lease, commit_of(acquired))) == "fenced"
    assert do(store.renew(acquired.lease)) is None
    assert queue_of(store, do, "inbox").events[0].starts == 2


def test_a_turn_that_found_out_ends_so(store: EventStore, do: Do) -> None:
    """It counts as no start; the same call again answers the same; nobody else can."""
    acquired = turn_of(store, do, event(customer="lid"), "one")
    of_another = turn_of(store, do, event("2", customer="eva"), "two")
    names = conversation("lid"), conversation()

    assert not do(store.alias(*names, lease=of_another.lease))
    assert [do(store.alias(*names, lease=acquired.lease)) for _ in range(2)] == [True, True]
    assert do(store.commit_turn(acquired.lease, commit_of(acquired))) == "fenced"
    again = queue_of(store, do, "inbox", "one")
    assert (again.lease.conversation_key, again.events[0].starts) == (conversation(), 1)


def test_names_of_two_accounts_are_not_linked(store: EventStore) -> None:
    """One customer, two tenants: two conversations."""
    with pytest.raises(ValueError, match="one account"):
        store.alias(conversation("lid"), conversation("ana", "soporte"))
