"""What is passed as ``agent=``: mistakes are told where they are made, in one line each."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.graph import MessagesState, StateGraph

from langchain_convsync import InboundEvent, SQLiteEventStore, Tenant, TurnRunner
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.turns.agents import Agents
from tests.surfaces import unreachable

AGENT: Runnable[Any, Any] = RunnableLambda(lambda _: "Hola")


def of_state(state: Any) -> Any:
    return {"messages": [AIMessage("Hola")]} if state else None


def of_a_text(said: str) -> Any:
    return said


def of_words(said: Sequence[BaseMessage]) -> Any:
    return said


def of_either(said: str | list[BaseMessage]) -> Any:
    return said


def of_a_state(of: MessagesState) -> Any:
    return of


def of_an_event(of: InboundEvent) -> Any:
    return of


def to_a_text(_: Any) -> str:
    return "Hola"


def to_a_state(_: Any) -> Mapping[str, Any]:
    return {}


def of_nothing() -> Any:
    return AGENT


def of_two(messages: Any, config: Any) -> Any:
    return messages, config


def by_name(*, tenant: Any) -> Any:
    return tenant


async def awaited(messages: Any) -> Any:
    return messages


class Answers:
    """An object that is called with the words."""

    def __call__(self, messages: Any) -> Any:
        return messages


class Bot(Runnable[Any, Any]):
    """An agent that is made of a tenant, so that its class is a factory."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> str:  # noqa: A002
        return "Hola"


def my_bot() -> ModuleType:
    """A module with an agent in it."""
    module = ModuleType("my_bot")
    module.__dict__.update(sys=sys, graph=AGENT)
    return module


def coroutine() -> Any:
    return awaited(1)


ANSWERS = r"one that answers is passed as RunnableLambda\(function\)"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "is None: pass a Runnable"),
        ("openai:gpt-4o", "is a text: .*init_chat_model.*create_agent"),
        (b"openai:gpt-4o", "must be a Runnable.*bytes"),
        (3, "must be a Runnable.*int"),
        ([AGENT], "must be a Runnable.*list"),
        ({"agent": AGENT}, "must be a Runnable.*dict"),
        (my_bot(), r"is the module my_bot: .*, my_bot\.graph"),
        (ModuleType("empty"), "is the module empty: pass the agent that it defines$"),
        (FakeListChatModel, r"is the class FakeListChatModel: .*FakeListChatModel\(…\)"),
        (RunnableLambda, None),  # made of one argument, as far as its class tells
        (Answers, "is the class Answers"),
        (StateGraph, "is the class StateGraph: pass an object of it, compiled"),
        (StateGraph(MessagesState), r"StateGraph that is not compiled: .*compile\(\)"),
        (AGENT.invoke, "is the method invoke of an agent: pass the agent itself"),
        (awaited, f"is an async function: {ANSWERS}"),
        (lambda text: f"You said {text}", f"is a function of `text` .*{ANSWERS}"),
        (lambda messages: messages[-1], f"is a function of `messages` .*{ANSWERS}"),
        (of_state, f"is a function of `state` .*{ANSWERS}"),
        (of_a_text, f"is a function of `said` .*{ANSWERS}"),
        (of_words, ANSWERS),
        (of_either, ANSWERS),
        (of_a_state, ANSWERS),
        (of_an_event, ANSWERS),
        (to_a_text, ANSWERS),
        (to_a_state, ANSWERS),
        (Answers(), ANSWERS),
        (of_nothing, "is a function of nothing: pass the agent that it makes"),
        (of_two, f"is a function of messages, config: {ANSWERS}"),
        (by_name, "is a function of tenant: "),
    ],
)
def test_what_is_no_agent_says_what_to_pass(given: Any, told: str | None) -> None:
    """Before any customer waits for it, in one line."""
    if told is None:
        Agents(given)
        return
    with pytest.raises(ConfigurationError, match=f"^agent= .*{told.removeprefix('^')}") as refused:
        TurnRunner(given, client=unreachable(), store=SQLiteEventStore(":memory:"))

    assert "\n" not in str(refused.value)


def test_a_coroutine_is_closed_and_told() -> None:
    """Python would warn of it, somewhere else."""
    with pytest.raises(ConfigurationError, match="is a coroutine: await it first"):
        Agents(coroutine())


def test_the_name_of_a_model_is_not_repeated() -> None:
    """A text may be a key that was passed in the wrong place."""
    with pytest.raises(ConfigurationError) as refused:
        Agents("sk-secret")  # type: ignore[arg-type]  # a mistake

    assert "sk-secret" not in str(refused.value)


def made_for(tenant: Tenant) -> Runnable[Any, Any]:
    return RunnableLambda(lambda _: tenant.subdomain)


def with_more(tenant: Any, agent: Runnable[Any, Any] = AGENT) -> Any:
    return agent if tenant else None


def of_a_tenant_called(state: Tenant) -> Any:
    return RunnableLambda(lambda _: state.subdomain)


@pytest.mark.parametrize(
    "factory",
    [
        made_for,
        with_more,
        of_a_tenant_called,
        lambda _: AGENT,
        lambda *_: AGENT,
        lambda tenant, model=AGENT: model if tenant else None,
        functools.partial(with_more, agent=AGENT),
        Bot,
        AGENT,
    ],
)
def test_what_makes_agents_is_none_of_these(factory: Any) -> None:
    """Whatever its parameter is called: what is annotated as a tenant takes one."""
    Agents(factory)
