"""A lent httpx client: used as it is, never closed, and its log tells no phone number."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import httpx_aiohttp
import pytest

from langchain_convsync._flow import arun, run
from langchain_convsync.client import Api, ConvSyncClient
from langchain_convsync.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ClosedError,
    ConvSyncError,
)
from tests.client_calls import (
    CONVERSATION,
    PHONE,
    WHOLE,
    assert_says_nothing_private,
    every_call,
    post,
    read,
)
from tests.faulty_server import CLOSE, HANG, FaultyServer, answers, head, sends, trickles

#: Performs one call of an Api that borrows an httpx client, sync or async.
Lent = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        running.plays(answers(CONVERSATION))
        yield running


def blocking(server: FaultyServer, call: Any, timeout: float = 5.0, **settings: Any) -> Any:
    with httpx.Client(**settings) as lent:
        api = Api(server.url, http_client=lent, timeout=timeout, max_retries=0)
        try:
            return run(call(api))
        finally:
            api.close()
            assert not lent.is_closed


def awaited(server: FaultyServer, call: Any, timeout: float = 5.0, **settings: Any) -> Any:
    async def main() -> Any:
        async with httpx.AsyncClient(**settings) as lent:
            api = Api(server.url, http_client=lent, timeout=timeout, max_retries=0)
            try:
                return await arun(call(api))
            finally:
                await api.aclose()
                assert not lent.is_closed

    return asyncio.run(main())


def over_aiohttp(server: FaultyServer, call: Any, timeout: float = 5.0, **settings: Any) -> Any:
    return awaited(server, call, timeout, transport=httpx_aiohttp.AiohttpTransport(), **settings)


def on_a_thread(server: FaultyServer, call: Any, timeout: float = 5.0, **settings: Any) -> Any:
    """A blocking client under an awaited call."""
    with httpx.Client(**settings) as lent:
        api = Api(server.url, http_client=lent, timeout=timeout, max_retries=0)
        return asyncio.run(arun(call(api)))


every_loan = pytest.mark.parametrize("lent", [blocking, awaited, on_a_thread, over_aiohttp])


@contextmanager
def log_of(name: str, level: int) -> Iterator[list[str]]:
    """Everything that a library logs meanwhile."""
    told: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    logger, ear = logging.getLogger(name), Ear()
    before = logger.level
    logger.addHandler(ear)
    logger.setLevel(level)
    try:
        yield told
    finally:
        logger.removeHandler(ear)
        logger.setLevel(before)


@every_loan
@every_call
def test_a_lent_client_sends_the_request(call: Any, lent: Lent, server: FaultyServer) -> None:
    """With its own headers, and ours on top."""
    found = lent(server, call, headers={"X-Trace": "t-1", "Accept-Encoding": "br"})

    assert found.bot_id == "bot123"
    assert server.received[0].headers["x-trace"] == "t-1"
    assert server.received[0].headers["accept-encoding"] == "gzip"


@every_loan
@every_call
def test_its_log_tells_no_phone_number_and_no_session(
    call: Any, lent: Lent, server: FaultyServer
) -> None:
    """Every URL is logged at INFO by httpx; of ours, host and status remain."""
    with log_of("httpx", logging.DEBUG) as told:
        lent(server, call)

    assert len(told) == 1
    assert "http://127.0.0.1/…" in told[0]
    assert "200" in told[0]
    assert "999999999" not in told[0]


def test_its_own_requests_are_logged_as_ever(server: FaultyServer) -> None:
    """Only ours are redacted."""
    with httpx.Client() as lent, log_of("httpx", logging.INFO) as told:
        run(read(Api(server.url, http_client=lent)))
        lent.get(f"{server.url}/mine")

    assert "/mine" in told[1]


def test_our_own_connections_log_no_phone_number(server: FaultyServer) -> None:
    """Neither httpx at all, nor httpcore at its most talkative."""
    api = Api(server.url)
    with log_of("httpx", logging.DEBUG) as httpx_told, log_of("httpcore", logging.DEBUG) as told:
        run(read(api))
        asyncio.run(arun(read(api)))
    api.close()

    assert httpx_told == []
    assert told
    assert "999999999" not in " ".join(told)


@every_loan
@every_call
def test_a_redirect_is_not_followed_even_if_the_client_would(
    call: Any, lent: Lent, server: FaultyServer
) -> None:
    """A 307 would repeat a write and carry the key along."""
    server.plays(answers({}, 307, location=f"{server.url}/elsewhere"))

    with pytest.raises(APIStatusError, match="redirects"):
        lent(server, call, follow_redirects=True)

    assert len(server.received) == 1


@every_loan
@every_call
def test_a_connection_that_breaks_leaves_a_write_ambiguous(
    call: Any, lent: Lent, server: FaultyServer
) -> None:
    """Also where another transport calls it by another name."""
    server.plays(sends(CLOSE))

    with pytest.raises(APIConnectionError) as told:
        lent(server, call)

    assert told.value.ambiguous is (call is not read)
    assert_says_nothing_private(told.value)


@every_loan
def test_a_server_that_is_down_surely_applied_nothing(lent: Lent, server: FaultyServer) -> None:
    """Refused connections are recognised."""
    with FaultyServer() as gone:
        pass

    with pytest.raises(APIConnectionError) as told:
        lent(gone, post)

    assert not told.value.ambiguous
    assert_says_nothing_private(told.value)


@every_loan
@pytest.mark.parametrize(
    "script",
    [
        sends(HANG),
        sends(
            head(transfer_encoding="chunked"),
            *(part for _ in range(99) for part in (b"1\r\n \r\n", 0.02)),
        ),
    ],
    ids=["silence", "a trickling body"],
)
def test_a_deadline_holds_for_a_lent_client(script: Any, lent: Lent, server: FaultyServer) -> None:
    """Silence and trickling bodies end in time."""
    server.plays(script)

    with pytest.raises(APITimeoutError):
        lent(server, post, timeout=0.1)


@pytest.mark.parametrize("lent", [awaited, over_aiohttp])
def test_an_awaited_deadline_is_exact(lent: Lent, server: FaultyServer) -> None:
    """Trickling headers, too: the exchange is cancelled."""
    server.plays(trickles(WHOLE))

    with pytest.raises(APITimeoutError) as told:
        lent(server, post, timeout=0.1)

    assert told.value.ambiguous


@pytest.mark.parametrize("lent", [blocking, on_a_thread])
def test_a_hook_may_read_the_answer(lent: Lent, server: FaultyServer) -> None:
    """As logging hooks do."""
    found = lent(server, read, event_hooks={"response": [lambda response: response.read()]})

    assert found.bot_id == "bot123"


def test_a_client_that_its_owner_closed_is_told_apart(server: FaultyServer) -> None:
    """From ours being closed."""
    lent = httpx.Client()
    lent.close()

    with pytest.raises(ClosedError, match="http_client"):
        run(read(Api(server.url, http_client=lent)))


async def test_an_async_client_that_its_owner_closed_is_told_apart(server: FaultyServer) -> None:
    """From ours being closed."""
    lent = httpx.AsyncClient()
    await lent.aclose()

    with pytest.raises(ClosedError, match="http_client"):
        await arun(read(Api(server.url, http_client=lent)))


def test_closing_ours_leaves_the_lent_one_open(server: FaultyServer) -> None:
    """And ours is closed all the same."""
    with httpx.Client() as lent:
        with ConvSyncClient(server.url, http_client=lent) as client:
            client.get_conversation(PHONE)

        assert lent.get(server.url).status_code == 200
        with pytest.raises(ConvSyncError, match="closed"):
            client.get_conversation(PHONE)
