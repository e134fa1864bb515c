"""Keys, tokens and limits over HTTP: what is another tenant's does not exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from langchain_convsync import ConvSyncClient, StateUpdate
from langchain_convsync.errors import (
    AuthenticationError,
    ConversationNotFoundError,
    RateLimitError,
)
from langchain_convsync.server import ApiKey, JwtRules, RateLimit, create_reference_api
from tests.clocked_store import PHONE
from tests.serve_process import serving
from tests.tokens import SECRET, token

API = "/api/v1/whatsapp"
ABC, XYZ, BOTH, ALL = (f"{name}-key-0123456789" for name in ("abc", "xyz", "both", "all"))
KEYS = [
    ApiKey.of(ABC, name="abc", tenants=["restaurant-abc"]),
    ApiKey.of(XYZ, name="xyz", tenants=["restaurant-xyz"]),
    ApiKey.of(BOTH, name="both", tenants=["restaurant-abc", "restaurant-xyz"]),
    ApiKey.of(ALL, name="all", tenants="*"),
]
HOLA = {"role": "user", "content": "Hola"}


def server(**settings: Any) -> httpx.AsyncClient:
    """A client of a server with keys."""
    app = create_reference_api(**{"api_keys": KEYS, "jwt": JwtRules(key=SECRET), **settings})
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api.test")


def bearing(key: str, **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", **headers}


async def begin(api: httpx.AsyncClient, subdomain: str, phone_number: str = PHONE) -> str:
    """The session id of a conversation that WAHA begins: its webhook needs no key."""
    chat = f"{phone_number[1:]}@c.us"
    event = {
        "event": "message",
        "session": subdomain,
        "metadata": {"subdomain": subdomain, "bot.id": f"bot-{subdomain[-3:]}"},
        "payload": {"id": f"false_{chat}_A", "from": chat, "body": "Hola"},
    }
    answer = await api.post(f"{API}/webhook/waha", json=event)
    return str(answer.raise_for_status().json()["data"]["sessionId"])


def calls(session_id: str, phone_number: str = PHONE) -> list[dict[str, Any]]:
    """Every call of an agent, about one conversation."""
    conversation = f"{API}/agent/conversations/{session_id}"
    return [
        {"method": "GET", "url": f"{API}/lookup/tenant/{phone_number}"},
        {"method": "GET", "url": f"{API}/lookup/conversation/{phone_number}"},
        {"method": "PUT", "url": f"{conversation}/sync", "json": {"step": "paid"}},
        {"method": "POST", "url": f"{conversation}/messages", "json": HOLA},
    ]


@pytest.mark.parametrize("key", [ABC, BOTH, ALL, token(), token(tenants="*")])
async def test_a_key_opens_its_own_tenants(key: str) -> None:
    """All four endpoints, with a key or a token."""
    api = server()
    session_id = await begin(api, "restaurant-abc")

    answers = [await api.request(**call, headers=bearing(key)) for call in calls(session_id)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 200]


@pytest.mark.parametrize("key", [XYZ, token(tenants=["restaurant-xyz"])])
async def test_what_is_another_tenants_is_answered_as_if_it_were_absent(key: str) -> None:
    """Byte for byte like what nobody has, and nothing is written."""
    api = server()
    session_id = await begin(api, "restaurant-abc")
    absent = calls("nobodys_1", "+51000000000")

    for call, other in zip(calls(session_id), absent, strict=True):
        answer = await api.request(**call, headers=bearing(key, **{"Idempotency-Key": "k"}))
        none = await api.request(**other, headers=bearing(key, **{"Idempotency-Key": "k"}))

        assert answer.status_code == 404
        assert answer.content == none.content
        assert {*answer.headers} == {*none.headers}

    owned = await api.get(f"{API}/lookup/conversation/{PHONE}", headers=bearing(ABC))
    assert owned.json()["data"]["currentStep"] == "initial"
    assert owned.json()["data"]["context"] == {"previousMessages": []}


async def test_a_customer_of_two_tenants_is_found_for_each_in_its_own() -> None:
    """The newest conversation hides no other tenant's older one."""
    api = server()
    older, newer = [await begin(api, name) for name in ("restaurant-abc", "restaurant-xyz")]

    found = {
        key: (await api.get(f"{API}/lookup/tenant/{PHONE}", headers=bearing(key))).json()["data"]
        for key in (ABC, XYZ, BOTH)
    }

    assert found[ABC]["sessionId"] == older
    assert found[XYZ]["sessionId"] == found[BOTH]["sessionId"] == newer


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearing("wrong-key-0123456789"),
        bearing(token("another secret of at least 32 bytes!!")),
        {"Authorization": f"Basic {ABC}"},
        {"X-Api-Key": ABC},
    ],
)
async def test_without_a_valid_key_nothing_is_told(headers: dict[str, str]) -> None:
    """401 before anything is looked up or parsed: also for what is absent, or malformed."""
    api = server()
    known = calls(await begin(api, "restaurant-abc"))
    garbled = {"method": "PUT", "url": known[2]["url"], "content": b"{"}

    answers = [
        await api.request(**call, headers=headers)
        for call in [*known, *calls("nobodys_1", "+51000000000"), garbled]
    ]

    assert {answer.status_code for answer in answers} == {401}
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
    assert len({answer.content for answer in answers}) == 1
    body = answers[0].json()
    assert body == {"type": "3", "message": body["message"], "data": None}
    assert "Authorization: Bearer" in body["message"]


async def test_probes_need_no_key() -> None:
    """Health is for whoever watches the server; it tells nothing of anybody."""
    answer = await server().get(f"{API}/health")

    assert answer.status_code == 200


async def test_idempotency_keys_are_their_callers() -> None:
    """Another caller's same key is another key; the own one is for one request, at one path."""
    api = server()
    session_id = await begin(api, "restaurant-abc")
    other_id = await begin(api, "restaurant-abc", "+51988888888")
    path, other = (f"{API}/agent/conversations/{each}/messages" for each in (session_id, other_id))

    async def post(key: str, url: str, **body: str) -> httpx.Response:
        headers = bearing(key, **{"Idempotency-Key": "turn-1"})
        return await api.post(url, json={**HOLA, **body}, headers=headers)

    first = await post(ABC, path)
    again = await post(ABC, path)
    theirs = await post(ALL, path)
    elsewhere = await post(ABC, other)
    otherwise = await post(ABC, path, content="Adiós")

    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in theirs.headers
    for refused in (elsewhere, otherwise):
        assert refused.status_code == 422
        assert "needs a new key" in refused.json()["message"]


@pytest.mark.parametrize("keys", [[], KEYS])
async def test_who_calls_too_often_is_told_how_long_to_wait(keys: list[ApiKey]) -> None:
    """In whole seconds, in the envelope, and for the agents' endpoints alone."""
    api = server(api_keys=keys, jwt=None, rate_limit=RateLimit(per_minute=1, burst=2))
    asked: dict[str, Any] = {"url": f"{API}/lookup/tenant/{PHONE}", "headers": bearing(ABC)}

    answers = [await api.get(**asked) for _ in range(3)]
    await begin(api, "restaurant-abc")
    health = await api.get(f"{API}/health")

    assert [answer.status_code for answer in answers] == [404, 404, 429]
    assert re.fullmatch(r"[1-9]\d?", answers[2].headers["retry-after"])
    body = answers[2].json()
    assert body == {"type": "3", "message": body["message"], "data": None}
    assert "Retry-After" in body["message"]
    assert health.status_code == 200


async def test_each_key_has_its_own_limit_and_guesses_share_one() -> None:
    """Whoever tries keys is slowed down, and slows nobody else."""
    api = server(rate_limit=RateLimit(per_minute=1, burst=1))
    url = f"{API}/lookup/tenant/{PHONE}"

    guesses = [(await api.get(url, headers=bearing(f"guess-{n}"))).status_code for n in range(3)]
    known = [(await api.get(url, headers=bearing(key))).status_code for key in (ABC, XYZ, ABC)]

    assert guesses == [401, 429, 429]
    assert known == [404, 404, 429]


def test_our_client_brings_its_key() -> None:
    """And names what it runs into: no key, another tenant's key, too many calls."""
    from langchain_convsync.testing import ReferenceServer

    limit = RateLimit(per_minute=1, burst=3)
    with ReferenceServer(api_keys=KEYS, rate_limit=limit) as running:
        running.create_conversation(phone_number=PHONE, subdomain="restaurant-abc", bot_id="bot123")
        with running.client(api_key=ABC, max_retries=0) as client:
            found = client.get_conversation(PHONE)
            client.sync_conversation(found.session_id, StateUpdate(step="paid"))
            client.add_message(found.session_id, "user", "Hola")
            with pytest.raises(RateLimitError) as caught:
                client.get_conversation(PHONE)
            assert caught.value.retry_after == pytest.approx(60, abs=5)
        with ConvSyncClient(running.base_url) as client, pytest.raises(AuthenticationError):
            client.get_conversation(PHONE)
        with running.client(api_key=XYZ) as client, pytest.raises(ConversationNotFoundError):
            client.get_conversation(PHONE)

        assert running.conversation(PHONE).current_step == "paid"


@pytest.mark.parametrize("claims", [{"tenants": ["\ud800"]}, {"sub": "\ud800"}, {"exp": 1e999}])
async def test_a_signed_claim_that_is_no_text_is_a_401(claims: dict[str, Any]) -> None:
    """Not an error of the server's: a signer may copy a user's own words into a token."""
    answers = [
        await server().request(**call, headers=bearing(token(**claims)))
        for call in calls("nobodys_1")
    ]

    assert {answer.status_code for answer in answers} == {401}


def forwarded(options: list[str], headers: list[str], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What a server that admits one request a minute answers to one for each header."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    with serving(*options) as running:
        url = f"{running.base_url}{API}/lookup/tenant/{PHONE}"
        return [httpx.get(url, headers={"X-Forwarded-For": each}).status_code for each in headers]


@pytest.mark.slow  # three servers, one after the other
def test_who_calls_is_not_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new X-Forwarded-For is no new caller, unless it is a proxy's that the settings name."""
    file = tmp_path / "server.toml"
    limits = "[limits]\nper_minute = 1\n"
    named = 'trusted_proxies = ["127.0.0.0/8"]\n'
    callers = ["192.0.2.1", "192.0.2.2", "203.0.113.9, 192.0.2.2"]

    file.write_text(limits)
    untold = forwarded(["--config", str(file)], callers, monkeypatch)
    option = ["--config", str(file), "--trusted-proxy", "127.0.0.1"]
    by_option = forwarded(option, callers, monkeypatch)
    file.write_text(named + limits)
    by_file = forwarded(["--config", str(file)], callers, monkeypatch)

    assert untold == [404, 429, 429]
    assert by_option == by_file == [404, 404, 429]
