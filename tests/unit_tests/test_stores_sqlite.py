"""What is particular to SQLite: the file, its clock, its thread."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from langchain_convsync import stores, telemetry
from langchain_convsync._flow import Io, arun, run
from langchain_convsync.errors import (
    ClosedError,
    ConfigurationError,
    StoreDamagedError,
    StoreFormatError,
    StoreUnavailableError,
)
from langchain_convsync.stores import AcceptRules, Backlog, SQLiteEventStore, open_store
from langchain_convsync.stores.base import Acquired
from langchain_convsync.stores.sqlite.file import StoreClock, begin_writing
from tests.store_cases import Clock, Do, commit_of, event

pytest_plugins = ("tests.store_fixtures",)

OpenFile = Callable[..., SQLiteEventStore]


@pytest.fixture
def open_file(tmp_path: Path) -> Iterator[OpenFile]:
    """Opens one file as often as asked, and closes everything in the end."""
    opened: list[SQLiteEventStore] = []

    def open_once(clock: Callable[[], float] | None = None) -> SQLiteEventStore:
        opened.append(SQLiteEventStore(tmp_path / "store.db", clock=clock))
        return opened[-1]

    yield open_once
    for store in opened:
        store.close()


def test_a_file_keeps_what_was_accepted(open_file: OpenFile) -> None:
    """And its secret, so that the keys stay the same."""
    first = open_file()
    first.accept(event()).block()
    keys = first.keys().block()
    first.close()
    second = open_file()

    assert second.keys().block() == keys
    assert second.backlog().block() == Backlog(queued=1)


def test_two_stores_share_a_file(open_file: OpenFile) -> None:
    """Processes of one machine work on one queue."""
    one, other = open_file(), open_file()
    acquired = one.accept(event(), token="one").block().acquired

    assert acquired is not None
    assert other.keys().block() == one.keys().block()
    assert other.accept(event(), token="other").block().acquired is None
    assert other.commit_turn(acquired.lease, commit_of(acquired)).block() == "done"


def test_a_file_is_for_its_user_only(open_file: OpenFile, tmp_path: Path) -> None:
    """It holds what customers wrote."""
    open_file().accept(event()).block()

    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_a_newer_format_is_refused(open_file: OpenFile, tmp_path: Path) -> None:
    """The error says what to do."""
    open_file().keys().block()
    with sqlite3.connect(tmp_path / "store.db") as sql:
        sql.execute("PRAGMA user_version = 99")
    sql.close()

    with pytest.raises(StoreFormatError, match=r"format 99.*upgrade langchain-convsync"):
        open_file().keys().block()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = 'text' WHERE name = 'key'",
        "UPDATE meta SET value = x'00' WHERE name = 'key'",
        "UPDATE meta SET value = 'soon' WHERE name = 'base'",
        "UPDATE meta SET value = NULL WHERE name = 'seen'",
        "DELETE FROM meta WHERE name = 'key'",
        "DROP TABLE meta",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = -7",
    ],
)
def test_what_names_the_store_has_to_be_readable(
    open_file: OpenFile, tmp_path: Path, statement: str
) -> None:
    """A new secret would give everything in the file new names: it is told what to do."""
    open_file().accept(event()).block()
    with sqlite3.connect(tmp_path / "store.db") as sql:
        sql.execute(statement)
    sql.close()

    with pytest.raises(StoreFormatError, match=r"meta cannot be read.*backup"):
        open_file().keys().block()


def test_another_applications_database_is_left_alone(open_file: OpenFile, tmp_path: Path) -> None:
    """A wrong path in the configuration mixes nothing up."""
    with sqlite3.connect(tmp_path / "store.db") as sql:
        sql.execute("CREATE TABLE events (theirs)")
    sql.close()

    with pytest.raises(ConfigurationError, match="another application's"):
        open_file().accept(event()).block()
    with sqlite3.connect(tmp_path / "store.db") as sql:
        tables = sql.execute("SELECT name FROM sqlite_master").fetchall()
        mode = sql.execute("PRAGMA journal_mode").fetchone()
    sql.close()
    assert (tables, mode) == ([("events",)], ("delete",))


def test_a_file_that_cannot_be_opened_is_named() -> None:
    """The error names the path and what to check."""
    store = SQLiteEventStore("/nonexistent/store.db")

    with pytest.raises(StoreUnavailableError, match=r"/nonexistent/store\.db.*check"):
        store.accept(event()).block()


def test_a_directory_is_no_store(tmp_path: Path) -> None:
    """Its parent is there and writable, so that advice would lead nowhere."""
    store = SQLiteEventStore(tmp_path)

    with pytest.raises(StoreUnavailableError, match=r"is a directory: name a file in it$"):
        store.accept(event()).block()


def test_a_file_of_another_kind_may_have_been_named_by_mistake(tmp_path: Path) -> None:
    """A backup of it would help nobody."""
    path = tmp_path / "notes.txt"
    path.write_text("Not a database, but long enough to be one." * 10)
    store = SQLiteEventStore(path)

    with pytest.raises(StoreDamagedError, match=r"no SQLite file: .*CONVSYNC_STORE_URL; .*stop"):
        store.accept(event()).block()
    assert path.read_text().startswith("Not a database")


@pytest.mark.parametrize(
    "path", ["'convsync.db'", '"convsync.db"', "'sqlite:///a.db'", "'redis://a/0'"]
)
def test_quotes_of_a_shell_are_no_part_of_a_path(path: str) -> None:
    """They come from files of variables; a store of such a name would be found by no one else."""
    with pytest.raises(ConfigurationError, match="without quotes"):
        open_store(path)


def test_a_failed_operation_leaves_nothing_behind(open_file: OpenFile) -> None:
    """A token that cannot be stored fails the whole step, not a part of it."""
    store = open_file()

    with pytest.raises(ValueError, match="surrogates"):
        store.accept(event(), token="\ud800").block()
    assert store.backlog().block() == Backlog()


def test_finished_events_are_forgotten_after_the_retention(clock: Clock) -> None:
    """Then nobody repeats them any more; an idle conversation begins anew."""
    store = SQLiteEventStore(":memory:", clock=clock, retention=60.0)
    for customer in ("ana", "eva"):
        acquired = store.accept(event(customer, customer=customer), token=customer).block().acquired
        assert acquired is not None
        store.commit_turn(acquired.lease, commit_of(acquired)).block()
    clock.advance(60.0)
    again = store.accept(event("ana"), token="later").block()
    sql = store._sql
    assert sql is not None
    kept = [sql.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("events", "queues")]
    store.close()

    assert (again.status, again.acquired and again.acquired.turns) == ("new", 0)
    assert kept == [1, 3]


def test_accounts_without_work_leave_nothing_behind() -> None:
    """One per claimed event of `once` would add up."""
    store = SQLiteEventStore(":memory:")
    acquired = store.accept(event(), token="mine").block().acquired
    assert acquired is not None
    store.commit_turn(acquired.lease, commit_of(acquired)).block()
    assert store._sql is not None
    left = store._sql.execute("SELECT count(*) FROM accounts").fetchone()[0]
    store.close()

    assert left == 0


# The clock


def test_store_time_goes_on_where_the_file_left_off_after_a_reboot() -> None:
    """The monotonic clock begins anew; the wall clock may be wrong by then."""
    clock = StoreClock(monotonic=lambda: 5.0, wall=lambda: 0.0)

    assert clock.base(stored=1_000_000, seen=1_090_000) + 5_000 == 1_090_000


def test_store_time_follows_the_wall_clock_over_the_time_the_machine_was_off() -> None:
    """A lease of before the reboot is over, a retention has gone on."""
    clock = StoreClock(monotonic=lambda: 5.0, wall=lambda: 7_000.0)

    assert clock.base(stored=1_000_000, seen=1_090_000) + 5_000 == 7_000_000


def test_store_time_does_not_follow_a_step_of_the_wall_clock() -> None:
    """While the machine runs, every process counts alike."""
    clock = StoreClock(monotonic=lambda: 5.0, wall=lambda: 9e9)

    assert clock.base(stored=1_000_000, seen=1_004_000) == 1_000_000


def test_a_lease_outlives_a_reboot_by_no_more_than_its_length(open_file: OpenFile) -> None:
    """Through the file: store time never goes backwards."""
    before, after = Clock(now=1_000_000.0), Clock(now=3.0)
    store = open_file(before)
    acquired = store.accept(event(), token="before").block().acquired
    store.close()
    store = open_file(after)
    early = store.acquire("inbox", "early").block()
    after.advance(30.0)
    late = store.acquire("inbox", "late").block()

    assert acquired is not None
    assert early is None
    assert late is not None
    assert late.now == acquired.lease.until


def test_an_idle_poll_writes_nothing(open_file: OpenFile, tmp_path: Path, clock: Clock) -> None:
    """A waiting worker costs no disk."""
    store = open_file(clock)
    store.accept(event(), AcceptRules(debounce=60.0, max_debounce=60.0)).block()
    before = (tmp_path / "store.db-wal").read_bytes()
    clock.advance(1.0)
    store.acquire("inbox", "a").block()

    assert (tmp_path / "store.db-wal").read_bytes() == before


# Sync, async and closing


def test_sync_and_async_share_one_memory() -> None:
    """One connection, one lock: whatever interleaves, each step is whole."""
    store = SQLiteEventStore(":memory:")

    async def accept_many() -> None:
        steps = [store.accept(event(f"a{n}", customer=f"a{n}")).wait() for n in range(50)]
        await asyncio.gather(*steps)

    def one(n: int) -> None:
        if n % 10 == 0:
            asyncio.run(accept_many())
        store.accept(event(f"b{n}", customer=f"b{n}")).block()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(one, range(40)))
    left = store.backlog().block()
    store.close()

    assert left == Backlog(queued=90)


async def test_the_async_side_has_one_thread_which_ends(tmp_path: Path) -> None:
    """It starts at the first use and is gone after aclose."""

    def threads() -> list[str]:
        own = "convsync-store-threads.db"
        return [t.name for t in threading.enumerate() if t.name.startswith(own)]

    store = SQLiteEventStore(tmp_path / "threads.db")
    before = threads()
    await asyncio.gather(*(store.backlog().wait() for _ in range(5)))
    during = threads()
    await store.aclose()

    assert (before, len(during), threads()) == ([], 1, [])


async def test_a_closed_store_says_so() -> None:
    """In sync and async, and closing twice is harmless."""
    store = SQLiteEventStore(":memory:")
    await store.backlog().wait()
    await store.aclose()
    store.close()

    with pytest.raises(ClosedError):
        store.backlog().block()
    with pytest.raises(ClosedError):
        await store.backlog().wait()


def test_memory_closed_with_work_left_warns(caplog: pytest.LogCaptureFixture) -> None:
    """What is lost is told and counted."""
    before = telemetry.counted("lost_with_memory")
    store = SQLiteEventStore(":memory:")
    store.accept(event()).block()
    with caplog.at_level(logging.WARNING):
        store.close()

    assert "1 event and 0 operations still to do" in caplog.text
    assert telemetry.counted("lost_with_memory") == before + 1


def test_a_store_that_waits_too_long_for_another_process_says_so(
    open_file: OpenFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody holds a transaction open."""
    monkeypatch.setattr("langchain_convsync.stores.sqlite.file.BUSY", 0.01)
    store = open_file()
    store.backlog().block()
    sql = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    sql.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailableError, match="locked"):
        store.accept(event()).block()
    sql.execute("ROLLBACK")
    sql.close()

    assert store.accept(event()).block().status == "new"


#: What is asked again and again, of a store where one event is being answered.
LOOKS: dict[str, Callable[[SQLiteEventStore], Io[Any]]] = {
    "keys": lambda store: store.keys(),
    "any work": lambda store: store.acquire("inbox", "other"),
    "work of one": lambda store: store.acquire(
        "inbox", "other", conversation_key=event().conversation_key
    ),
    "what comes": lambda store: store.upcoming([event().conversation_key]),
    "when": lambda store: store.due("inbox", event().conversation_key),
    "the event again": lambda store: store.accept(event(), token="other"),
    "what is left": lambda store: store.backlog(),
    "by account": lambda store: store.loads(),
    "a conversation": lambda store: store.view(event().conversation_key),
    "dead letters": lambda store: store.dead_letters(),
    "a page of them": lambda store: store.dead_letter_page(),
    "restrictions": lambda store: store.restrictions(),
    "accounts": lambda store: store.accounts(),
    "servers": lambda store: store.serve(),
}


@pytest.mark.parametrize("what", LOOKS)
@pytest.mark.parametrize("do", [run, lambda step: asyncio.run(arun(step))], ids=["sync", "async"])
def test_a_look_waits_for_no_process_that_writes(
    what: str,
    do: Do,
    open_file: OpenFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What finds nothing to do takes no turn at the file, and keeps nobody from writing."""
    monkeypatch.setattr("langchain_convsync.stores.sqlite.file.BUSY", 0.01)
    store = open_file(Clock())
    assert store.accept(event(), token="one").block().acquired
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as sql:
        sql.execute("BEGIN IMMEDIATE")
        found = do(LOOKS[what](store))
        sql.execute("ROLLBACK")

    assert found == LOOKS[what](store).block()


def test_what_another_process_takes_while_one_looks_is_not_taken_twice(
    open_file: OpenFile,
) -> None:
    """The look is done anew: what it has read is not so any more."""
    one, other, taken = open_file(), open_file(), list[Acquired | None]()
    one.accept(event()).block()
    assert one._sql is not None
    is_first = "UPDATE events SET starts = starts + 1"

    def between(statement: str) -> None:
        if statement.startswith(is_first) and not taken:
            taken.append(other.acquire("inbox", "other").block())

    one._sql.set_trace_callback(between)
    found = one.acquire("inbox", "one").block()
    one._sql.set_trace_callback(None)

    assert taken[0] is not None
    assert found is None


def test_a_process_that_only_looks_erases_what_ran_out(open_file: OpenFile) -> None:
    """Customers' words are not kept because nobody writes."""
    clock = Clock()
    store = open_file(clock)
    acquired = store.accept(event(), token="one").block().acquired
    assert acquired is not None
    store.commit_turn(acquired.lease, commit_of(acquired)).block()
    clock.now += store.retention + 2

    assert store.acquire("inbox", "two").block() is None
    assert store._sql is not None
    assert store._sql.execute("SELECT count(*) FROM events").fetchone()[0] == 0


def test_a_store_that_is_never_closed_closes_its_file() -> None:
    """Python warns of a connection that is left open, and warnings are errors here."""
    store = SQLiteEventStore(":memory:")
    store.keys().block()
    assert store._sql is not None
    sql = store._sql

    del store
    gc.collect()

    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        sql.execute("SELECT 1")


def test_statements_bind_their_values_by_question_marks_alone() -> None:
    """Python 3.12 takes ``?1`` for a name, and warns each time."""
    folder = Path(stores.__file__).parent

    numbered = [p.name for p in folder.glob("_sqlite_*.py") if re.search(r"\?\d", p.read_text())]

    assert not numbered


@pytest.mark.parametrize(
    ("waited", "told"),
    [
        (0.0, ["BEGIN IMMEDIATE"]),
        (4.0, ["PRAGMA busy_timeout = 1000", "BEGIN IMMEDIATE", "PRAGMA busy_timeout = 5000"]),
        (60.0, ["PRAGMA busy_timeout = 50", "BEGIN IMMEDIATE", "PRAGMA busy_timeout = 5000"]),
    ],
)
def test_who_waited_for_others_of_the_process_waits_less_for_another_process(
    waited: float, told: list[str]
) -> None:
    """A worker that is frozen in a transaction costs five seconds, not that for each thread."""
    sql, statements = sqlite3.connect(":memory:", isolation_level=None), list[str]()
    sql.set_trace_callback(statements.append)

    begin_writing(sql, waited)

    assert statements == told
    sql.close()
