"""A store's SQLite database: opening it, its format, and its clock."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from langchain_convsync._flow import monotonic
from langchain_convsync._platform import token_bytes
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.stores.base import FORMAT_VERSION
from langchain_convsync.stores.checks import SECRET_SIZE, check_meta

MEMORY = ":memory:"
#: Marks the file as ours: "csyn".
APPLICATION_ID = 0x6373796E
#: What a path on Windows begins with.
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
#: What URLs and connection strings have, and names of files hardly: options, credentials.
_NO_FILE = re.compile(r"://|\?|password=|pwd=|:.*@|[\x00-\x1f]", re.IGNORECASE)
#: What stands for a variable, in shells, compose files, Kubernetes, on Windows and in templates.
_VARIABLE = re.compile(r"\$[{(A-Za-z_]|%[A-Za-z_]\w*%|\{\{")
_UNREPLACED = (
    "store (or CONVSYNC_STORE_URL) holds a variable that nothing has replaced, such as $REDIS_URL: "
    "files of variables are read as they are, so write its value"
)
#: Names of servers, where each process would get a file of that name.
_SERVERS = frozenset({"redis", "rediss", "valkey", "valkeys", "localhost"})
_NOT_A_PATH = (
    "store is neither the path of a file nor a URL that names an event store: for SQLite pass a "
    "path such as convsync.db, or sqlite:///convsync.db without options; for Redis "
    "redis://host:6379/0, or rediss://:PASSWORD@host:6380/0 with TLS, where user and password are "
    "percent-encoded (urllib.parse.quote(password, safe=''))"
)
#: Columns that format 1 did not have from its beginning.
_ADDED = {
    "queues": (("since", "INTEGER"), ("why", "BLOB"), ("why_since", "INTEGER"), ("slot", "TEXT")),
    "events": (("apart", "TEXT"),),
    "conversations": (
        ("noted", "BLOB"),
        ("acks", "BLOB"),
    ),
    "operations": (("queued_at", "INTEGER"),),
}
#: Seconds to wait for another process's transaction.
BUSY = 5.0
#: Kilobytes of a file that are kept: the inner pages of a large one's indexes, which steps share.
CACHE = 16_000
#: Bytes of a SQLite file's header: https://www.sqlite.org/fileformat.html.
SHORTEST = 100
#: The least of them that are left to a caller who has waited for others of this process.
LEAST_BUSY = 0.05


@dataclass(frozen=True, slots=True)
class StoreClock:
    """Store time: milliseconds that never go backwards, shared by the processes of one machine.

    It counts with the system's monotonic clock, which all processes share and no user sets, so a
    step of the wall clock expires no lease. That clock begins anew when the machine starts; the
    file keeps the latest store time it has seen, and goes on from there. The wall clock only
    chooses where to begin, so that times in the file can be read.
    """

    monotonic: Callable[[], float]
    wall: Callable[[], float]

    def base(self, stored: int | None, seen: int) -> int:
        """What to add to the monotonic clock, from what the file holds."""
        ticks = round(self.monotonic() * 1000)
        if stored is not None and stored + ticks >= seen:
            return stored
        return max(seen, round(self.wall() * 1000)) - ticks


def path_of(given: str | os.PathLike[str]) -> str:
    """The path of a file that a user names, or ``:memory:``.

    Raises:
        ConfigurationError: It is a URL, or names a server: a file of that name would hold nothing
            that anyone looks for, and its name perhaps a password. The error repeats none of it.
    """
    path = os.fspath(given).strip()
    if path[:1] in {"'", '"'} and path[-1:] == path[:1]:
        message = "store is a path in quotes: pass it (or set CONVSYNC_STORE_URL) without quotes"
        raise ConfigurationError(message)
    if not path:
        message = "store names no file: pass a path such as convsync.db, or :memory:"
        raise ConfigurationError(message)
    if _VARIABLE.search(path):
        raise ConfigurationError(_UNREPLACED)
    if path == MEMORY or (_DRIVE.match(path) and not _NO_FILE.search(path[2:])):
        return path
    local = path.startswith((".", "/", "~")) and not path.startswith("//")
    if _NO_FILE.search(path) or (":" in path and not local) or path.lower() in _SERVERS:
        raise ConfigurationError(_NOT_A_PATH)
    return path


class Prepared(NamedTuple):
    """A database that is ready for use.

    Attributes:
        key: The store's secret.
        base: See :class:`StoreClock`.
        is_new: Whether the store was begun just now.
    """

    key: bytes
    base: int
    is_new: bool


def begin(path: str) -> bool:
    """Make the file, for its user only, where there is none; whether there was an empty one.

    Raises:
        OSError: It cannot be made.
    """
    real = os.path.realpath(path)
    logs = [f"{real}{suffix}" for suffix in ("-wal", "-shm")]
    left = [log for log in logs if identity_of(log) is not None]
    if left and identity_of(real) is None:  # of a file that is gone
        for log in left:
            with suppress(OSError):
                Path(log).unlink()
    with suppress(FileExistsError):  # customers' words; SQLite's own files get the same mode
        os.close(os.open(real, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        return False
    was = identity_of(logs[0])
    if not is_empty(real):
        return False
    drop_log(real, was)
    return True


def is_empty(path: str) -> bool:
    """Whether a file is too short for the header that each SQLite file begins with."""
    return Path(path).stat().st_size < SHORTEST


def identity_of(found: str | os.stat_result) -> tuple[int, int] | None:
    """What tells a file, or the one at a path, from all others; None where there is none."""
    if isinstance(found, str):
        try:
            found = os.stat(found)  # noqa: PTH116 - every transaction pays for it
        except (FileNotFoundError, NotADirectoryError):
            return None
    # Some of Windows' file systems number nothing: then every file is the same one.
    return (found.st_dev, found.st_ino) if found.st_ino else (0, 0)


def drop_log(path: str, log: tuple[int, int] | None) -> None:
    """Empty the log beside a file that it does not belong to, unless it is another one by now.

    SQLite would write it into that file when it closes it.
    """
    with suppress(OSError):
        held = os.open(f"{path}-wal", os.O_RDWR)
        try:
            if identity_of(os.fstat(held)) == log:
                os.ftruncate(held, 0)
        finally:
            os.close(held)


def connect(path: str) -> sqlite3.Connection:
    """Open the database; the caller serialises its use.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    connection = sqlite3.connect(
        path, timeout=BUSY, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    connection.row_factory = sqlite3.Row
    return connection


def prepare(sql: sqlite3.Connection, clock: StoreClock, known_key: bytes = b"") -> Prepared:
    """Create what is missing; the store's secret and the base of its clock.

    Args:
        sql: The database.
        clock: Tells the time.
        known_key: The secret of a new store whose process knows one already.

    Raises:
        ConfigurationError: The file is another application's database.
        StoreFormatError: It was written by a newer version.
    """
    sql.execute("PRAGMA foreign_keys = ON")
    sql.execute("PRAGMA secure_delete = ON")  # what is erased is overwritten, not only let go
    sql.execute("PRAGMA synchronous = FULL")  # an acknowledged event survives a power cut
    sql.execute(f"PRAGMA cache_size = -{CACHE}")
    sql.execute("BEGIN IMMEDIATE")
    with sql:
        version, is_new = _check_format(sql)
        meta = _meta(sql)
        key = meta.get("key") if meta else known_key or token_bytes(SECRET_SIZE)
        times = {name: meta[name] for name in ("base", "seen") if name in meta}
        if not all(isinstance(each, int) for each in times.values()):
            key = None
        key = check_meta(key, version, place="the store's table meta")
        base = clock.base(times.get("base"), times.get("seen", 0))
        if (meta.get("key"), meta.get("base")) != (key, base):
            given = [("key", key), ("base", base)]
            sql.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", given)
    _use_wal(sql)  # last: nothing of another application's database is touched
    return Prepared(key, base, is_new)


def begin_writing(sql: sqlite3.Connection, waited: float) -> None:
    """Begin a transaction that writes; ``waited`` seconds were spent on this process's others.

    Else, where another process stands still in the middle of one, each thread would wait for all
    those before it, too: a block of workers could not be left for minutes.
    """
    if waited < LEAST_BUSY:
        sql.execute("BEGIN IMMEDIATE")
        return
    _wait_for_others(sql, max(LEAST_BUSY, BUSY - waited))
    try:
        sql.execute("BEGIN IMMEDIATE")
    finally:
        _wait_for_others(sql, BUSY)


def _wait_for_others(sql: sqlite3.Connection, seconds: float) -> None:
    sql.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")


def empty_log(sql: sqlite3.Connection) -> bool:
    """Write the log into the file and cut it off, for what it holds of what was erased since.

    Whether that could be done: not while another process reads or writes, and it waits for none,
    since other writers would wait meanwhile.
    """
    try:
        with without_waiting(sql):
            busy: int = sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise
        return False
    return not busy


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process or connection stands in the way for now."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # whatever the way is in which it is busy
    return code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


@contextmanager
def unless_busy() -> Iterator[None]:
    """What finds another process in its way is given up."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if not is_busy(error):
            raise


@contextmanager
def without_waiting(sql: sqlite3.Connection) -> Iterator[None]:
    """What finds another process in its way fails at once."""
    _wait_for_others(sql, 0.0)
    try:
        yield
    finally:
        _wait_for_others(sql, BUSY)


def _meta(sql: sqlite3.Connection) -> dict[str, Any]:
    try:
        return dict(sql.execute("SELECT name, value FROM meta").fetchall())
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise  # it is locked, say
        return {"key": None}  # there is no such table, or another one


def _use_wal(sql: sqlite3.Connection) -> None:
    deadline = monotonic() + BUSY
    while True:
        try:
            sql.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:  # this statement does not wait by itself
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                raise
            time.sleep(0.01)


def _check_format(sql: sqlite3.Connection) -> tuple[int, bool]:
    """The format that the file is written in, and whether that was done just now."""
    version = sql.execute("PRAGMA user_version").fetchone()[0]
    application = sql.execute("PRAGMA application_id").fetchone()[0]
    is_empty = sql.execute("SELECT 1 FROM sqlite_master").fetchone() is None
    if application != APPLICATION_ID and not is_empty:
        message = "the file is another application's database: give the store a file of its own"
        raise ConfigurationError(message)
    if is_empty and version <= FORMAT_VERSION:
        for statement in _schema():
            sql.execute(statement)
        sql.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        sql.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        return FORMAT_VERSION, True
    if version == FORMAT_VERSION:
        _add_columns(sql)
    return int(version), False


def _schema() -> list[str]:
    return (resources.files(__package__) / "schema.sql").read_text().split(";\n")


def _add_columns(sql: sqlite3.Connection) -> None:
    """Add what a file of an older version lacks; a process of that version works on."""
    for statement in _schema():
        if " IF NOT EXISTS " in statement:
            sql.execute(statement)
    for table, columns in _ADDED.items():
        known = {row["name"] for row in sql.execute(f"PRAGMA table_info({table})")}
        for name, kind in columns if known else ():
            if name not in known:
                sql.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
