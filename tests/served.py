"""A reference server with one conversation in it, for the tests of the surfaces: real HTTP.

A module takes the fixtures by name::

    reference, server, client = served.reference, served.server, served.client
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import Runnable
from langchain_core.tracers import BaseTracer, Run

from langchain_convsync.client import AsyncConvSyncClient, ConvSyncClient
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.server.store import UnknownSessionError
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from tests.surfaces import BOT, HISTORY, PHONE, TENANT

Client = ConvSyncClient | AsyncConvSyncClient
PIZZA: dict[str, Any] = {"messages": [("user", "Una pizza")]}
THREAD: Any = {"configurable": {"thread_id": "1"}}


@pytest.fixture(scope="module")
def reference() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        yield running


@pytest.fixture
def server(reference: ReferenceServer) -> Iterator[ReferenceServer]:
    """The documented API with the document's conversation in it, the only one of this bot."""
    created = reference.create_conversation(
        phone_number=PHONE,
        subdomain=TENANT,
        bot_id=BOT,
        intent="order",
        step="selecting",
        context={"orderTotal": 25.0, "previousMessages": HISTORY},
    )
    reference.requests.clear()
    yield reference.start()
    with suppress(UnknownSessionError):  # the test let it expire
        reference.expire(created.session_id)


@pytest.fixture
async def client(server: ReferenceServer) -> AsyncIterator[AsyncConvSyncClient]:
    """One client for sync and async, closed in the test's own event loop."""
    async with AsyncConvSyncClient(server.base_url, max_retries=0) as opened:
        yield opened


def words(server: ReferenceServer) -> list[tuple[str, str]]:
    """What the server has recorded beyond the history it began with."""
    messages = server.conversation(PHONE).messages[len(HISTORY) :]
    return [(message.role, message.content) for message in messages]


def state(server: ReferenceServer) -> tuple[str | None, str | None]:
    found = server.conversation(PHONE)
    return found.current_intent, found.current_step


def requests(server: ReferenceServer) -> list[str]:
    """What went over the wire."""
    return [request.method for request in server.requests]


def assisted(
    script: list[Any], client: Client, *, checkpointer: Any = None, **options: Any
) -> tuple[ScriptedChatModel, Runnable[Any, Any]]:
    """An agent with the middleware."""
    model = ScriptedChatModel(script)
    agent: Runnable[Any, Any] = create_agent(
        model, [], middleware=[ConvSyncMiddleware(client, **options)], checkpointer=checkpointer
    )
    return model, agent


def read_by(model: ScriptedChatModel, call: int = -1) -> list[str]:
    """The words that the model was told in one of its calls, without the system prompt."""
    return [
        str(message.content)
        for message in model.calls[call]
        if message.type in {"human", "ai"} and message.content
    ]


class Tracer(BaseTracer):
    """Keeps every run that a tracer would export."""

    def __init__(self) -> None:
        super().__init__()
        self.exported: list[str] = []

    def _persist_run(self, run: Run) -> None:
        self.exported.append(run.model_dump_json(fallback=repr))
