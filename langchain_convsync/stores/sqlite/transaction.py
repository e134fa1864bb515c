"""One operation on the store's SQLite file: its statements, and the queues that it changes.

However often an operation looks at a queue or changes it, the queue is read once and written once.
When it is due follows from what else is known of it, so the index of due work is never out of date.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache
from operator import attrgetter
from typing import Any, Generic, TypeVar

from langchain_convsync.stores.base import SOON, QueueName, is_claim
from langchain_convsync.stores.checks import account_of

T = TypeVar("T")


@dataclass(slots=True, repr=False)
class QueueRow:
    """A queue as it is to be at the end of the operation; the columns are explained in schema.sql.

    Attributes:
        head: The id of what is at its head; None without work.
        opens: When that may be worked on, in milliseconds: after the debounce window, which is that
            of the events behind those that are held; None where there are none.
        stored: Its columns as they are in the file.
    """

    conversation: str
    queue: QueueName
    token: str | None = None
    epoch: int = 0
    until: int | None = None
    since: int | None = None
    not_before: int = 0
    operation: str | None = None
    pos: int | None = None
    sent: int | None = None
    tries: int | None = None
    note: bytes | None = None
    echoes: bytes | None = None
    anchor: bytes | None = None
    last: str | None = None
    why: bytes | None = None
    why_since: int | None = None
    slot: str | None = None
    head: str | None = None
    opens: int | None = 0
    stored: tuple[Any, ...] = ()

    @property
    def due(self) -> int | None:
        """When it can be acquired: after its lease, delay and window; None without work."""
        if self.head is None:
            return None
        waits = self.queue != "inbox" or self.pos is None or self.opens is None
        return max(self.until or 0, self.not_before if waits else 0, self.opens or 0)

    def give_back(self) -> None:
        """End its lease."""
        self.until = self.since = None

    def waits(self, why: bytes | None, since: int) -> None:
        """Note why its work waits, unless that is known; None where nothing holds it up."""
        if why != self.why:
            self.why, self.why_since = why, None if why is None else since


#: What may change of a row: all but its key, and what the table does not have.
_COLUMNS = ("due", *(column.name for column in fields(QueueRow)[2:-3]))
_values = attrgetter(*_COLUMNS)
_QUEUE = (
    "(SELECT id FROM operations AS work WHERE work.conversation = queues.conversation"
    " AND work.queue = queues.queue ORDER BY seq LIMIT 1),"
    " 0 FROM queues WHERE conversation = ? AND queue = ?"
)
# SQLite compiles a statement anew whenever a value is bound that it compares by `=` to a column
# that a partial index compares to something, too: hence `queue IS ?`, here and in other searches.
_INBOX = (
    "head.event_key, ifnull(min(head.accepted_at + max_debounce, tail.accepted_at + debounce), 0)"
    " FROM queues JOIN conversations USING (conversation)"
    " LEFT JOIN events AS head ON head.seq ="
    " (SELECT min(seq) FROM events AS e WHERE e.conversation = queues.conversation"
    " AND state = 'queued')"
    " LEFT JOIN events AS tail ON tail.seq ="
    " (SELECT max(seq) FROM events AS e WHERE e.conversation = queues.conversation"
    " AND state = 'queued')"
    " WHERE queues.conversation = ? AND queue IS ?"
)
#: The window of the events of an inbox that stand behind those that are held.
_READ_FURTHER = (
    "SELECT min(first.accepted_at + max_debounce, tail.accepted_at + debounce)"
    " FROM conversations AS c"
    " JOIN events AS first ON first.seq = (SELECT seq FROM events AS e"
    " WHERE e.conversation = c.conversation AND state = 'queued' ORDER BY seq LIMIT 1 OFFSET ?)"
    " JOIN events AS tail ON tail.seq = (SELECT max(seq) FROM events AS e"
    " WHERE e.conversation = c.conversation AND state = 'queued')"
    " WHERE c.conversation = ?"
)
_READ_INBOX, _READ_QUEUE = f"SELECT {_INBOX}", f"SELECT {_QUEUE}"
_READ_TURN, _READ_WORK = (f"SELECT {', '.join(_COLUMNS)}, {rest}" for rest in (_INBOX, _QUEUE))


@cache
def _update(columns: tuple[str, ...]) -> str:
    changes = ", ".join(f"{column} = ?" for column in columns)
    where = "WHERE conversation = ? AND queue = ?"
    return f"UPDATE queues SET {changes} {where}"  # noqa: S608 - our own names


@dataclass(frozen=True, slots=True)
class Look(Generic[T]):
    """An operation that often finds nothing to write.

    It begins as a read of what is committed, which waits for no other process. With its first write
    it takes the file for itself; where another process has that, or has written since the read, it
    is done anew in a transaction that waits for its turn.
    """

    operation: Callable[[Transaction], T]

    def __call__(self, tx: Transaction) -> T:
        """Perform it."""
        return self.operation(tx)


@dataclass(slots=True, repr=False)
class Transaction:
    """One atomic step.

    Attributes:
        sql: The connection, within a transaction.
        now: Store time in milliseconds.
        retention: Milliseconds that finished events and idle conversations are remembered.
        replies_kept: Milliseconds that the words of outcomes are.
        leaves: Whether it leaves what others may wait for: work that is due soon, or an inbox.
    """

    sql: sqlite3.Connection
    now: int
    retention: int
    replies_kept: int
    leaves: bool = field(default=False, init=False)
    _queues: dict[tuple[str, QueueName], QueueRow] = field(default_factory=dict, init=False)

    def one(self, statement: str, *values: Any) -> Any:
        """The first row, None without any."""
        return self.sql.execute(statement, values).fetchone()

    def all(self, statement: str, *values: Any) -> list[Any]:
        """Every row."""
        return self.sql.execute(statement, values).fetchall()

    def do(self, statement: str, *values: Any) -> None:
        """Execute a statement that answers nothing."""
        self.sql.execute(statement, values)

    def queue(self, conversation: str, queue: QueueName) -> QueueRow:
        """The queue, to be looked at and changed; an unknown one is empty, and stays so."""
        if row := self._queues.get((conversation, queue)):
            return row
        found = self.one(_READ_TURN if queue == "inbox" else _READ_WORK, conversation, queue)
        if found is None:
            return QueueRow(conversation, queue)
        row = self._queues[conversation, queue] = QueueRow(conversation, queue, *found[1:])
        row.stored = found[:-2]
        self._look_further(row)
        return row

    def moved(self, conversation: str, queue: QueueName) -> QueueRow:
        """The queue, after a statement added to it or took from it."""
        if row := self._queues.get((conversation, queue)):
            query = _READ_INBOX if queue == "inbox" else _READ_QUEUE
            row.head, row.opens = self.one(query, conversation, queue)
            self._look_further(row)
            return row
        return self.queue(conversation, queue)

    def _look_further(self, row: QueueRow) -> None:
        if row.queue == "inbox" and row.pos:
            further = self.one(_READ_FURTHER, row.pos, row.conversation)
            row.opens = None if further is None else further[0]

    def flush(self) -> None:
        """Write what changed, when the operation ends."""
        turned = []
        for row in self._queues.values():
            values = _values(row)
            if values == row.stored:
                continue
            each = zip(_COLUMNS, row.stored, values, strict=True)
            changes = {column: now for column, was, now in each if now != was}
            self.do(_update(tuple(changes)), *changes.values(), row.conversation, row.queue)
            self._hint(row, changes)
            if (row.due is None) != (row.stored[0] is None):
                turned.append(row)
        for row in turned:
            self.keep_in_ring(account_of(row.conversation), row.queue, is_due=row.due is not None)

    def _hint(self, row: QueueRow, changes: dict[str, Any]) -> None:
        if is_claim(account_of(row.conversation)):
            return
        ends = row.queue == "inbox" and "until" in changes and row.until is None
        is_due = "due" in changes and row.due is not None and row.due <= self.now + SOON
        self.leaves = self.leaves or ends or is_due

    def keep_in_ring(self, account: str, queue: QueueName, *, is_due: bool) -> None:
        """To be called when one of the account's queues became due, or ceased to be."""
        if is_claim(account):
            return
        if is_due:
            self.do("INSERT OR IGNORE INTO accounts (queue, account) VALUES (?, ?)", queue, account)
        else:
            self.do(
                "DELETE FROM accounts WHERE queue = ? AND account = ? AND NOT EXISTS"
                " (SELECT 1 FROM queues WHERE queues.queue = accounts.queue"
                " AND queues.account = accounts.account AND due IS NOT NULL)",
                *(queue, account),
            )

    def serve(self, account: str, queue: QueueName) -> None:
        """Put an account whose queue is acquired at the end of the ring."""
        if not is_claim(account):
            # One more than before, so that acquires within one millisecond go around too.
            self.do(
                "INSERT INTO accounts (queue, account, place) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET place = max(place + 1, excluded.place)",
                *(queue, account, self.now * 1000 + 1),
            )
