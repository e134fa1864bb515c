"""JSON whose shape is not guaranteed: strict where it is parsed, forgiving where it is read."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, TypeAlias

from langchain_convsync.errors import InvalidEventError

Json: TypeAlias = dict[str, Any]

_MAX_DEPTH = 100
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")


def parse_json(raw: bytes) -> Any:
    """What the bytes say, if they are JSON and nothing more than JSON.

    ``NaN`` and ``Infinity`` are refused, and so is nesting deeper than 100 levels: whatever
    writes or logs the value later may recurse.

    Raises:
        InvalidEventError: They are not; the message holds nothing of the body.
    """
    try:
        value = json.loads(raw, parse_constant=_refuse)
    except RecursionError:
        problem = "it is nested too deeply"
    except ValueError as error:
        problem = str(getattr(error, "msg", "bad encoding or number"))
    else:
        if not _deeper_than(value, _MAX_DEPTH):
            return value
        problem = "it is nested too deeply"
    # Without its cause, which carries the whole body.
    message = f"the body is not JSON that can be processed: {problem}"
    raise InvalidEventError(message)


def as_object(value: object) -> Json:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """The value if it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: object) -> str:
    """The value if it is text, else ``""``.

    JSON can spell half a surrogate pair; nothing further on accepts it, so it becomes U+FFFD.
    """
    return _LONE_SURROGATE.sub("\ufffd", value) if isinstance(value, str) else ""


def at(value: object, *path: str) -> Any:
    """What stands at a path of object keys; None where the path ends early."""
    for key in path:
        value = as_object(value).get(key)
    return value


def first_text(*values: object) -> str | None:
    """The first value that is text and not empty."""
    return next((text for value in values if (text := as_text(value))), None)


def one_line(text: str, length: int) -> str:
    """Text as one line of at most ``length`` characters, without control characters."""
    line = " ".join(_CONTROLS.sub(" ", text[: length * 4]).split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _refuse(constant: str) -> NoReturn:
    message = f"{constant} is not JSON"
    raise ValueError(message)


def _deeper_than(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
    return bool(level)
