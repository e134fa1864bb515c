"""WAHA's deliveries at the reference server: who writes to a known session has a conversation."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.server import Tenant, create_reference_api

API = "/api/v1/whatsapp"
WEBHOOK = f"{API}/webhook/waha"
PAYLOADS = Path(__file__).parents[1] / "payloads"
ABC = Tenant("restaurant-abc", "67890abcdef")
METADATA = {"subdomain": "restaurant-abc", "bot.id": "67890abcdef"}
SECRET = "my-secret-key"

Server = Callable[..., httpx.AsyncClient]


def sample(name: str, **changes: Any) -> dict[str, Any]:
    """One of WAHA's deliveries, for the session of a known tenant."""
    (path,) = PAYLOADS.glob(f"{name}*.json")
    return {**json.loads(path.read_text(encoding="utf-8")), "metadata": METADATA, **changes}


def server(**settings: Any) -> httpx.AsyncClient:
    """A client of an empty server."""
    transport = httpx.ASGITransport(create_reference_api(**settings))
    return httpx.AsyncClient(transport=transport, base_url="http://api.test")


async def deliver(api: httpx.AsyncClient, event: dict[str, Any]) -> dict[str, Any]:
    """What became of the event: WAHA gets a 200 in any case."""
    answer = await api.post(WEBHOOK, json=event)
    assert (answer.status_code, answer.json()["type"]) == (200, "1")
    data: dict[str, Any] = answer.json()["data"]
    return data


async def session_of(api: httpx.AsyncClient, phone_number: str) -> Any:
    """The session id that a lookup finds, if any."""
    answer = await api.get(f"{API}/lookup/tenant/{phone_number}")
    return (answer.json()["data"] or {}).get("sessionId")


async def test_a_first_message_begins_a_conversation() -> None:
    """The customer is found under the number, the tenant comes from the session's metadata."""
    api = server()

    done = await deliver(api, sample("08a"))

    assert done == {"accepted": True, "sessionId": done["sessionId"], "reason": None}
    answer = await api.get(f"{API}/lookup/conversation/+551100000010")
    found = answer.json()["data"]
    assert (found["subDomain"], found["botId"]) == ("restaurant-abc", "67890abcdef")
    assert (found["sessionId"], found["userId"]) == (done["sessionId"], "+551100000010")


async def test_the_text_is_left_to_the_agent() -> None:
    """The documented flow has the agent record both sides: a second copy would double them."""
    api = server()
    await deliver(api, sample("08a"))

    answer = await api.get(f"{API}/lookup/conversation/+551100000010")

    assert answer.json()["data"]["context"] == {"previousMessages": []}


@pytest.mark.parametrize("order", [("08a", "08b"), ("08b", "08a")])
async def test_lid_twins_are_one_conversation(order: tuple[str, str]) -> None:
    """WAHA reports one message under the number and under the LID, in either order."""
    api = server()

    first, second = [await deliver(api, sample(name)) for name in order]

    assert first["sessionId"] == second["sessionId"]
    assert await session_of(api, "38000000000010@lid") == first["sessionId"]


async def test_a_lid_whose_number_waha_tells_is_found_by_the_number() -> None:
    """On GOWS the sender is a LID, and the number stands beside it."""
    api = server()

    done = await deliver(api, sample("01_message"))

    assert await session_of(api, "+558580000002") == done["sessionId"]


async def test_a_lid_without_a_number_is_a_customer_too() -> None:
    """Found under the LID, as the agent will ask for it."""
    api = server()

    done = await deliver(api, sample("03"))

    assert await session_of(api, "4600000000004@lid") == done["sessionId"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("05_message_group", "group"),
        ("21_message_any_from_api", "own echo"),
        ("22_message_any_from_phone", "the business wrote it"),
        ("30_message_reaction", "reaction"),
        ("31_message_ack", "ack"),
        ("36_session_status", "session status"),
        ("45_newsletter", "newsletter"),
    ],
)
async def test_what_is_no_customers_message_begins_nothing(name: str, reason: str) -> None:
    """Answered with 200 and the reason: WAHA would only deliver it again."""
    done = await deliver(server(), sample(name))

    assert done == {"accepted": False, "sessionId": None, "reason": reason}


async def test_a_session_can_be_given_a_tenant_by_configuration() -> None:
    """For sessions that were created without metadata."""
    api = server(tenants={"mysession_waha": ABC})

    done = await deliver(api, sample("08a", metadata={}))

    assert done["sessionId"].startswith("67890abcdef_551100000010_")


async def test_configuration_comes_before_the_events_own_metadata() -> None:
    """A delivery cannot talk itself into another tenant."""
    api = server(tenants={"mysession_waha": ABC})
    forged = {"subdomain": "restaurant-xyz", "bot.id": "evil"}

    done = await deliver(api, sample("08a", metadata=forged))

    assert done["sessionId"].startswith("67890abcdef_")


@pytest.mark.parametrize(
    "metadata", [{}, {"subdomain": "restaurant-abc"}, {"subdomain": "a b", "bot.id": "../x"}]
)
async def test_a_session_without_a_tenant_is_refused_clearly(
    metadata: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody's conversation is guessed; log and answer say what to configure."""
    with caplog.at_level(logging.WARNING):
        done = await deliver(server(), sample("08a", metadata=metadata))

    assert done["accepted"] is False
    assert "--tenant SESSION=SUBDOMAIN:BOT" in done["reason"]
    assert done["reason"] in caplog.text


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    return {
        "X-Webhook-Hmac": hmac.digest(secret.encode(), body, "sha512").hex(),
        "X-Webhook-Hmac-Algorithm": "sha512",
    }


@pytest.mark.parametrize("secrets", [SECRET, ["older-key", SECRET]])
async def test_a_signed_event_is_accepted(secrets: str | list[str]) -> None:
    """With one of the keys, while one replaces another."""
    body = json.dumps(sample("08a")).encode()

    answer = await server(waha_secrets=secrets).post(WEBHOOK, content=body, headers=signed(body))

    assert answer.json()["data"]["accepted"] is True


@pytest.mark.parametrize("body", [json.dumps(sample("08a")).encode(), b"{", b""])
@pytest.mark.parametrize("secret", [None, "another-key"])
async def test_an_event_that_is_not_signed_is_refused(body: bytes, secret: str | None) -> None:
    """Before it is parsed, so that it is 401 whatever it holds."""
    headers = {} if secret is None else signed(body, secret)

    answer = await server(waha_secrets=SECRET).post(WEBHOOK, content=body, headers=headers)

    assert answer.status_code == 401
    assert answer.json() == {
        "type": "3",
        "message": "The X-Webhook-Hmac signature is missing or wrong.",
        "data": None,
    }


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"event": NaN}'])
async def test_a_malformed_event_is_refused(body: bytes) -> None:
    """A sender that is not WAHA is told so."""
    answer = await server().post(WEBHOOK, content=body)

    assert (answer.status_code, answer.json()["type"]) == (400, "3")


@pytest.mark.parametrize("secrets", ["", [], [SECRET, ""]])
def test_an_empty_secret_is_a_configuration_error(secrets: str | list[str]) -> None:
    """Anybody could sign with it; better no start than an open door."""
    with pytest.raises(ConfigurationError, match="waha_secrets"):
        create_reference_api(waha_secrets=secrets)
