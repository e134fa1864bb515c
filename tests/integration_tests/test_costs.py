"""What a reply costs: the tokens of a turn, where they are told, and who may refuse them."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_convsync import telemetry
from langchain_convsync._flow import run
from langchain_convsync.errors import BudgetError
from langchain_convsync.stores.base import EventStore
from langchain_convsync.surfaces.usage import MOST_MODELS, Meter
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.turns import Turn, TurnRunner, operators
from tests import promises
from tests.promises import CUSTOMER, Answer, echo, history, said, sync_and_async

server = promises.server


def answer_of(
    text: str, given: int, told: int, *, model: str = "small", **fields: Any
) -> AIMessage:
    """A model's message, with what it took."""
    usage: Any = {"input_tokens": given, "output_tokens": told, "total_tokens": given + told}
    named = {"model_name": model}
    return AIMessage(text, usage_metadata=usage, response_metadata=named, **fields)


def scripted(*answers: AIMessage) -> ScriptedChatModel:
    return ScriptedChatModel(list(answers))


def tokens_of(turn: Turn) -> dict[str, tuple[int, int]]:
    return {
        name: (usage["input_tokens"], usage["output_tokens"]) for name, usage in turn.usage.items()
    }


@sync_and_async
def test_a_turn_tells_what_all_of_its_models_took(
    answer: Answer,
    server: ReferenceServer,
    event_store: EventStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every call counts, by model: a tool's own model too, whose words are in no message."""
    helper = scripted(answer_of("…", 7, 3, model="large")) | StrOutputParser()

    def think() -> str:
        """Think."""
        return helper.invoke("¿?")

    call = {"name": "think", "args": {}, "id": "1"}
    model = scripted(answer_of("", 10, 1, tool_calls=[call]), answer_of("Hola", 20, 2))
    before = telemetry.counted("tokens", model="large", direction="input")
    with caplog.at_level(logging.INFO, logger="langchain_convsync.turns"):
        runner = TurnRunner(
            create_agent(model, tools=[think]), client=server.client(), store=event_store
        )
        turn = answer(runner, said("Hola"))
    assert (turn.reply, tokens_of(turn)) == ("Hola", {"small": (30, 3), "large": (7, 3)})
    assert "tokens 37 in, 6 out" in caplog.text
    assert telemetry.counted("tokens", model="large", direction="input") == before + 7


@sync_and_async
@pytest.mark.parametrize(
    "agent",
    [
        RunnableLambda(lambda _: answer_of("Hola", 5, 2)),
        scripted(answer_of("Hola", 5, 2)) | StrOutputParser(),
    ],
    ids=["asked elsewhere", "a chain of texts"],
)
def test_so_does_one_that_returns_no_message_or_asks_its_model_elsewhere(
    agent: Runnable[Any, Any], answer: Answer, server: ReferenceServer, event_store: EventStore
) -> None:
    """LangChain's handlers see the one, the output tells the other; neither counts twice."""
    if not isinstance(agent, RunnableLambda):
        agent = scripted(answer_of("Hola", 5, 2)) | StrOutputParser()
    turn = answer(TurnRunner(agent, client=server.client(), store=event_store), said("Hola"))
    assert tokens_of(turn) == {"small": (5, 2)}
    again = answer(TurnRunner(agent, client=server.client(), store=event_store), said("Hola"))
    assert (again.status, tokens_of(again)) == ("duplicate", {})


def test_what_a_cache_answers_took_nothing_and_models_make_no_endless_metric(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LangChain marks the answers of its cache; an agent may make up models' names."""
    monkeypatch.setattr("langchain_convsync.telemetry._record._counts", {})  # other tests need room
    meter = Meter()
    cached: Any = {"input_tokens": 5, "output_tokens": 1, "total_tokens": 6, "total_cost": 0}
    meter.add([AIMessage("Hola", usage_metadata=cached), AIMessage("Hola")])
    assert meter.usage == {}
    names = ["51999999999@c.us", *(f"model {number}" for number in range(MOST_MODELS + 9))]
    meter.add(answer_of("Hola", 1, 1, model=name) for name in names)
    assert meter.usage.keys() == {*names}
    told = {labels["model"] for labels, _ in telemetry.counts("tokens")}
    assert len(told) <= MOST_MODELS + 1
    assert names[0] not in told


@sync_and_async
def test_a_budget_refuses_a_turn_once_with_its_reason(
    answer: Answer, server: ReferenceServer, event_store: EventStore
) -> None:
    """The agent is not run; the customer gets the fallback, an operator the reason."""
    asked: list[Any] = []
    runs: list[Any] = []

    def budget(conversation: Any, usage: Any) -> str | None:
        asked.append((conversation.phone_number, conversation.subdomain, {**usage}))
        return "enough\nfor today" if usage else None

    def reply(_: Any) -> AIMessage:
        runs.append(1)
        return answer_of("Hola", 5, 2)

    runner = TurnRunner(
        RunnableLambda(reply),
        client=server.client(),
        store=event_store,
        budget=budget,
        fallback_reply="Mañana sigo",
    )
    first, second = answer(runner, said("uno")), answer(runner, said("dos"))
    assert (first.status, second.status, second.reply) == ("answered", "failed", "Mañana sigo")
    assert isinstance(second.error, BudgetError)
    assert len(runs) == 1
    spent = {"small": {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}}
    assert asked == [(CUSTOMER, "restaurant-abc", {}), (CUSTOMER, "restaurant-abc", spent)]
    assert history(server)[2:] == [("user", "dos"), ("bot", "Mañana sigo")]
    [letter] = run(event_store.dead_letters())
    assert operators.reason_of(letter) == "budget= refused: enough for today"


async def test_an_awaited_budget_is_awaited(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """It may ask a database; a blocking call says that it cannot."""

    async def budget(*_: Any) -> str | None:
        return "no"

    runner = TurnRunner(echo(), client=server.client(), store=event_store, budget=budget)
    assert (await runner.arun(said("uno"))).status == "failed"


@pytest.mark.parametrize("wrong", [RuntimeError("51999999999"), False, 3])
@sync_and_async
def test_a_budget_that_is_broken_ends_as_a_failing_agent_does(
    wrong: Any, answer: Answer, server: ReferenceServer, event_store: EventStore
) -> None:
    """It is asked as often as an agent may fail; then the customer gets the fallback."""

    def budget(*_: Any) -> Any:
        if isinstance(wrong, Exception):
            raise wrong
        return wrong

    runner = TurnRunner(
        echo(), client=server.client(), store=event_store, budget=budget, fallback_reply="Luego"
    )
    turn = answer(runner, said("uno"))
    assert (turn.status, turn.reply) == ("failed", "Luego")
