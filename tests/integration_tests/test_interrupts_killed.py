"""A process that dies between any two steps of a turn that is interrupted, or that goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from langchain_convsync._flow import Flow, run
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.tools import ConvSyncToolkit
from langchain_convsync.turns import TurnRunner, operators
from tests import promises
from tests.promises import killed
from tests.waiting import syncs

server = promises.server
pytestmark = pytest.mark.usefixtures("no_pause")

#: The customers of a test: each has a conversation of their own.
NUMBERS = count(51_900_000_000)
#: Something that a process does in a conversation, as a flow that may be killed.
Act = Callable[["Conversation", TurnRunner], Flow[Any]]


@dataclass
class Conversation:
    """One customer, an agent that asks them or a human, and the process that runs it now."""

    server: ReferenceServer
    store: EventStore
    question: Any

    def __post_init__(self) -> None:
        self.customer = f"+{next(NUMBERS)}"
        self.server.create_conversation(
            phone_number=self.customer, subdomain="restaurant-abc", bot_id="bot123"
        )
        self.server.requests.clear()
        self.agent = self._agent()

    def _agent(self) -> Runnable[Any, Any]:
        tools = {tool.name: tool for tool in ConvSyncToolkit(self.server.client()).get_tools()}

        def note(step: str) -> Callable[[MessagesState], dict[str, Any]]:
            return lambda _: tools["sync_state"].invoke({"step": step}) and {}

        def ask(_state: MessagesState) -> dict[str, Any]:
            return {"messages": [AIMessage(f"Dijiste {interrupt(self.question)}")]}

        graph: Any = StateGraph(MessagesState)  # its overloads know no nodes like these
        graph = (
            graph.add_node("ask", ask)
            .add_node("before", note("asked"))
            .add_node("after", note("done"))
        )
        graph = graph.add_edge(START, "before").add_edge("before", "ask").add_edge("ask", "after")
        agent: Runnable[Any, Any] = graph.compile(checkpointer=InMemorySaver())
        return agent

    def process(self, **settings: Any) -> TurnRunner:
        """A new one, which shares the agent's memory with those before it."""
        settings = {"interrupt_timeout": None, "store": self.store, **settings}
        return TurnRunner(self.agent, client=self.server.client(), **settings)

    def victim(self) -> TurnRunner:
        """One that does not come to delivering what it has committed."""
        runner = self.process(lease=0.2)
        vars(runner._deliveries)["drain"] = lambda _: iter(())
        return runner

    def said(self) -> list[str]:
        return [m.content for m in self.server.conversation(self.customer).messages]


def says(number: int, text: str, wait: float | None = None) -> Act:
    """The customer writes; with 0.0, while something waits."""

    def act(talk: Conversation, process: TurnRunner) -> Flow[Any]:
        event = InboundEvent(event_id=f"{number}", phone_number=talk.customer, text=text)
        return process._engine.run(event, wait)

    return act


def answers(value: object) -> Act:
    """A human answers; once that is recorded, whoever comes next goes on with it."""

    def act(talk: Conversation, process: TurnRunner) -> Flow[Any]:
        key = yield from operators.conversation_key_of(talk.store, talk.customer)
        inspected = yield from operators.inspect_conversation(talk.store, key)
        if inspected.waiting is not None:
            yield from process._engine.resume_interrupt(talk.customer, value, "default")

    return act


@dataclass
class Script:
    """What is done in a conversation, which of it is killed, and what must come of it."""

    question: Any
    acts: list[Act]
    victims: list[int]
    said: list[str]
    steps: list[str]


SCRIPTS = {
    "a question": Script(
        question="¿Seguro?",
        acts=[says(1, "Q1"), says(2, "sí")],
        victims=[0, 1],
        said=["Q1", "sí", "Dijiste sí"],
        steps=["asked", "done"],
    ),
    "a decision": Script(
        question={"total": 1},
        acts=[says(1, "Q1"), answers("sí")],
        victims=[0, 1],
        said=["Q1", "Dijiste sí"],
        steps=["asked", "done"],
    ),
    "a decision, and words meanwhile": Script(
        question={"total": 1},
        acts=[says(1, "Q1"), says(2, "Q2", 0.0), answers("sí"), says(2, "Q2")],
        victims=[1, 2],
        said=["Q1", "Dijiste sí", "Q2"],
        steps=["asked", "done", "asked"],
    ),
}


@pytest.mark.slow  # the simulator ends a process at any step
@promises.on_sqlite
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_process_may_die_at_any_step(
    server: ReferenceServer, event_store: EventStore, name: str, after: bool
) -> None:
    """Nothing lost, nothing doubled: each message once, each state once, no one locked out."""
    script, died = SCRIPTS[name], 0
    for victim in script.victims:
        for at in range(40):
            talk = Conversation(server, event_store, script.question)
            came_so_far = False
            for place, act in enumerate(script.acts):
                if place == victim:
                    came_so_far = killed(act(talk, talk.victim()), at, after=after)
                run(act(talk, talk.process()))
            run(script.acts[0](talk, talk.process()))  # a duplicate, which delivers what is left
            step = server.conversation(talk.customer).current_step
            found = (talk.said(), syncs(server), step)
            assert found == (script.said, len(script.steps), script.steps[-1]), (victim, at)
            died += came_so_far
            if not came_so_far:
                break
    assert died > 10
    left = run(event_store.backlog())
    assert (left.queued, left.writes, left.dead_letters) == (0, 0, 0)
