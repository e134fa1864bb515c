"""Agents that stop to ask, and the calls of a runner that answer them, sync or async."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from langchain_convsync.models import InboundEvent
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.turns import Turn, TurnRunner
from tests.promises import CUSTOMER

APPROVED = {"decisions": [{"type": "approve"}]}


@dataclass(frozen=True)
class Calls:
    """A runner's calls in one way of calling."""

    drive: Callable[[Any], Any]
    prefix: str

    def run(self, runner: TurnRunner, number: int, text: str, wait: float | None = None) -> Turn:
        """One message of the customer."""
        event = InboundEvent(event_id=f"evt_{number}", phone_number=CUSTOMER, text=text)
        return self._call(runner, "run", event, wait)

    def resume(self, runner: TurnRunner, value: object) -> Turn:
        """A human's answer."""
        return self._call(runner, "resume_interrupt", CUSTOMER, value)

    def _call(self, runner: TurnRunner, name: str, *arguments: Any) -> Turn:
        turn: Turn = self.drive(getattr(runner, self.prefix + name)(*arguments))
        return turn


def _awaited(call: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(call)


@pytest.fixture(params=["sync", "async"])
def calls(request: pytest.FixtureRequest) -> Calls:
    return Calls(lambda done: done, "") if request.param == "sync" else Calls(_awaited, "a")


def wants(*tools: tuple[str, dict[str, Any]]) -> AIMessage:
    """A model's wish to call tools."""
    named = enumerate(tools)
    return AIMessage(
        "", tool_calls=[{"name": n, "args": args, "id": f"call-{i}"} for i, (n, args) in named]
    )


@dataclass
class Cashier:
    """An agent that pays, once a human agrees.

    Attributes:
        script: What its model says.
        paid: The amounts that it paid.
        interrupt_on: What a human may decide.
    """

    script: list[Any] = field(
        default_factory=lambda: [wants(("pay", {"amount": 1})), "Hecho", "Sí"]
    )
    middleware: list[Any] = field(default_factory=list)
    tools: list[Any] = field(default_factory=list)
    interrupt_on: Any = True
    paid: list[int] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = ScriptedChatModel(self.script)
        self.saver = InMemorySaver()

    def agent(self) -> Runnable[Any, Any]:
        @tool
        def pay(amount: int) -> str:
            """Pay."""
            if self.failures:
                raise self.failures.pop(0)
            self.paid.append(amount)
            return f"paid {amount}"

        asks = HumanInTheLoopMiddleware(interrupt_on={"pay": self.interrupt_on})
        agent: Runnable[Any, Any] = create_agent(
            self.model,
            [pay, *self.tools],
            middleware=[*self.middleware, asks],
            checkpointer=self.saver,
        )
        return agent

    def told(self) -> list[str]:
        """What the model was told by tools, or in their place."""
        return [str(m.content) for m in self.model.calls[-1] if isinstance(m, ToolMessage)]


def asking(*questions: Any, notes: Callable[[], Any] = lambda: None) -> Runnable[Any, Any]:
    """A graph with a node that asks: one question after the other, and repeats what it hears."""

    def ask(_state: MessagesState) -> dict[str, Any]:
        notes()
        heard = [str(interrupt(question)) for question in questions]
        return {"messages": [AIMessage(f"Dijiste {' y '.join(heard)}")]}

    graph: Any = StateGraph(MessagesState)  # its overloads know no node like this one
    agent: Runnable[Any, Any] = (
        graph.add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=InMemorySaver())
    )
    return agent


def asking_at_once(*questions: Any) -> Runnable[Any, Any]:
    """A graph whose nodes ask at the same time."""
    graph: Any = StateGraph(MessagesState)
    for number, question in enumerate(questions):

        def ask(_state: MessagesState, question: Any = question) -> dict[str, Any]:
            return {"messages": [AIMessage(f"Dijiste {interrupt(question)}")]}

        graph.add_node(f"ask {number}", ask).add_edge(START, f"ask {number}")
    agent: Runnable[Any, Any] = graph.compile(checkpointer=InMemorySaver())
    return agent


def said(server: ReferenceServer) -> list[str]:
    """The words of the history."""
    return [message.content for message in server.conversation(CUSTOMER).messages]


def syncs(server: ReferenceServer) -> int:
    """How many state updates were written."""
    return sum(request.method == "PUT" for request in server.requests)
