"""The documented exchanges, replayed from cassettes that the reference server recorded.

They pin the bytes: a change of what the client sends, or of what it makes of a recorded answer,
shows here without any server. To record anew, run this file with ``VCR_RECORD=1`` set.

"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from langchain_convsync.client import ConvSyncClient
from langchain_convsync.errors import ConversationNotFoundError
from langchain_convsync.models import StateUpdate
from langchain_convsync.testing import ReferenceServer
from tests.cassettes import CASSETTES, RECORDING, tape

CUSTOMER = "+51999999999"
exchanges = tape(match_on=["method", "path", "query", "raw_body"])


@contextmanager
def recorded(name: str) -> Iterator[ConvSyncClient]:
    """A client whose exchanges come from the cassette, or go onto it."""
    if not RECORDING:
        with (
            ConvSyncClient("http://127.0.0.1:9", api_key="k") as client,
            exchanges.use_cassette(name),
        ):
            yield client
        return
    with ReferenceServer() as server:
        server.create_conversation(
            phone_number=CUSTOMER,
            subdomain="restaurant-abc",
            bot_id="67890abcdef",
            intent="order",
            step="selecting",
        )
        with server.client(api_key="k") as client, exchanges.use_cassette(name):
            yield client


def test_the_documented_exchanges() -> None:
    """Health, lookup, read, sync and message: the client's bytes and what it reads."""
    update = StateUpdate(
        intent="payment",
        step="processing_payment",
        context={"orderTotal": 50.0, "paymentMethod": "yape"},
        metadata={"agentVersion": "1.0.0"},
        is_active=True,
    )
    with recorded("documented.yaml") as client:
        healthy = client.health()
        tenant = client.lookup_tenant(CUSTOMER)
        before = client.get_conversation(CUSTOMER, "67890abcdef")
        synced = client.sync_conversation(before.session_id, update, idempotency_key="turn/1")
        added = client.add_message(
            before.session_id, "bot", "Perfecto! Total: S/ 50.00", idempotency_key="turn/0"
        )

    assert healthy
    assert (tenant.subdomain, tenant.session_id) == ("restaurant-abc", before.session_id)
    assert (before.current_intent, before.current_step) == ("order", "selecting")
    assert (synced.current_intent, synced.context["orderTotal"]) == ("payment", 50.0)
    assert [message.content for message in added.messages] == ["Perfecto! Total: S/ 50.00"]


def test_a_customer_without_a_conversation() -> None:
    """The 404 of the documented server."""
    with (
        recorded("not_found.yaml") as client,
        pytest.raises(ConversationNotFoundError, match="webhook"),
    ):
        client.get_conversation("+51000000000")


def test_no_cassette_holds_a_key_or_a_port() -> None:
    """They are part of the repository; so nothing of the machine that recorded them, either."""
    secret = r"(?i)authorization|bearer|127\.0\.0\.1|user-agent|x-stainless|\n +(date|server|host):"
    texts = [path.read_text() for path in CASSETTES.glob("*.yaml")]

    assert texts
    assert not any(re.search(secret, text) for text in texts)
