"""An agent that says nothing: recorded, not sent, not run again, and no failure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import BaseTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import interrupt
from pydantic import BaseModel

from langchain_convsync import Reply, TurnRunner, WAHAReply
from langchain_convsync._flow import run
from langchain_convsync.stores import EventStore
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from tests import promises, waha_chats
from tests.promises import CUSTOMER, Answer, history, said, sync_and_async
from tests.waha_chats import WahaChats

server, chats = promises.server, waha_chats.chats


class Decided(BaseModel):
    reply: Reply
    intent: str


@tool(response_format="content_and_artifact")
def stay_silent() -> tuple[str, Reply]:
    """Say nothing."""
    return "Nothing is said.", Reply.silent


@tool(response_format="content_and_artifact")
def wave() -> tuple[str, Reply]:
    """Say hello."""
    return "Said.", Reply(texts=["¡Hola!"])


def with_tools(*names: str, last: str = "Listo", **settings: Any) -> Runnable[Any, Any]:
    """An agent that calls these tools at once, and then says something."""
    calls = [{"name": name, "args": {}, "id": f"{n}"} for n, name in enumerate(names)]
    model = ScriptedChatModel(responses=[AIMessage("", tool_calls=calls), AIMessage(last)] * 3)
    tools: list[BaseTool] = [stay_silent, wave]
    return create_agent(model, tools, **settings)


def returns(output: object) -> Runnable[Any, Any]:
    """An agent that returns this."""
    return RunnableLambda(lambda _: output)


@sync_and_async
@pytest.mark.parametrize(
    "agent",
    [
        lambda: returns(Reply.silent),
        lambda: returns({"output": Reply.silent}),
        lambda: returns({"reply": Reply(texts=[])}),
        lambda: returns(Decided(reply=Reply.silent, intent="order")),
        lambda: returns({"structured_response": Decided(reply=Reply.silent, intent="order")}),
        lambda: returns({"structured_response": {"reply": {"texts": []}, "intent": "order"}}),
        lambda: returns("[silent]"),
        lambda: returns(AIMessage(" **[silent]**. ")),
        lambda: with_tools("stay_silent"),
        lambda: with_tools("stay_silent", last=""),
    ],
    ids=lambda _: "",
)
def test_silence_is_recorded_and_nothing_is_sent(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    answer: Answer,
    agent: Callable[[], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The customer's words stand in the history; a repeated event is known."""
    sender = WAHAReply(chats.url, settle=0.0, seen=True)
    runner = TurnRunner(
        agent(),
        client=server.client(),
        store=event_store,
        reply=sender,
        fallback_reply="Perdón",
        silent_marker="[silent]",
    )
    turn = answer(runner, said("👍"))
    again = answer(runner, said("👍"))

    assert (turn.status, turn.reply, turn.said) == ("silent", None, ())
    assert (again.status, again.reply) == ("duplicate", None)
    assert history(server) == [("user", "👍")]
    assert (chats.posts, caplog.messages) == ([], [])
    assert run(event_store.backlog()).dead_letters == 0


def test_what_a_silent_run_decided_is_synced(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """Only the words are missing."""
    agent = returns({"structured_response": Decided(reply=Reply.silent, intent="order")})

    turn = TurnRunner(agent, client=server.client(), store=event_store).run(said("👍"))

    assert turn.state.intent == "order"
    assert server.conversation(CUSTOMER).current_intent == "order"


def test_a_caller_who_sends_is_told_nothing(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """There is nothing to send."""
    sent: list[object] = []
    runner = TurnRunner(
        returns(Reply.silent), client=server.client(), store=event_store, on_reply=sent.append
    )
    assert runner.run(said("👍")).is_committed is False
    assert sent == []


def test_the_next_message_is_answered(server: ReferenceServer, event_store: EventStore) -> None:
    """It sees what was written before."""
    heard: list[list[str]] = []

    def agent(messages: list[BaseMessage]) -> object:
        heard.append([str(each.content) for each in messages])
        return Reply.silent if messages[-1].content == "👍" else "Claro"

    runner = TurnRunner(RunnableLambda(agent), client=server.client(), store=event_store)
    runner.run(said("👍"))
    assert runner.run(said("¿Sigue abierto?")).reply == "Claro"
    assert heard[-1] == ["👍", "¿Sigue abierto?"]
    assert history(server)[-1] == ("bot", "Claro")


def test_a_marker_beside_other_words_is_left_out(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """No customer reads it."""
    runner = TurnRunner(
        returns("De nada [silent]"),
        client=server.client(),
        store=event_store,
        silent_marker="[silent]",
    )
    assert runner.run(said("gracias")).reply == "De nada"


@pytest.mark.parametrize(
    ("names", "last", "reply"),
    [
        (["wave"], "¿Qué tal?", "¡Hola!\n\n¿Qué tal?"),
        (["wave"], "", "¡Hola!"),
        (["wave", "stay_silent"], "Listo", "¡Hola!"),
        (["stay_silent", "wave"], "Listo", "¡Hola!"),
    ],
)
@pytest.mark.parametrize("memory", [False, True])
def test_what_a_tool_says_comes_before_the_agents_own_words(
    server: ReferenceServer,
    event_store: EventStore,
    names: list[str],
    last: str,
    reply: str,
    memory: bool,
) -> None:
    """Once, also where the agent's memory brings the tool's answer back in the next turn."""
    settings = {"checkpointer": InMemorySaver()} if memory else {}
    agent = with_tools(*names, last=last, **settings)
    runner = TurnRunner(agent, client=server.client(), store=event_store)

    turns = [runner.run(said("Hola")), runner.run(said("Hola otra vez"))]

    assert [turn.reply for turn in turns] == [reply, reply]
    assert [words for role, words in history(server) if role == "bot"] == [reply, reply]


def test_a_tool_may_end_the_run(server: ReferenceServer, event_store: EventStore) -> None:
    """``return_direct``: the agent has no last word."""
    direct = wave.model_copy(update={"return_direct": True})
    calls = AIMessage("", tool_calls=[{"name": "wave", "args": {}, "id": "1"}])
    agent = create_agent(ScriptedChatModel(responses=[calls]), [direct])

    turn = TurnRunner(agent, client=server.client(), store=event_store).run(said("Hola"))

    assert turn.reply == "¡Hola!"


def test_what_a_tool_said_before_the_agent_asked_is_sent(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """And is not said again when the run goes on."""

    @tool
    def ask() -> str:
        """Ask the customer."""
        return str(interrupt("¿Seguro?"))

    script = [
        AIMessage("", tool_calls=[{"name": "wave", "args": {}, "id": "1"}]),
        AIMessage("", tool_calls=[{"name": "ask", "args": {}, "id": "2"}]),
        AIMessage("Listo"),
    ]
    agent = create_agent(
        ScriptedChatModel(responses=script), [wave, ask], checkpointer=InMemorySaver()
    )
    runner = TurnRunner(agent, client=server.client(), store=event_store)

    asked, answered = runner.run(said("Hola")), runner.run(said("sí"))

    assert (asked.status, asked.reply) == ("interrupted", "¡Hola!\n\n¿Seguro?")
    assert (answered.status, answered.reply) == ("answered", "Listo")
    assert history(server)[:2] == [("user", "Hola"), ("bot", "¡Hola!")]


@pytest.mark.parametrize("make", [lambda: "", lambda: AIMessage("")])
def test_an_empty_answer_by_accident_is_told_with_what_to_do(
    server: ReferenceServer,
    event_store: EventStore,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[], object],
) -> None:
    """It is a failed run, as ever: nothing tells that the agent meant it."""
    runner = TurnRunner(
        returns(make()),
        client=server.client(),
        store=event_store,
        max_errors=1,
        fallback_reply="¿?",
    )
    with caplog.at_level(logging.WARNING):
        turn = runner.run(said("👍"))

    assert (turn.status, turn.reply) == ("failed", "¿?")
    assert "return Reply.silent" in caplog.text
