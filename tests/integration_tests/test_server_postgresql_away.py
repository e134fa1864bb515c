"""The reference server while PostgreSQL is away, and when it comes back, without a restart."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import psycopg
import pytest

from tests.asked_server import require_away, served, statuses
from tests.postgres_server import Postgres, binaries, postgres

pytestmark = pytest.mark.skipif(binaries() is None, reason="no PostgreSQL in a wheel here")


@pytest.fixture(scope="module")
def running() -> Iterator[Postgres]:
    with postgres() as started:
        yield started


def test_postgresql_is_stopped_and_comes_back(
    running: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused connections and broken ones; the server itself is not started again."""
    with served(running.url) as (_, ask):
        running.stop()
        caplog.clear()
        require_away(ask(), caplog)
        running.start()

        assert statuses(ask()) == {200}


@pytest.mark.parametrize("writable", [False, True])
def test_postgresql_is_in_recovery(
    running: Postgres, caplog: pytest.LogCaptureFixture, writable: bool
) -> None:
    """It refuses every connection, or every write."""
    with served(running.url) as (_, ask):
        running.stop()
        (running.data / "standby.signal").touch()
        if writable:
            running.start(until="ready to accept read-only")
        else:
            running.start("hot_standby=off", until="consistent recovery state reached")
        caplog.clear()
        answers = ask()
        running.stop()
        (running.data / "standby.signal").unlink()
        running.start()

        refused = answers[3:] if writable else answers
        assert statuses(answers[: len(answers) - len(refused)]) <= {200}
        require_away(refused, caplog)
        assert statuses(ask()) == {200}


def test_a_connection_that_is_cut_in_the_middle_of_a_request(
    running: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """The request waits for a locked row when its connection ends."""
    with (
        served(running.url) as (_, ask),
        closing(psycopg.connect(running.dsn)) as locking,
        closing(psycopg.connect(running.dsn, autocommit=True)) as admin,
        ThreadPoolExecutor(1) as threads,
    ):
        locking.execute("SELECT * FROM conversations FOR UPDATE")
        caplog.clear()
        asked = threads.submit(ask, slice(4, 5))
        waits = "FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while not admin.execute(f"SELECT pg_terminate_backend(pid) {waits}").fetchall():
            pass
        require_away(asked.result(), caplog)
        locking.rollback()

        assert statuses(ask()) == {200}


def test_postgresql_has_too_many_connections(
    running: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that there were have ended, and there is no room for new ones."""
    with closing(psycopg.connect(running.dsn, autocommit=True)) as admin:
        admin.execute("CREATE ROLE clerk LOGIN")
        admin.execute("CREATE DATABASE office OWNER clerk")
        url = running.url.replace("convsync@", "clerk@").replace("/postgres", "/office")
        with served(url) as (_, ask):
            admin.execute("ALTER ROLE clerk CONNECTION LIMIT 0")
            ended = "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity"
            admin.execute(f"{ended} WHERE usename = 'clerk'")
            caplog.clear()
            require_away(ask(), caplog)
            admin.execute("ALTER ROLE clerk CONNECTION LIMIT -1")

            assert statuses(ask()) == {200}


def test_every_connection_of_the_server_is_in_use(
    running: Postgres, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request waits for seconds only, not for the half minute that SQLAlchemy would."""
    monkeypatch.setattr("langchain_convsync.server.database.PATIENCE", 1)
    with served(running.url) as (server, ask):
        with ExitStack() as borrowed:
            for _ in range(15):
                borrowed.enter_context(server._store._database.engine.connect())
            caplog.clear()
            require_away(ask(slice(0, 1)), caplog)

        assert statuses(ask()) == {200}
