"""The reference server's tables, and how their database is opened."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sqlite3
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import (
    JSON,
    URL,
    BigInteger,
    Dialect,
    Engine,
    ForeignKey,
    StaticPool,
    String,
    Text,
    TypeDecorator,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from langchain_convsync.errors import ConfigurationError

logger = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """A moment as whole microseconds since 1970, which every database compares alike."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """On the way into the database."""
        return None if value is None else (value - _EPOCH) // _TICK

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """On the way out of it."""
        return None if value is None else _EPOCH + value * _TICK


class Base(DeclarativeBase):
    """All tables of the reference server."""

    type_annotation_map = {datetime: Instant, dict[str, Any]: JSON}  # noqa: RUF012 - SQLAlchemy's API


class ConversationRow(Base):
    """One conversation; its messages are :class:`MessageRow`."""

    __tablename__ = "conversations"

    id: Mapped[int] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(String(512), unique=True)
    subdomain: Mapped[str] = mapped_column(String(128))
    bot_id: Mapped[str] = mapped_column(String(128))
    #: E.164 as it was first written; None while the customer is known by the LID alone.
    phone_number: Mapped[str | None] = mapped_column(String(64), index=True)
    lid: Mapped[str | None] = mapped_column(String(64), index=True)
    current_intent: Mapped[str] = mapped_column(Text)
    current_step: Mapped[str] = mapped_column(Text)
    previous_intent: Mapped[str | None] = mapped_column(Text)
    previous_step: Mapped[str | None] = mapped_column(Text)
    context: Mapped[dict[str, Any]]
    #: `metadata` on the wire; SQLAlchemy keeps that name for itself.
    extra: Mapped[dict[str, Any]] = mapped_column("metadata")
    is_active: Mapped[bool]
    last_message_at: Mapped[datetime]
    last_activity: Mapped[datetime]
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class CustomerRow(Base):
    """A customer of a bot, so that there is something to lock before the first conversation."""

    __tablename__ = "customers"

    name: Mapped[str] = mapped_column(String(512), primary_key=True)


class MessageRow(Base):
    """One entry of ``previousMessages``, as it goes over the wire."""

    __tablename__ = "messages"

    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversations.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    entry: Mapped[dict[str, Any]]


class HistoryRow(Base):
    """How often answers' history was replaced, and until when answers refer to what there is."""

    __tablename__ = "histories"

    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversations.id"), primary_key=True)
    generation: Mapped[int]
    referred_until: Mapped[datetime]


class ReplacedHistoryRow(Base):
    """A history that was replaced while answers referred to it: its entries, one a line."""

    __tablename__ = "replaced_histories"

    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversations.id"), primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True)
    #: The position of the first entry.
    first: Mapped[int]
    entries: Mapped[str] = mapped_column(Text)
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)


class AnswerRow(Base):
    """A write with an ``Idempotency-Key``, for good, and for a while the answer that it got."""

    __tablename__ = "keyed_answers"

    scope: Mapped[str] = mapped_column(String(512), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    answer: Mapped[dict[str, Any]]
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)


class ForwardRow(Base):
    """An event for the agent's webhook."""

    __tablename__ = "forwards"

    id: Mapped[int] = mapped_column(primary_key=True)
    #: Names the event, so that its copies are not forwarded too.
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    #: Whose events go one after the other.
    customer: Mapped[str] = mapped_column(String(512), index=True)
    body: Mapped[str] = mapped_column(Text)
    tries: Mapped[int]
    #: When it is sent, again; None once it was accepted.
    due_at: Mapped[datetime | None] = mapped_column(Instant, index=True)
    created_at: Mapped[datetime] = mapped_column(Instant, index=True)


def open_database(database_url: str) -> Engine:
    """An engine whose database has the tables.

    Args:
        database_url: An SQLAlchemy URL: ``sqlite://`` (in memory), ``sqlite:///file.db``, or that
            of another database.

    Raises:
        ConfigurationError: The URL is malformed, its driver is missing, or nothing answers there.
    """
    try:
        database_url = database_url.strip()
        url = make_url(database_url)
        if url.get_backend_name() == "sqlite":
            _keep_private(url)
            engine = _sqlite(database_url)
        else:
            engine = create_engine(
                url, hide_parameters=True, pool_pre_ping=True, json_serializer=_compact
            )
        Base.metadata.create_all(engine)
        return engine
    except (ArgumentError, ValueError):
        flaw = "is no SQLAlchemy URL: pass one such as sqlite:///conversations.db"
    except ModuleNotFoundError as error:
        flaw = f"needs a driver that is not installed: pip install {error.name}"
    except DBAPIError as error:
        flaw = f"cannot be opened: {error.orig}"
    # Without its cause: one repeats the URL, another holds the connection, password included.
    raise ConfigurationError(f"database_url {flaw}")


def _keep_private(url: URL) -> None:
    """Customers' words are their owner's to read: SQLite gives its other files the file's mode."""
    path = _file_of(url)
    if path is None:
        return
    with suppress(OSError):  # SQLite tells what is wrong with it
        if not path.exists() and "mode" not in url.query:
            path.touch(mode=0o600)
        beside = (path, *(Path(f"{path}{ending}") for ending in ("-wal", "-shm", "-journal")))
        wide = [str(file) for file in beside if file.exists() and file.stat().st_mode & 0o077]
        if wide and os.name == "posix":
            command = f"chmod 600 {shlex.join(wide)}"
            logger.warning("Others on this machine can read the conversations: %s", command)


def _file_of(url: URL) -> Path | None:
    name = url.database or ""
    if name.startswith("file:"):  # a URI of SQLite's
        name = unquote(urlsplit(name).path)
    memory = name in {"", ":memory:"} or url.query.get("mode") == "memory"
    return None if memory else Path(name)


def _compact(value: Any) -> str:
    """JSON as it goes over the wire: a history is told as it is stored."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _sqlite(database_url: str) -> Engine:
    # One connection for all threads: `:memory:` lives in its connection, and a file has one writer
    # anyway. `ConversationStore` lets one transaction at a time through.
    engine = create_engine(
        database_url,
        hide_parameters=True,
        json_serializer=_compact,
        poolclass=StaticPool,
        connect_args={"check_same_thread": False, "timeout": 10.0},
    )

    @event.listens_for(engine, "connect")
    def _(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")

    @event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        # By itself the driver begins at the first write: too late for what was read before.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
