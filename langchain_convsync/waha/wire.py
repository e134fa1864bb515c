"""JSON whose shape is not guaranteed: strict where it is parsed, forgiving where it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Any, NoReturn, TypeAlias

from langchain_convsync.errors import InvalidEventError

Json: TypeAlias = dict[str, Any]

_MAX_DEPTH = 100
#: How deep, and how much of each level, is searched for what may stand anywhere.
_NESTED, _MOST_NESTED = 12, 500
#: Characters of a field's name; a longer one is none of an engine's.
_LONGEST_NAME = 64
_NOTHING: tuple[object, ...] = (None, "", [], {})
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


def folded(name: str) -> str:
    """A name as it reads alike in every spelling."""
    return _folded(name) if len(name) <= _LONGEST_NAME else name


@lru_cache(maxsize=4096)  # engines have some hundred names of fields
def _folded(name: str) -> str:
    return name.replace("_", "").lower()


class Folded(Json):
    """A JSON object whose keys read alike however an engine spells them.

    ``stanzaId``, ``stanzaID`` and ``stanza_id`` are ``stanzaid``; where several are there, the one
    that says something counts.
    """

    def __init__(self, plain: Json) -> None:
        for key, value in plain.items():
            name = folded(key)
            if name not in self or self[name] in _NOTHING:
                self[name] = value

    @classmethod
    def of(cls, value: object) -> Folded:
        """The value, folded; an empty one where it is not an object."""
        return value if isinstance(value, Folded) else cls(as_object(value))

    def at(self, *path: str) -> Any:
        """What stands at a path of folded keys; None where the path ends early."""
        found: Any = self
        for name in path:
            inner = Folded.of(found).get(name)
            if isinstance(inner, dict) and isinstance(found, Folded):
                inner = found[name] = Folded.of(inner)
            found = inner
        return found

    def within(self, *path: str) -> Folded:
        """The object at a path; an empty one where there is none."""
        return Folded.of(self.at(*path))

    def texts(self, *paths: str) -> str:
        """The first text that is not blank, of paths that are written with dots."""
        found = (as_text(self.at(*path.split("."))) for path in paths)
        return next((text for text in found if text.strip()), "")

    def nested(self, *, without: Collection[str] = ()) -> Iterator[Folded]:
        """This object and all that it holds, the outer ones first, to a depth of 12."""
        level: list[object] = [self]
        for _ in range(_NESTED):
            inner: list[object] = []
            for each in level:
                if isinstance(each, list):
                    inner += each
                elif isinstance(each, dict):
                    yield (node := Folded.of(each))
                    inner += [
                        value
                        for name, value in node.items()
                        if isinstance(value, dict | list) and name not in without
                    ]
            level = inner[:_MOST_NESTED]


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
