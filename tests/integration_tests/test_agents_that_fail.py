"""Agents that fail: the log and the dead letter tell why, and nobody's words."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel
from typer.testing import CliRunner

from langchain_convsync import TurnRunner
from langchain_convsync._flow import run
from langchain_convsync.cli import command_line
from langchain_convsync.client import ConvSyncClient
from langchain_convsync.stores import EventStore, SQLiteEventStore
from langchain_convsync.stores.base import new_token
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from tests import promises
from tests.promises import Answer, awaited, blocking, echo, said, sync_and_async

server = promises.server
WORDS = "canary-words"
HERE = "integration_tests/test_agents_that_fail.py"


@pytest.fixture
def client(server: ReferenceServer) -> Iterator[ConvSyncClient]:
    """A client of the server."""
    with server.client() as client:
        yield client


def failing(agent: Any, client: ConvSyncClient, store: EventStore, **settings: Any) -> TurnRunner:
    """A runner that gives up at the first failure."""
    return TurnRunner(agent, client=client, store=store, **{"max_errors": 1, **settings})


def pay(*_: object) -> Any:
    """What an agent's code does."""
    raise ValueError(WORDS)


async def apay(*_: object) -> Any:
    pay()


@tool
def order(pizza: str) -> str:
    """Order a pizza."""
    return str(pay(pizza))


def with_tool() -> Runnable[Any, Any]:
    """An agent whose tool fails."""
    calls = AIMessage("", tool_calls=[{"name": "order", "args": {"pizza": WORDS}, "id": "1"}])
    return create_agent(ScriptedChatModel(responses=[calls] * 9), [order])


async def in_a_group(_: object) -> Any:
    async with asyncio.TaskGroup() as group:
        group.create_task(apay())


def in_parallel() -> Runnable[Any, Any]:
    """A graph of two nodes at once."""
    graph: Any = StateGraph(MessagesState)
    graph.add_node("fails", pay)
    graph.add_node("answers", lambda _: {"messages": [AIMessage("Hola")]})
    graph.add_edge(START, "fails")
    graph.add_edge(START, "answers")
    compiled: Runnable[Any, Any] = graph.compile()
    return compiled


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as wrong."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@sync_and_async
@pytest.mark.parametrize("agent", [RunnableLambda(pay), with_tool(), in_parallel()])
def test_a_failed_run_tells_class_and_place(
    answer: Answer,
    agent: Any,
    client: ConvSyncClient,
    event_store: EventStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the log, under the conversation's key, and as the reason of the dead letter."""
    turn = answer(failing(agent, client, event_store, max_errors=2), said("Hola"))

    (letter,) = run(event_store.dead_letters())
    assert turn.status == "failed"
    assert letter.reason.startswith("the agent failed 2 times, last with ValueError at " + HERE)
    assert letter.reason.endswith(" in pay")
    first, second = lines(caplog)
    key = letter.conversation_key
    assert first.startswith(f"Conversation {key}: the agent failed (run 1 of 2): ValueError at ")
    assert " in pay; for its text pass TurnRunner(log_errors=True)" in first
    assert "(run 2 of 2)" in second
    assert WORDS not in f"{caplog.text}{letter.reason}"


def test_a_group_of_errors_tells_the_first(
    client: ConvSyncClient, event_store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    """What async agents do in parallel ends as a group, which says nothing by itself."""
    awaited(failing(RunnableLambda(in_a_group), client, event_store), said("Hola"))

    (line,) = lines(caplog)
    assert f"ValueError at {HERE}:" in line
    assert " in pay" in line
    assert "ExceptionGroup" not in line


@sync_and_async
@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"prepare": pay}, "prepare="),
        ({"context": pay}, "context="),
        ({"agent": lambda _: pay()}, "agent="),
    ],
)
def test_whose_function_failed_is_told(
    answer: Answer,
    settings: dict[str, Any],
    argument: str,
    client: ConvSyncClient,
    event_store: EventStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Which argument it was, with class and place."""
    agent = create_agent(ScriptedChatModel(responses=["Hola"]))

    answer(
        failing(**{"agent": agent, "client": client, "store": event_store, **settings}), said("1")
    )

    (letter,) = run(event_store.dead_letters())
    told = f"ValueError of {argument} at {HERE}:"
    assert told in letter.reason
    assert told in lines(caplog)[0]


@sync_and_async
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"extractor": pay}, "extractor= failed with ValueError at {here}"),
        ({"on_reply": pay}, "on_reply= failed with ValueError at {here}"),
    ],
)
def test_what_fails_beside_the_reply_is_told_as_well(
    answer: Answer,
    settings: dict[str, Any],
    told: str,
    client: ConvSyncClient,
    event_store: EventStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The customer's reply is there; the log tells what is not."""
    turn = answer(failing(echo(), client, event_store, **settings), said("Hola"))

    (line,) = lines(caplog)
    assert turn.status == "answered"
    assert line.startswith("Conversation ")
    assert told.format(here=HERE) in line
    assert WORDS not in caplog.text


@sync_and_async
def test_the_log_has_texts_where_that_is_asked_for(
    answer: Answer,
    client: ConvSyncClient,
    event_store: EventStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """For development: the whole traceback, of each function that was passed."""
    settings: dict[str, Any] = {"extractor": pay, "on_reply": pay, "log_errors": True}
    answer(failing(RunnableLambda(pay), client, event_store, log_errors=True), said("1"))
    answer(failing(echo(), client, event_store, **settings), said("2"))

    assert caplog.text.count(f"ValueError: {WORDS}") == 3
    assert "log_errors" not in " ".join(lines(caplog))


class Order(BaseModel):
    """What a chain may return."""

    items: list[str] = [WORDS]


@dataclasses.dataclass
class Receipt:
    """Another thing that it may."""

    total: str = WORDS


def pieces() -> Iterator[str]:
    yield WORDS


PICK = (
    "returned a dict with the keys answer, sources: return a text, {'output': text} or "
    "{'messages': […]}, or pass what picks the text, agent.pick('answer') for example"
)


async def later() -> str:
    return WORDS


@sync_and_async
@pytest.mark.parametrize(
    ("output", "told"),
    [
        (lambda: None, "returned None: return a text, {'output': text} or {'messages': […]}"),
        (lambda: 3, "returned an int: return a text"),
        (lambda: True, "returned a bool: return a text"),
        (lambda: "", "returned an empty text"),
        (lambda: ["a", WORDS], "returned a list of str: join it into one text"),
        (lambda: ("a", WORDS), "returned a tuple of str: join it into one text"),
        (lambda: [Document(WORDS)], "returned a list of Document: return a text"),
        (pieces, "returned a generator: join what it yields"),
        (later, "returned a coroutine: pass the async function itself, RunnableLambda(function)"),
        (Order, "returned an Order with the fields items: give it a field `reply`"),
        (Receipt, "returned a Receipt with the fields total: give it a field `reply`"),
        (dict, "returned a dict: return a text"),
        (
            lambda: {"answer": WORDS, "sources": [], "+51999999999": 1},
            PICK,
        ),
        (lambda: {"output": 3}, "'output' is an int: it has to be a text"),
        (lambda: {"messages": []}, "messages hold none that is new"),
        (lambda: {"messages": [("ai", WORDS)]}, "messages are of type tuple: return LangChain's"),
        (lambda: {"messages": [{"role": "ai"}]}, "messages are of type dict: return LangChain's"),
        (lambda: {"messages": [HumanMessage(WORDS)]}, "messages end with a HumanMessage"),
        (lambda: ToolMessage(WORDS, tool_call_id="1"), "messages end with a ToolMessage"),
        (lambda: AIMessage(""), "last message has no text"),
        (
            lambda: AIMessage("", tool_calls=[{"name": "a", "args": {}, "id": "1"}]),
            "last message calls tools and has no text",
        ),
        (lambda: {"structured_response": Order()}, "give its response_format a field `reply`"),
    ],
)
def test_what_cannot_be_used_is_told_with_what_would_do(
    answer: Answer,
    output: Callable[[], object],
    told: str,
    client: ConvSyncClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Types and names of fields, never values."""
    store = SQLiteEventStore(":memory:")
    runner = failing(RunnableLambda(lambda _: output()), client, store, fallback_reply="Disculpe")

    turn = answer(runner, said("Hola"))

    (letter,) = run(store.dead_letters())
    assert (turn.status, turn.reply) == ("failed", "Disculpe")
    assert told in letter.reason
    assert told in lines(caplog)[0]
    assert WORDS not in f"{letter.reason}{caplog.text}"
    assert "999999999" not in f"{letter.reason}{caplog.text}"
    store.close()


async def hello(_: object) -> dict[str, Any]:
    return {"messages": [AIMessage("Hola")]}


@tool
async def look(pizza: str) -> str:
    """Look for a pizza."""
    return pizza


def with_async_tool() -> Runnable[Any, Any]:
    """An agent as MCP's tools make it."""
    calls = AIMessage("", tool_calls=[{"name": "look", "args": {"pizza": "grande"}, "id": "1"}])
    return create_agent(ScriptedChatModel(responses=[calls, "Hola"]), [look])


def async_graph() -> Runnable[Any, Any]:
    """A graph with an async node."""
    graph: Any = StateGraph(MessagesState)
    graph.add_node("hello", hello)
    graph.add_edge(START, "hello")
    compiled: Runnable[Any, Any] = graph.compile()
    return compiled


class AwaitedSaver(InMemorySaver):
    """A memory as database drivers make it."""

    def get_tuple(self, config: Any) -> Any:
        message = "Synchronous calls to AwaitedSaver are not allowed"
        raise asyncio.InvalidStateError(message)

    async def aget_tuple(self, config: Any) -> Any:
        return super().get_tuple(config)


def with_async_memory() -> Runnable[Any, Any]:
    """An agent whose memory can only be awaited."""
    return create_agent(ScriptedChatModel(responses=["Hola"]), checkpointer=AwaitedSaver())


def test_an_agent_that_turns_out_to_be_async_says_so_in_a_blocking_run(
    client: ConvSyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Awaited, it answers; most are refused before their first event."""
    store = SQLiteEventStore(":memory:")

    failed = blocking(failing(with_async_memory(), client, store), said("1"))
    answered = awaited(failing(with_async_memory(), client, store), said("2"))

    assert (failed.status, answered.status, answered.reply) == ("failed", "answered", "Hola")
    assert "this agent is async: use arun(), or convsync worker" in lines(caplog)[0]
    store.close()


def graph() -> Runnable[Any, Any]:
    return create_agent(ScriptedChatModel(responses=["Hola"]))


@sync_and_async
@pytest.mark.parametrize(
    ("agent", "prepared", "told"),
    [
        (graph, None, "prepare= returned None: return the agent's input, for a graph {'messages'"),
        (graph, "Hola", "prepare= returned a str, and a graph takes a mapping: {'messages': […]}"),
        (graph, [HumanMessage(WORDS)], "prepare= returned a list of HumanMessage, and a graph"),
        (graph, HumanMessage(WORDS), "prepare= returned a HumanMessage, and a graph takes"),
        (echo, None, "prepare= returned None"),
        (
            lambda: FakeListChatModel(responses=["Hola"]),
            {"messages": []},
            "prepare= returned a dict, and a chat model takes a list of messages",
        ),
    ],
)
def test_what_prepare_made_is_looked_at_before_the_agent_gets_it(
    answer: Answer,
    agent: Callable[[], Runnable[Any, Any]],
    prepared: object,
    told: str,
    client: ConvSyncClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """LangGraph would repeat it in its own error."""
    store = SQLiteEventStore(":memory:")
    runner = failing(agent(), client, store, prepare=lambda *_: prepared)

    assert answer(runner, said("Hola")).status == "failed"

    assert told in lines(caplog)[0]
    assert WORDS not in caplog.text
    store.close()


async def prepared_later(_conversation: object, events: Any) -> Any:
    return {"messages": [HumanMessage(events[-1].content)]}


def test_an_async_prepare_is_awaited_where_it_can_be(
    client: ConvSyncClient, event_store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    """In a blocking run it says what to do."""
    settings: dict[str, Any] = {"prepare": prepared_later}

    answered = awaited(failing(graph(), client, event_store, **settings), said("1"))
    failed = blocking(failing(graph(), client, event_store, **settings), said("2"))

    assert (answered.status, failed.status) == ("answered", "failed")
    assert "prepare= is async: use arun(), or pass a plain function" in lines(caplog)[0]


@sync_and_async
def test_a_function_that_answers_in_a_factorys_place_is_told_at_its_first_turn(
    answer: Answer, client: ConvSyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nothing tells before: its parameter has no telling name."""
    store = SQLiteEventStore(":memory:")

    answer(failing(lambda x: f"You said {x}", client, store), said("Hola"))

    assert "returned is a str" in lines(caplog)[0]
    assert "RunnableLambda(function)" in lines(caplog)[0]
    store.close()


@sync_and_async
def test_an_event_whose_runs_never_ended_says_so(
    answer: Answer, client: ConvSyncClient, event_store: EventStore
) -> None:
    """As an agent leaves it that kills its process."""
    runner = failing(echo(), client, event_store, max_starts=2)
    runner.accept(said("Hola"))
    for _ in range(2):  # two processes that died
        acquired = run(event_store.acquire("inbox", new_token(), lease=0.001))
        while acquired is None:
            acquired = run(event_store.acquire("inbox", new_token(), lease=0.001))

    assert answer(runner, said("Hola")).status == "failed"

    (letter,) = run(event_store.dead_letters())
    assert letter.reason == (
        "its run was begun 2 times and never ended: the process died, was killed or stood still "
        "meanwhile"
    )


def test_show_prints_why(client: ConvSyncClient, tmp_path: Any) -> None:
    """What an operator looks at first."""
    url = f"sqlite:///{tmp_path / 'turns.db'}"
    store = SQLiteEventStore(tmp_path / "turns.db")
    blocking(failing(RunnableLambda(pay), client, store), said("Hola"))
    store.close()

    shown = CliRunner().invoke(
        command_line(), ["show", promises.CUSTOMER, "--store", url, "--json"]
    )
    words = CliRunner().invoke(command_line(), ["show", promises.CUSTOMER, "--store", url])

    (letter,) = json.loads(shown.output)["dead_letters"]
    assert letter["reason"].startswith(f"the agent failed once, last with ValueError at {HERE}:")
    assert "last with ValueError at" in " ".join(words.output.split())


@sync_and_async
def test_an_api_server_that_is_away_is_one_line_a_minute(
    answer: Answer,
    server: ReferenceServer,
    client: ConvSyncClient,
    event_store: EventStore,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However often its events are looked at, and under the key that ``convsync hash`` tells."""
    monkeypatch.setattr("langchain_convsync.turns.process.RETRY_LATER", 0.0)
    server.stop()
    runner = failing(echo(), client, event_store)
    for _ in range(3):
        assert answer(runner, said("Hola"), 0.0).status == "queued"

    waiting = [line for line in lines(caplog) if "its events wait for the API server" in line]
    assert len(waiting) == 1
    assert waiting[0].startswith("Conversation ")


@sync_and_async
def test_what_is_logged_of_a_conversation_is_found_by_its_key(
    answer: Answer, client: ConvSyncClient, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """That which ``convsync hash`` tells of a phone number."""
    store = SQLiteEventStore(tmp_path / "turns.db")
    answer(failing(RunnableLambda(pay), client, store), said("1"))
    answer(failing(echo(), client, store, on_reply=pay), said("2"))
    store.close()

    url = f"sqlite:///{tmp_path / 'turns.db'}"
    hashed = ["hash", promises.CUSTOMER, "--store", url, "--json"]
    key = json.loads(CliRunner().invoke(command_line(), hashed).output)["conversation"]

    assert len(lines(caplog)) == 2
    assert all(line.startswith(f"Conversation {key}: ") for line in lines(caplog))
