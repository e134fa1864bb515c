"""Results as text: JSON values, and LangChain messages and documents anywhere inside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import (
    BaseMessage,
    BaseMessageChunk,
    ToolMessage,
    message_chunk_to_message,
    message_to_dict,
    messages_from_dict,
)

from langchain_convsync.errors import InvalidEventError

_MESSAGE, _DOCUMENT = "$langchain_message", "$langchain_document"


def encode(result: object, *, faithful: bool = False) -> str:
    """A result as JSON.

    Args:
        result: What to write.
        faithful: Refuse artifacts of tools, too, that would come back as something else; they
            become dictionaries otherwise.

    Raises:
        InvalidEventError: It holds something that would come back as something else.
    """
    try:
        return json.dumps(_plain(result, faithful), allow_nan=False)
    except (TypeError, ValueError) as error:
        message = (
            "a result is stored as JSON: return JSON values (with text as keys) or messages, for "
            "example by piping the runnable into a function that picks them"
        )
        raise InvalidEventError(message) from error


def decode(text: str) -> Any:
    """The inverse of :func:`encode`; tuples come back as lists."""
    return json.loads(text, object_hook=_restored)


def _plain(value: object, faithful: bool) -> object:
    if isinstance(value, BaseMessageChunk):
        value = message_chunk_to_message(value)
    if isinstance(value, BaseMessage):
        held = message_to_dict(value)
        if faithful and isinstance(value, ToolMessage):
            held["data"]["artifact"] = _plain(value.artifact, faithful)
        return {_MESSAGE: held}
    if isinstance(value, Document):
        return {_DOCUMENT: value.model_dump()}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError
        return {key: _plain(item, faithful) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, faithful) for item in value]
    return value


def _restored(found: dict[str, Any]) -> object:
    if found.keys() == {_MESSAGE}:
        return messages_from_dict([found[_MESSAGE]])[0]
    if found.keys() == {_DOCUMENT}:
        return Document(**found[_DOCUMENT])
    return found
