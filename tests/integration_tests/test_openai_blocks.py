"""The real ChatOpenAI over the Responses API, whose answers are blocks: which of them are words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_convsync.chat_history import ConvSyncChatMessageHistory
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.turns.said import EmptyReplyError
from tests import openai_bot
from tests.faulty_server import FaultyServer, Script, answers
from tests.openai_bot import (
    CUSTOMER,
    FALLBACK,
    REFUSAL,
    Restaurant,
    answered,
    whole_or_streamed,
)
from tests.surfaces import invoke, sync_and_async

pytestmark = pytest.mark.usefixtures("no_pause")
reference, restaurant = openai_bot.reference, openai_bot.restaurant

every_version = pytest.mark.parametrize("version", [None, "v0", "responses/v1", "v1"])
CITATION = {
    "type": "url_citation",
    "url": "https://example.com",
    "title": "Horario",
    "start_index": 0,
    "end_index": 7,
}


def text(words: str, *annotations: object) -> dict[str, Any]:
    return {"type": "output_text", "text": words, "annotations": [*annotations], "logprobs": []}


def message(*content: dict[str, Any]) -> dict[str, Any]:
    kind = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    return {**kind, "content": [*content]}


REASONING = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "SECRET"}],
}
#: What ran at OpenAI before the model spoke.
TOOLS: list[dict[str, Any]] = [
    {
        "id": "ws_1",
        "type": "web_search_call",
        "status": "completed",
        "action": {"type": "search", "query": "SECRET"},
    },
    {"id": "fs_1", "type": "file_search_call", "status": "completed", "queries": ["SECRET"]},
    {
        "id": "ci_1",
        "type": "code_interpreter_call",
        "status": "completed",
        "code": "SECRET",
        "container_id": "cntr_1",
        "outputs": [],
    },
    {"id": "mcpl_1", "type": "mcp_list_tools", "server_label": "shop", "tools": []},
    {
        "id": "mcp_1",
        "type": "mcp_call",
        "server_label": "shop",
        "name": "stock",
        "arguments": "{}",
        "output": "SECRET",
    },
    {"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": "SECRET"},
]
SPOKEN = message(text("Abrimos "), text("a las 9", CITATION), text(", hasta las 22."))
WORDS = "Abrimos a las 9, hasta las 22."
REFUSED = message({"type": "refusal", "refusal": REFUSAL})


def response(output: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1767000000,
        "status": "completed",
        "model": "gpt-4o",
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def responds(*output: dict[str, Any], streaming: bool) -> Script:
    """OpenAI's answer, whole or as its events."""
    if not streaming:
        return answers(response([*output]))
    numbered = [
        {**event, "sequence_number": number} for number, event in enumerate(_events([*output]))
    ]
    lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in numbered]
    return answers("".join(lines), content_type="text/event-stream")


def _events(output: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield {"type": "response.created", "response": {**response([]), "status": "in_progress"}}
    for place, item in enumerate(output):
        here = {"output_index": place, "item_id": item["id"]}
        begun = {**item, "content": []} if item["type"] == "message" else item
        yield {"type": "response.output_item.added", **here, "item": begun}
        for index, part in enumerate(item.get("content", ())):
            yield from _parts({**here, "content_index": index}, part)
        yield {"type": "response.output_item.done", **here, "item": item}
    yield {"type": "response.completed", "response": response(output)}


def _parts(here: dict[str, Any], part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if part["type"] == "refusal":
        yield {"type": "response.refusal.done", **here, "refusal": part["refusal"]}
        return
    for character in part["text"]:
        yield {"type": "response.output_text.delta", **here, "delta": character, "logprobs": []}
    for number, note in enumerate(part["annotations"]):
        about = {"annotation_index": number, "annotation": note}
        yield {"type": "response.output_text.annotation.added", **here, **about}
    yield {"type": "response.output_text.done", **here, "text": part["text"], "logprobs": []}


@pytest.fixture
def openai() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


def model(
    restaurant: Restaurant, openai: FaultyServer, version: str | None, streaming: bool
) -> Any:
    settings: dict[str, Any] = {"output_version": version} if version else {}
    return restaurant.chat(openai.url, use_responses_api=True, streaming=streaming, **settings)


@sync_and_async
@whole_or_streamed
@every_version
async def test_the_customer_reads_the_text_whatever_ran_at_the_provider(
    restaurant: Restaurant, openai: FaultyServer, mode: str, streaming: bool, version: str | None
) -> None:
    """Searches, code, MCP, pictures and thoughts are no words; citations break no line."""
    openai.plays(responds(REASONING, *TOOLS, SPOKEN, streaming=streaming))
    agent = restaurant.bot(model(restaurant, openai, version, streaming))

    turn = await answered(mode, restaurant.runner(agent))

    assert (turn.status, turn.reply) == ("answered", WORDS)
    assert restaurant.words == [("user", "Quiero una pizza"), ("bot", WORDS)]


@sync_and_async
@whole_or_streamed
@every_version
async def test_a_refusal_is_what_the_model_says_in_blocks_too(
    restaurant: Restaurant, openai: FaultyServer, mode: str, streaming: bool, version: str | None
) -> None:
    """Each output version keeps it elsewhere; the customer reads it, and nobody asks again."""
    openai.plays(responds(REASONING, REFUSED, streaming=streaming))
    agent = restaurant.bot(model(restaurant, openai, version, streaming))

    turn = await answered(mode, restaurant.runner(agent, max_errors=3))

    assert len(openai.received) == 1
    assert (turn.status, turn.reply) == ("answered", REFUSAL)
    assert restaurant.words[-1] == ("bot", REFUSAL)


@sync_and_async
@whole_or_streamed
@every_version
async def test_an_answer_of_tools_alone_is_no_reply(
    restaurant: Restaurant, openai: FaultyServer, mode: str, streaming: bool, version: str | None
) -> None:
    """There is nothing to read in it: the run failed, and the customer gets the fallback."""
    openai.plays(responds(REASONING, *TOOLS, streaming=streaming))
    agent = restaurant.bot(model(restaurant, openai, version, streaming))

    turn = await answered(mode, restaurant.runner(agent))

    assert (turn.status, turn.reply) == ("failed", FALLBACK)
    assert isinstance(turn.error, EmptyReplyError)
    assert restaurant.words == [("user", "Quiero una pizza"), ("bot", FALLBACK)]


@sync_and_async
@whole_or_streamed
@every_version
async def test_the_middleware_alone_records_the_text(
    restaurant: Restaurant, openai: FaultyServer, mode: str, streaming: bool, version: str | None
) -> None:
    """The history holds what a caller sends, which is `message.text`."""
    openai.plays(responds(REASONING, *TOOLS, SPOKEN, streaming=streaming))
    agent = restaurant.bot(model(restaurant, openai, version, streaming))

    with in_conversation(CUSTOMER):
        output = await invoke(mode, agent, {"messages": [("user", "¿A qué hora?")]})

    assert restaurant.words == [("user", "¿A qué hora?"), ("bot", output["messages"][-1].text)]
    assert restaurant.words[-1] == ("bot", WORDS)


@sync_and_async
@pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory")
@whole_or_streamed
@every_version
async def test_a_history_records_the_text(
    restaurant: Restaurant, openai: FaultyServer, mode: str, streaming: bool, version: str | None
) -> None:
    """A chain that streams leaves one message, made of the chunks of all blocks."""
    openai.plays(responds(REASONING, *TOOLS, SPOKEN, streaming=streaming))
    chain = RunnableWithMessageHistory(
        model(restaurant, openai, version, streaming),
        lambda session_id: ConvSyncChatMessageHistory(session_id, client=restaurant.client),
    )
    config: Any = {"configurable": {"session_id": CUSTOMER}}

    if mode == "sync":
        chunks = [*chain.stream("¿A qué hora?", config)]
    else:
        chunks = [chunk async for chunk in chain.astream("¿A qué hora?", config)]

    assert chunks
    assert restaurant.words == [("user", "¿A qué hora?"), ("bot", WORDS)]
