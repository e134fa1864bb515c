"""The bodies that the reference server reads, and those that readers would disagree about."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_convsync.server.strict_json import MAX_DEPTH, InvalidBodyError, strict_json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)


def nested(levels: int) -> bytes:
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@settings(max_examples=30)
@given(value=st.dictionaries(st.text(), JSON), ascii_only=st.booleans())
def test_every_json_object_is_read_as_it_was_written(
    value: dict[str, Any], ascii_only: bool
) -> None:
    """Emoji, NUL, huge integers and odd keys are data like any other."""
    raw = json.dumps(value, ensure_ascii=ascii_only).encode()

    assert strict_json(raw) == value


@given(st.binary())
def test_anything_else_is_refused_in_one_way(raw: bytes) -> None:
    """No input raises anything but the documented error."""
    with suppress(InvalidBodyError):
        assert isinstance(strict_json(raw), dict)


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'"order"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"a": NaN}', "NaN or an infinity"),
        (b'{"a": -Infinity}', "NaN or an infinity"),
        (b'{"a": 1e999}', "NaN or an infinity"),
        (b'{"a": 1, "a": 1}', "a key twice"),
        (b'{"a": [{"b": 1, "b": 2}]}', "a key twice"),
        (b'{"a": "\\ud83d"}', "Unicode"),
        (b'{"\\udf55": 1}', "Unicode"),
        (b'{"a": "\xff"}', "Unicode"),
        ('{"a": 1}'.encode("utf-16"), "Unicode"),
        (nested(MAX_DEPTH + 1), "nested"),
        (nested(1_000), "nested"),
        (nested(500_000), "nested"),
    ],
)
def test_what_readers_disagree_about_is_refused(raw: bytes, complaint: str) -> None:
    """The sender learns what is wrong, instead of a value that another reader sees differently."""
    with pytest.raises(InvalidBodyError, match=complaint):
        strict_json(raw)


def test_the_deepest_allowed_body_is_read() -> None:
    """The limit is the limit."""
    assert "a" in strict_json(nested(MAX_DEPTH))


def test_a_whole_surrogate_pair_is_a_character() -> None:
    """Escaped emoji are how many clients send them."""
    assert strict_json(b'{"a": "\\ud83c\\udf55"}') == {"a": "🍕"}
