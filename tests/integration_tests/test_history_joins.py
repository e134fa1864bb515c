"""The history in the thread of an agent: bounded, and guarded by whatever guards a thread."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    hook_config,
)
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.turns import TurnRunner
from tests import served
from tests.served import THREAD, Client, words
from tests.surfaces import PHONE, invoke, sync_and_async

reference, server, client = served.reference, served.server, served.client

memories = pytest.mark.parametrize("memory", ["stateless", "checkpointed"])
in_or_out = pytest.mark.parametrize("shape", ["alone", "node"])
in_either_order = pytest.mark.parametrize("order", [1, -1], ids=["ours first", "ours last"])


def built(shape: str, memory: str, model: Any, *middleware: Any) -> Any:
    saver = InMemorySaver() if memory == "checkpointed" else None
    agent: Any = create_agent(
        model, middleware=middleware, checkpointer=saver if shape == "alone" else None
    )
    if shape == "alone":
        return agent
    around = StateGraph(MessagesState).add_node("agent", agent).add_edge(START, "agent")
    return around.compile(checkpointer=saver)


def asked(text: str) -> dict[str, Any]:
    return {"messages": [("user", text)]}


def told(call: Any) -> list[str]:
    return [str(message.content) for message in call if message.type != "system"]


@in_or_out
@memories
@sync_and_async
async def test_so_many_messages_join_and_no_half_exchange(
    server: ReferenceServer, client: Client, mode: str, memory: str, shape: str
) -> None:
    """Of a server's two and those of two exchanges, three would begin with the bot's words."""
    model = ScriptedChatModel(["uno", "dos", "tres"])

    with in_conversation(PHONE):
        for text in ("a", "b"):
            whole = built(shape, "stateless", model, ConvSyncMiddleware(client))
            await invoke(mode, whole, asked(text))
        limited = built(shape, memory, model, ConvSyncMiddleware(client, history_limit=3))
        await invoke(mode, limited, asked("c"), THREAD)

    left_out = "[4 earlier messages are left out]\nb"
    assert told(model.calls[-1]) == [left_out, "dos", "c"]


@sync_and_async
async def test_a_turn_gives_so_many_messages(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """To agents that have no memory of their own."""
    model = ScriptedChatModel(["uno", "dos"])
    runner = TurnRunner(
        create_agent(model), client=client, store=SQLiteEventStore(":memory:"), history_limit=2
    )

    for number, text in enumerate(("a", "b")):
        event = InboundEvent(event_id=f"evt-{number}", phone_number=PHONE, text=text)
        turn = runner.run(event) if mode == "sync" else await runner.arun(event)
        assert turn.status == "answered"
    await runner.store.aclose()

    assert told(model.calls[-1]) == ["[2 earlier messages are left out]\na", "uno", "b"]


@in_either_order
@in_or_out
@memories
@sync_and_async
async def test_what_is_redacted_is_recorded_and_told_redacted(
    server: ReferenceServer, client: Client, mode: str, memory: str, shape: str, order: int
) -> None:
    """The customer's words and the bot's; what stood there before is older than LangChain looks."""
    model = ScriptedChatModel(["Escribe a bob@example.com", "De nada"])
    redacting: Any = PIIMiddleware("email", strategy="redact", apply_to_output=True)
    agent = built(shape, memory, model, *[ConvSyncMiddleware(client), redacting][::order])
    with server.client() as their:
        their.add_message(
            server.conversation(PHONE).session_id, "user", "Antes era eva@example.com"
        )

    with in_conversation(PHONE):
        for text in ("Soy ana@example.com", "Gracias"):
            await invoke(mode, agent, asked(text), THREAD)

    recorded = [text for _, text in words(server)][1:]
    assert len(recorded) == 4
    assert "@example" not in repr(recorded)
    assert not any("ana@" in text or "bob@" in text for text in told(model.calls[-1]))


@in_either_order
@memories
@sync_and_async
async def test_a_summary_bounds_what_joined(
    server: ReferenceServer, client: Client, mode: str, memory: str, order: int
) -> None:
    """It counts the thread, and the history is in there."""
    summary: Any = SummarizationMiddleware(
        ScriptedChatModel(itertools.repeat(lambda _: "Hablaron.")),
        trigger=("messages", 4),
        keep=("messages", 2),
    )
    model = ScriptedChatModel(itertools.repeat(lambda _: "Sí"))
    agent = built("alone", memory, model, *[ConvSyncMiddleware(client), summary][::order])

    with in_conversation(PHONE):
        for number in range(4):
            await invoke(mode, agent, asked(f"{number}"), THREAD)

    assert max(len(told(call)) for call in model.calls) <= 4
    assert [text for _, text in words(server)] == [
        text for number in range(4) for text in (f"{number}", "Sí")
    ]


class Closed(AgentMiddleware[Any, Any, Any]):
    """Answers before anything else."""

    @hook_config(can_jump_to=["end"])
    def before_agent(self, state: Any, runtime: Any) -> dict[str, Any]:
        """Jump to the end."""
        return {"messages": [AIMessage("Estamos cerrados")], "jump_to": "end"}


@in_either_order
@in_or_out
@memories
@sync_and_async
async def test_an_agent_that_another_hook_answers_for_is_recorded(
    server: ReferenceServer, client: Client, mode: str, memory: str, shape: str, order: int
) -> None:
    """Its hook may have jumped over our first one."""
    both = [ConvSyncMiddleware(client), Closed()][::order]
    agent = built(shape, memory, ScriptedChatModel([]), *both)

    with in_conversation(PHONE):
        for text in ("a", "b"):
            await invoke(mode, agent, asked(text), THREAD)

    assert [text for _, text in words(server)] == [
        "a",
        "Estamos cerrados",
        "b",
        "Estamos cerrados",
    ]


class Redacting(AgentMiddleware[Any, Any, Any]):
    """Goes through the whole thread."""

    def before_model(self, state: Any, runtime: Any) -> dict[str, Any]:
        """Redact every message."""
        return {
            "messages": [
                message.model_copy(update={"content": message.text.replace("eva@", "[gone]@")})
                for message in state["messages"]
            ]
        }


@in_either_order
@in_or_out
@memories
@sync_and_async
async def test_a_hook_that_goes_through_the_thread_guards_what_joined(
    server: ReferenceServer, client: Client, mode: str, memory: str, shape: str, order: int
) -> None:
    """What a colleague or another channel wrote, too."""
    model = ScriptedChatModel(["Sí"])
    agent = built(shape, memory, model, *[ConvSyncMiddleware(client), Redacting()][::order])
    with server.client() as their:
        their.add_message(server.conversation(PHONE).session_id, "bot", "Era eva@example.com")

    with in_conversation(PHONE):
        await invoke(mode, agent, asked("¿Cuál?"), THREAD)

    assert "Era [gone]@example.com" in told(model.calls[-1])
