"""An agent on LangGraph's server, seen as a graph of this process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel.remote import RemoteException, RemoteGraph
from langgraph.types import Interrupt
from langgraph_sdk.client import SyncLangGraphClient

from langchain_convsync._flow import run
from langchain_convsync.errors import AgentServerError, ConfigurationError, LoopError
from langchain_convsync.surfaces.context import ConversationRef
from langchain_convsync.surfaces.messages import messages_of
from langchain_convsync.turns.agent import baseline, call_for, has_memory, is_graph
from langchain_convsync.turns.agents import Agents
from langchain_convsync.turns.remote import RemoteAgent, at_home, local
from langchain_convsync.turns.said import reply_of
from tests.surfaces import PHONE, in_turn

THREAD: Any = {"configurable": {"thread_id": "key.tenant", "session_id": "key.tenant"}}
INPUT = {"messages": [HumanMessage("Hola", id="1")]}


class Answering:
    """A server that answers every request in the same way, and notes what it was asked."""

    def __init__(self, status: int = 500, body: Any = None, error: type | None = None) -> None:
        self.asked: list[httpx.Request] = []
        self._status, self._body, self._error = status, body, error
        transport = httpx.MockTransport(self._answer)
        self.http = httpx.Client(base_url="http://me:secret@agents.example", transport=transport)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if self._error:
            message = "no words of it"
            raise self._error(message)
        return httpx.Response(self._status, json=self._body)

    def agent(self) -> RemoteAgent:
        return RemoteAgent(RemoteGraph("waiter", sync_client=SyncLangGraphClient(self.http)))


@pytest.fixture
def remote() -> Iterator[RemoteGraph]:
    server = Answering()
    yield RemoteGraph("waiter", sync_client=SyncLangGraphClient(server.http))
    server.http.close()


def graph(**given: Any) -> Runnable[Any, Any]:
    built = StateGraph(MessagesState).add_node("say", lambda _: {"messages": [AIMessage("Sí")]})
    return built.add_edge(START, "say").compile(**given)


def wrapped(agent: Runnable[Any, Any]) -> list[Runnable[Any, Any]]:
    """The agent as its user may pass it."""
    return [
        agent,
        agent.with_config(tags=["mine"]),
        agent.bind(headers={"x-key": "1"}),
        agent.with_retry(),
        agent.with_fallbacks([RunnableLambda(lambda _: "Sí")]),
        agent.with_retry().with_config(run_name="mine").bind(a=1),
    ]


def test_a_remote_graph_is_one_with_memory_however_it_is_bound(remote: RemoteGraph) -> None:
    """It takes a dict, remembers, and is asked for its state."""
    for each in map(at_home, wrapped(remote)):
        assert isinstance(each, RemoteAgent)
        assert each.graph.assistant_id == "waiter"
        assert is_graph(each)
        assert has_memory(each)


@pytest.mark.parametrize("checkpointer", [None, InMemorySaver()], ids=["forgets", "remembers"])
def test_a_compiled_graph_is_one_however_it_is_bound(checkpointer: Any) -> None:
    """With the memory that it has, and no other wrapping than its user's."""
    for each in wrapped(graph(checkpointer=checkpointer)):
        assert at_home(each) is each
        assert is_graph(each)
        assert has_memory(each) is (checkpointer is not None)


def test_a_chain_is_no_graph_and_a_history_remembers() -> None:
    chain: Runnable[Any, Any] = RunnableLambda(lambda _: "Sí")
    for each in wrapped(chain):
        assert not is_graph(each)
        assert not has_memory(each)
    with pytest.warns(DeprecationWarning, match="RunnableWithMessageHistory"):
        remembering = RunnableWithMessageHistory(chain, lambda _: None)  # type: ignore[arg-type, return-value]
    assert has_memory(remembering.with_retry())


def test_what_a_server_tells_in_json_is_langchains_again() -> None:
    """With all that messages and interrupts have, and nothing of what is neither."""
    messages = [
        HumanMessage("Hola", id="1"),
        AIMessage("", id="2", tool_calls=[{"name": "menu", "args": {"a": 1}, "id": "c"}]),
        ToolMessage("no", id="3", tool_call_id="c", status="error", artifact={"a": 1}),
        AIMessage("Sí", id="4", response_metadata={"finish_reason": "length"}),
    ]
    told = {"messages": [each.model_dump(mode="json") for each in messages], "step": "menu"}
    asked = [{"value": "¿Sí?", "id": "a", "response_schema": None, "what is new": 1}]

    assert messages_of(local(told)) == messages
    assert local(told)["step"] == "menu"
    assert local({**told, "__interrupt__": asked})["__interrupt__"] == [Interrupt("¿Sí?", id="a")]
    assert local(told["messages"][0]) == messages[0]
    assert local(told["messages"]) == messages
    assert local("Sí") == "Sí"
    unknown: dict[str, Any] = {"messages": [{"type": "poem", "content": "Sí"}, {"type": "ai"}, 1]}
    assert messages_of(local(unknown)) == []


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (400, "context or configurable, not both"),
        (401, "api_key="),
        (403, "api_key="),
        (404, r"RemoteGraph\(url="),
        (409, "multitask_strategy"),
        (422, "langgraph.json"),
        (429, "too much to do"),
        (500, "its log says why"),
    ],
)
def test_a_refusal_says_what_to_do_and_nothing_of_what_was_said(status: int, advice: str) -> None:
    """The body of an answer may repeat the customer's words, an address the password."""
    server = Answering(status, {"detail": "Hola"})

    with server.http, pytest.raises(AgentServerError, match=advice) as told:
        server.agent().invoke(INPUT, THREAD)

    assert str(told.value).startswith("LangGraph's server at http://agents.example did not take")
    assert "Hola" not in str(told.value)


@pytest.mark.parametrize(
    "error", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError]
)
def test_a_server_that_is_away_is_told_by_where_it_was_looked_for(error: type) -> None:
    server = Answering(error=error)

    with server.http, pytest.raises(AgentServerError, match=f"{error.__name__}.*start it") as told:
        server.agent().get_state(THREAD)

    assert "http://agents.example did not answer" in str(told.value)
    assert "no words of it" not in str(told.value)


@pytest.mark.parametrize("kind", ["ValueError", "words of a customer", None])
def test_a_failed_run_is_told_by_the_name_of_its_error(kind: object, remote: RemoteGraph) -> None:
    """By a name only: whatever else stands there may be anything."""
    agent = RemoteAgent(remote)

    def fail(*_: Any, **__: Any) -> None:
        raise RemoteException({"error": kind, "message": "words of a customer"})

    remote.stream = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(AgentServerError, match="'waiter' failed with") as told:
        agent.invoke(INPUT, THREAD)

    assert ("ValueError" in str(told.value)) is (kind == "ValueError")
    assert "words" not in str(told.value)


def test_a_run_without_an_end_is_told_as_one_of_this_process(remote: RemoteGraph) -> None:
    """The server ends it after as many steps as the turn allows."""

    def fail(*_: Any, **__: Any) -> None:
        raise RemoteException({"error": "GraphRecursionError", "message": "words"})

    remote.stream = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(LoopError, match=r"with_config\(recursion_limit=…\)"):
        RemoteAgent(remote).invoke(INPUT, THREAD)


def test_an_error_of_another_kind_is_left_as_it_is(remote: RemoteGraph) -> None:
    """A defect of the user's own code must be found."""

    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("mine")

    remote.stream = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyError, match="mine"):
        RemoteAgent(remote).invoke(INPUT, THREAD)


@pytest.mark.parametrize("of", [ConversationRef(PHONE), {"whose": ConversationRef(PHONE)}])
def test_a_context_that_holds_the_customers_number_does_not_leave(of: object) -> None:
    """The server would copy it into what tracers export."""
    server = Answering()

    with server.http, pytest.raises(ConfigurationError, match="pass a sealed handle"):
        server.agent().invoke(INPUT, THREAD, context=of)

    assert server.asked == []


@pytest.mark.parametrize(
    "context",
    [PHONE, {"of": PHONE}, {"of": {"a": [PHONE[1:]]}}, {"chat": f"{PHONE[1:]}@c.us"}],
)
def test_a_number_in_a_turns_context_does_not_leave(context: object) -> None:
    """However it is written there; what names nobody leaves."""
    server = Answering()

    with server.http, in_turn():
        with pytest.raises(ConfigurationError, match=r"the customer's number.*a sealed handle"):
            server.agent().invoke(INPUT, THREAD, context=context)
        assert server.asked == []
        with pytest.raises(AgentServerError):
            server.agent().invoke(INPUT, THREAD, context={"handle": "sealed"})

    assert server.asked


def test_a_client_that_is_missing_is_named(remote: RemoteGraph) -> None:
    """RemoteGraph takes a client of either kind, and turns may need the other."""
    with pytest.raises(ConfigurationError, match=r"no client, which arun\(\) needs"):
        _ = RemoteAgent(remote)._client("client")


def test_a_thread_that_is_not_there_yet_is_an_empty_one() -> None:
    """The first run makes it: no call beforehand."""
    server = Answering(404, {"detail": "Thread not found"})

    with server.http:
        before = run(baseline(call_for(server.agent(), [], [], thread="key.tenant")))

    assert (before.values, before.interrupts) == ({}, ())
    assert [request.method for request in server.asked] == ["GET"]
    assert "key" not in str(server.asked[0].url)


def test_what_the_thread_held_before_is_no_news() -> None:
    """An old answer that was cut off, say, does not fail the runs after it; no task waits."""
    said = AIMessage("Sí", id="1", response_metadata={"finish_reason": "length"})
    held = {"messages": [said.model_dump(mode="json")], "intent": "order"}
    server = Answering(200, {"values": held, "tasks": [{"name": "say", "interrupts": []}]})

    with server.http:
        before = run(baseline(call_for(server.agent(), [], [], thread="key.tenant")))

    assert before.values == {"messages": [said], "intent": "order"}
    assert not before.interrupts
    told = {"messages": [said, AIMessage("No", id="2")]}
    assert reply_of(told, before.values) == "No"


def test_an_agent_of_a_tenants_own_may_be_remote(remote: RemoteGraph) -> None:
    """A factory's agents are what the one agent of all would be."""
    made = Agents(lambda _: remote.bind(headers={})).of(ConversationRef(PHONE))

    assert isinstance(made, RemoteAgent)
    assert is_graph(remote)  # as it is, too: by langgraph's own protocol


def test_langgraph_is_loaded_for_nobody_who_does_not_use_it() -> None:
    """A chain in a runner starts without it."""
    program = """
import sys
from langchain_core.runnables import RunnableLambda
from langchain_convsync.turns.agent import call_for
from langchain_convsync.turns.agents import Agents
agent = Agents(RunnableLambda(str)).of(None)
call_for(agent, [], [], thread="1")
sys.exit("langgraph" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
