"""What answers in a simulation: what customers write tells it how to behave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from langchain.agents.middleware.types import ToolCallRequest
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from langchain_convsync import Handoff, Reply
from langchain_convsync.middleware import OnceToolsMiddleware
from langchain_convsync.models import Conversation, InboundEvent
from tests.chaos.fake_api import CAP
from tests.chaos.oracle import number_of, reply_to
from tests.chaos.script import SLOWLY
from tests.simulation.hub import Simulation

#: Words in a message at which a run fails twice, fails always, hangs, or calls a tool that charges;
#: or hands over to a human.
FAILS, BREAKS, HANGS, CHARGES = "tropieza", "se rompe", "se cuelga", "cobra"
HANDS_OVER = "con una persona"


class Agent(Protocol):
    """A way to answer, with a memory that outlives every process."""

    runnable: Runnable[Any, Any]
    charged: list[str]

    @property
    def prepare(self) -> Any:
        """What it is asked; None for what the runner asks by default."""


class Clerk:
    """Says which events it answers, after which reply: decided by what it sees of a conversation.

    Attributes:
        charged: What its tool did, in order.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.charged: list[str] = []
        self.runnable: Runnable[Any, Any] = RunnableLambda(self._run)
        self._simulation = simulation
        self._once = OnceToolsMiddleware(tools=["charge"])
        self._runs: Counter[str] = Counter()

    @classmethod
    def of(cls, simulation: Simulation) -> Agent:
        """One for a simulation."""
        return cls(simulation)

    @staticmethod
    def prepare(conversation: Conversation, events: Sequence[InboundEvent]) -> dict[str, Any]:
        """What it is asked."""
        number = int(conversation.context.get("number", 0)) + 1
        said = [m.content for m in conversation.messages[-CAP:] if m.role == "bot"]
        ids = [event.event_id for event in events]
        return {
            "number": number,
            "reply": reply_to(
                conversation.subdomain, number, max(map(number_of, said), default=0), ids
            ),
            "about": f"{conversation.session_id} {ids[0]}",
            "text": " ".join(event.text for event in events),
        }

    def _run(self, asked: dict[str, Any]) -> dict[str, Any]:
        text, about, number = asked["text"], asked["about"], asked["number"]
        self._runs[about] += 1
        if CHARGES in text:
            self._charge(about)
        if SLOWLY in text:
            self._simulation.rest(45.0)
        if HANGS in text:
            self._simulation.rest(1e9)
        if BREAKS in text or (FAILS in text and self._runs[about] <= 2):
            raise RuntimeError
        context = {"number": number, "reply": asked["reply"]}
        reply = asked["reply"]
        if HANDS_OVER in text:
            reply = Reply(texts=(reply,), handoff=Handoff(reason="the customer asks for a human"))
        return {
            "reply": reply,
            "intent": "order",
            "step": f"step {number}",
            "context": context,
        }

    def _charge(self, about: str) -> None:
        call: Any = {"name": "charge", "args": {"order": about}, "id": f"call {self._runs[about]}"}
        request = ToolCallRequest(call, None, {}, runtime=None)  # type: ignore[arg-type]

        def charge(_: ToolCallRequest) -> ToolMessage:
            self._simulation.note(f"charged: {about}")
            self.charged.append(about)
            return ToolMessage("Paid.", tool_call_id=call["id"])

        self._once.wrap_tool_call(request, charge)


class Asker:
    """A graph with a memory of its own that asks before it answers: the customer, or a human."""

    prepare = None

    def __init__(self, question: Any) -> None:
        self.charged: list[str] = []

        def ask(_: MessagesState) -> dict[str, Any]:
            return {"messages": [AIMessage(f"Dijiste {interrupt(question)}")]}

        graph: Any = StateGraph(MessagesState)  # its overloads know no nodes like this
        graph.add_node("ask", ask).add_edge(START, "ask")
        self.runnable: Runnable[Any, Any] = graph.compile(checkpointer=InMemorySaver())


class Speaker:
    """Says the same to everything, in several messages."""

    prepare = None

    def __init__(self, *replies: Reply) -> None:
        self.charged: list[str] = []
        self.runnable: Runnable[Any, Any] = RunnableLambda(lambda _: list(replies))


def saying(*replies: Reply) -> Callable[[Simulation], Agent]:
    """An agent that says so."""
    return lambda _: Speaker(*replies)


def asking(question: Any) -> Callable[[Simulation], Agent]:
    """An agent that asks so before each answer."""
    return lambda _: Asker(question)
