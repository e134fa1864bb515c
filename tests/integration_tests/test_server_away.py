"""The reference server while its database is away: 503, soon, and served again afterwards."""

from __future__ import annotations

import logging
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from langchain_convsync.server import Forwarding
from langchain_convsync.server.database import Database, DatabaseAwayError
from langchain_convsync.server.forwarder import Forwarder
from tests.asked_server import PHONE, require_away, served, statuses

if TYPE_CHECKING:
    from langchain_convsync.server.forwards import ForwardQueue


def test_sqlite_is_locked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another program, as backups and editors do."""
    monkeypatch.setattr("langchain_convsync.server.database.PATIENCE", 0)
    with served(f"sqlite:///{tmp_path / 'api.db'}") as (_, ask):
        with closing(sqlite3.connect(tmp_path / "api.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            caplog.clear()
            require_away(ask(), caplog)

        assert statuses(ask()) == {200}


def test_sqlite_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file holds something else now; what is in memory of it is not enough."""
    with served(f"sqlite:///{tmp_path / 'api.db'}") as (server, ask):
        with server._store._database.engine.connect() as connection:
            connection.rollback()
            raw: Any = connection.connection.dbapi_connection
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            (tmp_path / "api.db").write_bytes(b"no database at all" * 5000)
            raw.execute("PRAGMA shrink_memory")
        caplog.clear()
        require_away(ask(), caplog)


def test_the_disk_is_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is there is read on; what does not fit is refused, and may come again."""
    with served(f"sqlite:///{tmp_path / 'api.db'}") as (server, ask):
        database = server._store._database
        with database.transaction() as db:
            db.execute(text("PRAGMA max_page_count = 1"))
        caplog.clear()
        answers = [ask(slice(4, 5))[0] for _ in range(60)]
        full = [answer for answer in answers if answer.status_code != 200]
        require_away(full, caplog)
        assert full
        assert statuses(ask(slice(0, 3))) == {200}
        with database.transaction() as db:
            db.execute(text("PRAGMA max_page_count = 1000000"))

        assert statuses(ask()) == {200}


class ReleasedByTheLog(logging.Handler):
    """Releases a lock as soon as a request is said to have failed."""

    def __init__(self, other: sqlite3.Connection) -> None:
        super().__init__()
        self._other = other

    def emit(self, record: logging.LogRecord) -> None:
        if "the database is away" in record.getMessage():
            self._other.rollback()


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_our_client_tries_again(
    colour: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After as many seconds as it was told; a message is there once."""
    monkeypatch.setattr("langchain_convsync.server.database.PATIENCE", 0)
    file, logger = tmp_path / "api.db", logging.getLogger("langchain_convsync.server.transport")
    with (
        served(f"sqlite:///{file}") as (server, _),
        closing(sqlite3.connect(file, check_same_thread=False)) as other,
        server.client() as blocking,
    ):
        before = server.conversation(PHONE)
        handler = ReleasedByTheLog(other)
        logger.addHandler(handler)
        try:
            other.execute("BEGIN IMMEDIATE")
            if colour == "sync":
                blocking.add_message(before.session_id, "bot", "Adiós")
            else:
                async with server.async_client() as client:
                    await client.add_message(before.session_id, "bot", "Adiós")
        finally:
            logger.removeHandler(handler)

        said = [message.content for message in server.conversation(PHONE).messages]
        assert said.count("Adiós") == 1
        assert [asked.status_code for asked in server.requests[-2:]] == [503, 200]


def test_who_waits_behind_a_failure_fails_with_it() -> None:
    """Else each of many requests would wait for a locked file for as long as the first one."""
    database, waiting = Database("sqlite://"), threading.Semaphore(0)
    tries: list[int] = []

    class Gate:
        lock = threading.Lock()

        def __enter__(self) -> None:
            waiting.release()
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    def fail(*_event: object) -> None:
        tries.append(1)
        for _ in range(8):
            assert waiting.acquire(timeout=30)
        raise OperationalError("BEGIN", None, sqlite3.OperationalError("database is locked"))

    def use() -> None:
        with pytest.raises(DatabaseAwayError, match="locked"), database.transaction() as db:
            db.connection()

    database._gate = Gate()
    event.listen(database.engine, "begin", fail)
    with closing(database), ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: use(), range(8)))

    assert len(tries) == 1


def test_the_forwarder_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """However often it looks."""
    looked: list[int] = []
    enough = threading.Event()

    class Away:
        def again(self) -> int:
            return 0

        def acquire(self) -> None:
            looked.append(1)
            forwarder.wake()
            if len(looked) == 5:
                enough.set()
            raise DatabaseAwayError("no route")

        pause = acquire

    to = Forwarding(url="http://127.0.0.1:9/webhook", secret="s" * 16)
    forwarder = Forwarder(cast("ForwardQueue", Away()), to)
    forwarder.start()
    assert enough.wait(30)
    forwarder.stop()

    lines = [each for each in caplog.records if each.name.endswith("forwarder")]
    assert [each.getMessage() for each in lines] == [
        "The events that wait cannot be read: no route"
    ]
