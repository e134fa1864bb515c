"""Turns of the real ChatOpenAI, replayed from cassettes: no model's server is needed.

They pin what a turn tells the model (history, state, tools, schema), and what it makes of a
recorded answer. They were recorded from the mock of OpenAI's API; to record anew, run this file
with ``VCR_RECORD=1`` set. The API server is a real one either way, and on no cassette.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents.structured_output import ProviderStrategy
from llmock.pytest_plugin import LLMock
from pydantic import BaseModel

from tests import openai_bot
from tests.cassettes import CASSETTES, RECORDING, scrubbed_request, tape
from tests.openai_bot import Restaurant, answered, calls
from tests.surfaces import sync_and_async


def to_the_model(request: Any) -> Any:
    """The request as it is recorded; None for those to the API server."""
    return scrubbed_request(request) if request.path.endswith("/chat/completions") else None


def same_question(asked: Any, recorded: Any) -> None:
    """What else ChatOpenAI sends is its own business, and changes with its versions."""
    for name in ("messages", "tools", "response_format", "stream"):
        assert json.loads(asked.body).get(name) == json.loads(recorded.body).get(name), name


conversations = tape(before_record_request=to_the_model, match_on=["method", "path", "question"])
conversations.register_matcher("question", same_question)


class Said(BaseModel):
    """What a model answers: a text for the customer, and the conversation's state."""

    reply: str
    intent: str
    step: str


SAID = Said(reply="Tenemos pizza a S/ 25.", intent="order", step="selecting")
ORDER = SAID.model_dump(exclude={"reply"})


def calls_tools(openai: LLMock) -> None:
    openai.add(calls(("menu", {}), ("sync_state", ORDER))).reply(SAID.reply)


def waits(openai: LLMock) -> None:
    openai.rate_limit(retry_after=0.05)
    calls_tools(openai)


def structured(openai: LLMock) -> None:
    openai.reply(SAID.model_dump_json())


#: What the mock was told when it was recorded, the model's settings, and the agent's.
RECORDED: dict[str, tuple[Callable[[LLMock], None], dict[str, Any], dict[str, Any]]] = {
    "openai_tools": (calls_tools, {}, {}),
    "openai_streaming": (calls_tools, {"streaming": True}, {}),
    "openai_429": (waits, {"max_retries": 1}, {}),
    "openai_structured": (structured, {}, {"response_format": ProviderStrategy(Said)}),
}


reference, restaurant = openai_bot.reference, openai_bot.restaurant


@sync_and_async
@pytest.mark.parametrize("name", RECORDED)
async def test_a_recorded_conversation_leads_to_the_same_turn(
    request: pytest.FixtureRequest, restaurant: Restaurant, mode: str, name: str
) -> None:
    """Streaming, tool calls, a structured response and a 429 that passes: reply and state."""
    script, settings, agent = RECORDED[name]
    url = "http://127.0.0.1:9/v1"  # nobody listens
    if RECORDING:
        if mode == "async":
            pytest.skip("one mode records for both")
        (CASSETTES / f"{name}.yaml").unlink(missing_ok=True)
        openai: LLMock = request.getfixturevalue("llmock")
        script(openai)
        url = openai.base_url()
    bot = restaurant.bot(restaurant.chat(url, **settings), **agent)

    with conversations.use_cassette(f"{name}.yaml") as cassette:
        turn = await answered(mode, restaurant.runner(bot))

    assert (turn.status, turn.reply) == ("answered", SAID.reply)
    assert restaurant.words == [("user", "Quiero una pizza"), ("bot", SAID.reply)]
    assert restaurant.state == ("order", "selecting")
    assert RECORDING or cassette.all_played
