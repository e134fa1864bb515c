"""Agents as people build them: alone, in a graph, as tools of each other, handing over.

Each shape makes a graph of one model that answers, and of others where it needs them. What the
answering model is told and says is the same in all of them, and so is what is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from langchain.agents import create_agent
from langchain.tools import ToolRuntime, tool
from langchain_core.messages import AIMessage, RemoveMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import BaseTool
from langgraph.func import entrypoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command

from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.testing import ScriptedChatModel
from tests.served import Client
from tests.surfaces import calls

Graph: TypeAlias = Runnable[Any, Any]
#: (client, the answering model, the checkpointer) → the graph.
Shape: TypeAlias = Callable[[Client, Any, Any], Graph]


def remembering(client: Client, model: Any, **options: Any) -> Graph:
    """An agent with the middleware."""
    return create_agent(model, middleware=[ConvSyncMiddleware(client)], **options)


def alone(client: Client, model: Any, saver: Any) -> Graph:
    return remembering(client, model, checkpointer=saver)


def _around(node: Any, saver: Any) -> Graph:
    built = StateGraph(MessagesState).add_node("agent", node).add_edge(START, "agent")
    return built.compile(checkpointer=saver)


def node(client: Client, model: Any, saver: Any) -> Graph:
    """The graph's checkpointer is the agent's."""
    return _around(remembering(client, model), saver)


def node_with_a_memory(client: Client, model: Any, saver: Any) -> Graph:
    """The agent keeps a thread of its own under the graph's checkpointer."""
    return _around(remembering(client, model, checkpointer=True if saver else None), saver)


def function(client: Client, model: Any, saver: Any) -> Graph:
    """A node that calls the agent, and returns its last message."""
    agent = remembering(client, model)

    def block(state: Any) -> Any:
        return {"messages": agent.invoke({"messages": state["messages"]})["messages"][-1:]}

    async def wait(state: Any) -> Any:
        result = await agent.ainvoke({"messages": state["messages"]})
        return {"messages": result["messages"][-1:]}

    return _around(RunnableLambda(block, wait), saver)


def entry(client: Client, model: Any, saver: Any) -> Graph:
    """LangGraph's functional API: awaited, it still calls its agent blocking."""
    agent = remembering(client, model)

    @entrypoint(checkpointer=saver)
    def workflow(given: Any, *, previous: Any = None) -> Any:
        result = agent.invoke({"messages": [*(previous or []), *given["messages"]]})
        return entrypoint.final(value=result, save=result["messages"])

    return workflow


def pipeline(client: Client, model: Any, saver: Any) -> Graph:
    """Another agent comes first; the customer reads what the last one says."""
    first = remembering(client, ScriptedChatModel([AIMessage("Un momento")] * 9))
    built = StateGraph(MessagesState).add_node("first", first)
    built.add_node("agent", remembering(client, model))
    return built.add_edge(START, "first").add_edge("first", "agent").compile(checkpointer=saver)


@tool
def hand_over(runtime: ToolRuntime) -> Command[Any]:
    """Hand the customer over."""
    asked = next(m for m in reversed(runtime.state["messages"]) if isinstance(m, AIMessage))
    done = ToolMessage("Transferred", tool_call_id=runtime.tool_call_id)
    return Command(goto="agent", graph=Command.PARENT, update={"messages": [asked, done]})


@tool
def hand_all_over(runtime: ToolRuntime) -> Command[Any]:
    """Hand the customer over, with all that this agent read, as swarms do."""
    read = runtime.state["messages"]
    done = ToolMessage("Transferred", tool_call_id=runtime.tool_call_id)
    return Command(goto="agent", graph=Command.PARENT, update={"messages": [*read, done]})


def hand_off(client: Client, model: Any, saver: Any, by: BaseTool = hand_over) -> Graph:
    """The first agent's run never ends."""
    middleware = [ConvSyncMiddleware(client)]
    first: Graph = create_agent(
        ScriptedChatModel([calls(by.name)] * 9), tools=[by], middleware=middleware
    )
    built = StateGraph(MessagesState).add_node("first", first)
    built.add_node("agent", remembering(client, model))
    built.add_edge(START, "first").add_edge("first", END).add_edge("agent", END)
    return built.compile(checkpointer=saver)


def parallel(client: Client, model: Any, saver: Any) -> Graph:
    """Another agent works beside it; a node makes one answer of two."""
    other = remembering(client, ScriptedChatModel([AIMessage("Hay stock")] * 9))

    def answer(state: Any) -> Any:
        both = state["messages"][-2:]
        (said,) = (message for message in both if message.text != "Hay stock")
        gone = [RemoveMessage(id=message.id) for message in both]
        return {"messages": [*gone, AIMessage(said.text)]}

    built = StateGraph(MessagesState).add_node("other", other).add_node("answer", answer)
    built.add_node("agent", remembering(client, model))
    built.add_edge(START, "other").add_edge(START, "agent")
    built.add_edge(["other", "agent"], "answer")
    return built.compile(checkpointer=saver)


def _asking(agent: Graph) -> Any:
    async def wait(question: str) -> str:
        result = await agent.ainvoke({"messages": [("user", question)]})
        return str(result["messages"][-1].text)

    @tool
    def ask(question: str) -> str:
        """Ask a clerk."""
        result = agent.invoke({"messages": [("user", question)]})
        return str(result["messages"][-1].text)

    ask.coroutine = wait
    return ask


def _consulting(client: Client, middleware: Sequence[Any], model: Any, saver: Any) -> Graph:
    def answer(messages: Sequence[Any]) -> Any:
        """Ask two clerks at once; then pass on what the first says."""
        if messages[-1].type == "human":
            wishes = [
                {"name": "ask", "args": {"question": f"clerk {n}"}, "id": f"{n}"} for n in (1, 2)
            ]
            return AIMessage("", tool_calls=wishes)
        return AIMessage(messages[-1].text)

    clerk = remembering(client, model)
    supervisor = ScriptedChatModel([answer] * 18)
    return create_agent(
        supervisor, tools=[_asking(clerk)], middleware=middleware, checkpointer=saver
    )


def supervised(client: Client, model: Any, saver: Any) -> Graph:
    """An agent without the middleware calls agents that have it, two at once."""
    return _consulting(client, [], model, saver)


def subagents(client: Client, model: Any, saver: Any) -> Graph:
    """Both have it."""
    return _consulting(client, [ConvSyncMiddleware(client)], model, saver)


#: Where the answering model is told the customer's own words.
SHAPES: dict[str, Shape] = {
    "alone": alone,
    "node": node,
    "node with a memory": node_with_a_memory,
    "function": function,
    "entrypoint": entry,
    "pipeline": pipeline,
    "hand-off": hand_off,
    "swarm": partial(hand_off, by=hand_all_over),
    "parallel": parallel,
}
#: Where it is told what another agent asks of it.
CONSULTED: dict[str, Shape] = {"supervised": supervised, "subagents": subagents}
