"""Every surface inside a turn, alone and together: real HTTP, sync and async."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from langchain.agents import AgentState, create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from langchain_convsync.callbacks import AsyncConvSyncCallbackHandler, ConvSyncCallbackHandler
from langchain_convsync.chat_history import ConvSyncChatMessageHistory
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.models import (
    InboundEvent,
    StateUpdate,
)
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.tools import (
    ConvSyncToolkit,
)
from langchain_convsync.turns import Turn, TurnRunner
from tests import served
from tests.served import Client, requests, state, words
from tests.surfaces import (
    PHONE,
    calls,
    sync_and_async,
)

reference, server, client = served.reference, served.server, served.client


async def answered(mode: str, runner: TurnRunner, number: int, text: str) -> Turn:
    event = InboundEvent(event_id=f"evt-{number}", phone_number=PHONE, text=text)
    return runner.run(event) if mode == "sync" else await runner.arun(event)


@pytest.mark.parametrize("memory", ["stateless", "checkpointed"])
@sync_and_async
async def test_all_surfaces_together_inside_a_runner_write_once(
    server: ReferenceServer, client: Client, mode: str, memory: str
) -> None:
    """Tools, middleware and handler of one agent: one read, one message each way, one sync."""
    model = ScriptedChatModel(
        [calls("sync_state", intent="payment"), calls("get_conversation"), "Con gusto", "De nada"]
    )
    agent: Runnable[Any, Any] = create_agent(
        model,
        ConvSyncToolkit(client).get_tools(),
        middleware=[ConvSyncMiddleware(client)],
        checkpointer=InMemorySaver() if memory == "checkpointed" else None,
    ).with_config(callbacks=[ConvSyncCallbackHandler(client), AsyncConvSyncCallbackHandler(client)])
    runner = TurnRunner(agent, client=client, store=SQLiteEventStore(":memory:"))

    first = await answered(mode, runner, 1, "Una pizza")
    second = await answered(mode, runner, 2, "Gracias")
    await runner.store.aclose()

    assert (first.reply, first.state) == ("Con gusto", StateUpdate(intent="payment"))
    assert (second.reply, second.state) == ("De nada", StateUpdate())
    assert requests(server) == ["GET", "POST", "POST", "PUT", "GET", "POST", "POST"]
    assert words(server) == [
        ("user", "Una pizza"),
        ("bot", "Con gusto"),
        ("user", "Gracias"),
        ("bot", "De nada"),
    ]


@sync_and_async
async def test_a_classic_chain_inside_a_runner_reads_the_turns_history(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """The runner names the conversation to it by a key, and writes what was said itself."""
    model = ScriptedChatModel(["Con gusto"])
    with pytest.warns(DeprecationWarning, match="RunnableWithMessageHistory"):
        chain = RunnableWithMessageHistory(
            model, lambda session_id: ConvSyncChatMessageHistory(session_id, client=client)
        )
    runner = TurnRunner(chain, client=client, store=SQLiteEventStore(":memory:"))

    await answered(mode, runner, 1, "Una pizza")
    await runner.store.aclose()

    read = [message.content for message in model.calls[0]]
    assert read == ["Hola", "¡Hola! Bienvenido", "Una pizza"]
    assert words(server) == [("user", "Una pizza"), ("bot", "Con gusto")]
    assert requests(server) == ["GET", "POST", "POST"]


@sync_and_async
async def test_a_turn_asks_its_extractor_first_and_then_the_runs_traces(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """As every surface does."""
    found = {"output": "Listo", "structured_response": {"intent": "menu"}, "intent": "order"}
    agent: Runnable[Any, Any] = RunnableLambda(lambda _: found)
    states = []

    for number, extractor in enumerate([lambda _: {"intent": "payment"}, lambda _: None, None]):
        runner = TurnRunner(
            agent, client=client, store=SQLiteEventStore(":memory:"), extractor=extractor
        )
        turn = await answered(mode, runner, number, "Hola")
        await runner.store.aclose()
        states.append(turn.state.intent)

    assert states == ["payment", "menu", "menu"]


class Noted(AgentState[Any]):
    step: str


@tool
def ask() -> str:
    """Ask a human."""
    return str(interrupt("Really?"))


@tool
def choose(step: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
    """Choose a step."""
    chosen = ToolMessage("Chosen.", tool_call_id=tool_call_id)
    return Command(update={"step": step, "messages": [chosen]})


@pytest.mark.parametrize("surface", ["toolkit", "middleware"])
@sync_and_async
async def test_what_was_decided_before_an_interrupt_is_synced_by_the_turn_that_was_interrupted(
    server: ReferenceServer, client: Client, mode: str, surface: str
) -> None:
    """By tools and state keys alike; the turn that resumes decides nothing of it again."""
    script: list[Any] = [
        calls("choose", step="browsing"),
        calls("sync_state", intent="menu"),
        "Hola",
        calls("choose", step="paying"),
        calls("sync_state", context={"total": 25}),
        calls("ask"),
        "Listo",
        "De nada",
    ]
    tools: list[Any] = [ask, choose]
    if surface == "toolkit":
        tools += ConvSyncToolkit(client).get_tools()
    agent: Runnable[Any, Any] = create_agent(
        ScriptedChatModel(script),
        tools,
        middleware=[ConvSyncMiddleware(client)] if surface == "middleware" else [],
        state_schema=Noted,
        checkpointer=InMemorySaver(),
    )
    runner = TurnRunner(agent, client=client, store=SQLiteEventStore(":memory:"))

    turns = [
        await answered(mode, runner, number, text)
        for number, text in enumerate(["Hola", "Quiero pagar", "sí", "Gracias"])
    ]
    await runner.store.aclose()

    assert [turn.status for turn in turns] == ["answered", "interrupted", "answered", "answered"]
    assert turns[1].state == StateUpdate(step="paying", context={"total": 25})
    assert not turns[2].state
    assert not turns[3].state
    assert state(server) == ("menu", "paying")


@sync_and_async
async def test_a_message_that_was_added_before_an_interrupt_is_recorded(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """By the turn that added it."""
    script: list[Any] = [calls("add_message", content="Por teléfono: sí"), calls("ask"), "Listo"]
    agent: Runnable[Any, Any] = create_agent(
        ScriptedChatModel(script),
        [ask, *ConvSyncToolkit(client).get_tools()],
        checkpointer=InMemorySaver(),
    )
    runner = TurnRunner(agent, client=client, store=SQLiteEventStore(":memory:"))

    for number, text in enumerate(["Pago", "sí"]):
        await answered(mode, runner, number, text)
    await runner.store.aclose()

    assert [text for _, text in words(server)] == ["Pago", "Por teléfono: sí", "sí", "Listo"]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("kind", ["additional_kwargs", "response_metadata"])
@sync_and_async
async def test_a_decision_of_the_tool_is_not_overruled_by_a_messages_metadata(
    client: Client, mode: str, kind: str
) -> None:
    """Inside a turn as outside of one: metadata weigh least."""
    decided: Any = {kind: {"intent": "menu", "step": "z"}}
    spoken = AIMessage("Claro", **decided)
    model = ScriptedChatModel([calls("sync_state", intent="order", step="a"), spoken])
    agent = create_agent(model, ConvSyncToolkit(client).get_tools())
    runner = TurnRunner(agent, client=client, store=SQLiteEventStore(":memory:"))

    turn = await answered(mode, runner, 1, "Hola")

    assert (turn.state.intent, turn.state.step) == ("order", "a")
