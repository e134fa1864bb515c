"""What a process or its machine runs out of: no fault of the agent, or the event, that met it.

A socket that cannot be opened, a disk that is full, memory or a thread that is not to be had: the
work is given back and begins again, whatever layer the error went through on its way. It is named
here, counted here, and logged once a minute for as long as it lasts.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any, Literal, TypeAlias

from langchain_convsync import _forks, telemetry
from langchain_convsync._flow import monotonic

logger = logging.getLogger(__name__)

Lacking: TypeAlias = Literal["descriptors", "disk", "memory", "threads", "database"]

_ADVICE: dict[Lacking, str] = {
    "descriptors": (
        "this process or its machine has no file descriptors left (EMFILE, ENFILE): raise `ulimit "
        "-n` (LimitNOFILE= in systemd, ulimits in compose), or find what keeps them open with "
        "`ls -l /proc/PID/fd`"
    ),
    "disk": (
        "a disk is full, or a quota or a limit of file sizes is used up (ENOSPC, EDQUOT, EFBIG): "
        "free space, see `df -h`, `df -i` and `ulimit -f`"
    ),
    "memory": (
        "this process or its machine has no memory left (ENOMEM): raise the limit of the container "
        "or `ulimit -v`, or run fewer workers"
    ),
    "threads": (
        "this process can start no further thread or process (EAGAIN): raise `ulimit -u`, or the "
        "container's limit of pids"
    ),
    "database": (
        "the machine of a database is short of something: of a Redis raise maxmemory, which must "
        "not evict (maxmemory-policy noeviction), and free its disk; of a PostgreSQL see its log"
    ),
}
_BY_ERRNO: dict[int, Lacking] = {
    errno.EMFILE: "descriptors",
    errno.ENFILE: "descriptors",
    errno.ENOSPC: "disk",
    errno.EDQUOT: "disk",
    errno.EFBIG: "disk",
    errno.ENOMEM: "memory",
    errno.ENOBUFS: "memory",
}
_BY_SQLITE: dict[str, Lacking] = {
    "SQLITE_FULL": "disk",
    "SQLITE_NOMEM": "memory",
    "SQLITE_IOERR_NOMEM": "memory",
    # SQLite keeps the system's own error to itself: of a quota it tells that a write failed.
    "SQLITE_IOERR_WRITE": "disk",
    "SQLITE_IOERR_FSYNC": "disk",
    "SQLITE_IOERR_TRUNCATE": "disk",
    "SQLITE_IOERR_SHMSIZE": "disk",
}
#: What SQLite tells of a file that it could not open, whyever.
_NOT_OPENED = {"SQLITE_CANTOPEN", "SQLITE_IOERR_SHMOPEN", "SQLITE_IOERR_SHMMAP"}
#: What a full Redis refuses with: of memory, of its disk.
_REDIS_REFUSES = re.compile(r"\b(OOM|MISCONF) |used memory > 'maxmemory'")
#: The modules that start processes: elsewhere EAGAIN is a lock, or a socket that is not ready.
_STARTS_PROCESSES = {"subprocess", "multiprocessing.popen_fork", "multiprocessing.util"}
_NO_THREAD = "can't start new thread"
#: asyncio's and aiohttp's error for an address that none of several connections reached.
_SEVERAL = re.compile(r"\[Errno (\d+)\]")
#: Descriptors that a look-up of a name, or the opening of a database, needs at once.
_FEW = 8
#: Seconds between two lines of the log about the same want.
LOG_PERIOD = 60.0
#: Marks an error that was counted: it passes through several layers, and each of them names it.
_COUNTED = "_convsync_counted"

_logged: dict[Lacking, float] = {}
_lock = _forks.lock()


def noticed(error: BaseException | None) -> str:
    """What the machine lacks and what to do about it, counted; empty where an error is another's.

    Args:
        error: Whatever was raised; what led to it is looked at, too.
    """
    if error is None or (found := _found(error)) is None:
        return ""
    root, lacking = found
    with _lock:
        if not getattr(root, _COUNTED, False):
            setattr(root, _COUNTED, True)
            telemetry.count("machine_shortages", what=lacking)
        now = monotonic()
        is_news = now >= _logged.get(lacking, now) + LOG_PERIOD or lacking not in _logged
        if is_news:
            _logged[lacking] = now
    if is_news:
        logger.error("Work waits, and goes on by itself when this is over: %s", _ADVICE[lacking])
    return _ADVICE[lacking]


@contextmanager
def accepting(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Notice, too, that the loop cannot accept connections; asyncio would log each with a trace."""
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if noticed(context.get("exception")):
            return
        if before is None:
            loop.default_exception_handler(context)
        else:
            before(loop, context)

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        if loop.get_exception_handler() is handle:
            loop.set_exception_handler(before)


def lacking(error: BaseException | None) -> Lacking | None:
    """What the machine lacked when an error was raised; None where it is another's fault."""
    found = None if error is None else _found(error)
    return None if found is None else found[1]


def _found(error: BaseException) -> tuple[BaseException, Lacking] | None:
    for each in led_by(error):
        if what := _told_by(each):
            return each, what
    return None


def led_by(error: BaseException) -> Iterator[BaseException]:
    """The error, and all that led to it."""
    seen, waiting = set[int](), [error]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        led = [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            led += each.exceptions
        waiting += [other for other in led if other is not None]


def _told_by(error: BaseException) -> Lacking | None:
    """What one error tells by itself."""
    match error:
        case MemoryError():
            return "memory"
        case RuntimeError() if _NO_THREAD in str(error):
            return "threads"
        case OSError():
            return _of_system(error)
    if isinstance(name := getattr(error, "sqlite_errorname", None), str):
        return _of_sqlite(name)
    return "database" if _is_full_database(error) else None


def _of_system(error: OSError) -> Lacking | None:
    if isinstance(error, socket.gaierror):
        # Without a descriptor, resolvers find no server to ask.
        return "memory" if error.errno == socket.EAI_MEMORY else _out_of_descriptors()
    if error.errno is None:
        numbers = map(int, _SEVERAL.findall(str(error)))
        return next((_BY_ERRNO[number] for number in numbers if number in _BY_ERRNO), None)
    if error.errno == errno.EAGAIN and _starts_a_process(error):
        return "threads"
    return _BY_ERRNO.get(error.errno)


def _of_sqlite(name: str) -> Lacking | None:
    return _out_of_descriptors() if name in _NOT_OPENED else _BY_SQLITE.get(name)


def _is_full_database(error: BaseException) -> bool:
    """Whether a Redis or PostgreSQL, the store's or the agent's own, refuses for want of something.

    PostgreSQL's errors of class 53 are "insufficient resources":
    https://www.postgresql.org/docs/current/errcodes-appendix.html.
    """
    if type(error).__module__.partition(".")[0] in {"redis", "valkey"}:
        return _REDIS_REFUSES.search(str(error)) is not None or _is_out_of_memory(error)
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return isinstance(state, str) and state.startswith("53")


def _is_out_of_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError"  # redis-py takes the word OOM off its text


def _starts_a_process(error: BaseException) -> bool:
    places = [frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__)]
    return bool(places) and places[-1] in _STARTS_PROCESSES


def _out_of_descriptors() -> Lacking | None:
    """Whether this process has hardly a descriptor left, as far as the system tells."""
    if sys.platform == "win32":
        return None
    import resource

    try:
        used = len(os.listdir("/dev/fd"))  # noqa: PTH208 - it counts
    except OSError as error:
        return _of_system(error)
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return "descriptors" if most != resource.RLIM_INFINITY and used + _FEW > most else None
