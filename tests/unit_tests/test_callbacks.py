"""The callback handlers: which run counts, and what it decided."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
from langchain.agents import AgentState, create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langchain_core.tools import BaseTool, InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from langchain_convsync import telemetry
from langchain_convsync.callbacks import AsyncConvSyncCallbackHandler, ConvSyncCallbackHandler
from langchain_convsync.callbacks._runs import MOST_ROOTS, Root, Runs
from langchain_convsync.errors import APIConnectionError, ConfigurationError
from langchain_convsync.models import StateUpdate
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.testing import ScriptedChatModel
from langchain_convsync.tools import SyncState
from tests.surfaces import (
    PHONE,
    calls,
    every_form,
    in_turn,
    invoke,
    perform,
    sync_and_async,
    unreachable,
)

Handler = ConvSyncCallbackHandler | AsyncConvSyncCallbackHandler
KINDS: list[type[Handler]] = [ConvSyncCallbackHandler, AsyncConvSyncCallbackHandler]
every_handler = pytest.mark.parametrize("kind", KINDS)


class OrderState(AgentState[Any]):
    intent: str


class Decided(BaseModel):
    """What the agent decided."""

    intent: str


@tool
def choose(intent: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
    """Choose an intent."""
    chosen = ToolMessage("Chosen.", tool_call_id=tool_call_id)
    return Command(update={"intent": intent, "messages": [chosen]})


def agent(
    script: list[Any], tools: list[BaseTool] | None = None, **options: Any
) -> Runnable[Any, Any]:
    """An agent that follows a script."""
    return create_agent(ScriptedChatModel(script), tools or [], **options)


def graph(node: Any, *, checkpointer: Any = None) -> Runnable[Any, Any]:
    """A graph of one node over ``intent`` and ``step``."""

    class State(TypedDict, total=False):
        intent: str
        step: str

    built: Any = StateGraph(State)  # its overloads know no node of any state
    built.add_node("node", node)
    built.set_entry_point("node")
    compiled: Runnable[Any, Any] = built.compile(checkpointer=checkpointer)
    return compiled


def chain() -> Runnable[Any, Any]:
    return RunnablePassthrough.assign(step=lambda _: "selecting") | RunnableLambda(
        lambda values: {"intent": "order", **values}
    )


def deciding(kind: str) -> tuple[Runnable[Any, Any], Any]:
    """A runnable that decides intent=order, step=selecting, and its input."""
    if kind == "chain":
        return chain(), {"question": "?"}
    if kind == "graph":
        return graph(lambda _: {"intent": "order", "step": "selecting"}), {}
    script = [calls("sync_state", intent="order", step="selecting"), "Listo"]
    return agent(script, [SyncState(client=unreachable())]), {"messages": [("user", "?")]}


@every_handler
@every_form
@pytest.mark.parametrize("what", ["chain", "graph", "agent"])
async def test_a_decision_is_found_in_every_form_of_a_call(
    kind: type[Handler], form: str, what: str
) -> None:
    """Chains, graphs and agents; invoke, stream and batch; sync and async of run and handler."""
    runnable, value = deciding(what)
    handler = kind(unreachable())

    with in_turn() as record:
        await perform(form, runnable, value, {"callbacks": [handler]})

    assert record.update == StateUpdate(intent="order", step="selecting")


@every_handler
@sync_and_async
async def test_only_the_outermost_run_counts(kind: type[Handler], mode: str) -> None:
    """What an inner chain returns is a step on the way."""
    outer: Runnable[Any, Any] = RunnableLambda(lambda _: {"intent": "menu"}) | RunnableLambda(
        lambda _: "Listo"
    )

    with in_turn() as record:
        await invoke(mode, outer, "?", {"callbacks": [kind(unreachable())]})

    assert not record.update


@every_handler
@sync_and_async
async def test_an_agent_inside_a_chain_is_found(kind: type[Handler], mode: str) -> None:
    """The outermost run passes its result on."""
    inner, _ = deciding("agent")
    outer: Runnable[Any, Any] = RunnableLambda(lambda text: {"messages": [("user", text)]}) | inner

    with in_turn() as record:
        await invoke(mode, outer, "?", {"callbacks": [kind(unreachable())]})

    assert record.update == StateUpdate(intent="order", step="selecting")


@every_handler
@sync_and_async
async def test_a_handler_of_an_inner_run_takes_that_for_its_root(
    kind: type[Handler], mode: str
) -> None:
    """A parent that the handler has not seen is no parent to it."""
    handler = kind(unreachable())
    inner: Runnable[Any, Any] = RunnableLambda(lambda _: {"intent": "menu"}).with_config(
        callbacks=[handler]
    )
    outer = inner | RunnableLambda(lambda _: "Listo")

    with in_turn() as record:
        await invoke(mode, outer, "?")

    assert record.update == StateUpdate(intent="menu")


@every_handler
@sync_and_async
async def test_a_model_that_runs_alone_counts(kind: type[Handler], mode: str) -> None:
    """What it says of the state does; a tool that it asks for and nothing runs does not."""
    forged = calls("sync_state", intent="order", is_active=False)
    forged.response_metadata = {"step": "selecting"}
    model = ScriptedChatModel([forged])

    with in_turn() as record:
        await invoke(mode, model, "?", {"callbacks": [kind(unreachable())]})

    assert record.update == StateUpdate(step="selecting")


@every_handler
@sync_and_async
async def test_a_failed_run_decides_nothing(kind: type[Handler], mode: str) -> None:
    """Half an answer is none, and nothing of it stays behind."""

    def fail(_: Any) -> None:
        raise TimeoutError

    handler = kind(unreachable())
    failing: Runnable[Any, Any] = RunnableLambda(lambda _: {"intent": "order"}) | RunnableLambda(
        fail
    )

    with in_turn() as record, pytest.raises(TimeoutError):
        await invoke(mode, failing, "?", {"callbacks": [handler]})

    assert not record.update
    assert len(handler._runs) == 0


@every_handler
async def test_an_abandoned_stream_decides_nothing(kind: type[Handler]) -> None:
    """Whoever stops reading has no result, and leaves nothing behind."""
    handler = kind(unreachable(), extractor=lambda _: {"intent": "order"})
    model = ScriptedChatModel(["uno dos tres"] * 2) | RunnablePassthrough()

    with in_turn() as record:
        stream = model.stream("?", {"callbacks": [handler]})
        next(iter(stream))
        stream.close()  # type: ignore[attr-defined]  # it is a generator
        astream = model.astream("?", {"callbacks": [handler]})
        await anext(astream)
        await astream.aclose()  # type: ignore[attr-defined]  # it is a generator
        async with asyncio.timeout(5):  # LangChain leaves the inner generators to the event loop
            while len(handler._runs):  # noqa: ASYNC110 - nothing tells when it did
                await asyncio.sleep(0)

    assert not record.update


@every_handler
@sync_and_async
async def test_what_a_checkpointer_brings_back_is_not_decided_again(
    kind: type[Handler], mode: str
) -> None:
    """State keys, structured answers and tool calls of earlier turns reappear in every result."""
    handler = kind(unreachable())
    script = [calls("choose", intent="order"), "Listo", "De nada"]
    runnable = agent(script, [choose], state_schema=OrderState, checkpointer=InMemorySaver())
    config: Any = {"callbacks": [handler], "configurable": {"thread_id": "1"}}

    with in_turn() as first:
        await invoke(mode, runnable, {"messages": [("user", "Una pizza")]}, config)
    with in_turn() as second:
        await invoke(mode, runnable, {"messages": [("user", "Gracias")]}, config)

    assert (first.update, second.update) == (StateUpdate(intent="order"), StateUpdate())


@every_handler
@sync_and_async
async def test_tool_calls_of_earlier_turns_are_not_decided_again(
    kind: type[Handler], mode: str
) -> None:
    """A thread's messages hold every call ever made."""
    script = [calls("sync_state", intent="order"), "Listo", "De nada"]
    tools: list[BaseTool] = [SyncState(client=unreachable())]
    runnable = agent(script, tools, checkpointer=InMemorySaver())
    config: Any = {"callbacks": [kind(unreachable())], "configurable": {"thread_id": "1"}}

    with in_turn():
        await invoke(mode, runnable, {"messages": [("user", "Una pizza")]}, config)
    with in_turn() as second:
        await invoke(mode, runnable, {"messages": [("user", "Gracias")]}, config)

    assert not second.update


@every_handler
@sync_and_async
async def test_what_an_outer_chain_decides_for_a_graph_is_decided(
    kind: type[Handler], mode: str
) -> None:
    """The graph's nodes see it as their state, but no checkpointer brought it back."""
    outer: Runnable[Any, Any] = RunnableLambda(lambda text: {"intent": text}) | graph(
        lambda _: {"step": "selecting"}
    )

    with in_turn() as record:
        await invoke(mode, outer, "order", {"callbacks": [kind(unreachable())]})

    assert record.update == StateUpdate(intent="order", step="selecting")


@every_handler
@sync_and_async
async def test_what_a_chain_inside_a_node_decides_is_decided(
    kind: type[Handler], mode: str
) -> None:
    """Only what the nodes themselves are given was there before."""
    node: Runnable[Any, Any] = RunnableLambda(lambda _: {"intent": "order"}) | RunnableLambda(
        lambda value: value
    )

    with in_turn() as record:
        await invoke(mode, graph(node), {}, {"callbacks": [kind(unreachable())]})

    assert record.update == StateUpdate(intent="order")


@sync_and_async
async def test_an_old_structured_answer_is_not_decided_again(mode: str) -> None:
    """It stands in the result until the next one."""
    handler = ConvSyncCallbackHandler(unreachable())

    def once(state: dict[str, Any]) -> dict[str, Any]:
        return {} if state.get("intent") else {"intent": "order"}

    runnable = graph(once, checkpointer=InMemorySaver())
    config: Any = {"callbacks": [handler], "configurable": {"thread_id": "1"}}

    with in_turn() as first:
        await invoke(mode, runnable, {"step": "selecting"}, config)
    with in_turn() as second:
        await invoke(mode, runnable, {"step": "selecting"}, config)

    assert (first.update, second.update) == (StateUpdate(intent="order"), StateUpdate())


@every_handler
@sync_and_async
async def test_the_same_structured_answer_from_a_fresh_agent_is_decided(
    kind: type[Handler], mode: str
) -> None:
    """Without a checkpointer nothing is old."""
    handler = kind(unreachable())
    runnable = agent([Decided(intent="order")] * 2, response_format=ToolStrategy(Decided))
    records = []

    for _ in range(2):
        with in_turn() as record:
            await invoke(mode, runnable, {"messages": [("user", "?")]}, {"callbacks": [handler]})
        records.append(record.update)

    assert records == [StateUpdate(intent="order")] * 2


@every_form
async def test_what_the_caller_passed_in_is_no_decision(form: str) -> None:
    """Chains hand their input through; streams tell it only at the end."""
    handler = ConvSyncCallbackHandler(unreachable())
    passing = RunnablePassthrough.assign(step=lambda _: "selecting")

    with in_turn() as record:
        await perform(form, passing, {"intent": "menu"}, {"callbacks": [handler]})

    assert record.update == StateUpdate(step="selecting")


@every_handler
@sync_and_async
async def test_an_interrupted_run_is_synced_when_it_went_on_to_its_end(
    kind: type[Handler], mode: str
) -> None:
    """While a human is asked, nothing is decided; then all of it is."""

    def first(_: Any) -> dict[str, Any]:
        return {"intent": "order"}

    def second(_: Any) -> dict[str, Any]:
        return {"step": interrupt("Really?")}

    class State(TypedDict, total=False):
        intent: str
        step: str

    built: Any = StateGraph(State)  # its overloads know no node of any state
    built.add_node("first", first)
    built.add_node("second", second)
    built.add_edge("__start__", "first").add_edge("first", "second")
    runnable: Runnable[Any, Any] = built.compile(checkpointer=InMemorySaver())
    config: Any = {"callbacks": [kind(unreachable())], "configurable": {"thread_id": "1"}}

    with in_turn() as waiting:
        await invoke(mode, runnable, {}, config)
    with in_turn() as resumed:
        await invoke(mode, runnable, Command(resume="paying"), config)

    assert not waiting.update
    assert resumed.update == StateUpdate(intent="order", step="paying")


@every_handler
async def test_thirty_runs_on_one_handler_stay_apart(kind: type[Handler]) -> None:
    """What belongs to a run is kept under its id, not on the handler."""
    handler = kind(unreachable())
    together = asyncio.Barrier(30)

    async def decide(number: int) -> dict[str, str]:
        await together.wait()
        return {"intent": f"intent-{number}"}

    async def answer(number: int) -> StateUpdate:
        with in_turn() as record:
            await RunnableLambda(decide).ainvoke(number, {"callbacks": [handler]})
        return record.update

    updates = await asyncio.gather(*(answer(number) for number in range(30)))

    assert updates == [StateUpdate(intent=f"intent-{number}") for number in range(30)]
    assert len(handler._runs) == 0


def test_threads_on_one_handler_stay_apart() -> None:
    """A web server runs its requests on threads."""
    handler = ConvSyncCallbackHandler(unreachable())

    def answer(number: int) -> StateUpdate:
        decide: Runnable[Any, Any] = RunnableLambda(lambda value: {"intent": f"intent-{value}"})
        with in_turn() as record:
            decide.invoke(number, {"callbacks": [handler]})
        return record.update

    with ThreadPoolExecutor(8) as pool:
        updates = list(pool.map(answer, range(100)))

    assert updates == [StateUpdate(intent=f"intent-{number}") for number in range(100)]
    assert len(handler._runs) == 0


@every_handler
@sync_and_async
async def test_the_users_extractor_comes_first(kind: type[Handler], mode: str) -> None:
    """It knows its own runnable best; None leaves the decision to the default."""
    handler = kind(
        unreachable(), extractor=lambda output: {"step": "x"} if output == "special" else None
    )
    parrot = RunnableLambda(lambda value: value)

    with in_turn() as record:
        await invoke(mode, parrot, "special", {"callbacks": [handler]})
        await invoke(mode, parrot | (lambda _: {"intent": "order"}), "?", {"callbacks": [handler]})

    assert record.update == StateUpdate(intent="order", step="x")


@sync_and_async
async def test_an_async_handler_takes_an_async_extractor(mode: str) -> None:
    """It may ask another model, under a blocking run too."""

    async def extractor(output: Any) -> dict[str, Any]:
        return {"intent": output}

    handler = AsyncConvSyncCallbackHandler(unreachable(), extractor=extractor)

    with in_turn() as record:
        await invoke(mode, RunnableLambda(lambda value: value), "order", {"callbacks": [handler]})

    assert record.update == StateUpdate(intent="order")


@every_handler
@sync_and_async
async def test_a_failed_sync_leaves_the_answer_alone(
    kind: type[Handler], mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged without the customer, counted, and handed to ``on_error``."""
    errors: list[Exception] = []
    before = telemetry.counted("callback_failures", error="APIConnectionError")
    handler = kind(unreachable(), on_error=errors.append)

    with in_conversation(PHONE), caplog.at_level(logging.WARNING):
        runnable, value = deciding("graph")
        result = await invoke(mode, runnable, value, {"callbacks": [handler]})

    assert result == {"intent": "order", "step": "selecting"}
    assert [type(error) for error in errors] == [APIConnectionError]
    assert telemetry.counted("callback_failures", error="APIConnectionError") == before + 1
    assert "not synced" in caplog.text
    assert "999999999" not in caplog.text


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        (ConvSyncCallbackHandler, "sync"),
        (ConvSyncCallbackHandler, "async"),
        (AsyncConvSyncCallbackHandler, "async"),
    ],
)
async def test_a_failed_sync_can_fail_the_run(kind: type[Handler], mode: str) -> None:
    """Where an unsynced answer is worse than none."""
    handler = kind(unreachable(), raise_error=True)
    runnable, value = deciding("graph")

    with in_conversation(PHONE), pytest.raises(APIConnectionError):
        await invoke(mode, runnable, value, {"callbacks": [handler]})


@every_handler
@sync_and_async
async def test_an_extractor_that_fails_leaves_the_answer_alone(
    kind: type[Handler], mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error may quote the customer, so only its kind is logged."""

    def extractor(_: Any) -> None:
        raise KeyError(PHONE)

    handler = kind(unreachable(), extractor=extractor)

    with in_turn(), caplog.at_level(logging.WARNING):
        answer = await invoke(
            mode, RunnableLambda(lambda _: "Listo"), "?", {"callbacks": [handler]}
        )

    assert answer == "Listo"
    assert "KeyError" in caplog.text
    assert "999999999" not in caplog.text


@every_handler
@sync_and_async
async def test_a_run_of_no_conversation_fails_only_if_it_decided(
    kind: type[Handler], mode: str
) -> None:
    """A handler may be attached to everything."""
    errors: list[Exception] = []
    handler = kind(unreachable(), on_error=errors.append)
    parrot = RunnableLambda(lambda value: value)

    await invoke(mode, parrot, "Listo", {"callbacks": [handler]})
    await invoke(mode, parrot | (lambda _: {"intent": "x"}), "?", {"callbacks": [handler]})

    assert [type(error).__name__ for error in errors] == ["UnknownConversationError"]


@every_handler
def test_a_handler_without_configuration_says_what_to_set(kind: type[Handler]) -> None:
    """The error names the argument and the variable, before any run."""
    with pytest.raises(ConfigurationError, match="CONVSYNC_BASE_URL"):
        kind()


def test_roots_that_never_end_are_forgotten_in_the_end() -> None:
    """A handler may live as long as its process."""
    runs = Runs()
    before = telemetry.counted("callback_runs_forgotten")

    for _ in range(MOST_ROOTS + 5):
        runs.begin(uuid4(), None, {}, {}, Root)

    assert len(runs) == MOST_ROOTS
    assert telemetry.counted("callback_runs_forgotten") == before + 5


def test_a_chat_models_words_are_no_decision() -> None:
    """Only what the surfaces define is."""
    handler = ConvSyncCallbackHandler(unreachable())

    with in_turn() as record:
        ScriptedChatModel([AIMessage("Listo")]).invoke("?", {"callbacks": [handler]})

    assert not record.update
