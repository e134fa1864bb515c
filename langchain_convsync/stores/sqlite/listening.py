"""Noticing that another process wrote to the store's file.

A process that leaves something to do sets the time of the file's log once that is committed. Linux
tells whoever watches the log (inotify); elsewhere its time is looked at, now and then.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from langchain_convsync import _forks
from langchain_convsync._flow import Wait, monotonic
from langchain_convsync.stores.base import Hint

#: Seconds between looks at the log's time, where the system does not tell of it.
LOOK_PERIOD = 0.02
#: Seconds after which a process looks at what it left itself: whoever left it tells its workers.
OWN = 0.1
#: Seconds of rest after a sign of this process's own: there are more to come.
REST = 0.008
#: From ``<sys/inotify.h>``.
_IN_ATTRIB, _IN_CLOEXEC, _IN_NONBLOCK = 0x4, 0o2000000, 0o4000
_ENOUGH = 64 * 1024


class FileListener:
    """Waits for signs that the file was written to.

    Args:
        log: Where the file's log is; None for a store in memory.
        changes: Tells two numbers: one changes with what other processes write, the other one with
            what this process leaves to do.
    """

    def __init__(self, log: str | None, changes: Callable[[], tuple[int, int]]) -> None:
        self._log, self._changes = log, changes
        self._ended = threading.Event()
        self._known = (0, 0)
        self._signs: _Signs | None = None
        self._is_watched = self._was_own = False
        self._sign = -1
        _forks.in_child(self, FileListener._begin_anew)

    @property
    def is_sure(self) -> bool:
        """See :attr:`Listener.is_sure`."""
        return True

    def wait(self, seconds: float) -> Wait[Sequence[Hint]]:
        """See :meth:`Listener.wait`."""
        return Wait(seconds, self._is_over, self._block, self._wait)

    def end(self) -> None:
        """See :meth:`Listener.end`."""
        self._ended.set()
        if self._signs is not None:
            self._signs.stir()

    def _is_over(self) -> bool:
        return self._ended.is_set() or (self._log is None and self._changes() != self._known)

    async def _wait(self, seconds: float) -> Sequence[Hint]:
        return await asyncio.to_thread(self._block, seconds)

    def _block(self, seconds: float) -> Sequence[Hint]:
        until = monotonic() + seconds
        if self._was_own and self._log is not None:
            self._ended.wait(min(seconds, REST))
        while not self._ended.is_set() and (left := until - monotonic()) > 0:
            if self._is_told(left) and (hints := self._heard()):
                return hints
        return ()

    def _heard(self) -> Sequence[Hint]:
        before, self._known = self._known, self._changes()
        self._was_own = self._known[0] == before[0] and self._known != before
        if self._was_own:
            return (Hint(seconds=OWN),)
        return () if self._known == before else (Hint(),)

    def _is_told(self, seconds: float) -> bool:
        """Wait for a sign, for so many seconds at most; whether there may have been one."""
        if self._log is None:
            self._ended.wait(0.0 if self._changes() != self._known else min(seconds, OWN))
            return True
        if not self._is_watched:
            self._is_watched = True
            with suppress(OSError, AttributeError):  # there are none to be had
                self._signs = _Signs()
        watched = None if self._signs is None else self._signs.watch(self._log)
        if self._signs is None or watched is None:
            self._ended.wait(min(seconds, LOOK_PERIOD))
            return self._is_new(_time_of(self._log))
        return self._is_new(watched) or self._signs.wait(seconds)

    def _is_new(self, sign: int) -> bool:
        """Whether it is another file that is watched now, or its time is another one."""
        before, self._sign = self._sign, sign
        return sign != before

    def close(self) -> None:
        """See :meth:`Listener.close`."""
        self._ended.set()
        signs, self._signs = self._signs, None
        if signs is not None:
            signs.close()

    def _begin_anew(self) -> None:
        """In a forked child: the thread that waits is the parent's."""
        self.close()
        self._is_watched, self._ended = False, threading.Event()


class _Signs:
    """What the kernel tells of a file's attributes (inotify(7), Linux).

    Raises:
        OSError, AttributeError: It tells nothing here.
    """

    def __init__(self) -> None:
        if not sys.platform.startswith("linux"):
            raise OSError
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._stirred, self._stirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._told: int = self._libc.inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK)
        if self._told < 0:
            os.close(self._stirred)
            os.close(self._stirs)
            raise OSError(ctypes.get_errno(), "inotify")
        self._lock, self._is_open = _forks.lock(), True
        self._poll = select.poll()
        self._poll.register(self._told, select.POLLIN)
        self._poll.register(self._stirred, select.POLLIN)

    def watch(self, path: str) -> int | None:
        """Watch what lies at a path: a number for this file, None where there is none."""
        watched: int = self._libc.inotify_add_watch(self._told, os.fsencode(path), _IN_ATTRIB)
        return watched if watched >= 0 else None

    def wait(self, seconds: float) -> bool:
        """Whether the kernel tells something, within so many seconds."""
        told = bool(self._poll.poll(seconds * 1000))
        if told:
            with suppress(BlockingIOError):
                os.read(self._told, _ENOUGH)
        return told

    def stir(self) -> None:
        """End the wait, now and later; from any thread."""
        with self._lock, suppress(BlockingIOError):
            if self._is_open:
                os.write(self._stirs, b".")

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            self._is_open = False
            for descriptor in (self._told, self._stirred, self._stirs):
                os.close(descriptor)


def _time_of(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - asked for fifty times a second
    except OSError:
        return 0
