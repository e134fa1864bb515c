"""The embedded event store: one SQLite file, or memory."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from langchain_convsync import _forks, _machine, telemetry
from langchain_convsync import _platform as platform
from langchain_convsync._checked import Seconds, checked
from langchain_convsync._flow import Flow, Io, Steps, monotonic, running_loop, sleep
from langchain_convsync._lines import count_of
from langchain_convsync.errors import (
    ClosedError,
    ConvSyncError,
    StoreChangedError,
    StoreError,
    StoreUnavailableError,
)
from langchain_convsync.stores.base import (
    DEFAULT_RULES,
    REPLIES_KEPT,
    RETENTION,
    Accepted,
    AcceptRules,
    AccountKey,
    Acquired,
    Adopt,
    Backlog,
    Commit,
    Committed,
    Confirmed,
    ConversationView,
    Cursor,
    DeadLetter,
    DeadLetterPage,
    Done,
    KeptCall,
    Keys,
    Lease,
    Load,
    NewEvent,
    QueueName,
    Restriction,
    Upcoming,
)
from langchain_convsync.stores.batches import Batches
from langchain_convsync.stores.changed import check_names_of
from langchain_convsync.stores.checks import (
    account_of,
    call_key,
    check_call,
    check_commit,
    check_event,
    check_id,
    check_line,
    check_most,
    check_names,
    check_page,
    check_queue,
    check_word,
    in_milliseconds,
    milliseconds,
    why_line,
)
from langchain_convsync.stores.sqlite import events, operators, queues, sending, work
from langchain_convsync.stores.sqlite.damage import (
    LOOK_PERIOD,
    READ_ERRORS,
    Latch,
    is_cut_log,
    is_damage,
    may_be_damage,
)
from langchain_convsync.stores.sqlite.file import (
    MEMORY,
    StoreClock,
    begin_writing,
    empty_log,
    path_of,
    unless_busy,
)
from langchain_convsync.stores.sqlite.listening import FileListener
from langchain_convsync.stores.sqlite.opened import (
    NotTheSameError,
    OpenFile,
    State,
    flaws_of,
    wait_until_written,
)
from langchain_convsync.stores.sqlite.transaction import Look, Transaction

logger = logging.getLogger(__name__)
#: Seconds that a busy event loop collects operations for the next commit.
GROUP_PAUSE = 0.003
#: Milliseconds between two looks for what ran out, where the last one found nothing.
SWEEP_PERIOD = 1000
#: Milliseconds between two times that the log is emptied of what ran out.
LOG_PERIOD = 60_000
#: Seconds between tries to empty the log while others use the file: 5 in all.
LOG_PAUSES = (0.0, 0.02, 0.08, 0.3, 1.0, 1.8, 1.8)

_CHANGED = (
    "The file %s is not the store that was opened: it was deleted, replaced, truncated or "
    "overwritten. What was not done yet is lost, unless it stands in the file that is there now, "
    "and messages that are delivered again may be new ones. Stop every process before a file is "
    "replaced or restored"
)
_EMPTY = (
    "The event store %s was there and empty, and is begun as a new one. If it held work, it was "
    "truncated, by a power cut or a copy that failed: stop, and restore a backup"
)
T = TypeVar("T")
#: What is done in a transaction.
Step: TypeAlias = Callable[[Transaction], Any]


class SQLiteEventStore(_forks.Unpicklable):
    """Events, operations and leases in one SQLite file, shared by the processes of one machine.

    Each operation is one transaction on the calling thread for blocking calls; those that are
    awaited at the same time share one, on a thread of the store's own. What was acknowledged
    survives a killed process and a power cut. ``":memory:"`` keeps nothing beyond this object, and
    is empty in a forked process. A file may be used by parent and child: a fork waits for the
    transaction under way, and both open the file anew, since SQLite's own connections and locks do
    not survive one. That holds for ``os.fork`` and whatever calls Python's hooks for it.

    A file that is deleted, replaced or emptied under running processes is noticed by their next
    step, which raises :class:`StoreChangedError`; the same call again works in what is there now.
    One that is damaged raises :class:`StoreDamagedError` from every step, until it is another one
    or is found sound.

    Args:
        path: The file, on a local disk; its folder must exist.
        retention: Seconds that finished events and idle conversations are remembered.
        replies_kept: Seconds that the words of an outcome, the reply, are kept for those who repeat
            its event; later they are told that it is done.
        clock: Store time in seconds, for tests; None counts with the machine's own clock.

    Raises:
        ConfigurationError: ``path`` is a URL, or names a server.
    """

    @checked
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        retention: Seconds = RETENTION,
        replies_kept: Seconds = REPLIES_KEPT,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._path = path_of(path)
        self._retention = milliseconds(retention)
        self._replies_kept = min(milliseconds(replies_kept), self._retention)
        self._log_is_stale, self._log_emptied, self._sweeps_at = False, -LOG_PERIOD, 0
        self._clock = StoreClock(clock or monotonic, clock or platform.wall)
        self._lock = _forks.lock()
        self._file: OpenFile | None = None
        self._keys = Keys(b"")
        self._latch, self._looked_over = Latch(self._path), -LOOK_PERIOD
        #: Whether what was open before is gone, and no step was told yet.
        self._is_another = False
        self._thread: ThreadPoolExecutor | None = None
        self._batches: Batches[Step] = Batches(most=1, pause=GROUP_PAUSE)
        self._closed = self._rests = False
        self._left = 0  # counts what this process left to do
        self._end: weakref.finalize[Any, Any] | None = None
        _forks.around(self, rest=SQLiteEventStore._rest, go_on=SQLiteEventStore._go_on)
        _forks.in_child(self, SQLiteEventStore._begin_anew)

    @property
    def path(self) -> str:
        """The file, or ``":memory:"``."""
        return self._path

    @property
    def retention(self) -> float:
        """See :attr:`EventStore.retention`."""
        return self._retention / 1000

    def keys(self) -> Io[Keys]:
        """See :meth:`EventStore.keys`."""
        return Steps(self._named)

    def account(self, account_key: AccountKey, facts: str) -> Io[AccountKey]:
        """See :meth:`EventStore.account`."""
        return self._look(lambda tx: events.account(tx, account_key, facts))

    def accounts(self) -> Io[dict[AccountKey, str]]:
        """See :meth:`EventStore.accounts`."""
        return self._look(events.accounts)

    def serve(self, server: str = "", *, adopt: Adopt = "first") -> Io[tuple[str, ...]]:
        """See :meth:`EventStore.serve`."""
        return self._look(lambda tx: events.serve(tx, server, adopt))

    def accept(
        self,
        event: NewEvent,
        rules: AcceptRules = DEFAULT_RULES,
        *,
        token: str | None = None,
    ) -> Io[Accepted]:
        """See :meth:`EventStore.accept`."""
        check_event(event)
        by, rules_ms = token or platform.token(8), in_milliseconds(rules)

        def accepted(tx: Transaction) -> Accepted:
            check_names_of(event.names, self._keys)
            return events.accept(tx, event, rules_ms, by=by, token=token or None)

        return self._look(accepted)

    def find(self, account_key: AccountKey, source: str, facts: str) -> Io[str | None]:
        """See :meth:`EventStore.find`."""
        return self._look(lambda tx: events.find(tx, account_key, source, facts))

    def amend(
        self, event_key: str, before: str, after: str, *, due: bool = False
    ) -> Io[str | None]:
        """See :meth:`EventStore.amend`."""
        account_of(event_key)  # refuses a malformed key
        return self._step(lambda tx: events.amend(tx, event_key, before, after, due=due))

    def acquire(
        self,
        queue: QueueName,
        token: str,
        *,
        conversation_key: str | None = None,
        lease: float = 30.0,
        account_concurrency: int = 0,
    ) -> Io[Acquired | None]:
        """See :meth:`EventStore.acquire`."""
        length = milliseconds(lease)
        if conversation_key is None:
            return self._look(
                lambda tx: work.acquire_any(tx, queue, token, length, account_concurrency)
            )
        account_of(conversation_key)  # refuses a malformed key
        return self._look(
            lambda tx: queues.acquire(
                tx, conversation_key, queue, token, length, account_concurrency=account_concurrency
            )
        )

    def renew(self, lease: Lease, *, seconds: float = 30.0) -> Io[Lease | None]:
        """See :meth:`EventStore.renew`."""
        length = milliseconds(seconds)
        return self._step(lambda tx: work.renew(tx, lease, length))

    def commit_turn(self, lease: Lease, commit: Commit) -> Io[Committed]:
        """See :meth:`EventStore.commit_turn`."""
        check_commit(lease, commit)
        return self._step(lambda tx: events.commit_turn(tx, lease, commit))

    def begin_call(
        self, lease: Lease, event_keys: Sequence[str], call: str, *, token: str
    ) -> Io[KeptCall | None]:
        """See :meth:`EventStore.begin_call`."""
        check_call(lease, event_keys)
        return self._step(lambda tx: events.begin_call(tx, lease, event_keys, call, token=token))

    def end_call(
        self, lease: Lease, event_key: str, call: str, *, token: str, result: str | None
    ) -> Io[bool]:
        """See :meth:`EventStore.end_call`."""
        check_call(lease, [event_key])
        return self._step(
            lambda tx: events.end_call(tx, lease, event_key, call, token=token, result=result)
        )

    def begin(
        self,
        lease: Lease,
        operation_id: str,
        pos: int,
        *,
        attempt: int,
        need: float,
        note: str | None = None,
        done: Confirmed | None = None,
    ) -> Io[Cursor | None]:
        """See :meth:`EventStore.begin`."""
        check_queue(lease)
        length = milliseconds(need)
        return self._step(
            lambda tx: work.begin(
                tx, lease, operation_id, pos, attempt=attempt, need=length, note=note, done=done
            )
        )

    def confirm(
        self, lease: Lease, operation_id: str, pos: int, *, last: bool, anchor: str | None = None
    ) -> Io[Done]:
        """See :meth:`EventStore.confirm`."""
        check_queue(lease)
        done = Confirmed(operation_id=operation_id, pos=pos, last=last, anchor=anchor)
        return self._step(lambda tx: work.confirm(tx, lease, done))

    def retry(
        self,
        lease: Lease,
        operation_id: str,
        pos: int,
        *,
        delay: float,
        sent: bool,
        note: str | None = None,
    ) -> Io[Done]:
        """See :meth:`EventStore.retry`."""
        check_queue(lease)
        wait = milliseconds(delay)
        return self._step(
            lambda tx: work.retry(tx, lease, operation_id, pos, delay=wait, sent=sent, note=note)
        )

    def set_dead(self, lease: Lease, operation_id: str, *, reason: str) -> Io[Done]:
        """See :meth:`EventStore.set_dead`."""
        check_queue(lease)
        return self._step(lambda tx: work.set_dead(tx, lease, operation_id, reason))

    def release(
        self,
        lease: Lease,
        *,
        delay: float = 0.0,
        failed: bool = False,
        held: int | None = None,
        done: Confirmed | None = None,
        why: str | None = None,
    ) -> Io[bool]:
        """See :meth:`EventStore.release`."""
        if done is not None:
            check_queue(lease)
        wait, line = milliseconds(delay), why_line(why)
        return self._step(
            lambda tx: work.release(
                tx, lease, delay=wait, failed=failed, held=held, done=done, why=line
            )
        )

    def record_echo(self, conversation_key: str, note: str) -> Io[bool]:
        """See :meth:`EventStore.record_echo`."""
        check_line(note)
        account_of(conversation_key)  # refuses a malformed key
        return self._step(lambda tx: work.record_echo(tx, conversation_key, note))

    def record_ack(self, conversation_key: str, message_id: str, level: int) -> Io[None]:
        """See :meth:`EventStore.record_ack`."""
        check_id(message_id)
        account_of(conversation_key)  # refuses a malformed key
        return self._step(
            lambda tx: sending.record_ack(
                tx, queues.follow(tx, conversation_key), message_id, level
            )
        )

    def restrict(self, account_key: AccountKey, *, kind: str, seconds: float, why: str) -> Io[None]:
        """See :meth:`EventStore.restrict`."""
        check_word(kind)
        length, line = milliseconds(seconds), why_line(why) or ""
        return self._step(lambda tx: sending.restrict(tx, account_key, kind, length, line))

    def lift(
        self, account_key: AccountKey, *, kind: str | None = None, token: str | None = None
    ) -> Io[None]:
        """See :meth:`EventStore.lift`."""
        return self._step(lambda tx: sending.lift(tx, account_key, kind, token))

    def restrictions(self) -> Io[tuple[Restriction, ...]]:
        """See :meth:`EventStore.restrictions`."""
        return self._look(sending.restrictions)

    def pace(self, lease: Lease, token: str, *, spacing: Mapping[str, float]) -> Io[float | None]:
        """See :meth:`EventStore.pace`."""
        times = {check_word(kind): milliseconds(each) for kind, each in spacing.items()}

        def seconds(wait: int | None) -> float | None:
            return None if wait is None else wait / 1000

        return self._step(lambda tx: seconds(sending.pace(tx, lease, token, times)))

    def pause(self, conversation_key: str, *, seconds: float) -> Io[None]:
        """See :meth:`EventStore.pause`."""
        account_of(conversation_key)  # refuses a malformed key
        length = milliseconds(seconds)
        return self._step(lambda tx: queues.pause(tx, conversation_key, length))

    def alias(
        self, name: str, conversation_key: str, *, lease: Lease | None = None
    ) -> Io[str | None]:
        """See :meth:`EventStore.alias`."""
        check_names(name, conversation_key)
        return self._step(lambda tx: events.alias(tx, name, conversation_key, lease))

    def due(self, queue: QueueName, conversation_key: str) -> Io[float | None]:
        """See :meth:`EventStore.due`."""
        account_of(conversation_key)  # refuses a malformed key
        return self._look(lambda tx: queues.due_in(tx, conversation_key, queue))

    def upcoming(self, conversation_keys: Sequence[str] = ()) -> Io[Upcoming]:
        """See :meth:`EventStore.upcoming`."""
        return self._look(lambda tx: work.upcoming(tx, conversation_keys))

    def listen(self) -> FileListener:
        """See :meth:`EventStore.listen`."""
        log = None if self._path == MEMORY else f"{os.path.realpath(self._path)}-wal"
        return FileListener(log, self._changes)

    def backlog(self) -> Io[Backlog]:
        """See :meth:`EventStore.backlog`."""
        return self._look(work.backlog)

    def loads(self) -> Io[tuple[Load, ...]]:
        """See :meth:`EventStore.loads`."""
        return self._look(operators.loads)

    def view(self, conversation_key: str, *, most: int = 100) -> Io[ConversationView]:
        """See :meth:`EventStore.view`."""
        account_of(conversation_key)  # refuses a malformed key
        check_most(most)
        return self._look(lambda tx: operators.view(tx, conversation_key, most))

    def dead_letters(
        self, conversation_key: str | None = None, *, most: int = 100
    ) -> Io[tuple[DeadLetter, ...]]:
        """See :meth:`EventStore.dead_letters`."""
        if conversation_key is not None:
            account_of(conversation_key)  # refuses a malformed key
        check_most(most)
        return self._look(lambda tx: operators.dead_letters(tx, conversation_key, most))

    def dead_letter_page(
        self, page: str = "", *, account_key: AccountKey | None = None, most: int = 100
    ) -> Io[DeadLetterPage]:
        """See :meth:`EventStore.dead_letter_page`."""
        check_page(page, r"(operations|events) -?[0-9]{1,19}")
        check_most(most)
        return self._look(lambda tx: operators.dead_letter_page(tx, page, account_key, most))

    def requeue(self, letter: DeadLetter, *, token: str, body: str | None = None) -> Io[str | None]:
        """See :meth:`EventStore.requeue`."""
        call_key(letter, "requeue", token)  # refuses a malformed key, or an empty token
        return self._step(lambda tx: operators.requeue(tx, letter, token, body))

    def discard(self, letter: DeadLetter, *, token: str) -> Io[bool]:
        """See :meth:`EventStore.discard`."""
        call_key(letter, "discard", token)  # refuses a malformed key, or an empty token
        return self._step(lambda tx: operators.discard(tx, letter, token))

    def forget(self, conversation_key: str) -> Io[bool]:
        """See :meth:`EventStore.forget`."""
        account_of(conversation_key)  # refuses a malformed key

        def erased() -> Flow[bool]:
            known: bool | None = None
            while known is None:
                sought = yield from self._sought(conversation_key)
                erase = partial(operators.forget, conversation=conversation_key, sought=sought)
                known = yield from self._step(erase)
            for pause in LOG_PAUSES:
                if (yield from Io(self._empty_log, self._aempty_log)):
                    return known
                yield from sleep(pause)
            message = (
                f"it is erased, but {self._path}-wal holds it until no other process reads the "
                "file: end long reads (backups, sqlite3 shells), and call it again"
            )
            raise StoreUnavailableError(message)

        return Steps(erased)

    def _sought(self, conversation_key: str) -> Flow[operators.Sought]:
        """Where a conversation's events are, looked for in short transactions."""
        sought: operators.Sought | None = None
        while sought is None or sought.after < sought.last:
            look = partial(operators.seek, conversation=conversation_key, sought=sought)
            sought = yield from self._look(look)
        return sought

    def close(self) -> None:
        """See :meth:`EventStore.close`. What memory still had to do is lost, with a warning."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            if self._file is not None:
                self._warn_of_loss(self._file.sql)
                self._close_file()
        if thread is not None:
            thread.shutdown()

    async def aclose(self) -> None:
        """See :meth:`EventStore.aclose`."""
        try:
            closing = running_loop().run_in_executor(None, self.close)
        except RuntimeError as error:  # no thread is to be had
            if not _machine.noticed(error):
                raise
            self.close()
        else:
            await closing

    def reopen(self) -> None:
        """See :meth:`EventStore.reopen`."""
        with self._lock:
            if self._closed and self._path != MEMORY:
                self._keys = Keys(b"")  # what lies there now is as good as any other
            self._closed = False

    def _rest(self) -> None:
        """Before a fork: nothing is under way, and no file is open whose locks a child believes in.

        A child's SQLite would take the parent's locks for its own, and lose what it wrote once the
        parent, alone as far as anyone can see, closed the file and removed its log.
        """
        self._rests = self._lock.acquire(timeout=_forks.PATIENCE)
        if not self._rests:  # a signal's handler forks, say
            logger.critical("A process is forked while its event store is in use: fork elsewhere")
        elif self._path != MEMORY:
            self._close_file()

    def _go_on(self) -> None:
        if self._rests:
            self._rests = False
            self._lock.release()

    def _begin_anew(self) -> None:
        """In a forked child: the copy of a memory would be worked on twice."""
        if self._end is not None:
            self._end.detach()
        _forks.abandon(self._file, self._thread)
        self._file = self._thread = self._end = None
        self._batches = Batches(most=1, pause=GROUP_PAUSE)

    def _close_file(self, state: State | None = None) -> bool:
        """Whether nothing is lost by it, although it was not the store any more."""
        file, self._file = self._file, None
        if self._end is not None:
            self._end.detach()
            self._end = None
        return file is not None and file.let_go(state or file.state())

    def _named(self) -> Flow[Keys]:
        if self._file is None:
            yield from self._look(lambda _tx: None)
        return self._keys

    def _look(self, operation: Callable[[Transaction], T]) -> Io[T]:
        """A step that often finds nothing to write: others' transactions hold it up only if not."""
        return self._step(Look(operation))

    def _step(self, operation: Callable[[Transaction], T]) -> Io[T]:
        return Io(self._perform, self._aperform, operation)

    def _perform(self, operation: Callable[[Transaction], T]) -> T:
        answers: list[T] = self._transact([operation])
        return answers[0]

    def _aperform(self, operation: Callable[[Transaction], T]) -> Awaitable[T]:
        return self._batches.ask(operation, self._on_own_thread)

    async def _on_own_thread(self, operations: Sequence[Step]) -> list[Any]:
        return await self._begun(self._transact_all, operations)

    def _begun(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Work that the store's own thread does, once it can be started."""
        loop = asyncio.get_running_loop()
        try:
            return loop.run_in_executor(self._own_thread(), work, *arguments)
        except RuntimeError as error:
            if not (advice := _machine.noticed(error)):
                raise
            raise self._unavailable(error, advice) from error

    def _empty_log(self) -> bool:
        return self._work(lambda opened: empty_log(opened.sql))

    async def _aempty_log(self) -> bool:
        return await self._begun(self._empty_log)

    def _transact_all(self, operations: Sequence[Step]) -> list[Any]:
        """The same where one that fails costs the others of its transaction nothing."""
        try:
            return self._transact(operations)
        except (StoreError, ClosedError):
            raise
        except Exception:
            if len(operations) == 1:
                raise
            return [self._answer_or_error(operation) for operation in operations]

    def _answer_or_error(self, operation: Step) -> Any:
        try:
            return self._perform(operation)
        except Exception as error:  # noqa: BLE001 - raised in the caller
            return error

    def _transact(self, operations: Sequence[Step]) -> list[Any]:
        """The answers of operations, in one transaction: all are acknowledged by one commit."""
        asked = monotonic()

        def transacted(opened: OpenFile) -> list[Any]:
            if all(isinstance(operation, Look) for operation in operations):
                with unless_busy():
                    opened.sql.execute("BEGIN")  # and where something is written, it goes on so
                    return self._transacted(opened, operations)
            begin_writing(opened.sql, waited=monotonic() - asked)
            return self._transacted(opened, operations)

        return self._work(transacted)

    def _transacted(self, opened: OpenFile, operations: Sequence[Step]) -> list[Any]:
        """The answers of operations in the transaction that was begun."""
        sql, leaves = opened.sql, False
        with sql:
            opened.check()
            ticks = round(self._clock.monotonic() * 1000)
            now, before, answers = opened.base + ticks, sql.total_changes, []
            times = (now, self._retention, self._replies_kept)
            if now >= self._sweeps_at:
                self._sweep(Transaction(sql, *times), len(operations))
            for operation in operations:
                tx = Transaction(sql, *times)
                answers.append(operation(tx))
                tx.flush()
                leaves = leaves or tx.leaves
            if sql.total_changes != before:  # an idle poll writes nothing
                opened.note(now)
        if leaves:
            self._left += 1
            opened.tell()
        if self._log_is_stale and now >= self._log_emptied + LOG_PERIOD:
            self._log_is_stale, self._log_emptied = not empty_log(sql), now
        return answers

    def _changes(self) -> tuple[int, int]:
        """See :class:`FileListener`."""
        if self._path == MEMORY:
            return 0, self._left
        with self._lock:
            try:
                return -1 if self._file is None else self._file.changes(), self._left
            except sqlite3.Error:  # whoever looks next is told
                return -2, self._left

    def _sweep(self, tx: Transaction, operations: int) -> None:
        if events.sweep(tx, operations):
            self._log_is_stale = self._path != MEMORY
        else:
            self._sweeps_at = tx.now + SWEEP_PERIOD

    def _work(self, work: Callable[[OpenFile], T]) -> T:
        """What some work on the open file comes to, if it is still the one that was opened.

        Raises:
            StoreChangedError: It is not; the same call again works in what is there now.
            StoreDamagedError: It cannot be read.
            StoreUnavailableError: SQLite refused.
        """
        with self._lock:
            while True:
                try:
                    return work(self._opened())
                except NotTheSameError as found:
                    self._leave(found.state)
                except ConvSyncError:
                    raise
                except Exception as error:
                    if (state := self._state()) == "same":
                        raise self._reason(error) from error
                    self._leave(state)

    def _state(self) -> State:
        return "same" if self._file is None else self._file.state()

    def _leave(self, state: State) -> None:
        """Let go of a file that is not the store any more; the next step opens what is there."""
        if state == "damaged":
            raise self._damaged("it was cut off, or overwritten by what is no store")
        if self._close_file(state):
            logger.warning(
                "The log of %s was removed while it was in use; nothing is lost",
                self._path,
            )
            return
        if not self._is_another:
            telemetry.count("stores_changed")
            logger.error(_CHANGED, self._path)
        self._is_another = True
        wait_until_written(self._path)

    def _reason(self, error: Exception) -> Exception:
        """What to raise for what went wrong in a file that is still the same one."""
        if advice := _machine.noticed(error):
            return self._unavailable(error, advice)
        if is_damage(error) or (self._file is not None and is_cut_log(error)):
            return self._damaged(str(error))
        if self._file is not None and may_be_damage(error) and (flaw := self._flaw()):
            return self._damaged(flaw)
        if not isinstance(error, sqlite3.Error | OSError):
            return error
        if is_cut_log(error):
            return StoreUnavailableError(
                f"the event store {self._path} was overwritten, and another process holds it open "
                "as it was before: it can be opened once that process has noticed"
            )
        return self._unavailable(
            error,
            "check that its folder exists, is writable and has space, and that no other program "
            "locks the file",
        )

    def _unavailable(self, error: Exception, advice: str) -> StoreUnavailableError:
        if Path(self._path).is_dir():
            advice = "it is a directory: name a file in it"
        return StoreUnavailableError(
            f"the event store {self._path} did not do its work ({error}): {advice}"
        )

    def _damaged(self, flaw: str) -> Exception:
        self._close_file()
        return self._latch.close(flaw)

    def _flaw(self) -> str:
        """What is damaged, where that explains an error; looked for once in a while."""
        if self._path == MEMORY or monotonic() < self._looked_over + LOOK_PERIOD:
            return ""
        self._looked_over = monotonic()
        try:
            return "; ".join(flaws_of(self._path))
        except READ_ERRORS:
            return ""

    def _opened(self) -> OpenFile:
        self._check_open()
        self._latch.check()
        if self._file is None:
            opened = OpenFile.at(self._path, self._clock, self._keys.secret)
            # A store may never be closed: its file is closed with the object, or at the end.
            self._end = weakref.finalize(self, _closed_at_rest, opened, self._lock)
            self._file, self._sweeps_at = opened, 0
            if opened.is_new:
                logger.warning(_EMPTY, self._path)
            if self._keys.secret and self._keys.secret != opened.key and not self._is_another:
                telemetry.count("stores_changed")
                logger.error(_CHANGED, self._path)
                self._is_another = True
            self._keys = Keys(opened.key)
            if self._is_another:
                self._is_another = False
                message = (
                    f"the event store {self._path} is not the one that was opened; the same call "
                    "again works in what is there now"
                )
                raise StoreChangedError(message)
        return self._file

    @property
    def _sql(self) -> sqlite3.Connection | None:
        return None if self._file is None else self._file.sql

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
        left = work.backlog(Transaction(sql, 0, 0, 0))
        if lost := left.queued + left.writes + left.replies:
            telemetry.count("lost_with_memory", lost)
            logger.warning(
                "a store in memory is closed with %s and %s still to do; "
                "they are lost: use a file, or Redis",
                count_of(left.queued, "event"),
                count_of(left.writes + left.replies, "operation"),
            )


def _closed_at_rest(opened: OpenFile, lock: threading.Lock) -> None:
    with lock:  # at the end of the process, a worker may be in the middle of an operation
        opened.let_go(opened.state())
