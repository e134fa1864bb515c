"""The agent middleware beside what else ``create_agent`` offers: real HTTP, sync and async."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    hook_config,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel

from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.models import InboundEvent, StateUpdate
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.turns import TurnRunner
from tests import served
from tests.served import PIZZA, THREAD, Client, read_by, requests, state, words
from tests.surfaces import PHONE, calls, invoke, sync_and_async

reference, server, client = served.reference, served.server, served.client

memories = pytest.mark.parametrize("memory", ["stateless", "checkpointed"])


class Answer(BaseModel):
    """What the customer gets, and where they are."""

    reply: str
    intent: str
    step: str


def built(
    client: Client, script: list[Any], *others: Any, memory: str = "checkpointed", **options: Any
) -> tuple[ScriptedChatModel, Runnable[Any, Any]]:
    """An agent with our middleware and others."""
    model = ScriptedChatModel(script)
    middleware: list[Any] = [ConvSyncMiddleware(client), *others]
    saver = InMemorySaver() if memory == "checkpointed" else None
    return model, create_agent(model, middleware=middleware, checkpointer=saver, **options)


@memories
@sync_and_async
async def test_a_structured_answer_tells_reply_and_state(
    server: ReferenceServer, client: Client, mode: str, memory: str
) -> None:
    """Last turn's answer, which a checkpointer brings back, is neither said nor decided again."""
    first = Answer(reply="¿Efectivo o Yape?", intent="payment", step="choosing")
    second = Answer(reply="Gracias", intent="payment", step="paid")
    model, agent = built(
        client, [first, second], memory=memory, response_format=ToolStrategy(Answer)
    )

    with in_conversation(PHONE):
        for text in ("Quiero pagar", "Yape"):
            await invoke(mode, agent, {"messages": [("user", text)]}, THREAD)

    assert words(server) == [
        ("user", "Quiero pagar"),
        ("bot", "¿Efectivo o Yape?"),
        ("user", "Yape"),
        ("bot", "Gracias"),
    ]
    assert state(server) == ("payment", "paid")
    assert requests(server).count("PUT") == 2
    assert read_by(model).count("¿Efectivo o Yape?") == (memory == "stateless")


@sync_and_async
async def test_a_runner_sends_what_a_structured_answer_says(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """The same words, recorded once."""
    answer = Answer(reply="¿Efectivo o Yape?", intent="payment", step="choosing")
    _, agent = built(client, [answer], response_format=ToolStrategy(Answer))
    runner = TurnRunner(agent, client=client, store=SQLiteEventStore(":memory:"))

    event = InboundEvent(event_id="evt_1", phone_number=PHONE, text="Quiero pagar")
    turn = runner.run(event) if mode == "sync" else await runner.arun(event)
    await runner.store.aclose()

    assert (turn.status, turn.reply) == ("answered", "¿Efectivo o Yape?")
    assert turn.state == StateUpdate(intent="payment", step="choosing")
    assert words(server) == [("user", "Quiero pagar"), ("bot", "¿Efectivo o Yape?")]


class Closed(AgentMiddleware[Any, Any, Any]):
    """Answers by itself, without the model."""

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: Any, runtime: Any) -> dict[str, Any]:
        """Jump to the end."""
        return {"messages": [AIMessage("Estamos cerrados")], "jump_to": "end"}

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: Any, runtime: Any) -> dict[str, Any]:
        """Jump to the end."""
        return self.before_model(state, runtime)


@memories
@sync_and_async
async def test_a_run_that_jumps_to_its_end_is_recorded(
    server: ReferenceServer, client: Client, mode: str, memory: str
) -> None:
    """The model was never asked; the customer got an answer."""
    model, agent = built(client, [], Closed(), memory=memory)

    with in_conversation(PHONE):
        await invoke(mode, agent, PIZZA, THREAD)

    assert model.calls == []
    assert words(server) == [("user", "Una pizza"), ("bot", "Estamos cerrados")]


@sync_and_async
async def test_a_run_that_is_cut_off_by_another_middleware_keeps_its_state(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """LangChain's call limit ends it with words of its own, which are nobody's reply."""
    limit = ModelCallLimitMiddleware(run_limit=1)
    script = [calls("sync_state", intent="payment")]
    _, agent = built(client, script, limit)

    with in_conversation(PHONE):
        await invoke(mode, agent, PIZZA, THREAD)

    assert words(server) == [("user", "Una pizza")]
    assert state(server)[0] == "payment"


@sync_and_async
async def test_what_a_human_approves_is_written_after_the_approval(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """LangChain's own human-in-the-loop middleware; all of the run is written once."""

    @tool
    def pay() -> str:
        """Pay."""
        return "Paid."

    model, agent = built(
        client,
        [calls("sync_state", intent="payment"), calls("pay"), "Pagado", "De nada"],
        HumanInTheLoopMiddleware(interrupt_on={"pay": True}),
        tools=[pay],
    )
    approved: Command[Any] = Command(resume={"decisions": [{"type": "approve"}]})

    with in_conversation(PHONE):
        await invoke(mode, agent, PIZZA, THREAD)
        waiting = (words(server), state(server)[0])
        await invoke(mode, agent, approved, THREAD)
        await invoke(mode, agent, {"messages": [("user", "Gracias")]}, THREAD)

    assert waiting == ([], "order")
    assert [text for _, text in words(server)] == ["Una pizza", "Pagado", "Gracias", "De nada"]
    assert read_by(model) == ["Hola", "¡Hola! Bienvenido", "Una pizza", "Pagado", "Gracias"]
    assert state(server)[0] == "payment"
    assert requests(server).count("PUT") == 1


def test_two_of_ours_in_one_agent_are_refused(client: Client) -> None:
    """By LangChain: they would write everything twice."""
    with pytest.raises(AssertionError, match="duplicate middleware"):
        built(client, [], ConvSyncMiddleware(client))
