"""The real ChatOpenAI with each surface on its own, and as the model of ``llm_extractor``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Reply
from openai import APIError
from pydantic import BaseModel

from langchain_convsync import llm_extractor, telemetry
from langchain_convsync.callbacks import AsyncConvSyncCallbackHandler, ConvSyncCallbackHandler
from langchain_convsync.chat_history import ConvSyncChatMessageHistory
from langchain_convsync.models import StateUpdate
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.tools import ConvSyncToolkit
from tests import openai_bot
from tests.faulty_server import HANG, FaultyServer, sends
from tests.openai_bot import (
    CUSTOMER,
    REFUSAL,
    Restaurant,
    answered,
    asked,
    calls,
    read_by,
    refuses,
    whole_or_streamed,
)
from tests.surfaces import every_form, invoke, perform, sync_and_async

ORDER = {"intent": "order", "step": "selecting"}
SAID = {"messages": [("user", "Quiero una pizza")]}


reference, restaurant = openai_bot.reference, openai_bot.restaurant


class Said(BaseModel):
    """What a model answers."""

    reply: str
    intent: str | None = None
    step: str | None = None


#: A stream that ends too early: older versions of langchain-openai let the wire's error through.
CUT_OFF = (APIError, httpx.RemoteProtocolError, httpx2.RemoteProtocolError)


@sync_and_async
@whole_or_streamed
async def test_the_middleware_alone_records_and_syncs(
    llmock: LLMock, restaurant: Restaurant, mode: str, streaming: bool
) -> None:
    """Without a runner: words, reply and state of a run with tools."""
    llmock.add(calls(("menu", {}), ("sync_state", ORDER))).reply("Tenemos pizza a S/ 25.")
    agent = restaurant.bot(restaurant.chat(llmock.base_url(), streaming=streaming))

    with in_conversation(CUSTOMER):
        output = await invoke(mode, agent, SAID)

    assert output["messages"][-1].content == "Tenemos pizza a S/ 25."
    assert restaurant.words == [("user", "Quiero una pizza"), ("bot", "Tenemos pizza a S/ 25.")]
    assert restaurant.state == ("order", "selecting")


@sync_and_async
async def test_the_middleware_alone_records_the_reply_of_a_structured_response(
    llmock: LLMock, restaurant: Restaurant, mode: str
) -> None:
    """The history is what a customer would read."""
    llmock.reply(Said(reply="¿Qué pizza?", **ORDER).model_dump_json())
    model = restaurant.chat(llmock.base_url())
    agent = restaurant.bot(model, response_format=ProviderStrategy(Said))

    with in_conversation(CUSTOMER):
        await invoke(mode, agent, SAID)

    assert restaurant.words[-1] == ("bot", "¿Qué pizza?")
    assert restaurant.state == ("order", "selecting")


@sync_and_async
async def test_a_failure_of_the_model_reaches_the_callers_of_the_middleware(
    llmock: LLMock, restaurant: Restaurant, mode: str
) -> None:
    """Alone it has no fallback: the error is the caller's, and nothing is recorded."""
    llmock.fail(500)
    agent = restaurant.bot(restaurant.chat(llmock.base_url()))

    with in_conversation(CUSTOMER), pytest.raises(APIError):
        await invoke(mode, agent, SAID)

    assert (restaurant.words, restaurant.state) == ([], ("menu", "browsing"))


@sync_and_async
async def test_the_middleware_alone_leaves_half_an_answer_to_its_caller(
    llmock: LLMock, restaurant: Restaurant, mode: str
) -> None:
    """The history holds what the caller got; it is counted, since few callers look."""
    counted = telemetry.counted("incomplete_answers")
    llmock.reply("El total es S/ 125").truncate(after_chunks=4)
    agent = restaurant.bot(restaurant.chat(llmock.base_url(), streaming=True))

    with in_conversation(CUSTOMER):
        output = await invoke(mode, agent, SAID)

    said = output["messages"][-1].content
    assert said != "El total es S/ 125"
    assert restaurant.words[-1] == ("bot", said)
    assert telemetry.counted("incomplete_answers") == counted + 1


@sync_and_async
async def test_the_middleware_alone_syncs_no_half_decision(
    llmock: LLMock, restaurant: Restaurant, mode: str
) -> None:
    """LangChain closes the JSON of a call that was cut off; what it says then is nobody's word."""
    llmock.add(calls(("sync_state", ORDER))).truncate(after_chunks=4).reply("Anotado.")
    agent = restaurant.bot(restaurant.chat(llmock.base_url(), streaming=True))

    with in_conversation(CUSTOMER):
        output = await invoke(mode, agent, SAID)

    assert output["messages"][1].tool_calls[0]["args"] == {"intent": "order"}
    assert restaurant.state == ("menu", "browsing")


@sync_and_async
@whole_or_streamed
async def test_the_toolkits_tools_alone_write_at_once(
    llmock: LLMock, restaurant: Restaurant, mode: str, streaming: bool
) -> None:
    """Called together, without a runner."""
    said = {"content": "Con gusto."}
    llmock.add(calls(("sync_state", ORDER), ("add_message", said))).reply("¿Qué pizza?")
    model = restaurant.chat(llmock.base_url(), streaming=streaming)
    agent = create_agent(model, ConvSyncToolkit(restaurant.client).get_tools())

    with in_conversation(CUSTOMER):
        await invoke(mode, agent, SAID)

    assert (restaurant.words, restaurant.state) == (
        [("bot", "Con gusto.")],
        ("order", "selecting"),
    )
    assert [m["role"] for m in read_by(llmock)][-2:] == ["tool", "tool"]


def remembering(restaurant: Restaurant, model: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """A classic chain with memory."""
    prompt = ChatPromptTemplate.from_messages(
        [MessagesPlaceholder("history"), ("human", "{question}")]
    )
    with pytest.warns(DeprecationWarning, match="RunnableWithMessageHistory"):
        return RunnableWithMessageHistory(
            prompt | model,
            lambda phone: ConvSyncChatMessageHistory(phone, client=restaurant.client),
            input_messages_key="question",
            history_messages_key="history",
        )


SESSION: Any = {"configurable": {"session_id": CUSTOMER}}


@every_form
async def test_a_classic_chain_remembers(llmock: LLMock, restaurant: Restaurant, form: str) -> None:
    """In every form of a call; the next one reads what was said."""
    llmock.reply("Con gusto").reply("De nada")
    chain = remembering(restaurant, restaurant.chat(llmock.base_url()))

    for question in ("Una pizza", "Gracias"):
        await perform(form, chain, {"question": question}, SESSION)

    assert [text for _, text in restaurant.words] == [
        "Una pizza",
        "Con gusto",
        "Gracias",
        "De nada",
    ]
    assert [m["content"] for m in read_by(llmock)] == ["Una pizza", "Con gusto", "Gracias"]


@pytest.mark.parametrize("form", ["invoke", "stream", "ainvoke", "astream"])
async def test_a_classic_chain_whose_model_fails_records_nothing(
    llmock: LLMock, restaurant: Restaurant, form: str
) -> None:
    """Its caller gets the error, and asks again."""
    llmock.rate_limit()
    chain = remembering(restaurant, restaurant.chat(llmock.base_url()))

    with pytest.raises(APIError):
        await perform(form, chain, {"question": "Una pizza"}, SESSION)

    assert restaurant.words == []


@sync_and_async
async def test_a_classic_chain_remembers_a_refusal_by_its_words(
    restaurant: Restaurant, mode: str
) -> None:
    """They stand beside the content, which is empty."""
    with FaultyServer() as openai:
        openai.plays(refuses())
        chain = remembering(restaurant, restaurant.chat(openai.url))

        await invoke(mode, chain, {"question": "Una pizza"}, SESSION)

    assert restaurant.words[-1] == ("bot", REFUSAL)


Handler = type[ConvSyncCallbackHandler | AsyncConvSyncCallbackHandler]
every_handler = pytest.mark.parametrize(
    "handler", [ConvSyncCallbackHandler, AsyncConvSyncCallbackHandler]
)


@every_handler
@every_form
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # openai's, in streams
async def test_a_handler_syncs_what_a_chain_of_chatopenai_decided(
    llmock: LLMock, restaurant: Restaurant, handler: Handler, form: str
) -> None:
    """``with_structured_output``, in every form of a call."""
    llmock.reply(Said(reply="¿Qué pizza?", **ORDER).model_dump_json())
    chain = RunnableLambda(str) | restaurant.chat(llmock.base_url()).with_structured_output(Said)

    with in_conversation(CUSTOMER):
        await perform(form, chain, "?", {"callbacks": [handler(restaurant.client)]})

    assert restaurant.state == ("order", "selecting")
    assert sum(seen.method == "PUT" for seen in restaurant.server.requests) == 1


@every_handler
@sync_and_async
async def test_a_handler_syncs_nothing_of_a_run_that_failed(
    llmock: LLMock, restaurant: Restaurant, handler: Handler, mode: str
) -> None:
    """What was decided before the failure goes with the run."""
    llmock.add(calls(("sync_state", ORDER))).reply("Anotado.")
    llmock.disconnect(after_chunks=99).disconnect(after_chunks=1)  # the first stream is shorter
    agent = restaurant.bot(restaurant.chat(llmock.base_url(), streaming=True))

    with in_conversation(CUSTOMER), pytest.raises(CUT_OFF):
        await invoke(mode, agent, SAID, {"callbacks": [handler(restaurant.client)]})

    assert asked(llmock) == [200, 200]
    assert restaurant.state == ("menu", "browsing")


def echo() -> Runnable[Any, Any]:
    return RunnableLambda(lambda messages: AIMessage(f"re: {messages[-1].content}"))


@sync_and_async
async def test_an_extractor_asks_chatopenai_for_the_state(
    llmock: LLMock, restaurant: Restaurant, mode: str
) -> None:
    """One more call after the reply: its schema offers the intents to choose from."""
    llmock.reply('{"intent": "order", "step": "selecting"}')
    model = restaurant.chat(llmock.base_url())
    extractor = llm_extractor(model, intents=["menu", "order"])

    turn = await answered(mode, restaurant.runner(echo(), extractor=extractor))

    assert (turn.status, turn.reply) == ("answered", "re: Quiero una pizza")
    assert restaurant.state == ("order", "selecting")
    schema = llmock.last_request.body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["intent"]["anyOf"][0]["enum"] == ["menu", "order"]
    assert "re: Quiero una pizza" in read_by(llmock)[-1]["content"]


USELESS: dict[str, Callable[[LLMock], object]] = {
    "429": lambda openai: openai.rate_limit(),
    "500": lambda openai: openai.fail(500),
    "length": lambda openai: openai.add(Reply(text='{"intent": "or', finish_reason="length")),
    "content filter": lambda openai: openai.add(Reply(text="", finish_reason="content_filter")),
    "bad JSON": lambda openai: openai.reply('{"intent": "order", "st'),
    "no JSON": lambda openai: openai.reply("order"),
    "empty": lambda openai: openai.reply(""),
    "unknown intent": lambda openai: openai.reply('{"intent": "poetry", "step": "writing"}'),
}


@pytest.mark.parametrize(("mode", "streaming"), [("sync", True), ("async", False)])
@pytest.mark.parametrize("case", USELESS)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # openai's, in streams
async def test_an_extraction_that_fails_costs_no_reply(
    llmock: LLMock, restaurant: Restaurant, mode: str, streaming: bool, case: str
) -> None:
    """The customer is answered, the state stays, and it is counted."""
    failures = telemetry.counted("extraction_failures")
    USELESS[case](llmock)
    model = restaurant.chat(llmock.base_url(), streaming=streaming)
    extractor = llm_extractor(model, intents=["menu", "order"])

    turn = await answered(mode, restaurant.runner(echo(), extractor=extractor))

    assert (turn.status, turn.reply) == ("answered", "re: Quiero una pizza")
    assert restaurant.words[-1] == ("bot", "re: Quiero una pizza")
    assert (turn.state, restaurant.state) == (StateUpdate(), ("menu", "browsing"))
    assert telemetry.counted("extraction_failures") == failures + 1
    assert len(asked(llmock)) == 1


@sync_and_async
@pytest.mark.parametrize("chunks", [3, 5])
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # openai's, in streams
async def test_an_extraction_whose_stream_ends_early_decides_nothing(
    llmock: LLMock, restaurant: Restaurant, mode: str, chunks: int
) -> None:
    """Not even where what came is a decision by itself."""
    llmock.reply('{"intent": "order"} {"step": "selecting"}').truncate(after_chunks=chunks)
    extractor = llm_extractor(restaurant.chat(llmock.base_url(), streaming=True))

    turn = await answered(mode, restaurant.runner(echo(), extractor=extractor))

    assert (turn.status, turn.reply) == ("answered", "re: Quiero una pizza")
    assert restaurant.state == ("menu", "browsing")


@sync_and_async
@pytest.mark.parametrize("script", [refuses(), sends(HANG)], ids=["refusal", "hang"])
async def test_an_extraction_that_is_refused_or_hangs_costs_no_reply(
    restaurant: Restaurant, mode: str, script: Any
) -> None:
    """ChatOpenAI's own timeout bounds it."""
    failures = telemetry.counted("extraction_failures")
    with FaultyServer() as openai:
        openai.plays(script)
        extractor = llm_extractor(restaurant.chat(openai.url, timeout=0.2))

        turn = await answered(mode, restaurant.runner(echo(), extractor=extractor))

    assert (turn.status, turn.reply) == ("answered", "re: Quiero una pizza")
    assert restaurant.state == ("menu", "browsing")
    assert telemetry.counted("extraction_failures") == failures + 1


async def test_an_async_extraction_waits_no_longer_than_it_is_told(restaurant: Restaurant) -> None:
    """Whatever the model's own timeout: ChatOpenAI's default is ten minutes, thrice."""
    failures = telemetry.counted("extraction_failures")
    with FaultyServer() as openai:
        openai.plays(sends(HANG))
        model = restaurant.chat(openai.url, timeout=600, max_retries=2)
        extractor = llm_extractor(model, timeout=0.2)

        turn = await answered("async", restaurant.runner(echo(), extractor=extractor))

    assert (turn.status, turn.reply) == ("answered", "re: Quiero una pizza")
    assert restaurant.state == ("menu", "browsing")
    assert telemetry.counted("extraction_failures") == failures + 1
