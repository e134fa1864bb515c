"""Damage of a store's file: what tells of it, how it is looked for, and what is done about it."""

from __future__ import annotations

import logging
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from langchain_convsync._flow import monotonic
from langchain_convsync.errors import StoreDamagedError
from langchain_convsync.stores.checks import decoded

logger = logging.getLogger(__name__)

#: How each file of SQLite's begins: https://www.sqlite.org/fileformat.html.
_MAGIC = b"SQLite format 3\0"
_NO_DATABASE = (
    "it is no SQLite file: if you meant another, correct store=… or CONVSYNC_STORE_URL; if it was "
    "the store, "
)
#: Seconds between two words in the log about one damage.
WORD_PERIOD = 60.0
#: Seconds between two looks whether a file is sound by now, and seconds that one takes at most: a
#: larger file is believed damaged until it is replaced.
LOOK_PERIOD, LOOK = 10.0, 2.0
#: As much is told of what SQLite's check finds.
_MOST = 3
#: Instructions of SQLite between two looks at the clock.
_STEP = 10_000
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
_UNREADABLE = frozenset(
    {
        sqlite3.SQLITE_IOERR_READ,
        sqlite3.SQLITE_IOERR_CORRUPTFS,
        sqlite3.SQLITE_IOERR_DATA,
        10 | 32 << 8,  # SQLITE_IOERR_DATA: a page whose checksum is wrong
    }
)


#: What reading a damaged file raises: Python cannot decode all of SQLite's words about it.
READ_ERRORS = (sqlite3.Error, UnicodeDecodeError)


class Checked(NamedTuple):
    """What a look at a whole file found.

    Attributes:
        flaws: What is damaged, in SQLite's words; empty where nothing is.
        complete: Whether the time sufficed for all of it.
    """

    flaws: tuple[str, ...]
    complete: bool = True


class FlawError(Exception):
    """A file that is damaged by all that is known of it."""


def is_damage(error: BaseException) -> bool:
    """Whether SQLite says that it cannot read what it has written, or misses a table of ours."""
    if isinstance(error, FlawError | UnicodeDecodeError):  # in SQLite's words of what it read
        return True
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # Python's own: a text that is none
        return isinstance(error, sqlite3.OperationalError)
    return code & 0xFF in _DAMAGE or code in _UNREADABLE


def is_cut_log(error: BaseException) -> bool:
    """Whether the log ends before what its index tells of; so it does where others let go of it."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_SHORT_READ


def may_be_damage(error: BaseException) -> bool:
    """Whether damage may have led to it: rows that contradict each other, or what no row holds."""
    return isinstance(error, sqlite3.IntegrityError) or not isinstance(
        error, sqlite3.Error | OSError
    )


def checked(sql: sqlite3.Connection, *, seconds: float) -> Checked:
    """Look at every page, index and constraint, for so many seconds at most.

    Raises:
        sqlite3.Error: It could not be looked at: another process holds it, say.
    """
    until = monotonic() + seconds
    sql.set_progress_handler(lambda: monotonic() > until, _STEP)
    try:
        found = [str(row[0]) for row in sql.execute(f"PRAGMA integrity_check({_MOST})")]
    except READ_ERRORS as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            return Checked((), complete=False)
        if not (is_damage(error) or is_cut_log(error)):
            raise
        found = [str(error)]
    finally:
        sql.set_progress_handler(None, 0)
    lines = [" ".join(each.split()) for each in found]
    return Checked(() if lines == ["ok"] else tuple(lines))


def checked_at(path: str, *, seconds: float) -> Checked:
    """The same, reading what lies at a path; nothing is written there.

    Raises:
        sqlite3.Error: As :func:`checked`, or there is no such file.
    """
    with closing(reading(path, "mode=ro")) as sql:
        return checked(sql, seconds=seconds)


def reading(path: str, option: str) -> sqlite3.Connection:
    """A connection that writes nothing.

    Args:
        path: The database.
        option: ``mode=ro``, or ``immutable=1`` to see the file itself, without its log.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    uri = f"{Path(path).absolute().as_uri()}?{option}"
    sql = sqlite3.connect(uri, uri=True, timeout=1.0)
    sql.text_factory = decoded
    return sql


def _is_no_database(path: str) -> bool:
    """Whether it begins as no SQLite file does: then it may be something else altogether."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(_MAGIC)) != _MAGIC
    except OSError:
        return False


def recovery(path: str) -> str:
    """What to do about a damaged file."""
    mistaken = _NO_DATABASE if _is_no_database(path) else ""
    return (
        f"{mistaken}stop every process that uses it, copy {path}, {path}-wal and {path}-shm "
        "elsewhere, then restore a backup, or recover what can be read: "
        f"sqlite3 {shlex.quote(path)} .recover | sqlite3 recovered.db"
    )


class Latch:
    """Closed by damage that any step met; then none works until the file is another, or sound.

    Else events would be accepted and acknowledged on sound pages, that no worker ever gets at.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._found = ""
        self._mark: tuple[int, ...] | None = None
        self._look_at = self._tell_at = 0.0

    def close(self, found: str) -> StoreDamagedError:
        """The error to raise; the file is closed by now."""
        self._found, self._mark = found, _mark(self._path)
        self._look_at = monotonic() + LOOK_PERIOD
        return self._error()

    def check(self) -> None:
        """Raise StoreDamagedError while the latch is closed."""
        if self._found and not self._opens():
            raise self._error()

    def _opens(self) -> bool:
        if _mark(self._path) == self._mark:
            if monotonic() < self._look_at:
                return False
            self._look_at = monotonic() + LOOK_PERIOD
            try:
                if checked_at(self._path, seconds=LOOK) != Checked(()):
                    return False
            except sqlite3.Error:
                return False
        self._found = ""
        return True

    def _error(self) -> StoreDamagedError:
        message = f"the event store {self._path} is damaged ({self._found}): {recovery(self._path)}"
        if monotonic() >= self._tell_at:
            self._tell_at = monotonic() + WORD_PERIOD
            logger.error("%s. Until then nothing is acknowledged", message)
        return StoreDamagedError(message)


def _mark(path: str) -> tuple[int, ...] | None:
    """What tells a file from what it was before."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
