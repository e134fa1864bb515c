"""The API document's own Python client, unmodified, against ``convsync serve``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.document_client import ConversationSyncClient
from tests.serve_process import serving

EVENT = {
    "event": "message",
    "session": "default",
    "payload": {"id": "false_51999999999@c.us_A", "from": "51999999999@c.us", "body": "Hola"},
}


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """A server process that knows WAHA's session `default`."""
    with serving("--tenant", "default=restaurant-abc:67890abcdef") as server:
        yield server.base_url


@pytest.fixture
def client(base_url: str) -> Any:
    """The document's client, after a customer wrote."""
    requests.post(f"{base_url}/api/v1/whatsapp/webhook/waha", json=EVENT).raise_for_status()
    return ConversationSyncClient(base_url, api_key="unused")


def test_it_looks_up_the_tenant(client: Any) -> None:
    """With its plus sign unescaped."""
    tenant = client.lookup_tenant("+51999999999")

    assert tenant == {
        "subDomain": "restaurant-abc",
        "botId": "67890abcdef",
        "sessionId": tenant["sessionId"],
        "isActive": True,
    }


@pytest.mark.parametrize("bot_id", [None, "67890abcdef"])
def test_it_gets_the_conversation(client: Any, bot_id: str | None) -> None:
    """With and without a bot."""
    conversation = client.get_conversation("+51999999999", bot_id)

    assert conversation["userId"] == "+51999999999"
    assert conversation["metadata"]["platform"] == "whatsapp"


def test_it_syncs_the_conversation(client: Any) -> None:
    """And gets the documented fields back."""
    session_id = client.lookup_tenant("+51999999999")["sessionId"]

    synced = client.sync_conversation(
        session_id, "payment", "processing_payment", {"orderTotal": 50.0}, {"agentVersion": "1.0.0"}
    )

    assert (synced["currentIntent"], synced["currentStep"]) == ("payment", "processing_payment")
    assert synced["context"]["orderTotal"] == 50.0
    assert client.get_conversation("+51999999999")["metadata"]["agentVersion"] == "1.0.0"


def test_it_adds_messages(client: Any) -> None:
    """They come back in order, with times that grow."""
    session_id = client.lookup_tenant("+51999999999")["sessionId"]
    client.add_message(session_id, "user", "Quiero una pizza")

    context = client.add_message(session_id, "bot", "¿De qué tamaño?")["context"]

    user, bot = context["previousMessages"][-2:]
    assert (user["role"], user["content"]) == ("user", "Quiero una pizza")
    assert (bot["role"], bot["content"]) == ("bot", "¿De qué tamaño?")
    assert user["timestamp"] < bot["timestamp"]
    assert context["lastUserMessage"] == "Quiero una pizza"


def test_its_error_handling_sees_a_404(client: Any) -> None:
    """The document's advice: on a 404, answer with an apology."""
    with pytest.raises(requests.HTTPError) as caught:
        client.lookup_tenant("+51000000000")

    assert caught.value.response.status_code == 404


def test_the_documents_sample_flow_runs_as_written(client: Any) -> None:
    """Look up, read, answer, add both messages, sync the agent's keys of the context."""
    tenant = client.lookup_tenant("+51999999999")
    context = client.get_conversation("+51999999999")["context"]
    client.add_message(tenant["sessionId"], "user", "Pago con Yape")
    client.add_message(tenant["sessionId"], "bot", "¡Perfecto!")

    client.sync_conversation(
        session_id=tenant["sessionId"],
        intent="payment",
        step="confirmed",
        context={key: value for key, value in context.items() if key != "previousMessages"}
        | {"paymentMethod": "yape"},
        metadata={"agent_confidence": 0.9, "agent_model": "gpt-4"},
    )

    after = client.get_conversation("+51999999999")
    assert after["currentStep"] == "confirmed"
    assert after["context"]["paymentMethod"] == "yape"
    said = [entry["content"] for entry in after["context"]["previousMessages"]]
    assert said[-2:] == ["Pago con Yape", "¡Perfecto!"]
