"""The two clients: one surface, one configuration, no secret ever shown."""

from __future__ import annotations

import inspect
import pickle
import re
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from langchain_convsync._flow import run
from langchain_convsync.client import (
    Api,
    AsyncConvSyncClient,
    AsyncWAHAClient,
    ConvSyncClient,
    WAHAClient,
    api_of,
)
from langchain_convsync.errors import AuthenticationError, ConfigurationError
from langchain_convsync.settings import CallTarget, ServerProfile

URL = "https://api.example.com"
SECRET = "sk-very-secret"
CLIENTS = [ConvSyncClient, AsyncConvSyncClient]

both_clients = pytest.mark.parametrize("client", CLIENTS)
PAIRS = [(ConvSyncClient, AsyncConvSyncClient), (WAHAClient, AsyncWAHAClient)]
both_servers = pytest.mark.parametrize(("blocking", "awaited"), PAIRS, ids=["API", "WAHA"])
CALLS = {
    ConvSyncClient: {
        *("lookup_tenant", "get_conversation", "sync_conversation", "add_message", "health"),
    },
    WAHAClient: {
        *("send_text", "seen", "typing", "phone_number", "chats", "messages", "sessions"),
    },
}


def surface(client: type) -> dict[str, str]:
    """Public names and their signatures, words that differ between sync and async unified."""
    unified = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__"}
    told = {}
    for own_name, member in vars(client).items():
        name = unified.get(own_name, own_name)
        if name.startswith("_") and name not in {"__init__", "__enter__", "__exit__"}:
            continue
        told[name] = (
            str(inspect.signature(member)).replace("AsyncClient", "Client")
            if callable(member)
            else type(member).__name__
        )
    return told


@both_servers
def test_both_clients_have_the_same_surface(blocking: type, awaited: type) -> None:
    """Names, arguments, defaults and types; only ``await`` tells them apart."""
    assert surface(blocking) == surface(awaited)
    assert surface(blocking).keys() > CALLS[blocking]


@both_servers
def test_only_the_async_client_is_awaited(blocking: type, awaited: type) -> None:
    """Every method that performs I/O, and no property."""
    calls = {name for name in surface(blocking) if name[0] != "_"} - {"profile", "close"}

    assert all(inspect.iscoroutinefunction(getattr(awaited, name)) for name in calls)
    assert not any(inspect.iscoroutinefunction(getattr(blocking, name)) for name in calls)


@pytest.mark.parametrize("client", [client for pair in PAIRS for client in pair])
def test_everything_public_is_documented(client: type) -> None:
    """Editors show it."""
    for name, member in inspect.getmembers(client):
        if not name.startswith("_") and callable(member):
            assert inspect.getdoc(member), name


@both_clients
def test_the_api_has_every_call_of_the_clients(client: type) -> None:
    """The faces add nothing of their own, and default nothing differently."""
    for name in surface(client).keys() - {"__init__", "__enter__", "__exit__", "profile", "close"}:
        ours = inspect.signature(getattr(client, name), eval_str=True).parameters
        theirs = inspect.signature(getattr(Api, name), eval_str=True).parameters
        assert dict(ours).items() <= dict(theirs).items(), name


@both_clients
def test_api_of_takes_either_client(client: Any) -> None:
    """Surfaces accept both, and get the API behind them."""
    made = client(URL)

    assert api_of(made) is made.api
    assert made.profile is made.api.profile


def test_api_of_nothing_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``None`` is configured outside."""
    monkeypatch.setenv("CONVSYNC_BASE_URL", URL + "/")
    monkeypatch.setenv("CONVSYNC_API_KEY", SECRET)

    assert api_of(None).base_url == URL


def test_a_missing_configuration_names_argument_and_variable() -> None:
    """So that the reader can mend it."""
    for build in (lambda: api_of(None), ConvSyncClient, AsyncConvSyncClient):
        with pytest.raises(ConfigurationError, match=r"base_url=.*CONVSYNC_BASE_URL"):
            build()


def test_api_of_anything_else_is_refused() -> None:
    """An httpx client, for instance, is passed as ``http_client``."""
    with pytest.raises(ConfigurationError, match="client must be a ConvSyncClient"):
        api_of(object())  # type: ignore[arg-type]  # on purpose


@both_clients
@pytest.mark.parametrize("key", [SECRET, SecretStr(SECRET), lambda _: SECRET])
def test_a_key_is_never_shown(client: Any, key: Any) -> None:
    """Not in a repr, not in attributes printed by a debugger, not in a pickle."""
    made = client(URL, api_key=key)

    assert repr(made) == f"{client.__name__}(base_url='{URL}')"
    assert repr(made.api) == f"Api(base_url='{URL}')"
    assert SECRET not in str(vars(made)) + str(vars(made.api)) + str(vars(made.api._caller))
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(made)


@both_clients
@pytest.mark.parametrize("key", ["", "two\nlines", "a b", "clé", "tab\tin", "nul\0", "😀"])
def test_a_malformed_key_is_told_at_once(client: Any, key: str) -> None:
    """Before a request could be split by it; without repeating it."""
    with pytest.raises(ConfigurationError, match=r"api_key \(or CONVSYNC_API_KEY\)") as told:
        client(URL, api_key=key)

    assert not key or key not in str(told.value)
    assert told.value.__context__ is None


@pytest.mark.parametrize("given", [SecretStr("two\nlines"), "", None, 7])
def test_a_malformed_key_of_a_callable_is_told_at_the_call(given: Any) -> None:
    """Nothing is sent."""
    api = Api(URL, api_key=lambda: given)

    with pytest.raises(AuthenticationError, match="api_key= gives must be printable"):
        run(api.health())


def test_an_error_of_the_callable_is_the_cause_of_ours() -> None:
    """Writes wait for a key as they wait for the API server; the text is the user's alone."""

    def broken(_: CallTarget) -> str:
        raise LookupError("no key for restaurant-abc")

    with pytest.raises(
        AuthenticationError, match=r"raised LookupError at unit_tests/test_"
    ) as told:
        run(Api(URL, api_key=broken).health())

    assert "restaurant-abc" not in str(told.value)
    assert isinstance(told.value.__cause__, LookupError)


@both_clients
@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_a_positive_number_of_seconds(client: Any, timeout: float) -> None:
    """A call always ends."""
    with pytest.raises(ConfigurationError, match="timeout"):
        client(URL, timeout=timeout)


@both_clients
def test_retries_cannot_be_negative(client: Any) -> None:
    """Zero is the first attempt alone."""
    with pytest.raises(ConfigurationError, match="max_retries"):
        client(URL, max_retries=-1)


@both_clients
@pytest.mark.parametrize("prefix", ["/api?x=1", "/api#x", "/a b", "/api\r\n", "\\api", "/é"])
def test_a_prefix_is_a_plain_path(client: Any, prefix: str) -> None:
    """Anything else would change what is asked."""
    with pytest.raises(ConfigurationError, match=re.escape("ServerProfile(prefix=")):
        client(URL, profile=ServerProfile(prefix=prefix))


async def test_a_lent_async_client_cannot_serve_blocking_calls() -> None:
    """It says so, and what to do."""
    async with httpx.AsyncClient() as lent:
        client = AsyncConvSyncClient(URL, http_client=lent)

        with pytest.raises(ConfigurationError, match=r"httpx\.AsyncClient.*blocking"):
            run(client.api.health())

        await client.aclose()
        assert not lent.is_closed
