"""How a turn's run of the agent appears in LangSmith: named, tagged, one thread a conversation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import Runnable, RunnableLambda, RunnableSequence
from langchain_core.tracers import BaseTracer, Run
from langgraph.checkpoint.memory import InMemorySaver

from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.turns import TurnRunner
from tests.promises import CUSTOMER, Answer, reply_to, said, served, sync_and_async


class Tracer(BaseTracer):
    """Keeps the root runs."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)


@pytest.fixture(scope="module")
def server() -> Iterator[ReferenceServer]:
    running = served()
    yield running
    running.stop()


def chain() -> Runnable[Any, Any]:
    return RunnableSequence(RunnableLambda(lambda messages: messages), RunnableLambda(reply_to))


def graph(**settings: Any) -> Runnable[Any, Any]:
    agent: Runnable[Any, Any] = create_agent(ScriptedChatModel(["Uno", "Dos"]), [], **settings)
    return agent


def traced(
    answer: Answer, agent: Runnable[Any, Any], server: ReferenceServer, *texts: str
) -> list[Run]:
    """The root runs of turns of one conversation, each with its id."""
    tracer = Tracer()
    store = SQLiteEventStore(":memory:")
    runner = TurnRunner(agent.with_config(callbacks=[tracer]), client=server.client(), store=store)
    turns = [answer(runner, said(text)) for text in texts]
    assert [turn.status for turn in turns] == ["answered"] * len(texts)
    assert [run.metadata["convsync_turn"] for run in tracer.roots] == [t.turn_id for t in turns]
    return tracer.roots


AGENTS = {
    "chain": chain,
    "graph": graph,
    "with memory": lambda: graph(checkpointer=InMemorySaver()),
}


@sync_and_async
@pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)
def test_the_turns_of_a_conversation_are_one_thread(
    agent: Any, answer: Answer, server: ReferenceServer
) -> None:
    """Named, tagged, with the tenant; the thread is a key and tells no phone number."""
    runs = traced(answer, agent(), server, "Hola", "Una pizza")

    assert [(run.name, run.tags) for run in runs] == [("convsync turn", ["convsync"])] * 2
    assert {run.metadata["convsync_tenant"] for run in runs} == {"restaurant-abc"}
    assert len({run.metadata["thread_id"] for run in runs}) == 1
    assert CUSTOMER[1:] not in str([run.metadata for run in runs])


NAMED = {
    "a chain with its own": lambda: chain().with_config(run_name="support"),
    "bound twice": lambda: chain().with_config(run_name="support").bind(),
    "a graph with its own": lambda: graph().with_config(run_name="support"),
    "create_agent": lambda: graph(name="support"),
}


@pytest.mark.parametrize("agent", NAMED.values(), ids=NAMED)
def test_what_the_user_named_keeps_its_name(agent: Any, server: ReferenceServer) -> None:
    """Whichever way the name was given."""
    (run,) = traced(lambda runner, event: runner.run(event), agent(), server, "Hola")

    assert (run.name, run.tags) == ("support", ["convsync"])


@pytest.mark.parametrize("make", [chain, graph], ids=["chain", "graph"])
def test_tags_and_metadata_of_the_users_are_kept(make: Any, server: ReferenceServer) -> None:
    """Ours stand beside them, and never in place of one."""
    given = {"thread_id": "theirs", "release": "7"}
    agent = make().with_config(tags=["mine"], metadata=given)
    (run,) = traced(lambda runner, event: runner.run(event), agent, server, "Hola")

    assert run.tags is not None
    assert set(run.tags) == {"mine", "convsync"}
    assert run.metadata.items() >= given.items()
