"""Tenants are looked up once: remembered for an hour, and asked for by one of many."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from langchain_convsync._flow import arun, run
from langchain_convsync.client import Api
from langchain_convsync.client._caller import Pace
from langchain_convsync.errors import APITimeoutError, ConversationNotFoundError, ServerError
from langchain_convsync.models import TenantInfo
from tests.client_calls import CONVERSATION, PHONE, WHOLE, conversation, put, read
from tests.faulty_server import (
    HANG,
    FaultyServer,
    Perform,
    Received,
    answers,
    in_both_colours,
    sends,
)

BOT = "bot123"
NOT_FOUND = answers({"type": "3", "message": "No active conversation found", "data": None}, 404)


class Gate:
    """A script that answers when the test opens it."""

    def __init__(self) -> None:
        self._open = Event()

    def open(self) -> None:
        self._open.set()

    def __call__(self, _: Received) -> Iterator[bytes]:
        self._open.wait(5)
        yield WHOLE


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


@in_both_colours
def test_a_tenant_is_remembered_per_bot_and_customer(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """In any spelling; another bot or another customer is another question."""
    found = perform(api.lookup_tenant(PHONE, BOT))

    assert perform(api.lookup_tenant("51999999999@c.us", BOT)) == found
    assert len(server.received) == 1
    server.plays(answers(conversation(botId="bot999")), answers(conversation(userId="+5191111111")))
    perform(api.lookup_tenant(PHONE, "bot999"))
    perform(api.lookup_tenant("+5191111111", BOT))
    assert len(server.received) == 3


@in_both_colours
def test_a_bot_s_tenant_is_found_where_bots_are_told_apart(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """The documented tenant look-up takes no bot, so the conversation look-up is asked."""
    found = perform(api.lookup_tenant(PHONE, BOT))

    assert found == TenantInfo(
        subdomain="restaurant-abc",
        bot_id=BOT,
        session_id=CONVERSATION["data"]["sessionId"],
        is_active=True,
    )
    assert server.received[0].target == (
        "/api/v1/whatsapp/lookup/conversation/%2B51999999999?botId=bot123"
    )


@in_both_colours
def test_without_a_bot_nothing_is_remembered(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """One number may talk to two tenants: remembering by number alone would mix them up."""
    for _ in range(2):
        perform(api.lookup_tenant(PHONE))

    assert len(server.received) == 2


@in_both_colours
def test_a_tenant_is_asked_for_again_after_an_hour(
    server: FaultyServer, perform: Perform[Any]
) -> None:
    """The document's own recommendation."""
    now = [0.0]
    api = Api(server.url, pace=Pace(clock=lambda: now[0]))

    for moment in (0.0, 3599.0, 3600.0):
        now[0] = moment
        perform(api.lookup_tenant(PHONE, BOT))

    assert len(server.received) == 2
    api.close()


@in_both_colours
def test_an_error_is_not_remembered(api: Api, server: FaultyServer, perform: Perform[Any]) -> None:
    """The next call asks again."""
    server.plays(NOT_FOUND, answers({}, 500), answers(CONVERSATION))

    with pytest.raises(ConversationNotFoundError):
        perform(api.lookup_tenant(PHONE, BOT))
    with pytest.raises(ServerError):
        perform(api.lookup_tenant(PHONE, BOT))

    assert perform(api.lookup_tenant(PHONE, BOT)).subdomain == "restaurant-abc"


@in_both_colours
@pytest.mark.parametrize(
    "later",
    [lambda api: read(api, bot_id=BOT), put],
    ids=["the conversation is gone", "the session is gone"],
)
def test_a_404_forgets_the_tenant(
    later: Any, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Whatever call learns it, by customer or by session."""
    perform(api.lookup_tenant(PHONE, BOT))
    server.plays(NOT_FOUND, answers(CONVERSATION))

    with pytest.raises(ConversationNotFoundError):
        perform(later(api))
    perform(api.lookup_tenant(PHONE, BOT))

    assert len(server.received) == 3


@in_both_colours
def test_a_tenant_can_be_forgotten(api: Api, server: FaultyServer, perform: Perform[Any]) -> None:
    """In any spelling of the number."""
    perform(api.lookup_tenant(PHONE, BOT))

    api.forget_tenant("51999999999@c.us", BOT)
    perform(api.lookup_tenant(PHONE, BOT))

    assert len(server.received) == 2


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


async def test_a_cancelled_leader_strands_nobody(api: Api, server: FaultyServer) -> None:
    """Those who waited for it ask for themselves."""
    server.plays(sends(HANG), answers(CONVERSATION))
    leader, *others = [asyncio.create_task(arun(api.lookup_tenant(PHONE, BOT))) for _ in range(4)]
    await asyncio.to_thread(server.wait_for, lambda it: len(it.received) == 1)

    leader.cancel()

    assert {(await task).bot_id for task in others} == {BOT}
    with pytest.raises(asyncio.CancelledError):
        await leader
    await api.aclose()


async def test_a_cancelled_follower_disturbs_nobody(api: Api, server: FaultyServer) -> None:
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


async def test_a_failed_leader_poisons_nobody(api: Api, server: FaultyServer) -> None:
    """Its error is its own; the others ask for themselves."""
    server.plays(answers({}, 500), answers(CONVERSATION))

    leader, *others = await asyncio.gather(
        *(arun(api.lookup_tenant(PHONE, BOT)) for _ in range(4)), return_exceptions=True
    )

    assert isinstance(leader, ServerError)
    assert {tenant.bot_id for tenant in others if isinstance(tenant, TenantInfo)} == {BOT}
    assert len(others) == 3
    await api.aclose()


def test_a_failed_leader_on_a_thread_poisons_nobody(api: Api, server: FaultyServer) -> None:
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
