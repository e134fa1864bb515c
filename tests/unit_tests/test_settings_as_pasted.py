"""Settings as hostings, panels, files and other libraries give them: understood, or told."""

from __future__ import annotations

import asyncio
import hmac
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from langchain_convsync import (
    AsyncConvSyncClient,
    ConfigurationError,
    ConvSyncClient,
    RedisEventStore,
    ServerProfile,
    SQLiteEventStore,
    WAHAReply,
    once,
    waha,
)
from langchain_convsync.client import AsyncWAHAClient, WAHAClient
from langchain_convsync.server import Forwarding
from langchain_convsync.server.database import open_database
from langchain_convsync.stores import open_store
from langchain_convsync.stores.redis.urls import address_of
from tests.faulty_server import FaultyServer, answers

PASSWORD = "hunter2"
URL = "https://api.example.com"
API_CLIENTS = [ConvSyncClient, AsyncConvSyncClient]
CLIENTS = [*API_CLIENTS, WAHAClient, AsyncWAHAClient, WAHAReply]

#: What is no store, and what the error tells instead.
NO_STORES = {
    "127.0.0.1:6379": "redis://host:6379/0",
    "localhost:6379/0": "redis://host:6379/0",
    "[::1]:6379": "redis://host:6379/0",
    f"x.redis.cache.windows.net:6380,password={PASSWORD}=,ssl=True,abortConnect=False": "rediss://:",
    f"x.redis.cache.windows.net,password={PASSWORD}": "rediss://:",
    f":{PASSWORD}@127.0.0.1:6379/0": "percent-encoded",
    f"//default:{PASSWORD}@127.0.0.1:6379/0": "percent-encoded",
    f"redis://:{PASSWORD}/a@s#w?rd@127.0.0.1:6379/0": "percent-encoded",
    f"redis+socket://:{PASSWORD}@/run/redis.sock": "unix:///",
    f"redis-cluster://:{PASSWORD}@127.0.0.1:6379": r"redis\+cluster://",
    f"sentinel://:{PASSWORD}@127.0.0.1:26379/0/main": r"redis\+sentinel://",
    f"postgresql://user:{PASSWORD}@127.0.0.1/x": "redis://",
    f"redis://:{PASSWORD}@127.0.0.1/bot": "redis://host:6379/0",
    f"redis://:{PASSWORD}@127.0.0.1/0?virtual_host=1": "virtual_host",
    f"redis://:{PASSWORD}@127.0.0.1/0?{PASSWORD}=1": "does not know",
    f"redis://:{PASSWORD}@127.0.0.1/0?ssl_cert_reqs=none": "rediss://",
    f"rediss://:{PASSWORD}@127.0.0.1/0?ssl_cert_reqs=maybe": "that value",
    f"redis+cluster://:{PASSWORD}@127.0.0.1?foo=1": "does not know",
    f"redis+sentinel://:{PASSWORD}@127.0.0.1/main?foo=1": "does not know",
    "file:x.db": "sqlite:///convsync.db",
    "file:x.db?mode=memory&cache=shared": "sqlite:///convsync.db",
    "sqlite:x.db": "sqlite:///convsync.db",
    "sqlite://x.db": "sqlite:///relative.db",
    "sqlite:///x.db?timeout=30": "without options",
    "x.db?timeout=30": "without options",
    "x.db\ny.db": "path of a file",
    "redis": "redis://host:6379/0",
    "localhost": "redis://host:6379/0",
    "$REDIS_URL": "nothing has replaced",
    "${REDIS_URL}": "nothing has replaced",
    "$(REDIS_URL)": "nothing has replaced",
    "%REDIS_URL%": "nothing has replaced",
    "{{ redis_url }}": "nothing has replaced",
    "${DATA}/events.db": "nothing has replaced",
    " ": "not set",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a file would be made."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("given", NO_STORES)
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_what_names_no_store_is_told_in_the_form_that_is_meant(
    given: str, by: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of that name, and no password in the error."""
    monkeypatch.setenv("CONVSYNC_STORE_URL", given)

    with pytest.raises(ConfigurationError, match=NO_STORES[given]) as refused:
        open_store(given if by == "argument" else None)

    assert PASSWORD not in f"{refused.value}{refused.value.__cause__}{refused.value.__context__}"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("make", [RedisEventStore, SQLiteEventStore])
@pytest.mark.parametrize("given", [f"host:6380,password={PASSWORD}", f"ftp://:{PASSWORD}@host"])
def test_a_store_that_is_made_by_its_class_is_told_the_same(make: Any, given: str) -> None:
    """Its own argument takes no other form."""
    with pytest.raises(ConfigurationError, match="redis://") as refused:
        make(given)

    assert PASSWORD not in str(refused.value)


FILES = {
    "events.db": "events.db",
    " events.db\n": "events.db",
    "sqlite:///events.db": "events.db",
    "SQLite:///events.db \r\n": "events.db",
    "sqlite:///my%20events.db": "my events.db",
    "my events.db": "my events.db",
    "./12:30.db": "12:30.db",
}


@pytest.mark.parametrize("given", FILES)
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_file_is_found_however_it_is_written(
    given: str, by: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stray spaces, in any case, and percent-encoded in a URL."""
    monkeypatch.setenv("CONVSYNC_STORE_URL", given)
    store = open_store(given if by == "argument" else None)
    with once(store, "evt") as claim:
        assert claim.acquired
    store.close()

    assert FILES[given] in {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    "given",
    [
        " redis://h:6379/1\n",
        "REDIS://h:6379/1",
        "valkey://h:6379/1?timeout=30&max_connections=10&decode_responses=True",
        "redis://h:6379/1?health_check_interval=30&retry_on_timeout=true&client_name=bot",
    ],
)
def test_a_redis_url_is_understood_however_it_is_written(given: str) -> None:
    """What redis-py knows does no harm."""
    assert address_of(given).url.startswith("redis://h:6379/1")


@pytest.mark.parametrize("value", ["CERT_NONE", "CERT_REQUIRED", "cert_optional", "None"])
def test_certificates_are_asked_for_in_celerys_words_too(value: str) -> None:
    """``rediss://…?ssl_cert_reqs=CERT_NONE`` is what hostings tell."""
    word = value.lower().removeprefix("cert_")

    assert address_of(f"rediss://h/0?ssl_cert_reqs={value}").url.endswith(f"={word}")


TENANT = {"subDomain": "a", "botId": "b", "sessionId": "s", "isActive": True}


def key_that_arrives(make: Any, server: FaultyServer, **settings: Any) -> str:
    """What a server is told by a call."""
    server.plays(answers({"type": "1", "data": TENANT}))
    made = make(**settings)

    async def asked() -> Any:
        async with made as client:
            return await client.lookup_tenant("+51999999999")

    if make is AsyncConvSyncClient:
        asyncio.run(asked())
    else:
        with made as client:
            client.lookup_tenant("+51999999999")
    return server.received[0].headers["authorization"]


@pytest.mark.parametrize("make", API_CLIENTS)
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_spaces_and_line_breaks_around_a_setting_mean_nothing(
    make: Any, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's last line break, a panel's stray space."""
    with FaultyServer() as server:
        url = f" {server.url}/\n"
        given = {"base_url": url, "api_key": f" {PASSWORD}\r\n", "transport": " aiohttp\n"}
        if by == "environment":
            for name, value in given.items():
                monkeypatch.setenv(f"CONVSYNC_{name.upper()}", value)
            given = {}

        assert key_that_arrives(make, server, **given) == f"Bearer {PASSWORD}"


@pytest.mark.parametrize("make", API_CLIENTS)
@pytest.mark.parametrize("key", [f"{PASSWORD}\n", SecretStr(f" {PASSWORD}")])
def test_a_key_that_is_picked_is_trimmed_as_well(make: Any, key: Any) -> None:
    """Read from a file, for example."""
    with FaultyServer() as server:
        told = key_that_arrives(make, server, base_url=server.url, api_key=lambda _: key)

    assert told == f"Bearer {PASSWORD}"


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_wahas_settings_are_trimmed_as_well(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """URL and key."""
    given: dict[str, Any] = {"base_url": f"{URL}\n", "api_key": f"{PASSWORD}\n"}
    if by == "environment":
        for name, value in given.items():
            monkeypatch.setenv(f"CONVSYNC_WAHA_{name.upper()}", value)
        given = {}

    made = WAHAClient(**given).waha

    assert (made.base_url, made._key) == (URL, SecretStr(PASSWORD))


@pytest.mark.parametrize("known", [PASSWORD, f"{PASSWORD}\n"])
def test_a_signature_fits_a_secret_with_a_line_break(known: str) -> None:
    """WAHA knows it without one, or was given the same file."""
    headers = {"X-Webhook-Hmac": hmac.digest(known.encode(), b"{}", "sha512").hex()}

    assert waha.verify(b"{}", headers, f"{PASSWORD}\n")


def test_the_forwardings_url_is_trimmed_as_well() -> None:
    """As the others are."""
    assert Forwarding(url=f" {URL}\n", secret="s").url == URL


def test_a_database_url_is_trimmed_as_well() -> None:
    """The reference server's."""
    open_database(" sqlite://\n").dispose()


@pytest.mark.parametrize("make", CLIENTS)
@pytest.mark.parametrize(
    "url", ["https://api.exa\nmple.com", "https://api.example.com /x", f'"{URL}"']
)
def test_a_url_with_something_else_in_it_is_refused(make: Any, url: str) -> None:
    """Python's own parser leaves line breaks out, and a request does not."""
    with pytest.raises(ConfigurationError, match="without quotes or spaces"):
        make(url)


@pytest.mark.parametrize("make", CLIENTS)
@pytest.mark.parametrize("host", ["api", "API", " api:8000 ", "http://api"])
def test_plain_http_is_opened_by_an_argument(make: Any, host: str) -> None:
    """For one client alone."""
    make("http://api:8000", allow_http=[host])

    for url in ("http://other:8000", "http://api.example.com"):
        with pytest.raises(ConfigurationError, match=r'allow_http=\["(other|api.example.com)"\]'):
            make(url, allow_http=[host])
    with pytest.raises(ConfigurationError, match="CONVSYNC_ALLOW_HTTP"):
        make("http://api:8000")


@pytest.mark.parametrize("make", CLIENTS)
@pytest.mark.parametrize("given", ["api", [True], [8000]])
def test_plain_http_is_opened_by_a_list_of_names_alone(make: Any, given: Any) -> None:
    """No text, that would be read letter by letter, and no ``True`` for all the world."""
    with pytest.raises(ConfigurationError, match="allow_http must be a list of texts"):
        make("http://api:8000", allow_http=given)


@pytest.mark.parametrize("make", API_CLIENTS)
@pytest.mark.parametrize(
    ("base_url", "prefix"),
    [
        ("https://api.example.com/api/v1/whatsapp", "/api/v1/whatsapp"),
        ("https://api.example.com/x/api/v1/whatsapp/", "/api/v1/whatsapp"),
        ("https://api.example.com/api/v1/whatsapp-providers", "/api/v1/whatsapp"),
        ("https://api.example.com/api/v1/whatsapp", "/api/v1/whatsapp-providers"),
        ("https://api.example.com/v2/chat", "v2/chat"),
    ],
)
def test_a_base_url_that_holds_the_prefix_is_told_so(make: Any, base_url: str, prefix: str) -> None:
    """Else every call is a 404 under a path twice as long."""
    with pytest.raises(
        ConfigurationError, match=r"adds the prefix itself: pass https://api\."
    ) as told:
        make(base_url, profile=ServerProfile(prefix=prefix))

    assert base_url.rstrip("/") not in str(told.value)


def test_a_base_url_may_be_all_of_it() -> None:
    """Where the profile says that there is no prefix."""
    whole = "https://api.example.com/api/v1/whatsapp"
    api = ConvSyncClient(whole, profile=ServerProfile(prefix="")).api

    assert api._caller.request("GET", "/health").url == f"{whole}/health"
