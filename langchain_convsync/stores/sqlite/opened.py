"""A store's file while it is open: whether it is what lies at its path still, and letting go of it.

What was opened may be deleted, replaced, truncated or overwritten by other programs. SQLite notices
none of it: it goes on in a file that has no name any more, or mixes what it remembers with what it
finds.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from langchain_convsync._flow import monotonic
from langchain_convsync.stores.checks import SECRET_SIZE
from langchain_convsync.stores.sqlite.damage import (
    READ_ERRORS,
    FlawError,
    checked_at,
    is_cut_log,
    is_damage,
    reading,
)
from langchain_convsync.stores.sqlite.file import (
    APPLICATION_ID,
    MEMORY,
    StoreClock,
    begin,
    connect,
    drop_log,
    empty_log,
    identity_of,
    prepare,
    without_waiting,
)

#: What became of an open file. Its log are the files ``-wal`` and ``-shm`` beside it.
State: TypeAlias = Literal["same", "moved", "overwritten", "another store", "log gone", "damaged"]

#: Seconds that a file which is being written from outside must rest before it is opened, and
#: seconds after which it is opened all the same.
QUIET, LONGEST_WRITE = 0.2, 10.0
#: Nanoseconds that file systems may take for one moment.
TICK = 20_000_000
#: Times that the file itself is looked at, and seconds between: a checkpoint may be under way.
_LOOKS, _PAUSE = 5, 0.02
#: Seconds that a file is looked over.
_LOOK_OVER = 0.5
#: Bytes of the largest that is, unless it fails: SQLite before 3.41 keeps to no time.
LARGEST = 100 * 1024 * 1024
_MISPAIRED = (
    "its log {0}-wal is that of another file: where {0} was replaced or restored, move {0}-wal and "
    "{0}-shm away once no process runs"
)


class NotTheSameError(Exception):
    """What was opened is not what lies at its path."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.state = state


class _Content(NamedTuple):
    """What names the state that a store is in; nothing of it where its tables are gone.

    Attributes:
        key: The store's secret.
        writes: How many transactions have written.
        filed: How many of them had reached the file itself when the last one wrote. It holds these
            at least: only another file, put in its place, holds fewer.
    """

    key: bytes = b""
    writes: int = 0
    filed: int = 0


_NOTHING = _Content()
_READ = (
    "SELECT (SELECT value FROM meta WHERE name = 'key'),"
    " (SELECT value FROM meta WHERE name = 'writes'), (SELECT value FROM meta WHERE name = 'filed')"
)


@dataclass(slots=True)
class OpenFile:
    """An open store.

    Attributes:
        path: Where it was opened.
        sql: The connection.
        key: The store's secret.
        base: See :class:`StoreClock`.
        is_new: Whether it was begun by opening it, in a file that was there and empty.
    """

    path: str
    sql: sqlite3.Connection
    key: bytes
    base: int
    is_new: bool
    _real: str = ""
    _file: tuple[int, int] | None = None
    _written: tuple[int, int] = (0, 0)
    _log: tuple[tuple[int, int] | None, ...] = ()
    _view: _Content = _NOTHING
    _content: _Content = _NOTHING

    @classmethod
    def at(cls, path: str, clock: StoreClock, known_key: bytes) -> OpenFile:
        """Open the store at a path; one that is not there is begun.

        Raises:
            FlawError: It is damaged, or its log belongs to another file.
            sqlite3.Error, OSError: It cannot be opened.
            ConfigurationError, StoreFormatError: See :func:`prepare`.
        """
        was_empty = False
        if path != MEMORY:
            was_empty = begin(path)
            _check_pair(path)
            if not known_key:
                look_over(path)
        sql = connect(path)
        try:
            made = prepare(sql, clock, known_key)
            opened = cls(path, sql, made.key, made.base, made.is_new and was_empty)
            if path != MEMORY:
                opened._remember(is_new=made.is_new)
        except BaseException:  # whatever it is, the file must not stay open
            sql.close()
            raise
        return opened

    def check(self) -> None:
        """Raise NotTheSameError unless all is as it was; called within a transaction."""
        if self.path == MEMORY:
            return
        if (state := self._state(_content_in(self.sql), looks=True)) != "same":
            raise NotTheSameError(state)

    def state(self) -> State:
        """What became of it, as far as that can be told now."""
        if self.path == MEMORY:
            return "same"
        view, looks = None, True
        try:
            with without_waiting(self.sql):
                self.sql.execute("BEGIN IMMEDIATE")
            view = _content_in(self.sql)
        except READ_ERRORS as error:
            looks = is_damage(error) or is_cut_log(error)
        try:
            return self._state(view, looks=looks)
        except OSError:  # its folder cannot be read now, say
            return "same"
        finally:
            with suppress(sqlite3.Error):
                self.sql.rollback()

    def note(self, now: int) -> None:
        """Note in the transaction under way that it writes, and when."""
        change = "INSERT OR REPLACE INTO meta VALUES ('seen', ?), ('writes', ?)"
        self.sql.execute(change, (now, self._view.writes + 1))
        if (filed := self._content.writes) != self._view.filed:
            self.sql.execute("INSERT OR REPLACE INTO meta VALUES ('filed', ?)", (filed,))

    def changes(self) -> int:
        """A number that is another one whenever another connection has written."""
        found: int = self.sql.execute("PRAGMA data_version").fetchone()[0]
        return found

    def tell(self) -> None:
        """Let whoever watches the log know that something was left to do."""
        if self.path != MEMORY:
            with suppress(OSError):
                os.utime(f"{self._real}-wal")

    def let_go(self, state: State) -> bool:
        """Close it, whatever became of it; whether nothing is lost by that.

        What SQLite would do by itself may harm what lies at the path now: write the log into it.
        """
        kept = False
        if state == "moved":
            self._take_log_along()
        elif state == "overwritten":
            drop_log(self._real, self._log[0])
        elif state == "another store":  # it came through SQLite, so the log is its own
            self._log_saved()
        elif state == "log gone":
            kept = self._leave_log()
        self.sql.close()
        return kept

    def _remember(self, *, is_new: bool) -> None:
        self._view = _content_in(self.sql)  # makes the log, where there is none
        self._real = os.path.realpath(self.path)
        found = Path(self.path).stat()
        # One that was written just now may be written again at what the system calls the same time.
        is_fresh = not is_new and abs(time.time_ns() - found.st_mtime_ns) < TICK
        written = 0 if is_fresh else found.st_mtime_ns
        self._file, self._written = identity_of(found), (found.st_size, written)
        self._log = self._log_found()
        self._content = _content_of(self.path) or _Content(self.key)

    def _state(self, view: _Content | None, *, looks: bool) -> State:
        """What became of it.

        Args:
            view: What it holds by its log, too; None where that cannot be read.
            looks: Whether to look at what is in the file itself.
        """
        try:
            found = os.stat(self.path)  # noqa: PTH116 - every transaction pays for it
        except (FileNotFoundError, NotADirectoryError):
            return "moved"
        if identity_of(found) != self._file:
            return "moved"
        if view is not None:
            if view.key != self.key or view.writes < self._view.writes:
                return "another store"
            self._view = view
        if looks and (found.st_size, found.st_mtime_ns) != self._written:
            state = self._rewritten(found)
            if state != "same":
                return state
        return "same" if self._log_found() == self._log else "log gone"

    def _log_found(self) -> tuple[tuple[int, int] | None, ...]:
        return identity_of(f"{self._real}-wal"), identity_of(f"{self._real}-shm")

    def _rewritten(self, found: os.stat_result) -> State:
        """What a file is that was written to: by checkpoints of ours, or from outside."""
        if not found.st_size:
            return "overwritten"
        content = None
        for _ in range(_LOOKS):
            content = _content_of(self.path)
            if content is not None and self._goes_on_in(content):
                # A checkpoint brings writes along, and seldom shortens the file.
                is_ours = (
                    content.writes > self._content.writes and found.st_size >= self._written[0]
                )
                if not (is_ours or _is_sound(self.path)):
                    return "damaged"
                self._written, self._content = (found.st_size, found.st_mtime_ns), content
                return "same"
            time.sleep(_PAUSE)
        if content is not None or _is_foreign(self.path):
            return "overwritten"
        if not _is_sound(self.path):
            return "damaged"
        self._written = (found.st_size, found.st_mtime_ns)
        return "same"

    def _goes_on_in(self, content: _Content) -> bool:
        """Whether a file's content is that of the last look, or a later one."""
        least = max(self._view.filed, self._content.writes)
        return content.key == self.key and content.writes >= least

    def _take_log_along(self) -> None:
        """Write the log into the file, wherever it is now, and leave none at its old place."""
        with suppress(sqlite3.Error):
            empty_log(self.sql)
        if identity_of(self._real) == self._file:
            return  # a symbolic link leads elsewhere now
        for suffix, was in zip(("-wal", "-shm"), self._log, strict=True):
            if was is not None and identity_of(f"{self._real}{suffix}") == was:
                with suppress(OSError):
                    Path(f"{self._real}{suffix}").unlink()

    def _leave_log(self) -> bool:
        """Save what only a log without a name holds; whether all of it is at the path now."""
        at_path = identity_of(f"{self._real}-wal")
        kept = at_path is not None and at_path == self._log[0]
        if at_path is None:
            self._log_saved()
        with suppress(*READ_ERRORS):
            if not kept:
                content = _content_of(self.path)
                kept = content is not None and content.writes >= _content_in(self.sql).writes
            # The last one to close removes the log: that must be one who knows all of it.
            with closing(connect(self.path)) as other:
                _content_in(other)
                self.sql.close()
        return kept

    def _log_saved(self) -> None:
        """Write the log into the file, as far as nobody reads it."""
        with suppress(sqlite3.Error):
            for _ in range(_LOOKS):
                if empty_log(self.sql):
                    return
                time.sleep(_PAUSE)


def wait_until_written(path: str) -> None:
    """Wait until nothing writes to a file from outside any more: a copy takes its time."""
    until, last, since = monotonic() + LONGEST_WRITE, None, monotonic()
    while monotonic() < min(until, since + QUIET):
        try:
            found = Path(path).stat()
        except OSError:
            return
        if (now := (found.st_size, found.st_mtime_ns)) != last:
            last, since = now, monotonic()
        time.sleep(_PAUSE)


def _check_pair(path: str) -> None:
    """Raise FlawError where the log beside a file is that of another store."""
    with suppress(OSError):
        if not Path(f"{os.path.realpath(path)}-wal").stat().st_size:
            return
        # The log first: what it tells of the file holds of all that the file comes to be.
        together, own = _content_of(path, "mode=ro"), _content_of(path)
        if own is None or together is None:
            return
        if own.key != together.key or own.writes < together.filed:
            raise FlawError(_MISPAIRED.format(path))


def _content_of(path: str, option: str = "immutable=1") -> _Content | None:
    """What a file holds itself, or with ``mode=ro`` by its log too; None where it is no store."""
    try:
        with closing(reading(path, option)) as sql:
            content = _content_in(sql)
    except READ_ERRORS:
        return None
    return content if content.key else None


def _content_in(sql: sqlite3.Connection) -> _Content:
    try:
        key, writes, filed = sql.execute(_READ).fetchone()
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR:
            raise
        return _NOTHING  # its tables were dropped
    if not isinstance(key, bytes) or len(key) != SECRET_SIZE:
        return _NOTHING
    return _Content(key, _count(writes), _count(filed))


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def look_over(path: str) -> None:
    """Raise FlawError where a file is damaged; a large one is believed while it can be read."""
    with suppress(OSError, sqlite3.Error):  # it cannot be looked at now
        if Path(path).stat().st_size <= LARGEST and (flaws := flaws_of(path)):
            raise FlawError("; ".join(flaws))


def flaws_of(path: str) -> tuple[str, ...]:
    """What is damaged in a file, as far as can be seen in a moment.

    Raises:
        sqlite3.Error, UnicodeDecodeError: It cannot be looked at now.
    """
    return checked_at(path, seconds=_LOOK_OVER).flaws


def _is_foreign(path: str) -> bool:
    with suppress(*READ_ERRORS), closing(reading(path, "immutable=1")) as sql:
        return bool(sql.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID)
    return False


def _is_sound(path: str) -> bool:
    try:
        look_over(path)
    except FlawError:
        return False
    return True
