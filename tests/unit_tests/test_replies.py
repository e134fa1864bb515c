"""What an agent's output says to the customer, and whether it is whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import invalid_tool_call
from pydantic import BaseModel

from langchain_convsync import Reply
from langchain_convsync.models import StateUpdate
from langchain_convsync.surfaces.messages import cut_off, last_reply
from langchain_convsync.surfaces.state import extract
from langchain_convsync.turns.said import (
    LONGEST_REPLY,
    EmptyReplyError,
    IncompleteReplyError,
    OverlongReplyError,
    reply_of,
)
from tests.surfaces import calls

LISTO = Reply(texts=["Listo"])


class Said(BaseModel):
    reply: str
    intent: str | None = None


def ended(text: str = "El total es", **metadata: Any) -> AIMessage:
    """A message of a model, with what its provider told about its end."""
    return AIMessage(text, response_metadata=metadata)


def illegible(text: str = "") -> AIMessage:
    """A message that calls a tool with arguments that are no JSON."""
    call = invalid_tool_call(name="pay", args='{"amo', id="1", error="no JSON")
    return AIMessage(text, invalid_tool_calls=[call])


@pytest.mark.parametrize(
    "output",
    [
        "Listo",
        AIMessage("Listo"),
        [HumanMessage("Hola"), AIMessage("Listo")],
        {"messages": [HumanMessage("Hola"), AIMessage("Listo")]},
        {"output": "Listo"},
        {"reply": "Listo", "messages": [AIMessage("another")]},
        Said(reply="Listo"),
        AIMessage([{"type": "refusal", "refusal": "Listo"}]),
        AIMessage("", additional_kwargs={"refusal": "Listo"}),
    ],
)
def test_the_text_is_found_wherever_an_agent_leaves_it(output: object) -> None:
    """Texts, messages, states and objects; a refusal is a text, too."""
    assert reply_of(output) == "Listo"


BLOCKS: list[Any] = [
    {"type": "web_search_call", "id": "ws_1"},
    {"type": "text", "text": "Lis"},
    {"type": "text", "text": "to", "annotations": []},
]


@pytest.mark.parametrize(
    "output",
    [
        BLOCKS,
        AIMessage(BLOCKS),
        {"output": BLOCKS},
        {"output": AIMessage(BLOCKS)},
        {"output": [HumanMessage("Hola"), AIMessage(BLOCKS)]},
        {"reply": BLOCKS, "messages": [AIMessage("another")]},
        {"output": {"total": 25}, "messages": [AIMessage(BLOCKS)]},
        {"output": [BLOCKS[0]], "messages": [AIMessage(BLOCKS)]},
        {"messages": [AIMessage("{}")], "structured_response": {"reply": BLOCKS}},
        SimpleNamespace(reply=BLOCKS),
    ],
)
def test_blocks_are_read_wherever_an_agent_leaves_them(output: object) -> None:
    """``AgentExecutor`` and chains that pick ``message.content`` return them as they are."""
    assert reply_of(output) == "Listo"


@pytest.mark.parametrize(
    "output",
    [
        [BLOCKS[0]],
        {"output": [BLOCKS[0]]},
        {"output": {"total": 25}},
        {"messages": [HumanMessage("Hola")], "output": HumanMessage("Hola")},
        SimpleNamespace(reply=print),
        SimpleNamespace(reply=7),
        {"messages": [AIMessage("{}")], "structured_response": {"reply": {"text": "Listo"}}},
        7,
    ],
)
def test_what_is_no_text_is_no_reply(output: object) -> None:
    """No customer reads how Python writes an object."""
    with pytest.raises(EmptyReplyError):
        reply_of(output)


def test_what_an_agents_memory_brings_back_is_no_reply() -> None:
    """It was said in an earlier run."""
    old = {"messages": [AIMessage("Antes", id="1")]}

    with pytest.raises(EmptyReplyError):
        reply_of(old, old)


@pytest.mark.parametrize("structured", [Said(reply="Listo"), {"reply": "Listo"}])
@pytest.mark.parametrize(
    "messages",
    [
        [AIMessage('{"reply": "Listo"}')],
        [calls("Said", reply="Listo"), ToolMessage("Returning…", tool_call_id="call-1")],
    ],
    ids=["provider", "tool"],
)
def test_a_structured_response_speaks_by_its_reply(
    structured: object, messages: list[BaseMessage]
) -> None:
    """The JSON that carries it is nothing to say."""
    assert reply_of({"messages": messages, "structured_response": structured}) == "Listo"


def test_a_text_beside_a_structured_response_without_a_reply_is_sent() -> None:
    """A model may say one thing and note another."""
    said = calls("Noted", intent="order").model_copy(update={"content": "¿Cuál?"})
    messages = [said, ToolMessage("Returning…", tool_call_id="call-1")]

    assert last_reply(messages, {"intent": "order"}) == "¿Cuál?"


@pytest.mark.parametrize(
    "structured",
    [LISTO, {"reply": LISTO}, SimpleNamespace(reply=LISTO), {"reply": LISTO.model_dump()}],
)
def test_a_structured_response_may_be_a_reply(structured: object) -> None:
    """For every surface that records what was said."""
    assert last_reply([AIMessage('{"texts": ["Listo"]}')], structured) == "Listo"


def test_an_old_structured_response_does_not_speak_again() -> None:
    """A checkpointer brings it back; what was said now is sent."""
    assert last_reply([AIMessage("Se acabó.")], Said(reply="Listo")) == "Se acabó."


def test_an_agent_without_a_structured_response_may_say_json() -> None:
    """Then it is a text as any other."""
    assert last_reply([AIMessage('{"reply": "Listo"}')]) == '{"reply": "Listo"}'


def test_json_alone_is_no_reply_and_the_error_says_what_to_do() -> None:
    """The developer forgot that somebody wants an answer."""
    output = {"messages": [AIMessage('{"a": 1}')], "structured_response": {"a": 1}}

    with pytest.raises(EmptyReplyError, match="field `reply`"):
        reply_of(output)


def test_a_text_beyond_a_whatsapp_message_is_a_failure() -> None:
    """A model that does not end; the longest message that WhatsApp takes is sent."""
    assert reply_of("x" * LONGEST_REPLY) == "x" * LONGEST_REPLY
    with pytest.raises(OverlongReplyError, match="longer"):
        reply_of("x" * (LONGEST_REPLY + 1))


@pytest.mark.parametrize(
    "message",
    [
        ended(finish_reason="length"),
        ended(finish_reason="content_filter", model_provider="openai"),
        ended(stop_reason="max_tokens", model_provider="anthropic"),
        ended(status="incomplete", model_provider="openai"),
        ended(model_provider="openai"),
    ],
)
def test_a_message_that_was_cut_off_is_recognised(message: AIMessage) -> None:
    """By the reason that the provider gave, or by OpenAI's giving none."""
    assert cut_off(message)
    with pytest.raises(IncompleteReplyError, match="cut off"):
        reply_of({"messages": [message]})


@pytest.mark.parametrize(
    "message",
    [
        ended(),
        ended(finish_reason="stop", model_provider="openai"),
        ended(finish_reason=None, model_provider="openai"),
        ended(status="completed", model_provider="openai"),
        ended(stop_reason="end_turn", model_provider="anthropic"),
        ended(model_provider="another"),
        HumanMessage("Hola"),
    ],
)
def test_whatever_is_not_known_to_be_cut_off_is_whole(message: BaseMessage) -> None:
    """Most models tell nothing, and some servers tell no reason outside of streams."""
    assert cut_off(message) is None


def test_what_followed_a_message_that_was_cut_off_is_not_relied_on() -> None:
    """The agent has acted on half a tool call."""
    half = calls("pay", amount=1).model_copy(
        update={"response_metadata": {"stop_reason": "length"}}
    )
    messages = [half, ToolMessage("paid", tool_call_id="call-1"), AIMessage("Pagado.")]

    with pytest.raises(IncompleteReplyError):
        reply_of({"messages": messages})


def test_what_was_said_before_the_run_does_not_count() -> None:
    """A checkpointed thread keeps the half of an answer for ever."""
    half = AIMessage("El to", id="1", response_metadata={"model_provider": "openai"})
    before = {"messages": [HumanMessage("Hola", id="0"), half]}

    output = {"messages": [*before["messages"], AIMessage("El total es S/ 25", id="2")]}

    assert reply_of(output, before) == "El total es S/ 25"
    with pytest.raises(EmptyReplyError):
        reply_of(before, before)


@pytest.mark.parametrize("text", ["", "Un momento…"])
def test_a_call_in_no_json_is_no_answer(text: str) -> None:
    """An agent ends on it as if it had nothing to call; what it promised never happens."""
    with pytest.raises(IncompleteReplyError, match="not JSON"):
        reply_of({"messages": [illegible(text)]})


def test_a_call_in_no_json_that_was_answered_is_no_flaw() -> None:
    """A middleware told the model, which tried again."""
    told = ToolMessage("no JSON", tool_call_id="1", status="error")

    assert reply_of({"messages": [illegible(), told, AIMessage("Listo")]}) == "Listo"


def test_half_a_decision_does_not_count() -> None:
    """Of the intent "order", half is "or"."""
    half = calls("sync_state", intent="or")
    whole = calls("sync_state", step="selecting")
    half.response_metadata = {"model_provider": "openai"}

    run = [half, _noted(half), whole, _noted(whole)]

    assert extract({"messages": run}) == StateUpdate(step="selecting")


def _noted(asked: AIMessage) -> ToolMessage:
    """The answer of the tool that it called."""
    return ToolMessage("Noted.", tool_call_id=asked.tool_calls[0]["id"])


def test_half_a_character_is_no_reply() -> None:
    """It could be neither sent nor stored; the run has failed, and not the event."""
    with pytest.raises(IncompleteReplyError, match="surrogate"):
        reply_of("Claro \ud83d")
