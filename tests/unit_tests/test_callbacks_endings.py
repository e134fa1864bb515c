"""The callback handlers: how a run ends, and what it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypedDict
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphRecursionError
from langgraph.graph import StateGraph
from langgraph.types import Command, interrupt

from langchain_convsync.callbacks import AsyncConvSyncCallbackHandler, ConvSyncCallbackHandler
from langchain_convsync.callbacks._runs import Root, Runs
from langchain_convsync.models import StateUpdate
from langchain_convsync.testing import ScriptedChatModel
from langchain_convsync.tools import SyncState
from tests.surfaces import calls, in_turn, invoke, sync_and_async, unreachable

Handler = ConvSyncCallbackHandler | AsyncConvSyncCallbackHandler
every_handler = pytest.mark.parametrize(
    "kind", [ConvSyncCallbackHandler, AsyncConvSyncCallbackHandler]
)
THREAD: Any = {"configurable": {"thread_id": "1"}}
PIZZA: dict[str, Any] = {"messages": [("user", "Una pizza")]}


class State(TypedDict, total=False):
    intent: str
    step: str


def steps(*nodes: Callable[[Any], Any], checkpointer: Any = None) -> Runnable[Any, Any]:
    """A graph that runs one node after the other."""
    built: Any = StateGraph(State)  # its overloads know no node of any state
    built.add_sequence([(f"node{number}", node) for number, node in enumerate(nodes)])
    built.set_entry_point("node0")
    compiled: Runnable[Any, Any] = built.compile(checkpointer=checkpointer)
    return compiled


def asking() -> Runnable[Any, Any]:
    """A graph that decides, asks a human, and decides what the human says."""
    return steps(
        lambda _: {"intent": "order"},
        lambda _: {"step": interrupt("Really?")},
        checkpointer=InMemorySaver(),
    )


@every_handler
@sync_and_async
async def test_a_run_inside_a_traced_function_is_a_root(kind: type[Handler], mode: str) -> None:
    """Tracing gives it a parent that the handler has never seen."""
    handler, parent = kind(unreachable()), uuid4()
    managers: dict[str, Any] = {
        "sync": CallbackManager([handler], parent_run_id=parent),
        "async": AsyncCallbackManager([handler], parent_run_id=parent),
    }

    with in_turn() as record:
        traced: Any = {"callbacks": managers[mode]}
        await invoke(mode, RunnableLambda(lambda value: {"intent": value}), "order", traced)

    assert record.update == StateUpdate(intent="order")
    assert len(handler._runs) == 0


@every_handler
@sync_and_async
async def test_a_run_that_never_comes_to_an_end_decides_nothing(
    kind: type[Handler], mode: str
) -> None:
    """The recursion limit ends it."""
    handler = kind(unreachable())
    model = ScriptedChatModel([calls("sync_state", intent="order")] * 9)
    agent: Runnable[Any, Any] = create_agent(model, [SyncState(client=unreachable())])
    config: Any = {"callbacks": [handler], "recursion_limit": 3}

    with in_turn(), pytest.raises(GraphRecursionError):
        await invoke(mode, agent, PIZZA, config)

    assert len(handler._runs) == 0


@every_handler
@pytest.mark.parametrize("what", ["chain", "graph"])
async def test_a_cancelled_run_decides_nothing(kind: type[Handler], what: str) -> None:
    """Whoever cancels has no answer to sync."""
    handler = kind(unreachable())
    waiting = asyncio.Event()

    async def wait(_: Any) -> dict[str, Any]:
        waiting.set()
        await asyncio.Event().wait()
        return {}

    def decide(_: Any) -> dict[str, Any]:
        return {"intent": "order"}

    runnable = steps(decide, wait)
    if what == "chain":
        runnable = RunnableLambda(decide) | RunnableLambda(wait)

    with in_turn() as record:
        task = asyncio.create_task(runnable.ainvoke({}, {"callbacks": [handler]}))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert not record.update
    assert len(handler._runs) == 0


@every_handler
@sync_and_async
async def test_an_agents_stream_that_is_closed_early_decides_nothing(
    kind: type[Handler], mode: str
) -> None:
    """The customer has left."""
    handler = kind(unreachable())
    graph = steps(lambda _: {"intent": "order"}, lambda _: {"step": "paying"})
    config: Any = {"callbacks": [handler]}

    with in_turn() as record:
        if mode == "sync":
            stream: Any = graph.stream({}, config)
            next(stream)
            stream.close()
        else:
            stream = graph.astream({}, config)
            await anext(stream)
            await stream.aclose()

    assert not record.update
    assert len(handler._runs) == 0


@every_handler
@sync_and_async
async def test_the_inputs_of_a_batch_are_runs_of_their_own(kind: type[Handler], mode: str) -> None:
    """Each of them is synced."""
    handler = kind(unreachable(), extractor=lambda output: {"context": {output: True}})
    parrot: Runnable[Any, Any] = RunnableLambda(lambda value: value)

    with in_turn() as record:
        config: Any = {"callbacks": [handler]}
        if mode == "sync":
            parrot.batch(["a", "b", "c"], config)
        else:
            await parrot.abatch(["a", "b", "c"], config)

    assert record.update == StateUpdate(context={"a": True, "b": True, "c": True})


@every_handler
@sync_and_async
async def test_what_a_human_approves_is_synced_after_the_approval(
    kind: type[Handler], mode: str
) -> None:
    """LangChain's own human-in-the-loop middleware; nothing is synced while it waits."""

    @tool
    def pay() -> str:
        """Pay."""
        return "Paid."

    model = ScriptedChatModel([calls("sync_state", intent="payment"), calls("pay"), "Pagado"])
    agent: Runnable[Any, Any] = create_agent(
        model,
        [pay, noting],
        middleware=[HumanInTheLoopMiddleware(interrupt_on={"pay": True})],
        checkpointer=InMemorySaver(),
    )
    config: Any = {**THREAD, "callbacks": [kind(unreachable())]}

    with in_turn() as waiting:
        await invoke(mode, agent, PIZZA, config)
    with in_turn() as resumed:
        approved: Command[Any] = Command(resume={"decisions": [{"type": "approve"}]})
        await invoke(mode, agent, approved, config)

    assert not waiting.update
    assert resumed.update == StateUpdate(intent="payment")


@tool("sync_state")
def noting(intent: str, step: str = "") -> str:
    """Note an intent, and write nothing."""
    return intent


@every_handler
@sync_and_async
async def test_an_interrupted_run_can_be_resumed_in_another_process(
    kind: type[Handler], mode: str
) -> None:
    """Its handler has not seen the beginning: what was decided there is synced all the same."""
    graph = asking()

    with in_turn() as waiting:
        here: Any = {**THREAD, "callbacks": [kind(unreachable())]}
        await invoke(mode, graph, {}, here)
    with in_turn() as resumed:
        there: Any = {**THREAD, "callbacks": [kind(unreachable())]}
        await invoke(mode, graph, Command(resume="paying"), there)

    assert not waiting.update
    assert resumed.update == StateUpdate(intent="order", step="paying")


@every_handler
@sync_and_async
async def test_a_run_resumed_elsewhere_decides_no_calls_of_earlier_turns(
    kind: type[Handler], mode: str
) -> None:
    """Only those since the customer's last words."""

    @tool
    def ask() -> str:
        """Ask a human."""
        return str(interrupt("Really?"))

    script: list[Any] = [
        calls("sync_state", intent="menu", step="browsing"),
        "Listo",
        calls("sync_state", intent="order"),
        calls("ask"),
        "Confirmado",
    ]
    agent: Runnable[Any, Any] = create_agent(
        ScriptedChatModel(script), [noting, ask], checkpointer=InMemorySaver()
    )
    with in_turn():
        await invoke(mode, agent, PIZZA, THREAD)
        await invoke(mode, agent, PIZZA, THREAD)
    with in_turn() as resumed:
        config: Any = {**THREAD, "callbacks": [kind(unreachable())]}
        await invoke(mode, agent, Command(resume="yes"), config)

    assert resumed.update == StateUpdate(intent="order")


@every_handler
@sync_and_async
async def test_a_graph_inside_a_chain_can_be_interrupted_and_resumed(
    kind: type[Handler], mode: str
) -> None:
    """The chain is the root, and passes the command on."""
    outer: Runnable[Any, Any] = RunnableLambda(lambda value: value) | asking()
    config: Any = {**THREAD, "callbacks": [kind(unreachable())]}

    with in_turn() as waiting:
        await invoke(mode, outer, {}, config)
    with in_turn() as resumed:
        await invoke(mode, outer, Command(resume="paying"), config)

    assert not waiting.update
    assert resumed.update == StateUpdate(intent="order", step="paying")


@every_handler
@sync_and_async
async def test_nothing_as_the_input_of_a_chain_resumes_no_graph(
    kind: type[Handler], mode: str
) -> None:
    """What the graph's checkpointer brings back stays old."""
    graph = steps(
        lambda state: {} if state.get("intent") else {"intent": "order"},
        checkpointer=InMemorySaver(),
    )
    outer: Runnable[Any, Any] = RunnableLambda(lambda _: {"step": "paying"}) | graph
    config: Any = {**THREAD, "callbacks": [kind(unreachable())]}

    with in_turn() as first:
        await invoke(mode, outer, None, config)
    with in_turn() as second:
        await invoke(mode, outer, None, config)

    assert first.update == StateUpdate(intent="order", step="paying")
    assert second.update == StateUpdate(step="paying")


@every_handler
@sync_and_async
async def test_a_run_that_is_resumed_where_it_began_decides_nothing_of_earlier_turns(
    kind: type[Handler], mode: str
) -> None:
    """The handler remembers what was so before the interrupt, inside a chain as well."""
    graph = steps(
        lambda state: {} if state.get("intent") else {"intent": "order"},
        lambda _: {"step": interrupt("Really?")},
        checkpointer=InMemorySaver(),
    )
    outer: Runnable[Any, Any] = RunnableLambda(lambda value: value) | graph
    config: Any = {**THREAD, "callbacks": [kind(unreachable())]}
    updates = []

    for answer in ("a", "b"):
        with in_turn() as record:
            await invoke(mode, outer, {}, config)
            await invoke(mode, outer, Command(resume=answer), config)
        updates.append(record.update)

    assert updates == [StateUpdate(intent="order", step="a"), StateUpdate(step="b")]


def test_nothing_as_the_input_of_a_graphs_node_resumes_nothing() -> None:
    """Only a graph can be told to go on."""
    runs, graph, root = Runs(), uuid4(), Root()

    runs.begin(graph, None, {}, {"thread_id": "1"}, lambda: root)
    runs.begin(uuid4(), graph, None, {"thread_id": "1", "langgraph_step": 1}, Root)

    assert not root.resumed
