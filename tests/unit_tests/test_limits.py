"""Runs that a limit ended, with words of LangChain's: no customer reads them.

Each text is LangChain's own, made by the part that says it: where LangChain changes one, its test
is red here before a customer reads it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    AgentState,
    ModelCallLimitMiddleware,
    ModelRetryMiddleware,
    ToolCallLimitMiddleware,
    hook_config,
)
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import create_react_agent
from langgraph.runtime import Runtime

from langchain_convsync import telemetry
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.surfaces.limits import limit_in
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.turns.said import LimitReachedError, reply_of
from tests.surfaces import PHONE, calls, invoke, sync_and_async

ASKED: dict[str, Any] = {"messages": [HumanMessage("Una pizza")]}


@tool
def menu() -> str:
    """What there is."""
    return "pizza"


def overloaded(_: object) -> AIMessage:
    message = "SECRET: overloaded"
    raise ConnectionError(message)


def agent(*middleware: Any, answers: Any = None, **settings: Any) -> Runnable[Any, Any]:
    """One whose model wants the menu again and again."""
    model = ScriptedChatModel(answers or [calls("menu")] * 9)
    return create_agent(model, [menu], middleware=middleware, **settings)


def react(recursion_limit: int) -> Runnable[Any, Any]:
    model = ScriptedChatModel([calls("menu")] * 9)
    with warnings.catch_warnings():  # it is deprecated, and in many an application
        warnings.simplefilter("ignore")
        graph: Runnable[Any, Any] = create_react_agent(model, [menu])
    return graph.with_config(recursion_limit=recursion_limit)


#: An agent that a limit ends, and which part of LangChain says so.
ENDED: dict[str, tuple[Callable[[], Runnable[Any, Any]], str]] = {
    "model calls of a run": (
        lambda: agent(ModelCallLimitMiddleware(run_limit=1)),
        "run limit (1/1)' is from ModelCallLimitMiddleware",
    ),
    "model calls of a thread": (
        lambda: agent(ModelCallLimitMiddleware(thread_limit=1)),
        "thread limit (1/1)' is from ModelCallLimitMiddleware",
    ),
    "model calls of both": (
        lambda: agent(ModelCallLimitMiddleware(run_limit=1, thread_limit=1)),
        "thread limit (1/1), run limit (1/1)' is from ModelCallLimitMiddleware",
    ),
    "tool calls of a run": (
        lambda: agent(ToolCallLimitMiddleware(run_limit=1, exit_behavior="end")),
        "run limit exceeded (2/1 calls).' is from ToolCallLimitMiddleware",
    ),
    "tool calls of both": (
        lambda: agent(ToolCallLimitMiddleware(run_limit=1, thread_limit=1, exit_behavior="end")),
        "(2/1 calls) and run limit exceeded (2/1 calls).' is from ToolCallLimitMiddleware",
    ),
    "calls of one tool": (
        lambda: agent(ToolCallLimitMiddleware(tool_name="menu", run_limit=1, exit_behavior="end")),
        "'menu' tool call limit reached: run limit exceeded",
    ),
    "retries": (
        lambda: agent(
            ModelRetryMiddleware(max_retries=1, initial_delay=0, jitter=False),
            answers=[overloaded] * 2,
        ),
        "'Model call failed after 2 attempts with ConnectionError' is from ModelRetryMiddleware",
    ),
    "steps": (lambda: react(4), "is from create_react_agent: raise recursion_limit"),
}
every_limit = pytest.mark.parametrize("limit", ENDED)


@sync_and_async
@every_limit
async def test_words_of_a_limit_are_no_reply(mode: str, limit: str) -> None:
    """The run failed; its error tells which limit, what to do, and no words of others."""
    make, told = ENDED[limit]

    output = await invoke(mode, make(), ASKED)

    with pytest.raises(LimitReachedError, match="words of your own") as error:
        reply_of(output)
    assert told in str(error.value)
    assert "SECRET" not in str(error.value)


@sync_and_async
@every_limit
async def test_the_middleware_records_no_words_of_a_limit(
    mode: str, limit: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What the customer wrote stands in the history; the rest is counted and logged."""
    counted = telemetry.counted("limit_answers")
    make, _ = ENDED[limit]
    ended = await invoke(mode, make(), ASKED)
    with ReferenceServer() as server, in_conversation(PHONE):
        server.create_conversation(phone_number=PHONE, subdomain="abc", bot_id="bot")
        memory = create_agent(
            ScriptedChatModel([ended["messages"][-1]]),
            middleware=[ConvSyncMiddleware(server.client())],
        )

        await invoke(mode, memory, ASKED)

        said = [message.content for message in server.conversation(PHONE).messages]
    assert said == ["Una pizza"]
    assert telemetry.counted("limit_answers") == counted + 1
    assert ("A limit ended the agent's run" in caplog.text) is True


class Apologises(AgentMiddleware[AgentState[Any], Any, Any]):
    """A user's own limit, in their own words."""

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: AgentState[Any], runtime: Runtime[Any]) -> dict[str, Any] | None:
        if len(state["messages"]) < 3:
            return None
        return {"jump_to": "end", "messages": [AIMessage("Perdona, inténtalo luego.")]}


async def test_a_users_own_words_at_a_limit_are_the_reply() -> None:
    """They were written for the customer."""
    output = await agent(Apologises()).ainvoke(ASKED)

    assert reply_of(output) == "Perdona, inténtalo luego."


def test_a_users_own_words_for_failing_retries_are_the_reply() -> None:
    """``on_failure=`` takes a function for them."""
    retries = ModelRetryMiddleware(max_retries=0, on_failure=lambda _: "Perdona.")
    output = agent(retries, answers=[overloaded]).invoke(ASKED)

    assert reply_of(output) == "Perdona."


STEPS = "Sorry, need more steps to process this request."
STOPPED = "Agent stopped due to iteration limit or time limit."


@pytest.mark.parametrize("text", [STOPPED, "Agent stopped due to max iterations."])
def test_the_words_of_an_agent_executor_are_no_reply(text: str) -> None:
    """The classic agents leave them as their output."""
    with pytest.raises(LimitReachedError, match="max_iterations"):
        reply_of({"input": "Una pizza", "output": text})


def test_the_classic_agents_still_say_so() -> None:
    """Where langchain-classic is installed, its own words are the ones that are recognised."""
    classic = pytest.importorskip("langchain_classic.agents.agent")
    for kind in (classic.BaseSingleActionAgent, classic.BaseMultiActionAgent):
        finish = kind.return_stopped_response(None, "force", [])

        assert limit_in(finish.return_values, [])


@pytest.mark.parametrize(
    "output",
    [
        STEPS,
        STOPPED,
        {"reply": "Perdona.", "messages": [AIMessage(STEPS)]},
        AIMessage(STEPS, response_metadata={"model_name": "gpt-4o", "finish_reason": "stop"}),
        AIMessage(STEPS, usage_metadata={"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}),
        AIMessage(f"{STEPS} ¿Sigo?"),
        AIMessage("Model call limits exceeded: 3"),
        AIMessage([{"type": "text", "text": STEPS}]),
    ],
)
def test_words_that_a_model_or_its_user_chose_are_a_reply(output: object) -> None:
    """A text that a runnable returns is its user's, and a model's message tells that it is one."""
    assert reply_of(output)


def test_in_a_thread_only_the_words_of_this_run_count() -> None:
    """A limit that ended the last run ends no other."""
    chat = agent(
        ModelCallLimitMiddleware(run_limit=1),
        answers=[calls("menu"), "Hola"],
        checkpointer=InMemorySaver(),
    )
    config: Any = {"configurable": {"thread_id": "1"}}
    first = chat.invoke(ASKED, config)

    second = chat.invoke(ASKED, config)

    assert reply_of(second, first) == "Hola"
