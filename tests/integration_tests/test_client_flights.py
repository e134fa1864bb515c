"""Many equal look-ups at once make one request, and nobody suffers from another's failure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from langchain_convsync._flow import arun, run
from langchain_convsync.client import Api
from langchain_convsync.errors import APITimeoutError, ServerError
from langchain_convsync.models import TenantInfo
from tests.client_calls import CONVERSATION, PHONE, Gate
from tests.faulty_server import HANG, FaultyServer, Received, answers, sends

BOT = "bot123"


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


async def test_thirty_tasks_make_one_request(api: Api, server: FaultyServer) -> None:
    """All of them get its answer."""
    gate = Gate()
    server.plays(gate)
    waiting = [asyncio.create_task(arun(api.lookup_tenant(PHONE, BOT))) for _ in range(30)]
    await asyncio.to_thread(server.wait_for, lambda it: len(it.received) == 1)

    gate.open()

    assert {(await task).bot_id for task in waiting} == {BOT}
    assert len(server.received) == 1
    await api.aclose()


def test_thirty_threads_make_one_request(api: Api, server: FaultyServer) -> None:
    """All of them get its answer."""
    gate = Gate()
    server.plays(gate)
    with ThreadPoolExecutor(30) as pool:
        waiting = [pool.submit(run, api.lookup_tenant(PHONE, BOT)) for _ in range(30)]
        server.wait_for(lambda it: len(it.received) == 1)

        gate.open()

        assert {answer.result().bot_id for answer in waiting} == {BOT}
    assert len(server.received) == 1


def test_a_caller_just_after_the_landing_asks_no_server(api: Api, server: FaultyServer) -> None:
    """It found nothing in memory, and then no look-up under way: what it missed is there now."""
    late = api.lookup_tenant(PHONE, BOT)
    boarding = next(late)  # memory was empty
    run(api.lookup_tenant(PHONE, BOT))

    with pytest.raises(StopIteration) as ended:
        late.send(boarding.block())

    assert ended.value.value.bot_id == BOT
    assert len(server.received) == 1


async def test_a_cancelled_leader_strands_no_follower(api: Api, server: FaultyServer) -> None:
    """Those who waited for it ask for themselves."""
    server.plays(sends(HANG), answers(CONVERSATION))
    leader, *others = [asyncio.create_task(arun(api.lookup_tenant(PHONE, BOT))) for _ in range(4)]
    await asyncio.to_thread(server.wait_for, lambda it: len(it.received) == 1)

    leader.cancel()

    assert {(await task).bot_id for task in others} == {BOT}
    with pytest.raises(asyncio.CancelledError):
        await leader
    await api.aclose()


async def test_a_cancelled_follower_disturbs_no_other(api: Api, server: FaultyServer) -> None:
    """Neither the leader nor the others."""
    gate = Gate()
    server.plays(gate)
    leader, follower, other = (
        asyncio.create_task(arun(api.lookup_tenant(PHONE, BOT))) for _ in range(3)
    )
    await asyncio.to_thread(server.wait_for, lambda it: len(it.received) == 1)

    follower.cancel()
    await asyncio.wait((follower,))
    gate.open()

    assert (await leader).bot_id == (await other).bot_id == BOT
    assert len(server.received) == 1
    await api.aclose()


async def test_a_failed_leader_poisons_no_follower(api: Api, server: FaultyServer) -> None:
    """Its error is its own; the others ask for themselves."""
    server.plays(answers({}, 500), answers(CONVERSATION))

    leader, *others = await asyncio.gather(
        *(arun(api.lookup_tenant(PHONE, BOT)) for _ in range(4)), return_exceptions=True
    )

    assert isinstance(leader, ServerError)
    assert {tenant.bot_id for tenant in others if isinstance(tenant, TenantInfo)} == {BOT}
    assert len(others) == 3
    await api.aclose()


def test_a_failed_leader_on_a_thread_poisons_no_follower(api: Api, server: FaultyServer) -> None:
    """The same on threads."""
    gate = Gate()
    refusal = answers({}, 500)

    def refuse_late(received: Received) -> Iterator[Any]:
        list(gate(received))
        yield from refusal(received)

    server.plays(refuse_late, answers(CONVERSATION))
    with ThreadPoolExecutor(4) as pool:
        leader = pool.submit(run, api.lookup_tenant(PHONE, BOT))
        server.wait_for(lambda it: len(it.received) == 1)
        others = [pool.submit(run, api.lookup_tenant(PHONE, BOT)) for _ in range(3)]

        gate.open()

        assert isinstance(leader.exception(), ServerError)
        assert {answer.result().bot_id for answer in others} == {BOT}


async def test_waiting_for_a_leader_ends_at_the_deadline(server: FaultyServer) -> None:
    """The follower's timeout is its own."""
    api = Api(server.url, timeout=0.1, max_retries=0)
    server.plays(sends(HANG))

    ended = await asyncio.gather(
        *(arun(api.lookup_tenant(PHONE, BOT)) for _ in range(2)), return_exceptions=True
    )

    assert [type(error) for error in ended] == [APITimeoutError, APITimeoutError]
    await api.aclose()


def test_a_thread_waiting_for_a_leader_ends_at_the_deadline(server: FaultyServer) -> None:
    """The same on threads."""
    api = Api(server.url, timeout=0.1, max_retries=0)
    server.plays(sends(HANG))

    with ThreadPoolExecutor(2) as pool:
        ended = [pool.submit(run, api.lookup_tenant(PHONE, BOT)).exception for _ in range(2)]
        assert [type(error()) for error in ended] == [APITimeoutError, APITimeoutError]

    api.close()


async def test_a_blocking_call_on_the_loop_never_waits_for_a_task_of_that_loop(
    api: Api, server: FaultyServer
) -> None:
    """It would wait for ever: the task cannot go on before the call returns."""
    gate = Gate()
    server.plays(gate, answers(CONVERSATION))
    task = asyncio.create_task(arun(api.lookup_tenant(PHONE, BOT)))
    await asyncio.to_thread(server.wait_for, lambda it: len(it.received) == 1)

    assert run(api.lookup_tenant(PHONE, BOT)).bot_id == BOT

    gate.open()
    assert (await task).bot_id == BOT
    await api.aclose()
