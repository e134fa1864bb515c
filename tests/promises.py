"""What the proofs of the big promises share: customers, an agent, and sync and async of a call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda
from redis.exceptions import NoScriptError

from langchain_convsync._flow import Flow
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner
from tests.surfaces import unreachable

CUSTOMER = "+51999999999"
Answer: TypeAlias = Callable[..., Turn]


def blocking(runner: TurnRunner, event: InboundEvent, wait: float | None = None) -> Turn:
    """One call, blocking."""
    return runner.run(event, wait)


def awaited(runner: TurnRunner, event: InboundEvent, wait: float | None = None) -> Turn:
    """One call, on an event loop of its own."""
    return asyncio.run(runner.arun(event, wait))


#: For what kills processes, whose store makes little difference; `make test-all` takes both.
on_sqlite = pytest.mark.parametrize(
    "durable_store_url", ["sqlite", pytest.param("redis", marks=pytest.mark.slow)], indirect=True
)
sync_and_async = pytest.mark.parametrize("answer", [blocking, awaited], ids=["sync", "async"])


def said(text: str, **fields: Any) -> InboundEvent:
    """A message of the customer; the same text is the same message."""
    return InboundEvent(**{"event_id": text, "phone_number": CUSTOMER, "text": text, **fields})


def reply_to(messages: list[BaseMessage]) -> AIMessage:
    """An agent that repeats what was said last."""
    return AIMessage(f"re: {messages[-1].content}")


def echo() -> RunnableLambda[Any, Any]:
    """The agent as a Runnable."""
    return RunnableLambda(reply_to)


@contextmanager
def recording(**settings: Any) -> Iterator[TurnRunner]:
    """A runner on a store in memory that records, and answers nothing within a test."""
    store = SQLiteEventStore(":memory:")
    idle: dict[str, Any] = {"on_reply": lambda _: None, "debounce": 3600.0, "max_debounce": 3600.0}
    yield TurnRunner(echo(), client=unreachable(), store=store, **idle, **settings)
    store.close()


def served() -> ReferenceServer:
    """A running server that knows the customer; stop it."""
    server = ReferenceServer().start()
    server.create_conversation(phone_number=CUSTOMER, subdomain="restaurant-abc", bot_id="bot123")
    return server


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    """The same for a test; a module takes it by name: ``server = promises.server``."""
    running = served()
    yield running
    running.stop()


def history(server: ReferenceServer, customer: str = CUSTOMER) -> list[tuple[str, str]]:
    """What the server remembers of a conversation: (role, text)."""
    return [(m.role, m.content) for m in server.conversation(customer).messages]


def spoken(texts: list[str]) -> list[tuple[str, str]]:
    """The history in which each of these was answered by itself."""
    pairs = ([("user", text), ("bot", f"re: {text}")] for text in texts)
    return [entry for pair in pairs for entry in pair]


class Listening:
    """An agent that keeps what it was told, run by run."""

    def __init__(self) -> None:
        self.heard: list[list[str]] = []
        self.runnable: RunnableLambda[Any, Any] = RunnableLambda(self.reply)

    def reply(self, messages: list[BaseMessage]) -> AIMessage:
        """As :func:`echo` does."""
        self.heard.append([str(message.content) for message in messages])
        return AIMessage(f"re: {messages[-1].content}")


def killed(flow: Flow[Any], at: int, *, after: bool) -> bool:
    """Perform a flow up to a step and drop it there; whether it came so far."""
    try:
        step = next(flow)
        for _ in range(at):
            try:
                done = step.block()
            except Exception as error:  # noqa: BLE001 - such as a script that Redis has to be sent
                step = flow.throw(error)
            else:
                step = flow.send(done)
        if after:
            with suppress(NoScriptError):  # the step was taken, to no effect
                step.block()
    except StopIteration:
        return False
    flow.close()  # its lease is given back, as it would lapse
    return True
