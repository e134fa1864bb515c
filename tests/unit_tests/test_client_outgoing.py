"""What is sent is checked before it leaves."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_convsync.client._outgoing import headers, message_body, mount_point, query, sync_body
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.models import StateUpdate
from langchain_convsync.settings import ServerProfile

DOCUMENTED = ServerProfile()
NAN, INFINITY = float("nan"), float("inf")


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "update",
    [
        StateUpdate(context={"total": NAN}),
        StateUpdate(metadata={"deep": [{"x": INFINITY}]}),
        {"context": {"total": -INFINITY}},
        {"context": {"at": datetime(2026, 1, 1, tzinfo=UTC)}},
        {"context": {"tags": {1, 2}}},
        {"context": {"text": "\ud800"}},
        {"context": {"deep": nested(100_000)}},
        {"context": {1: "a key that is no text"}},
        {"context": ["no", "object"]},
        {"contexto": {}},
        {"isActive": "maybe"},
        "step",
        None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_update_that_is_no_json_is_refused(update: Any) -> None:
    """With a clear error that repeats no value."""
    with pytest.raises(ConfigurationError, match=r"StateUpdate|JSON") as told:
        sync_body(update, DOCUMENTED)

    assert told.value.__context__ is None
    assert "maybe" not in str(told.value)


@pytest.mark.parametrize("value", [object(), NAN, nested(100_000)], ids=["object", "nan", "deep"])
def test_what_got_into_an_update_later_is_refused_too(value: Any) -> None:
    """Its dictionaries can still be written to."""
    update = StateUpdate(context={"total": 1})
    update.context["total"] = value

    with pytest.raises(ConfigurationError, match="JSON") as told:
        sync_body(update, DOCUMENTED)

    assert told.value.__context__ is None


def test_a_mapping_is_an_update() -> None:
    """With the Python names; ``isActive`` is always sent."""
    assert json.loads(sync_body({"step": "paying", "context": {"n": 1}}, DOCUMENTED)) == {
        "step": "paying",
        "context": {"n": 1},
        "isActive": True,
    }
    assert json.loads(sync_body({"is_active": False}, DOCUMENTED)) == {"isActive": False}


def test_an_unknown_intent_is_refused_with_the_known_ones() -> None:
    """Servers with a fixed list answer 500, which tells nobody what is wrong."""
    profile = ServerProfile(intents=frozenset({"order", "menu"}))

    with pytest.raises(ConfigurationError, match="menu, order"):
        sync_body(StateUpdate(intent="dance"), profile)

    assert json.loads(sync_body(StateUpdate(intent="menu"), profile))["intent"] == "menu"
    assert "intent" not in json.loads(sync_body(StateUpdate(step="x"), profile))


@pytest.mark.parametrize(
    ("role", "content"),
    [("assistant", "x"), ("system", "x"), ("User", "x"), ("", "x"), (None, "x"), ("user", None)],
)
def test_a_message_needs_a_role_that_the_api_knows_and_text(role: Any, content: Any) -> None:
    """LangChain's own names are an easy mistake."""
    with pytest.raises(ConfigurationError, match='"user" or "bot"'):
        message_body(role, content)


@pytest.mark.parametrize(
    "content", ["¡Hola! 🍕", "\u202emirrored", "nul \0", 'quote " \\ \n', "x" * 65536]
)
def test_any_text_is_sent_as_it_is(content: str) -> None:
    """UTF-8, not escaped, not trimmed."""
    assert json.loads(message_body("bot", content)) == {"role": "bot", "content": content}


def test_a_text_that_is_no_text_is_refused() -> None:
    """Half a surrogate pair has no UTF-8."""
    with pytest.raises(ConfigurationError, match="surrogate"):
        message_body("user", "\ud83c")


@pytest.mark.parametrize("key", ["", "a\r\nb", "a b", "ñ", "\0"])
def test_an_idempotency_key_fits_into_a_header(key: str) -> None:
    """It cannot split the request."""
    with pytest.raises(ConfigurationError, match="idempotency_key"):
        headers(key, body=True)


@pytest.mark.parametrize(
    ("prefix", "url"),
    [
        ("/api/v1/whatsapp", "https://x/api/v1/whatsapp"),
        ("api/", "https://x/api"),
        ("", "https://x"),
        ("/", "https://x"),
    ],
)
def test_a_prefix_is_joined_with_single_slashes(prefix: str, url: str) -> None:
    """However it is written."""
    assert mount_point("https://x", prefix) == url


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_query_has_one_parameter(value: str) -> None:
    """Whatever the value holds."""
    text = query("botId", value)

    assert text.startswith("?botId=")
    assert text.isascii()
    assert text.isprintable()
    assert not set(text[1:].partition("=")[2]) & set("&=?#+ /")


def test_a_query_without_a_value_is_nothing() -> None:
    """Not an empty parameter."""
    assert query("botId", None) == ""


@pytest.mark.parametrize("value", ["\ud800", 7])
def test_a_query_value_is_text(value: Any) -> None:
    """Refused with the parameter's name."""
    with pytest.raises(ConfigurationError, match="botId"):
        query("botId", value)
