"""Connections: reused, never leaked, closed with their client and with their event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from langchain_convsync import _platform
from langchain_convsync._flow import Flow, arun, run
from langchain_convsync.client import Api, AsyncConvSyncClient, ConvSyncClient, _wires
from langchain_convsync.errors import (
    APIConnectionError,
    APITimeoutError,
    ClosedError,
    InvalidResponseError,
)
from tests.client_calls import CONVERSATION, PHONE, WHOLE, Gate, every_call, post, read
from tests.faulty_server import (
    HANG,
    FaultyServer,
    Perform,
    answers,
    over_aiohttp,
    over_either_transport,
    sends,
    sync_and_async,
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


@over_either_transport
async def test_awaited_calls_share_a_connection(api: Api, server: FaultyServer) -> None:
    """No handshake per call."""
    for _ in range(3):
        await arun(read(api))

    assert server.accepted == 1
    await api.aclose()


@pytest.mark.usefixtures("one_connection")
@sync_and_async
def test_the_deadline_gives_the_connection_back(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """A call that ran out of time leaves room for the next one."""
    server.plays(sends(HANG), sends(WHOLE[:-3], HANG), answers(b"no"), answers(CONVERSATION))

    for _ in range(2):
        with pytest.raises(APITimeoutError):
            perform(read(api, timeout=0.5))
    with pytest.raises(InvalidResponseError):
        perform(read(api))

    assert perform(read(api)).bot_id == "bot123"


@over_either_transport
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
    gate = Gate()
    server.plays(gate)
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(run, read(api))
        server.wait_for(lambda it: len(it.received) == 1)

        with pytest.raises(APITimeoutError, match="no free connection in time") as told:
            run(post(api, timeout=0.05))

        assert not told.value.ambiguous
        gate.open()
        assert busy.result().bot_id == "bot123"


async def test_over_aiohttp_connections_that_are_no_longer_needed_are_closed(
    api: Api, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst leaves no open sockets behind."""
    monkeypatch.setattr(_wires, "KEEP_ALIVE", 0.1)
    server.plays(sends(0.05, WHOLE))

    with over_aiohttp():
        await asyncio.gather(*(arun(read(api)) for _ in range(5)))

    assert server.accepted == 5
    assert await asyncio.to_thread(server.wait_for, lambda it: it.connected == 0)
    await api.aclose()


async def test_over_httpx_the_next_call_closes_what_is_no_longer_needed(
    api: Api, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst leaves no open sockets behind for long."""
    server.plays(sends(0.05, WHOLE), answers(CONVERSATION))
    await asyncio.gather(*(arun(read(api)) for _ in range(5)))
    before = server.connected
    monkeypatch.setattr(_wires, "KEEP_ALIVE", -1.0)

    await arun(read(api))

    assert before > 1
    assert await asyncio.to_thread(server.wait_for, lambda it: it.connected == 0)
    await api.aclose()


@over_either_transport
@pytest.mark.usefixtures("one_connection")
async def test_a_call_in_the_queue_of_a_closed_client_is_not_sent(
    api: Api, server: FaultyServer
) -> None:
    """Closing ends the calls that are on their way, and those that were to follow."""
    server.plays(sends(HANG))
    first, second = (asyncio.create_task(arun(post(api))) for _ in range(2))
    await asyncio.to_thread(server.wait_for, lambda it: len(it.received) == 1)

    await api.aclose()

    with pytest.raises(APIConnectionError) as told:
        await first
    with pytest.raises(ClosedError):
        await second
    assert told.value.ambiguous
    assert len(server.received) == 1


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
    assert not api._caller.connections._loops


def test_one_api_serves_sync_and_async(api: Api, server: FaultyServer) -> None:
    """Over connections of their own."""
    run(read(api))
    asyncio.run(arun(read(api)))
    run(read(api))

    assert server.accepted == 2


@sync_and_async
@every_call
def test_a_closed_client_says_so(
    call: Any, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Nothing is sent any more."""
    api.close()

    with pytest.raises(ClosedError, match="closed"):
        perform(call(api))

    assert server.received == []


@sync_and_async
def test_a_closed_client_does_not_answer_from_memory(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Not even a tenant that it remembers."""
    perform(api.lookup_tenant(PHONE, "bot123"))
    api.close()

    with pytest.raises(ClosedError):
        perform(api.lookup_tenant(PHONE, "bot123"))


@over_either_transport
async def test_the_async_client_closes_its_connections_before_it_returns(
    server: FaultyServer,
) -> None:
    """Sync and async, and a second close is harmless."""
    async with AsyncConvSyncClient(server.url) as client:
        await client.get_conversation(PHONE)
        await asyncio.to_thread(run, client.api.get_conversation(PHONE))

    assert await asyncio.to_thread(server.wait_for, lambda it: it.connected == 0)
    await client.aclose()
    with pytest.raises(ClosedError):
        await client.get_conversation(PHONE)


@over_either_transport
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


@over_either_transport
async def test_a_client_forgotten_in_a_running_loop_closes_its_connections(
    server: FaultyServer,
) -> None:
    """The loop goes on without it, and nobody is warned of something unclosed."""
    client = AsyncConvSyncClient(server.url)
    await client.get_conversation(PHONE)
    cycle = [client]
    cycle.append(cycle)  # type: ignore[arg-type]  # only the collector finds it
    del client, cycle

    gc.collect()

    assert await asyncio.to_thread(server.wait_for, lambda it: it.connected == 0)


@pytest.mark.parametrize("transport", ["aiohttp", "httpx"], indirect=True)
def test_a_client_forgotten_while_its_loop_rests_is_closed_with_the_loop(
    server: FaultyServer, transport: str
) -> None:
    """The end of the loop waits for it."""
    with asyncio.Runner() as runner:
        runner.run(arun(read(Api(server.url))))
        gc.collect()

    gc.collect()  # what was left unclosed would warn
    assert server.wait_for(lambda it: it.connected == 0)


class Later(_platform.Platform):
    """The machine after its process has stood still for a minute."""

    def monotonic(self) -> float:
        return super().monotonic() + 60.0


def standing_still(flow: Flow[Any]) -> Flow[None]:
    """A flow whose process stands still for a minute before its first step."""
    step = next(flow)
    with _platform.standing_in(Later()):
        flow.send((yield step))


@sync_and_async
def test_a_process_that_stood_still_sends_no_more(
    api: Api, server: FaultyServer, perform: Perform[None]
) -> None:
    """What it was about to send another process has sent meanwhile."""
    with pytest.raises(APITimeoutError, match="its time was over before it was sent") as refused:
        perform(standing_still(post(api)))

    assert not refused.value.ambiguous
    assert server.received == []
