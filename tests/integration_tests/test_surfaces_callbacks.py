"""The callback handlers on their own, without a runner: real HTTP, sync and async."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_convsync.callbacks import AsyncConvSyncCallbackHandler, ConvSyncCallbackHandler
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.tools import (
    SyncState,
)
from tests import served
from tests.served import PIZZA, Client, requests, state
from tests.surfaces import (
    BOT,
    PHONE,
    TENANT,
    calls,
    every_form,
    invoke,
    perform,
    sync_and_async,
)

Handler = ConvSyncCallbackHandler | AsyncConvSyncCallbackHandler
every_handler = pytest.mark.parametrize(
    "kind", [ConvSyncCallbackHandler, AsyncConvSyncCallbackHandler]
)
reference, server, client = served.reference, served.server, served.client


@every_handler
@every_form
async def test_a_handler_syncs_once_per_run(
    server: ReferenceServer, client: Client, kind: type[Handler], form: str
) -> None:
    """One read, one write, whatever the form of the call and the kind of the handler."""
    decide: Runnable[Any, Any] = RunnableLambda(lambda _: {"intent": "payment", "step": "paying"})

    with in_conversation(PHONE):
        await perform(form, decide, "?", {"callbacks": [kind(client)]})

    assert state(server) == ("payment", "paying")
    assert requests(server) == ["GET", "PUT"]


@every_handler
@sync_and_async
async def test_a_handler_serves_many_runs(
    server: ReferenceServer, client: Client, kind: type[Handler], mode: str
) -> None:
    """An async handler under blocking runs gets a new event loop for each of them."""
    handler = kind(client, conversation=PHONE)
    decide: Runnable[Any, Any] = RunnableLambda(lambda value: {"intent": value})

    for intent in ("menu", "order", "payment"):
        await invoke(mode, decide, intent, {"callbacks": [handler]})

    assert state(server)[0] == "payment"
    assert server.conversation(PHONE).previous_intent == "order"


def test_a_handler_outlives_an_event_loop(server: ReferenceServer) -> None:
    """Scripts and notebooks start one after the other."""
    decide: Runnable[Any, Any] = RunnableLambda(lambda value: {"intent": value})

    with server.client() as client:
        handler = AsyncConvSyncCallbackHandler(client, conversation=PHONE)
        for intent in ("menu", "payment"):
            asyncio.run(decide.ainvoke(intent, {"callbacks": [handler]}))

    assert state(server)[0] == "payment"


@every_handler
async def test_concurrent_runs_of_many_customers_stay_apart(
    server: ReferenceServer, client: Client, kind: type[Handler]
) -> None:
    """One handler, thirty customers at once, each in a conversation of their own."""
    handler = kind(client)
    together = asyncio.Barrier(30)
    phones = [f"+519999900{number:02}" for number in range(30)]
    for phone in phones:
        server.create_conversation(phone_number=phone, subdomain=TENANT, bot_id=BOT)

    async def decide(intent: str) -> dict[str, str]:
        await together.wait()
        return {"intent": intent}

    async def answer(phone: str) -> None:
        with in_conversation(phone):
            await RunnableLambda(decide).ainvoke(phone[-2:], {"callbacks": [handler]})

    await asyncio.gather(*(answer(phone) for phone in phones))

    assert [server.conversation(phone).current_intent for phone in phones] == [
        phone[-2:] for phone in phones
    ]


@every_handler
async def test_a_decision_that_a_tool_has_written_is_not_written_again(
    server: ReferenceServer, client: Client, kind: type[Handler]
) -> None:
    """Toolkit and handler beside each other make one write."""
    model = ScriptedChatModel([calls("sync_state", intent="payment"), "Listo"])
    tools = [SyncState(client=client, conversation=PHONE)]
    agent: Runnable[Any, Any] = create_agent(model, tools)

    await agent.ainvoke(PIZZA, {"callbacks": [kind(client, conversation=PHONE)]})

    assert state(server)[0] == "payment"
    assert requests(server).count("PUT") == 1
