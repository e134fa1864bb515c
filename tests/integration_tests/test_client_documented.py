"""The API document's examples, request and answer, literally and over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from langchain_convsync.client import AsyncConvSyncClient, ConvSyncClient
from langchain_convsync.errors import ConversationNotFoundError
from langchain_convsync.models import StateUpdate
from tests.faulty_server import FaultyServer, Mode, answers

SESSION = "bot123_51999999999_1234567890_xyz"

TENANT = """
{
  "type": "1",
  "message": "Tenant information retrieved successfully",
  "data": {
    "subDomain": "restaurant-abc",
    "botId": "67890abcdef",
    "sessionId": "bot123_51999999999_1234567890_xyz",
    "isActive": true
  }
}
"""

CONVERSATION = """
{
  "type": "1",
  "message": "Conversation retrieved successfully",
  "data": {
    "sessionId": "bot123_51999999999_1234567890_xyz",
    "userId": "+51999999999",
    "botId": "67890abcdef",
    "subDomain": "restaurant-abc",
    "currentIntent": "order",
    "currentStep": "selecting",
    "previousIntent": "menu",
    "previousStep": "browsing",
    "context": {
      "selectedItems": [
        {
          "id": "item_123",
          "name": "Pizza Margherita",
          "quantity": 1,
          "price": 25.00
        }
      ],
      "orderTotal": 25.00,
      "previousMessages": [
        {
          "role": "user",
          "content": "Hola",
          "timestamp": "2025-12-29T10:00:00.000Z"
        },
        {
          "role": "bot",
          "content": "¡Hola! Bienvenido",
          "timestamp": "2025-12-29T10:00:01.000Z"
        }
      ],
      "lastUserMessage": "Quiero una pizza"
    },
    "metadata": {
      "language": "es",
      "platform": "whatsapp"
    },
    "isActive": true,
    "lastActivity": "2025-12-29T10:05:00.000Z",
    "expiresAt": "2025-12-30T10:05:00.000Z",
    "createdAt": "2025-12-29T10:00:00.000Z",
    "updatedAt": "2025-12-29T10:05:00.000Z"
  }
}
"""

SYNC = """
{
  "intent": "payment",
  "step": "processing_payment",
  "context": {
    "selectedItems": [
      {
        "id": "item_123",
        "name": "Pizza Margherita",
        "quantity": 2,
        "price": 50.00
      }
    ],
    "orderTotal": 50.00,
    "paymentMethod": "yape",
    "deliveryAddress": {
      "street": "Av. Principal 123",
      "city": "Lima"
    }
  },
  "metadata": {
    "agentProcessedAt": "2025-12-29T10:06:00.000Z",
    "agentVersion": "1.0.0"
  },
  "isActive": true
}
"""

SYNCED = """
{
  "type": "1",
  "message": "Conversation synced successfully from agent",
  "data": {
    "sessionId": "bot123_51999999999_1234567890_xyz",
    "currentIntent": "payment",
    "currentStep": "processing_payment",
    "context": {"orderTotal": 50.00},
    "lastActivity": "2025-12-29T10:06:00.000Z"
  }
}
"""

MESSAGE = """
{
  "role": "bot",
  "content": "Perfecto! Tu pedido está confirmado. Total: S/ 50.00"
}
"""

ADDED = """
{
  "type": "1",
  "message": "Message added successfully",
  "data": {
    "sessionId": "bot123_51999999999_1234567890_xyz",
    "context": {
      "previousMessages": [
        {"role": "bot", "content": "Perfecto! Tu pedido está confirmado. Total: S/ 50.00"}
      ],
      "lastUserMessage": "Quiero una pizza"
    }
  }
}
"""


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture(params=["blocking", "async"])
def mode(request: pytest.FixtureRequest) -> Mode:
    chosen: Mode = request.param
    return chosen


def call(mode: Mode, server: FaultyServer, method: str, *args: object) -> Any:
    """One call of a fresh client of sync or async."""
    if mode == "blocking":
        with ConvSyncClient(server.url, api_key="key-1") as client:
            return getattr(client, method)(*args)

    async def main() -> Any:
        async with AsyncConvSyncClient(server.url, api_key="key-1") as client:
            return await getattr(client, method)(*args)

    return asyncio.run(main())


def wire(model: BaseModel) -> Any:
    """A model as the JSON that it came from."""
    return json.loads(model.model_dump_json(by_alias=True, exclude_unset=True))


def test_the_tenant_of_a_phone_number_is_looked_up(mode: Mode, server: FaultyServer) -> None:
    """Endpoint 1: the number alone is enough, the plus sign travels encoded."""
    server.plays(answers(TENANT))

    tenant = call(mode, server, "lookup_tenant", "+51999999999")

    assert (tenant.subdomain, tenant.bot_id) == ("restaurant-abc", "67890abcdef")
    assert (tenant.session_id, tenant.is_active) == (SESSION, True)
    (request,) = server.received
    assert request.method == "GET"
    assert request.target == "/api/v1/whatsapp/lookup/tenant/%2B51999999999"
    assert request.headers["authorization"] == "Bearer key-1"
    assert "content-type" not in request.headers
    assert "idempotency-key" not in request.headers


def test_a_conversation_is_read(mode: Mode, server: FaultyServer) -> None:
    """Endpoint 2: filtered by bot, and every field of the answer survives."""
    server.plays(answers(CONVERSATION))

    conversation = call(mode, server, "get_conversation", "+51999999999", "67890abcdef")

    (request,) = server.received
    assert request.method == "GET"
    assert request.target == (
        "/api/v1/whatsapp/lookup/conversation/%2B51999999999?botId=67890abcdef"
    )
    assert [(m.role, m.content) for m in conversation.messages] == [
        ("user", "Hola"),
        ("bot", "¡Hola! Bienvenido"),
    ]
    sent, kept = json.loads(CONVERSATION)["data"], wire(conversation)
    assert kept.keys() == sent.keys()
    assert kept["context"] == sent["context"]
    assert kept["metadata"] == sent["metadata"]
    assert (kept["currentIntent"], kept["previousStep"]) == ("order", "browsing")


def test_a_conversation_is_read_without_a_bot(mode: Mode, server: FaultyServer) -> None:
    """``botId`` is optional."""
    server.plays(answers(CONVERSATION))

    conversation = call(mode, server, "get_conversation", "+51999999999")

    assert conversation.bot_id == "67890abcdef"
    assert server.received[0].target.endswith("/lookup/conversation/%2B51999999999")


def test_a_state_is_synced(mode: Mode, server: FaultyServer) -> None:
    """Endpoint 3: the body is the documented one, field by field."""
    server.plays(answers(SYNCED))
    body = json.loads(SYNC)
    update = StateUpdate(
        intent=body["intent"],
        step=body["step"],
        context=body["context"],
        metadata=body["metadata"],
        is_active=body["isActive"],
    )

    answer = call(mode, server, "sync_conversation", SESSION, update)

    assert (answer.session_id, answer.current_intent) == (SESSION, "payment")
    assert answer.current_step == "processing_payment"
    (request,) = server.received
    assert request.method == "PUT"
    assert request.target == f"/api/v1/whatsapp/agent/conversations/{SESSION}/sync"
    assert request.headers["content-type"] == "application/json"
    assert request.json == body


def test_a_message_is_added(mode: Mode, server: FaultyServer) -> None:
    """Endpoint 4: role and content, as they are."""
    server.plays(answers(ADDED))
    body = json.loads(MESSAGE)

    answer = call(mode, server, "add_message", SESSION, body["role"], body["content"])

    assert answer.messages[-1].content == body["content"]
    (request,) = server.received
    assert request.method == "POST"
    assert request.target == f"/api/v1/whatsapp/agent/conversations/{SESSION}/messages"
    assert request.headers["content-type"] == "application/json"
    assert request.json == body


def test_the_health_endpoint_is_asked(mode: Mode, server: FaultyServer) -> None:
    """Troubleshooting: ``/api/v1/whatsapp/health``."""
    server.plays(answers({"type": "1", "message": "ok", "data": {"status": "ok"}}))

    assert call(mode, server, "health") is True
    assert server.received[0].target == "/api/v1/whatsapp/health"


@pytest.mark.parametrize("method", ["lookup_tenant", "get_conversation"])
def test_no_active_conversation_says_what_to_check(
    mode: Mode, server: FaultyServer, method: str
) -> None:
    """The document's troubleshooting section, in the error itself."""
    server.plays(
        answers({"type": "3", "message": "No active conversation found", "data": None}, 404)
    )

    with pytest.raises(ConversationNotFoundError, match=r"webhook.*expired.*24 hours") as told:
        call(mode, server, method, "+51999999999")

    assert told.value.status_code == 404
    assert "999999999" not in str(told.value)
