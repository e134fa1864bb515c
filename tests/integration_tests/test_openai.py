"""The real ChatOpenAI inside a TurnRunner, and every way in which OpenAI's API fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Reply
from pydantic import BaseModel

from langchain_convsync._flow import run
from langchain_convsync.client import AsyncConvSyncClient
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.settings import ServerProfile
from langchain_convsync.tools import ConvSyncToolkit
from langchain_convsync.turns.said import EmptyReplyError
from langchain_convsync.turns.stopping import AgentTimeoutError
from tests import openai_bot
from tests.faulty_server import HANG, FaultyServer, sends
from tests.openai_bot import (
    FALLBACK,
    REFUSAL,
    Restaurant,
    answered,
    asked,
    calls,
    read_by,
    refuses,
    refuses_in_a_stream,
    whole_or_streamed,
)
from tests.surfaces import sync_and_async

pytestmark = pytest.mark.usefixtures("no_pause")

SHORTLY: Runnable[Any, Any] = RunnableLambda(
    lambda messages: [SystemMessage("Answer shortly."), *messages]
)
ORDER = {"intent": "order", "step": "selecting"}


reference, restaurant = openai_bot.reference, openai_bot.restaurant


class Said(BaseModel):
    """What a model answers: a text for the customer, and the conversation's state."""

    reply: str
    intent: str | None = None
    step: str | None = None


SAID_SCHEMA = {**Said.model_json_schema(), "title": "Said", "description": "An answer."}


@sync_and_async
@whole_or_streamed
async def test_an_answer_is_sent_and_recorded(
    llmock: LLMock, restaurant: Restaurant, mode: str, streaming: bool
) -> None:
    """The model reads the history and the state, and its text is the reply."""
    llmock.reply("¡Hola!").reply("¿Qué pizza?")
    turns = restaurant.runner(
        restaurant.bot(restaurant.chat(llmock.base_url(), streaming=streaming))
    )
    await answered(mode, turns, "Hola")

    turn = await answered(mode, turns)

    assert (turn.status, turn.reply) == ("answered", "¿Qué pizza?")
    assert restaurant.words[2:] == [("user", "Quiero una pizza"), ("bot", "¿Qué pizza?")]
    system, *said = read_by(llmock)
    assert "browsing" in system["content"]
    assert [m["content"] for m in said] == ["Hola", "¡Hola!", "Quiero una pizza"]
    assert llmock.last_request.stream is streaming


@sync_and_async
@whole_or_streamed
async def test_tools_called_together_are_run_and_the_state_is_synced_once(
    llmock: LLMock, restaurant: Restaurant, mode: str, streaming: bool
) -> None:
    """Two calls in one message: each gets its result, and the sync is written with the turn."""
    llmock.add(calls(("sync_state", ORDER), ("menu", {}))).reply("Tenemos pizza a S/ 25.")
    turns = restaurant.runner(
        restaurant.bot(restaurant.chat(llmock.base_url(), streaming=streaming))
    )

    turn = await answered(mode, turns)

    assert (turn.status, turn.reply) == ("answered", "Tenemos pizza a S/ 25.")
    assert (turn.state.intent, turn.state.step) == restaurant.state == ("order", "selecting")
    results = [m["content"] for m in read_by(llmock) if m["role"] == "tool"]
    assert results == ["Noted: intent order; step selecting.", "pizza: S/ 25"]
    assert sum(seen.method == "PUT" for seen in restaurant.server.requests) == 1


@sync_and_async
@whole_or_streamed
async def test_the_toolkits_tools_act_through_the_turn(
    llmock: LLMock, restaurant: Restaurant, mode: str, streaming: bool
) -> None:
    """Without middleware: bound to ChatOpenAI as they are, they read and record."""
    llmock.add(
        calls(
            ("lookup_tenant", {}),
            ("get_conversation", {}),
            ("sync_state", ORDER),
            ("add_message", {"content": "El local cierra a las 22:00."}),
        )
    ).reply("¿Qué pizza?")
    tools = ConvSyncToolkit(restaurant.client).get_tools()
    model = restaurant.chat(llmock.base_url(), streaming=streaming)
    turns = restaurant.runner(create_agent(model, tools))

    turn = await answered(mode, turns)

    assert (turn.status, restaurant.state) == ("answered", ("order", "selecting"))
    assert [text for _, text in restaurant.words] == [
        "Quiero una pizza",
        "El local cierra a las 22:00.",
        "¿Qué pizza?",
    ]
    results = [m["content"] for m in read_by(llmock) if m["role"] == "tool"]
    assert len(results) == 4
    assert "restaurant-abc" in results[0]


@sync_and_async
@pytest.mark.parametrize("schema", [Said, SAID_SCHEMA], ids=["pydantic", "json schema"])
@pytest.mark.parametrize("strategy", [ProviderStrategy, ToolStrategy])
async def test_a_structured_response_says_reply_and_state(
    llmock: LLMock,
    restaurant: Restaurant,
    mode: str,
    schema: Any,
    strategy: Callable[[Any], Any],
) -> None:
    """The customer reads its ``reply``, never its JSON; so does the history."""
    said = Said(reply="¿Qué pizza?", intent="order", step="selecting")
    if strategy is ToolStrategy:
        llmock.add(calls(("Said", said.model_dump())))
    else:
        llmock.reply(said.model_dump_json())
    model = restaurant.chat(llmock.base_url(), streaming=mode == "async")
    turns = restaurant.runner(restaurant.bot(model, response_format=strategy(schema)))

    turn = await answered(mode, turns)

    assert (turn.status, turn.reply, turn.error) == ("answered", "¿Qué pizza?", None)
    assert restaurant.words[-1] == ("bot", "¿Qué pizza?")
    assert restaurant.state == ("order", "selecting")


def cut_off(openai: LLMock) -> None:
    openai.reply("El total es S/ 125").truncate(after_chunks=4)


def cut_off_call(openai: LLMock) -> None:
    openai.add(calls(("sync_state", ORDER))).truncate(after_chunks=4).reply("Anotado.")


def cut_off_by_length(openai: LLMock) -> None:
    openai.add(Reply(text="El total es S/ 1", finish_reason="length"))


def filtered(openai: LLMock) -> None:
    openai.add(Reply(text="El total", finish_reason="content_filter"))


def no_json_arguments(openai: LLMock) -> None:
    openai.add(calls(("sync_state", ORDER), text="Un momento…")).break_tool_call()


Spoil = Callable[[LLMock], object]
#: The error as langchain-openai calls it; behind it, as older ones let it through.
SPOILT: dict[str, tuple[Spoil, bool, str]] = {
    "500": (lambda openai: openai.fail(500), False, "OpenAIAPIError InternalServerError"),
    "500 streamed": (lambda openai: openai.fail(500), True, "OpenAIAPIError InternalServerError"),
    "429": (lambda openai: openai.rate_limit(), False, "OpenAIRateLimitError RateLimitError"),
    "connection closed in a stream": (
        lambda openai: openai.reply("El total es S/ 125").disconnect(after_chunks=3),
        True,
        "OpenAIConnectionError RemoteProtocolError",
    ),
    "stream without a finish reason": (cut_off, True, "IncompleteReplyError"),
    "tool call cut off in a stream": (cut_off_call, True, "IncompleteReplyError"),
    "chunk that is no JSON": (lambda openai: openai.corrupt(), True, "JSONDecodeError"),
    "length": (cut_off_by_length, False, "IncompleteReplyError"),
    "length streamed": (cut_off_by_length, True, "IncompleteReplyError"),
    "content filter": (filtered, False, "IncompleteReplyError"),
    "content filter streamed": (filtered, True, "IncompleteReplyError"),
    "empty": (lambda openai: openai.reply(""), False, "EmptyReplyError"),
    "empty streamed": (lambda openai: openai.reply(""), True, "EmptyReplyError"),
    "arguments that are no JSON": (no_json_arguments, False, "IncompleteReplyError"),
}


@sync_and_async
@pytest.mark.parametrize("case", SPOILT)
async def test_an_answer_that_cannot_be_used_ends_in_the_fallback(
    llmock: LLMock, restaurant: Restaurant, mode: str, case: str
) -> None:
    """One ending: fallback, the customer's words kept, a dead letter, the state as it was.

    The next message is answered as if nothing had been.
    """
    spoil, streaming, error = SPOILT[case]
    turns = restaurant.runner(
        restaurant.bot(restaurant.chat(llmock.base_url(), streaming=streaming))
    )
    spoil(llmock)

    turn = await answered(mode, turns)

    assert (turn.status, turn.reply) == ("failed", FALLBACK)
    assert type(turn.error).__name__ in error.split()
    assert restaurant.words == [("user", "Quiero una pizza"), ("bot", FALLBACK)]
    assert restaurant.state == ("menu", "browsing")
    assert run(turns.store.backlog()).dead_letters == 1
    llmock.reset().reply("Aquí estoy.")
    assert (await answered(mode, turns, "¿Hola?")).reply == "Aquí estoy."


@sync_and_async
@whole_or_streamed
async def test_the_responses_api_answers_as_well(
    llmock: LLMock, restaurant: Restaurant, mode: str, streaming: bool
) -> None:
    """OpenAI's newer API, whose messages are made of blocks."""
    llmock.add(calls(("sync_state", ORDER), ("menu", {}))).reply("Tenemos pizza a S/ 25.")
    model = restaurant.chat(llmock.base_url(), streaming=streaming, use_responses_api=True)

    turn = await answered(mode, restaurant.runner(restaurant.bot(model)))

    assert (turn.status, turn.reply) == ("answered", "Tenemos pizza a S/ 25.")
    assert restaurant.words[-1] == ("bot", "Tenemos pizza a S/ 25.")
    assert restaurant.state == ("order", "selecting")
    assert llmock.last_request.path == "/v1/responses"


@sync_and_async
@pytest.mark.parametrize(
    "case",
    [
        "500",
        "connection closed in a stream",
        "stream without a finish reason",
        "tool call cut off in a stream",
        "length",
        "length streamed",
        "arguments that are no JSON",
    ],
)
async def test_the_responses_api_sends_no_half_answer_either(
    llmock: LLMock, restaurant: Restaurant, mode: str, case: str
) -> None:
    """It says in other words how an answer ended."""
    spoil, streaming, _ = SPOILT[case]
    spoil(llmock)
    model = restaurant.chat(llmock.base_url(), streaming=streaming, use_responses_api=True)

    turn = await answered(mode, restaurant.runner(restaurant.bot(model)))

    assert (turn.status, turn.reply) == ("failed", FALLBACK)
    assert restaurant.words == [("user", "Quiero una pizza"), ("bot", FALLBACK)]
    assert restaurant.state == ("menu", "browsing")


@sync_and_async
async def test_a_chain_that_returns_its_message_sends_no_half_of_it(
    llmock: LLMock, restaurant: Restaurant, mode: str
) -> None:
    """Any Runnable: here a prompt and the model."""
    cut_off(llmock)
    llmock.reply("El total es S/ 125")
    chain = SHORTLY | restaurant.chat(llmock.base_url(), streaming=True)

    turn = await answered(mode, restaurant.runner(chain, max_errors=2))

    assert (turn.status, turn.reply) == ("answered", "El total es S/ 125")


@sync_and_async
async def test_a_chain_that_returns_a_text_hides_how_its_model_ended(
    llmock: LLMock, restaurant: Restaurant, mode: str
) -> None:
    """The limit of it: a text tells nothing but itself."""
    cut_off(llmock)
    chain = SHORTLY | restaurant.chat(llmock.base_url(), streaming=True) | StrOutputParser()

    turn = await answered(mode, restaurant.runner(chain))

    assert turn.status == "answered"
    assert turn.reply != "El total es S/ 125"


@sync_and_async
async def test_a_model_that_hangs_ends_in_the_fallback(restaurant: Restaurant, mode: str) -> None:
    """ChatOpenAI's own timeout ends a call, sync and async."""
    with FaultyServer() as silent:
        silent.plays(sends(HANG))
        turns = restaurant.runner(restaurant.bot(restaurant.chat(silent.url, timeout=0.2)))

        turn = await answered(mode, turns)

        assert silent.wait_for(lambda seen: len(seen.received) == 1)
    assert (turn.status, turn.reply) == ("failed", FALLBACK)
    assert type(turn.error).__name__ in {"OpenAITimeoutError", "APITimeoutError"}
    assert restaurant.state == ("menu", "browsing")


@sync_and_async
@pytest.mark.parametrize("memory", [None, InMemorySaver], ids=["stateless", "checkpointed"])
async def test_an_answer_that_was_cut_off_once_is_asked_for_again(
    llmock: LLMock, restaurant: Restaurant, mode: str, memory: Any
) -> None:
    """The next run answers; half an answer in the agent's own thread is no failure twice."""
    cut_off(llmock)
    llmock.reply("El total es S/ 125")
    agent = restaurant.bot(
        restaurant.chat(llmock.base_url(), streaming=True), checkpointer=memory and memory()
    )

    turn = await answered(mode, restaurant.runner(agent, max_errors=2))

    assert (turn.status, turn.reply) == ("answered", "El total es S/ 125")
    assert restaurant.words[-1] == ("bot", "El total es S/ 125")


@sync_and_async
@whole_or_streamed
async def test_the_model_is_asked_again_when_openai_says_so(
    llmock: LLMock, restaurant: Restaurant, mode: str, streaming: bool
) -> None:
    """429: ChatOpenAI waits for Retry-After and asks again, inside one run of the agent."""
    llmock.rate_limit(retry_after=0.05).reply("¿Qué pizza?")
    model = restaurant.chat(llmock.base_url(), streaming=streaming, max_retries=1)

    turn = await answered(mode, restaurant.runner(restaurant.bot(model)))

    assert (turn.status, turn.reply) == ("answered", "¿Qué pizza?")
    assert asked(llmock) == [429, 200]
    llmock.assert_resilient(strict=True)


@sync_and_async
async def test_a_model_without_retries_is_asked_again_by_the_next_run(
    llmock: LLMock, restaurant: Restaurant, mode: str
) -> None:
    """429 with ``max_retries=0``: the turn's own backoff, and no fallback for a passing failure."""
    llmock.rate_limit(retry_after=0.05).reply("¿Qué pizza?")

    turn = await answered(
        mode, restaurant.runner(restaurant.bot(restaurant.chat(llmock.base_url())), max_errors=2)
    )

    assert (turn.status, turn.reply) == ("answered", "¿Qué pizza?")
    assert asked(llmock) == [429, 200]


@pytest.mark.parametrize(("mode", "seconds"), [("sync", 0.6), ("async", 60.0)])
async def test_a_turns_deadline_bounds_what_chatopenai_waits(
    llmock: LLMock, restaurant: Restaurant, mode: str, seconds: float
) -> None:
    """An async run is cancelled in its wait; a blocking one ends when it ends, and is discarded."""
    llmock.rate_limit(retry_after=seconds).reply("Demasiado tarde")
    model = restaurant.chat(llmock.base_url(), max_retries=1)

    turn = await answered(mode, restaurant.runner(restaurant.bot(model), agent_timeout=0.5))

    assert (turn.status, turn.reply) == ("failed", FALLBACK)
    assert isinstance(turn.error, AgentTimeoutError)
    assert restaurant.state == ("menu", "browsing")


@sync_and_async
@whole_or_streamed
async def test_a_call_of_an_unknown_tool_is_told_to_the_model(
    llmock: LLMock, restaurant: Restaurant, mode: str, streaming: bool
) -> None:
    """It reads that there is no such tool, and answers."""
    llmock.add(calls(("pay", {"amount": 25}))).reply("¿Efectivo o Yape?")
    turns = restaurant.runner(
        restaurant.bot(restaurant.chat(llmock.base_url(), streaming=streaming))
    )

    turn = await answered(mode, turns)

    assert (turn.status, turn.reply) == ("answered", "¿Efectivo o Yape?")
    assert "pay is not a valid tool" in read_by(llmock)[-1]["content"]
    assert restaurant.state == ("menu", "browsing")


@sync_and_async
async def test_streamed_arguments_that_are_no_json_are_completed_by_langchain(
    llmock: LLMock, restaurant: Restaurant, mode: str
) -> None:
    """Nothing tells that their JSON was closed for the model: the tool gets the first half."""
    llmock.add(calls(("sync_state", ORDER))).break_tool_call().reply("¿Qué pizza?")
    model = restaurant.chat(llmock.base_url(), streaming=True)

    turn = await answered(mode, restaurant.runner(restaurant.bot(model)))

    assert (turn.status, turn.reply) == ("answered", "¿Qué pizza?")
    assert read_by(llmock)[-1]["content"] == "Noted: intent order."
    assert restaurant.state == ("order", "browsing")


CHOICE = ServerProfile(intents=frozenset({"menu", "order"}))


@sync_and_async
async def test_an_unknown_intent_is_refused_and_told_to_the_model(
    llmock: LLMock, restaurant: Restaurant, mode: str
) -> None:
    """It may choose again; what it chooses then is synced."""
    llmock.add(calls(("sync_state", {"intent": "poetry", "step": "writing"})))
    llmock.add(calls(("sync_state", ORDER))).reply("¿Qué pizza?")
    async with AsyncConvSyncClient(restaurant.server.base_url, profile=CHOICE) as client:
        model = restaurant.chat(llmock.base_url())
        agent = restaurant.bot(model, middleware=[ConvSyncMiddleware(client)])

        turn = await answered(mode, restaurant.runner(agent, client=client))

    assert (turn.status, restaurant.state) == ("answered", ("order", "selecting"))
    refused, noted = (m["content"] for m in read_by(llmock) if m["role"] == "tool")
    assert refused.startswith("Not accepted: intent")
    assert noted.startswith("Noted: intent order")


@sync_and_async
async def test_an_unknown_intent_in_a_structured_response_is_left_out(
    llmock: LLMock, restaurant: Restaurant, mode: str
) -> None:
    """The reply is sent, and what else was decided is synced."""
    said = Said(reply="Claro.", intent="poetry", step="writing")
    llmock.reply(said.model_dump_json())
    model = restaurant.chat(llmock.base_url())
    async with AsyncConvSyncClient(restaurant.server.base_url, profile=CHOICE) as client:
        agent = restaurant.bot(model, response_format=ProviderStrategy(Said))

        turn = await answered(mode, restaurant.runner(agent, client=client))

    assert (turn.status, turn.reply) == ("answered", "Claro.")
    assert restaurant.state == ("menu", "writing")


@sync_and_async
@pytest.mark.parametrize("text", ['{"reply": "El tot', "no JSON", '{"intent": "order"}'])
async def test_a_malformed_structured_response_ends_in_the_fallback(
    llmock: LLMock, restaurant: Restaurant, mode: str, text: str
) -> None:
    """The agent raises, which is a failure as any other."""
    llmock.reply(text)
    model = restaurant.chat(llmock.base_url())
    agent = restaurant.bot(model, response_format=ProviderStrategy(Said))

    turn = await answered(mode, restaurant.runner(agent))

    assert (turn.status, turn.reply) == ("failed", FALLBACK)
    assert type(turn.error).__name__ == "StructuredOutputValidationError"
    assert restaurant.state == ("menu", "browsing")


@sync_and_async
async def test_a_structured_response_without_a_reply_is_told_to_the_developer(
    llmock: LLMock, restaurant: Restaurant, mode: str
) -> None:
    """No customer reads JSON."""

    class Noted(BaseModel):
        intent: str

    llmock.reply('{"intent": "order"}')
    agent = restaurant.bot(
        restaurant.chat(llmock.base_url()), response_format=ProviderStrategy(Noted)
    )

    turn = await answered(mode, restaurant.runner(agent))

    assert (turn.status, turn.reply) == ("failed", FALLBACK)
    assert isinstance(turn.error, EmptyReplyError)
    assert "give its response_format a field `reply`" in str(turn.error)


@sync_and_async
async def test_a_refusal_is_what_the_model_says(restaurant: Restaurant, mode: str) -> None:
    """It stands beside an empty content; the customer reads it, and nobody asks again."""
    with FaultyServer() as openai:
        openai.plays(refuses())

        turn = await answered(
            mode, restaurant.runner(restaurant.bot(restaurant.chat(openai.url)), max_errors=3)
        )

        assert len(openai.received) == 1
    assert (turn.status, turn.reply) == ("answered", REFUSAL)
    assert restaurant.words[-1] == ("bot", REFUSAL)
    assert restaurant.state == ("menu", "browsing")


@sync_and_async
async def test_a_streamed_refusal_ends_in_the_fallback(restaurant: Restaurant, mode: str) -> None:
    """LangChain drops its words: what is left is an empty answer."""
    with FaultyServer() as openai:
        openai.plays(refuses_in_a_stream())

        turn = await answered(
            mode, restaurant.runner(restaurant.bot(restaurant.chat(openai.url, streaming=True)))
        )

    assert (turn.status, turn.reply) == ("failed", FALLBACK)
    assert isinstance(turn.error, EmptyReplyError)


@sync_and_async
async def test_a_refusal_of_a_structured_response_ends_in_the_fallback(
    restaurant: Restaurant, mode: str
) -> None:
    """The agent finds no JSON in it, and raises."""
    with FaultyServer() as openai:
        openai.plays(refuses())
        agent = restaurant.bot(restaurant.chat(openai.url), response_format=ProviderStrategy(Said))

        turn = await answered(mode, restaurant.runner(agent))

    assert (turn.status, turn.reply) == ("failed", FALLBACK)
    assert type(turn.error).__name__ == "StructuredOutputValidationError"
