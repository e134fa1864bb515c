"""An API server that never forgets and never understands: durable, not idempotent, full of faults.

It speaks the documented endpoints over plain HTTP. What it has answered it has written to a SQLite
file, which outlives ``kill -9``. A log beside the capped histories holds every message and every
sync that was ever applied.
"""

from __future__ import annotations

import json
import re
import socket
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.chaos.faulty import FAULTS, FaultyServer, Refusal, Request, error, response
from tests.chaos.oracle import Kept
from tests.chaos.script import Talk

#: The history that the server shows, in messages.
CAP = 20

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
        sql.executescript(_SCHEMA + FAULTS)
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
    """Serve until ``link`` closes."""
    _Api(server).run(link)


class _Api(FaultyServer):
    def __init__(self, server: Server) -> None:
        super().__init__(server.file, server.port, server.faults)
        self._manners = server.manners

    def answer(self, request: Request) -> bytes:
        """Apply a request, once per key where keys are honoured, and say so: one transaction."""
        key = request.headers.get("idempotency-key") if self._manners.keys else None
        self.sql.execute("BEGIN IMMEDIATE")
        with self.sql:
            known = self.sql.execute("SELECT answer FROM keys WHERE key = ?", (key,)).fetchone()
            if known is not None:
                return response(200, json.loads(known[0]))
            try:
                data = self._routed(request)
            except Refusal as refusal:
                return error(refusal.status, str(refusal))
            answer = {"type": "1", "message": "ok", "data": data}
            if key is not None:
                self.sql.execute("INSERT INTO keys VALUES (?, ?)", (key, json.dumps(answer)))
            return response(200, answer)

    def _routed(self, request: Request) -> dict[str, Any]:
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
        raise Refusal(404, "no such route")

    def _look_up(self, customer: str, bot_id: str | None) -> dict[str, Any]:
        found = self.sql.execute(
            "SELECT session_id, bot_id, subdomain FROM conversations"
            " WHERE ?1 IN (phone_number, lid) AND (?2 IS NULL OR bot_id = ?2)"
            " ORDER BY active DESC LIMIT 1",
            (customer, bot_id),
        ).fetchone()
        if found is None:
            raise Refusal(404, "No active conversation found for this phone number")
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
            raise Refusal(400, "role must be user or bot, and content must not be empty")
        if self._manners.by_sync:
            shown = self._shown(session_id)
            shown["context"]["previousMessages"].append(body)
            return shown
        self._log(session_id, "message", body["role"], body["content"])
        return self._shown(session_id)

    def _sync(self, session_id: str, body: Any) -> dict[str, Any]:
        state, context = self._state(session_id), dict(body.get("context", {}))
        history = context.pop("previousMessages", None)
        context.pop("lastUserMessage", None)
        if history is not None and self._manners.by_sync:
            self._rewrite(session_id, history)
        if context or self._manners.replace:
            kept = {} if self._manners.replace else state["context"]
            state["context"] = {**kept, **context}
        state["metadata"] = {**state.get("metadata", {}), **body.get("metadata", {})}
        state |= {name: body[name] for name in ("intent", "step") if name in body}
        update = "UPDATE conversations SET state = ? WHERE session_id = ?"
        self.sql.execute(update, (json.dumps(state), session_id))
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
            self.sql.execute(
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
        added = self.sql.execute("INSERT INTO log VALUES (NULL, ?, ?, ?, ?, ?)", values)
        update = "UPDATE conversations SET active = ? WHERE session_id = ?"
        self.sql.execute(update, (added.lastrowid, session_id))

    def _state(self, session_id: str) -> dict[str, Any]:
        query = "SELECT state FROM conversations WHERE session_id = ?"
        found = self.sql.execute(query, (session_id,)).fetchone()
        if found is None:
            raise Refusal(404, "no such session")
        state: dict[str, Any] = json.loads(found[0])
        return state

    def _shown(self, session_id: str) -> dict[str, Any]:
        """The conversation as the server shows it: of its history, the end."""
        state = self._state(session_id)
        rows = self.sql.execute(
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
