"""A SQLite file that cannot be read: told as damage, and nothing is acknowledged on it."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from langchain_convsync import create_app, telemetry
from langchain_convsync._flow import Io, run
from langchain_convsync.cli import command_line
from langchain_convsync.errors import ConfigurationError, StoreDamagedError, StoreError
from langchain_convsync.stores import EventStore, SQLiteEventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.doctor_runs import doctor
from tests.promises import CUSTOMER, echo, said, served
from tests.redis_topologies import until
from tests.store_cases import Do, commit_of, committed, event

pytest_plugins = ("tests.store_fixtures",)

CUSTOMERS, TURNS, PAGE = 12, 6, 4096


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with work of every kind."""
    path = tmp_path_factory.mktemp("sound") / "events.db"
    store = SQLiteEventStore(path)
    for n in range(CUSTOMERS):
        run(store.accept(event(f"waits {n}", customer=f"customer {n}")))
    for n in range(TURNS):
        committed(store, run, f"done {n}", writes=1, replies=1)
    store.close()
    return path


@pytest.fixture
def path(sound: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(sound, tmp_path / "events.db"))


@pytest.fixture
def store(path: Path, do: Do) -> Iterator[SQLiteEventStore]:
    """The copy, open."""
    opened = SQLiteEventStore(path)
    do(opened.keys())
    yield opened
    do(Io(opened.close, opened.aclose))


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def page_of(path: Path, name: str) -> int:
    """Where a table or an index begins; what the log holds is written there."""
    with closing(sqlite3.connect(path)) as sql:
        sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        (page,) = sql.execute(query, (name,)).fetchone()
    return int(page - 1) * PAGE


def spoil(path: Path, name: str) -> None:
    """Overwrite the first page of a table, which only some operations look at."""
    overwrite(path, page_of(path, name), b"\xff" * PAGE)


def misspell(path: Path) -> None:
    overwrite(path, path.read_bytes().index(b"CREATE TABLE events"), b"CREATE TABEL")


def worked_off(store: EventStore) -> tuple[int, int]:
    """How many events and writes are found; what cannot be done is told as the store's error."""
    events = writes = 0
    run(store.accept(event("new", customer="new")))
    for n in range(CUSTOMERS):
        again = run(store.accept(event(f"waits {n}", customer=f"customer {n}")))
        assert again.status == "duplicate"
    for n in range(2 * CUSTOMERS):
        if (found := run(store.acquire("inbox", f"worker {n}"))) is None:
            break
        assert run(store.commit_turn(found.lease, commit_of(found))) == "done"
        events += len(found.events)
    for n in range(2 * TURNS):
        if (found := run(store.acquire("outbox", f"worker {n}"))) is None:
            break
        for operation in found.operations:
            run(store.begin(found.lease, operation.id, 0, attempt=1, need=1.0))
            run(store.confirm(found.lease, operation.id, 0, last=True))
            writes += 1
    run(store.dead_letters())
    run(store.loads())
    return events, writes


@pytest.mark.parametrize("is_open", [False, True], ids=["before it is opened", "while it is open"])
@pytest.mark.parametrize("seed", range(40))
def test_bytes_that_flip_are_told_or_cost_nothing(path: Path, seed: int, is_open: bool) -> None:
    """Wherever they are: all work is found, or an error says that it is not; never another one."""
    dice = random.Random(seed)
    store = SQLiteEventStore(path)
    if is_open:
        run(store.keys())
    for _ in range(dice.choice([1, 1, 4, 64])):
        overwrite(path, dice.randrange(path.stat().st_size), dice.randbytes(1))

    told = ""
    try:
        found = worked_off(store)
    except StoreError as error:
        told, found = str(error), (CUSTOMERS + 1, TURNS)
    store.close()

    assert found == (CUSTOMERS + 1, TURNS)
    assert not told or "sqlite3" in told or "restore it from a backup" in told


DAMAGES: dict[str, Callable[[Path], object]] = {
    "garbage for its header": lambda path: overwrite(path, 0, b"\xee" * 100),
    "another file's content": lambda path: path.write_bytes(b"no database at all " * 10_000),
    "cut in its middle": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a page of zeros": lambda path: overwrite(path, 2 * PAGE, bytes(PAGE)),
    "a schema that is none": misspell,
    "a page of noise": lambda path: spoil(path, "inbox"),
    "an index that disagrees": lambda path: overwrite(path, page_of(path, "twins") + 3, bytes(2)),
}
every_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


@every_damage
@pytest.mark.parametrize("is_open", [False, True], ids=["before it is opened", "while it is open"])
def test_damage_is_told_with_what_to_do(
    path: Path, do: Do, damage: Callable[[Path], object], is_open: bool
) -> None:
    """Stop, copy, restore or recover; from the first step on, and every step."""
    store = SQLiteEventStore(path)
    if is_open:
        do(store.keys())
    damage(path)

    for step in (store.accept(event("new")), store.acquire("inbox", "worker"), store.backlog()):
        with pytest.raises(StoreDamagedError) as error:
            do(step)
        assert f"copy {path}, {path}-wal and {path}-shm elsewhere" in str(error.value)
        assert f"sqlite3 {path} .recover | sqlite3 recovered.db" in str(error.value)
    do(Io(store.close, store.aclose))


def test_damage_that_one_step_met_stops_all(
    store: SQLiteEventStore, path: Path, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that is accepted on a sound page would wait behind the damaged one for ever."""
    monkeypatch.setattr("langchain_convsync.stores.sqlite.opened._is_sound", lambda _: True)
    spoil(path, "dead_operations")

    assert do(store.accept(event("early"))).status == "new"
    with pytest.raises(StoreDamagedError):
        do(store.dead_letters())
    with pytest.raises(StoreDamagedError):
        do(store.accept(event("late")))


def test_a_file_that_was_restored_is_worked_on_at_once(
    store: SQLiteEventStore, path: Path, sound: Path, do: Do
) -> None:
    """The process need not be started anew, though the operator may."""
    spoil(path, "inbox")
    with pytest.raises(StoreDamagedError):
        do(store.backlog())

    restored = shutil.copy(sound, path.with_name("restored.db"))
    Path(restored).rename(path)

    assert do(store.backlog()).queued == CUSTOMERS


def test_a_file_that_turns_out_sound_is_worked_on(
    store: SQLiteEventStore, do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that could not be read for a while; it is looked over now and then."""
    monkeypatch.setattr("langchain_convsync.stores.sqlite.damage.LOOK_PERIOD", 0.0)
    with store._lock:
        assert isinstance(store._damaged("disk I/O error"), StoreDamagedError)

    assert do(store.backlog()).queued == CUSTOMERS


def test_damage_is_logged_once_in_a_while(
    store: SQLiteEventStore, path: Path, do: Do, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers meet it every second."""
    spoil(path, "inbox")
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            with pytest.raises(StoreDamagedError):
                do(store.backlog())

    (told,) = caplog.records
    assert told.levelno == logging.ERROR
    assert "nothing is acknowledged" in told.getMessage()


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with served() as running:
        yield running


def test_an_app_acknowledges_nothing_on_a_damaged_store(
    server: ReferenceServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Senders repeat what they deliver, probes and metrics tell it, until a backup is restored."""
    path, backup = tmp_path / "events.db", tmp_path / "backup.db"  # no worker has work to write of
    store = SQLiteEventStore(path)
    run(store.keys())
    store.close()
    store.reopen()
    shutil.copy(path, backup)
    runner = TurnRunner(echo(), client=server.client(), store=store, on_reply=lambda _: None)
    body = {"event_id": "evt_1", "phone_number": CUSTOMER, "message": "Hola"}
    failed = ("worker_failures", "StoreDamagedError")
    with TestClient(create_app(runner, waha_secrets=[])) as web:
        assert web.get("/ready").status_code == 200
        before = telemetry.counted(failed[0], queue="inbox", error=failed[1])
        spoil(path, "inbox")
        ready = web.get("/ready")
        answers = [web.post("/webhook", json=body) for _ in range(3)]
        until(lambda: telemetry.counted(failed[0], queue="inbox", error=failed[1]) > before + 1)
        metrics = web.get("/metrics").text
        backup.rename(path)
        until(lambda: web.get("/ready").status_code == 200)
    store.close()

    assert (ready.status_code, {each.status_code for each in answers}) == (503, {503})
    assert ready.json() == {"detail": "the event store is damaged; see the log"}
    assert "\nconvsync_store_up 0\n" in metrics
    told = [each for each in caplog.records if each.levelno >= logging.WARNING and each.args]
    assert len([each for each in told if "damaged" in each.getMessage()]) == 1


def test_a_turn_that_meets_damage_raises_it(server: ReferenceServer, path: Path) -> None:
    """Where a caller waits, it is told; nothing was answered."""
    store = SQLiteEventStore(path)
    runner = TurnRunner(echo(), client=server.client(), store=store)
    runner.run(said("before"))
    spoil(path, "events")

    with pytest.raises(StoreDamagedError):
        runner.run(said("Hola"))
    store.close()


# An empty file


def test_an_empty_file_is_begun_with_a_warning(
    tmp_path: Path, do: Do, caplog: pytest.LogCaptureFixture
) -> None:
    """Made by hand, it is as good as none; but a file with work may have been truncated."""
    path = tmp_path / "events.db"
    path.touch()
    store = SQLiteEventStore(path)
    with caplog.at_level(logging.WARNING):
        accepted = do(store.accept(event()))
    do(Io(store.close, store.aclose))

    (told,) = caplog.records
    assert "If it held work, it was truncated" in told.getMessage()
    assert accepted.status == "new"


def test_a_file_that_is_new_is_no_reason_to_warn(
    tmp_path: Path, do: Do, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is one that was there."""
    for _ in range(2):
        store = SQLiteEventStore(tmp_path / "events.db")
        with caplog.at_level(logging.WARNING):
            do(store.accept(event()))
        do(Io(store.close, store.aclose))

    assert not caplog.records


@pytest.mark.parametrize(
    "command", [["status"], ["show", CUSTOMER], ["pause", CUSTOMER, "--for", "9"]]
)
def test_a_command_begins_no_store_in_an_empty_file(tmp_path: Path, command: list[str]) -> None:
    """It says what the file may have been."""
    path = tmp_path / "events.db"
    path.touch()

    done = CliRunner().invoke(command_line(), [*command, "--store", str(path)])

    assert isinstance(done.exception, ConfigurationError)
    assert "is empty, so it holds no event store" in str(done.exception)
    assert path.stat().st_size == 0


# The doctor, and recovering


def test_doctor_looks_at_all_of_a_file(path: Path) -> None:
    """And tells the commands where a part of it is damaged."""
    before = doctor("--store", str(path))
    spoil(path, "inbox")
    after = doctor("--store", str(path))

    assert before.status("store", "damage") == "ok"
    assert ("store", "damage") in after.failed
    assert ".recover" in after.of("store", "damage")["advice"]


def test_doctor_tells_of_a_file_that_is_too_large_to_look_at_it_all(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not hold up who waits for the rest."""
    monkeypatch.setattr("langchain_convsync.cli._doctor.store.LONGEST_CHECK", -1.0)
    monkeypatch.setattr("langchain_convsync.stores.sqlite.damage._STEP", 1)

    assert doctor("--store", str(path)).status("store", "damage") == "skipped"


def test_doctor_tells_of_an_empty_file(tmp_path: Path) -> None:
    """Instead of finding a store in order that has nothing to do."""
    path = tmp_path / "events.db"
    path.touch()

    assert "is empty" in doctor("--store", str(path)).of("store", "reachable")["message"]


def _sqlite3(path: Path, command: str) -> str | None:
    """What SQLite's own command says; None where there is none, or one without that ability."""
    if shutil.which("sqlite3") is None:
        return None
    done = subprocess.run(["sqlite3", path, command], capture_output=True, text=True, check=False)
    return None if "SQL logic error" in done.stderr else done.stdout


@pytest.mark.parametrize("command", [".recover", ".dump"])
def test_what_is_recovered_is_a_store_again(path: Path, command: str, do: Do) -> None:
    """By the steps of the documentation; an index is made anew from its table."""
    spoil(path, "dead_letters")
    script = _sqlite3(path, command)
    if script is None:
        pytest.skip(f"no sqlite3 here that knows {command}")
    script = script.replace("ROLLBACK; -- due to errors", "COMMIT;")
    recovered = path.with_name("recovered.db")
    subprocess.run(["sqlite3", recovered], input=script, text=True, check=False)
    if command == ".dump":
        _sqlite3(recovered, "PRAGMA application_id = 1668512110; PRAGMA user_version = 1")

    store: Any = SQLiteEventStore(recovered)
    assert do(store.backlog()).queued == CUSTOMERS
    do(Io(store.close, store.aclose))
    assert doctor("--store", str(recovered)).status("store", "damage") == "ok"
