"""Requests at a fixed rate, whether or not earlier ones were answered."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.wire import taken_from

#: Seconds to wait for the last answers.
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What came back.

    Attributes:
        late: Seconds of each request, from when it was to be sent to its answer, in their order.
        behind: Seconds by which each was sent too late: what this process adds itself.
        statuses: Their statuses.
        bodies: What was said.
        seconds: From the first request to the last answer.
    """

    late: list[float]
    behind: list[float]
    statuses: list[int]
    bodies: list[bytes]
    seconds: float


class _Connection(asyncio.Protocol):
    """Carries one request at a time."""

    def __init__(self, idle: list[_Connection]) -> None:
        self._idle = idle
        self._got = bytearray()
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(exc or ConnectionError("closed without an answer"))

    def data_received(self, data: bytes) -> None:
        self._got += data
        if (whole := taken_from(self._got)) is not None and self._answered is not None:
            head, body = whole
            self._answered.set_result((int(head.split(" ", 2)[1]), body))
            self._idle.append(self)

    def send(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        assert self._transport is not None
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answered

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def offer(port: int, requests: Sequence[bytes], *, rate: float) -> Answers:
    """Send every request at its time; a slow server does not slow the next ones down."""
    loop = asyncio.get_running_loop()
    idle: list[_Connection] = []
    opened: list[_Connection] = []
    late, behind = [0.0] * len(requests), [0.0] * len(requests)
    statuses, bodies = [0] * len(requests), [b""] * len(requests)

    async def connected() -> _Connection:
        _, new = await loop.create_connection(lambda: _Connection(idle), "127.0.0.1", port)
        opened.append(new)
        return new

    async def one(number: int, planned: float) -> None:
        connection = idle.pop() if idle else await connected()
        behind[number] = time.perf_counter() - planned
        statuses[number], bodies[number] = await connection.send(requests[number])
        late[number] = time.perf_counter() - planned

    gc.collect()
    gc.disable()  # a pause of ours is no latency of theirs
    begin = time.perf_counter()
    try:
        sending = []
        for number in range(len(requests)):
            planned = begin + number / rate
            if (ahead := planned - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            sending.append(asyncio.create_task(one(number, planned)))
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*sending)
        return Answers(late, behind, statuses, bodies, time.perf_counter() - begin)
    finally:
        gc.enable()
        for connection in opened:
            connection.close()
