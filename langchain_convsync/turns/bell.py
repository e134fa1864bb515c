"""Waking one of those who wait for work, in both colours."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

from langchain_convsync._flow import Io


class Bell:
    """Ends the rest of one who rests, or else the next rest before it begins."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rung = False
        self._resting: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """There is work; may be called from any thread."""
        with self._changed:
            while self._resting:
                future = self._resting.pop()
                with suppress(RuntimeError):  # its loop is closed: nobody rests there any more
                    future.get_loop().call_soon_threadsafe(_wake, future)
                    return
            self._rung = True
            self._changed.notify()

    def rest(self, seconds: float) -> Io[None]:
        """Let seconds pass, or less if the bell rings."""

        def block() -> None:
            with self._changed:
                if not self._rung:
                    self._changed.wait(seconds)
                self._rung = False

        async def wait() -> None:
            with self._changed:
                if self._rung:
                    self._rung = False
                    return
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._resting.append(future)
            try:
                async with asyncio.timeout(seconds):
                    await future
            except TimeoutError:
                pass
            finally:
                with self._changed, suppress(ValueError):
                    self._resting.remove(future)

        return Io(block, wait)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
