"""What is the machine's fault is told from whatever was raised, however deep it lies in it."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import httpx
import pytest
import redis

from langchain_convsync import _machine, telemetry
from langchain_convsync._machine import accepting, lacking, noticed


def raised(*chain: BaseException, led: str = "__cause__") -> BaseException:
    """The first error, to which each of the others led."""
    for error, cause in pairwise(chain):
        setattr(error, led, cause)
    return chain[0]


def sqlite_error(name: str) -> sqlite3.OperationalError:
    """As the driver raises it."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    return error


def of_fork() -> BaseException:
    """A process that cannot be started: EAGAIN, raised inside of `subprocess`."""
    code = compile(f"raise BlockingIOError({errno.EAGAIN}, 'no')", "subprocess.py", "exec")
    try:
        exec(code, {"__name__": subprocess.__name__})
    except BlockingIOError as error:
        return error
    raise AssertionError


class DiskFullError(Exception):
    """As psycopg tells it."""

    sqlstate = "53100"


def full(code: int) -> OSError:
    """The operating system's own error."""
    return OSError(code, "whatever")


MACHINES: list[tuple[str, Callable[[], BaseException]]] = [
    ("descriptors", lambda: full(errno.EMFILE)),
    ("descriptors", lambda: full(errno.ENFILE)),
    ("disk", lambda: full(errno.ENOSPC)),
    ("disk", lambda: full(errno.EDQUOT)),
    ("disk", lambda: full(errno.EFBIG)),
    ("memory", lambda: full(errno.ENOMEM)),
    ("memory", MemoryError),
    ("memory", lambda: socket.gaierror(socket.EAI_MEMORY, "no memory")),
    ("threads", lambda: RuntimeError("can't start new thread")),
    ("threads", of_fork),
    ("disk", lambda: sqlite_error("SQLITE_FULL")),
    ("disk", lambda: sqlite_error("SQLITE_IOERR_WRITE")),
    ("memory", lambda: sqlite_error("SQLITE_IOERR_NOMEM")),
    ("database", lambda: redis.OutOfMemoryError("command not allowed when used memory > …")),
    ("database", lambda: redis.ResponseError("MISCONF Errors writing to the AOF file: No space")),
    ("database", lambda: redis.ResponseError("user_script: -OOM command not allowed when …")),
    ("database", DiskFullError),
    ("descriptors", lambda: OSError("Multiple exceptions: [Errno 111] refused, [Errno 24] many")),
    ("disk", lambda: raised(httpx.ConnectError(""), OSError(), full(errno.ENOSPC))),
    ("descriptors", lambda: raised(ValueError(), full(errno.EMFILE), led="__context__")),
    ("memory", lambda: ExceptionGroup("", [ValueError(), ExceptionGroup("", [MemoryError()])])),
    ("disk", lambda: raised(ValueError(), ExceptionGroup("", [full(errno.ENOSPC)]))),
]
OTHERS: list[Callable[[], BaseException]] = [
    lambda: full(errno.ECONNREFUSED),
    lambda: BlockingIOError(errno.EAGAIN, "a lock, or a socket"),
    lambda: OSError("no number"),
    lambda: RuntimeError("the agent's own"),
    lambda: sqlite_error("SQLITE_CORRUPT"),
    lambda: sqlite_error("SQLITE_CANTOPEN"),  # there are descriptors enough
    lambda: socket.gaierror(socket.EAI_NONAME, "no such name"),
    lambda: redis.ConnectionError("away"),
    lambda: ValueError("MISCONF said a customer"),
]


@pytest.mark.parametrize(("what", "error"), MACHINES)
def test_what_the_machine_lacks_is_named_and_counted_once(
    what: str, error: Callable[[], BaseException]
) -> None:
    """Each layer that an error goes through may ask, with what it made of it."""
    met, before = error(), telemetry.counted("machine_shortages", what=what)

    assert lacking(met) == what
    assert noticed(met)
    assert noticed(raised(OSError("around it"), met)) == noticed(met)

    assert telemetry.counted("machine_shortages", what=what) == before + 1


@pytest.mark.parametrize("error", OTHERS)
def test_what_is_anothers_fault_is_left_to_it(error: Callable[[], BaseException]) -> None:
    """Nothing is counted of it."""
    before = telemetry.counted("machine_shortages")

    assert lacking(error()) is None
    assert noticed(error()) == ""
    assert noticed(None) == ""

    assert telemetry.counted("machine_shortages") == before


def test_an_error_that_led_to_itself_is_looked_through() -> None:
    """Chains may be circles."""
    first, second = ValueError(), OSError()
    first.__context__, second.__context__ = second, first

    assert lacking(first) is None


def test_the_log_tells_of_a_want_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says what to do, for as long as it lasts; another one is told by itself."""
    now = [1000.0]
    monkeypatch.setattr(_machine, "monotonic", lambda: now[0])
    monkeypatch.setattr(_machine, "_logged", {})

    def told(*errors: Any) -> int:
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            for error in errors:
                noticed(error)
        return len(caplog.records)

    assert told(full(errno.EMFILE), full(errno.EMFILE)) == 1
    assert "ulimit -n" in caplog.text
    now[0] += 59
    assert told(full(errno.EMFILE), MemoryError()) == 1
    now[0] += 2
    assert told(full(errno.EMFILE), full(errno.EMFILE)) == 1


async def test_a_loop_that_cannot_accept_connections_is_noticed() -> None:
    """Each would be logged with a traceback; what is not the machine's fault goes where it went."""
    loop, others = asyncio.get_running_loop(), list[Any]()
    before = telemetry.counted("machine_shortages")
    loop.set_exception_handler(lambda _, context: others.append(context["message"]))

    with accepting(loop):
        refused = full(errno.EMFILE)
        loop.call_exception_handler({"message": "socket.accept()", "exception": refused})
        loop.call_exception_handler({"message": "another", "exception": ValueError()})
    loop.call_exception_handler({"message": "after", "exception": full(errno.EMFILE)})

    assert others == ["another", "after"]
    assert telemetry.counted("machine_shortages") == before + 1
