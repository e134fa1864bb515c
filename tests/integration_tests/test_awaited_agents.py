"""Agents that can only be awaited, and those that only block, in calls of either kind."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool, tool
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph

from langchain_convsync.client import AsyncConvSyncClient
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.models import InboundEvent, StateUpdate
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.turns import TurnRunner
from langchain_convsync.turns.parts import parts_of
from tests import promises
from tests.promises import CUSTOMER

Agent = Runnable[Any, Any]
server = promises.server


@pytest.fixture
def made(server: ReferenceServer) -> Callable[..., TurnRunner]:
    def make(agent: Any, **settings: Any) -> TurnRunner:
        settings = {"client": server.client(), "store": SQLiteEventStore(":memory:"), **settings}
        return TurnRunner(agent, **settings)

    return make


def hola(number: int = 1) -> InboundEvent:
    return InboundEvent(event_id=f"evt_{number}", phone_number=CUSTOMER, text="Hola")


async def menu(day: str) -> str:
    """The menu of a day."""
    return f"sopa ({day})"


def of_mcp() -> BaseTool:
    """A tool as adapters of MCP make them: a coroutine function and nothing else."""
    return StructuredTool.from_function(coroutine=menu, name="menu")


class Unready(BaseTool):
    """A tool as they are written by hand."""

    name: str = "unready"
    description: str = "Do something."

    def _run(self) -> str:
        message = "use the async one"
        raise NotImplementedError(message)

    async def _arun(self) -> str:
        return "done"


class Waits(AgentMiddleware[Any, Any, Any]):
    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(request)


class Prepares(AgentMiddleware[Any, Any, Any]):
    async def abefore_agent(self, state: Any, runtime: Any) -> None:
        del state, runtime


class Blocks(AgentMiddleware[Any, Any, Any]):
    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request)


def agent(*tools: BaseTool, middleware: Any = (), saver: Any = None) -> Agent:
    model = ScriptedChatModel(iter(lambda: "Hola tú", None))
    made: Agent = create_agent(model, tools, middleware=middleware, checkpointer=saver)
    return made


def graph() -> Agent:
    async def greet(_state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("Hola tú")]}

    graph: Any = StateGraph(MessagesState)
    made: Agent = graph.add_node("greet", greet).add_edge(START, "greet").compile()
    return made


async def answers(_messages: Any) -> AIMessage:
    return AIMessage("Hola tú")


ONLY_AWAITED: dict[str, tuple[Callable[[], Agent], str]] = {
    "a tool": (lambda: agent(of_mcp()), "the tool 'menu'"),
    "a bound agent": (lambda: agent(of_mcp()).with_retry(), "the tool 'menu'"),
    "a tool by hand": (lambda: agent(Unready()), "the tool 'unready'"),
    "a wrapper": (lambda: agent(middleware=[Waits()]), "the middleware Waits"),
    "a hook": (lambda: agent(middleware=[Prepares()]), "the middleware Prepares"),
    "a node": (graph, "the node 'greet'"),
    "a function": (lambda: RunnableLambda(answers), "the function 'answers'"),
}


@pytest.mark.parametrize("shape", ONLY_AWAITED)
async def test_a_blocking_call_refuses_what_can_only_be_awaited(
    shape: str, made: Callable[..., TurnRunner]
) -> None:
    """At the block, and at a call outside of one, by the name of the part; awaited it answers."""
    make, named = ONLY_AWAITED[shape]
    runner = made(make(), on_reply=lambda _turn: None)

    with pytest.raises(ConfigurationError, match=named) as refused, runner:
        pass
    with pytest.raises(ConfigurationError, match=named):
        runner.run(hola())

    assert "async with" in str(refused.value)
    async with runner:
        assert (await runner.arun(hola())).reply == "Hola tú"


async def test_what_surrounds_the_agent_is_told_as_well(
    server: ReferenceServer, made: Callable[..., TurnRunner]
) -> None:
    """A function or a client of the user's that can only be awaited."""

    async def told(*_: Any) -> None: ...

    async def key() -> str:
        return "secret"

    for name in ("on_reply", "extractor", "resume"):
        with pytest.raises(ConfigurationError, match=f"{name}= can only be awaited"):
            made(agent(), **{name: told}).run(hola())
    async with httpx.AsyncClient() as lent:
        for settings in ({"http_client": lent}, {"api_key": key}):
            client = AsyncConvSyncClient(server.base_url, **settings)
            with pytest.raises(ConfigurationError, match="client= can only be awaited"):
                made(agent(), client=client).run(hola())


async def test_a_factory_is_told_at_the_first_agent_that_it_makes(
    made: Callable[..., TurnRunner],
) -> None:
    """There is none before."""
    runner = made(lambda _tenant: agent(of_mcp()), max_errors=1)

    turn = runner.run(hola())

    assert isinstance(turn.error, ConfigurationError)
    assert "the tool 'menu'" in str(turn.error)
    assert (await runner.arun(hola(2))).reply == "Hola tú"


@pytest.fixture
async def saver() -> AsyncIterator[SqliteSaver]:
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
        yield SqliteSaver(connection)


async def test_an_agent_that_only_blocks_is_awaited_on_a_thread(
    made: Callable[..., TurnRunner], saver: SqliteSaver
) -> None:
    """Its checkpointer, its hooks and its tools: the event loop does not wait for them."""
    loop, seen = threading.current_thread(), set[threading.Thread]()

    @tool
    def look() -> str:
        """Look."""
        seen.add(threading.current_thread())
        return "nothing"

    call = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "1"}])
    model = ScriptedChatModel([call, "Hola tú", lambda messages: f"{len(messages)}"])
    blocking: Agent = create_agent(model, [look], middleware=[Blocks()], checkpointer=saver)
    runner = made(blocking)

    async with runner:
        assert (await runner.arun(hola())).reply == "Hola tú"
        assert (await runner.arun(hola(2))).reply == "5"  # it remembers

    assert seen
    assert loop not in seen


@pytest.mark.parametrize("awaited", [False, True])
async def test_parts_of_both_kinds_are_refused_by_their_names(
    made: Callable[..., TurnRunner], saver: SqliteSaver, *, awaited: bool
) -> None:
    """No call could serve them."""
    runner = made(agent(of_mcp(), saver=saver))

    async def call() -> None:
        await runner.arun(hola()) if awaited else runner.run(hola())

    with pytest.raises(ConfigurationError) as refused:
        await call()

    assert "the tool 'menu' can only be awaited" in str(refused.value)
    assert "the checkpointer SqliteSaver can only block" in str(refused.value)


def test_usual_agents_are_of_both_kinds() -> None:
    """Nothing is refused of what works either way, its tools' own functions included."""
    from deepagents import create_deep_agent

    sub = agent(of_mcp())

    @tool
    def ask() -> str:
        """Ask another agent, whose parts are its caller's business."""
        return str(sub)

    model = ScriptedChatModel([])
    deep: Any = create_deep_agent(model, [ask])
    chain: Any = RunnableLambda(lambda messages: messages) | model

    structured: Any = create_agent(model, [ask], response_format=ToolStrategy(StateUpdate))

    for each in (agent(ask), deep, chain, model, structured, agent(ask).with_retry()):
        found = parts_of(each)
        assert (found.awaited, found.blocking) == ((), ())
