"""Lanes in SQLite: when they are due, leasing them, moving their queues on.

The same functions, under the same names, as the Redis scripts share in ``lua/_prelude.lua``.
"""

from __future__ import annotations

from typing import Any, Literal

from langchain_convsync.stores._checks import account_of, decoded, encoded, lines
from langchain_convsync.stores._sqlite_file import Transaction
from langchain_convsync.stores._sqlite_names import is_busy, is_paused
from langchain_convsync.stores.base import (
    Cursor,
    Lane,
    Lease,
    Op,
    QueuedEvent,
    Taken,
    is_claim,
)

LANES: tuple[Lane, ...] = ("turn", "write", "say")


def due(tx: Transaction, cid: str, lane: Lane) -> int | None:
    """When a lane can be taken: after its lease, its delay, the quiet window; None without work."""
    has = lane_of(tx, cid, lane)
    if has is None:
        return None
    at: int = max(has["until"] or 0, has["not_before"])
    if lane != "turn":
        return at if head_of(tx, cid, lane) is not None else None
    arrival = "SELECT accepted_at FROM events WHERE cid = ? AND state = 'queued' ORDER BY seq"
    first = tx.one(f"{arrival} LIMIT 1", cid)
    if first is None:
        return None
    last = tx.one(f"{arrival} DESC LIMIT 1", cid)
    windows = tx.one("SELECT quiet, max_quiet FROM conversations WHERE cid = ?", cid)
    quiet: int = min(first[0] + windows["max_quiet"], last[0] + windows["quiet"])
    return max(at, quiet)


def due_in(tx: Transaction, cid: str, lane: Lane) -> float | None:
    """Seconds until a lane can be taken; None without work."""
    at = due(tx, cid, lane)
    return None if at is None else max(0, at - tx.now) / 1000


def schedule(tx: Transaction, cid: str, lane: Lane) -> None:
    """Bring the index of due work up to date."""
    at, account = due(tx, cid, lane), account_of(cid)
    tx.do("UPDATE lanes SET due = ? WHERE cid = ? AND lane = ?", at, cid, lane)
    if is_claim(cid):
        return
    waiting = "SELECT 1 FROM lanes WHERE lane = ? AND account = ? AND due IS NOT NULL"
    if at is not None or tx.one(waiting, lane, account):
        tx.do("INSERT OR IGNORE INTO accounts (lane, account) VALUES (?, ?)", lane, account)
    else:
        tx.do("DELETE FROM accounts WHERE lane = ? AND account = ?", lane, account)


def keep_while_busy(tx: Transaction, cid: str) -> None:
    """To be called when work was added or taken away: only an idle conversation expires."""
    expires = None if is_busy(tx, cid) else tx.now + tx.retention
    tx.do("UPDATE conversations SET expires = ? WHERE cid = ?", expires, cid)


def revive(tx: Transaction, cid: str, *, like: str | None = None) -> None:
    """Begin a conversation that there is not, or was idle for long: with the windows of another."""
    tx.do("DELETE FROM conversations WHERE cid = ? AND expires <= ?", cid, tx.now)
    tx.do(
        "INSERT OR IGNORE INTO conversations (cid, quiet, max_quiet)"
        " SELECT ?, ifnull(max(quiet), 0), ifnull(max(max_quiet), 0) FROM conversations"
        " WHERE cid = ?",
        *(cid, like),
    )
    for lane in LANES:
        tx.do(
            "INSERT OR IGNORE INTO lanes (cid, lane, account) VALUES (?, ?, ?)",
            *(cid, lane, account_of(cid)),
        )


def lane_of(tx: Transaction, cid: str, lane: Lane) -> Any:
    """The lane's row."""
    return tx.one("SELECT * FROM lanes WHERE cid = ? AND lane = ?", cid, lane)


def head_of(tx: Transaction, cid: str, lane: Lane) -> str | None:
    """The id of what is at the head of a lane's queue."""
    if lane == "turn":
        query = "SELECT eid FROM events WHERE cid = ? AND state = 'queued' ORDER BY seq LIMIT 1"
        row = tx.one(query, cid)
    else:
        query = "SELECT id FROM ops WHERE cid = ? AND lane = ? ORDER BY seq LIMIT 1"
        row = tx.one(query, cid, lane)
    return None if row is None else row[0]


def is_held(tx: Transaction, lease: Lease) -> bool:
    """Whether nobody followed, and the lane was not given back."""
    has = lane_of(tx, lease.cid, lease.lane)
    if has is None or has["until"] is None:
        return False
    return bool(has["token"] == lease.token and has["epoch"] == lease.epoch)


def is_full(tx: Transaction, account: str, lane: Lane, at_once: int) -> bool:
    """Whether so many turns of the account run already; 0 stands for any number."""
    if lane != "turn" or not at_once:
        return False
    query = "SELECT count(*) FROM lanes WHERE lane = 'turn' AND account = ? AND until > ?"
    return bool(tx.one(query, account, tx.now)[0] >= at_once)


def take(
    tx: Transaction, cid: str, lane: Lane, token: str, length: int, *, at_once: int
) -> Taken | None:
    """Lease the lane if it is due, or again to the token that holds it."""
    has = lane_of(tx, cid, lane)
    if has is None:
        return None
    if has["token"] == token and has["until"] is not None:
        return taken(tx, cid, lane)
    if has["due"] is None or has["due"] > tx.now:
        return None
    if is_full(tx, has["account"], lane, at_once):
        return None
    tx.do(
        "UPDATE lanes SET epoch = epoch + 1, token = ?, until = ? WHERE cid = ? AND lane = ?",
        *(token, tx.now + length, cid, lane),
    )
    if lane == "turn":
        tx.do("UPDATE events SET starts = starts + 1 WHERE eid = ?", head_of(tx, cid, lane))
    # One more than before, so that takes within one millisecond go around too.
    tx.do(
        "UPDATE accounts SET place = max(place, ?) + 1 WHERE lane = ? AND account = ?",
        *(tx.now * 1000, lane, account_of(cid)),
    )
    schedule(tx, cid, lane)
    return taken(tx, cid, lane)


def taken(tx: Transaction, cid: str, lane: Lane) -> Taken:
    """A leased lane with everything needed to work on it."""
    queue: Lane = "write" if lane == "turn" else lane
    has, work = lane_of(tx, cid, lane), lane_of(tx, cid, queue)
    talk = tx.one("SELECT * FROM conversations WHERE cid = ?", cid)
    valid = lane == "turn" and talk["snapshot"] is not None and tx.now < talk["snapshot_until"]
    ops = tx.all("SELECT id, body FROM ops WHERE cid = ? AND lane = ? ORDER BY seq", cid, queue)
    return Taken(
        lease=Lease(
            cid=cid,
            lane=lane,
            token=has["token"],
            epoch=has["epoch"],
            until=has["until"] / 1000,
        ),
        now=tx.now / 1000,
        events=inbox(tx, cid) if lane == "turn" else (),
        ops=tuple(Op(id=op["id"], body=decoded(op["body"])) for op in ops),
        cursor=as_cursor(work),
        anchor=text(work["anchor"]),
        snapshot=decoded(talk["snapshot"]) if valid else None,
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


def as_cursor(lane: Any) -> Cursor | None:
    """The cursor in a lane's row."""
    if lane["op"] is None:
        return None
    return Cursor(
        op_id=lane["op"],
        pos=lane["pos"],
        sent_at=None if lane["sent"] is None else lane["sent"] / 1000,
        tries=lane["tries"],
        note=text(lane["note"]),
        heard=lines(text(lane["heard"])),
    )


def refusal(
    tx: Transaction, lease: Lease, op_id: str, pos: int | None = None
) -> Literal["already", "fenced"] | None:
    """Why the operation at the head of a lane cannot be moved on; None if it can."""
    if head_of(tx, lease.cid, lease.lane) != op_id:
        return "already"
    has = lane_of(tx, lease.cid, lease.lane)
    if has["op"] is not None and pos is not None and has["pos"] > pos:
        return "already"
    return None if is_held(tx, lease) else "fenced"


def move_to(tx: Transaction, lease: Lease, op_id: str, pos: int) -> None:
    """Put the cursor on a part; what was noted about an earlier part is forgotten."""
    tx.do(
        "UPDATE lanes SET op = ?, pos = ?, tries = 0, sent = NULL, note = NULL, heard = NULL"
        " WHERE cid = ? AND lane = ? AND (op IS NOT ? OR pos IS NOT ?)",
        *(op_id, pos, lease.cid, lease.lane, op_id, pos),
    )


def drop_head(tx: Transaction, lease: Lease, op_id: str) -> None:
    """Remove the operation at the head of the lane's queue."""
    place = (lease.cid, lease.lane)
    tx.do("DELETE FROM ops WHERE cid = ? AND lane = ? AND id = ?", *place, op_id)
    tx.do(
        "UPDATE lanes SET op = NULL, pos = NULL, sent = NULL, tries = NULL, note = NULL,"
        " heard = NULL WHERE cid = ? AND lane = ?",
        *place,
    )


def text(data: bytes | None) -> str | None:
    """Optional text from its bytes."""
    return None if data is None else decoded(data)


def blob(written: str | None) -> bytes | None:
    """Optional text as bytes."""
    return None if written is None else encoded(written)
