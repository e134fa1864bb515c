"""Which runs are one exchange, told by LangChain's callbacks to the one handler that listens."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.middleware import _runs as runs_module
from langchain_convsync.middleware._exchange import Exchange
from langchain_convsync.middleware._runs import RUNS
from langchain_convsync.testing import ScriptedChatModel
from tests import surfaces
from tests.surfaces import calls, in_turn, invoke, perform, sync_and_async, unreachable

no_run_left = surfaces.no_run_left
pytestmark = pytest.mark.usefixtures("no_run_left")


def exchange_here(config: RunnableConfig) -> tuple[Exchange, Any]:
    callbacks: Any = config["callbacks"]
    return RUNS.of(callbacks.parent_run_id)


def graph_of(node: Any, **options: Any) -> Any:
    built = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node")
    return built.compile(**options)


@sync_and_async
async def test_all_runs_of_the_outermost_graph_are_one_exchange(mode: str) -> None:
    """However deep; what stands around it is none of it."""
    seen: list[tuple[Exchange, Any]] = []

    def look(state: Any, config: RunnableConfig) -> Any:
        seen.append(exchange_here(config))
        return {"messages": []}

    inner = graph_of(look)

    def call(state: Any, config: RunnableConfig) -> Any:
        look(state, config)
        return inner.invoke(state, config)

    outer: Runnable[Any, Any] = RunnableLambda(lambda text: {"messages": [("user", text)]})
    await invoke(mode, outer | graph_of(call), "Hola")

    (one, graph), (other, inner_graph) = seen
    assert one is other
    assert one.root == graph
    assert inner_graph not in {None, graph}
    assert [message.content for message in one.words] == ["Hola"]


@pytest.mark.parametrize("ending", ["fails", "waits", "is left", "is cancelled"])
@sync_and_async
async def test_nothing_is_remembered_of_runs_that_are_over(mode: str, ending: str) -> None:
    """However they ended."""
    if ending == "is cancelled" and mode == "sync":
        pytest.skip("blocking runs are not cancelled")
    started = asyncio.Event()

    async def hang(state: Any) -> Any:
        started.set()
        await asyncio.Event().wait()

    def end(state: Any) -> Any:
        if ending == "fails":
            raise TimeoutError
        return interrupt("?") if ending == "waits" else {"messages": [AIMessage("Hola")]}

    graph = graph_of(hang if ending == "is cancelled" else end, checkpointer=InMemorySaver())
    given = {"messages": [("user", "Hola")]}
    config: RunnableConfig = {"configurable": {"thread_id": "1"}}

    if ending == "is cancelled":
        task = asyncio.ensure_future(graph.ainvoke(given, config))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif ending == "is left" and mode == "sync":
        stream = graph.stream(given, config)
        next(stream)
        stream.close()
    elif ending == "is left":
        stream = graph.astream(given, config)
        await anext(stream)
        await stream.aclose()
    elif ending == "fails":
        with pytest.raises(TimeoutError):
            await invoke(mode, graph, given, config)
    else:
        await invoke(mode, graph, given, config)


def test_runs_that_never_end_are_forgotten_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first."""
    monkeypatch.setattr(runs_module, "MOST_RUNS", 3)
    runs = runs_module.Runs()

    for number in range(10):
        runs.on_chain_start({}, {}, run_id=UUID(int=number))

    assert len(runs._runs) == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"messages": [("user", "a"), ("ai", "b"), ("user", "c"), ("user", "d")]}, ["c", "d"]),
        ({"messages": ("user", "a")}, ["a"]),
        ({"messages": "a"}, ["a"]),
        ({"messages": HumanMessage("a")}, ["a"]),
        ({"messages": [{"role": "user", "content": "a"}]}, ["a"]),
        ({"messages": [{"type": "human", "content": "a"}, AIMessage("b")]}, []),
        ([HumanMessage("a")], ["a"]),
        (HumanMessage("a"), ["a"]),
        ("a", ["a"]),
        ({"question": "a"}, []),
        ({"messages": [7]}, []),
        ({"messages": None}, []),
        (7, []),
        (None, []),
        (Command(resume="a"), []),
        (Command(update={"messages": [("user", "a")]}), ["a"]),
    ],
)
def test_the_customers_words_are_the_last_of_the_input(given: object, words: list[str]) -> None:
    """In every form that LangGraph takes, and nothing of any other."""
    exchange = Exchange(None, given=given)

    assert [message.content for message in exchange.words] == words


@pytest.mark.parametrize("form", ["invoke", "stream", "batch", "ainvoke", "astream", "abatch"])
async def test_a_hand_over_in_a_turn_notes_once(form: str) -> None:
    """The handler that listens changes nothing of how runs are called."""
    model = ScriptedChatModel([calls("sync_state", intent="payment"), "Listo"])
    agent: Runnable[Any, Any] = create_agent(model, middleware=[ConvSyncMiddleware(unreachable())])

    with in_turn() as record:
        await perform(form, graph_of(agent), {"messages": [("user", "Hola")]}, {})

    assert record.update.intent == "payment"
