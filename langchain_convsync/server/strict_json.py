"""Reads a request body as the one value that every JSON reader would see in it."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 64


class InvalidBodyError(ValueError):
    """The body is not acceptable; the message is for its sender and quotes nothing of it."""


def strict_json(raw: bytes) -> dict[str, Any]:
    """The JSON object in a request body.

    Raises:
        InvalidBodyError: It is not a JSON object in UTF-8, is nested more than 64 levels, or holds
            NaN, an infinity, a duplicate key or half a surrogate pair.
    """
    try:
        value = json.loads(
            raw.decode(),
            object_pairs_hook=_unique_keys,
            parse_constant=_finite,
            parse_float=_finite,
        )
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair has no UTF-8
    except InvalidBodyError:
        raise
    except UnicodeError:
        raise InvalidBodyError("The body is not valid Unicode in UTF-8.") from None
    except RecursionError:
        raise InvalidBodyError(f"The body is nested more than {MAX_DEPTH} levels.") from None
    except ValueError:
        raise InvalidBodyError("The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise InvalidBodyError("The body must be a JSON object.")
    _check_depth(value)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise InvalidBodyError("The body names a key twice in one object.")
    return value


def _finite(text: str) -> float:
    # 1e999 is written as a number and read as an infinity.
    value = float(text)
    if not math.isfinite(value):
        raise InvalidBodyError("The body holds NaN or an infinity.")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise InvalidBodyError(f"The body is nested more than {MAX_DEPTH} levels.")
