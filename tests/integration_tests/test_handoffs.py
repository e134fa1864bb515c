"""An agent hands over to a human: reply, pause and reason in one step, and what follows from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync import ConvSyncToolkit, HandedOver, Handoff, Reply, WAHAReply, waha
from langchain_convsync._flow import run
from langchain_convsync.stores.base import Backlog, EventStore
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.turns import TurnRunner, operators
from tests import promises, waha_chats
from tests.promises import CUSTOMER, Answer, Listening, history, said, sync_and_async
from tests.redis_topologies import until
from tests.waha_chats import WahaChats

server, chats = promises.server, waha_chats.chats
BY_ANA = waha.OperatorMessage(
    event_id=f"true_{CUSTOMER[1:]}@c.us_ANA",
    message_id="ANA",
    chat_id=f"{CUSTOMER[1:]}@c.us",
    phone_number=CUSTOMER,
    text="Soy Ana, ya sale su pedido",
)
WHY = {"reason": "wants a human", "summary": "An order of two pizzas that never came."}


@pytest.fixture
def told() -> list[HandedOver]:
    """What on_handoff= was told."""
    return []


@pytest.fixture
def new_runner(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, told: list[HandedOver]
) -> Callable[..., TurnRunner]:
    def make(agent: Any, **options: Any) -> TurnRunner:
        given = {"on_handoff": told.append, "reply": WAHAReply(chats.url), **options}
        return TurnRunner(agent, client=server.client(), store=event_store, **given)

    return make


def by_tool(server: ReferenceServer) -> Any:
    """An agent whose model calls the tool, and then says so."""
    call = {"name": "handoff", "args": WHY, "id": "1"}
    script: list[Any] = [AIMessage("", tool_calls=[call]), "Te atiende un colega."]
    tools = ConvSyncToolkit(server.client(), handoff=True).get_tools()
    return create_agent(ScriptedChatModel(script), tools=tools)


def by_reply(_: Any) -> Any:
    return RunnableLambda(lambda _: Reply(texts="Te atiende un colega.", handoff=Handoff(**WHY)))


ways = pytest.mark.parametrize("agent", [by_tool, by_reply], ids=["tool", "reply"])


@ways
@sync_and_async
def test_reply_pause_and_reason_are_one_step(
    agent: Any,
    answer: Answer,
    new_runner: Callable[..., TurnRunner],
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    told: list[HandedOver],
) -> None:
    """The human is told, with a key; what the customer writes then is recorded, not answered."""
    runner = new_runner(agent(server))

    turn = answer(runner, said("¡Quiero hablar con alguien!"))
    after = answer(runner, said("¿Hola?"))

    assert (turn.status, turn.handoff) == ("answered", Handoff(**WHY))
    assert (after.status, chats.texts) == ("paused", ["Te atiende un colega."])
    [handed] = told
    assert (handed.reason, handed.summary) == (WHY["reason"], WHY["summary"])
    assert handed.conversation.phone_number == CUSTOMER
    assert handed.conversation.subdomain == "restaurant-abc"
    assert handed.chat_id == f"{CUSTOMER[1:]}@c.us"
    assert handed.key
    assert server.conversation(CUSTOMER).metadata["handoff"]["reason"] == WHY["reason"]
    assert run(event_store.backlog()) == Backlog()
    assert history(server)[-1] == ("user", "¿Hola?")


@sync_and_async
def test_on_resume_the_model_is_told_why_and_what_the_human_said_once(
    answer: Answer, new_runner: Callable[..., TurnRunner], server: ReferenceServer
) -> None:
    """Then it goes on by itself."""
    agent = Listening()

    def reply(messages: Any) -> Any:
        if "humano" in str(messages[-1].content):
            return Reply(texts="Un momento", handoff=Handoff(**WHY))
        return agent.reply(messages)

    runner = new_runner(RunnableLambda(reply))
    answer(runner, said("Un humano, por favor"))
    runner.take_over(BY_ANA, seconds=600)
    answer(runner, said("Gracias"))
    runner.resume(CUSTOMER)

    answer(runner, said("¿Tienen postre?"))
    answer(runner, said("¿Y café?"))

    first, second = ("\n".join(texts) for texts in agent.heard)
    [about] = re.findall(r"<about_messages>(.*)</about_messages>", first)
    handed = json.loads(about)["handed_over"]
    assert {name: handed[name] for name in WHY} == WHY
    assert handed["colleague_said"] == ["Soy Ana, ya sale su pedido"]
    assert "handed_over" not in second
    assert server.conversation(CUSTOMER).metadata["handoff"] is None


@sync_and_async
def test_a_human_who_cannot_be_told_is_told_again_and_holds_up_nobody(
    answer: Answer,
    new_runner: Callable[..., TurnRunner],
    server: ReferenceServer,
    chats: WahaChats,
) -> None:
    """With the same key; the customer's words are recorded meanwhile."""
    keys: list[str] = []

    def on_handoff(handed: HandedOver) -> None:
        keys.append(handed.key)
        if len(keys) == 1:
            raise RuntimeError

    runner = new_runner(by_reply(server), on_handoff=on_handoff)
    answer(runner, said("uno"))
    assert answer(runner, said("dos")).status == "paused"
    key = run(operators.conversation_key_of(runner.store, CUSTOMER))
    [why] = run(operators.inspect_conversation(runner.store, key)).reasons()
    assert why.endswith("told that the agent hands over: on_handoff= failed once")
    with runner:
        until(lambda: len(keys) == 2)
        until(lambda: run(runner.store.backlog()) == Backlog())
    assert len({*keys}) == 1


def test_what_it_says_in_several_messages_is_sent_to_its_end(
    new_runner: Callable[..., TurnRunner], chats: WahaChats, told: list[HandedOver]
) -> None:
    """Nobody but the customer may cut an answer short: neither a hand-over, nor words of ours."""
    both = Reply(texts=["Un momento.", "Te atiende un colega."], handoff="asks for a human")
    runner = new_runner(RunnableLambda(lambda _: both), on_newer_message="rerun")
    with runner:
        runner.accept(said("uno"))
        until(lambda: len(chats.texts) == 2)
        until(lambda: told)
    assert chats.texts == list(both.texts)


def test_one_who_can_never_be_told_is_a_dead_letter_for_an_operator(
    new_runner: Callable[..., TurnRunner], server: ReferenceServer, event_store: EventStore
) -> None:
    """It says why; retried, it is told after all."""
    told: list[HandedOver] = []

    def on_handoff(handed: HandedOver) -> None:
        if not told:
            told.append(handed)
            raise RuntimeError

    runner = new_runner(by_reply(server), on_handoff=on_handoff, conversation_timeout=0.5)
    runner.run(said("uno"))
    [letter] = run(event_store.dead_letters())
    assert "on_handoff= failed once" in operators.reason_of(letter)
    assert run(operators.retry(event_store, None)) == 1
    with runner:
        until(lambda: run(runner.store.backlog()) == Backlog())


@sync_and_async
def test_a_budget_may_hand_over(
    answer: Answer,
    new_runner: Callable[..., TurnRunner],
    chats: WahaChats,
    told: list[HandedOver],
) -> None:
    """Its reply is said instead of the agent's."""
    refusal = Reply(texts="Sigue un colega", handoff="50,000 tokens today")
    runner = new_runner(promises.echo(), budget=lambda *_: refusal)
    turn = answer(runner, said("uno"))
    assert (turn.status, chats.texts) == ("answered", ["Sigue un colega"])
    assert [handed.reason for handed in told] == ["50,000 tokens today"]
    assert answer(runner, said("dos")).status == "paused"


def test_a_model_chooses_among_the_reasons_that_it_is_given(server: ReferenceServer) -> None:
    """A tool of its own, only where it is asked for; outside a turn it says what it needs."""
    plain = ConvSyncToolkit(server.client()).get_tools()
    assert "handoff" not in [tool.name for tool in plain]
    toolkit = ConvSyncToolkit(
        server.client(), conversation=CUSTOMER, handoff=["complaint", "allergy"]
    )
    [tool] = [tool for tool in toolkit.get_tools() if tool.name == "handoff"]
    assert tool.args["reason"]["enum"] == ["complaint", "allergy"]
    assert "complaint" in tool.invoke({"reason": "other"})
    assert "TurnRunner" in tool.invoke({"reason": "allergy"})
