"""What several tasks ask of a store in one step of the event loop travels together.

An operation costs its caller several times what it costs the store: a connection or a thread to
hand it to, a system call each way, a write to the disk. What is asked together shares these, and
each has an answer, or an error, of its own.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

Q = TypeVar("Q")

#: Questions in a batch at most: a SQLite file belongs to one transaction for as long as that takes.
LARGEST = 100
#: Questions in a batch from which on others are likely to be asked in a moment.
CROWD = 4


@dataclass(slots=True)
class _Line(Generic[Q]):
    """What was asked on one event loop and is not answered yet."""

    waiting: list[tuple[Q, asyncio.Future[Any]]] = field(default_factory=list)
    under_way: set[asyncio.Task[None]] = field(default_factory=set)


#: Answers questions in their order; an error in the place of an answer is raised in the caller.
Answer: TypeAlias = Callable[[Sequence[Q]], Awaitable[Sequence[Any]]]


class Batches(Generic[Q]):
    """Asks in batches, on whichever event loop is running.

    Args:
        most: Batches under way at a time. What is asked meanwhile waits for the end of one, and
            makes the next.
        pause: Seconds between a crowded batch and the next one, so that fewer do: what PostgreSQL
            calls ``commit_delay``.
    """

    def __init__(self, *, most: int, pause: float = 0.0) -> None:
        self._most = most
        self._pause = pause
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, _Line[Q]] = WeakKeyDictionary()

    async def ask(self, question: Q, answer: Answer[Q]) -> Any:
        """The answer to one question; what ``answer`` raises is raised by all of a batch."""
        loop = asyncio.get_running_loop()
        line = self._lines.get(loop)
        if line is None:
            line = self._lines[loop] = _Line()
        if not line.waiting:
            loop.call_soon(self._send, loop, line, answer)
        answered: asyncio.Future[Any] = loop.create_future()
        line.waiting.append((question, answered))
        return await answered

    def _send(self, loop: asyncio.AbstractEventLoop, line: _Line[Q], answer: Answer[Q]) -> None:
        if not line.waiting or len(line.under_way) >= self._most:
            return
        batch, line.waiting = line.waiting[:LARGEST], line.waiting[LARGEST:]
        task = loop.create_task(_deliver(batch, answer))
        line.under_way.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            if self._pause and len(batch) >= CROWD:
                loop.call_later(self._pause, go_on, task)
            else:
                go_on(task)

        def go_on(task: asyncio.Task[None]) -> None:
            line.under_way.discard(task)
            self._send(loop, line, answer)

        task.add_done_callback(ended)
        self._send(loop, line, answer)


async def _deliver(batch: list[tuple[Q, asyncio.Future[Any]]], answer: Answer[Q]) -> None:
    try:
        answers = await answer([question for question, _ in batch])
    except Exception as error:  # noqa: BLE001 - raised in the callers
        answers = [_alike(error) for _ in batch]  # each its own: several tasks raise them
    except BaseException:  # the loop ends
        for _, answered in batch:
            answered.cancel()
        raise
    for (_, answered), found in zip(batch, answers, strict=True):
        if answered.done():  # its caller is gone
            continue
        if isinstance(found, Exception):
            answered.set_exception(found)
        else:
            answered.set_result(found)


def _alike(error: Exception) -> Exception:
    """A copy of an error, with what led to it: that tells whose fault it is."""
    alike = copy.copy(error)
    alike.__cause__, alike.__context__ = error.__cause__, error.__context__
    return alike
