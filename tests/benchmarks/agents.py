"""An agent that costs next to nothing, or exactly some seconds."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableLambda

from tests.benchmarks.customers import reply_to, state_after, text_of

Agent = Runnable[list[BaseMessage], BaseMessage]


def new_agent(seconds: float = 0.0, took: list[float] | None = None) -> Agent:
    """An agent, sync and async, that thinks for so many seconds, except about a first message.

    Args:
        seconds: How long.
        took: Gets what each run took of itself: an event loop sleeps up to a millisecond too long.
    """

    def block(messages: list[BaseMessage]) -> BaseMessage:
        begin, text = time.perf_counter(), str(messages[-1].content)
        if seconds and text != text_of(1):
            time.sleep(seconds)
        return done(begin, text)

    async def wait(messages: list[BaseMessage]) -> BaseMessage:
        begin, text = time.perf_counter(), str(messages[-1].content)
        if seconds and text != text_of(1):
            await asyncio.sleep(seconds)
        return done(begin, text)

    def done(begin: float, text: str) -> BaseMessage:
        if took is not None:
            took.append(time.perf_counter() - begin)
        return AIMessage(reply_to(text))

    return RunnableLambda(block, wait)


def asked(text: str) -> list[BaseMessage]:
    """What a flow by hand gives the agent."""
    return [HumanMessage(text)]


def decided(reply: BaseMessage) -> dict[str, Any]:
    """What the agent's answer says about the state: an extractor."""
    return state_after(str(reply.content).removeprefix(reply_to("")))
