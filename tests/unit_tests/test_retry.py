"""The retry policy: what is repeated, after how long, and what never is."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_convsync.client._exchange import Method
from langchain_convsync.client._retry import FIRST_PAUSE, LONGEST_PAUSE, pause, retry_after
from langchain_convsync.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    ConversationNotFoundError,
    InvalidResponseError,
    NotFoundError,
    RateLimitError,
    ServerError,
)

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def decided(
    error: APIError,
    method: Method = "GET",
    *,
    attempt: int = 1,
    attempts: int = 3,
    left: float = 10.0,
    randomness: float = 0.5,
    idempotency_keys: bool = False,
) -> float | None:
    return pause(
        error,
        method=method,
        attempt=attempt,
        attempts=attempts,
        left=left,
        randomness=randomness,
        idempotency_keys=idempotency_keys,
    )


UNSENT = APIConnectionError("no connection")
UNCLEAR = APIConnectionError("broke", ambiguous=True)
OVERLOADED = RateLimitError("slow down", status_code=429)
UNAVAILABLE = ServerError("down", status_code=503, ambiguous=True)
PAGE = InvalidResponseError("html", status_code=200, ambiguous=True, foreign=True)
CRASHED = ServerError("crashed", status_code=500, ambiguous=True)


@pytest.mark.parametrize(
    ("error", "method", "repeated"),
    [
        (UNSENT, "GET", True),
        (UNSENT, "PUT", True),
        (UNSENT, "POST", True),
        (UNCLEAR, "GET", True),
        (UNCLEAR, "PUT", True),
        (UNCLEAR, "POST", False),
        (APITimeoutError("late", ambiguous=True), "PUT", True),
        (APITimeoutError("late", ambiguous=True), "POST", False),
        (OVERLOADED, "GET", True),
        (OVERLOADED, "PUT", True),
        (OVERLOADED, "POST", True),
        (UNAVAILABLE, "GET", True),
        (UNAVAILABLE, "PUT", True),
        (UNAVAILABLE, "POST", False),
        (CRASHED, "GET", True),
        (CRASHED, "PUT", False),
        (CRASHED, "POST", False),
        (ServerError("not implemented", status_code=501), "GET", False),
        (BadRequestError("bad", status_code=400), "GET", False),
        (ConversationNotFoundError("none", status_code=404), "GET", False),
        (InvalidResponseError("another shape", status_code=200), "GET", False),
        (PAGE, "GET", True),
        (PAGE, "PUT", True),
        (PAGE, "POST", False),
        (NotFoundError("a page", status_code=404, foreign=True), "POST", True),
        (APIStatusError("moved", status_code=302), "GET", False),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, APIError) else str(value),
)
def test_only_what_may_pass_and_does_no_harm_is_repeated(
    error: APIError, method: Method, repeated: bool
) -> None:
    """Reads and PUT are repeated when the server was not ready, POST when surely not applied."""
    assert (decided(error, method) is not None) is repeated


def test_idempotency_keys_let_a_post_be_repeated_like_a_put() -> None:
    """A server that honours the key answers the second POST with the first one's result."""
    assert decided(UNCLEAR, "POST", idempotency_keys=True) is not None
    assert decided(UNAVAILABLE, "POST", idempotency_keys=True) is not None
    assert decided(CRASHED, "POST", idempotency_keys=True) is None


def test_no_attempt_beyond_the_allowed_ones() -> None:
    """``attempts`` counts the first one, too."""
    assert decided(UNSENT, attempt=2, attempts=3) is not None
    assert decided(UNSENT, attempt=3, attempts=3) is None
    assert decided(UNSENT, attempts=1) is None


def test_the_pause_grows_up_to_its_limit() -> None:
    """Exponential, capped, and the randomness spreads it over the whole range."""
    longest = [
        decided(UNSENT, attempt=n, attempts=99, left=99, randomness=1.0) for n in range(1, 8)
    ]

    assert longest == [FIRST_PAUSE, 1.0, 2.0, 4.0, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]
    assert decided(UNSENT, randomness=0.0) == 0.0


def test_the_server_s_wish_to_wait_is_granted() -> None:
    """``Retry-After`` is a lower bound of the pause."""
    assert decided(RateLimitError("", status_code=429, retry_after=3.0)) == 3.0


def test_a_wish_beyond_the_deadline_stops_at_once() -> None:
    """Waiting for nothing helps nobody; the error carries ``retry_after`` for the caller."""
    assert decided(RateLimitError("", status_code=429, retry_after=60.0), left=10.0) is None


@given(
    attempt=st.integers(1, 2_000),
    randomness=st.floats(0.0, 1.0),
    left=st.floats(-10.0, 1e6),
    wish=st.none() | st.floats(0.0, 1e9),
    method=st.sampled_from(["GET", "PUT", "POST"]),
    idempotency_keys=st.booleans(),
    error=st.sampled_from([APIConnectionError, APITimeoutError, RateLimitError, ServerError]),
    status=st.sampled_from([None, 429, 500, 502, 503, 504]),
    ambiguous=st.booleans(),
)
def test_a_pause_is_never_negative_nor_longer_than_the_time_left(
    *,
    attempt: int,
    randomness: float,
    left: float,
    wish: float | None,
    method: Method,
    idempotency_keys: bool,
    error: type[APIError],
    status: int | None,
    ambiguous: bool,
) -> None:
    """Whatever happened: finite, within the call's deadline, and at least what the server asked."""
    happened = error("", status_code=status, retry_after=wish, ambiguous=ambiguous)

    seconds = decided(
        happened,
        method,
        attempt=attempt,
        attempts=2_001,
        left=left,
        randomness=randomness,
        idempotency_keys=idempotency_keys,
    )

    if seconds is not None:
        assert 0.0 <= seconds < left
        assert seconds >= (wish or 0.0)
        assert seconds <= max(LONGEST_PAUSE, wish or 0.0)
        assert not (method == "POST" and ambiguous) or idempotency_keys


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("-1", 0.0),
        ("1e9", 1e9),
        ("inf", None),
        ("-inf", None),
        ("nan", None),
        ("9" * 400, None),
        ("", None),
        ("soon", None),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 12:00:30 -0000", 30.0),
        ("Sunday, 22-Nov-26 12:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Sun, 99 Nov 2026 12:00:30 GMT", None),
        ("Sun, 22 Nov 99999999999999 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_understood_in_every_form(header: str | None, seconds: float | None) -> None:
    """Seconds and HTTP dates count; garbage counts as absent, the past as now."""
    assert retry_after(header, NOW) == seconds


@given(st.text())
def test_no_retry_after_header_is_ever_an_error(header: str) -> None:
    """A server cannot break the client with a header."""
    seconds = retry_after(header, NOW)

    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))


@given(st.integers(0, 10**6))
def test_an_http_date_means_the_seconds_until_then(ahead: int) -> None:
    """Both forms of the header say the same."""
    date = format_datetime(NOW + timedelta(seconds=ahead), usegmt=True)

    assert retry_after(date, NOW) == retry_after(str(ahead), NOW) == ahead
