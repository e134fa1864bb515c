"""LangChain messages from the API's history, and back."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import le
from typing import Any, TypeVar

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    message_chunk_to_message,
)
from langchain_core.messages.base import BaseMessageChunk

from langchain_convsync.models import ConversationMessage, Said, Words
from langchain_convsync.reply import InvalidReplyError, Reply, reply_in

W = TypeVar("W", bound=Words)

_LANGCHAIN = {"user": HumanMessage, "bot": AIMessage}
_ROLES = {"human": "user", "ai": "bot"}
_EPOCH = datetime.min.replace(tzinfo=UTC)
#: Where a message keeps the words that a history holds of it, if its content is more than these.
WORDS = "convsync_words"


def to_langchain(history: Sequence[Words]) -> list[BaseMessage]:
    """The history as a model reads it: oldest first, customers' and bots' words only.

    Order is by timestamp; messages without one stay behind their predecessor. Roles other than
    ``user`` and ``bot`` are dropped: a stored "system" is data, not an instruction. Ids are derived
    from the content, so that reading twice gives the same messages.
    """
    told = told_in(history)
    return end_of(told, len(told))


def told_in(history: Sequence[W]) -> list[W]:
    """What of a history a model reads, oldest first."""
    return [message for message in by_timestamp(history) if is_told(message)]


def end_of(told: Sequence[Words], most: int) -> list[BaseMessage]:
    """The last messages of what a model reads: the same, with the same ids, as of all of it."""
    start = max(0, len(told) - most)
    words = {message.content for message in told[start:]}
    seen: dict[tuple[str, str, str], int] = {}
    result: list[BaseMessage] = []
    for place, message in enumerate(told):
        if place < start and message.content not in words:
            continue
        key = (message.role, message.content, str(message.timestamp))
        seen[key] = seen.get(key, 0) + 1
        if place >= start:
            kind = _LANGCHAIN[message.role]
            result.append(kind(content=message.content, id=_id(key, seen[key])))
    return result


def is_told(message: Words) -> bool:
    """Whether a model reads this message of a history."""
    return message.role in _LANGCHAIN and bool(message.content)


@lru_cache(maxsize=4096)
def _id(key: tuple[str, str, str], occurrence: int) -> str:
    digest = hashlib.sha256(repr((key, occurrence)).encode("utf-8", "backslashreplace"))
    return f"convsync-{digest.hexdigest()[:24]}"


def by_timestamp(history: Sequence[W]) -> list[W]:
    """The history in order of time, stable; a message without a timestamp keeps its place."""
    history = list(history)
    if _are_in_order([m.sent if isinstance(m, Said) else m.timestamp for m in history]):
        return history
    latest, times = _EPOCH, []
    for message in history:
        latest = _aware(message.timestamp) or latest
        times.append(latest)
    return [history[place] for place in sorted(range(len(times)), key=times.__getitem__)]


def _are_in_order(written: Sequence[Any]) -> bool:
    """Whether that can be told of times as they are written: in one form of ISO 8601, in UTC."""
    written = [each for each in written if each is not None]
    if any(type(each) is not str or each[-1:] != "Z" or each[4:5] != "-" for each in written):
        return False
    return len(set(map(len, written))) <= 1 and all(map(le, written, written[1:]))


def _aware(timestamp: datetime | None) -> datetime | None:
    if timestamp is None or timestamp.tzinfo is not None:
        return timestamp
    return timestamp.replace(tzinfo=UTC)


def from_langchain(message: BaseMessage) -> ConversationMessage | None:
    """The message as the API records it; None for what is not part of the conversation.

    Recorded are the words of the customer and of the bot. Tool calls, tool results and system
    messages are the agent's own business; other content becomes ``[image]`` and the like.
    """
    if isinstance(message, BaseMessageChunk):
        message = message_chunk_to_message(message)
    role, content = _ROLES.get(message.type), text_of(message)
    return ConversationMessage(role=role, content=content) if role and content else None


def text_of(message: BaseMessage) -> str:
    """What a message says.

    A bot says what :attr:`AIMessage.text` tells, joined as LangChain joins it: whatever else
    providers put into their messages is no word of it. A model that refuses says why beside its
    text. What a customer sent and is no text is named in brackets: ``[image]``; a turn's message
    with files tells its words itself.
    """
    if message.type in _BOTS:
        return str(message.text) or _refusal(message)
    if isinstance(words := message.additional_kwargs.get(WORDS), str):
        return words
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part for part in map(_shown, message.content) if part)


_BOTS = {"ai", "AIMessageChunk"}


def _refusal(message: BaseMessage) -> str:
    """Why a model refuses: OpenAI's APIs tell it in blocks, or beside the content."""
    told = "".join(map(_refused, message.content))
    return told or str(message.additional_kwargs.get("refusal") or "")


def _refused(block: object) -> str:
    if isinstance(block, dict) and block.get("type") == "non_standard":  # LangChain's wrapping
        block = block.get("value")
    if not isinstance(block, dict) or block.get("type") != "refusal":
        return ""
    return str(block.get("refusal") or "")


def _shown(block: str | dict[str, object]) -> str:
    if isinstance(block, str):
        return block
    if isinstance(text := block.get("text"), str):
        return text
    kind = str(block.get("type", "content"))
    return f"[{kind.removesuffix('_url').removeprefix('input_')}]"


def text_in(said: object) -> str:
    """The text in what a run returned as its words, in whatever form; empty where there is none.

    Args:
        said: A text, a message, several of them, or a message's blocks, as ``AgentExecutor``
            returns them.
    """
    if isinstance(said, str):
        return said
    return last_reply(messages_of(as_messages(said) if isinstance(said, list | tuple) else said))


def as_messages(given: Iterable[object]) -> list[BaseMessage]:
    """The messages in a list; blocks side by side in it are one message of the bot's."""
    found: list[BaseMessage] = []
    for are_blocks, group in itertools.groupby(given, lambda each: isinstance(each, str | dict)):
        some: list[Any] = list(group)
        found += [AIMessage(some)] if are_blocks else some
    return found


def messages_of(output: object) -> list[BaseMessage]:
    """The messages in what a run returned: one, a list of them, or a state that holds them."""
    found = output.get("messages", ()) if isinstance(output, Mapping) else output
    if isinstance(found, BaseMessage):
        return [found]
    if not isinstance(found, Sequence):
        return []
    return [message for message in found if isinstance(message, BaseMessage)]


def last_reply(messages: Sequence[BaseMessage], structured: object = None) -> str:
    """The text that the agent wants to send: that of the last message, if it is the agent's.

    Args:
        messages: The messages of the run.
        structured: Its structured response, if there is one. The message that carries it is JSON
            or a tool call, and nothing to send: its field ``reply`` is, where it has one.
    """
    said = list(messages)
    while structured is not None and said and isinstance(said[-1], ToolMessage):
        said.pop()
    if not said or said[-1].type not in _BOTS:
        return ""
    text = text_of(said[-1])
    if structured is None or not carrying(messages):
        return text
    fields = structured if isinstance(structured, Mapping) else {}
    reply = fields.get("reply", getattr(structured, "reply", None))
    for spoken in (structured, reply):
        if (found := _told(spoken)) is not None:
            return found.text
    if reply is not None:
        return text_in(reply)
    return "" if _is_json_object(text) else text


def _told(spoken: object) -> Reply | None:
    """The reply, where it is one; a turn tells what is wrong with one that is not."""
    try:
        return reply_in(spoken)
    except InvalidReplyError:
        return None


def carrying(messages: Sequence[BaseMessage]) -> bool:
    """Whether the last message carries a structured response: a tool's answer, or JSON."""
    last = messages[-1]
    return isinstance(last, ToolMessage) or _is_json_object(text_of(last))


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


#: How providers say that they stopped before the model was done.
_CUT = {"length", "max_tokens", "max_output_tokens", "content_filter", "incomplete"}


def cut_off(message: BaseMessage) -> str | None:
    """Why a model's message is not whole; None where nothing says so.

    OpenAI ends every message with a reason, streamed ones in their last chunk: without any, the
    stream was cut off, and LangChain made a message of what had come, tool calls included.
    """
    metadata = message.response_metadata
    for reason in (
        metadata.get("finish_reason"),
        metadata.get("stop_reason"),
        metadata.get("status"),
    ):
        if str(reason) in _CUT:
            return str(reason)
    if (
        metadata.get("model_provider") == "openai"
        and not {"finish_reason", "status"} & metadata.keys()
    ):
        return "its stream ended early"
    return None


def flaw_in(messages: Sequence[BaseMessage]) -> str | None:
    """Why what a model said in a run cannot be relied on; None where nothing says so."""
    answered = {m.tool_call_id for m in messages if isinstance(m, ToolMessage)}
    for message in messages:
        if not isinstance(message, AIMessage):
            continue
        if reason := cut_off(message):
            return f"the model's answer was cut off ({reason})"
        if any(call["id"] not in answered for call in message.invalid_tool_calls):
            return "the model called a tool with arguments that are not JSON"
    return None
