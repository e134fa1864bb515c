"""A WAHA that never understands: it sends whatever it is asked to, again and again.

It speaks what answering needs: a text is sent, a chat is read, a LID is looked up. Where it echoes,
it tells the driver of each message that it sent, as its webhook would: now and then not at all, or
later, or as if a human had typed it.
"""

from __future__ import annotations

import re
import socket
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.chaos.faulty import FAULTS, FaultyServer, Refusal, Request, error, response
from tests.chaos.oracle import Kept
from tests.chaos.script import Talk

_SCHEMA = """
CREATE TABLE sent (id INTEGER PRIMARY KEY, session TEXT, chat_id TEXT, text TEXT, at INTEGER);
CREATE INDEX chat ON sent (session, chat_id, id);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waha:
    """The server; ``faults`` is the seed of what goes wrong."""

    file: Path
    port: int
    faults: str
    echoes: bool


def create(file: Path) -> None:
    """The server's file."""
    with sqlite3.connect(file) as sql:
        sql.execute("PRAGMA journal_mode = WAL")
        sql.executescript(_SCHEMA + FAULTS)
    sql.close()


def delivered(file: Path, talks: Iterable[Talk]) -> tuple[list[Kept], dict[str, int]]:
    """Everything that customers were sent, in order, and how often what went wrong."""
    with sqlite3.connect(file) as sql:
        rows = sql.execute("SELECT session, chat_id, text FROM sent ORDER BY id").fetchall()
        faults = dict(sql.execute("SELECT kind, count FROM faults ORDER BY kind").fetchall())
    sql.close()
    chats = {(talk.account, chat): talk.session_id for talk in talks for chat in talk.chats}
    return [Kept(chats[session, chat], "reply", text) for session, chat, text in rows], faults


def serve(link: socket.socket, server: Waha) -> None:
    """Serve until ``link`` closes."""
    _Waha(server).run(link)


class _Waha(FaultyServer):
    def __init__(self, server: Waha) -> None:
        super().__init__(server.file, server.port, server.faults)
        self._echoes = server.echoes

    def answer(self, request: Request) -> bytes:
        try:
            return response(*self._routed(request))
        except Refusal as refusal:
            return error(refusal.status, str(refusal))

    def _routed(self, request: Request) -> tuple[int, Any]:
        url = urlsplit(request.target)
        if (request.method, url.path) == ("POST", "/api/sendText"):
            return 201, self._send(**request.body)
        found = re.fullmatch(r"/api/([^/]+)/chats/([^/]+)/messages", url.path)
        if request.method == "GET" and found:
            return 200, self._chat(unquote(found[1]), unquote(found[2]), parse_qs(url.query))
        if request.method == "GET" and "/lids/" in url.path:  # whose it is it does not know
            return 200, {"lid": unquote(url.path.rpartition("/")[2]), "pn": None}
        raise Refusal(404, "no such route")

    def _send(self, session: str, chatId: str, text: str) -> dict[str, Any]:  # noqa: N803 - wire
        at = int(time.time())
        added = self.sql.execute(
            "INSERT INTO sent VALUES (NULL, ?, ?, ?, ?)", (session, chatId, text, at)
        )
        message = _message(added.lastrowid or 0, chatId, text, at)
        if self._echoes and self._rng.random() < 0.9:
            source = "app" if self._rng.random() < 0.2 else "api"  # it is not always right
            payload = {**message, "source": source}
            echo = {"event": "message.any", "session": session, "payload": payload}
            self.tell({"echo": echo, "late": self._rng.random() < 0.2})
        return message

    def _chat(self, session: str, chat_id: str, query: dict[str, list[str]]) -> list[Any]:
        rows = self.sql.execute(
            "SELECT id, text, at FROM sent WHERE session = ? AND chat_id = ?"
            " ORDER BY id DESC LIMIT ?",
            (session, chat_id, int(query["limit"][0])),
        )
        return [_message(number, chat_id, text, at) for number, text, at in rows]


def _message(number: int, chat_id: str, text: str, at: int) -> dict[str, Any]:
    return {
        "id": f"true_{chat_id}_3EB0{number:016X}",
        "timestamp": at,
        "fromMe": True,
        "source": "api",
        "to": chat_id,
        "body": text,
        "hasMedia": False,
    }
