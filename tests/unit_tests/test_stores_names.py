"""A customer has two names, and at first nobody knows: their LID, and their phone number."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, permutations
from typing import Any

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


def in_use(store: EventStore, do: Do, how: Any, customer: str = "lid") -> None:
    """A conversation with something that can go nowhere else."""
    if how == "turn":
        turn_of(store, do, event(f"{customer} 1", customer=customer), f"turn of {customer}")
    else:
        options = {"writes": how == "outbox", "replies": how == "replies"}
        committed(store, do, f"{customer} 1", customer=customer, **options)


IN_USE = pytest.mark.parametrize("how", ["outbox", "replies", "turn"])


@IN_USE
def test_the_name_with_something_under_way_is_the_one_that_others_lead_to(
    store: EventStore, do: Do, how: Any
) -> None:
    """Else what comes would be done beside it, in no order."""
    in_use(store, do, how)
    do(store.accept(event("2")))
    third = do(store.accept(event("3", alias="lid")))
    fourth = do(store.accept(event("4")))

    assert {third.conversation_key, fourth.conversation_key} == {conversation("lid")}
    assert do(store.alias(conversation("lid"), conversation())) == conversation("lid")
    there = [queued.event_key for queued in do(store.view(conversation())).events]
    assert there[-3:] == [event(each).event_key for each in ("2", "3", "4")]


@IN_USE
def test_two_names_with_something_under_way_stay_two(
    store: EventStore, do: Do, clock: Clock, how: Any
) -> None:
    """Until one of them is done; nothing is changed meanwhile."""
    in_use(store, do, how)
    in_use(store, do, how, "ana")

    assert do(store.alias(conversation("lid"), conversation())) is None
    clock.advance(30.0)
    if how != "turn":
        acquired = queue_of(store, do, how)
        head = acquired.operations[0].id
        do(store.begin(acquired.lease, head, 0, attempt=1, need=1.0))
        do(store.confirm(acquired.lease, head, 0, last=True))
        do(store.release(acquired.lease))
    assert do(store.alias(conversation("lid"), conversation())) in map(conversation, ("ana", "lid"))
    assert len({do(store.view(conversation(n))).conversation_key for n in ("ana", "lid")}) == 1


def test_the_name_that_had_a_turn_is_the_one_that_others_lead_to(store: EventStore, do: Do) -> None:
    """The agent's own memory of the customer is kept under it."""
    committed(store, do, "1", customer="lid", writes=0)

    assert do(store.accept(event("2", alias="lid"))).conversation_key == conversation("lid")
    assert do(store.view(conversation())).turns == 1


def test_a_turn_that_lapsed_holds_no_name(store: EventStore, do: Do, clock: Clock) -> None:
    """Its process died; it can commit nothing any more."""
    acquired = turn_of(store, do, event(customer="lid"))
    clock.advance(30.0)

    assert do(store.alias(conversation("lid"), conversation())) == conversation()
    assert do(store.commit_turn(acquired.lease, commit_of(acquired))) == "fenced"
    assert do(store.renew(acquired.lease)) is None
    assert queue_of(store, do, "inbox").events[0].starts == 2


def test_a_turn_that_found_out_ends_so(store: EventStore, do: Do) -> None:
    """It counts as no start; the same call again answers the same."""
    acquired = turn_of(store, do, event(customer="lid"), "one")
    names = conversation("lid"), conversation()

    assert {do(store.alias(*names, lease=acquired.lease)) for _ in range(2)} == {conversation()}
    assert do(store.commit_turn(acquired.lease, commit_of(acquired))) == "fenced"
    again = queue_of(store, do, "inbox", "one")
    assert (again.lease.conversation_key, again.events[0].starts) == (conversation(), 1)


def test_a_turn_that_found_out_goes_on_where_it_had_one_before(store: EventStore, do: Do) -> None:
    """What waits under the other name comes to it."""
    committed(store, do, "1", customer="lid", writes=0)
    acquired = turn_of(store, do, event("2", customer="lid"), "one")
    do(store.accept(event("3")))

    found = do(store.alias(conversation("lid"), conversation(), lease=acquired.lease))
    assert found == conversation("lid")
    assert do(store.commit_turn(acquired.lease, commit_of(acquired))) == "done"
    assert waiting(queue_of(store, do, "inbox", "next")) == [event("3").event_key]


def test_the_lease_of_another_turn_moves_nothing(store: EventStore, do: Do) -> None:
    """The turn of the name is under way, whoever asks."""
    turn_of(store, do, event(customer="lid"), "one")
    of_another = turn_of(store, do, event("2", customer="eva"), "two")

    found = do(store.alias(conversation("lid"), conversation(), lease=of_another.lease))
    assert found == conversation("lid")


def test_what_waits_under_two_names_is_answered_as_it_arrived(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Whichever name it came under."""
    sent = [event(str(n), customer=("lid", "ana", "bsuid")[n % 3]) for n in range(6)]
    for each in sent:
        do(store.accept(each))
        clock.advance(1.0)
    last = replace(event("6"), aliases=(conversation("bsuid"), conversation("lid")))
    do(store.accept(last))

    assert waiting(queue_of(store, do, "inbox")) == [e.event_key for e in (*sent, last)]


NAMES = ("ana", "lid", "bsuid", "new bsuid")


@pytest.mark.parametrize("told", list(permutations(pairwise(NAMES))))
def test_names_form_chains_in_any_order_of_discovery(
    store: EventStore, do: Do, clock: Clock, told: tuple[tuple[str, str], ...]
) -> None:
    """Each event tells two of them; in the end all are one conversation, which knows all."""
    sent = [event(str(n), customer=name, alias=other) for n, (name, other) in enumerate(told)]
    for number, (_, other) in enumerate(told):
        clock.advance(1.0)
        do(store.pause(conversation(other), seconds=10.0 + number))
        do(store.accept(sent[number]))
    found = {do(store.view(conversation(name))).conversation_key for name in NAMES}

    assert len(found) == 1
    view = do(store.view(conversation()))
    assert [queued.event_key for queued in view.events] == [each.event_key for each in sent]
    assert view.paused_until == view.now + 12.0
    assert do(store.forget(conversation("new bsuid")))
    assert not any(do(store.view(conversation(name))).events for name in NAMES)


def test_names_of_two_accounts_are_not_linked(store: EventStore) -> None:
    """One customer, two tenants: two conversations."""
    with pytest.raises(ValueError, match="one account"):
        store.alias(conversation("lid"), conversation("ana", "soporte"))


def test_an_event_tells_which_names_could_not_be_one(store: EventStore, do: Do) -> None:
    """Its turn tries again, before it begins; what is done says nothing of it any more."""
    in_use(store, do, "outbox")
    in_use(store, do, "outbox", "ana")
    acquired = turn_of(store, do, event("2", alias="lid"))

    assert acquired.events[0].apart == (conversation(), conversation("lid"))
    assert do(store.view(conversation())).events[0].apart == acquired.events[0].apart
    assert do(store.alias(conversation("lid"), conversation(), lease=acquired.lease)) is None
    head = queue_of(store, do, "outbox")
    while head.lease.conversation_key != conversation("lid"):
        head = queue_of(store, do, "outbox", "next")
    done = head.operations[0].id
    do(store.begin(head.lease, done, 0, attempt=1, need=1.0))
    do(store.confirm(head.lease, done, 0, last=True))
    linked = do(store.alias(conversation("lid"), conversation(), lease=acquired.lease))
    assert linked == conversation()
    assert do(store.commit_turn(acquired.lease, commit_of(acquired))) == "done"
