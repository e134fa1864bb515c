"""The reference server's database: how it is opened, and what it means when it does not answer."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, Engine, StaticPool, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.server.tables import Base

#: Seconds that a request waits for a connection, or for another program that locks SQLite's file.
PATIENCE = 3

#: These are about the statement; any other error of a driver is about the database.
_OUR_OWN = (DataError, IntegrityError, NotSupportedError, ProgrammingError)

logger = logging.getLogger(__name__)


class DatabaseAwayError(RuntimeError):
    """The database does not answer, or does not do what it is asked to; it may again soon."""


class Database:
    """Transactions on one database.

    Args:
        database_url: An SQLAlchemy URL; see :func:`open_database`.

    Raises:
        ConfigurationError: The database cannot be opened.
    """

    def __init__(self, database_url: str) -> None:
        self.engine = open_database(database_url)
        # SQLite has one connection here; other databases lock rows (`FOR UPDATE`).
        self._gate: AbstractContextManager[Any] = (
            threading.Lock() if self.engine.dialect.name == "sqlite" else nullcontext()
        )
        #: What the last failure was; it is another one for each.
        self._failed: DatabaseAwayError | None = None

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction, committed at the end.

        Raises:
            DatabaseAwayError: The database is away, locked, full or damaged. Where that shows at
                the commit, nobody knows whether it was applied.
        """
        known = self._failed
        try:
            with self._gate:
                if self._failed is not known:  # else all who wait here would wait one by one
                    raise DatabaseAwayError(str(self._failed))
                with Session(self.engine, expire_on_commit=False) as session, session.begin():
                    yield session
        except PoolTimeoutError:
            raise self._away("all of its connections are in use") from None
        except DBAPIError as error:
            if _is_ours(error):
                raise
            raise self._away(_first_line(error.orig)) from None

    def _away(self, reason: str) -> DatabaseAwayError:
        self._failed = DatabaseAwayError(reason)
        return self._failed


def _is_ours(error: DBAPIError) -> bool:
    """Whether it is about the statement, whatever the state of the database."""
    unknown = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR  # no such table
    return (unknown or isinstance(error, _OUR_OWN)) and not error.connection_invalidated


def _first_line(error: BaseException | None) -> str:
    """What a driver says; further lines may hold what was written."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


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
                url,
                hide_parameters=True,
                pool_pre_ping=True,
                pool_timeout=PATIENCE,
                json_serializer=_compact,
                connect_args=_bounded(url),
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


def _bounded(url: URL) -> dict[str, Any]:
    """For how long a server that does not even refuse is waited for: libpq waits for ever."""
    libpq = url.get_backend_name() == "postgresql" and url.get_driver_name().startswith("psycopg")
    return {"connect_timeout": PATIENCE} if libpq and "connect_timeout" not in url.query else {}


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
    # anyway. `Database` lets one transaction at a time through.
    engine = create_engine(
        database_url,
        hide_parameters=True,
        json_serializer=_compact,
        poolclass=StaticPool,
        connect_args={"check_same_thread": False, "timeout": float(PATIENCE)},
    )

    @event.listens_for(engine, "connect")
    def _(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")

    @event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        # By itself the driver begins at the first write: too late for what was read before.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
