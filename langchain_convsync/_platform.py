"""What a process does not decide by itself: time, chance, other threads, when a step is performed.

All of it is asked for here and nowhere else, so that a simulator can stand in for the machine.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol
from uuid import UUID

#: Seconds on a clock that nobody sets, nor stops: tests of users' bots hold ``time.monotonic``
#: still, and a wait that is measured by it would never be over.
_ticks: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    if hasattr(time, "clock_gettime")
    else partial(time.monotonic)  # Windows
)

_chance = random.SystemRandom().random


class Joinable(Protocol):
    """Work that was begun beside this one."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, for at most so many seconds."""

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""


class Platform:
    """The machine that this process runs on."""

    def monotonic(self) -> float:
        """Seconds that only ever grow."""
        return _ticks()

    def now(self) -> datetime:
        """The time of day, in UTC."""
        return datetime.now(UTC)

    def token_bytes(self, size: int) -> bytes:
        """Bytes that nobody can guess."""
        return secrets.token_bytes(size)

    def random(self) -> float:
        """A number from 0.0 up to 1.0."""
        return _chance()

    def perform(self, step: Any) -> Any:
        """What a step comes to that is performed on this thread."""
        return step.block()

    def spawn(self, work: Callable[[], None], name: str) -> Joinable:
        """Do work on a thread of its own; a stuck one keeps no process alive."""
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread


_current = Platform()


def monotonic() -> float:
    """Seconds on a clock that nobody sets, nor stops."""
    return _current.monotonic()


def now() -> datetime:
    """The time of day, in UTC."""
    return _current.now()


def wall() -> float:
    """The time of day, in seconds since 1970."""
    return _current.now().timestamp()


def token_bytes(size: int) -> bytes:
    """So many bytes that nobody can guess."""
    return _current.token_bytes(size)


def token(size: int = 16) -> str:
    """So many bytes that nobody can guess, in hexadecimal digits."""
    return _current.token_bytes(size).hex()


def unique() -> str:
    """A UUID that no other thing has."""
    return str(UUID(bytes=_current.token_bytes(16), version=4))


def chance() -> float:
    """A number from 0.0 up to 1.0."""
    return _current.random()


def perform(step: Any) -> Any:
    """What a step comes to that is performed on this thread."""
    return _current.perform(step)


def spawn(work: Callable[[], None], name: str) -> Joinable:
    """Do work on a thread of its own."""
    return _current.spawn(work, name)


@contextmanager
def standing_in(platform: Platform) -> Iterator[None]:
    """Ask another machine meanwhile."""
    global _current  # noqa: PLW0603 - the one place
    before, _current = _current, platform
    try:
        yield
    finally:
        _current = before
