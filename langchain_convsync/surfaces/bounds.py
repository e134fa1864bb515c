"""How much of a conversation a model reads, and how much it may decide."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from langchain_core.messages import BaseMessage
from pydantic import JsonValue

from langchain_convsync import telemetry
from langchain_convsync._lines import cut
from langchain_convsync.models import ConversationMessage, Words
from langchain_convsync.surfaces.messages import end_of, told_in

M = TypeVar("M", BaseMessage, ConversationMessage)

#: Messages of the history, unless told otherwise, and characters of them that one prompt holds.
MOST_MESSAGES, MOST_CHARACTERS = 100, 100_000
#: What the first message of a history says where some are missing before it.
LEFT_OUT = "earlier messages are left out"
#: Characters of an intent, a step, or a key of the context.
LONGEST_NAME = 200
#: Keys of the context that one run may decide on, and characters of the JSON of each value.
MOST_KEYS, LONGEST_VALUE = 200, 10_000


def latest(history: Sequence[Words], most: int = MOST_MESSAGES) -> list[BaseMessage]:
    """:func:`recent` of a history as a model reads it; no more messages are made than it keeps."""
    told = told_in(history)
    end = end_of(told, most)
    return recent(end, most, before=len(told) - len(end))


def recent(history: Sequence[M], most: int = MOST_MESSAGES, *, before: int = 0) -> list[M]:
    """The end of a history that one prompt holds; its first message says what is left out.

    Where something is left out, what is left begins with words of the customer's: half an exchange
    is no exchange. Only where the customer says nothing in it, it begins with the bot's.

    Args:
        history: The history, or a part of it.
        most: Messages to keep; the characters of them all are bounded as well.
        before: How many are left out before these already.
    """
    kept: list[M] = []
    room = MOST_CHARACTERS
    for message in reversed(history[-most:]):
        length = len(_text(message))
        if kept and length > room:
            break
        kept.append(message if length <= room else _told(message, cut(_text(message), room)))
        room -= min(length, room)
    kept.reverse()
    if len(kept) < len(history) + before:
        begins = (place for place, message in enumerate(kept) if _is_customers(message))
        kept = kept[next(begins, 0) :]
    if kept and (left_out := len(history) + before - len(kept)):
        kept[0] = _told(kept[0], f"[{left_out} {LEFT_OUT}]\n{_text(kept[0])}")
    if before or kept != list(history):
        telemetry.count("cuts", what="history")
    return kept


def flaw_in_context(context: Mapping[str, Any]) -> str | None:
    """Why this context is more than a run may decide on, in words for a model; else None."""
    if len(context) > MOST_KEYS:
        return f"context must not have more than {MOST_KEYS} keys"
    if any(len(key) > LONGEST_NAME for key in context):
        return f"keys of context must not be longer than {LONGEST_NAME} characters"
    if any(_size(value) > LONGEST_VALUE for value in context.values()):
        return f"values of context must not be longer than {LONGEST_VALUE} characters of JSON"
    return None


def fitting(context: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The entries of a context that a run may decide on."""
    kept: dict[str, JsonValue] = {}
    for key, value in context.items():
        if len(key) <= LONGEST_NAME and _size(value) <= LONGEST_VALUE and len(kept) < MOST_KEYS:
            kept[key] = value
    return kept


def _size(value: object) -> int:
    if isinstance(value, str):
        return len(value) + 2
    if isinstance(value, int):  # written out it may have more digits than Python writes
        return value.bit_length() // 4
    return len(json.dumps(value, ensure_ascii=False, default=str))


def _text(message: BaseMessage | ConversationMessage) -> str:
    content = message.content
    return content if isinstance(content, str) else json.dumps(content, default=str)


def _is_customers(message: BaseMessage | ConversationMessage) -> bool:
    return (message.type if isinstance(message, BaseMessage) else message.role) in {"human", "user"}


def _told(message: M, content: str) -> M:
    return message.model_copy(update={"content": content})
