"""Work under a lease in SQLite: taking lanes, keeping them, and delivering their operations.

Says the same as the files of these names in ``lua/``.
"""

from __future__ import annotations

from dataclasses import replace

from langchain_convsync.stores._checks import lines, turn_of
from langchain_convsync.stores._sqlite_lanes import (
    as_cursor,
    blob,
    drop_head,
    is_full,
    is_held,
    move_to,
    refusal,
    take,
    taken,
    text,
)
from langchain_convsync.stores._sqlite_names import follow
from langchain_convsync.stores._sqlite_transaction import LaneRow, Transaction
from langchain_convsync.stores.base import Backlog, Confirmed, Cursor, Done, Lane, Lease, Taken


def take_any(tx: Transaction, lane: Lane, token: str, length: int, at_once: int) -> Taken | None:
    """Lease the lane that is next: accounts take turns, the longest due first within one."""
    query = "SELECT cid FROM lanes WHERE token = ? AND until IS NOT NULL AND lane IS ?"
    if holding := tx.one(query, token, lane):
        return taken(tx, holding["cid"], lane)
    accounts = tx.sql.execute(
        "SELECT account FROM (SELECT account, place, (SELECT min(due) FROM lanes WHERE lanes.lane ="
        " accounts.lane AND lanes.account = accounts.account AND due IS NOT NULL) AS due"
        " FROM accounts WHERE lane = ?)"
        " WHERE due <= ? ORDER BY max(place, due * 1000), account",
        (lane, tx.now),
    )
    ring = (row["account"] for row in accounts)
    account = next((found for found in ring if not is_full(tx, found, lane, at_once)), None)
    if account is None:
        return None
    ready = "SELECT cid FROM lanes WHERE lane IS ? AND account = ? AND due IS NOT NULL"
    first = tx.one(f"{ready} ORDER BY due, cid LIMIT 1", lane, account)
    return take(tx, first["cid"], lane, token, length, at_once=at_once)


def beat(tx: Transaction, lease: Lease, seconds: int) -> Lease | None:
    """Renew a lease; None when it is lost."""
    row = tx.lane(lease.cid, lease.lane)
    if not is_held(row, lease):
        return None
    return replace(lease, until=_renew(row, tx.now + seconds) / 1000)


def release(
    tx: Transaction, lease: Lease, *, delay: int, failed: bool, done: Confirmed | None
) -> bool:
    """Give a lane back; False when the lease was lost already."""
    if done is not None:
        confirm(tx, lease, done)
    row = tx.lane(lease.cid, lease.lane)
    if (row.token, row.epoch) != (lease.token, lease.epoch):
        return False
    if row.until is None:  # given back before
        return True
    row.until, row.not_before = None, max(row.not_before, tx.now + delay)
    if lease.lane == "turn":
        tx.do(
            "UPDATE events SET starts = starts - 1, errors = errors + ? WHERE eid = ?",
            *(failed, row.head),
        )
    return True


def op_begin(
    tx: Transaction,
    lease: Lease,
    op_id: str,
    pos: int,
    *,
    attempt: int,
    need: int,
    note: str | None,
    done: Confirmed | None,
) -> Cursor | None:
    """Note that a part of the head operation goes on the wire; None when fenced."""
    if done is not None and confirm(tx, lease, done) == "fenced":
        return None
    row = tx.lane(lease.cid, lease.lane)
    if refusal(row, lease, op_id, pos):
        return None
    move_to(row, op_id, pos)
    if row.sent is None or row.tries != attempt:
        row.sent, row.tries, row.heard = tx.now, attempt, None
    if note is not None:
        row.note = blob(note)
    _renew(row, tx.now + need)
    return as_cursor(row)


def confirm(tx: Transaction, lease: Lease, done: Confirmed) -> Done:
    """Note that a part of the head operation is confirmed; the last part removes it."""
    row, op_id, pos = tx.lane(lease.cid, lease.lane), done.op_id, done.pos
    this_call = f"done {lease.epoch} {lease.token} {pos} {op_id}"
    if row.last == this_call:
        return "done"
    if refused := refusal(row, lease, op_id, pos):
        return refused
    _moves_on(row, this_call)
    if done.anchor is not None:
        row.anchor = blob(done.anchor)
    if done.last:
        drop_head(tx, row)
    else:
        move_to(row, op_id, pos + 1)
    return "done"


def op_retry(
    tx: Transaction, lease: Lease, op_id: str, pos: int, *, delay: int, sent: bool, note: str | None
) -> Done:
    """Note that a part of the head operation is to be tried again, after a delay."""
    row = tx.lane(lease.cid, lease.lane)
    if refused := refusal(row, lease, op_id, pos):
        return refused
    move_to(row, op_id, pos)
    row.not_before = tx.now + delay
    if not sent:
        row.sent = row.heard = None
    if note is not None:
        row.note = blob(note)
    return "done"


def op_park(tx: Transaction, lease: Lease, op_id: str, reason: str) -> Done:
    """Set the head operation aside for an operator, and the rest of its turn with it."""
    row = tx.lane(lease.cid, lease.lane)
    this_call = f"park {lease.epoch} {lease.token} {op_id}"
    if row.last == this_call:
        return "done"
    if refused := refusal(row, lease, op_id):
        return refused
    _moves_on(row, this_call)
    while row.head is not None and row.head.startswith(turn_of(op_id)):
        begun = (row.pos, row.sent, row.tries, row.note) if row.op == row.head else (None,) * 4
        tx.do(
            "INSERT INTO parked (cid, lane, id, body, reason, parked_at, pos, sent, tries, note)"
            " SELECT cid, lane, id, body, ?, ?, ?, ?, ?, ? FROM ops"
            " WHERE cid = ? AND lane = ? AND id = ?",
            *(blob(reason), tx.now, *begun, row.cid, row.lane, row.head),
        )
        drop_head(tx, row)
    return "done"


def hear(tx: Transaction, cid: str, note: str) -> bool:
    """Keep what was heard of the reply that is on the wire; False where none is."""
    row = tx.lane(follow(tx, cid), "say")
    if row.sent is None:
        return False
    heard = dict.fromkeys([*lines(text(row.heard)), note])
    row.heard, row.not_before = blob("\n".join(heard)), 0
    return True


def backlog(tx: Transaction) -> Backlog:
    """What is left to do."""
    row = tx.one(
        "SELECT (SELECT count(*) FROM events WHERE state = 'queued') AS queued,"
        " (SELECT count(*) FROM ops WHERE lane = 'write') AS writes,"
        " (SELECT count(*) FROM ops WHERE lane = 'say') AS says,"
        " (SELECT count(*) FROM parked) AS parked,"
        " (SELECT count(*) FROM events WHERE state = 'dead') AS dead"
    )
    return Backlog(**dict(row))


def _renew(row: LaneRow, until: int) -> int:
    row.until = max(row.until or 0, until)
    return row.until


def _moves_on(row: LaneRow, call: str) -> None:
    """Remember the call that moves the queue; the delay of the moved operation is over."""
    row.last, row.not_before = call, 0
