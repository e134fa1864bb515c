"""Results as text: JSON, where each value that JSON does not know tells of what type it is.

Nothing that is stored is ever executed or imported: a class is one that this process has loaded
already, and its objects are made of their fields alone, without their constructors.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath
from types import NoneType
from typing import Any
from uuid import UUID

from langchain_core.messages import (
    BaseMessage,
    BaseMessageChunk,
    message_chunk_to_message,
    messages_from_dict,
)
from pydantic import AnyUrl, BaseModel

from langchain_convsync.errors import InvalidEventError

_MESSAGE = "$langchain_message"
_TYPED = "$type"

#: Types whose objects are made of what ``str`` tells of them.
_OF_TEXT = (UUID, Decimal, Fraction, PurePath, IPv4Address, IPv6Address, AnyUrl)


def encode(result: object) -> str:
    """A result as JSON.

    Raises:
        InvalidEventError: It holds something that would come back as something else.
    """
    try:
        return json.dumps(_plain(result))
    except InvalidEventError:
        raise
    except Exception as error:  # it nests too deeply, contains itself, or cannot be read
        message = f"the result cannot be stored: {type(error).__name__} while it was read"
        raise InvalidEventError(message) from error


def decode(text: str) -> Any:
    """The inverse of :func:`encode`.

    An object whose class this process has not loaded, or whose class has other fields by now, comes
    back as a dict of its fields; a member of such an enumeration comes back as its value.
    """
    return json.loads(text, object_hook=_restored)


def _plain(value: object) -> object:
    for kind, write in _WRITTEN:
        if isinstance(value, kind):
            return write(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _typed("dataclass", _reference(value), _fields_of(value))
    message = (
        f"the result cannot be stored: it holds an object of {type(value).__name__}; return JSON "
        "values, messages, models, dataclasses, dates and the like"
    )
    raise InvalidEventError(message)


def _items(values: Iterable[object]) -> list[object]:
    return [_plain(value) for value in values]


def _typed(kind: str, *facts: object) -> dict[str, object]:
    return {_TYPED: [kind, *facts]}


def _plain_float(value: float) -> object:
    return value if math.isfinite(value) else _typed("float", repr(float(value)))


def _plain_mapping(value: Mapping[Any, Any]) -> object:
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return {str(key): _plain(item) for key, item in value.items()}
    return _typed("dict", [_items(pair) for pair in value.items()])


def _plain_message(message: BaseMessage) -> object:
    if isinstance(message, BaseMessageChunk):
        message = message_chunk_to_message(message)
    # LangChain's own form, but for what a field holds: a tool's artifact may be anything.
    return {_MESSAGE: {"type": message.type, "data": _plain(dict(message))}}


def _fields_of(value: object) -> dict[str, object]:
    extra = getattr(value, "__pydantic_extra__", None) or {}
    named = {name: getattr(value, name) for name in _names(type(value)) if hasattr(value, name)}
    return {name: _plain(item) for name, item in (named | extra).items()}


def _names(kind: Any) -> set[str]:
    if issubclass(kind, BaseModel):
        return set(kind.model_fields)
    return {each.name for each in dataclasses.fields(kind)}


def _reference(value: object) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"


def _loaded(reference: str, kinds: type | tuple[type, ...]) -> Any:
    """The class of that name and kind that this process knows; None without one."""
    module, _, name = reference.partition(":")
    found: object = sys.modules.get(module)
    for part in name.split("."):  # never by getattr, at which a module may import others
        found = getattr(found, "__dict__", {}).get(part)
    return found if isinstance(found, type) and issubclass(found, kinds) else None


def _restored(found: dict[str, Any]) -> object:
    if found.keys() == {_MESSAGE}:
        return messages_from_dict([found[_MESSAGE]])[0]
    if found.keys() != {_TYPED}:
        return found
    kind, *facts = found[_TYPED]
    return _READ[kind](*facts)


def _enum(reference: str, value: object) -> object:
    kind = _loaded(reference, Enum)
    try:
        return value if kind is None else kind(value)
    except ValueError:  # it has no such member any more
        return value


def _tuple(reference: str, items: list[Any]) -> object:
    kind = _loaded(reference, tuple)
    return tuple.__new__(kind if hasattr(kind, "_fields") else tuple, items)


def _of_text(reference: str, text: str) -> object:
    kind = _loaded(reference, _OF_TEXT)
    return text if kind is None else kind(text)


def _model(reference: str, fields: dict[str, Any]) -> object:
    kind = _loaded(reference, BaseModel)
    if kind is None or not _fits(kind, fields):
        return fields
    return kind.model_construct(**fields)


def _dataclass(reference: str, fields: dict[str, Any]) -> object:
    kind = _loaded(reference, object)
    if not hasattr(kind, "__dataclass_fields__") or not _fits(kind, fields):
        return fields
    made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)  # it may be frozen
    return made


def _fits(kind: type, fields: Mapping[str, object]) -> bool:
    """Whether an object of the class would have these fields, no fewer and no others."""
    names = _names(kind)
    open_to_more = issubclass(kind, BaseModel) and kind.model_config.get("extra") == "allow"
    return names <= fields.keys() if open_to_more else names == fields.keys()


def _base64(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


def _days(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


#: How a value is written; what may be a subclass of another comes before it.
_WRITTEN: tuple[tuple[type | tuple[type, ...], Callable[[Any], object]], ...] = (
    (Enum, lambda value: _typed("enum", _reference(value), _plain(value.value))),
    (float, _plain_float),
    ((NoneType, str, int), lambda value: value),
    (list, _items),
    (tuple, lambda value: _typed("tuple", _reference(value), _items(value))),
    (Mapping, _plain_mapping),
    (BaseMessage, _plain_message),
    (BaseModel, lambda value: _typed("model", _reference(value), _fields_of(value))),
    (_OF_TEXT, lambda value: _typed("text", _reference(value), str(value))),
    (datetime, lambda value: _typed("datetime", value.isoformat())),
    (date, lambda value: _typed("date", value.isoformat())),
    (time, lambda value: _typed("time", value.isoformat())),
    (timedelta, lambda value: _typed("timedelta", *_days(value))),
    (bytes, lambda value: _typed("bytes", _base64(value))),
    (bytearray, lambda value: _typed("bytearray", _base64(value))),
    (complex, lambda value: _typed("complex", repr(value))),
    (set, lambda value: _typed("set", _items(value))),
    (frozenset, lambda value: _typed("frozenset", _items(value))),
)
#: How each kind is read again.
_READ: Mapping[str, Callable[..., object]] = {
    "enum": _enum,
    "float": float,
    "tuple": _tuple,
    "dict": dict,
    "model": _model,
    "dataclass": _dataclass,
    "text": _of_text,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": timedelta,
    "bytes": base64.b64decode,
    "bytearray": lambda text: bytearray(base64.b64decode(text)),
    "complex": complex,
    "set": set,
    "frozenset": frozenset,
}
