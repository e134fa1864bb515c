"""What is particular to Redis and needs no server: what to tell, and the scripts themselves."""

from __future__ import annotations

import re
from importlib import resources

import pytest
import redis
import redis.asyncio

from langchain_convsync.errors import ConfigurationError, StoreUnavailableError
from langchain_convsync.stores import RedisEventStore
from langchain_convsync.stores.redis.clients import _unavailable
from langchain_convsync.stores.redis.risks import risks
from langchain_convsync.stores.redis.wire import script, shard_keys
from tests.store_cases import conversation

SAFE = {
    "role": "master",
    "aof_enabled": 1,
    "maxmemory_policy": "noeviction",
    "redis_version": "6.2.14",
}


def test_a_safe_server_has_no_risks() -> None:
    """Also where a managed one keeps some of it to itself."""
    assert risks(SAFE) == risks({}) == []


@pytest.mark.parametrize(
    ("risky", "advice"),
    [
        ({"role": "slave"}, "connect to the primary"),
        (
            {"aof_delayed_fsync": 3},
            "set `appendfsync always`: with everysec a killed server loses up to 2 s then",
        ),
        ({"aof_enabled": 0}, "set `appendonly yes`"),
        ({"maxmemory_policy": "allkeys-lru"}, "set `maxmemory-policy noeviction`"),
        ({"redis_version": "6.0.16"}, "use 6.2 or newer, or Valkey"),
        ({"redis_version": 5.0}, "use 6.2 or newer, or Valkey"),  # INFO's numbers come as such
    ],
)
def test_each_risk_comes_with_its_remedy(risky: dict[str, object], advice: str) -> None:
    """An operator reads what to change."""
    (found,) = risks(SAFE | risky)

    assert advice in found
    assert str(found) == f"{found.what}; {advice}"


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (redis.ConnectionError("refused"), "check that it runs"),
        (redis.BusyLoadingError("loading"), "still loading"),
        (redis.TimeoutError("timed out"), "overloaded"),
        (redis.ReadOnlyError("replica"), "primary"),
        (redis.AuthenticationError("wrong"), "password"),
        (redis.OutOfMemoryError("oom"), "maxmemory"),
        (redis.ResponseError("MISCONF disk full"), "disk full"),
    ],
)
def test_every_failure_says_what_to_check(error: redis.RedisError, hint: str) -> None:
    """The cause stays attached by the caller."""
    failure = _unavailable(error)

    assert isinstance(failure, StoreUnavailableError)
    assert hint in str(failure)


async def test_an_asynchronous_client_alone_is_refused() -> None:
    """Leases are renewed by a thread, blocking; the error names both ways."""
    with pytest.raises(ConfigurationError, match=r"url=.*CONVSYNC_STORE_URL"):
        RedisEventStore(async_client=redis.asyncio.Redis())


async def test_a_blocking_client_alone_says_what_the_async_side_needs() -> None:
    """Without connecting anywhere."""
    with redis.Redis() as client:
        store = RedisEventStore(client=client)

        with pytest.raises(ConfigurationError, match="async_client="):
            await store.backlog().wait()


def test_every_key_of_a_script_begins_with_a_shards_prefix() -> None:
    """So that all keys of an account lie in one Redis Cluster slot."""
    for file in (resources.files("langchain_convsync.stores.redis") / "lua").iterdir():
        source = re.sub(r"--.*", "", file.read_text())
        literal = re.findall(r"call\('[A-Z]+', *'", source)
        assert not literal, f"{file.name} names a key itself"
        assert "cs:" not in source, f"{file.name} names a key itself"


def test_the_keys_of_a_shard_share_a_hash_tag() -> None:
    """And every shard is looked at when no conversation is named."""
    (key,) = shard_keys(b"cs:", conversation())

    assert key == b"cs:{s%s}:" % conversation()[:2].encode()
    assert len(set(shard_keys(b"cs:", None))) == 64


def test_a_script_is_its_digest() -> None:
    """The same text on every process: the server keeps it once."""
    assert script("acquire") is script("acquire")
    assert script("acquire").sha != script("renew").sha
    assert re.fullmatch(rb"[0-9a-f]{40}", script("acquire").sha)
