"""Keeps phone numbers and session ids out of the logs of httpx and what it is made of.

``httpx.Client.send`` logs every full URL at INFO. Our own connections do not go through it; a lent
client does. At DEBUG httpcore logs an answer's headers, where a server may name the customer
(``Location``, a cookie), and hpack, of a lent client that speaks HTTP/2, the request's path.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import httpx

from langchain_convsync.client._deadline import current

#: What httpcore says of an answer's headers, or of an error that quotes them.
_HEADERS = re.compile(r"((?:return_value|exception)=).*", re.DOTALL)
_ours: ContextVar[bool] = ContextVar("convsync_redacted", default=False)


class _Redaction(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if not _ours.get() and current.get(None) is None:  # not a request of ours
            return True
        if record.name.startswith("hpack"):
            return False
        if record.name.startswith("httpcore") and isinstance(record.msg, str):
            record.msg = _HEADERS.sub(r"\1…", record.msg)
        elif isinstance(record.args, tuple):
            record.args = tuple(
                f"{value.scheme}://{value.host}/…" if isinstance(value, httpx.URL) else value
                for value in record.args
            )
        return True


_redaction = _Redaction()
# Filters count where a record is made, not further up. One that is there is not added again.
for _name in (
    *("httpx", "httpcore.http11", "httpcore.http2", "httpcore.connection", "httpcore.proxy"),
    *("hpack.hpack", "hpack.table"),
):
    logging.getLogger(_name).addFilter(_redaction)


@contextmanager
def redacted() -> Iterator[None]:
    """While this runs, httpx logs no path and no query of the requests made in here."""
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)
