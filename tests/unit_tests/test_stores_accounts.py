"""Receiving sides: told apart by all that sources tell, and recognised where one tells less."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from langchain_convsync.stores import EventStore, NewEvent
from tests.store_cases import (
    KEYS,
    Do,
    commit_of,
    conversation,
    event,
    turn_of,
)

pytest_plugins = ("tests.store_fixtures",)

SIDE, OTHER = {"n": "+51888888880"}, {"n": "+51888888881"}
TENANT = {"b": "bot123", "d": "restaurant-abc"}


def registered(store: EventStore, do: Do, **told: str) -> Any:
    facts = KEYS.facts(told)
    return do(store.account(KEYS.account("default", facts), facts))


def told(new: NewEvent, **facts: str) -> NewEvent:
    """A delivery of WhatsApp's message 3EB0 that tells so much."""
    source = KEYS.source("message", "false_3EB0")
    return replace(new, source=source, facts=KEYS.facts(facts))


def test_sources_that_tell_more_or_less_of_one_side_share_its_account(
    store: EventStore, do: Do
) -> None:
    """By the bot, the subdomain or the number; and what each tells is known of it from then on."""
    first = registered(store, do, **SIDE, **TENANT)
    by_number, by_bot = registered(store, do, **SIDE), registered(store, do, b="bot123", s="ventas")
    by_session = registered(store, do, n=SIDE["n"], s="ventas")

    assert {by_number, by_bot, by_session} == {first}
    assert do(store.accounts()) == {first: KEYS.facts({**SIDE, **TENANT, "s": "ventas"})}


@pytest.mark.parametrize(
    "other",
    [
        OTHER,
        {**SIDE, "d": "restaurant-xyz"},
        {**TENANT, **OTHER},
        {"s": "ventas"},
        {"a": "Restaurant"},
    ],
)
def test_what_contradicts_or_shares_nothing_is_another_side(
    store: EventStore, do: Do, other: dict[str, str]
) -> None:
    """A session's name alone tells nothing: WAHA's free edition calls all of them the same."""
    first = registered(store, do, **SIDE, **TENANT, s="ventas")

    assert registered(store, do, **other) != first
    assert len(do(store.accounts())) == 2


def test_what_fits_two_sides_is_neither(store: EventStore, do: Do) -> None:
    """One tenant, two numbers; and whatever comes later, it stays so."""
    sides = {registered(store, do, **TENANT, **number) for number in (SIDE, OTHER)}
    between = registered(store, do, **TENANT)

    assert len({*sides, between}) == 3
    assert registered(store, do, **TENANT) == between


def test_a_message_that_another_source_told_is_known(store: EventStore, do: Do) -> None:
    """Under another account and another customer; from then on it knows what both told."""
    whole = told(event("1"), p="+51999999999", t="hola", **SIDE)
    do(store.accept(whole))
    twin = told(event("1", account="otra", customer="38@lid"), l="38@lid", t="hola", d="abc")
    again = do(store.accept(twin))
    third = told(event("1", account="third", customer="38@lid"), l="39@lid", t="hola")

    assert (again.status, again.conversation_key) == ("duplicate", conversation())
    assert do(store.accept(third)).status == "new"  # it is another LID's


@pytest.mark.parametrize("other", [{"t": "adiós"}, {"p": "+51999999998"}, OTHER])
def test_a_message_that_differs_in_anything_is_another(
    store: EventStore, do: Do, other: dict[str, str]
) -> None:
    """Ids are repeated by sources that are not WhatsApp's, and by those who forge them."""
    same = {"p": "+51999999999", "t": "hola", **SIDE}
    do(store.accept(told(event("1"), **same)))

    accepted = do(store.accept(told(event("1", account="otra"), **{**same, **other})))

    assert accepted.status == "new"


def test_a_message_that_fits_two_is_another(store: EventStore, do: Do) -> None:
    """Which of two tenants' it repeats cannot be told, so nothing of either is answered to it."""
    for account, side in (("a", SIDE), ("b", OTHER)):
        do(store.accept(told(event("1", account=account), t="hola", **side)))

    assert do(store.accept(told(event("1", account="c"), t="hola"))).status == "new"


def test_conversations_of_one_message_are_one(store: EventStore, do: Do) -> None:
    """What waits under the other name goes along, where both tell of which side they are."""
    lid = {"customer": "38@lid"}
    do(store.accept(event("0", **lid)))
    do(store.accept(told(event("1"), t="hola", p="+51999999999")))
    do(store.accept(told(event("1", **lid), t="hola", l="38@lid")))

    view = do(store.view(conversation("38@lid")))

    assert view.conversation_key == conversation()
    assert len(view.events) == 2


@pytest.mark.parametrize(("one", "other"), [(SIDE, {}), ({}, SIDE), (TENANT, SIDE), (SIDE, SIDE)])
def test_conversations_of_two_accounts_stay_two(
    store: EventStore, do: Do, one: dict[str, str], other: dict[str, str]
) -> None:
    """A message that both tell proves nothing of the next ones."""
    near = KEYS.account("ventas", "n=1")
    elsewhere = KEYS.conversation(near, "ana")
    new = replace(
        event("1"), event_key=KEYS.event(near, "ana", "message", "1"), conversation_key=elsewhere
    )
    do(store.accept(told(event("1"), t="hola", **one)))
    for _ in range(2):
        assert do(store.accept(told(new, t="hola", **other))).status == "duplicate"

    assert do(store.view(elsewhere)).conversation_key == elsewhere


def test_a_message_is_found_in_its_own_account_only(store: EventStore, do: Do) -> None:
    """By what is told of its customer, or by its id alone."""
    account, source = KEYS.account("ventas"), KEYS.source("message", "false_3EB0")
    do(store.accept(told(event("1"), p="+51999999999", t="hola")))

    def found(where: str, **facts: str) -> Any:
        return do(store.find(KEYS.account(where), source, KEYS.facts(facts)))

    assert found("ventas") == found("ventas", p="+51999999999") == event("1").event_key
    assert found("ventas", p="+51999999998") is None
    assert found("otra") is None
    assert account == event("1").event_key[:15]


def test_a_conversation_keeps_the_tenant_of_its_first_commit(store: EventStore, do: Do) -> None:
    """It tells the next turns; and a name of another tenant's conversation does not lead to it."""
    for source, tenant in (("1", "one"), ("2", "two")):
        acquired = turn_of(store, do, event(source), token=source)
        do(store.commit_turn(acquired.lease, commit_of(acquired, tenant=tenant)))
    other = turn_of(store, do, event("1", customer="eva"), token="other")
    do(store.commit_turn(other.lease, commit_of(other, tenant="three")))

    assert turn_of(store, do, event("3"), token="3").tenant == "one"
    assert not do(store.alias(conversation("eva"), conversation()))


def test_a_name_brings_its_tenant_along(store: EventStore, do: Do) -> None:
    """To a conversation of which none is known yet."""
    acquired = turn_of(store, do, event("1", customer="38@lid"), token="1")
    do(store.commit_turn(acquired.lease, commit_of(acquired, tenant="one")))
    do(store.accept(event("2")))

    assert do(store.alias(conversation("38@lid"), conversation()))
    assert do(store.acquire("inbox", "2")).tenant == "one"
