"""A SQLite file that is deleted, replaced or emptied under processes that go on."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync import telemetry
from langchain_convsync._flow import Io, run
from langchain_convsync.errors import StoreChangedError, StoreDamagedError, StoreUnavailableError
from langchain_convsync.stores import NewEvent, SQLiteEventStore
from langchain_convsync.stores.sqlite import opened
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.forks import forked
from tests.promises import Answer, reply_to, said, served, sync_and_async
from tests.redis_topologies import until
from tests.store_cases import Do, event
from tests.store_process import StoreProcess, claimed

pytest_plugins = ("tests.store_fixtures",)

Change: TypeAlias = Callable[[Path], object]


def another(path: Path) -> Path:
    """Another store's file beside it, with one event."""
    other = path.with_name("other.db")
    store = SQLiteEventStore(other)
    run(store.accept(event("other")))
    store.close()
    return other


def backup(path: Path) -> Path:
    """What it was before the last events, as its operator kept it."""
    return path.with_name("backup.db")


def copied(source: Path, target: Path) -> None:
    """As SQLite's own tools copy: into a file that is open, too."""
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


def remove(path: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        path.with_name(f"{path.name}{suffix}").unlink()


def drop_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as sql:
        for (name,) in sql.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall():
            sql.execute(f"DROP TABLE {name}")


CHANGES: dict[str, Change] = {
    "deleted": lambda path: remove(path, ""),
    "deleted with its log": lambda path: remove(path, "", "-wal", "-shm"),
    "renamed": lambda path: path.rename(path.with_name("away.db")),
    "replaced by another store": lambda path: another(path).rename(path),
    "replaced by a backup": lambda path: backup(path).rename(path),
    "overwritten by another store": lambda path: shutil.copyfile(another(path), path),
    "overwritten by a backup": lambda path: shutil.copyfile(backup(path), path),
    "restored from another store": lambda path: copied(another(path), path),
    "restored from a backup": lambda path: copied(backup(path), path),
    "truncated": lambda path: os.truncate(path, 0),
    "its tables dropped": drop_tables,
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@pytest.fixture(scope="module")
def process() -> Iterator[StoreProcess]:
    """Another process, for one test after another."""
    with StoreProcess() as running:
        yield running


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with work, most of which is in the file itself, and a backup that lacks the end."""
    monkeypatch.setattr("langchain_convsync.stores.sqlite.file.BUSY", 0.05)
    made = tmp_path / "events.db"
    store = SQLiteEventStore(made)
    run(store.accept(event("1")))
    copied(made, backup(made))
    run(store.accept(event("2")))
    store.close()
    return made


@pytest.fixture
def store(path: Path, do: Do) -> Iterator[SQLiteEventStore]:
    """The file, open, with more in its log."""
    made = SQLiteEventStore(path)
    do(made.accept(event("3")))
    yield made
    do(Io(made.close, made.aclose))


def noticed(store: SQLiteEventStore, do: Do) -> bool:
    """What a worker's poll does."""
    with suppress(StoreUnavailableError):
        do(store.acquire("outbox", "poll"))
        return True
    return False


@every_change
def test_processes_old_and_new_go_by_one_set_of_names(
    store: SQLiteEventStore, path: Path, process: StoreProcess, do: Do, change: Change
) -> None:
    """Whoever is first: what one of them did is done for the others, within two polls of each."""
    assert process.open(path) == "3"
    change(path)
    for _ in range(2):
        noticed(store, do)
        process.queued()

    for n in range(3):
        new = SQLiteEventStore(path)
        order: list[Callable[[str], str]] = [
            process.claim,
            lambda name: claimed(store, name),
            lambda name, new=new: claimed(new, name),  # type: ignore[misc]
        ]
        assert [claim(f"evt_{n}") for claim in order[n:] + order[:n]] == [
            "acquired",
            "done",
            "done",
        ]
        new.close()
    assert do(store.accept(event("after"))).status == "new"
    assert process.queued() == str(do(store.backlog()).queued)
    with closing(sqlite3.connect(path)) as sql:
        assert sql.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@every_change
def test_no_step_that_was_under_way_is_acknowledged(
    store: SQLiteEventStore, path: Path, do: Do, change: Change
) -> None:
    """It raises, and the same call again works in what is there now."""
    change(path)

    with pytest.raises(StoreChangedError, match="the same call again"):
        do(store.accept(event("late")))
    accepted = do(store.accept(event("late")))

    assert accepted.status == "new"
    again = SQLiteEventStore(path)
    assert do(again.accept(event("late"))).status == "duplicate"
    again.close()


def test_it_is_told_as_an_error_and_counted(
    store: SQLiteEventStore, path: Path, do: Do, caplog: pytest.LogCaptureFixture
) -> None:
    """Once per process that notices, with what to do about it."""
    before = telemetry.counted("stores_changed")
    remove(path, "")
    with caplog.at_level(logging.WARNING):
        polls = [noticed(store, do) for _ in range(3)]

    (told,) = caplog.records
    assert "Stop every process before a file is replaced" in told.getMessage()
    assert told.levelno == logging.ERROR
    assert telemetry.counted("stores_changed") == before + 1
    assert polls == [False, True, True]


def test_a_renamed_file_has_all_that_was_acknowledged(
    store: SQLiteEventStore, path: Path, do: Do
) -> None:
    """What was in the log goes along, as who makes a backup by moving it away expects."""
    away = path.rename(path.with_name("away.db"))
    noticed(store, do)

    moved = SQLiteEventStore(away)
    assert do(moved.backlog()).queued == 3
    moved.close()


@pytest.mark.parametrize("suffixes", [("-wal",), ("-shm",), ("-wal", "-shm")])
def test_a_log_that_is_removed_takes_nothing_along(
    store: SQLiteEventStore,
    path: Path,
    do: Do,
    suffixes: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A clean-up of odd files beside a database; what they held is written in time."""
    remove(path, *suffixes)

    with caplog.at_level(logging.WARNING):
        accepted = do(store.accept(event("4")))

    other = SQLiteEventStore(path)
    assert accepted.status == "new"
    assert do(store.backlog()).queued == do(other.backlog()).queued == 4
    assert "log of" in caplog.text
    other.close()


def test_a_log_without_its_file_is_written_into_no_other(
    store: SQLiteEventStore, path: Path, do: Do
) -> None:
    """A backup that is put in place after a crash, beside the log that was left there."""
    with StoreProcess() as process:
        process.open(path)
        do(Io(store.close, store.aclose))
        with closing(sqlite3.connect(path)) as sql:
            sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert process.claim("evt_1") == "acquired"
        process.kill()
    shutil.copyfile(backup(path), path)

    crashed = SQLiteEventStore(path)
    with pytest.raises(StoreDamagedError, match=r"events\.db-wal is that of another file"):
        do(crashed.backlog())
    crashed.close()
    remove(path, "-wal", "-shm")
    restored = SQLiteEventStore(path)
    assert do(restored.backlog()).queued == 1
    restored.close()


def test_a_log_that_another_process_writes_out_meanwhile_is_its_files_own(
    path: Path, process: StoreProcess, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that starts beside a busy one reads the log and the file, one by one."""
    process.open(path)
    process.claim("evt")
    content_of, claims = opened._content_of, iter(range(4))

    def read(path: str, *options: str) -> object:
        content = content_of(path, *options)
        for number in islice(claims, 2):
            with closing(sqlite3.connect(path)) as sql:
                sql.execute("PRAGMA wal_checkpoint")
            process.claim(f"evt_{number}")
        return content

    monkeypatch.setattr(opened, "_content_of", read)
    starting = SQLiteEventStore(path)

    assert do(starting.backlog()).queued > 0
    starting.close()


def test_names_made_for_another_store_are_refused(
    store: SQLiteEventStore, path: Path, do: Do
) -> None:
    """A task that made them, and waited while another one opened the store anew."""
    names = do(store.keys())
    another(path).rename(path)
    with pytest.raises(StoreChangedError):
        do(store.backlog())
    key = names.claim("test", "1")

    with pytest.raises(StoreChangedError, match="call again"):
        do(store.accept(NewEvent(event_key=key, conversation_key=key, names=names)))


def test_a_forked_child_works_in_what_is_there(path: Path) -> None:
    """Parent and child open the file anew, and agree."""
    store = SQLiteEventStore(path)
    claimed(store, "before")
    remove(path, "")

    (in_child,) = forked(lambda: claimed(store, "evt_1"))
    in_parent = claimed(store, "evt_1")
    store.close()

    assert [in_child, in_parent] == ["acquired", "done"]


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with served() as running:
        yield running


@sync_and_async
@pytest.mark.parametrize("change", [CHANGES["deleted"], CHANGES["replaced by another store"]])
def test_work_in_hand_is_given_up_and_begun_again(
    answer: Answer, server: ReferenceServer, path: Path, change: Change, no_pause: None
) -> None:
    """The lease went with the file, so the run that held it must not end the turn."""
    ran: list[str] = []

    def answered(messages: list[BaseMessage]) -> AIMessage:
        if not ran:
            change(path)
        ran.append(str(messages[-1].content))
        return reply_to(messages)

    store = SQLiteEventStore(path)
    runner = TurnRunner(RunnableLambda(answered), client=server.client(), store=store)
    turn = answer(runner, said("Hola"))

    assert (turn.status, turn.reply) == ("answered", "re: Hola")
    assert answer(runner, said("Hola")).status == "duplicate"
    assert ran == ["Hola", "Hola"]
    store.close()


def test_an_idle_process_notices_by_itself(
    server: ReferenceServer, path: Path, no_pause: None
) -> None:
    """Its workers look for work every few seconds, and see it then."""
    before = telemetry.counted("stores_changed")
    store = SQLiteEventStore(path)
    runner = TurnRunner(
        RunnableLambda(reply_to), client=server.client(), store=store, on_reply=lambda _: None
    )
    with runner:
        runner.run(said("before"))
        remove(path, "")
        until(lambda: telemetry.counted("stores_changed") > before)
    store.close()
