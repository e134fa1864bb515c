"""Connections: reused, never leaked, closed with their client and with their event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Self

import pytest

from langchain_convsync._flow import arun, run
from langchain_convsync.client import Api, AsyncConvSyncClient, ConvSyncClient, _wires
from langchain_convsync.errors import APITimeoutError, ClosedError, InvalidResponseError
from tests.client_calls import CONVERSATION, PHONE, WHOLE, every_call, post, read
from tests.faulty_server import (
    HANG,
    FaultyServer,
    Perform,
    answers,
    in_both_colours,
    sends,
)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        running.plays(answers(CONVERSATION))
        yield running


@pytest.fixture
def api(server: FaultyServer) -> Iterator[Api]:
    built = Api(server.url, timeout=5.0, max_retries=0)
    yield built
    built.close()


@pytest.fixture
def one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wire has a single connection, so that a lost one is noticed."""
    monkeypatch.setattr(_wires, "CONNECTIONS", 1)


def test_blocking_calls_share_a_connection(api: Api, server: FaultyServer) -> None:
    """No handshake per call."""
    for _ in range(3):
        run(read(api))

    assert server.accepted == 1


async def test_awaited_calls_share_a_connection(api: Api, server: FaultyServer) -> None:
    """No handshake per call."""
    for _ in range(3):
        await arun(read(api))

    assert server.accepted == 1
    await api.aclose()


class LoopServer:
    """A server on the client's own event loop: every run takes the same steps in the same order."""

    def __init__(self) -> None:
        self.url = ""
        self.connected = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert await self.has_at_most(0)
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(WHOLE)
        self.connected -= 1
        writer.close()

    async def has_at_most(self, connections: int) -> bool:
        """Whether the client closes the others, which takes it no time."""
        for _ in range(100):
            await asyncio.sleep(0)
        return self.connected <= connections


@pytest.mark.parametrize("warm", [False, True], ids=["new connection", "open connection"])
@pytest.mark.parametrize("ticks", range(30))
async def test_a_call_can_be_cancelled_at_any_step(ticks: int, warm: bool) -> None:
    """Whatever step of the event loop it comes at: no connection is left behind."""
    async with LoopServer() as server, AsyncConvSyncClient(server.url, max_retries=0) as client:
        if warm:
            await client.get_conversation(PHONE)
        cancelled = asyncio.create_task(client.get_conversation(PHONE))
        for _ in range(ticks):
            await asyncio.sleep(0)

        cancelled.cancel()

        await asyncio.wait((cancelled,))
        assert (await client.get_conversation(PHONE)).bot_id == "bot123"
        assert await server.has_at_most(1)


@pytest.mark.usefixtures("one_connection")
@every_call
async def test_a_call_cancelled_while_the_server_thinks_leaks_nothing(
    call: Any, api: Api, server: FaultyServer
) -> None:
    """The connection is closed at once, and its place is free."""
    server.plays(sends(HANG), answers(CONVERSATION))
    cancelled = asyncio.create_task(arun(call(api)))
    await asyncio.to_thread(server.wait_for, lambda it: len(it.received) == 1)

    cancelled.cancel()

    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert await asyncio.to_thread(server.wait_for, lambda it: it.connected == 0)
    assert (await arun(read(api))).bot_id == "bot123"
    await api.aclose()


@pytest.mark.usefixtures("one_connection")
async def test_a_call_cancelled_in_the_queue_leaks_nothing(api: Api, server: FaultyServer) -> None:
    """Even if its turn comes in the very same step of the event loop."""
    first, second = (asyncio.create_task(arun(read(api))) for _ in range(2))
    await asyncio.sleep(0)

    await first
    second.cancel()
    await asyncio.wait((second,))

    assert (await arun(read(api))).bot_id == "bot123"
    await api.aclose()


@pytest.mark.usefixtures("one_connection")
@in_both_colours
def test_the_deadline_gives_the_connection_back(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """A call that ran out of time leaves room for the next one."""
    server.plays(sends(HANG), sends(WHOLE[:-3], HANG), answers(b"no"), answers(CONVERSATION))

    for error in (APITimeoutError, APITimeoutError, InvalidResponseError):
        with pytest.raises(error):
            perform(read(api, timeout=0.1))

    assert perform(read(api)).bot_id == "bot123"


@pytest.mark.usefixtures("one_connection")
async def test_waiting_for_a_free_connection_ends_at_the_deadline(
    api: Api, server: FaultyServer
) -> None:
    """The request never left, so a write surely was not applied."""
    server.plays(sends(HANG))
    busy = asyncio.create_task(arun(read(api)))
    await asyncio.to_thread(server.wait_for, lambda it: len(it.received) == 1)

    with pytest.raises(APITimeoutError, match="no free connection in time") as told:
        await arun(post(api, timeout=0.05))

    assert not told.value.ambiguous
    busy.cancel()
    await asyncio.wait((busy,))
    await api.aclose()


@pytest.mark.usefixtures("one_connection")
def test_a_thread_waiting_for_a_free_connection_ends_at_the_deadline(
    api: Api, server: FaultyServer
) -> None:
    """The same on threads."""
    server.plays(sends(HANG))
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(lambda: run(read(api, timeout=0.3)))
        server.wait_for(lambda it: len(it.received) == 1)

        with pytest.raises(APITimeoutError, match="no free connection in time") as told:
            run(post(api, timeout=0.05))

        assert not told.value.ambiguous
        assert isinstance(busy.exception(), APITimeoutError)


def test_threads_share_a_client(server: FaultyServer) -> None:
    """Twenty threads, one client, every answer right."""
    with ConvSyncClient(server.url) as client, ThreadPoolExecutor(20) as pool:
        found = [pool.submit(client.get_conversation, PHONE) for _ in range(60)]

        assert {answer.result().bot_id for answer in found} == {"bot123"}
    assert server.wait_for(lambda it: it.connected == 0)


def test_every_event_loop_has_connections_that_end_with_it(api: Api, server: FaultyServer) -> None:
    """A new loop per event, as under a blocking ``invoke``: nothing breaks, nothing stays open."""
    for _ in range(3):
        asyncio.run(arun(read(api)))
        assert server.wait_for(lambda it: it.connected == 0)

    gc.collect()  # a connection that was left open would warn here
    assert server.accepted == 3


def test_one_api_serves_both_colours(api: Api, server: FaultyServer) -> None:
    """Over connections of their own."""
    run(read(api))
    asyncio.run(arun(read(api)))
    run(read(api))

    assert server.accepted == 2


@in_both_colours
@every_call
def test_a_closed_client_says_so(
    call: Any, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Nothing is sent any more."""
    api.close()

    with pytest.raises(ClosedError, match="closed"):
        perform(call(api))

    assert server.received == []


@in_both_colours
def test_a_closed_client_does_not_answer_from_memory(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Not even a tenant that it remembers."""
    perform(api.lookup_tenant(PHONE, "bot123"))
    api.close()

    with pytest.raises(ClosedError):
        perform(api.lookup_tenant(PHONE, "bot123"))


async def test_the_async_client_closes_its_connections_before_it_returns(
    server: FaultyServer,
) -> None:
    """Both colours, and a second close is harmless."""
    async with AsyncConvSyncClient(server.url) as client:
        await client.get_conversation(PHONE)
        await asyncio.to_thread(run, client.api.get_conversation(PHONE))

    assert await asyncio.to_thread(server.wait_for, lambda it: it.connected == 0)
    await client.aclose()
    with pytest.raises(ClosedError):
        await client.get_conversation(PHONE)


async def test_a_blocking_close_reaches_a_running_loop(api: Api, server: FaultyServer) -> None:
    """``close()`` in async code closes the async connections, too, in a moment."""
    await arun(read(api))

    api.close()

    assert await asyncio.to_thread(server.wait_for, lambda it: it.connected == 0)


def test_a_close_reaches_the_loop_of_another_thread(api: Api, server: FaultyServer) -> None:
    """The connections are closed where they live."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(arun(read(api)), loop).result()

    api.close()

    assert server.wait_for(lambda it: it.connected == 0)
    asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_close_leaves_a_resting_loop_to_its_end(api: Api, server: FaultyServer) -> None:
    """A loop that is not running cannot close anything; its end does."""
    with asyncio.Runner() as runner:
        runner.run(arun(read(api)))
        api.close()

    assert server.wait_for(lambda it: it.connected == 0)
    gc.collect()


def test_a_forgotten_client_closes_its_connections(server: FaultyServer) -> None:
    """Without ``close()``, they go with the garbage."""
    run(read(Api(server.url)))

    gc.collect()

    assert server.wait_for(lambda it: it.connected == 0)
