"""The reference server over ASGI: every answer in the documented envelope, whatever is sent."""

from __future__ import annotations

import gzip
import logging
import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from langchain_convsync.server import create_reference_api
from tests.clocked_store import PHONE

API = "/api/v1/whatsapp"
JSON = {"content-type": "application/json"}
EVENT = {
    "event": "message",
    "session": "default",
    "metadata": {"subdomain": "restaurant-abc", "bot.id": "67890abcdef"},
    "payload": {"id": "false_51999999999@c.us_A", "from": "51999999999@c.us", "body": "Hola"},
}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "api.db"


@pytest.fixture
async def api(database: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that has one conversation."""
    app = create_reference_api(f"sqlite:///{database}")
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
        (await client.post(f"{API}/webhook/waha", json=EVENT)).raise_for_status()
        yield client


async def conversation(api: httpx.AsyncClient) -> dict[str, Any]:
    answer = await api.get(f"{API}/lookup/conversation/{PHONE}")
    data: dict[str, Any] = answer.raise_for_status().json()["data"]
    return data


async def path_of(api: httpx.AsyncClient, operation: str) -> str:
    """Where to write to the conversation: `sync` or `messages`."""
    return f"{API}/agent/conversations/{(await conversation(api))['sessionId']}/{operation}"


def refused(answer: httpx.Response, status_code: int) -> str:
    """The message of a refusal that is in the envelope, and nothing else."""
    assert answer.status_code == status_code
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body == {"type": "3", "message": body["message"], "data": None}
    assert body["message"]
    return str(body["message"])


async def test_the_documented_tenant_lookup(api: httpx.AsyncClient) -> None:
    """The document's request and answer, literally but for the generated session id."""
    answer = await api.get(f"{API}/lookup/tenant/+51999999999")

    assert answer.status_code == 200
    assert answer.json() == {
        "type": "1",
        "message": "Tenant information retrieved successfully",
        "data": {
            "subDomain": "restaurant-abc",
            "botId": "67890abcdef",
            "sessionId": (await conversation(api))["sessionId"],
            "isActive": True,
        },
    }


async def test_the_documented_conversation_lookup(api: httpx.AsyncClient) -> None:
    """Every documented field, none besides, in the documented time format."""
    answer = await api.get(f"{API}/lookup/conversation/+51999999999?botId=67890abcdef")

    body = answer.json()
    assert (body["type"], body["message"]) == ("1", "Conversation retrieved successfully")
    assert set(body["data"]) == {
        "sessionId",
        "userId",
        "botId",
        "subDomain",
        "currentIntent",
        "currentStep",
        "previousIntent",
        "previousStep",
        "context",
        "metadata",
        "isActive",
        "lastActivity",
        "expiresAt",
        "createdAt",
        "updatedAt",
    }
    times = [body["data"][name] for name in ("lastActivity", "expiresAt", "createdAt")]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time) for time in times)


async def test_the_documented_sync(api: httpx.AsyncClient) -> None:
    """The document's body is merged; the answer holds the documented fields."""
    before = await conversation(api)
    context = {
        "selectedItems": [
            {"id": "item_123", "name": "Pizza Margherita", "quantity": 2, "price": 50.00}
        ],
        "orderTotal": 50.00,
        "paymentMethod": "yape",
        "deliveryAddress": {"street": "Av. Principal 123", "city": "Lima"},
    }
    metadata = {"agentProcessedAt": "2025-12-29T10:06:00.000Z", "agentVersion": "1.0.0"}

    answer = await api.put(
        await path_of(api, "sync"),
        json={
            "intent": "payment",
            "step": "processing_payment",
            "context": context,
            "metadata": metadata,
            "isActive": True,
        },
    )

    after = await conversation(api)
    assert answer.json() == {
        "type": "1",
        "message": "Conversation synced successfully from agent",
        "data": {
            "sessionId": before["sessionId"],
            "currentIntent": "payment",
            "currentStep": "processing_payment",
            "context": {"previousMessages": [], **context},
            "lastActivity": after["lastActivity"],
        },
    }
    assert after["metadata"] == {"platform": "whatsapp", **metadata}
    assert after["previousIntent"] == "idle"


async def test_the_documented_message(api: httpx.AsyncClient) -> None:
    """Success is 200, as for every documented answer, and holds the history."""
    content = "Perfecto! Tu pedido está confirmado. Total: S/ 50.00"

    answer = await api.post(
        await path_of(api, "messages"), json={"role": "bot", "content": content}
    )

    after = await conversation(api)
    (message,) = after["context"]["previousMessages"]
    assert answer.status_code == 200
    assert answer.json() == {
        "type": "1",
        "message": "Message added successfully",
        "data": {
            "sessionId": after["sessionId"],
            "context": {"previousMessages": [message], "lastUserMessage": None},
        },
    }
    assert (message["role"], message["content"]) == ("bot", content)


async def test_health_asks_the_database(api: httpx.AsyncClient) -> None:
    """The document names the endpoint; the answer is in the same envelope."""
    answer = await api.get(f"{API}/health")

    assert answer.json() == {
        "type": "1",
        "message": "WhatsApp service is healthy",
        "data": {"status": "ok"},
    }


@pytest.mark.parametrize(
    "spelling",
    ["+51999999999", "%2B51999999999", "51999999999", "%2051999999999", "51999999999@c.us"],
)
async def test_a_customer_is_found_however_the_url_spells_it(
    api: httpx.AsyncClient, spelling: str
) -> None:
    """The document's Python client does not escape the plus sign, others do."""
    answer = await api.get(f"{API}/lookup/tenant/{spelling}")

    assert answer.status_code == 200


@pytest.mark.parametrize("lookup", ["tenant", "conversation"])
@pytest.mark.parametrize("phone_number", ["+51000000000", "%2e%2e", "%00", "%ff", "x" * 5000])
async def test_a_lookup_that_finds_no_conversation_is_the_documented_404(
    api: httpx.AsyncClient, lookup: str, phone_number: str
) -> None:
    """Names that nobody can have are answered like numbers that nobody has."""
    answer = await api.get(f"{API}/lookup/{lookup}/{phone_number}")

    assert refused(answer, 404) == "No active conversation found for this phone number"


@pytest.mark.parametrize(("method", "operation"), [("PUT", "sync"), ("POST", "messages")])
@pytest.mark.parametrize("session_id", ["nope_1", "%00", "..%5c", "x" * 5000])
async def test_a_write_to_an_unknown_session_is_the_documented_404(
    api: httpx.AsyncClient, method: str, operation: str, session_id: str
) -> None:
    """A well-formed body changes nothing about it."""
    body = {"intent": "order"} if operation == "sync" else {"role": "user", "content": "Hola"}

    answer = await api.request(
        method, f"{API}/agent/conversations/{session_id}/{operation}", json=body
    )

    assert refused(answer, 404) == "Conversation not found"


@pytest.mark.parametrize(
    ("method", "path", "status_code"),
    [
        ("GET", "/", 404),
        ("GET", "/api/v1/whatsapp-providers/lookup/tenant/+51999999999", 404),
        ("GET", f"{API}/lookup/tenant/", 404),
        ("GET", f"{API}/lookup/tenant/a%2Fb", 404),
        ("GET", f"{API}/lookup/tenant/+51999999999/", 404),
        ("POST", f"{API}/lookup/tenant/+51999999999", 405),
        ("DELETE", f"{API}/agent/conversations/x/sync", 405),
        ("GET", f"{API}/webhook/waha", 405),
    ],
)
async def test_what_is_not_an_endpoint_is_refused_in_the_envelope(
    api: httpx.AsyncClient, method: str, path: str, status_code: int
) -> None:
    """Neither HTML nor the framework's own shape; an unknown path says where the endpoints are."""
    answer = await api.request(method, path)

    message = refused(answer, status_code)
    assert (API in message) == (status_code == 404)
    assert ("allow" in answer.headers) == (status_code == 405)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "The body must be a JSON object"),
        (b"[]", "The body must be a JSON object"),
        (b'{"intent": "order", ', "The body is not valid JSON"),
        (b'{"context": {"a": NaN}}', "NaN"),
        (b'{"context": {"a": 1, "a": 2}}', "a key twice"),
        (b'{"context": {"a": ' + b"[" * 1000 + b"]" * 1000 + b"}}", "nested"),
        (b'{"intent": 1}', "intent: Input should be a valid string"),
        (b'{"isActive": null}', "isActive: Input should be a valid boolean"),
        (b'{"subDomain": "evil"}', "subDomain: Extra inputs are not permitted"),
        (b'{"context": {"previousMessages": [{"role": "system"}]}}', "previousMessages.0.role"),
        (b'{"context": {"previousMessages": [{"timestamp": "ayer"}]}}', "must be a date and time"),
    ],
)
async def test_a_malformed_sync_is_told_what_is_wrong(
    api: httpx.AsyncClient, body: bytes, told: str
) -> None:
    """The field and the rule, and nothing is changed."""
    before = await conversation(api)

    answer = await api.put(await path_of(api, "sync"), content=body, headers=JSON)

    message = refused(answer, 400)
    assert told in message
    assert "ayer" not in message
    assert await conversation(api) == before


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"role": "assistant", "content": "x"}, "role: Input should be 'user' or 'bot'"),
        ({"role": "user", "content": ""}, "content: String should have at least 1 character"),
        ({"role": "user", "content": {"text": "secreto"}}, "content: Input should be a valid"),
        ({"content": "x"}, "role: Field required"),
    ],
)
async def test_a_malformed_message_is_told_what_is_wrong(
    api: httpx.AsyncClient, body: dict[str, Any], told: str
) -> None:
    """Without repeating what the customer wrote."""
    answer = await api.post(await path_of(api, "messages"), json=body)

    message = refused(answer, 400)
    assert told in message
    assert "secreto" not in message


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_that_is_not_declared_as_json_is_refused(
    api: httpx.AsyncClient, content_type: str
) -> None:
    """The message says how to send it."""
    headers = {"content-type": content_type} if content_type else {}

    answer = await api.put(await path_of(api, "sync"), content=b"{}", headers=headers)

    assert "sent as application/json" in refused(answer, 415)


@pytest.mark.parametrize("operation", ["sync", "messages", "webhook"])
async def test_a_body_over_the_limit_is_refused(api: httpx.AsyncClient, operation: str) -> None:
    """Before it is parsed: what comes after the first megabyte is not even read."""
    path = f"{API}/webhook/waha" if operation == "webhook" else await path_of(api, operation)
    method = "PUT" if operation == "sync" else "POST"
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 64 * 1024 * 1024:
            sent += 65_536
            yield b"[" * 65_536

    answer = await api.request(method, path, content=endless(), headers=JSON)

    assert "1 MiB" in refused(answer, 413)
    assert sent < 2 * 1024 * 1024


async def test_a_body_of_the_allowed_size_is_read(api: httpx.AsyncClient) -> None:
    """A long message is a message."""
    body = {"role": "user", "content": "x" * (1024 * 1024 - 100)}

    answer = await api.post(await path_of(api, "messages"), json=body)

    assert answer.status_code == 200


async def test_a_compressed_body_is_not_unpacked(api: httpx.AsyncClient) -> None:
    """No way around the limit."""
    headers = {**JSON, "content-encoding": "gzip"}

    answer = await api.put(
        await path_of(api, "sync"), content=gzip.compress(b"{}"), headers=headers
    )

    refused(answer, 400)


@pytest.mark.parametrize("path", ["/", f"{API}/health", f"{API}/lookup/tenant/+51000000000"])
async def test_every_answer_has_an_id_of_its_own(api: httpx.AsyncClient, path: str) -> None:
    """Refusals, too: the id leads to the server's log."""
    ids = {(await api.get(path)).headers["x-request-id"] for _ in range(2)}

    assert len(ids) == 2


async def test_a_failing_database_is_a_500_without_details(
    api: httpx.AsyncClient, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns the request id, the log the reason, and neither the customer's number."""
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TABLE conversations")
    connection.close()

    with caplog.at_level(logging.ERROR):
        answer = await api.get(f"{API}/lookup/tenant/{PHONE}")

    assert "conversations" not in refused(answer, 500)
    assert answer.headers["x-request-id"] in caplog.text
    assert "no such table" in caplog.text
    assert "51999999999" not in caplog.text


@pytest.mark.parametrize(
    ("method", "operation", "body"),
    [
        ("PUT", "sync", {"intent": "order"}),
        ("POST", "messages", {"role": "user", "content": "Hola"}),
    ],
)
async def test_an_idempotency_key_makes_a_repetition_harmless(
    api: httpx.AsyncClient, method: str, operation: str, body: dict[str, Any]
) -> None:
    """The same answer, marked as a replay; with another body it is a mistake."""
    path, key = await path_of(api, operation), {"Idempotency-Key": "turn-1"}
    first = await api.request(method, path, json=body, headers=key)
    state = await conversation(api)

    again = await api.request(method, path, json=body, headers=key)
    other = await api.request(method, path, json=body | {next(iter(body)): "bot"}, headers=key)

    assert again.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert "needs a new key" in refused(other, 422)
    assert await conversation(api) == state


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_an_idempotency_key_has_a_bounded_length(api: httpx.AsyncClient, key: str) -> None:
    """An empty key would make unrelated requests the same."""
    answer = await api.put(await path_of(api, "sync"), json={}, headers={"Idempotency-Key": key})

    assert "Idempotency-Key" in refused(answer, 400)
