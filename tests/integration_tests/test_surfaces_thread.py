"""An agent that remembers by itself, in a conversation in which others speak, too."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.runnables import Runnable
from langgraph.checkpoint.memory import InMemorySaver

from langchain_convsync.client import AsyncConvSyncClient
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.models import InboundEvent
from langchain_convsync.settings import ServerProfile
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.turns import Turn, TurnRunner
from tests import served
from tests.served import PIZZA, THREAD, Client, assisted, read_by, words
from tests.surfaces import BOT, PHONE, TENANT, invoke, sync_and_async

reference, server, client = served.reference, served.server, served.client

BEGIN = ["Hola", "¡Hola! Bienvenido"]


def said(text: str) -> dict[str, Any]:
    return {"messages": [("user", text)]}


def someone_says(server: ReferenceServer, role: Any, text: str) -> None:
    """A colleague at the API server, or another channel of the customer."""
    with server.client() as their:
        their.add_message(server.conversation(PHONE).session_id, role, text)


async def answered(mode: str, runner: TurnRunner, number: int, text: str) -> Turn:
    event = InboundEvent(event_id=f"evt-{number}", phone_number=PHONE, text=text)
    return runner.run(event) if mode == "sync" else await runner.arun(event)


@sync_and_async
async def test_a_humans_words_between_two_turns_reach_the_model_once_and_in_their_place(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """In every later call, too; and nothing is written twice."""
    script = ["Con gusto", "De nada", "Hasta luego"]
    model, agent = assisted(script, client, checkpointer=InMemorySaver())

    with in_conversation(PHONE):
        await invoke(mode, agent, PIZZA, THREAD)
        someone_says(server, "bot", "Soy Ana: va con descuento")
        await invoke(mode, agent, said("Gracias"), THREAD)
        await invoke(mode, agent, said("Adiós"), THREAD)

    second = [*BEGIN, "Una pizza", "Con gusto", "Soy Ana: va con descuento", "Gracias"]
    assert read_by(model, 1) == second
    assert read_by(model, 2) == [*second, "De nada", "Adiós"]
    assert [text for _, text in words(server)] == [*read_by(model, 2)[2:], "Hasta luego"]


@sync_and_async
async def test_a_humans_words_reach_a_runners_agent_that_remembers(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """Those at the API server, and all that was said while a human had the conversation."""
    model, agent = assisted(["Con gusto", "De nada", "Sí"], client, checkpointer=InMemorySaver())
    runner = TurnRunner(agent, client=client, store=SQLiteEventStore(":memory:"))

    await answered(mode, runner, 1, "Una pizza")
    runner.pause(PHONE, seconds=600.0)
    assert (await answered(mode, runner, 2, "¿Hay alguien?")).status == "paused"
    someone_says(server, "bot", "Soy Ana: va con descuento")
    runner.resume(PHONE)
    await answered(mode, runner, 3, "Gracias")
    await answered(mode, runner, 4, "¿Con descuento?")
    await runner.store.aclose()

    told = [
        *BEGIN,
        "Una pizza",
        "Con gusto",
        "¿Hay alguien?",
        "Soy Ana: va con descuento",
        "Gracias",
        "De nada",
        "¿Con descuento?",
    ]
    assert read_by(model) == told
    assert [text for _, text in words(server)] == [*told[2:], "Sí"]


@sync_and_async
async def test_a_runners_reply_that_is_recorded_trimmed_does_not_come_back(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """The thread holds what the model said, the history what the customer was sent."""
    model, agent = assisted(["Con gusto\n", "De nada"], client, checkpointer=InMemorySaver())
    runner = TurnRunner(agent, client=client, store=SQLiteEventStore(":memory:"))

    await answered(mode, runner, 1, "Una pizza")
    await answered(mode, runner, 2, "Gracias")
    await runner.store.aclose()

    assert words(server)[1] == ("bot", "Con gusto")
    assert read_by(model) == [*BEGIN, "Una pizza", "Con gusto\n", "Gracias"]


@pytest.mark.parametrize("memory", ["stateless", "checkpointed"])
@sync_and_async
async def test_what_the_server_records_itself_is_not_told_twice(
    server: ReferenceServer, mode: str, memory: str
) -> None:
    """Its webhook was there before the agent: the customer's words stand in the history already."""
    saver = InMemorySaver() if memory == "checkpointed" else None
    profile = ServerProfile(records_inbound=True)

    async with AsyncConvSyncClient(server.base_url, profile=profile) as client:
        model, agent = assisted(["Con gusto", "De nada", "¿Sí?"], client, checkpointer=saver)
        with in_conversation(PHONE):
            for text in ("Una pizza", "Gracias", "Gracias"):
                someone_says(server, "user", text)
                await invoke(mode, agent, said(text), THREAD)

    told = [*BEGIN, "Una pizza", "Con gusto", "Gracias", "De nada", "Gracias"]
    assert read_by(model) == told
    assert [text for _, text in words(server)] == [*told[2:], "¿Sí?"]


@sync_and_async
async def test_a_history_that_could_not_be_read_comes_with_the_next_turn(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """Before the thread: what the thread holds is newer."""
    model, agent = assisted(["¿Sí?", "De nada"], client, checkpointer=InMemorySaver())

    with in_conversation(PHONE):
        server.stop()
        await invoke(mode, agent, PIZZA, THREAD)
        server.start()
        await invoke(mode, agent, said("Gracias"), THREAD)

    assert read_by(model, 0) == ["Una pizza"]
    assert read_by(model, 1) == [*BEGIN, "Una pizza", "¿Sí?", "Gracias"]


@sync_and_async
async def test_a_thread_goes_on_in_a_new_session(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """The server's history begins anew; what others said in it is told, nothing else again."""
    model, agent = assisted(["Con gusto", "De nada"], client, checkpointer=InMemorySaver())

    with in_conversation(PHONE):
        await invoke(mode, agent, PIZZA, THREAD)
        server.expire(server.conversation(PHONE).session_id)
        server.create_conversation(phone_number=PHONE, subdomain=TENANT, bot_id=BOT, context={})
        someone_says(server, "bot", "¡Buenos días!")
        await invoke(mode, agent, said("Gracias"), THREAD)

    assert read_by(model) == [*BEGIN, "Una pizza", "Con gusto", "¡Buenos días!", "Gracias"]


@sync_and_async
async def test_a_run_that_is_tried_again_is_not_told_twice(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """A model error ends a run after the conversation was read."""
    script = ["Con gusto", TimeoutError(), "De nada"]
    model, agent = assisted(script, client, checkpointer=InMemorySaver())

    with in_conversation(PHONE):
        await invoke(mode, agent, PIZZA, THREAD)
        someone_says(server, "bot", "Soy Ana")
        with pytest.raises(TimeoutError):
            await invoke(mode, agent, said("Gracias"), THREAD)
        await invoke(mode, agent, {"messages": []}, THREAD)

    assert read_by(model) == [*BEGIN, "Una pizza", "Con gusto", "Soy Ana", "Gracias"]
    assert words(server)[-2:] == [("user", "Gracias"), ("bot", "De nada")]


def summarizing(
    client: Client, script: list[Any], *, keep: int = 2
) -> tuple[ScriptedChatModel, Runnable[Any, Any]]:
    """An agent whose thread is condensed beyond four messages."""
    model = ScriptedChatModel(script)
    summary = SummarizationMiddleware(
        ScriptedChatModel(["La clienta pidió una pizza."] * 9),
        trigger=("messages", 5),
        keep=("messages", keep),
    )
    both: list[Any] = [ConvSyncMiddleware(client), summary]  # of two kinds of state
    agent: Runnable[Any, Any] = create_agent(
        model, [], middleware=both, checkpointer=InMemorySaver()
    )
    return model, agent


@sync_and_async
async def test_beside_a_summary_nothing_is_lost_or_comes_back(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """What joined the thread is condensed with it, and is told once until then."""
    model, agent = summarizing(client, ["Con gusto", "De nada", "Sí", "No", "Adiós"])

    with in_conversation(PHONE):
        await invoke(mode, agent, PIZZA, THREAD)
        someone_says(server, "bot", "Soy Ana")
        for text in ("Gracias", "¿Hay postre?", "¿Y café?", "Nada más"):
            await invoke(mode, agent, said(text), THREAD)

    assert read_by(model, 0) == [*BEGIN, "Una pizza"]
    summary, *rest = read_by(model, 1)
    assert "La clienta pidió una pizza." in summary
    assert rest == ["Soy Ana", "Gracias"]
    assert read_by(model, 2)[1:] == ["De nada", "¿Hay postre?"]
    assert max(map(len, model.calls)) <= 6  # the system prompt included
    recorded = [text for _, text in words(server)]
    assert recorded == [
        "Una pizza",
        "Con gusto",
        "Soy Ana",
        "Gracias",
        "De nada",
        "¿Hay postre?",
        "Sí",
        "¿Y café?",
        "No",
        "Nada más",
        "Adiós",
    ]


@sync_and_async
async def test_a_summary_is_never_taken_for_the_customers_words(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """LangChain makes it a human message; after a model error it stands before the next one."""
    script = ["Con gusto", "De nada", TimeoutError(), "Sí"]
    _, agent = summarizing(client, script, keep=1)

    with in_conversation(PHONE):
        await invoke(mode, agent, PIZZA, THREAD)
        await invoke(mode, agent, said("Gracias"), THREAD)
        with pytest.raises(TimeoutError):
            await invoke(mode, agent, said("¿Hay postre?"), THREAD)
        await invoke(mode, agent, said("¿Hola?"), THREAD)

    assert words(server)[4:] == [("user", "¿Hay postre?"), ("user", "¿Hola?"), ("bot", "Sí")]
