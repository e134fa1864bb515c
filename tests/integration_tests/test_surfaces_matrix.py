"""Any two surfaces in one turn, from a list of them: one message each way, one sync."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Annotated, Any

import pytest
from langchain.agents import AgentState, create_agent
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from langchain_convsync import (
    AsyncConvSyncCallbackHandler,
    ConvSyncCallbackHandler,
    ConvSyncChatMessageHistory,
    ConvSyncToolkit,
    InboundEvent,
    SQLiteEventStore,
    TurnRunner,
    aonce,
    deduplicated,
    once,
)
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from tests import served
from tests.graphs import hand_over
from tests.served import Client, requests, state, words
from tests.surfaces import PHONE, calls, invoke, sync_and_async

reference, server, client = served.reference, served.server, served.client

EVENT = InboundEvent(event_id="evt_1", phone_number=PHONE, text="Una pizza")
Wrapper = Callable[[Runnable[Any, Any]], Runnable[Any, Any]]


@dataclass
class Setup:
    """What surfaces add themselves to.

    ``inside`` is wrapped around the agent within the runner, ``around`` around the runner.
    """

    client: Client
    store: SQLiteEventStore
    tools: list[Any] = field(default_factory=list)
    middleware: list[Any] = field(default_factory=list)
    callbacks: list[Any] = field(default_factory=list)
    inside: list[Wrapper] = field(default_factory=list)
    around: list[Wrapper] = field(default_factory=list)
    shape: Callable[[Setup, ScriptedChatModel], Runnable[Any, Any]] | None = None

    def agent(self) -> Runnable[Any, Any]:
        """Decides by a tool, where it has one, and by what it returns."""
        script: list[Any] = ["Con gusto"]
        if self.tools or self.middleware:
            script.insert(0, calls("sync_state", intent="payment"))
        model = ScriptedChatModel(script)
        given: Runnable[Any, Any] = RunnableLambda(lambda messages: {"messages": messages})
        graph = self.plain(model) if self.shape is None else self.shape(self, model)
        deciding: Runnable[Any, Any] = RunnableLambda(
            lambda result: {**result, "intent": "payment"}
        )
        agent: Runnable[Any, Any] = given | graph | deciding
        for wrapped in self.inside:
            agent = wrapped(agent)
        return agent.with_config(callbacks=self.callbacks)

    def plain(self, model: ScriptedChatModel, *tools: Any) -> Any:
        """An agent with these surfaces."""
        return create_agent(model, [*self.tools, *tools], middleware=self.middleware)

    def answering(self) -> Runnable[Any, Any]:
        """The runner, from the event's id to the status of its turn."""
        runner = TurnRunner(self.agent(), client=self.client, store=self.store)
        answer: Runnable[Any, Any] = RunnableLambda(
            lambda _: runner.run(EVENT).status, afunc=_awaited(runner)
        )
        for wrapped in self.around:
            answer = wrapped(answer)
        return answer


def _awaited(runner: TurnRunner) -> Any:
    async def answer(_: Any) -> str:
        return (await runner.arun(EVENT)).status

    return answer


def remembering(client: Client) -> Wrapper:
    """A chain that reads and writes its history by itself."""

    def wrap(agent: Runnable[Any, Any]) -> Runnable[Any, Any]:
        def block(messages: list[BaseMessage]) -> Any:
            history = ConvSyncChatMessageHistory(PHONE, client=client)
            result = agent.invoke([*history.messages, *messages])
            history.add_messages([messages[-1], result["messages"][-1]])
            return result

        async def wait(messages: list[BaseMessage]) -> Any:
            history = ConvSyncChatMessageHistory(PHONE, client=client)
            result = await agent.ainvoke([*await history.aget_messages(), *messages])
            await history.aadd_messages([messages[-1], result["messages"][-1]])
            return result

        return RunnableLambda(block, wait)

    return wrap


def claimed(store: SQLiteEventStore) -> Wrapper:
    """A claim of one's own on the event."""

    def wrap(inner: Runnable[Any, Any]) -> Runnable[Any, Any]:
        def block(given: Any) -> Any:
            with once(store, EVENT.event_id) as claim:
                return inner.invoke(given) if claim.acquired else "claimed before"

        async def wait(given: Any) -> Any:
            async with aonce(store, EVENT.event_id) as claim:
                return await inner.ainvoke(given) if claim.acquired else "claimed before"

        return RunnableLambda(block, wait)

    return wrap


def deduplicating(store: SQLiteEventStore) -> Wrapper:
    return lambda inner: deduplicated(inner, store, event_id=lambda *_: EVENT.event_id)


def deep(setup: Setup, model: ScriptedChatModel) -> Runnable[Any, Any]:
    """An agent of deepagents."""
    deepagents = pytest.importorskip("deepagents")
    agent: Runnable[Any, Any] = deepagents.create_deep_agent(
        model=model, tools=setup.tools, middleware=setup.middleware
    )
    return agent


def subgraph(setup: Setup, model: ScriptedChatModel) -> Runnable[Any, Any]:
    """A node of a graph."""
    built = StateGraph(MessagesState).add_node("agent", setup.plain(model))
    return built.add_edge(START, "agent").compile()


def hand_off(setup: Setup, model: ScriptedChatModel) -> Runnable[Any, Any]:
    """Another agent hands the customer over to it."""
    first = setup.plain(ScriptedChatModel([calls("hand_over")]), hand_over)
    built = StateGraph(MessagesState).add_node("first", first)
    return built.add_node("agent", setup.plain(model)).add_edge(START, "first").compile()


def parallel(setup: Setup, model: ScriptedChatModel) -> Runnable[Any, Any]:
    """Another agent works beside it."""
    built = StateGraph(MessagesState).add_node("agent", setup.plain(model))
    built.add_node("other", setup.plain(ScriptedChatModel(["Hay stock"])))
    built.add_node("answer", lambda state: {"messages": [AIMessage("Con gusto")]})
    built.add_edge(START, "agent").add_edge(START, "other")
    return built.add_edge(["agent", "other"], "answer").compile()


SHAPES = {"deepagents": deep, "subgraph": subgraph, "hand-off": hand_off, "parallel": parallel}

SURFACES: dict[str, Callable[[Setup], None]] = {
    "tools": lambda setup: setup.tools.extend(ConvSyncToolkit(setup.client).get_tools()),
    "middleware": lambda setup: setup.middleware.append(ConvSyncMiddleware(setup.client)),
    "history": lambda setup: setup.inside.append(remembering(setup.client)),
    "handler": lambda setup: setup.callbacks.append(
        ConvSyncCallbackHandler(setup.client, store=setup.store)
    ),
    "async handler": lambda setup: setup.callbacks.append(
        AsyncConvSyncCallbackHandler(setup.client, store=setup.store)
    ),
    "once inside": lambda setup: setup.inside.append(claimed(setup.store)),
    "deduplicated inside": lambda setup: setup.inside.append(deduplicating(setup.store)),
    "once around": lambda setup: setup.around.append(claimed(setup.store)),
    "deduplicated around": lambda setup: setup.around.append(deduplicating(setup.store)),
}
#: Two of them would claim one event for one purpose: the inner one finds it claimed by the outer.
SAME_CLAIM = {frozenset({f"{name} inside", f"{name} around"}) for name in ("once", "deduplicated")}
PAIRS = [pair for pair in combinations(SURFACES, 2) if frozenset(pair) not in SAME_CLAIM]


async def answers_once(mode: str, setup: Setup, server: ReferenceServer) -> None:
    """One read before the agent, three writes after it, although the event comes twice."""
    answering = setup.answering()

    first = await invoke(mode, answering, EVENT.event_id)
    await invoke(mode, answering, EVENT.event_id)
    await setup.store.aclose()

    assert first == "answered"
    assert requests(server) == ["GET", "POST", "POST", "PUT"]
    assert words(server) == [("user", "Una pizza"), ("bot", "Con gusto")]
    assert state(server)[0] == "payment"


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
@sync_and_async
async def test_any_two_surfaces_in_a_turn_make_one_message_each_way_and_one_sync(
    server: ReferenceServer, client: Client, mode: str, pair: tuple[str, str]
) -> None:
    """One read before the agent, three writes after it; the event comes twice."""
    setup = Setup(client, SQLiteEventStore(":memory:"))
    for name in pair:
        SURFACES[name](setup)
    await answers_once(mode, setup, server)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("surface", SURFACES)
@sync_and_async
async def test_any_surface_in_any_shape_makes_one_message_each_way_and_one_sync(
    server: ReferenceServer, client: Client, mode: str, surface: str, shape: Any
) -> None:
    """However many agents it takes; the event comes twice."""
    setup = Setup(client, SQLiteEventStore(":memory:"), shape=shape)
    SURFACES[surface](setup)
    await answers_once(mode, setup, server)


class Choosing(AgentState[Any]):
    """The state of an agent that decides by a tool of its own."""

    intent: str


@tool
def choose(tool_call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
    """Choose to pay."""
    chosen = ToolMessage("Chosen.", tool_call_id=tool_call_id)
    return Command(update={"intent": "payment", "messages": [chosen]})


@tool
def ask() -> str:
    """Ask the customer."""
    return str(interrupt("¿Seguro?"))


#: The surfaces beside which an agent is still a graph, which remembers that it waits.
OF_GRAPHS = ("tools", "middleware", "handler", "async handler")


@pytest.mark.parametrize("pair", list(combinations(OF_GRAPHS, 2)), ids=" and ".join)
@sync_and_async
async def test_any_two_surfaces_of_an_agent_that_asks_record_the_exchange_once(
    server: ReferenceServer, client: Client, mode: str, pair: tuple[str, str]
) -> None:
    """Two messages of the customer, each twice, one reply, one sync."""
    store = SQLiteEventStore(":memory:")
    setup = Setup(client, store)
    for name in pair:
        SURFACES[name](setup)
    notes = [calls("sync_state", intent="payment")] if setup.tools or setup.middleware else []
    model = ScriptedChatModel([calls("choose"), *notes, calls("ask"), "Con gusto"])
    agent: Runnable[Any, Any] = create_agent(
        model,
        [choose, ask, *setup.tools],
        middleware=setup.middleware,
        state_schema=Choosing,
        checkpointer=InMemorySaver(),
    ).with_config(callbacks=setup.callbacks)
    runner = TurnRunner(agent, client=client, store=store)

    found = []
    for number, text in enumerate(["Una pizza", "Una pizza", "sí", "sí"]):
        event = InboundEvent(event_id=f"evt_{number // 2}", phone_number=PHONE, text=text)
        turn = runner.run(event) if mode == "sync" else await runner.arun(event)
        found.append((turn.status, turn.reply))
    await store.aclose()

    asked, told = ("¿Seguro?", "Con gusto")
    assert found == [
        *(("interrupted", asked), ("duplicate", asked)),
        *(("answered", told), ("duplicate", told)),
    ]
    assert words(server) == [("user", "Una pizza"), ("user", "sí"), ("bot", "Con gusto")]
    assert (state(server)[0], requests(server).count("PUT")) == ("payment", 1)
