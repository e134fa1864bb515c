"""When to ask again, and after how long: pure decisions.

Backoff is exponential with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"),
so that many agents do not return to a recovering server in step. ``Retry-After``: RFC 9110, 10.2.3.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from langchain_convsync.client._exchange import Method
from langchain_convsync.errors import APIConnectionError, APIError

#: Seconds: the longest first pause, doubled each time, and the longest pause of all.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0

#: The server was not ready for the request, whatever the request was.
_PASSING = frozenset({429, 502, 503, 504})


def pause(
    error: APIError,
    *,
    method: Method,
    attempt: int,
    attempts: int,
    left: float,
    randomness: float,
    idempotency_keys: bool = False,
) -> float | None:
    """How many seconds to wait before the next attempt; None to stop and raise the error.

    Args:
        error: What the last attempt ended with; ``ambiguous`` speaks of that attempt alone.
        method: HTTP method of the request.
        attempt: Number of the last attempt, from 1.
        attempts: How many are allowed.
        left: Seconds left for the whole call; a pause that uses them up is pointless.
        randomness: A fresh random number, 0.0 up to 1.0.
        idempotency_keys: Whether the server answers a repeated ``Idempotency-Key`` once.
    """
    if attempt >= attempts or not _may_pass(error, method):
        return None
    if method == "POST" and error.ambiguous and not idempotency_keys:
        return None
    backoff = randomness * min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempt - 1, 10))
    seconds = max(backoff, error.retry_after or 0.0)
    return seconds if seconds < left else None


def _may_pass(error: APIError, method: Method) -> bool:
    if isinstance(error, APIConnectionError) or error.foreign or error.status_code in _PASSING:
        return True
    # A 500 is a hiccup for a read. For a write it is as often the server's way to refuse bad input,
    # and a PUT that did land makes the intent its own predecessor when it is repeated.
    return error.status_code == 500 and method == "GET"


def retry_after(value: str | None, now: datetime) -> float | None:
    """The seconds that a ``Retry-After`` header asks to wait.

    Args:
        value: The header: seconds or an HTTP date; whatever else a server sends counts as absent.
        now: The present time, with its zone.

    Returns:
        Finite seconds, 0.0 for what lies in the past; None where nothing usable was sent.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        moment = http_date(value)
        if moment is None:
            return None
        seconds = (moment - now).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def http_date(value: str) -> datetime | None:
    """The moment that an HTTP date names; None where it is not a date."""
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):  # what the parser lets through
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
