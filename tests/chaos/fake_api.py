"""An API server that never forgets and never understands: durable, not idempotent, full of faults.

It speaks the documented endpoints over plain HTTP. What it has answered it has written to a SQLite
file, which outlives ``kill -9``. A log beside the capped histories holds every message and every
sync that was ever applied.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.chaos.oracle import Kept
from tests.chaos.script import Talk

#: The history that the server shows, in messages.
CAP = 20
#: Seconds after which a write that got no answer is applied at the latest.
LATE = 0.3
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

_SCHEMA = """
CREATE TABLE conversations (
    session_id TEXT PRIMARY KEY, phone_number TEXT, lid TEXT, bot_id TEXT, subdomain TEXT,
    state TEXT, active INTEGER
);
CREATE TABLE log (
    id INTEGER PRIMARY KEY, session_id TEXT, kind TEXT, role TEXT, text TEXT, at TEXT
);
CREATE INDEX history ON log (session_id, kind, id);
CREATE TABLE keys (key TEXT PRIMARY KEY, answer TEXT);
CREATE TABLE faults (kind TEXT PRIMARY KEY, count INTEGER);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """In what the server differs from the documented one, which knows nothing of keys.

    Attributes:
        keys: It answers a repeated ``Idempotency-Key`` once.
        replace: A sync replaces the whole context, the history aside.
        by_sync: Only a sync that carries the history persists it; a POST is answered and forgotten.
    """

    keys: bool = False
    replace: bool = False
    by_sync: bool = False


AS_DOCUMENTED = Manners()


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server; ``faults`` is the seed of what goes wrong."""

    file: Path
    port: int
    faults: str
    manners: Manners


def create(file: Path, talks: Iterable[Talk]) -> None:
    """The server's file, with a conversation for everyone who is going to talk."""
    state = json.dumps({"intent": "idle", "step": "initial", "context": {"language": "es"}})
    with sqlite3.connect(file) as sql:
        sql.execute("PRAGMA journal_mode = WAL")
        sql.executescript(_SCHEMA)
        for talk in talks:
            names = (talk.session_id, talk.phone_number, talk.lid, talk.bot_id, talk.subdomain)
            sql.execute("INSERT INTO conversations VALUES (?, ?, ?, ?, ?, ?, 0)", (*names, state))
    sql.close()


def applied(file: Path) -> tuple[list[Kept], dict[str, dict[str, Any]], dict[str, int]]:
    """Every write, the context of each session, and how often what went wrong."""
    with sqlite3.connect(file) as sql:
        rows = sql.execute("SELECT session_id, kind, role, text FROM log ORDER BY id").fetchall()
        states = sql.execute("SELECT session_id, state FROM conversations").fetchall()
        faults = dict(sql.execute("SELECT kind, count FROM faults ORDER BY kind").fetchall())
    sql.close()
    kept = [
        Kept(session, kind, f"{role} {text}" if kind == "message" else text)
        for session, kind, role, text in rows
    ]
    return kept, {session: json.loads(state)["context"] for session, state in states}, faults


def serve(link: socket.socket, server: Server) -> None:
    """Serve until ``link`` closes; what was to be applied late is applied before the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends its processes itself
    asyncio.run(_Api(server).serve(link))


class _Refusal(Exception):  # noqa: N818 - an answer, not an error
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Cut(Exception):  # noqa: N818 - control flow: the connection ends without an answer
    pass


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    target: str
    key: str | None
    body: Any


class _Api:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._rng = random.Random(server.faults)
        self._sql = sqlite3.connect(server.file, isolation_level=None)
        self._sql.execute("PRAGMA synchronous = NORMAL")  # kill -9 takes nothing from the kernel
        self._listener: asyncio.Server | None = None
        self._later: set[asyncio.Task[None]] = set()

    async def serve(self, link: socket.socket) -> None:
        await self._listen()
        reader, writer = await asyncio.open_connection(sock=link)
        writer.write(READY)
        await reader.read()
        while self._later:
            await asyncio.wait(self._later)
        self._sql.close()
        os._exit(0)  # whoever is still connected is not waited for

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(
            self._converse, "127.0.0.1", self._server.port, reuse_address=True
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

    async def _misanswer(self, request: _Request) -> bytes:
        fault = self._fault(READ_FAULTS if request.method == "GET" else WRITE_FAULTS)
        match fault:
            case "cut, not applied":
                raise _Cut
            case "hung, not applied":
                await asyncio.sleep(HANG)
                raise _Cut
            case "429":
                return _error(429, "busy")
            case "applied late":
                self._soon(self._apply_late(request))
                raise _Cut
            case "refused":
                self._soon(self._refuse())
        answer = self._answer(request)
        match fault:
            case "applied, then 500":
                return _error(500, "error")
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
                self._sql.execute(
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

    async def _apply_late(self, request: _Request) -> None:
        await asyncio.sleep(self._rng.uniform(0.0, LATE))
        self._answer(request)

    def _answer(self, request: _Request) -> bytes:
        """Apply a request, once per key where keys are honoured, and say so: one transaction."""
        key = request.key if self._server.manners.keys else None
        self._sql.execute("BEGIN IMMEDIATE")
        with self._sql:
            known = self._sql.execute("SELECT answer FROM keys WHERE key = ?", (key,)).fetchone()
            if known is not None:
                return _response(200, json.loads(known[0]))
            try:
                data = self._routed(request)
            except _Refusal as refusal:
                return _error(refusal.status, str(refusal))
            answer = {"type": "1", "message": "ok", "data": data}
            if key is not None:
                self._sql.execute("INSERT INTO keys VALUES (?, ?)", (key, json.dumps(answer)))
            return _response(200, answer)

    def _routed(self, request: _Request) -> dict[str, Any]:
        url = urlsplit(request.target)
        routes: dict[str, Callable[..., dict[str, Any]]] = {
            r"GET /lookup/(?:conversation|tenant)/([^/]+)": self._look_up,
            r"POST /agent/conversations/([^/]+)/messages": self._add,
            r"PUT /agent/conversations/([^/]+)/sync": self._sync,
        }
        line = f"{request.method} {url.path.removeprefix('/api/v1/whatsapp')}"
        for pattern, handler in routes.items():
            if found := re.fullmatch(pattern, line):
                bot = parse_qs(url.query).get("botId", [None])[0]
                given: Any = bot if request.method == "GET" else request.body
                return handler(unquote(found[1]), given)
        raise _Refusal(404, "no such route")

    def _look_up(self, customer: str, bot_id: str | None) -> dict[str, Any]:
        found = self._sql.execute(
            "SELECT session_id, bot_id, subdomain FROM conversations"
            " WHERE ?1 IN (phone_number, lid) AND (?2 IS NULL OR bot_id = ?2)"
            " ORDER BY active DESC LIMIT 1",
            (customer, bot_id),
        ).fetchone()
        if found is None:
            raise _Refusal(404, "No active conversation found for this phone number")
        session_id, found_bot_id, subdomain = found
        now = datetime.now(UTC)
        return {
            **self._shown(session_id),
            "userId": customer,
            "botId": found_bot_id,
            "subDomain": subdomain,
            "isActive": True,
            "expiresAt": (now + timedelta(hours=24)).isoformat(),
        }

    def _add(self, session_id: str, body: Any) -> dict[str, Any]:
        if body["role"] not in {"user", "bot"} or not body["content"]:
            raise _Refusal(400, "role must be user or bot, and content must not be empty")
        if self._server.manners.by_sync:
            shown = self._shown(session_id)
            shown["context"]["previousMessages"].append(body)
            return shown
        self._log(session_id, "message", body["role"], body["content"])
        return self._shown(session_id)

    def _sync(self, session_id: str, body: Any) -> dict[str, Any]:
        state, context = self._state(session_id), dict(body.get("context", {}))
        history = context.pop("previousMessages", None)
        context.pop("lastUserMessage", None)
        if history is not None and self._server.manners.by_sync:
            self._rewrite(session_id, history)
        if context or self._server.manners.replace:
            kept = {} if self._server.manners.replace else state["context"]
            state["context"] = {**kept, **context}
        state["metadata"] = {**state.get("metadata", {}), **body.get("metadata", {})}
        state |= {name: body[name] for name in ("intent", "step") if name in body}
        update = "UPDATE conversations SET state = ? WHERE session_id = ?"
        self._sql.execute(update, (json.dumps(state), session_id))
        if "intent" in body:
            self._log(session_id, "sync", None, str(context.get("reply")))
        return self._shown(session_id)

    def _rewrite(self, session_id: str, history: list[dict[str, str]]) -> None:
        """Whatever was shown and does not go on in the new history is gone."""
        shown = self._shown(session_id)["context"]["previousMessages"]
        same = next(
            (n for n in range(len(shown), 0, -1) if shown[-n:] == history[:n]),
            0,
        )
        if not same:
            self._sql.execute(
                "DELETE FROM log WHERE id IN (SELECT id FROM log WHERE session_id = ?"
                " AND kind = 'message' ORDER BY id DESC LIMIT ?)",
                (session_id, CAP),
            )
        for message in history[same:]:
            at = message["timestamp"]
            self._log(session_id, "message", message["role"], message["content"], at)

    def _log(
        self, session_id: str, kind: str, role: str | None, text: str, at: str | None = None
    ) -> None:
        self._state(session_id)  # there is such a session
        at = at or datetime.now(UTC).isoformat(timespec="milliseconds")
        values = (session_id, kind, role, text, at)
        added = self._sql.execute("INSERT INTO log VALUES (NULL, ?, ?, ?, ?, ?)", values)
        update = "UPDATE conversations SET active = ? WHERE session_id = ?"
        self._sql.execute(update, (added.lastrowid, session_id))

    def _state(self, session_id: str) -> dict[str, Any]:
        query = "SELECT state FROM conversations WHERE session_id = ?"
        found = self._sql.execute(query, (session_id,)).fetchone()
        if found is None:
            raise _Refusal(404, "no such session")
        state: dict[str, Any] = json.loads(found[0])
        return state

    def _shown(self, session_id: str) -> dict[str, Any]:
        """The conversation as the server shows it: of its history, the end."""
        state = self._state(session_id)
        rows = self._sql.execute(
            "SELECT role, text, at FROM log WHERE session_id = ? AND kind = 'message'"
            " ORDER BY id DESC LIMIT ?",
            (session_id, CAP),
        ).fetchall()
        history = [{"role": r, "content": text, "timestamp": at} for r, text, at in rows[::-1]]
        return {
            "sessionId": session_id,
            "currentIntent": state["intent"],
            "currentStep": state["step"],
            "context": {**state["context"], "previousMessages": history},
            "metadata": state.get("metadata", {}),
        }


async def _read(reader: asyncio.StreamReader) -> _Request:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").splitlines()
    headers = {
        name.lower(): value.strip() for name, _, value in (li.partition(":") for li in lines)
    }
    method, target, _ = first.split(" ")
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    key = headers.get("idempotency-key")
    return _Request(method, target, key, json.loads(body) if body else None)


def _error(status: int, message: str) -> bytes:
    return _response(status, {"type": "3", "message": message, "data": None})


def _response(status: int, body: Any) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
