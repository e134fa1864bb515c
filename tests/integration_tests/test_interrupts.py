"""An agent that asks the customer: the question goes out, the next message resumes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, interrupt

from langchain_convsync._flow import run
from langchain_convsync.models import InboundEvent, StateUpdate
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.tools import ConvSyncToolkit
from langchain_convsync.turns import TurnRunner, operators
from tests import promises, waiting
from tests.promises import CUSTOMER
from tests.waiting import Calls, asking, asking_at_once, said, syncs

server, calls = promises.server, waiting.calls
pytestmark = pytest.mark.usefixtures("no_pause")
Note = Callable[..., Any]


def runner_of(
    agent: Runnable[Any, Any], server: ReferenceServer, store: EventStore, **settings: Any
) -> TurnRunner:
    return TurnRunner(agent, client=server.client(), store=store, **settings)


def test_a_question_is_the_reply_and_the_next_message_its_answer(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """It is sent like every reply, told to who repeats the event, and no entry of the history."""
    sent: list[str | None] = []
    runner = runner_of(
        asking("¿Seguro?"), server, event_store, on_reply=lambda turn: sent.append(turn.reply)
    )

    asked = calls.run(runner, 1, "Q1")
    again = calls.run(runner, 1, "Q1")
    waits = run(event_store.backlog())
    told = calls.run(runner, 2, "sí")

    assert (asked.status, asked.reply) == ("interrupted", "¿Seguro?")
    assert [each.value for each in asked.interrupts] == ["¿Seguro?"]
    assert (again.status, again.reply, again.interrupts) == (
        *("duplicate", "¿Seguro?"),
        asked.interrupts,
    )
    assert (waits.queued, waits.interrupts) == (0, 1)
    assert (told.status, told.reply) == ("answered", "Dijiste sí")
    assert sent == ["¿Seguro?", "Dijiste sí"]
    assert said(server) == ["Q1", "sí", "Dijiste sí"]
    assert run(event_store.backlog()).interrupts == 0


def test_one_question_after_the_other(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """Each has an answer of its own, wherever the runner is that goes on."""
    agent = asking("¿Qué?", "¿Dónde?")

    turns = [
        calls.run(runner_of(agent, server, event_store), number, text)
        for number, text in enumerate(["Hola", "pizza", "Lima"])
    ]

    assert [turn.reply for turn in turns] == ["¿Qué?", "¿Dónde?", "Dijiste pizza y Lima"]
    assert said(server) == ["Hola", "pizza", "Lima", "Dijiste pizza y Lima"]


def test_questions_that_are_asked_at_once_have_one_answer(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """The customer reads them in one message, and answers in one."""
    runner = runner_of(asking_at_once("¿Qué?", "¿Dónde?"), server, event_store)

    asked = calls.run(runner, 1, "Hola")
    told = calls.run(runner, 2, "pizza en Lima")

    assert asked.reply is not None
    assert sorted(asked.reply.split("\n\n")) == ["¿Dónde?", "¿Qué?"]  # as they were asked
    assert (told.status, told.reply) == ("answered", "Dijiste pizza en Lima")


def test_a_question_beside_another_request_is_for_a_human(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """A customer's words answer no request of another shape."""
    runner = runner_of(
        asking_at_once("¿Qué?", {"total": 25}), server, event_store, interrupt_timeout=None
    )

    asked = calls.run(runner, 1, "Hola")
    waits = calls.run(runner, 2, "¿Y?", 0)
    done = calls.resume(runner, "sí")

    assert (asked.status, asked.reply, waits.status) == ("interrupted", None, "queued")
    assert (done.status, done.reply) == ("answered", "Dijiste sí")


def test_a_question_may_be_answered_by_code(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """Whoever knows it: a message that comes later begins a run of its own."""
    runner = runner_of(asking("¿Seguro?"), server, event_store)
    calls.run(runner, 1, "Q1")

    done = calls.resume(runner, "de verdad")
    after = calls.run(runner, 2, "Q2")

    assert (done.status, done.reply, done.events) == ("answered", "Dijiste de verdad", ())
    assert (after.status, after.reply) == ("interrupted", "¿Seguro?")
    assert said(server) == ["Q1", "Dijiste de verdad", "Q2"]


def test_an_answer_waits_for_the_debounce_window_of_its_own(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """What is written in pieces is one answer, however long ago the question was."""
    runner = runner_of(asking("¿Qué?"), server, event_store, debounce=0.3, max_debounce=60.0)
    calls.run(runner, 1, "Hola")

    waits = calls.run(runner, 2, "una", 0)
    told = calls.run(runner, 3, "pizza")

    assert (waits.status, told.reply) == ("queued", "Dijiste una\npizza")


def test_a_store_that_has_forgotten_the_question_takes_the_answer_all_the_same(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """The agent's own memory waits for the customer's words."""
    runner = runner_of(asking("¿Seguro?"), server, event_store)
    calls.run(runner, 1, "Q1")
    run(event_store.forget(run(operators.conversation_key_of(event_store, CUSTOMER))))

    assert calls.run(runner, 2, "sí").reply == "Dijiste sí"


def test_a_memory_that_cannot_be_changed_locks_nobody_out(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """It waits on after a run failed for good, so the next message is tried as an answer first."""

    class Unchanged(CompiledStateGraph[Any, Any, Any, Any]):
        def update_state(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

        async def aupdate_state(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    def ask(_state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"Tienes {int(interrupt('¿Edad?'))}")]}

    graph: Any = StateGraph(MessagesState)
    agent = graph.add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=InMemorySaver())
    agent.__class__ = Unchanged
    runner = runner_of(agent, server, event_store, max_errors=2)

    texts = enumerate(["Hola", "no sé", "¿Hay alguien?", "42"])
    turns = [calls.run(runner, number, text) for number, text in texts]

    assert [turn.status for turn in turns] == ["interrupted", "failed", "interrupted", "answered"]
    assert turns[-1].reply == "Tienes 42"


def test_a_message_that_was_taken_back_answers_nothing(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """The agent waits on for one that stands."""
    from langchain_convsync import waha

    runner = runner_of(asking("¿Seguro?"), server, event_store, debounce=0.2, max_debounce=0.2)
    calls.run(runner, 1, "Q1")
    stanza = "false_51999999999@c.us_A1"
    event = InboundEvent(event_id=stanza, phone_number=CUSTOMER, text="no")
    runner.run(event, 0)
    change = waha.Ignored("revoked", target_id=stanza, from_me=False, phone_number=CUSTOMER)
    assert runner.amend(change)

    assert calls.run(runner, 2, "sí").reply == "Dijiste sí"
    assert said(server) == ["Q1", "sí", "Dijiste sí"]


def note_of(server: ReferenceServer) -> Note:
    """The ``sync_state`` tool, as a step of one's own calls it."""
    tools = {tool.name: tool for tool in ConvSyncToolkit(server.client()).get_tools()}
    return lambda **update: tools["sync_state"].invoke(update)


def in_the_node_that_asks(note: Note) -> Runnable[Any, Any]:
    return asking("¿Seguro?", notes=lambda: note(intent="order", step="step1"))


def in_a_node_before(note: Note) -> Runnable[Any, Any]:
    def before(_state: MessagesState) -> dict[str, Any]:
        note(intent="order", step="step1")
        return {}

    def ask(_state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"Dijiste {interrupt('¿Seguro?')}")]}

    graph: Any = StateGraph(MessagesState)  # its overloads know no nodes like these
    graph = graph.add_node("before", before).add_node("ask", ask)
    graph = graph.add_edge(START, "before").add_edge("before", "ask").add_edge("ask", END)
    agent: Runnable[Any, Any] = graph.compile(checkpointer=InMemorySaver())
    return agent


def by_state_keys(_note: Note) -> Runnable[Any, Any]:
    class State(MessagesState):
        intent: str
        step: str

    def before(_state: State) -> Any:
        return Command(update={"intent": "order", "step": "step1"})

    def ask(_state: State) -> dict[str, Any]:
        return {"messages": [AIMessage(f"Dijiste {interrupt('¿Seguro?')}")]}

    graph: Any = StateGraph(State)
    graph = graph.add_node("before", before).add_node("ask", ask)
    graph = graph.add_edge(START, "before").add_edge("before", "ask").add_edge("ask", END)
    agent: Runnable[Any, Any] = graph.compile(checkpointer=InMemorySaver())
    return agent


def in_a_task(note: Note) -> Runnable[Any, Any]:
    @task
    def noted() -> None:
        note(intent="order", step="step1")

    @entrypoint(checkpointer=InMemorySaver())
    def workflow(given: Any, *, previous: Any = None) -> Any:
        messages = add_messages(previous or [], given["messages"])
        noted().result()
        reply: Any = AIMessage(f"Dijiste {interrupt('¿Seguro?')}")
        return entrypoint.final(value={"messages": [reply]}, save=add_messages(messages, [reply]))

    return workflow


def in_a_step_that_runs_again_and_one_that_does_not(note: Note) -> Runnable[Any, Any]:
    @task
    def noted() -> None:
        note(step="step1")

    @entrypoint(checkpointer=InMemorySaver())
    def workflow(_given: Any) -> Any:
        note(intent="order", step="step0")
        noted().result()
        return {"messages": [AIMessage(f"Dijiste {interrupt('¿Seguro?')}")]}

    return workflow


def around_a_graph_that_asks(note: Note) -> Runnable[Any, Any]:
    inner: Any = in_a_node_before(note)
    inner = inner.copy(update={"checkpointer": None})  # it gets that of the outer one

    def around(state: MessagesState) -> dict[str, Any]:
        note(step="step0")
        return {"messages": inner.invoke(state)["messages"][-1:]}

    graph: Any = StateGraph(MessagesState)
    graph = graph.add_node("around", around).add_edge(START, "around")
    agent: Runnable[Any, Any] = graph.compile(checkpointer=InMemorySaver())
    return agent


@pytest.mark.parametrize(
    "agent_of",
    [
        in_the_node_that_asks,
        in_a_node_before,
        by_state_keys,
        in_a_task,
        in_a_step_that_runs_again_and_one_that_does_not,
        around_a_graph_that_asks,
    ],
)
def test_what_was_noted_before_a_question_is_synced_once(
    server: ReferenceServer,
    event_store: EventStore,
    calls: Calls,
    agent_of: Callable[[Note], Runnable[Any, Any]],
) -> None:
    """With the turn that was interrupted; not again by a step that runs again."""
    agent = agent_of(note_of(server))

    asked = calls.run(runner_of(agent, server, event_store), 1, "Q1")
    seen = server.conversation(CUSTOMER).current_step
    done = calls.run(runner_of(agent, server, event_store), 2, "sí")

    assert (asked.state, seen) == (StateUpdate(intent="order", step="step1"), "step1")
    assert (done.reply, bool(done.state), syncs(server)) == ("Dijiste sí", False, 1)
    assert said(server) == ["Q1", "sí", "Dijiste sí"]


def test_what_is_noted_anew_after_an_answer_is_synced(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """Also where it is what an earlier step had noted, and another one had changed since."""
    note = note_of(server)

    def noting(*questions: str, step: str) -> Callable[[MessagesState], dict[str, Any]]:
        def node(_state: MessagesState) -> dict[str, Any]:
            heard = [interrupt(question) for question in questions]
            note(intent="order", step=step)
            return {"messages": [AIMessage(f"Dijiste {heard}")]}

        return node

    nodes = [noting(step="one"), noting("¿Qué?", step="two"), noting("¿Dónde?", step="one")]
    graph: Any = StateGraph(MessagesState)
    for number, node in enumerate(nodes):
        graph.add_node(str(number), node)
        graph.add_edge(str(number - 1) if number else START, str(number))
    agent = graph.compile(checkpointer=InMemorySaver())

    for number, text in enumerate(["Hola", "pizza", "Lima"]):
        calls.run(runner_of(agent, server, event_store), number, text)

    assert (server.conversation(CUSTOMER).current_step, syncs(server)) == ("one", 3)


def test_a_message_that_was_added_by_a_step_that_runs_again_is_recorded_once(
    server: ReferenceServer, event_store: EventStore, calls: Calls
) -> None:
    """As with the state: the node runs again from its beginning."""
    tools = {tool.name: tool for tool in ConvSyncToolkit(server.client()).get_tools()}
    agent = asking("¿Seguro?", notes=lambda: tools["add_message"].invoke({"content": "Apunto"}))

    for number, text in enumerate(["Q1", "sí"]):
        calls.run(runner_of(agent, server, event_store), number, text)

    assert said(server) == ["Q1", "Apunto", "sí", "Dijiste sí"]


@pytest.mark.parametrize("question", ["¿Seguro?", {"total": 25}])
def test_who_could_not_hear_the_answer_does_not_ask(
    server: ReferenceServer, event_store: EventStore, calls: Calls, question: object
) -> None:
    """Without a checkpointer each message would be asked the same; and it is not run again."""
    runs: list[int] = []

    def ask(state: MessagesState) -> dict[str, Any]:
        runs.append(len(state["messages"]))
        return {"messages": [AIMessage(str(interrupt(question)))]}

    graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask")
    agent: Runnable[Any, Any] = graph.compile()
    runner = runner_of(agent, server, event_store, fallback_reply="Ahora no")

    turn = calls.run(runner, 1, "Hola")

    assert (turn.status, turn.reply, runs) == ("failed", "Ahora no", [1])
    assert "compile it with one" in str(turn.error)
