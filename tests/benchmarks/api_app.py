"""The reference server, or a bare one, in a process of its own that ends when its input does.

``python -m tests.benchmarks.api_app KIND DATABASE_URL`` prints the port and the process id.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import Text, cast, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from langchain_convsync.server import Tenant, create_reference_api
from langchain_convsync.server.database import open_database
from langchain_convsync.server.serving import listen, server_for
from langchain_convsync.server.tables import ConversationRow, MessageRow
from langchain_convsync.settings import DOCUMENTED_PREFIX

BARE = "bare FastAPI + SQLAlchemy"
OURS = "reference server"
TENANT = Tenant("restaurant-abc", "bot1")


class Said(BaseModel):
    """The body of a message."""

    role: str
    content: str


class State(BaseModel):
    """The body of a sync."""

    intent: str
    step: str
    context: dict[str, Any]
    metadata: dict[str, Any]
    is_active: bool = Field(alias="isActive")


class Bare:
    """The same SELECT, INSERT and UPDATE on the same tables, answered as the same JSON.

    Without keys, limits, quirks, spellings of phone numbers, and checks beyond pydantic's.
    """

    def __init__(self, database_url: str) -> None:
        self._engine = open_database(database_url)
        self._lock: Any = nullcontext()
        if self._engine.dialect.name == "sqlite":
            self._lock = threading.Lock()  # it is one connection

    def app(self) -> FastAPI:
        app = FastAPI()
        app.get(f"{DOCUMENTED_PREFIX}/lookup/conversation/{{phone_number}}")(self.lookup)
        agent = f"{DOCUMENTED_PREFIX}/agent/conversations/{{session_id}}"
        app.post(f"{agent}/messages")(self.add_message)
        app.put(f"{agent}/sync")(self.sync)
        app.post(f"{DOCUMENTED_PREFIX}/webhook/waha")(self.webhook)
        return app

    def lookup(self, phone_number: str) -> Response:
        with self._transaction() as db:
            row = _open(db, phone_number)
            return self._answered("Conversation retrieved successfully", _whole(row), db, row)

    def add_message(self, session_id: str, message: Said) -> Response:
        with self._transaction() as db:
            row = _writable(db, session_id)
            last = select(func.max(MessageRow.position)).where(MessageRow.conversation_id == row.id)
            position, now = db.scalar(last), datetime.now(UTC)
            entry = {**message.model_dump(), "timestamp": _spelled(now)}
            position = 0 if position is None else position + 1
            db.add(MessageRow(conversation_id=row.id, position=position, entry=entry))
            row.last_message_at = now
            if message.role == "user":
                row.context = {**row.context, "lastUserMessage": message.content}
            db.flush()
            told = {"sessionId": session_id}
            return self._answered("Message added successfully", told, db, row)

    def sync(self, session_id: str, state: State) -> Response:
        with self._transaction() as db:
            row = _writable(db, session_id)
            row.previous_intent, row.current_intent = row.current_intent, state.intent
            row.previous_step, row.current_step = row.current_step, state.step
            row.context = {**row.context, **state.context}
            row.extra = {**row.extra, **state.metadata}
            row.is_active = state.is_active
            names = ("sessionId", "currentIntent", "currentStep", "lastActivity")
            told = {name: _whole(row)[name] for name in names}
            return self._answered("Conversation synced successfully from agent", told, db, row)

    async def webhook(self, request: Request) -> dict[str, Any]:
        event = await request.json()
        sender = event["payload"]["from"].removesuffix("@c.us")
        session_id = await run_in_threadpool(self._receive, f"+{sender}")
        data = {"accepted": True, "sessionId": session_id, "reason": None}
        return {"type": "1", "message": "Event accepted", "data": data}

    def _receive(self, phone_number: str) -> str:
        with self._transaction() as db:
            row = _open(db, phone_number)
            _touch(row)
            return row.session_id

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        with self._lock, Session(self._engine) as db, db.begin():
            yield db

    def _answered(
        self, message: str, data: dict[str, Any], db: Session, row: ConversationRow
    ) -> Response:
        context = {"previousMessages": "@", **row.context}
        body = {"type": "1", "message": message, "data": {**data, "context": context}}
        spelled = json.dumps(body, ensure_ascii=False).replace('"@"', self._history(db, row), 1)
        return Response(spelled, media_type="application/json")

    def _history(self, db: Session, row: ConversationRow) -> str:
        """Joined in the database: to parse it and to write it again would be slower by far."""
        entry, mine = cast(MessageRow.entry, Text), MessageRow.conversation_id == row.id
        if self._engine.dialect.name == "postgresql":
            ordered = aggregate_order_by(func.chr(ord(",")), MessageRow.position)
            return f"[{db.scalar(select(func.string_agg(entry, ordered)).where(mine)) or ''}]"
        rows = select(entry.label("entry")).where(mine).order_by(MessageRow.position).subquery()
        return f"[{db.scalar(select(func.group_concat(rows.c.entry, ','))) or ''}]"


def _open(db: Session, phone_number: str) -> ConversationRow:
    mine = ConversationRow.phone_number == phone_number
    is_open = ConversationRow.is_active & (ConversationRow.expires_at > datetime.now(UTC))
    newest = select(ConversationRow).where(mine, is_open)
    row = db.scalar(newest.order_by(ConversationRow.last_activity.desc()).limit(1))
    if row is None:
        raise HTTPException(404, "No active conversation found for this phone number")
    return row


def _writable(db: Session, session_id: str) -> ConversationRow:
    mine = ConversationRow.session_id == session_id
    not_expired = ConversationRow.expires_at > datetime.now(UTC)
    row = db.scalar(select(ConversationRow).where(mine, not_expired).with_for_update())
    if row is None:
        raise HTTPException(404, "Conversation not found")
    _touch(row)
    return row


def _touch(row: ConversationRow) -> None:
    row.last_activity = row.updated_at = datetime.now(UTC)
    row.expires_at = row.updated_at + timedelta(hours=24)


def _spelled(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _whole(row: ConversationRow) -> dict[str, Any]:
    return {
        "sessionId": row.session_id,
        "userId": row.phone_number,
        "botId": row.bot_id,
        "subDomain": row.subdomain,
        "currentIntent": row.current_intent,
        "currentStep": row.current_step,
        "previousIntent": row.previous_intent,
        "previousStep": row.previous_step,
        "metadata": row.extra,
        "isActive": row.is_active,
        "lastActivity": _spelled(row.last_activity),
        "expiresAt": _spelled(row.expires_at),
        "createdAt": _spelled(row.created_at),
        "updatedAt": _spelled(row.updated_at),
    }


def main(kind: str, database_url: str) -> None:
    """Serve until this process is ended."""
    if kind == BARE:
        app = Bare(database_url).app()
    else:
        app = create_reference_api(database_url, tenants={"default": TENANT})
    listener = listen("127.0.0.1", 0)
    sys.stdout.write(f"{listener.getsockname()[1]} {os.getpid()}\n")
    sys.stdout.flush()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    server_for(app, grace=0).run([listener])


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
