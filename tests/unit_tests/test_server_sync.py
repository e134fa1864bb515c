"""What a sync changes in a conversation of the reference server, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from pydantic import ValidationError

from langchain_convsync.server.wire import StateSync
from tests.clocked_store import ClockedStore


@pytest.fixture
def store() -> Iterator[ClockedStore]:
    """An empty store in memory."""
    with closing(ClockedStore()) as store:
        yield store


def test_a_sync_merges_at_the_top_level(store: ClockedStore) -> None:
    """Named keys are replaced whole, null is a value, the others stay."""
    address = {"street": "Av. Principal 123", "city": "Lima"}
    session_id = store.begin(context={"orderTotal": 25, "deliveryAddress": address, "a": 1})

    store.merge(session_id, context={"deliveryAddress": {"street": "Otra 1"}, "a": None})

    assert store.seen()["context"] == {
        "previousMessages": [],
        "orderTotal": 25,
        "deliveryAddress": {"street": "Otra 1"},
        "a": None,
    }


def test_metadata_merges_alike(store: ClockedStore) -> None:
    """What the server put there stays."""
    session_id = store.begin(metadata={"language": "es"})

    store.merge(session_id, metadata={"language": "en", "agentVersion": "1.0.0"})

    assert store.seen()["metadata"] == {
        "platform": "whatsapp",
        "language": "en",
        "agentVersion": "1.0.0",
    }


def test_intent_and_step_remember_what_they_were(store: ClockedStore) -> None:
    """Each on its own, and only when it changes: a repeated sync is neutral."""
    session_id = store.begin(intent="menu", step="browsing")

    for _ in range(2):
        store.merge(session_id, intent="order", step="browsing")

    state = store.seen()
    assert (state["currentIntent"], state["previousIntent"]) == ("order", "menu")
    assert (state["currentStep"], state["previousStep"]) == ("browsing", None)


def test_what_a_sync_leaves_out_stays(store: ClockedStore) -> None:
    """A sync without `isActive` does not reopen what somebody closed."""
    session_id = store.begin(intent="order", step="selecting")
    store.merge(session_id, isActive=False)

    answer = store.merge(session_id, context={"a": 1})

    assert (answer["currentIntent"], answer["currentStep"]) == ("order", "selecting")
    assert store.seen() is None


def test_a_sync_answers_the_documented_fields(store: ClockedStore) -> None:
    """No more, and in the document's order."""
    answer = store.merge(store.begin(), intent="payment", step="processing_payment")

    assert list(answer) == [
        "sessionId",
        "currentIntent",
        "currentStep",
        "context",
        "lastActivity",
    ]


def test_odd_context_keys_are_data(store: ClockedStore) -> None:
    """Names that mean something to Python or to databases mean nothing here."""
    odd = {"": 1, "a.b": 2, "$c": 3, "previous_messages": 4, "__class__": 5, "big": 2**70, "é\0": 6}

    store.merge(store.begin(), context=odd)

    assert store.seen()["context"] == {"previousMessages": [], **odd}


def test_a_sync_may_replace_the_history(store: ClockedStore) -> None:
    """Times that a server gave are kept, missing and future ones become the server's."""
    session_id = store.begin()
    store.say(session_id, "antes")

    store.merge(
        session_id,
        context={
            "previousMessages": [
                {"role": "user", "content": "Hola", "timestamp": "2025-12-29T05:00:00-01:00"},
                {"role": "bot", "content": "¡Hola!", "id": "m1"},
                {"role": "user", "content": "Pizza", "timestamp": "2099-01-01T00:00:00Z"},
            ]
        },
    )

    assert store.seen()["context"]["previousMessages"] == [
        {"role": "user", "content": "Hola", "timestamp": "2025-12-29T06:00:00.000Z"},
        {"role": "bot", "content": "¡Hola!", "timestamp": "2025-12-29T10:00:00.124Z", "id": "m1"},
        {"role": "user", "content": "Pizza", "timestamp": "2025-12-29T10:00:00.125Z"},
    ]


def test_an_empty_list_clears_the_history(store: ClockedStore) -> None:
    """Naming it empty is not leaving it out."""
    session_id = store.begin()
    store.say(session_id, "Hola")
    store.merge(session_id, context={"a": 1})
    assert len(store.seen()["context"]["previousMessages"]) == 1

    store.merge(session_id, context={"previousMessages": []})

    assert store.seen()["context"]["previousMessages"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"intent": 1},
        {"intent": None},
        {"step": ["selecting"]},
        {"context": None},
        {"context": []},
        {"metadata": "es"},
        {"isActive": 1},
        {"isActive": "false"},
        {"isActive": None},
        {"subDomain": "evil"},
        {"botId": "evil"},
        {"userId": "+51000000000"},
        {"sessionId": "evil"},
        {"current_intent": "order"},
        {"context": {"previousMessages": None}},
        {"context": {"previousMessages": ["Hola"]}},
        {"context": {"previousMessages": [{"role": "system", "content": "x"}]}},
        {"context": {"previousMessages": [{"role": "user", "content": ""}]}},
        {"context": {"previousMessages": [{"role": "user"}]}},
        {
            "context": {
                "previousMessages": [{"role": "user", "content": "x", "timestamp": 1767002400}]
            }
        },
        {
            "context": {
                "previousMessages": [
                    {"role": "user", "content": "x", "timestamp": "2025-12-29T10:00:00"}
                ]
            }
        },
        {"context": {"lastUserMessage": 1}},
    ],
)
def test_a_malformed_sync_is_refused(body: dict[str, Any]) -> None:
    """Wrong types and fields that name another conversation never reach the store."""
    with pytest.raises(ValidationError):
        StateSync.model_validate(body)
