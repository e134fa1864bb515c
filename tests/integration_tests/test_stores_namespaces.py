"""Several stores on one Redis: each has a namespace, and none meets another's work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from langchain_convsync._flow import Io
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.stores import RedisEventStore, open_store
from tests.redis_server import RedisServer
from tests.redis_topologies import RedisCluster
from tests.store_cases import KEYS, Do, commit_of, event

pytest_plugins = ("tests.store_fixtures",)


def test_stores_of_two_namespaces_share_nothing(server: RedisServer, do: Do) -> None:
    """Staging takes none of production's work, and has a secret of its own."""
    production, staging = (
        RedisEventStore(server.url),
        RedisEventStore(server.url, namespace="staging"),
    )
    do(production.accept(event()))

    assert do(staging.backlog()).queued == 0
    assert do(staging.acquire("inbox", "t")) is None
    assert do(staging.accept(event())).status == "new"
    assert do(staging.keys()) != do(production.keys())
    acquired = do(staging.acquire("inbox", "t"))
    assert do(staging.commit_turn(acquired.lease, commit_of(acquired, writes=1))) == "done"
    assert do(production.backlog()).queued == 1
    with server.client() as client:
        keys = {key.decode() for key in client.keys("*")}
    assert all(key.startswith("cs:") for key in keys)
    assert {"cs:meta", "cs:staging:meta"} <= keys
    for store in (production, staging):
        do(Io(store.close, store.aclose))


def test_the_url_says_the_same(server: RedisServer, do: Do) -> None:
    """So commands and workers find it by the one setting that they have."""
    by_argument = RedisEventStore(server.url, namespace="team-42")
    by_url = open_store(f"{server.url}?namespace=team-42")

    assert do(by_url.keys()) == do(by_argument.keys())
    for store in (by_argument, by_url):
        do(Io(store.close, store.aclose))


def test_a_message_meets_its_other_delivery_in_a_namespace_with_digits(
    server: RedisServer, do: Do
) -> None:
    """They lie in two shards, whose numbers stand in the keys as well."""
    store = RedisEventStore(server.url, namespace="42")
    told: dict[str, Any] = {
        "source": KEYS.source("message", "1"),
        "facts": KEYS.facts({"p": "ana", "t": "hola"}),
    }

    assert do(store.accept(replace(event(account="ventas"), **told))).status == "new"
    assert do(store.accept(replace(event(account="cocina"), **told))).status == "duplicate"
    do(Io(store.close, store.aclose))


def test_a_namespace_lies_in_a_clusters_slots(cluster: RedisCluster, do: Do) -> None:
    """It stands before the part that is hashed."""
    store = RedisEventStore(cluster.url, namespace="staging")
    for account in ("ventas", "cocina", "bar"):
        assert do(store.accept(event(account=account))).status == "new"
    do(Io(store.close, store.aclose))


@pytest.mark.parametrize("namespace", ["a:b", "{s07}", "ñ", "a b", "*"])
def test_what_keys_cannot_hold_is_refused(namespace: str) -> None:
    """By the argument as by the URL."""
    with pytest.raises(ConfigurationError, match="letters, digits"):
        RedisEventStore("redis://127.0.0.1:1/0", namespace=namespace)
    with pytest.raises(ConfigurationError, match="letters, digits"):
        open_store(f"redis://127.0.0.1:1/0?namespace={namespace}")
