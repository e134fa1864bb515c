"""Phone numbers and LIDs on the reference server's webhook: one customer, one conversation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from langchain_convsync.server.customers import Customer
from tests.clocked_store import ABC, PHONE, XYZ, ClockedStore

LID = "38000000000010@lid"
ANOTHER = "+51888888888"


@pytest.fixture
def store() -> Iterator[ClockedStore]:
    """An empty store in memory."""
    with closing(ClockedStore()) as store:
        yield store


def test_a_message_begins_a_conversation_and_the_next_one_refreshes_it(
    store: ClockedStore,
) -> None:
    """One conversation per customer and bot."""
    first = store.receive(Customer(PHONE, None), ABC)
    store.clock.advance(hours=1)

    second = store.receive(Customer(PHONE, None), ABC)

    assert second == first
    assert store.seen()["lastActivity"] == "2025-12-29T11:00:00.123Z"


def test_each_tenant_has_its_own(store: ClockedStore) -> None:
    """The same customer writes to two restaurants."""
    assert store.receive(Customer(PHONE, None), ABC) != store.receive(Customer(PHONE, None), XYZ)


def test_a_variant_of_the_number_refreshes_the_same_conversation(store: ClockedStore) -> None:
    """The number stays as it was stored first."""
    first = store.receive(Customer("+5511987654321", None), ABC)

    assert store.receive(Customer("+551187654321", None), ABC) == first
    assert store.seen("+551187654321")["userId"] == "+5511987654321"


@pytest.mark.parametrize("name", [PHONE, LID])
def test_a_number_and_its_lid_name_one_conversation(store: ClockedStore, name: str) -> None:
    """An event that tells both is found by either."""
    session_id = store.receive(Customer(PHONE, LID), ABC)

    assert store.seen(name)["sessionId"] == session_id
    assert store.receive(Customer.of(name), ABC) == session_id


def test_a_lid_alone_is_the_customer_until_the_number_is_known(store: ClockedStore) -> None:
    """Nothing better is known, and a reply can be sent to it."""
    session_id = store.receive(Customer(None, LID), ABC)

    assert session_id.startswith("bot123_38000000000010_")
    assert store.seen(LID)["userId"] == LID


def test_a_lid_learns_its_number(store: ClockedStore) -> None:
    """The conversation goes on under the number; its session id does not change."""
    session_id = store.receive(Customer(None, LID), ABC)

    assert store.receive(Customer(PHONE, LID), ABC) == session_id
    assert store.seen(PHONE)["sessionId"] == session_id
    assert store.seen(LID)["userId"] == PHONE


def test_where_number_and_lid_have_a_conversation_each_the_numbers_goes_on(
    store: ClockedStore,
) -> None:
    """From the event on that tells both, there is one."""
    by_lid = store.receive(Customer(None, LID), ABC)
    by_number = store.receive(Customer(PHONE, None), ABC)
    assert by_lid != by_number

    assert store.receive(Customer(PHONE, LID), ABC) == by_number
    store.clock.advance(seconds=1)
    store.merge(by_lid, intent="order")  # an agent's late sync
    assert store.seen(LID)["sessionId"] == by_number


def test_a_lid_that_moved_to_another_number_leaves_the_old_one(store: ClockedStore) -> None:
    """A customer who changed numbers; the old number may be somebody else's now."""
    old = store.receive(Customer(PHONE, LID), ABC)

    new = store.receive(Customer(ANOTHER, LID), ABC)

    store.clock.advance(seconds=1)
    store.receive(Customer(PHONE, None), ABC)
    assert new != old
    assert store.seen(LID)["userId"] == ANOTHER
    assert store.seen(PHONE)["sessionId"] == old


def test_a_lids_number_is_remembered_after_expiry(store: ClockedStore) -> None:
    """Tomorrow's message may come without the number."""
    store.receive(Customer(PHONE, LID), ABC)
    store.clock.advance(hours=24)

    new = store.receive(Customer(None, LID), ABC)

    assert store.seen(PHONE)["sessionId"] == new


def test_a_lids_number_is_not_told_to_another_tenant(store: ClockedStore) -> None:
    """What one restaurant learned about a customer is not the other one's to know."""
    store.receive(Customer(PHONE, LID), ABC)

    store.receive(Customer(None, LID), XYZ)

    assert store.seen(LID, bot="bot456")["userId"] == LID


def test_a_closed_conversation_is_not_reopened_by_a_message(store: ClockedStore) -> None:
    """Somebody ended it: the customer begins a new one."""
    closed = store.receive(Customer(PHONE, None), ABC)
    store.merge(closed, isActive=False)

    assert store.receive(Customer(PHONE, None), ABC) != closed
