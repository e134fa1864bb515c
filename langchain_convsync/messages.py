"""LangChain messages from the API's history, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    message_chunk_to_message,
)
from langchain_core.messages.base import BaseMessageChunk

from langchain_convsync.models import ConversationMessage

_LANGCHAIN = {"user": HumanMessage, "bot": AIMessage}
_ROLES = {"human": "user", "ai": "bot"}
_EPOCH = datetime.min.replace(tzinfo=UTC)


def to_langchain(history: Iterable[ConversationMessage]) -> list[BaseMessage]:
    """The history as a model reads it: oldest first, customers' and bots' words only.

    Order is by timestamp; messages without one stay behind their predecessor. Roles other than
    ``user`` and ``bot`` are dropped: a stored "system" is data, not an instruction. Ids are derived
    from the content, so that reading twice gives the same messages.
    """
    seen: dict[tuple[str, str, str], int] = {}
    result: list[BaseMessage] = []
    for message in by_timestamp(history):
        kind = _LANGCHAIN.get(message.role)
        if kind is None or not message.content:
            continue
        key = (message.role, message.content, str(message.timestamp))
        seen[key] = seen.get(key, 0) + 1
        digest = hashlib.sha256(repr((key, seen[key])).encode("utf-8", "backslashreplace"))
        result.append(kind(content=message.content, id=f"convsync-{digest.hexdigest()[:24]}"))
    return result


def by_timestamp(history: Iterable[ConversationMessage]) -> list[ConversationMessage]:
    """The history in order of time, stable; a message without a timestamp keeps its place."""
    latest, keyed = _EPOCH, []
    for message in history:
        latest = _aware(message.timestamp) or latest
        keyed.append((latest, message))
    return [message for _, message in sorted(keyed, key=lambda pair: pair[0])]


def _aware(timestamp: datetime | None) -> datetime | None:
    if timestamp is None or timestamp.tzinfo is not None:
        return timestamp
    return timestamp.replace(tzinfo=UTC)


def from_langchain(message: BaseMessage) -> ConversationMessage | None:
    """The message as the API records it; None for what is not part of the conversation.

    Recorded are the words of the customer and of the bot. Tool calls, tool results and system
    messages are the agent's own business; content that is no text becomes ``[image]`` and the like.
    """
    if isinstance(message, BaseMessageChunk):
        message = message_chunk_to_message(message)
    role, content = _ROLES.get(message.type), text_of(message)
    return ConversationMessage(role=role, content=content) if role and content else None


def text_of(message: BaseMessage) -> str:
    """The text of a message; each block that is no text is named in brackets."""
    if isinstance(message.content, str):
        return message.content
    parts = [_block_text(block) for block in message.content]
    return "\n".join(part for part in parts if part)


_SILENT = {"tool_use", "tool_call", "thinking", "reasoning", "redacted_thinking", "function_call"}


def _block_text(block: str | dict[str, object]) -> str:
    if isinstance(block, str):
        return block
    kind = str(block.get("type", "content"))
    if "text" in block:
        return str(block["text"])
    if kind in _SILENT:
        return ""
    return f"[{kind.removesuffix('_url').removeprefix('input_')}]"


def last_reply(messages: Sequence[BaseMessage]) -> str:
    """The text that the agent wants to send: that of the last message, if it is the agent's."""
    if messages and messages[-1].type in {"ai", "AIMessageChunk"}:
        return text_of(messages[-1])
    return ""


def final_reply(state: Mapping[str, Any]) -> str:
    """The text that an agent wants to send, from its final state.

    A structured response speaks by its field ``reply``: the run ends with it, and what the model
    wrote is its JSON or nothing. One that a checkpointer brought back is not at the end of the run.
    """
    messages = list(state.get("messages") or ())
    structured = state.get("structured_response")
    if not all(isinstance(message, BaseMessage) for message in messages):
        return ""
    if structured is None:
        return last_reply(messages)
    called = bool(messages) and messages[-1].type == "tool"
    while messages and messages[-1].type == "tool":
        messages.pop()
    text = last_reply(messages)
    named = isinstance(structured, Mapping)
    reply = structured.get("reply") if named else getattr(structured, "reply", None)
    if isinstance(reply, str) and (called or text.lstrip().startswith("{")):
        return reply
    return text
