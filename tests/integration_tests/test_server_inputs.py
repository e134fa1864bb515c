"""Hostile input anywhere in a request: taken or refused in the envelope, no crash, no echo."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from langchain_convsync.server import create_reference_api
from tests.hostile import (
    deliveries,
    entries,
    escaped,
    lines,
    phones,
    raw_bodies,
    short_words,
    values,
    words,
)

API = "/api/v1/whatsapp"
CUSTOMER = "51999999999@c.us"
EVENT = {
    "event": "message",
    "session": "default",
    "metadata": {"subdomain": "restaurant-abc", "bot.id": "bot123"},
    "payload": {"id": f"false_{CUSTOMER}_A", "from": CUSTOMER, "body": "Hola"},
}
fields = st.sampled_from(
    ["intent", "step", "context", "metadata", "isActive", "role", "content", "payload", "session"]
)
HEADERS = [b"authorization", b"idempotency-key", b"x-request-id", b"content-type", b"accept"]
bodies = st.one_of(
    st.dictionaries(st.one_of(fields, short_words), values, max_size=5).map(escaped),
    st.fixed_dictionaries(
        {"context": st.fixed_dictionaries({"previousMessages": st.one_of(entries, values)})}
    ).map(escaped),
    raw_bodies,
)


@pytest.fixture(scope="module")
def api() -> Iterator[TestClient]:
    with TestClient(create_reference_api(), raise_server_exceptions=False) as client:
        yield client


def session(api: TestClient) -> str:
    answer = api.post(f"{API}/webhook/waha", json=EVENT)
    return str(answer.json()["data"]["sessionId"])


def encoded(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


def check(answer: Any, *sent: str) -> None:
    """In the envelope, with an id, no crash; a refusal repeats nothing of what was sent."""
    assert answer.status_code < 500
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert set(body) == {"type", "message", "data"}
    assert body["type"] == ("1" if answer.status_code == 200 else "3")
    if answer.status_code != 200:
        assert body["data"] is None
        assert not [word for word in sent if len(word) > 4 and word in body["message"]]


@given(phones, lines)
def test_lookups_take_any_text(api: TestClient, name: str, bot: str) -> None:
    """Whatever stands in path and query."""
    for lookup in ("tenant", "conversation"):
        url = f"{API}/lookup/{lookup}/{encoded(name)}?botId={encoded(bot)}"
        check(api.get(url), name, bot)


@given(raw_bodies, bodies, st.booleans())
def test_writes_take_any_body(api: TestClient, raw: bytes, body: bytes, known: bool) -> None:
    """To a conversation that is there, and to one that is not; and the server goes on."""
    path = f"{API}/agent/conversations/{session(api) if known else 'nobodys'}"
    headers = {"content-type": "application/json"}

    for content in (raw, body):
        for method, operation in (("PUT", "sync"), ("POST", "messages")):
            check(api.request(method, f"{path}/{operation}", content=content, headers=headers))
    check(api.get(f"{API}/lookup/conversation/{CUSTOMER}"))


@given(lines, words, words)
def test_a_refused_write_repeats_nothing(api: TestClient, name: str, key: str, text: str) -> None:
    """Neither values nor keys, but for one of letters alone: so a misspelt field is found."""
    body = {name: text, "context": {"previousMessages": [{key: text, "role": text}]}}
    path = f"{API}/agent/conversations/{session(api)}/sync"

    headers = {"content-type": "application/json"}
    told = name.isascii() and name.replace("-", "").isalpha()
    answer = api.put(path, content=json.dumps(body), headers=headers)
    check(answer, *([] if told and text in name else [text]), *([] if told else [name]))


@given(st.sampled_from(HEADERS), lines)
def test_headers_take_any_text(api: TestClient, name: bytes, value: str) -> None:
    """A key, a token, an idempotency key: all are a stranger's."""
    headers = [(b"content-type", b"application/json"), (name, value.encode("utf-8", "replace"))]
    path = f"{API}/agent/conversations/{session(api)}/messages"

    check(api.post(path, content=b'{"role": "user", "content": "Hola"}', headers=headers))


@given(bodies, raw_bodies)
def test_the_webhook_takes_any_body(api: TestClient, body: bytes, raw: bytes) -> None:
    """Also one that is nearly an event of WAHA's."""
    check(api.post(f"{API}/webhook/waha", content=body))
    check(api.post(f"{API}/webhook/waha", content=raw))


@given(deliveries)
def test_an_event_may_hold_anything(api: TestClient, delivery: dict[str, Any]) -> None:
    """WAHA's engines differ; none of them brings the server down."""
    event = {**EVENT, **delivery, "metadata": EVENT["metadata"]}

    check(api.post(f"{API}/webhook/waha", content=json.dumps(event)))
