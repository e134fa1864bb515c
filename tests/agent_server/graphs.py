"""What LangGraph's server serves: agents as their users write them, on models with a script."""

from __future__ import annotations

import itertools
import os
from functools import cache
from typing import Annotated, Any, NotRequired

from cryptography.fernet import Fernet
from langchain.agents import AgentState, create_agent
from langchain_core.messages import AIMessage, AnyMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from langchain_convsync import Reply
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.testing import ScriptedChatModel


class Ordering(AgentState[Any]):
    """A state that tells how far an order is."""

    intent: NotRequired[str]


@tool
def order(what: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
    """Order something."""
    done = ToolMessage(f"{what}: S/ 25", tool_call_id=tool_call_id)
    return Command(update={"intent": "order", "messages": [done]})


def wait_at_table(messages: list[AnyMessage]) -> AIMessage:
    """Order what the customer wants; else tell how often each of their messages was heard."""
    last = messages[-1]
    if isinstance(last, ToolMessage):
        return AIMessage(f"Anotado, {last.text}")
    if "pizza" in last.text:
        call = {"name": "order", "args": {"what": "pizza"}, "id": f"call-{len(messages)}"}
        return AIMessage("", tool_calls=[call])
    heard = [message.text for message in messages if message.type == "human"]
    return AIMessage(f"Oí: {', '.join(heard)}")


def scripted(response: Any) -> ScriptedChatModel:
    """A model that never ends."""
    return ScriptedChatModel(itertools.repeat(response))


waiter = create_agent(scripted(wait_at_table), [order], state_schema=Ordering)


def ask(state: MessagesState) -> dict[str, Any]:
    """Order only what the customer confirms."""
    wanted = state["messages"][-1].text
    answer = interrupt(f"¿Confirma {wanted}?")
    return {"messages": [AIMessage(f"{wanted}: {answer}")]}


def cook(state: MessagesState) -> dict[str, Any]:
    """What no cook can do."""
    raise ValueError(state["messages"][-1].text)


def _alone(node: Any) -> Any:
    return StateGraph(MessagesState).add_node(node).add_edge(START, node.__name__).compile()


careful, clumsy = _alone(ask), _alone(cook)


class Spoken(MessagesState):
    """A state that holds what is said beside the messages."""

    reply: NotRequired[Any]


#: What a node says beside its messages, by what it was told.
SPOKEN = {
    "gracias": Reply.silent,
    "una queja": Reply(texts=["Te atiende un colega."], handoff="complaint"),
    "mal": {"texts": ["Hola"], "caption": "secreto"},
    "peor": {"texts": ["secreto"], "colour": "red"},
}
PHOTO = b"\x89PNG\r\n\x1a\n"


def speak(state: Spoken) -> dict[str, Any]:
    """Say what is more, or less, than one text: itself, or by a tool."""
    told = state["messages"][-1].text
    if told in SPOKEN:
        return {"reply": SPOKEN[told]}
    call = {"name": "show", "args": {}, "id": "call-1"}
    shown = Reply(texts=["Nuestra carta:"], file=PHOTO, caption="Hoy", quote=True)
    found = ToolMessage(
        "2 rows", artifact={"texts": ["secreto"], "file": ""}, tool_call_id="call-0"
    )
    return {
        "messages": [
            AIMessage("", tool_calls=[{**call, "id": "call-0"}, call]),
            found,
            ToolMessage("It is shown.", artifact=shown, tool_call_id="call-1"),
            AIMessage("¿Algo más?"),
        ]
    }


speaking = StateGraph(Spoken).add_node(speak).add_edge(START, "speak").compile()


class Sealed(TypedDict):
    """What a run is told: whose it is, readable only with the key."""

    conversation: str


def opened(context: Sealed) -> str:
    """The phone number in a sealed handle."""
    return Fernet(os.environ["HANDLE_KEY"]).decrypt(context["conversation"]).decode()


def know(state: MessagesState, runtime: Runtime[Sealed]) -> dict[str, Any]:
    """Tell whom it serves by the end of their number."""
    return {"messages": [AIMessage(f"… {opened(runtime.context)[-4:]}")]}


_knowing = StateGraph(MessagesState, context_schema=Sealed).add_node(know)
knowing = _knowing.add_edge(START, "know").compile()


@cache
def synced() -> Any:
    """An agent that reads and writes its conversation itself; made when it is first asked for."""
    return create_agent(
        scripted(wait_at_table),
        middleware=[ConvSyncMiddleware(identity=opened)],
        context_schema=Sealed,
    )


GRAPHS = ("waiter", "careful", "clumsy", "speaking", "knowing", "synced")
