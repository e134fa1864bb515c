"""An HTTP server on which everything goes wrong that can, now and then; what it does is durable."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

#: Seconds after which a write that got no answer is applied at the latest.
LATE = 0.3
#: Seconds between two looks at the clock.
TICK = 0.02
#: Seconds until a request is dropped that is never answered.
HANG = 1.0
#: Seconds for which no connection is accepted.
REFUSED = 0.1

#: The first line over the link: it is there.
READY = b'{"id": 0}\n'

#: How often what goes wrong, of a thousand writes.
WRITE_FAULTS = {
    "applied, then 500": 25,
    "applied, then cut": 25,
    "cut, not applied": 25,
    "applied late": 25,
    "applied, hung": 10,
    "hung, not applied": 10,
    "429": 10,
    "refused": 5,
}
#: The same for reads.
READ_FAULTS = {"applied, then 500": 20, "cut, not applied": 20, "applied, hung": 5, "refused": 5}

#: The table in which a server counts its faults.
FAULTS = "CREATE TABLE faults (kind TEXT PRIMARY KEY, count INTEGER);"


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: Any


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Cut(Exception):  # noqa: N818 - control flow: the connection ends without an answer
    pass


class FaultyServer(ABC):
    """Answers what :meth:`answer` says, unless something goes wrong.

    Args:
        file: Its SQLite file, which outlives ``kill -9``.
        port: Where it listens.
        faults: The seed of what goes wrong.
    """

    def __init__(self, file: Path, port: int, faults: str) -> None:
        self.link: asyncio.StreamWriter | None = None
        self.sql = sqlite3.connect(file, isolation_level=None)
        self.sql.execute("PRAGMA synchronous = OFF")  # kill -9 takes nothing from the kernel
        self._port = port
        self._rng = random.Random(faults)
        self._listener: asyncio.Server | None = None
        self._later: set[asyncio.Task[None]] = set()
        self._stood_still = 0.0

    @abstractmethod
    def answer(self, request: Request) -> bytes:
        """Carry a request out, durably, and say so."""

    def run(self, link: socket.socket) -> None:
        """Serve until ``link`` closes; what was to be applied late is applied before the end."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends its processes itself
        asyncio.run(self._serve(link))

    def tell(self, line: dict[str, Any]) -> None:
        """Tell the driver something."""
        if self.link is not None:
            self.link.write(json.dumps(line).encode() + b"\n")

    async def _serve(self, link: socket.socket) -> None:
        await self._listen()
        watching = asyncio.create_task(self._watch())
        reader, self.link = await asyncio.open_connection(sock=link)
        self.link.write(READY)
        await reader.read()
        watching.cancel()
        while self._later:
            await asyncio.wait(self._later)
        self.sql.close()
        os._exit(0)  # whoever is still connected is not waited for

    async def _watch(self) -> None:
        """Notice when the machine has let this process stand still."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(TICK)
            if time.monotonic() - before > TICK + LATE:
                self._stood_still = time.monotonic()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(
            self._converse, "127.0.0.1", self._port, reuse_address=True
        )

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            await asyncio.sleep(REFUSED)
            await self._listen()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, _Cut):
            while True:
                writer.write(await self._misanswer(await _read(reader)))
        writer.transport.abort()

    async def _misanswer(self, request: Request) -> bytes:
        await asyncio.sleep(0)  # whoever watches has its turn
        if time.monotonic() - self._stood_still < LATE:
            raise _Cut  # it may have waited here: too late to apply it
        fault = self._fault(READ_FAULTS if request.method == "GET" else WRITE_FAULTS)
        match fault:
            case "cut, not applied":
                raise _Cut
            case "hung, not applied":
                await asyncio.sleep(HANG)
                raise _Cut
            case "429":
                return error(429, "busy")
            case "applied late":
                self._soon(self._apply_late(request))
                raise _Cut
            case "refused":
                self._soon(self._refuse())
        answer = self.answer(request)
        match fault:
            case "applied, then 500":
                return error(500, "error")
            case "applied, then cut":
                raise _Cut
            case "applied, hung":
                await asyncio.sleep(HANG)
                raise _Cut
        return answer

    def _fault(self, chances: dict[str, int]) -> str | None:
        chance = self._rng.randrange(1000)
        for kind, share in chances.items():
            if chance < share:
                self.sql.execute(
                    "INSERT INTO faults VALUES (?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
                    (kind,),
                )
                return kind
            chance -= share
        return None

    def _soon(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _apply_late(self, request: Request) -> None:
        await asyncio.sleep(self._rng.uniform(0.0, LATE))
        self.answer(request)


async def _read(reader: asyncio.StreamReader) -> Request:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").splitlines()
    headers = {
        name.lower(): value.strip() for name, _, value in (li.partition(":") for li in lines)
    }
    method, target, _ = first.split(" ")
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, target, headers, json.loads(body) if body else None)


def error(status: int, message: str) -> bytes:
    """An answer that refuses, as the document shows it."""
    return response(status, {"type": "3", "message": message, "data": None})


def response(status: int, body: Any) -> bytes:
    """An answer with a JSON body."""
    content = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
