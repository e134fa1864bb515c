"""What the tests of the LangChain surfaces share: a conversation, a turn, each form of a call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_convsync.client import ConvSyncClient
from langchain_convsync.middleware._runs import RUNS
from langchain_convsync.models import Conversation
from langchain_convsync.surfaces.context import ConversationRef, TurnRecord, current_turn

PHONE = "+51999999999"
BOT = "67890abcdef"
TENANT = "restaurant-abc"

HISTORY = [
    {"role": "user", "content": "Hola", "timestamp": "2025-12-29T10:00:00.000Z"},
    {"role": "bot", "content": "¡Hola! Bienvenido", "timestamp": "2025-12-29T10:00:01.000Z"},
]


@pytest.fixture
def no_run_left() -> Iterator[None]:
    """No run of the test is under way after it; those that hang in other tests' threads may be."""
    before = set(RUNS._runs)
    yield
    assert set(RUNS._runs) <= before


def conversation(**fields: Any) -> Conversation:
    """The document's example, with some of its fields replaced."""
    return Conversation.model_validate(
        {
            "sessionId": "bot123_51999999999_1234567890_xyz",
            "userId": PHONE,
            "botId": BOT,
            "subDomain": TENANT,
            "currentIntent": "order",
            "currentStep": "selecting",
            "context": {"orderTotal": 25.0, "previousMessages": HISTORY},
            "metadata": {"language": "es"},
            "isActive": True,
            **fields,
        }
    )


def unreachable() -> ConvSyncClient:
    """A client whose every call fails at once: nothing listens there."""
    return ConvSyncClient("http://127.0.0.1:9", max_retries=0)


@contextmanager
def in_turn(
    found: Conversation | None = None, *, history_given: bool = True
) -> Iterator[TurnRecord]:
    """A turn of a TurnRunner, as its agent sees it."""
    found = found or conversation()
    record = TurnRecord(ConversationRef(PHONE).at(found), found, history_given=history_given)
    token = current_turn.set(record)
    try:
        yield record
    finally:
        current_turn.reset(token)


def calls(name: str, **args: Any) -> AIMessage:
    """A model's wish to call a tool."""
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": "call-1"}])


def ran(name: str, **args: Any) -> list[BaseMessage]:
    """A model's wish to call a tool, and the tool's answer."""
    return [calls(name, **args), ToolMessage("Noted.", name=name, tool_call_id="call-1")]


async def invoke(
    mode: str, runnable: Runnable[Any, Any], value: Any, config: RunnableConfig | None = None
) -> Any:
    """One call sync or async."""
    if mode == "sync":
        return runnable.invoke(value, config)
    return await runnable.ainvoke(value, config)


async def perform(
    form: str, runnable: Runnable[Any, Any], value: Any, config: Any, **more: Any
) -> None:
    """One run in any of LangChain's call forms; ``context=`` reaches graphs."""
    if form == "invoke":
        runnable.invoke(value, config, **more)
    elif form == "stream":
        for _ in runnable.stream(value, config, **more):
            pass
    elif form == "batch":
        runnable.batch([value], config, **more)
    elif form == "ainvoke":
        await runnable.ainvoke(value, config, **more)
    elif form == "astream":
        async for _ in runnable.astream(value, config, **more):
            pass
    else:
        await runnable.abatch([value], config, **more)


sync_and_async = pytest.mark.parametrize("mode", ["sync", "async"])
every_form = pytest.mark.parametrize(
    "form", ["invoke", "stream", "batch", "ainvoke", "astream", "abatch"]
)
