"""Keeps phone numbers and session ids out of httpx's own log.

``httpx.Client.send`` logs every full URL at INFO. Our own connections do not go through it; a lent
client does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import httpx

_ours: ContextVar[bool] = ContextVar("convsync_redacted", default=False)


class _Redaction(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if _ours.get() and isinstance(record.args, tuple):
            record.args = tuple(
                f"{value.scheme}://{value.host}/…" if isinstance(value, httpx.URL) else value
                for value in record.args
            )
        return True


_redaction = _Redaction()


@contextmanager
def redacted() -> Iterator[None]:
    """While this runs, httpx logs no path and no query of the requests made in here."""
    logging.getLogger("httpx").addFilter(
        _redaction
    )  # once: a filter that is there is not added again
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)
