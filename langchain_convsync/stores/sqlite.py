"""The embedded event store: one SQLite file, or memory."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from langchain_convsync import telemetry
from langchain_convsync._flow import Io
from langchain_convsync.errors import ClosedError, StoreUnavailableError
from langchain_convsync.stores import _sqlite_events as events
from langchain_convsync.stores import _sqlite_lanes as lanes
from langchain_convsync.stores import _sqlite_names as names
from langchain_convsync.stores import _sqlite_operators as operators
from langchain_convsync.stores import _sqlite_work as work
from langchain_convsync.stores._batches import Batches
from langchain_convsync.stores._checks import (
    account_of,
    call_handle,
    check_commit,
    check_event,
    check_line,
    check_most,
    check_names,
    check_queue,
    milliseconds,
)
from langchain_convsync.stores._sqlite_file import (
    MEMORY,
    StoreClock,
    connect,
    prepare,
)
from langchain_convsync.stores._sqlite_transaction import Transaction
from langchain_convsync.stores.base import (
    RETENTION,
    Accepted,
    Backlog,
    Commit,
    Committed,
    Confirmed,
    ConversationView,
    Cursor,
    Done,
    Handles,
    Lane,
    Lease,
    Load,
    NewEvent,
    SetAside,
    Taken,
)

logger = logging.getLogger(__name__)
#: Seconds that a busy event loop collects operations for the next commit.
GROUP_PAUSE = 0.003

T = TypeVar("T")
Operation: TypeAlias = Callable[[Transaction], Any]


class SQLiteEventStore:
    """Events, operations and leases in one SQLite file, shared by the processes of one machine.

    Each operation is one transaction on the calling thread in the blocking colour; those that are
    awaited at the same time share one, on a thread of the store's own. What was acknowledged
    survives a killed process and a power cut. ``":memory:"`` keeps nothing beyond this object. A
    process that forks must not have used the store before, as with every SQLite database.

    Args:
        path: The file, on a local disk; its folder must exist.
        retention: Seconds that finished events and idle conversations are remembered.
        clock: Store time in seconds, for tests; None counts with the machine's own clock.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        retention: float = RETENTION,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._path = os.fspath(path)
        self._retention = milliseconds(retention)
        self._clock = StoreClock(clock or time.monotonic, clock or time.time)
        self._lock = threading.Lock()
        self._sql: sqlite3.Connection | None = None
        self._key, self._base = b"", 0
        self._thread: ThreadPoolExecutor | None = None
        self._batches: Batches[Operation] = Batches(most=1, pause=GROUP_PAUSE)
        self._closed = False

    @property
    def path(self) -> str:
        """The file, or ``":memory:"``."""
        return self._path

    def handles(self) -> Io[Handles]:
        """See :meth:`EventStore.handles`."""
        return self._step(lambda _tx: Handles(self._key))

    def accept(
        self,
        event: NewEvent,
        *,
        token: str | None = None,
        lease: float = 30.0,
        quiet: float = 0.0,
        max_quiet: float = 0.0,
        backlog: int = 1000,
        at_once: int = 0,
    ) -> Io[Accepted]:
        """See :meth:`EventStore.accept`."""
        check_event(event)
        by, length = token or secrets.token_hex(8), milliseconds(lease)
        windows = (milliseconds(quiet), milliseconds(max_quiet))
        return self._step(
            lambda tx: events.accept(
                tx,
                event,
                by=by,
                token=token or None,
                length=length,
                quiet=windows[0],
                max_quiet=windows[1],
                backlog=backlog,
                at_once=at_once,
            )
        )

    def amend(self, eid: str, before: str, after: str) -> Io[str | None]:
        """See :meth:`EventStore.amend`."""
        account_of(eid)  # refuses what is no handle
        return self._step(lambda tx: events.amend(tx, eid, before, after))

    def take(
        self,
        lane: Lane,
        token: str,
        *,
        cid: str | None = None,
        lease: float = 30.0,
        at_once: int = 0,
    ) -> Io[Taken | None]:
        """See :meth:`EventStore.take`."""
        length = milliseconds(lease)
        if cid is None:
            return self._step(lambda tx: work.take_any(tx, lane, token, length, at_once))
        account_of(cid)  # refuses what is no handle
        return self._step(lambda tx: lanes.take(tx, cid, lane, token, length, at_once=at_once))

    def beat(self, lease: Lease, *, seconds: float = 30.0) -> Io[Lease | None]:
        """See :meth:`EventStore.beat`."""
        length = milliseconds(seconds)
        return self._step(lambda tx: work.beat(tx, lease, length))

    def commit_turn(self, lease: Lease, commit: Commit) -> Io[Committed]:
        """See :meth:`EventStore.commit_turn`."""
        check_commit(lease, commit)
        return self._step(lambda tx: events.commit_turn(tx, lease, commit))

    def op_begin(
        self,
        lease: Lease,
        op_id: str,
        pos: int,
        *,
        attempt: int,
        need: float,
        note: str | None = None,
        done: Confirmed | None = None,
    ) -> Io[Cursor | None]:
        """See :meth:`EventStore.op_begin`."""
        check_queue(lease)
        length = milliseconds(need)
        return self._step(
            lambda tx: work.op_begin(
                tx, lease, op_id, pos, attempt=attempt, need=length, note=note, done=done
            )
        )

    def op_done(
        self, lease: Lease, op_id: str, pos: int, *, last: bool, anchor: str | None = None
    ) -> Io[Done]:
        """See :meth:`EventStore.op_done`."""
        check_queue(lease)
        done = Confirmed(op_id=op_id, pos=pos, last=last, anchor=anchor)
        return self._step(lambda tx: work.confirm(tx, lease, done))

    def op_retry(
        self,
        lease: Lease,
        op_id: str,
        pos: int,
        *,
        delay: float,
        sent: bool,
        note: str | None = None,
    ) -> Io[Done]:
        """See :meth:`EventStore.op_retry`."""
        check_queue(lease)
        wait = milliseconds(delay)
        return self._step(
            lambda tx: work.op_retry(tx, lease, op_id, pos, delay=wait, sent=sent, note=note)
        )

    def op_park(self, lease: Lease, op_id: str, *, reason: str) -> Io[Done]:
        """See :meth:`EventStore.op_park`."""
        check_queue(lease)
        return self._step(lambda tx: work.op_park(tx, lease, op_id, reason))

    def release(
        self,
        lease: Lease,
        *,
        delay: float = 0.0,
        failed: bool = False,
        done: Confirmed | None = None,
    ) -> Io[bool]:
        """See :meth:`EventStore.release`."""
        if done is not None:
            check_queue(lease)
        wait = milliseconds(delay)
        return self._step(lambda tx: work.release(tx, lease, delay=wait, failed=failed, done=done))

    def hear(self, cid: str, note: str) -> Io[bool]:
        """See :meth:`EventStore.hear`."""
        check_line(note)
        account_of(cid)  # refuses what is no handle
        return self._step(lambda tx: work.hear(tx, cid, note))

    def pause(self, cid: str, *, seconds: float) -> Io[None]:
        """See :meth:`EventStore.pause`."""
        account_of(cid)  # refuses what is no handle
        length = milliseconds(seconds)
        return self._step(lambda tx: names.pause(tx, cid, length))

    def link(self, alias: str, cid: str, *, lease: Lease | None = None) -> Io[bool]:
        """See :meth:`EventStore.link`."""
        check_names(alias, cid)
        return self._step(lambda tx: events.link(tx, alias, names.follow(tx, cid), lease))

    def due(self, lane: Lane, cid: str) -> Io[float | None]:
        """See :meth:`EventStore.due`."""
        account_of(cid)  # refuses what is no handle
        return self._step(lambda tx: lanes.due_in(tx, cid, lane))

    def backlog(self) -> Io[Backlog]:
        """See :meth:`EventStore.backlog`."""
        return self._step(work.backlog)

    def loads(self) -> Io[tuple[Load, ...]]:
        """See :meth:`EventStore.loads`."""
        return self._step(operators.loads)

    def view(self, cid: str, *, most: int = 100) -> Io[ConversationView]:
        """See :meth:`EventStore.view`."""
        account_of(cid)  # refuses what is no handle
        check_most(most)
        return self._step(lambda tx: operators.view(tx, cid, most))

    def set_aside(self, cid: str | None = None, *, most: int = 100) -> Io[tuple[SetAside, ...]]:
        """See :meth:`EventStore.set_aside`."""
        if cid is not None:
            account_of(cid)  # refuses what is no handle
        check_most(most)
        return self._step(lambda tx: operators.set_aside(tx, cid, most))

    def requeue(self, aside: SetAside, *, token: str, body: str | None = None) -> Io[str | None]:
        """See :meth:`EventStore.requeue`."""
        call_handle(aside, "requeue", token)  # refuses what is no handle, or no token
        return self._step(lambda tx: operators.requeue(tx, aside, token, body))

    def discard(self, aside: SetAside, *, token: str) -> Io[bool]:
        """See :meth:`EventStore.discard`."""
        call_handle(aside, "discard", token)  # refuses what is no handle, or no token
        return self._step(lambda tx: operators.discard(tx, aside, token))

    def forget(self, cid: str) -> Io[None]:
        """See :meth:`EventStore.forget`."""
        account_of(cid)  # refuses what is no handle
        return self._step(lambda tx: operators.forget(tx, cid))

    def close(self) -> None:
        """See :meth:`EventStore.close`. What memory still had to do is lost, with a warning."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            if self._sql is not None:
                self._warn_of_loss(self._sql)
                self._sql.close()
                self._sql = None
        if thread is not None:
            thread.shutdown()

    async def aclose(self) -> None:
        """See :meth:`EventStore.aclose`."""
        await asyncio.to_thread(self.close)

    def _step(self, operation: Callable[[Transaction], T]) -> Io[T]:
        return Io(self._perform, self._aperform, operation)

    def _perform(self, operation: Callable[[Transaction], T]) -> T:
        answers: list[T] = self._transact([operation])
        return answers[0]

    def _aperform(self, operation: Callable[[Transaction], T]) -> Awaitable[T]:
        return self._batches.ask(operation, self._on_own_thread)

    async def _on_own_thread(self, operations: Sequence[Operation]) -> list[Any]:
        loop, thread = asyncio.get_running_loop(), self._own_thread()
        return await loop.run_in_executor(thread, self._transact, operations)

    def _transact(self, operations: Sequence[Operation]) -> list[Any]:
        """The answers of operations, in one transaction: all are acknowledged by one commit."""
        with self._lock, self._failures_told():
            sql = self._opened()
            sql.execute("BEGIN IMMEDIATE")
            with sql:
                ticks = round(self._clock.monotonic() * 1000)
                now, before, answers = self._base + ticks, sql.total_changes, []
                for operation in operations:
                    tx = Transaction(sql, now, self._retention)
                    answers.append(operation(tx))
                    tx.flush()
                if sql.total_changes != before:  # an idle poll writes nothing
                    sql.execute("INSERT OR REPLACE INTO meta VALUES ('seen', ?)", (now,))
            return answers

    @contextmanager
    def _failures_told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            message = (
                f"the event store {self._path} did not do its work ({error}): check that its "
                "folder exists, is writable and has space, and that no other program locks the file"
            )
            raise StoreUnavailableError(message) from error

    def _opened(self) -> sqlite3.Connection:
        self._check_open()
        if self._sql is None:
            sql = connect(self._path)
            try:
                self._key, self._base = prepare(sql, self._clock)
            except BaseException:  # whatever it is, the file must not stay open
                sql.close()
                raise
            # Somebody may never close us: the file is closed with the store, or at the end.
            weakref.finalize(self, _closed_at_rest, sql, self._lock)
            self._sql = sql
        return self._sql

    def _own_thread(self) -> ThreadPoolExecutor:
        with self._lock:
            self._check_open()
            if self._thread is None:
                name = f"convsync-store-{Path(self._path).name}"
                self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
            return self._thread

    def _check_open(self) -> None:
        if self._closed:
            message = "this store is closed"
            raise ClosedError(message)

    def _warn_of_loss(self, sql: sqlite3.Connection) -> None:
        if self._path != MEMORY:
            return
        left = work.backlog(Transaction(sql, 0, 0))
        if lost := left.queued + left.writes + left.says:
            telemetry.count("lost_with_memory", lost)
            logger.warning(
                "a store in memory is closed with %d events and %d operations still to do; "
                "they are lost: use a file, or Redis",
                left.queued,
                left.writes + left.says,
            )


def _closed_at_rest(sql: sqlite3.Connection, lock: threading.Lock) -> None:
    with lock:  # at the end of the process, a worker may be in the middle of an operation
        sql.close()
