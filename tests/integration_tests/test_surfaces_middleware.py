"""The agent middleware on its own, without a runner: real HTTP, sync and async."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import (
    AIMessage,
    RemoveMessage,
)
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from langchain_convsync.callbacks import ConvSyncCallbackHandler
from langchain_convsync.errors import (
    ConversationMismatchError,
    ConversationNotFoundError,
)
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from tests import served
from tests.served import PIZZA, THREAD, Client, Tracer, assisted, requests, state, words
from tests.surfaces import (
    BOT,
    PHONE,
    calls,
    invoke,
    sync_and_async,
)

reference, server, client = served.reference, served.server, served.client


@pytest.mark.parametrize("memory", ["stateless", "checkpointed"])
@sync_and_async
async def test_the_middleware_remembers_over_several_turns(
    server: ReferenceServer, client: Client, mode: str, memory: str
) -> None:
    """Each message reaches the model once and the server once, with or without a checkpointer."""
    saver = InMemorySaver() if memory == "checkpointed" else None
    model, agent = assisted(
        [calls("sync_state", intent="payment", step="paying"), "Con gusto", "Sí", "De nada"],
        client,
        checkpointer=saver,
    )

    with in_conversation(PHONE):
        for text in ("Una pizza", "¿Hay postre?", "Gracias"):
            await invoke(mode, agent, {"messages": [("user", text)]}, THREAD)

    assert words(server) == [
        ("user", "Una pizza"),
        ("bot", "Con gusto"),
        ("user", "¿Hay postre?"),
        ("bot", "Sí"),
        ("user", "Gracias"),
        ("bot", "De nada"),
    ]
    spoken = [each for each in model.calls[-1] if each.type in {"human", "ai"} and each.content]
    assert [message.content for message in spoken] == [
        "Hola",
        "¡Hola! Bienvenido",
        "Una pizza",
        "Con gusto",
        "¿Hay postre?",
        "Sí",
        "Gracias",
    ]
    assert state(server) == ("payment", "paying")
    assert requests(server).count("PUT") == 1


@sync_and_async
async def test_a_thread_that_was_condensed_is_not_told_or_written_again(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """Summaries take messages away; what is left of the old ones stays known."""
    model, agent = assisted(["Con gusto", "De nada"], client, checkpointer=InMemorySaver())

    with in_conversation(PHONE):
        first = await invoke(mode, agent, PIZZA, THREAD)
        gone = RemoveMessage(id=first["messages"][-1].id)
        agent.update_state(THREAD, {"messages": [gone]})  # type: ignore[attr-defined]  # a graph
        await invoke(mode, agent, {"messages": [("user", "Gracias")]}, THREAD)

    assert [text for _, text in words(server)] == ["Una pizza", "Con gusto", "Gracias", "De nada"]
    read = [message.content for message in model.calls[-1] if message.type != "system"]
    assert read == ["Hola", "¡Hola! Bienvenido", "Una pizza", "Gracias"]


@sync_and_async
async def test_the_middleware_pins_the_tenant_it_has_read(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """A customer of two tenants: the other one, newer meanwhile, gets nothing of this one."""
    errors: list[Exception] = []

    def answer(_: Any) -> AIMessage:
        server.create_conversation(phone_number=PHONE, subdomain="another", bot_id="bot-2")
        return calls("sync_state", intent="payment")

    _, agent = assisted([answer, "Con gusto"], client, on_error=errors.append)

    with in_conversation(PHONE):
        await invoke(mode, agent, PIZZA)

    assert server.conversation(PHONE, "bot-2").messages == []
    assert server.conversation(PHONE, "bot-2").current_intent == "idle"
    assert server.conversation(PHONE, BOT).current_intent == "payment"
    assert errors == []


@sync_and_async
async def test_a_conversation_that_expired_meanwhile_costs_no_answer(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """The customer is answered; the failure is handed on."""
    errors: list[Exception] = []

    def answer(_: Any) -> str:
        server.expire(server.conversation(PHONE).session_id)
        return "Con gusto"

    _, agent = assisted([answer], client, on_error=errors.append)

    with in_conversation(PHONE, bot_id=BOT):
        result = await invoke(mode, agent, PIZZA)

    assert result["messages"][-1].content == "Con gusto"
    assert [type(error) for error in errors] == [ConversationNotFoundError]


@sync_and_async
async def test_the_words_of_a_failed_run_are_written_by_the_next(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """A model error ends a run before anything is written; the thread keeps what was said."""
    _, agent = assisted([TimeoutError(), "Con gusto"], client, checkpointer=InMemorySaver())

    with in_conversation(PHONE):
        with pytest.raises(TimeoutError):
            await invoke(mode, agent, PIZZA, THREAD)
        await invoke(mode, agent, {"messages": [("user", "¿Hola?")]}, THREAD)

    assert words(server) == [("user", "Una pizza"), ("user", "¿Hola?"), ("bot", "Con gusto")]


@sync_and_async
async def test_a_message_without_text_is_not_recorded(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """The API refuses it, and with it would go the reply."""
    _, agent = assisted(["¿Qué deseas?"], client)

    with in_conversation(PHONE):
        await invoke(mode, agent, {"messages": [("user", "")]})

    assert words(server) == [("bot", "¿Qué deseas?")]


@sync_and_async
async def test_a_thread_of_another_tenant_is_refused(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """Its model never reads the first tenant's words."""
    model, agent = assisted(["Con gusto", "?"], client, checkpointer=InMemorySaver())
    server.create_conversation(phone_number=PHONE, subdomain="another", bot_id="bot-2")

    with in_conversation(PHONE, bot_id=BOT):
        await invoke(mode, agent, PIZZA, THREAD)
    with in_conversation(PHONE, bot_id="bot-2"), pytest.raises(ConversationMismatchError):
        await invoke(mode, agent, PIZZA, THREAD)

    assert len(model.calls) == 1


@sync_and_async
async def test_an_interrupted_run_is_written_when_it_went_on_to_its_end(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """What was decided before a human was asked is not forgotten, and nothing is written twice."""

    @tool
    def confirm() -> str:
        """Ask a human."""
        return str(interrupt("Really?"))

    model = ScriptedChatModel(
        [calls("sync_state", intent="payment"), calls("confirm"), "Confirmado"]
    )
    agent: Runnable[Any, Any] = create_agent(
        model, [confirm], middleware=[ConvSyncMiddleware(client)], checkpointer=InMemorySaver()
    )

    with in_conversation(PHONE):
        await invoke(mode, agent, PIZZA, THREAD)
        waiting = words(server)
        await invoke(mode, agent, Command(resume="yes"), THREAD)

    assert waiting == []
    assert words(server) == [("user", "Una pizza"), ("bot", "Confirmado")]
    assert state(server)[0] == "payment"


@sync_and_async
async def test_a_tracer_is_told_no_phone_number(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """Neither in metadata, tags, names and threads, nor in what the agent keeps in its state."""
    tracer = Tracer()
    handler = ConvSyncCallbackHandler(client)
    script = [calls("sync_state", intent="payment"), "Con gusto"]
    _, agent = assisted(script, client, checkpointer=InMemorySaver())

    config: Any = {**THREAD, "callbacks": [tracer, handler]}
    with in_conversation(PHONE):
        await invoke(mode, agent, PIZZA, config)

    assert "Con gusto" in "".join(tracer.exported)
    assert "999999999" not in "".join(tracer.exported)
