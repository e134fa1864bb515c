"""Which conversation the reference server finds, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from langchain_convsync.server.customers import Customer
from langchain_convsync.server.store import UnknownSessionError
from tests.clocked_store import ABC, PHONE, XYZ, ClockedStore


@pytest.fixture
def store() -> Iterator[ClockedStore]:
    """An empty store in memory."""
    with closing(ClockedStore()) as store:
        yield store


def test_a_fresh_conversation_is_idle(store: ClockedStore) -> None:
    """The documented fields, all of them, before anybody said anything."""
    session_id = store.begin()

    assert store.seen() == {
        "sessionId": session_id,
        "userId": PHONE,
        "botId": "bot123",
        "subDomain": "restaurant-abc",
        "currentIntent": "idle",
        "currentStep": "initial",
        "previousIntent": None,
        "previousStep": None,
        "context": {"previousMessages": []},
        "metadata": {"platform": "whatsapp"},
        "isActive": True,
        "lastActivity": "2025-12-29T10:00:00.123Z",
        "expiresAt": "2025-12-30T10:00:00.123Z",
        "createdAt": "2025-12-29T10:00:00.123Z",
        "updatedAt": "2025-12-29T10:00:00.123Z",
    }


def test_a_session_id_names_bot_customer_and_time(store: ClockedStore) -> None:
    """The document's form, with a random end."""
    bot_id, digits, milliseconds, end = store.begin().split("_")

    assert (bot_id, digits, milliseconds) == ("bot123", "51999999999", "1767002400123")
    assert len(end) == 12


@pytest.mark.parametrize(
    "spelling",
    ["+51999999999", "51999999999", " 51999999999", "+51 999-999-999", "51999999999@c.us"],
)
def test_a_customer_is_found_in_every_spelling(store: ClockedStore, spelling: str) -> None:
    """A plus sign lost in a URL, spaces and chat ids are still the same subscriber."""
    session_id = store.begin()

    assert store.seen(spelling)["sessionId"] == session_id


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("+5511987654321", "+551187654321"),
        ("+551187654321", "+5511987654321"),
        ("+5215512345678", "+525512345678"),
        ("+541123456789", "+5491123456789"),
    ],
)
def test_a_variant_is_the_same_subscriber(store: ClockedStore, stored: str, asked: str) -> None:
    """Brazil's ninth digit and its like; the number is answered as it was stored."""
    store.begin(stored)

    assert store.seen(asked)["userId"] == stored


def test_the_exact_number_comes_before_its_variant(store: ClockedStore) -> None:
    """Even where the variant's conversation is the newer one."""
    exact = store.begin("+5511987654321")
    store.clock.advance(minutes=1)
    store.begin("+551187654321")

    assert store.seen("+5511987654321")["sessionId"] == exact


@pytest.mark.parametrize("name", ["", "a/b", "..", "+51 999", "123@g.us", "\0", "+51000000000"])
def test_no_customer_is_found_under_another_name(store: ClockedStore, name: str) -> None:
    """What names no customer finds none, instead of anyone's."""
    store.begin()

    assert store.seen(name) is None


def test_the_last_active_bot_answers_for_a_number(store: ClockedStore) -> None:
    """One customer of two tenants: without a bot, the newest activity decides."""
    older, newer = store.begin(), store.begin(tenant=XYZ)
    assert store.seen()["sessionId"] == newer
    store.clock.advance(seconds=1)

    store.merge(older, intent="order")

    assert store.seen()["sessionId"] == older


def test_a_bot_is_only_answered_with_its_own(store: ClockedStore) -> None:
    """A filter by bot never falls back to another tenant."""
    store.begin()
    other = store.begin(tenant=XYZ)

    assert store.seen(bot="bot456")["sessionId"] == other
    assert store.seen(bot="bot789") is None


def test_a_closed_conversation_is_not_found_but_can_be_reopened(store: ClockedStore) -> None:
    """Lookups see active conversations only; who knows the session id can still write."""
    session_id = store.begin()
    store.merge(session_id, isActive=False)
    assert store.seen() is None

    store.merge(session_id, isActive=True)

    assert store.seen()["isActive"] is True


def test_a_conversation_lives_for_24_hours(store: ClockedStore) -> None:
    """To the last millisecond, and not beyond."""
    store.begin()
    store.clock.advance(hours=24, milliseconds=-1)
    assert store.seen() is not None

    store.clock.advance(milliseconds=1)

    assert store.seen() is None


@pytest.mark.parametrize("sign_of_life", ["sync", "message", "webhook"])
def test_every_sign_of_life_prolongs_it(store: ClockedStore, sign_of_life: str) -> None:
    """Writes of the agent and messages of the customer, both."""
    session_id = store.begin()
    store.clock.advance(hours=23)

    match sign_of_life:
        case "sync":
            store.merge(session_id)
        case "message":
            store.say(session_id, "Hola")
        case _:
            store.receive(Customer.of(PHONE), ABC)

    assert store.seen()["expiresAt"] == "2025-12-31T09:00:00.123Z"
    assert store.seen()["lastActivity"] == "2025-12-30T09:00:00.123Z"


def test_an_expired_conversation_takes_no_writes(store: ClockedStore) -> None:
    """Lookups, syncs and messages have one opinion."""
    session_id = store.begin()
    store.clock.advance(hours=24)

    with pytest.raises(UnknownSessionError):
        store.merge(session_id, intent="order")
    with pytest.raises(UnknownSessionError):
        store.say(session_id, "Hola")


def test_after_expiry_a_customer_gets_a_new_conversation(store: ClockedStore) -> None:
    """A fresh one: nothing of yesterday's order is in it."""
    old = store.begin(intent="payment", context={"orderTotal": 50})
    store.clock.advance(hours=24)

    new = store.receive(Customer.of(PHONE), ABC)

    assert new != old
    assert store.seen()["currentIntent"] == "idle"
    assert store.seen()["context"] == {"previousMessages": []}
