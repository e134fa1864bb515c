"""Lanes in SQLite: conversations that have some, leasing them, moving their queues on.

Most are the functions that the Redis scripts share in ``lua/_prelude.lua``, under the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from langchain_convsync.stores._checks import account_of, decoded, encoded, lines
from langchain_convsync.stores._sqlite_names import is_paused
from langchain_convsync.stores._sqlite_transaction import LaneRow, Transaction
from langchain_convsync.stores.base import Cursor, Lane, Lease, Op, QueuedEvent, Taken

LANES: tuple[Lane, ...] = ("turn", "write", "say")


def due_in(tx: Transaction, cid: str, lane: Lane) -> float | None:
    """Seconds until a lane can be taken; None without work."""
    at = tx.lane(cid, lane).due
    return None if at is None else max(0, at - tx.now) / 1000


def revive(tx: Transaction, cid: str, *, quiet: int = 0, max_quiet: int = 0) -> None:
    """To be called before work is added: a conversation that has some does not expire.

    One that there is not, or that was idle for long, begins with these windows.
    """
    talk = tx.one("SELECT expires FROM conversations WHERE cid = ?", cid)
    if talk is not None and talk["expires"] is None:
        return
    if talk is not None and talk["expires"] > tx.now:
        tx.do("UPDATE conversations SET expires = NULL WHERE cid = ?", cid)
        return
    tx.do("DELETE FROM conversations WHERE cid = ?", cid)  # and its lanes
    begin = "INSERT INTO conversations (cid, quiet, max_quiet) VALUES (?, ?, ?)"
    tx.do(begin, cid, quiet, max_quiet)
    tx.do(
        "INSERT INTO lanes (cid, account, lane)"
        " VALUES (?, ?, 'turn'), (?, ?, 'write'), (?, ?, 'say')",
        *((cid, account_of(cid)) * 3),
    )


def expire_if_idle(tx: Transaction, cid: str) -> None:
    """To be called when the last of a queue was taken away: only an idle conversation expires."""
    tx.do(
        "UPDATE conversations SET expires = ? WHERE cid = ?"
        " AND NOT EXISTS (SELECT 1 FROM events WHERE cid = ? AND state = 'queued')"
        " AND NOT EXISTS (SELECT 1 FROM ops WHERE cid = ?)",
        *(tx.now + tx.retention, cid, cid, cid),
    )


def is_held(row: LaneRow, lease: Lease) -> bool:
    """Whether nobody followed, and the lane was not given back."""
    return row.until is not None and (row.token, row.epoch) == (lease.token, lease.epoch)


def is_full(tx: Transaction, account: str, lane: Lane, at_once: int) -> bool:
    """Whether so many turns of the account run already; 0 stands for any number.

    To be asked before the operation begins or ends one, which the file does not know yet.
    """
    if lane != "turn" or not at_once:
        return False
    query = "SELECT count(*) FROM lanes WHERE lane = 'turn' AND account = ? AND until > ?"
    return bool(tx.one(query, account, tx.now)[0] >= at_once)


def take(
    tx: Transaction, cid: str, lane: Lane, token: str, length: int, *, at_once: int
) -> Taken | None:
    """Lease the lane if it is due, or again to the token that holds it."""
    row, account = tx.lane(cid, lane), account_of(cid)
    if row.token == token and row.until is not None:
        return taken(tx, cid, lane)
    if row.due is None or row.due > tx.now or is_full(tx, account, lane, at_once):
        return None
    row.epoch, row.token, row.until = row.epoch + 1, token, tx.now + length
    if lane == "turn":
        tx.do("UPDATE events SET starts = starts + 1 WHERE eid = ?", row.head)
    tx.serve(account, lane)
    return taken(tx, cid, lane)


def taken(tx: Transaction, cid: str, lane: Lane) -> Taken:
    """A leased lane with everything needed to work on it."""
    queue: Lane = "write" if lane == "turn" else lane
    row, work = tx.lane(cid, lane), tx.lane(cid, queue)
    talk = tx.one(
        "SELECT turns, iif(? = 'turn' AND snapshot_until > ?, snapshot, NULL) AS snapshot"
        " FROM conversations WHERE cid = ?",
        *(lane, tx.now, cid),
    )
    ops = tx.all("SELECT id, body FROM ops WHERE cid = ? AND lane = ? ORDER BY seq", cid, queue)
    return Taken(
        lease=Lease(
            cid=cid,
            lane=lane,
            token=row.token or "",
            epoch=row.epoch,
            until=(row.until or 0) / 1000,
        ),
        now=tx.now / 1000,
        events=inbox(tx, cid) if lane == "turn" else (),
        ops=tuple(Op(id=op["id"], body=decoded(op["body"])) for op in ops),
        cursor=as_cursor(work),
        anchor=text(work.anchor),
        snapshot=text(talk["snapshot"]),
        turns=talk["turns"],
        paused=lane == "turn" and is_paused(tx, cid),
    )


def inbox(tx: Transaction, cid: str) -> tuple[QueuedEvent, ...]:
    """The events that no turn has answered yet."""
    rows = tx.all("SELECT * FROM events WHERE cid = ? AND state = 'queued' ORDER BY seq", cid)
    return tuple(
        QueuedEvent(
            eid=row["eid"],
            payload=decoded(row["payload"]),
            accepted_at=row["accepted_at"] / 1000,
            starts=row["starts"],
            errors=row["errors"],
        )
        for row in rows
    )


def as_cursor(row: LaneRow) -> Cursor | None:
    """The cursor of a lane."""
    if row.op is None:
        return None
    return Cursor(
        op_id=row.op,
        pos=row.pos or 0,
        sent_at=None if row.sent is None else row.sent / 1000,
        tries=row.tries or 0,
        note=text(row.note),
        heard=lines(text(row.heard)),
    )


def refusal(
    row: LaneRow, lease: Lease, op_id: str, pos: int | None = None
) -> Literal["already", "fenced"] | None:
    """Why the operation at the head of a lane cannot be moved on; None if it can."""
    if row.head != op_id:
        return "already"
    if row.pos is not None and pos is not None and row.pos > pos:
        return "already"
    return None if is_held(row, lease) else "fenced"


def move_to(row: LaneRow, op_id: str, pos: int) -> None:
    """Put the cursor on a part; what was noted about an earlier part is forgotten."""
    if (row.op, row.pos) != (op_id, pos):
        row.op, row.pos, row.tries = op_id, pos, 0
        row.sent = row.note = row.heard = None


def append(tx: Transaction, cid: str, lane: Lane, ops: Sequence[tuple[str, bytes]]) -> None:
    """Put operations, each an id and a body, at the end of a lane's queue."""
    if not ops:
        return
    row = tx.lane(cid, lane)
    if row.head is None:  # an empty lane's delay, if it has one, is still to be kept
        row.head, row.not_before = ops[0][0], max(row.not_before, tx.now)
    for op_id, body in ops:
        tx.do("INSERT INTO ops (cid, lane, id, body) VALUES (?, ?, ?, ?)", cid, lane, op_id, body)


def drop_head(tx: Transaction, row: LaneRow) -> None:
    """Remove the operation at the head of the lane's queue."""
    place = (row.cid, row.lane)
    tx.do("DELETE FROM ops WHERE cid = ? AND lane = ? AND id = ?", *place, row.head)
    row.op = row.pos = row.sent = row.tries = row.note = row.heard = None
    if tx.moved(*place).head is None:
        expire_if_idle(tx, row.cid)


def text(data: bytes | None) -> str | None:
    """Optional text from its bytes."""
    return None if data is None else decoded(data)


def blob(written: str | None) -> bytes | None:
    """Optional text as bytes."""
    return None if written is None else encoded(written)
