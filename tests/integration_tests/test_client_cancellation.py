"""An awaited call can be cancelled anywhere, and no connection is left behind."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Self

import pytest

from langchain_convsync._flow import arun
from langchain_convsync.client import Api, AsyncConvSyncClient, _wires
from tests.client_calls import CONVERSATION, PHONE, WHOLE, every_call, read
from tests.faulty_server import HANG, FaultyServer, answers, over_either_transport, sends


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


@over_either_transport
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


@over_either_transport
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


@over_either_transport
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


def test_a_client_that_is_dropped_as_its_loop_ends_leaves_no_socket(server: FaultyServer) -> None:
    """Several connections, and no one closes the client: the end of the loop does."""

    async def several() -> None:
        dropped = AsyncConvSyncClient(server.url)
        await asyncio.gather(*(dropped.get_conversation(PHONE) for _ in range(5)))

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        asyncio.run(several())
        gc.collect()

    assert server.accepted > 1
    assert [str(each.message) for each in warned if each.category is ResourceWarning] == []
