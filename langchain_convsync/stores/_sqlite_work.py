"""Work under a lease in SQLite: taking lanes, keeping them, and delivering their operations.

Says the same as the files of these names in ``lua/``.
"""

from __future__ import annotations

from dataclasses import replace

from langchain_convsync.stores._checks import lines, turn_of
from langchain_convsync.stores._sqlite_file import Transaction
from langchain_convsync.stores._sqlite_lanes import (
    as_cursor,
    blob,
    drop_head,
    head_of,
    is_full,
    is_held,
    keep_while_busy,
    lane_of,
    move_to,
    refusal,
    schedule,
    take,
    taken,
    text,
)
from langchain_convsync.stores._sqlite_names import follow
from langchain_convsync.stores.base import Backlog, Confirmed, Cursor, Done, Lane, Lease, Taken


def take_any(tx: Transaction, lane: Lane, token: str, length: int, at_once: int) -> Taken | None:
    """Lease the lane that is next: accounts take turns, the longest due first within one."""
    query = "SELECT cid FROM lanes WHERE token = ? AND until IS NOT NULL AND lane = ?"
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
    ready = "SELECT cid FROM lanes WHERE lane = ? AND account = ? AND due IS NOT NULL"
    first = tx.one(f"{ready} ORDER BY due, cid LIMIT 1", lane, account)
    return take(tx, first["cid"], lane, token, length, at_once=at_once)


def beat(tx: Transaction, lease: Lease, seconds: int) -> Lease | None:
    """Renew a lease; None when it is lost."""
    if not is_held(tx, lease):
        return None
    return replace(lease, until=_renew(tx, lease, seconds) / 1000)


def release(
    tx: Transaction, lease: Lease, *, delay: int, failed: bool, done: Confirmed | None
) -> bool:
    """Give a lane back; False when the lease was lost already."""
    if done is not None:
        confirm(tx, lease, done)
    has = lane_of(tx, lease.cid, lease.lane)
    if has is None or (has["token"], has["epoch"]) != (lease.token, lease.epoch):
        return False
    if has["until"] is None:  # given back before
        return True
    tx.do(
        "UPDATE lanes SET until = NULL, not_before = max(not_before, ?) WHERE cid = ? AND lane = ?",
        *(tx.now + delay, lease.cid, lease.lane),
    )
    if lease.lane == "turn":
        tx.do(
            "UPDATE events SET starts = starts - 1, errors = errors + ? WHERE eid = ?",
            *(failed, head_of(tx, lease.cid, "turn")),
        )
    schedule(tx, lease.cid, lease.lane)
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
    if refusal(tx, lease, op_id, pos):
        return None
    move_to(tx, lease, op_id, pos)
    tx.do(
        "UPDATE lanes SET sent = ?, tries = ?, heard = NULL"
        " WHERE cid = ? AND lane = ? AND (tries <> ? OR sent IS NULL)",
        *(tx.now, attempt, lease.cid, lease.lane, attempt),
    )
    _note(tx, lease, note)
    _renew(tx, lease, need)
    return as_cursor(lane_of(tx, lease.cid, lease.lane))


def confirm(tx: Transaction, lease: Lease, done: Confirmed) -> Done:
    """Note that a part of the head operation is confirmed; the last part removes it."""
    op_id, pos = done.op_id, done.pos
    this_call = f"done {lease.epoch} {lease.token} {pos} {op_id}"
    if _repeats(tx, lease, this_call):
        return "done"
    if refused := refusal(tx, lease, op_id, pos):
        return refused
    _moved(tx, lease, this_call)
    if done.anchor is not None:
        tx.do(
            "UPDATE lanes SET anchor = ? WHERE cid = ? AND lane = ?",
            *(blob(done.anchor), lease.cid, lease.lane),
        )
    if done.last:
        drop_head(tx, lease, op_id)
    else:
        move_to(tx, lease, op_id, pos + 1)
    schedule(tx, lease.cid, lease.lane)
    keep_while_busy(tx, lease.cid)
    return "done"


def op_retry(
    tx: Transaction, lease: Lease, op_id: str, pos: int, *, delay: int, sent: bool, note: str | None
) -> Done:
    """Note that a part of the head operation is to be tried again, after a delay."""
    if refused := refusal(tx, lease, op_id, pos):
        return refused
    move_to(tx, lease, op_id, pos)
    tx.do(
        "UPDATE lanes SET not_before = ?, sent = iif(?, sent, NULL), heard = iif(?, heard, NULL)"
        " WHERE cid = ? AND lane = ?",
        *(tx.now + delay, sent, sent, lease.cid, lease.lane),
    )
    _note(tx, lease, note)
    schedule(tx, lease.cid, lease.lane)
    return "done"


def op_park(tx: Transaction, lease: Lease, op_id: str, reason: str) -> Done:
    """Set the head operation aside for an operator, and the rest of its turn with it."""
    this_call = f"park {lease.epoch} {lease.token} {op_id}"
    if _repeats(tx, lease, this_call):
        return "done"
    if refused := refusal(tx, lease, op_id):
        return refused
    _moved(tx, lease, this_call)
    head: str | None = op_id
    while head is not None and head.startswith(turn_of(op_id)):
        tx.do(
            "INSERT INTO parked (cid, lane, id, body, reason, parked_at, pos, sent, tries, note)"
            " SELECT ops.cid, ops.lane, id, body, ?, ?, iif(op = id, pos, NULL),"
            " iif(op = id, sent, NULL), iif(op = id, tries, NULL), iif(op = id, note, NULL)"
            " FROM ops JOIN lanes USING (cid, lane) WHERE ops.cid = ? AND ops.lane = ? AND id = ?",
            *(blob(reason), tx.now, lease.cid, lease.lane, head),
        )
        drop_head(tx, lease, head)
        head = head_of(tx, lease.cid, lease.lane)
    schedule(tx, lease.cid, lease.lane)
    keep_while_busy(tx, lease.cid)
    return "done"


def hear(tx: Transaction, cid: str, note: str) -> bool:
    """Keep what was heard of the reply that is on the wire; False where none is."""
    cid = follow(tx, cid)
    lane = lane_of(tx, cid, "say")
    if lane is None or lane["sent"] is None:
        return False
    heard = dict.fromkeys([*lines(text(lane["heard"])), note])
    tx.do(
        "UPDATE lanes SET heard = ?, not_before = 0 WHERE cid = ? AND lane = 'say'",
        *(blob("\n".join(heard)), cid),
    )
    schedule(tx, cid, "say")
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


def _renew(tx: Transaction, lease: Lease, length: int) -> int:
    tx.do(
        "UPDATE lanes SET until = max(until, ?) WHERE cid = ? AND lane = ?",
        *(tx.now + length, lease.cid, lease.lane),
    )
    schedule(tx, lease.cid, lease.lane)
    until: int = lane_of(tx, lease.cid, lease.lane)["until"]
    return until


def _note(tx: Transaction, lease: Lease, note: str | None) -> None:
    if note is not None:
        tx.do(
            "UPDATE lanes SET note = ? WHERE cid = ? AND lane = ?",
            *(blob(note), lease.cid, lease.lane),
        )


def _repeats(tx: Transaction, lease: Lease, call: str) -> bool:
    has = lane_of(tx, lease.cid, lease.lane)
    return has is not None and has["last"] == call


def _moved(tx: Transaction, lease: Lease, call: str) -> None:
    """Remember the call that moves the queue; the delay of the moved operation is over."""
    tx.do(
        "UPDATE lanes SET last = ?, not_before = 0 WHERE cid = ? AND lane = ?",
        *(call, lease.cid, lease.lane),
    )
