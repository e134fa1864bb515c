"""An agent whose memory keeps what it said: an earlier turn's words are not said again."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt

from langchain_convsync import Reply, TurnRunner
from langchain_convsync.stores import EventStore
from langchain_convsync.testing import ReferenceServer
from tests import promises
from tests.promises import Answer, said, sync_and_async

server = promises.server

HELLO = Reply(texts=["¡Hola!"])


class State(TypedDict, total=False):
    messages: Annotated[list[Any], add_messages]
    reply: Any
    output: Any


def graph(steps: dict[str, dict[str, Any]]) -> Any:
    """An agent with a memory that sets this of its state, by the customer's words."""
    built = StateGraph(State)
    built.add_node("answer", lambda state: steps[state["messages"][-1].content])
    built.add_edge(START, "answer")
    built.add_edge("answer", END)
    return built.compile(checkpointer=InMemorySaver())


def runner_of(
    server: ReferenceServer, store: EventStore, agent: Any, **settings: Any
) -> TurnRunner:
    return TurnRunner(agent, client=server.client(), store=store, **settings)


@sync_and_async
@pytest.mark.parametrize(
    ("key", "value"),
    [("reply", "¡Hola!"), ("output", "¡Hola!"), ("reply", HELLO), ("output", HELLO)],
    ids=["reply", "output", "a Reply", "a Reply as output"],
)
def test_what_an_earlier_turn_left_in_the_state_is_not_said_again(
    server: ReferenceServer, event_store: EventStore, answer: Answer, key: str, value: Any
) -> None:
    """What this turn said is; and the same words are, where it has set them again."""
    runner = runner_of(
        server,
        event_store,
        graph(
            {
                "Hola": {key: value},
                "¿Sigues ahí?": {key: value},
                "gracias": {"messages": [AIMessage("De nada")]},
            }
        ),
    )
    turns = [answer(runner, said(text)) for text in ("Hola", "¿Sigues ahí?", "gracias")]

    assert [turn.reply for turn in turns] == ["¡Hola!", "¡Hola!", "De nada"]


def test_a_turn_that_says_nothing_repeats_nothing(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """It is a failed run, as with an agent that has no memory."""
    agent = graph({"Hola": {"reply": "¡Hola!"}, "👍": {}})
    runner = runner_of(server, event_store, agent, max_errors=1, fallback_reply="¿?")
    runner.run(said("Hola"))
    turn = runner.run(said("👍"))

    assert (turn.status, turn.reply) == ("failed", "¿?")


def test_an_earlier_hand_over_is_told_once(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """The human has given the conversation back since."""
    told: list[Any] = []
    agent = graph(
        {
            "humano": {"reply": Reply(texts=["Un momento"], handoff="asks for one")},
            "gracias": {"messages": [AIMessage("De nada")]},
        }
    )
    runner = runner_of(server, event_store, agent, on_handoff=told.append)
    runner.run(said("humano"))
    runner.resume(promises.CUSTOMER)
    turn = runner.run(said("gracias"))

    assert (turn.status, turn.reply) == ("answered", "De nada")
    assert len(told) == 1


@sync_and_async
@pytest.mark.parametrize(
    ("before_asking", "reply"), [({"reply": "Anotado"}, "Anotado"), ({}, "De nada")]
)
def test_what_a_run_has_set_before_it_waited_is_said_when_it_ends(
    server: ReferenceServer,
    event_store: EventStore,
    answer: Answer,
    before_asking: dict[str, Any],
    reply: str,
) -> None:
    """And not what stood there before it began."""

    def first(state: State) -> dict[str, Any]:
        return before_asking if state["messages"][-1].content == "pizza" else {"reply": "¡Hola!"}

    def last(state: State) -> dict[str, Any]:
        if state["messages"][-1].content == "Hola":
            return {}
        interrupt("¿Seguro?")
        return {"messages": [AIMessage("De nada")]}

    built = StateGraph(State)
    built.add_node("first", first)
    built.add_node("last", last)
    built.add_edge(START, "first")
    built.add_edge("first", "last")
    runner = runner_of(server, event_store, built.compile(checkpointer=InMemorySaver()))
    turns = [answer(runner, said(text)) for text in ("Hola", "pizza", "sí")]

    assert [turn.reply for turn in turns] == ["¡Hola!", "¿Seguro?", reply]
