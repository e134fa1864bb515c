"""Processes of our own: started warm, spoken to in lines, ended by their own handles."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any, Self

# Children are forked from one process that has imported everything: a kill costs milliseconds.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["tests.chaos.worker", "tests.chaos.fake_api", "tests.chaos.fake_waha"]
)


class Child:
    """A running process, and the link to it, which breaks when it dies.

    Args:
        told: Called with each line that is no answer.

    Attributes:
        killed_at: Monotonic time just before it was killed; None while it was not.
    """

    def __init__(
        self,
        process: ForkServerProcess,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        told: Callable[[dict[str, Any]], None],
    ) -> None:
        self.killed_at: float | None = None
        self._process = process
        self._reader, self._writer, self._told = reader, writer, told
        self._asked: dict[int, asyncio.Future[dict[str, Any] | None]] = {}
        self._numbers = 0
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(
        cls,
        main: Callable[..., None],
        *given: Any,
        told: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> Self:
        """Start it, and wait until it is ready: it says so in its first line.

        Raises:
            RuntimeError: It ended before.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            # A daemon: should the driver end without saying so, its children end too.
            process = _CONTEXT.Process(target=main, args=(theirs, *given), daemon=True)
            process.start()
        reader, writer = await asyncio.open_connection(sock=ours)
        child = cls(process, reader, writer, told)
        try:
            ready = await child.ask(None)
        except BaseException:
            child.kill()
            raise
        if ready is None:
            message = f"{main.__module__} ended before it was ready"
            raise RuntimeError(message)
        return child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid or 0

    def ask(self, request: dict[str, Any] | None) -> asyncio.Future[dict[str, Any] | None]:
        """Its answer to a line, or its word that it is ready; None when it dies before."""
        answer: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
        if self._listening.done() or self.killed_at is not None:
            answer.set_result(None)
            return answer
        self._asked[self._numbers] = answer
        if request is not None:
            line = json.dumps({"id": self._numbers, **request})
            self._writer.write(line.encode() + b"\n")
        self._numbers += 1
        return answer

    async def _listen(self) -> None:
        try:
            while (line := await self._reader.readline()).endswith(b"\n"):
                answer = json.loads(line)
                if "id" in answer:
                    _settle(self._asked.pop(answer["id"]), answer)
                else:
                    self._told(answer)
        except ConnectionError:
            pass  # killed with something of ours unread
        finally:
            for waiting in self._asked.values():
                _settle(waiting, None)
            self._writer.close()

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self.killed_at = self.killed_at or time.monotonic()
        self._process.kill()
        self._process.join()

    def pause(self) -> None:
        """Stop it where it stands."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    async def stop(self) -> None:
        """Let it finish what it has begun, and wait until it has ended."""
        self._writer.close()
        await asyncio.to_thread(self._process.join)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.is_alive():
            os.kill(self.pid, number)


def _settle(answer: asyncio.Future[dict[str, Any] | None], value: dict[str, Any] | None) -> None:
    if not answer.done():  # nobody waits for it any more
        answer.set_result(value)
