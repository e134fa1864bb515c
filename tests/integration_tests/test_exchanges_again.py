"""Runs that are half an exchange, or the same one again: interrupts, failures, replays, forks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
)
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Command, interrupt

from langchain_convsync.errors import APIConnectionError
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.middleware._notes import NAMESPACE
from langchain_convsync.surfaces.access import Access
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from tests import postgres_server, served
from tests.served import THREAD, Client, read_by, requests, state, words
from tests.surfaces import PHONE, calls, invoke, sync_and_async

reference, server, client = served.reference, served.server, served.client

BEGIN = ["Hola", "¡Hola! Bienvenido"]
RESUME: Command[Any] = Command(resume="yes")
kept_in_a_graph = pytest.mark.parametrize("shape", ["alone", "node"])


@tool
def confirm() -> str:
    """Ask a human."""
    return str(interrupt("Really?"))


def said(*texts: str) -> dict[str, Any]:
    return {"messages": [("user", text) for text in texts]}


def recorded(server: ReferenceServer) -> list[str]:
    return [text for _, text in words(server)]


def notes() -> AIMessage:
    return calls("sync_state", intent="payment", step="asked")


def built(
    client: Client,
    script: list[Any],
    saver: Any,
    *others: Any,
    shape: str = "alone",
    **options: Any,
) -> tuple[ScriptedChatModel, Any]:
    """An agent that can ask a human, alone or as a node."""
    model, alone = ScriptedChatModel(script), shape == "alone"
    middleware: list[Any] = [ConvSyncMiddleware(client, **options), *others]
    agent: Any = create_agent(
        model, [confirm], middleware=middleware, checkpointer=saver if alone else None
    )
    if not alone:
        around = StateGraph(MessagesState).add_node("agent", agent).add_edge(START, "agent")
        agent = around.compile(checkpointer=saver)
    return model, agent


@kept_in_a_graph
@sync_and_async
async def test_an_interrupted_exchange_goes_on_in_another_process(
    server: ReferenceServer, client: Client, mode: str, shape: str
) -> None:
    """Another graph over the same saver: nothing is forgotten, nothing written before or twice."""
    saver = InMemorySaver()
    _, before = built(client, [notes(), calls("confirm")], saver, shape=shape)
    model, after = built(client, ["Listo"], saver, shape=shape)

    with in_conversation(PHONE):
        await invoke(mode, before, said("Una pizza"), THREAD)
        waiting = (recorded(server), state(server)[0])
        await invoke(mode, after, RESUME, THREAD)

    assert waiting == ([], "order")
    assert recorded(server) == ["Una pizza", "Listo"]
    assert state(server) == ("payment", "asked")
    assert requests(server).count("PUT") == 1
    assert read_by(model) == [*BEGIN, "Una pizza"]
    assert "conversation_state" in str(model.calls[-1][0].content)


@sync_and_async
async def test_a_reply_that_a_human_changes_is_recorded_as_it_was_changed(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """The agent has ended before its graph waits; nothing of ours runs when that goes on."""

    def review(state: Any) -> Any:
        changed = interrupt(state["messages"][-1].text)
        return {"messages": [AIMessage(changed, id=state["messages"][-1].id)]}

    agent: Runnable[Any, Any] = create_agent(
        ScriptedChatModel([notes(), "Gratis"]), middleware=[ConvSyncMiddleware(client)]
    )
    graph = StateGraph(MessagesState).add_node("agent", agent).add_node("review", review)
    graph.add_edge(START, "agent").add_edge("agent", "review")
    reviewed: Runnable[Any, Any] = graph.compile(checkpointer=InMemorySaver())

    with in_conversation(PHONE):
        await invoke(mode, reviewed, said("¿Cuánto?"), THREAD)
        waiting = recorded(server)
        await invoke(mode, reviewed, Command(resume="25 soles"), THREAD)

    assert waiting == []
    assert recorded(server) == ["¿Cuánto?", "25 soles"]
    assert state(server) == ("payment", "asked")


@kept_in_a_graph
@sync_and_async
async def test_what_a_failed_run_was_told_is_synced_by_the_next(
    server: ReferenceServer, client: Client, mode: str, shape: str
) -> None:
    """The customer's words and the model's notes; once."""
    script = [notes(), TimeoutError(), "Con gusto", "De nada"]
    _, graph = built(client, script, InMemorySaver(), shape=shape)

    with in_conversation(PHONE):
        with pytest.raises(TimeoutError):
            await invoke(mode, graph, said("Una pizza"), THREAD)
        await invoke(mode, graph, said("¿Hola?"), THREAD)
        await invoke(mode, graph, said("Gracias"), THREAD)

    assert recorded(server) == ["Una pizza", "¿Hola?", "Con gusto", "Gracias", "De nada"]
    assert state(server) == ("payment", "asked")
    assert requests(server).count("PUT") == 1


@pytest.mark.parametrize("failing", ["user", "bot", "sync"])
@sync_and_async
async def test_an_end_that_failed_half_way_writes_what_is_left_when_it_is_run_again(
    server: ReferenceServer,
    client: Client,
    mode: str,
    failing: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``invoke(None)`` runs the hook again."""
    left = [failing]
    append, decide = Access.append, Access.decide

    def refuse_once(kind: str) -> None:
        if kind in left:
            left.remove(kind)
            raise APIConnectionError(kind)

    def appending(self: Access, message: Any, **more: Any) -> Any:
        refuse_once(message.role)
        yield from append(self, message, **more)

    def deciding(self: Access, update: Any) -> Any:
        refuse_once("sync")
        return (yield from decide(self, update))

    monkeypatch.setattr(Access, "append", appending)
    monkeypatch.setattr(Access, "decide", deciding)
    script = [notes(), "Con gusto", "De nada"]
    _, graph = built(client, script, InMemorySaver(), on_error="raise")

    with in_conversation(PHONE):
        with pytest.raises(APIConnectionError):
            await invoke(mode, graph, said("Una pizza"), THREAD)
        await invoke(mode, graph, None, THREAD)
        await invoke(mode, graph, said("Gracias"), THREAD)

    assert recorded(server) == ["Una pizza", "Con gusto", "Gracias", "De nada"]
    assert state(server) == ("payment", "asked")
    assert requests(server).count("PUT") == 1


@pytest.mark.parametrize("node", ["ConvSyncMiddleware.before_agent", "model"])
@kept_in_a_graph
@sync_and_async
async def test_a_replay_records_no_message_and_syncs_what_it_notes(
    server: ReferenceServer, client: Client, mode: str, shape: str, node: str
) -> None:
    """It hears what the run had heard that it repeats."""
    script = ["Con gusto", "De nada", notes(), "De nada, señora"]
    model, graph = built(client, script, InMemorySaver(), shape=shape)

    with in_conversation(PHONE):
        await invoke(mode, graph, said("Una pizza"), THREAD)
        with server.client() as their:
            their.add_message(server.conversation(PHONE).session_id, "bot", "Soy Ana")
        await invoke(mode, graph, said("Gracias"), THREAD)
        node = node if shape == "alone" else "agent"
        place = next(each for each in graph.get_state_history(THREAD) if each.next == (node,))
        await invoke(mode, graph, None, place.config)

    assert recorded(server) == ["Una pizza", "Con gusto", "Soy Ana", "Gracias", "De nada"]
    assert read_by(model)[: len(BEGIN) + 4] == [*BEGIN, *recorded(server)[:4]]
    assert "De nada" not in read_by(model)
    assert state(server) == ("payment", "asked")


class Forgetful(AgentMiddleware[Any, Any, Any]):
    """Keeps the model's last words only."""

    def after_model(self, state: Any, runtime: Any) -> Any:
        """Remove everything else."""
        last = state["messages"][-1]
        return None if last.tool_calls else {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), last]}


def summaries() -> SummarizationMiddleware:
    model = ScriptedChatModel(["Hablaron."] * 20)
    return SummarizationMiddleware(model, trigger=("messages", 3), keep=("messages", 1))


@pytest.mark.parametrize("memory", ["stateless", "checkpointed"])
@pytest.mark.parametrize("rewriting", [Forgetful, summaries])
@sync_and_async
async def test_a_thread_that_is_rewritten_in_the_run_loses_nothing_that_was_said_or_noted(
    server: ReferenceServer, client: Client, mode: str, rewriting: Callable[[], Any], memory: str
) -> None:
    """Neither is looked for in the messages afterwards."""
    saver = InMemorySaver() if memory == "checkpointed" else None
    script = [notes(), calls("sync_state", context={"size": "L"}), "Con gusto", "De nada"]
    _, graph = built(client, script, saver, rewriting())

    with in_conversation(PHONE):
        for text in ("Una pizza", "Gracias"):
            await invoke(mode, graph, said(text), THREAD)

    assert recorded(server) == ["Una pizza", "Con gusto", "Gracias", "De nada"]
    assert state(server) == ("payment", "asked")
    assert server.conversation(PHONE).context["size"] == "L"


@sync_and_async
async def test_words_that_a_hook_has_redacted_are_the_threads_own_and_do_not_join_it_again(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """The history holds them redacted; what the customer typed is nowhere."""
    model, graph = built(client, ["Gracias", "De nada"], InMemorySaver(), PIIMiddleware("email"))

    with in_conversation(PHONE):
        await invoke(mode, graph, said("Soy ana@example.com"), THREAD)
        await invoke(mode, graph, said("¿Y ahora?"), THREAD)

    assert recorded(server) == ["Soy [REDACTED_EMAIL]", "Gracias", "¿Y ahora?", "De nada"]
    assert read_by(model) == [*BEGIN, *recorded(server)[:-1]]


@sync_and_async
async def test_a_message_that_is_delivered_again_is_not_recorded_again(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """Callers that name their messages may repeat them."""
    _, graph = built(client, ["Con gusto", "De nada"], InMemorySaver())

    with in_conversation(PHONE):
        for _ in range(2):
            await invoke(mode, graph, {"messages": [HumanMessage("Una pizza", id="wa-1")]}, THREAD)

    assert [each for each in words(server) if each[0] == "user"] == [("user", "Una pizza")]


Opened = Callable[[], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]


def _sqlite(mode: str, folder: Path) -> Opened:
    if mode == "sync":
        module = pytest.importorskip("langgraph.checkpoint.sqlite")
        return lambda: module.SqliteSaver.from_conn_string(f"{folder}/sync.db")
    module = pytest.importorskip("langgraph.checkpoint.sqlite.aio")
    return lambda: module.AsyncSqliteSaver.from_conn_string(f"{folder}/async.db")


@asynccontextmanager
async def opened(saver: Any) -> AsyncIterator[Any]:
    if hasattr(saver, "__aenter__"):
        async with saver as found:
            yield found
    else:
        with saver as found:
            yield found
    if hasattr(found, "conn") and not hasattr(saver, "__aenter__"):
        found.conn.close()


async def _lives_with_its_thread(
    server: ReferenceServer, client: Client, mode: str, saver: Opened
) -> None:
    async def run(script: list[Any], given: Any) -> ScriptedChatModel:
        async with opened(saver()) as found:
            if hasattr(found, "conn") and "postgres" in type(found).__module__:
                await found.setup() if mode == "async" else found.setup()
            model, graph = built(client, script, found)
            with in_conversation(PHONE):
                await invoke(mode, graph, given, THREAD)
        return model

    await run([notes(), calls("confirm")], said("Una pizza"))
    await run(["Listo"], RESUME)
    with pytest.raises(TimeoutError):
        await run([TimeoutError()], said("¿Hola?"))
    model = await run(["De nada"], None)

    assert recorded(server) == ["Una pizza", "Listo", "¿Hola?", "De nada"]
    assert state(server) == ("payment", "asked")
    assert read_by(model) == [*BEGIN, "Una pizza", "Listo", "¿Hola?"]
    beside: Any = {"configurable": {"thread_id": "1", "checkpoint_ns": NAMESPACE}}
    async with opened(saver()) as found:
        if mode == "sync":
            assert found.get_tuple(beside) is not None
            found.delete_thread("1")
            assert found.get_tuple(beside) is None
        else:
            assert await found.aget_tuple(beside) is not None
            await found.adelete_thread("1")
            assert await found.aget_tuple(beside) is None


@sync_and_async
async def test_in_a_file_what_is_kept_lives_and_goes_with_its_thread(
    server: ReferenceServer, client: Client, mode: str, tmp_path: Path
) -> None:
    """Each run is another process's."""
    await _lives_with_its_thread(server, client, mode, _sqlite(mode, tmp_path))


@pytest.mark.skipif(postgres_server.binaries() is None, reason="no PostgreSQL server here")
@sync_and_async
async def test_in_postgresql_what_is_kept_lives_and_goes_with_its_thread(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """Its checkpointer keeps values and checkpoints apart."""
    blocking = pytest.importorskip("langgraph.checkpoint.postgres")
    awaited = pytest.importorskip("langgraph.checkpoint.postgres.aio")
    kind = blocking.PostgresSaver if mode == "sync" else awaited.AsyncPostgresSaver
    with postgres_server.postgres() as running:
        url = running.url
        plain = url.replace("+psycopg", "")
        await _lives_with_its_thread(server, client, mode, lambda: kind.from_conn_string(plain))
