"""What a URL says about where Redis is."""

from __future__ import annotations

import pytest

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.stores.redis.urls import address_of


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_sentinels_know_the_primary_by_a_name(scheme: str) -> None:
    """A password is the primary's; the sentinels' own stand in the query."""
    address = address_of(
        f"{scheme}+sentinel://ana:secret@a,b:26380/orders/2?sentinel_password=theirs"
    )

    assert (address.hosts, address.service) == ((("a", 26379), ("b", 26380)), "orders")
    assert address.options == {"username": "ana", "password": "secret", "db": 2}
    assert address.sentinel_options == {"password": "theirs"}
    assert not address.is_cluster


def test_a_cluster_is_known_by_some_of_its_nodes() -> None:
    """With TLS, all of them speak it."""
    address = address_of("rediss+cluster://:secret@a:7000,[::1]:7001")

    assert address.hosts == (("a", 7000), ("::1", 7001))
    assert (address.is_cluster, address.options["ssl"]) == (True, True)
    assert "secret" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a:26379",
        "redis+sentinel:///orders",
        "redis+sentinel://a/orders/first",
        "redis+cluster://a:7000/3",
        "redis+cluster://a:port",
        "redis+else://a:7000",
    ],
)
def test_what_leads_nowhere_is_refused_with_examples(url: str) -> None:
    """And is not repeated: it may hold a password."""
    with pytest.raises(ConfigurationError, match=r"redis\+cluster://host:6379") as refused:
        address_of(url)

    assert url not in str(refused.value)
