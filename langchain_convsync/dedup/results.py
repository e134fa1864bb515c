"""Results as text: JSON values, and LangChain messages anywhere inside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import (
    BaseMessage,
    BaseMessageChunk,
    message_chunk_to_message,
    message_to_dict,
    messages_from_dict,
)

from langchain_convsync.errors import InvalidEventError

_MESSAGE = "$langchain_message"


def encode(result: object) -> str:
    """A result as JSON.

    Raises:
        InvalidEventError: It holds something that would come back as something else.
    """
    try:
        return json.dumps(_plain(result), allow_nan=False)
    except (TypeError, ValueError) as error:
        message = (
            "a result is stored as JSON: return JSON values (with text as keys) or messages, for "
            "example by piping the runnable into a function that picks them"
        )
        raise InvalidEventError(message) from error


def decode(text: str) -> Any:
    """The inverse of :func:`encode`; tuples come back as lists."""
    return json.loads(text, object_hook=_restored)


def _plain(value: object) -> object:
    if isinstance(value, BaseMessageChunk):
        value = message_chunk_to_message(value)
    if isinstance(value, BaseMessage):
        return {_MESSAGE: message_to_dict(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _restored(found: dict[str, Any]) -> object:
    if found.keys() == {_MESSAGE}:
        return messages_from_dict([found[_MESSAGE]])[0]
    return found
