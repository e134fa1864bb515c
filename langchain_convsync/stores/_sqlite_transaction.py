"""One operation on the store's SQLite file: its statements, and the lanes that it changes.

However often an operation looks at a lane or changes it, the lane is read once and written once.
When it is due follows from what else is known of it, so the index of due work is never out of date.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field, fields
from functools import cache
from operator import attrgetter
from typing import Any

from langchain_convsync.stores._checks import account_of
from langchain_convsync.stores.base import Lane, is_claim


@dataclass(slots=True, repr=False)
class LaneRow:
    """A lane as it is to be at the end of the operation; the columns are explained in schema.sql.

    Attributes:
        head: The id of what is at the head of its queue; None without work.
        opens: When that may be worked on, in milliseconds: after the quiet window.
        stored: Its columns as they are in the file.
    """

    cid: str
    lane: Lane
    token: str | None = None
    epoch: int = 0
    until: int | None = None
    not_before: int = 0
    op: str | None = None
    pos: int | None = None
    sent: int | None = None
    tries: int | None = None
    note: bytes | None = None
    heard: bytes | None = None
    anchor: bytes | None = None
    last: str | None = None
    head: str | None = None
    opens: int = 0
    stored: tuple[Any, ...] = ()

    @property
    def due(self) -> int | None:
        """When it can be taken: after its lease, its delay, the quiet window; None without work."""
        return None if self.head is None else max(self.until or 0, self.not_before, self.opens)


#: What may change of a row: all but its key, and what the table does not have.
_COLUMNS = ("due", *(column.name for column in fields(LaneRow)[2:-3]))
_values = attrgetter(*_COLUMNS)
_QUEUE = (
    "(SELECT id FROM ops WHERE ops.cid = lanes.cid AND ops.lane = lanes.lane ORDER BY seq LIMIT 1),"
    " 0 FROM lanes WHERE cid = ? AND lane = ?"
)
# SQLite compiles a statement anew whenever a value is bound that it compares by `=` to a column
# that a partial index compares to something, too: hence `lane IS ?`, here and in other searches.
_INBOX = (
    "head.eid, ifnull(min(head.accepted_at + max_quiet, tail.accepted_at + quiet), 0)"
    " FROM lanes JOIN conversations USING (cid)"
    " LEFT JOIN events AS head ON head.seq ="
    " (SELECT min(seq) FROM events WHERE events.cid = lanes.cid AND state = 'queued')"
    " LEFT JOIN events AS tail ON tail.seq ="
    " (SELECT max(seq) FROM events WHERE events.cid = lanes.cid AND state = 'queued')"
    " WHERE lanes.cid = ? AND lane IS ?"
)
_READ_INBOX, _READ_QUEUE = f"SELECT {_INBOX}", f"SELECT {_QUEUE}"
_READ_TURN, _READ_WORK = (f"SELECT {', '.join(_COLUMNS)}, {rest}" for rest in (_INBOX, _QUEUE))


@cache
def _update(columns: tuple[str, ...]) -> str:
    changes = ", ".join(f"{column} = ?" for column in columns)
    return f"UPDATE lanes SET {changes} WHERE cid = ? AND lane = ?"  # noqa: S608 - our own names


@dataclass(slots=True, repr=False)
class Transaction:
    """One atomic step.

    Attributes:
        sql: The connection, within a transaction.
        now: Store time in milliseconds.
        retention: Milliseconds that finished events and idle conversations are remembered.
    """

    sql: sqlite3.Connection
    now: int
    retention: int
    _lanes: dict[tuple[str, Lane], LaneRow] = field(default_factory=dict, init=False)

    def one(self, statement: str, *values: Any) -> Any:
        """The first row, None without any."""
        return self.sql.execute(statement, values).fetchone()

    def all(self, statement: str, *values: Any) -> list[Any]:
        """Every row."""
        return self.sql.execute(statement, values).fetchall()

    def do(self, statement: str, *values: Any) -> None:
        """Execute a statement that answers nothing."""
        self.sql.execute(statement, values)

    def lane(self, cid: str, lane: Lane) -> LaneRow:
        """The lane, to be looked at and changed; one that there is not is empty, and stays so."""
        if row := self._lanes.get((cid, lane)):
            return row
        found = self.one(_READ_TURN if lane == "turn" else _READ_WORK, cid, lane)
        if found is None:
            return LaneRow(cid, lane)
        row = self._lanes[cid, lane] = LaneRow(cid, lane, *found[1:])
        row.stored = found[:-2]
        return row

    def moved(self, cid: str, lane: Lane) -> LaneRow:
        """The lane, after a statement added to its queue or took from it."""
        if row := self._lanes.get((cid, lane)):
            query = _READ_INBOX if lane == "turn" else _READ_QUEUE
            row.head, row.opens = self.one(query, cid, lane)
            return row
        return self.lane(cid, lane)

    def flush(self) -> None:
        """Write what changed, when the operation ends."""
        turned = []
        for row in self._lanes.values():
            values = _values(row)
            if values == row.stored:
                continue
            each = zip(_COLUMNS, row.stored, values, strict=True)
            changes = {column: now for column, was, now in each if now != was}
            self.do(_update(tuple(changes)), *changes.values(), row.cid, row.lane)
            if (row.due is None) != (row.stored[0] is None):
                turned.append(row)
        for row in turned:
            self.keep_in_ring(account_of(row.cid), row.lane, is_due=row.due is not None)

    def keep_in_ring(self, account: str, lane: Lane, *, is_due: bool) -> None:
        """To be called when one of the account's lanes became due, or ceased to be."""
        if is_claim(account):
            return
        if is_due:
            self.do("INSERT OR IGNORE INTO accounts (lane, account) VALUES (?, ?)", lane, account)
        else:
            self.do(
                "DELETE FROM accounts WHERE lane = ? AND account = ? AND NOT EXISTS"
                " (SELECT 1 FROM lanes WHERE lanes.lane = accounts.lane"
                " AND lanes.account = accounts.account AND due IS NOT NULL)",
                *(lane, account),
            )

    def serve(self, account: str, lane: Lane) -> None:
        """Put an account whose lane is taken at the end of the ring."""
        if not is_claim(account):
            # One more than before, so that takes within one millisecond go around too.
            self.do(
                "INSERT INTO accounts (lane, account, place) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET place = max(place + 1, excluded.place)",
                *(lane, account, self.now * 1000 + 1),
            )
