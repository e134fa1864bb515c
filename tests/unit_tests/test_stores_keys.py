"""Names for events and conversations, the units of the stores, and choosing a store by its URL."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.stores import (
    EventStore,
    Keys,
    RedisEventStore,
    SQLiteEventStore,
    open_store,
)
from langchain_convsync.stores.base import SHARDS, crc16
from langchain_convsync.stores.checks import account_of, decoded, encoded, milliseconds, shard_of

KEYS = Keys(b"secret")


def test_a_key_names_shard_account_and_thing() -> None:
    """Fixed here because it is what the stores' keys are made of."""
    assert KEYS.event("ventas", "", "message", "ABC") == (
        "25.2a2523cc364b.fc6d97127075ece13c1bc2dc"
    )


def test_the_checksum_is_redis_clusters() -> None:
    """The value in the Redis Cluster specification."""
    assert crc16(b"123456789") == 0x31C3


@given(account=st.text(), parts=st.lists(st.text(), min_size=4, max_size=4))
def test_all_keys_of_an_account_lie_together(account: str, parts: list[str]) -> None:
    """In one shard, under one account, whatever characters they are made from."""
    event = KEYS.event(account, *parts[:3])
    conversation = KEYS.conversation(account, parts[3])

    assert account_of(event) == account_of(conversation)
    assert shard_of(event) == shard_of(conversation) < SHARDS


def test_a_key_reveals_nothing_without_the_secret() -> None:
    """A phone number cannot be found by trying all of them, nor read from a repr."""
    other = Keys(b"another secret")

    assert KEYS.conversation("ventas", "+51999999999") != other.conversation(
        "ventas", "+51999999999"
    )
    assert "secret" not in repr(KEYS)


def test_the_parts_of_a_key_do_not_run_together() -> None:
    """("ab", "c") is not ("a", "bc"), and an event is not a conversation."""
    assert KEYS.event("x", "ab", "c", "d") != KEYS.event("x", "a", "bc", "d")
    assert KEYS.event("x", "", "conversation", "c") != KEYS.conversation("x", "c")


@given(st.text(st.characters()))
def test_any_text_survives_as_bytes(text: str) -> None:
    """Lone surrogates included."""
    assert decoded(encoded(text)) == text


@pytest.mark.parametrize("seconds", [-0.001, float("nan"), float("inf"), 1e10])
def test_what_is_no_duration_is_refused(seconds: float) -> None:
    """Before it becomes a time that no store can hold."""
    with pytest.raises(ValueError, match="not a duration"):
        milliseconds(seconds)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        (":memory:", SQLiteEventStore),
        ("sqlite://", SQLiteEventStore),
        ("events.db", SQLiteEventStore),
        ("sqlite:///events.db", SQLiteEventStore),
        ("sqlite:////var/lib/events.db", SQLiteEventStore),
        ("redis://localhost:6379/0", RedisEventStore),
        ("rediss://user:secret@redis.example.com:6380/1", RedisEventStore),
        ("unix:///run/redis.sock", RedisEventStore),
        ("valkey://localhost", RedisEventStore),
        ("valkeys://localhost", RedisEventStore),
    ],
)
def test_a_url_names_a_store(url: str, kind: type[EventStore]) -> None:
    """Nothing is connected, and no file is made, before the first use."""
    assert isinstance(open_store(url), kind)
    assert not Path("events.db").exists()


def test_the_environment_names_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing is passed."""
    monkeypatch.setenv("CONVSYNC_STORE_URL", "redis://localhost")

    assert isinstance(open_store(), RedisEventStore)
    assert isinstance(RedisEventStore(), RedisEventStore)


@pytest.mark.parametrize("url", [None, "postgres://localhost/events", "sqlite://events.db"])
def test_what_names_no_store_is_refused(url: str | None) -> None:
    """The error says what to pass, and the name of the environment variable."""
    with pytest.raises(ConfigurationError, match=r"store=.*CONVSYNC_STORE_URL"):
        open_store(url)


@pytest.mark.parametrize("url", [None, "http://localhost", "localhost:6379", "redis://h:port/0"])
def test_what_is_no_redis_url_is_refused(url: str | None) -> None:
    """At once, not at the first event."""
    with pytest.raises(ConfigurationError, match=r"url=.*CONVSYNC_STORE_URL"):
        RedisEventStore(url)
