"""Bad networks: servers that are down, slow, trickling or cut off, over real TCP."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from langchain_convsync._flow import arun
from langchain_convsync.client import Api
from langchain_convsync.errors import APIConnectionError, APITimeoutError
from tests.client_calls import BODY, WHOLE, assert_says_nothing_private, every_call, post, read
from tests.faulty_server import (
    CLOSE,
    HANG,
    RESET,
    FaultyServer,
    Perform,
    Script,
    head,
    sends,
    sync_and_async,
    trickles,
)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture
def api(server: FaultyServer) -> Iterator[Api]:
    built = Api(server.url, timeout=5.0, max_retries=0)
    yield built
    built.close()


@sync_and_async
@every_call
def test_a_server_that_is_down_surely_applied_nothing(call: Any, perform: Perform[Any]) -> None:
    """Connection refused: said so, with the next step, and a write is not ambiguous."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    api = Api(f"http://127.0.0.1:{port}", max_retries=0)

    with pytest.raises(APIConnectionError, match=r"Connection refused.*check base_url") as told:
        perform(call(api))

    assert not told.value.ambiguous
    assert told.value.status_code is None
    assert isinstance(told.value.__cause__, ConnectionRefusedError)
    assert_says_nothing_private(told.value)
    api.close()


@sync_and_async
def test_a_host_without_a_name_is_a_connection_error(
    perform: Perform[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS failed: nothing was sent, and the reason is told."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    api = Api("https://api.example.com", max_retries=0)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    with pytest.raises(APIConnectionError, match="Name or service not known") as told:
        perform(post(api))

    assert not told.value.ambiguous
    api.close()


@sync_and_async
@every_call
def test_a_server_that_hangs_is_left_at_the_deadline(
    call: Any, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Silence: an error in time, ambiguous for writes, and the connection is closed."""
    server.plays(sends(HANG))

    with pytest.raises(APITimeoutError) as told:
        perform(call(api, timeout=0.1))

    assert told.value.ambiguous is (call is not read)
    assert_says_nothing_private(told.value)
    assert server.wait_for(lambda it: it.connected == 0)


@sync_and_async
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(trickles(WHOLE), id="headers"),
        pytest.param(
            sends(WHOLE[:-60], *(part for byte in WHOLE[-60:] for part in (0.02, bytes([byte])))),
            id="body",
        ),
        pytest.param(
            sends(*(part for _ in range(99) for part in (b"HTTP/1.1 100 Continue\r\n\r\n", 0.02))),
            id="provisional answers",
        ),
        pytest.param(
            sends(
                head(transfer_encoding="chunked"),
                *(part for _ in range(99) for part in (b"1\r\n \r\n", 0.02)),
            ),
            id="chunks",
        ),
    ],
)
@every_call
def test_trickling_cannot_outlast_the_deadline(
    script: Script, call: Any, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """A byte now and then resets no clock: the deadline is one for the whole exchange."""
    server.plays(script)

    with pytest.raises(APITimeoutError) as told:
        perform(call(api, timeout=0.5))

    assert told.value.ambiguous is (call is not read)
    assert server.wait_for(lambda it: it.connected == 0)


@sync_and_async
def test_a_tls_handshake_that_hangs_ends_at_the_deadline(
    server: FaultyServer, perform: Perform[Any]
) -> None:
    """Before the handshake nothing was sent, so a write is not ambiguous."""
    server.plays(sends(HANG))  # plain http: it waits for a line that never comes
    api = Api(server.url.replace("http:", "https:"), timeout=0.2, max_retries=0)

    with pytest.raises(APITimeoutError) as told:
        perform(post(api))

    assert not told.value.ambiguous
    assert server.wait_for(lambda it: it.accepted == 1 and it.connected == 0)
    api.close()


async def test_a_call_cancelled_in_a_tls_handshake_leaks_nothing(server: FaultyServer) -> None:
    """The half-open connection is closed at once, not by the garbage collector some day."""
    server.plays(sends(HANG))
    api = Api(server.url.replace("http:", "https:"), max_retries=0)
    call = asyncio.create_task(arun(post(api)))
    await asyncio.to_thread(server.wait_for, lambda it: it.spoken_on == 1)

    call.cancel()

    await asyncio.wait((call,))
    assert await asyncio.to_thread(server.wait_for, lambda it: it.connected == 0)
    assert call.cancelled()
    await api.aclose()


@sync_and_async
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(sends(CLOSE), id="no answer"),
        pytest.param(sends(RESET), id="reset"),
        pytest.param(sends(WHOLE[:20], CLOSE), id="half of the headers"),
        pytest.param(sends(WHOLE[:-5], CLOSE), id="shorter than its Content-Length"),
        pytest.param(sends(WHOLE[:-5], RESET), id="reset in the body"),
        pytest.param(
            sends(head(transfer_encoding="chunked") + b"5\r\n{", CLOSE), id="half of a chunk"
        ),
        pytest.param(sends(b"SSH-2.0-OpenSSH_9.2\r\n", CLOSE), id="no HTTP"),
        pytest.param(
            sends(head(content_encoding="gzip", content_length=20) + gzip.compress(BODY)[:20]),
            id="half of a gzip",
        ),
    ],
)
@every_call
def test_a_broken_connection_leaves_a_write_ambiguous(
    script: Script, call: Any, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """The request may have arrived; nobody can tell."""
    server.plays(script)

    with pytest.raises(APIConnectionError) as told:
        perform(call(api))

    assert not isinstance(told.value, APITimeoutError)
    assert told.value.ambiguous is (call is not read)
    assert_says_nothing_private(told.value)
