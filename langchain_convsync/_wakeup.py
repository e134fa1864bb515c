"""Waking a worker that waits for work, sync or async."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from langchain_convsync import _forks
from langchain_convsync._flow import Io, Wait


class Wakeup:
    """Ends the wait of one waiting worker, or else the next wait before it begins.

    Args:
        most: Waits at most that end before they begin.
    """

    def __init__(self, most: int = 1) -> None:
        self._changed = _forks.condition()
        self._most, self._notified = most, 0
        self._ended = False
        self._waiting: list[asyncio.Future[None]] = []

    def notify(self) -> None:
        """There is work; may be called from any thread."""
        with self._changed:
            while self._waiting:
                future = self._waiting.pop()
                with suppress(RuntimeError):  # its loop is closed: no worker waits there any more
                    future.get_loop().call_soon_threadsafe(_wake, future)
                    return
            self._notified = min(self._most, self._notified + 1)
            self._changed.notify()

    def end(self) -> None:
        """No worker waits any longer, now or later; may be called from any thread."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            for future in self._waiting:
                with suppress(RuntimeError):
                    future.get_loop().call_soon_threadsafe(_wake, future)

    def wait(self, seconds: float) -> Io[None]:
        """Let seconds pass, or less if there is work."""
        return Wait(seconds, self._is_over, self._block, self._wait)

    def _is_over(self) -> bool:
        return self._notified > 0 or self._ended

    def _block(self, seconds: float) -> None:
        with self._changed:
            if not self._is_over():
                self._changed.wait(seconds)
            self._notified = max(0, self._notified - 1)

    async def _wait(self, seconds: float) -> None:
        with self._changed:
            if self._is_over():
                self._notified = max(0, self._notified - 1)
                return
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            pass
        finally:
            with self._changed, suppress(ValueError):
                self._waiting.remove(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
