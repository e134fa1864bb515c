"""deepagents: threads without ids, delta channels, subagents with middleware of their own."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.tools import ConvSyncToolkit
from langchain_convsync.turns import TurnRunner
from tests import served
from tests.served import THREAD, Client, read_by, state, words
from tests.surfaces import PHONE, calls, invoke, sync_and_async

deepagents = pytest.importorskip("deepagents")

reference, server, client = served.reference, served.server, served.client

BEGIN = ["Hola", "¡Hola! Bienvenido"]
FORMS: dict[str, Any] = {
    "tuple": lambda text: ("user", text),
    "dict": lambda text: {"role": "user", "content": text},
    "message": HumanMessage,
}
memories = pytest.mark.parametrize("memory", ["stateless", "checkpointed"])


def saver(memory: str) -> Any:
    return InMemorySaver() if memory == "checkpointed" else None


@memories
@pytest.mark.parametrize("form", FORMS)
@sync_and_async
async def test_messages_without_ids_are_recorded_once_each(
    server: ReferenceServer, client: Client, mode: str, form: str, memory: str
) -> None:
    """And a colleague's words stand in their place."""
    model = ScriptedChatModel(["uno", calls("sync_state", intent="payment"), "dos", "tres"])
    agent = deepagents.create_deep_agent(
        model=model, middleware=[ConvSyncMiddleware(client)], checkpointer=saver(memory)
    )

    with in_conversation(PHONE):
        for number, texts in enumerate((["sí"], ["sí", "sí"], ["sí"])):
            given = {"messages": [FORMS[form](text) for text in texts]}
            await invoke(mode, agent, given, THREAD)
            if number == 0:
                with server.client() as their:
                    their.add_message(server.conversation(PHONE).session_id, "bot", "Soy Ana")

    whole = ["sí", "uno", "Soy Ana", "sí", "sí", "dos", "sí", "tres"]
    assert [text for _, text in words(server)] == whole
    assert read_by(model) == [*BEGIN, *whole[:-1]]
    assert state(server)[0] == "payment"


@memories
@pytest.mark.parametrize("surface", ["middleware", "tools"])
@pytest.mark.parametrize("inside", ["alone", "turn"])
@sync_and_async
async def test_a_subagent_knows_the_conversation_and_records_nothing_of_its_own(
    server: ReferenceServer, client: Client, mode: str, inside: str, surface: str, memory: str
) -> None:
    """Its instruction is no word of the customer's, its report none of the bot's."""
    clerk = ScriptedChatModel([calls("sync_state", intent="payment"), "Noted."])
    subagent: dict[str, Any] = {
        "name": "clerk",
        "description": "notes orders",
        "system_prompt": "You note orders.",
        "model": clerk,
        "tools": ConvSyncToolkit(client).get_tools() if surface == "tools" else [],
    }
    if surface == "middleware":
        subagent["middleware"] = [ConvSyncMiddleware(client)]
    task = calls("task", description="Note it", subagent_type="clerk")
    agent = deepagents.create_deep_agent(
        model=ScriptedChatModel([task, "¿De qué tamaño?"]),
        subagents=[subagent],
        middleware=[ConvSyncMiddleware(client)],
        checkpointer=saver(memory),
    )

    if inside == "alone":
        with in_conversation(PHONE):
            await invoke(mode, agent, {"messages": [("user", "Una pizza")]}, THREAD)
    else:
        runner = TurnRunner(agent, client=client, store=SQLiteEventStore(":memory:"))
        event = InboundEvent(event_id="evt-1", phone_number=PHONE, text="Una pizza")
        turn = runner.run(event) if mode == "sync" else await runner.arun(event)
        assert turn.status == "answered"
        await runner.store.aclose()

    assert words(server) == [("user", "Una pizza"), ("bot", "¿De qué tamaño?")]
    assert state(server)[0] == "payment"
    if surface == "middleware":
        assert read_by(clerk) == [*BEGIN, "Note it"]
