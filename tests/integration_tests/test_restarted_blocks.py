"""Blocks that are entered again: a module's app under several tests, a cell of a notebook."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from langchain_convsync import (
    AsyncConvSyncClient,
    ClosedError,
    ConvSyncClient,
    TurnRunner,
    WAHAReply,
    create_app,
)
from langchain_convsync.app import create_router
from langchain_convsync.client import AsyncWAHAClient, WAHAClient
from langchain_convsync.stores import open_store
from langchain_convsync.testing import FakeWAHA, ReferenceServer
from langchain_convsync.turns import Turn
from tests.promises import CUSTOMER, echo, said

Made = Callable[..., TurnRunner]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReferenceServer]:
    with ReferenceServer() as server:
        server.create_conversation(phone_number=CUSTOMER, subdomain="a", bot_id="b")
        monkeypatch.setenv("CONVSYNC_BASE_URL", server.base_url)
        yield server


@pytest.fixture(params=["own", "lent sync", "lent async"])
def made(
    request: pytest.FixtureRequest,
    api: ReferenceServer,
    durable_store_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Made]:
    """Makes a runner whose client and store are its own, from the environment, or its user's."""
    if request.param == "own":
        monkeypatch.setenv("CONVSYNC_STORE_URL", durable_store_url)
        yield TurnRunner
        return
    client = api.client() if request.param == "lent sync" else api.async_client()
    store = open_store(durable_store_url)
    yield lambda agent, **settings: TurnRunner(agent, client=client, store=store, **settings)
    store.close()
    asyncio.run(client.api.aclose())


@pytest.fixture
def waha() -> Iterator[FakeWAHA]:
    with FakeWAHA() as running:
        yield running


def starlette(runner: TurnRunner) -> Any:
    return create_app(runner, waha_secrets=[])


def fastapi(runner: TurnRunner) -> Any:
    app = FastAPI()
    app.include_router(create_router(runner, waha_secrets=[]))
    return app


@pytest.mark.parametrize("app_with", [starlette, fastapi])
def test_an_app_of_a_module_serves_one_test_after_another(
    app_with: Callable[[TurnRunner], Any], made: Made, waha: FakeWAHA
) -> None:
    """Each ``with TestClient(app)`` is its lifespan, on an event loop of its own."""
    app = app_with(made(echo(), reply=WAHAReply(waha.base_url)))

    for number in range(3):
        with TestClient(app) as web:
            web.post("/webhook", **waha.delivery(CUSTOMER, f"Hola {number}")).raise_for_status()
            waha.wait_for_sent(number + 1)
        # Between two of them it takes nothing that no worker would answer.
        assert web.post("/webhook", **waha.delivery(CUSTOMER, "?")).status_code == 503

    assert [sent.text for sent in waha.sent] == [f"re: Hola {number}" for number in range(3)]


def in_sync_blocks(runner: TurnRunner) -> list[Turn]:
    turns = []
    for text in ("one", "two", "three"):
        with runner:
            turns.append(runner.run(said(text)))
    return turns


def in_async_blocks(runner: TurnRunner) -> list[Turn]:
    async def on_one_loop() -> list[Turn]:
        turns = []
        for text in ("one", "two", "three"):
            async with runner:
                turns.append(await runner.arun(said(text)))
        return turns

    return asyncio.run(on_one_loop())


def in_blocks_on_several_loops(runner: TurnRunner) -> list[Turn]:
    async def on_its_own(text: str) -> Turn:
        async with runner:
            return await runner.arun(said(text))

    return [asyncio.run(on_its_own(text)) for text in ("one", "two", "three")]


def in_blocks_of_both_kinds(runner: TurnRunner) -> list[Turn]:
    async def awaited() -> list[Turn]:
        async with runner:
            first = await runner.arun(said("one"))
        with runner:  # blocking, on the loop's own thread
            second = runner.run(said("two"))
        async with runner:
            return [first, second, await runner.arun(said("three"))]

    return asyncio.run(awaited())


@pytest.mark.parametrize(
    "blocks", [in_sync_blocks, in_async_blocks, in_blocks_on_several_loops, in_blocks_of_both_kinds]
)
def test_a_block_is_entered_again_and_again(
    blocks: Callable[[TurnRunner], list[Turn]], made: Made, api: ReferenceServer
) -> None:
    """Own clients and stores are opened anew, others were never closed."""
    turns = blocks(made(echo(), on_reply=lambda _turn: None))

    assert [(turn.status, turn.reply) for turn in turns] == [
        ("answered", f"re: {text}") for text in ("one", "two", "three")
    ]
    assert [message.content for message in api.conversation(CUSTOMER).messages] == [
        text for each in ("one", "two", "three") for text in (each, f"re: {each}")
    ]


def test_between_two_blocks_a_runner_is_closed(made: Made) -> None:
    """Nothing is accepted that no worker will answer; the error tells both ways on."""
    runner = made(echo(), on_reply=lambda _turn: None)
    with runner:
        pass

    with pytest.raises(ClosedError, match="enter its block again, or make a new one"):
        runner.run(said("Hola"))


def test_one_block_at_a_time(made: Made) -> None:
    """Leaving the inner one would close what the outer one uses."""
    runner = made(echo(), on_reply=lambda _turn: None)
    with runner:
        with pytest.raises(ClosedError, match="one block at a time"), runner:
            pass
        assert runner.run(said("Hola")).status == "answered"


@pytest.mark.usefixtures("transport")
def test_a_client_is_entered_again(api: ReferenceServer, waha: FakeWAHA) -> None:
    """Of the API and of WAHA, awaited: on one loop, and on another one."""
    client, chats = AsyncConvSyncClient(), AsyncWAHAClient(waha.base_url)

    async def ask() -> None:
        for _ in range(2):
            async with client, chats:
                assert (await client.lookup_tenant(CUSTOMER)).subdomain == "a"
                await chats.send_text("default", "51999999999@c.us", "Hola")
            with pytest.raises(ClosedError):
                await client.lookup_tenant(CUSTOMER)

    for _ in range(2):
        asyncio.run(ask())
    assert len(waha.sent) == 4


def test_a_blocking_client_is_entered_again(api: ReferenceServer, waha: FakeWAHA) -> None:
    """Between two blocks it is closed."""
    client, chats = ConvSyncClient(), WAHAClient(waha.base_url)

    for _ in range(3):
        with client, chats:
            assert client.lookup_tenant(CUSTOMER).subdomain == "a"
            chats.send_text("default", "51999999999@c.us", "Hola")
        with pytest.raises(ClosedError):
            client.lookup_tenant(CUSTOMER)
    assert len(waha.sent) == 3


def test_a_store_in_memory_begins_empty(
    api: ReferenceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it held was told as lost when its block ended."""
    monkeypatch.setenv("CONVSYNC_STORE_URL", ":memory:")
    runner = TurnRunner(echo(), on_reply=lambda _turn: None)

    for _ in range(2):
        with runner:
            assert runner.run(said("Hola")).status == "answered"
            assert runner.run(said("Hola")).status == "duplicate"


@pytest.mark.usefixtures("transport")
async def test_what_is_opened_anew_is_kept_while_the_old_is_closed(api: ReferenceServer) -> None:
    """A blocking end on a running loop closes its connections in a moment, after the next block."""
    client = AsyncConvSyncClient()
    connections = client.api._caller.connections
    async with client:
        await client.lookup_tenant(CUSTOMER)
        first = await connections._awaited()
        client.api.close()

        async with client:
            second = await connections._awaited()
            await client.lookup_tenant(CUSTOMER)

            assert await connections._awaited() is second
            assert second is not first
