"""What async calls travel over is chosen, never found: by argument, by environment, or httpx."""

from __future__ import annotations

import importlib.metadata
import logging
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from langchain_core.runnables import RunnableLambda

from langchain_convsync import (
    AsyncConvSyncClient,
    ConvSyncClient,
    SQLiteEventStore,
    TurnRunner,
    WAHAReply,
    create_app,
)
from langchain_convsync.client import AsyncWAHAClient, WAHAClient, _transports
from langchain_convsync.client._aiohttp import AiohttpWire
from langchain_convsync.client._wires import OwnAsyncWire
from langchain_convsync.errors import ConfigurationError

URL = "http://127.0.0.1:9"
MAKERS: list[Callable[..., Any]] = [
    ConvSyncClient,
    AsyncConvSyncClient,
    WAHAClient,
    AsyncWAHAClient,
    WAHAReply,
]
every_maker = pytest.mark.parametrize("make", MAKERS)


def connections_of(made: Any) -> Any:
    return made.api._caller.connections if hasattr(made, "api") else made.waha._connections


@every_maker
@pytest.mark.parametrize(
    ("argument", "variable", "wire"),
    [
        (None, None, OwnAsyncWire),
        (None, "aiohttp", AiohttpWire),
        ("aiohttp", None, AiohttpWire),
        ("aiohttp", "httpx", AiohttpWire),
        ("httpx", "aiohttp", OwnAsyncWire),
        (None, "", OwnAsyncWire),
    ],
)
async def test_the_argument_goes_before_the_environment_and_that_before_httpx(
    make: Any, argument: Any, variable: str | None, wire: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else is installed."""
    if variable is not None:
        monkeypatch.setenv("CONVSYNC_TRANSPORT", variable)

    connections = connections_of(make(URL, transport=argument))

    assert type(await connections._awaited()) is wire
    await connections.aclose()


def assert_tells_what_to_do(error: BaseException) -> None:
    for told in (
        "transport",
        "CONVSYNC_TRANSPORT",
        '"httpx" or "aiohttp"',
        "pip install 'langchain-convsync[aiohttp]'",
    ):
        assert told in str(error)


@every_maker
@pytest.mark.parametrize("given", [{"transport": "requests"}, {}])
def test_a_transport_that_does_not_exist_is_refused(
    make: Any, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By argument or by environment, when the client is made."""
    monkeypatch.setenv("CONVSYNC_TRANSPORT", "Aiohttp")

    with pytest.raises(ConfigurationError) as told:
        make(URL, **given)

    assert_tells_what_to_do(told.value)


@every_maker
def test_an_aiohttp_that_is_not_installed_is_told_when_the_client_is_made(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the first call."""
    monkeypatch.setitem(sys.modules, "aiohttp", None)

    with pytest.raises(ConfigurationError, match="is not here") as told:
        make(URL, transport="aiohttp")

    assert_tells_what_to_do(told.value)
    make(URL)


@every_maker
@pytest.mark.parametrize("found", ["3.9.5", "3.11.18", "2.0", "unknown"])
def test_an_aiohttp_that_is_too_old_is_told_with_the_one_that_is_needed(
    make: Any, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not ask for it never meets it."""
    monkeypatch.setattr(aiohttp, "__version__", found)

    with pytest.raises(ConfigurationError, match=re.escape(f"3.12 or later, not {found}")) as told:
        make(URL, transport="aiohttp")

    assert_tells_what_to_do(told.value)
    make(URL)


def test_the_version_that_is_needed_is_that_of_the_extra() -> None:
    """The check keeps up with `pyproject.toml`."""
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    needed = ".".join(map(str, _transports.NEEDED))
    assert f"aiohttp>={needed},<4" in project["optional-dependencies"]["aiohttp"]


@pytest.mark.parametrize("transport", [None, "httpx"])
def test_a_lent_client_goes_before_the_environment(
    transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an argument, too."""
    monkeypatch.setenv("CONVSYNC_TRANSPORT", "aiohttp")
    with httpx.Client() as lent:
        assert ConvSyncClient(URL, transport=transport, http_client=lent).api.transport is None


def test_a_lent_client_and_aiohttp_are_one_too_many() -> None:
    """Only one of them can carry the calls."""
    with httpx.Client() as lent, pytest.raises(ConfigurationError, match="http_client="):
        ConvSyncClient(URL, transport="aiohttp", http_client=lent)


def advised(caplog: pytest.LogCaptureFixture, **settings: Any) -> list[str]:
    """What an app says of transports when it is made."""
    with caplog.at_level(logging.INFO, logger="langchain_convsync.app"):
        runner = TurnRunner(
            RunnableLambda(str),
            client=ConvSyncClient(URL, **settings),
            store=SQLiteEventStore(":memory:"),
            reply=WAHAReply(URL, **settings),
        )
        create_app(runner, waha_secrets="k")
    return [line for line in caplog.messages if "aiohttp" in line]


def test_an_app_recommends_an_aiohttp_that_lies_idle(caplog: pytest.LogCaptureFixture) -> None:
    """By one line that tells how."""
    (line,) = advised(caplog)

    assert "CONVSYNC_TRANSPORT=aiohttp" in line


def test_an_app_on_aiohttp_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is used."""
    assert advised(caplog, transport="aiohttp") == []


def test_an_app_on_a_lent_client_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its owner chose."""
    with httpx.Client() as lent:
        assert advised(caplog, http_client=lent) == []


@pytest.mark.parametrize("found", [None, "3.11.18"])
def test_an_app_recommends_nothing_that_cannot_be_used(
    found: str | None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an aiohttp that is not there, nor one that is too old."""

    def version(name: str) -> str:
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(_transports, "version", version)

    assert advised(caplog) == []
