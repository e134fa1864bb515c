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

API = "/api/v1/whatsapp"
CUSTOMER = "51999999999@c.us"
EVENT = {
    "event": "message",
    "session": "default",
    "metadata": {"subdomain": "restaurant-abc", "bot.id": "bot123"},
    "payload": {"id": f"false_{CUSTOMER}_A", "from": CUSTOMER, "body": "Hola"},
}
HOSTILE = [
    "",
    ":{}*\r\n\0",
    "\ud800",
    "cafe\u0301-secreto",
    "+51 999",
    "0051999999999",
    "+５１９９９９９９９９９",
    "+٥١٩٩٩٩٩٩٩٩٩",
    "..",
    ".",
    "%2e%2e",
    "a/b",
    "?x#y",
    "51999999999-1600000000@g.us",
    "4600000000004@lid",
    "4600000000004:12@lid",
    "secreto\u202e",
    "x" * 5000,
    "'; DROP TABLE conversations; --",
]
words = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40))
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        words,
        st.just(2**53 + 1),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=8,
)
fields = st.sampled_from(
    ["intent", "step", "context", "metadata", "isActive", "role", "content", "payload", "session"]
)
bodies = st.one_of(
    st.dictionaries(st.one_of(fields, words), values, max_size=5).map(json.dumps),
    st.fixed_dictionaries({"context": st.fixed_dictionaries({"previousMessages": values})}).map(
        json.dumps
    ),
    st.sampled_from(["", "null", "[", '{"a": 1e999}', '{"a": 1, "a": 2}', "[" * 9000, "1" * 5000]),
    st.text(max_size=20),
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


@given(words, words)
def test_lookups_take_any_text(api: TestClient, name: str, bot: str) -> None:
    """Whatever stands in path and query."""
    for lookup in ("tenant", "conversation"):
        url = f"{API}/lookup/{lookup}/{encoded(name)}?botId={encoded(bot)}"
        check(api.get(url), name, bot)


@given(bodies, st.booleans())
def test_writes_take_any_body(api: TestClient, body: str, known: bool) -> None:
    """To a conversation that is there, and to one that is not; and the server goes on."""
    path = f"{API}/agent/conversations/{session(api) if known else 'nobodys'}"
    raw, headers = body.encode("utf-8", "surrogatepass"), {"content-type": "application/json"}

    for method, operation in (("PUT", "sync"), ("POST", "messages")):
        check(api.request(method, f"{path}/{operation}", content=raw, headers=headers))
    check(api.get(f"{API}/lookup/conversation/{CUSTOMER}"))


@given(words, words, words)
def test_a_refused_write_repeats_nothing(api: TestClient, name: str, key: str, text: str) -> None:
    """Neither values nor keys, but for one of letters alone: so a misspelt field is found."""
    body = {name: text, "context": {"previousMessages": [{key: text, "role": text}]}}
    path = f"{API}/agent/conversations/{session(api)}/sync"

    headers = {"content-type": "application/json"}
    told = name.isascii() and name.replace("-", "").isalpha()
    answer = api.put(path, content=json.dumps(body), headers=headers)
    check(answer, text, *([] if told else [name]))


@given(bodies)
def test_the_webhook_takes_any_body(api: TestClient, body: str) -> None:
    """Also one that is nearly an event of WAHA's."""
    raw = body.encode("utf-8", "surrogatepass")

    check(api.post(f"{API}/webhook/waha", content=raw))


@given(st.dictionaries(st.sampled_from(["id", "from", "body", "to", "participant"]), values))
def test_an_event_may_hold_anything(api: TestClient, payload: dict[str, Any]) -> None:
    """WAHA's engines differ; none of them brings the server down."""
    event = {**EVENT, "payload": {**EVENT["payload"], **payload}}  # type: ignore[dict-item]

    check(api.post(f"{API}/webhook/waha", content=json.dumps(event)))
