"""A restaurant's bot on the real ChatOpenAI, whose OpenAI is LLMock on loopback."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import httpx2
import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Reply, ToolCall

from langchain_convsync.client import AsyncConvSyncClient
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner
from tests.faulty_server import Script, answers, head, sends

CUSTOMER = "+51999999999"
whole_or_streamed = pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
FALLBACK = "Ahora mismo no puedo responder."


@tool
def menu() -> str:
    """What the restaurant has today."""
    return "pizza: S/ 25"


@dataclass
class Restaurant:
    """A tenant with one customer, and what its bots are made of.

    Args:
        server: The API server; the customer looks at the menu.
        client: A client of it.
        wire: The connections of every ChatOpenAI: its own would outlive the test's event loop.
    """

    server: ReferenceServer
    client: AsyncConvSyncClient
    wire: httpx2.AsyncClient

    @classmethod
    @asynccontextmanager
    async def open(cls, server: ReferenceServer) -> AsyncIterator[Self]:
        """One on a server that runs, for as long as its conversation lives."""
        created = server.create_conversation(
            phone_number=CUSTOMER,
            subdomain="restaurant-abc",
            bot_id="bot123",
            intent="menu",
            step="browsing",
        )
        server.requests.clear()
        async with (
            AsyncConvSyncClient(server.base_url) as client,
            httpx2.AsyncClient(verify=False) as wire,
        ):
            yield cls(server, client, wire)
        server.expire(created.session_id)

    def chat(self, base_url: str, **settings: Any) -> ChatOpenAI:
        """The real class; it does not retry unless a test says so."""
        defaults = {"model": "gpt-4o", "api_key": "fake", "max_retries": 0, "timeout": 5}
        return ChatOpenAI(
            **{**defaults, "base_url": base_url, "http_async_client": self.wire, **settings}
        )

    def bot(self, model: ChatOpenAI, **settings: Any) -> Any:
        """An agent with a tool of its own, memory, and the ``sync_state`` tool."""
        memory = ConvSyncMiddleware(self.client)
        return create_agent(model, **{"tools": [menu], "middleware": [memory], **settings})

    def runner(self, agent: Any, **settings: Any) -> TurnRunner:
        """A runner that gives up after one failed run unless a test says so."""
        defaults = {"max_errors": 1, "fallback_reply": FALLBACK}
        places = {"client": self.client, "store": SQLiteEventStore(":memory:")}
        return TurnRunner(agent, **{**places, **defaults, **settings})

    @property
    def words(self) -> list[tuple[str, str]]:
        """What the API server remembers: (role, text)."""
        return [(m.role, m.content) for m in self.server.conversation(CUSTOMER).messages]

    @property
    def state(self) -> tuple[str | None, str | None]:
        """Where the API server holds the conversation to be."""
        kept = self.server.conversation(CUSTOMER)
        return kept.current_intent, kept.current_step


async def answered(mode: str, runner: TurnRunner, text: str = "Quiero una pizza") -> Turn:
    """The turn of one message; the same text is the same message."""
    event = InboundEvent(event_id=text, phone_number=CUSTOMER, text=text)
    return runner.run(event) if mode == "sync" else await runner.arun(event)


def calls(*wanted: tuple[str, dict[str, Any]], text: str | None = None) -> Reply:
    """The model calls tools, all in one message."""
    return Reply(text=text, tool_calls=tuple(ToolCall(name, args) for name, args in wanted))


def asked(openai: LLMock) -> list[int]:
    """The status of each answer that the model's server gave."""
    return [seen.status for seen in openai.requests]


def read_by(openai: LLMock, number: int = -1) -> list[dict[str, Any]]:
    """The messages of a request to the model."""
    messages: list[dict[str, Any]] = openai.requests[number].body["messages"]
    return messages


REFUSAL = "Lo siento, con eso no puedo ayudar."


def refuses() -> Script:
    """OpenAI's answer that refuses, which LLMock does not know."""
    message = {"role": "assistant", "content": None, "refusal": REFUSAL}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return answers(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1767000000,
            "model": "gpt-4o",
            "choices": [choice],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    )


def refuses_in_a_stream() -> Script:
    """The same, in chunks."""
    steps = [({"role": "assistant", "refusal": REFUSAL}, None), ({}, "stop")]
    events = [
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1767000000,
            "model": "gpt-4o",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
        for delta, finish in steps
    ]
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    body = "".join([*lines, "data: [DONE]\n\n"]).encode()
    return sends(head(content_type="text/event-stream", content_length=len(body)) + body)


@pytest.fixture(scope="module")
def reference() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        yield running


@pytest.fixture
async def restaurant(reference: ReferenceServer) -> AsyncIterator[Restaurant]:
    async with Restaurant.open(reference) as opened:
        yield opened
