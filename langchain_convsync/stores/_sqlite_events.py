"""Events in SQLite: accepting them, changing them, and committing the turn that answers them.

Says the same as ``lua/accept.lua``, ``lua/amend.lua``, ``lua/link.lua`` and ``lua/commit.lua``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from langchain_convsync.stores._checks import decoded, milliseconds
from langchain_convsync.stores._sqlite_file import Transaction
from langchain_convsync.stores._sqlite_lanes import (
    LANES,
    blob,
    due_in,
    head_of,
    is_held,
    keep_while_busy,
    lane_of,
    revive,
    schedule,
    take,
    text,
)
from langchain_convsync.stores._sqlite_names import follow, is_paused
from langchain_convsync.stores.base import Accepted, Commit, Committed, Lane, Lease, NewEvent, Op

#: How many expired records an accept removes on its way: more than it adds, and never long.
_SWEEP = 20


def accept(
    tx: Transaction,
    event: NewEvent,
    *,
    by: str,
    token: str | None,
    length: int,
    quiet: int,
    max_quiet: int,
    backlog: int,
    at_once: int,
) -> Accepted:
    """Record an event once; ``by`` tells a repeated call from another delivery of the event."""
    _sweep(tx)
    tx.do("DELETE FROM events WHERE eid = ? AND expires <= ?", event.eid, tx.now)
    cid = follow(tx, event.cid)
    known = tx.one("SELECT * FROM events WHERE eid = ?", event.eid)
    if known is None:
        queued = tx.one("SELECT count(*) FROM events WHERE cid = ? AND state = 'queued'", cid)
        if queued[0] >= backlog:
            return Accepted(status="busy", cid=cid, due_in=due_in(tx, cid, "turn") or 0.0)
    if event.alias is not None:
        link(tx, event.alias, cid)
    if known is None:
        _enqueue(tx, event, cid, by=by, quiet=quiet, max_quiet=max_quiet)
    known = tx.one("SELECT * FROM events WHERE eid = ?", event.eid)  # it may have moved
    cid = known["cid"]
    status: Literal["new", "duplicate"] = "new" if known["accepted_by"] == by else "duplicate"
    accepted = Accepted(
        status=status,
        cid=cid,
        state=known["state"],
        outcome=text(known["outcome"]),
        differs=known["digest"] != event.digest,
    )
    if known["state"] != "queued":
        return accepted
    lane = None if token is None else take(tx, cid, "turn", token, length, at_once=at_once)
    return replace(accepted, taken=lane, due_in=0.0 if lane else due_in(tx, cid, "turn") or 0.0)


def amend(tx: Transaction, eid: str, before: str, after: str) -> str | None:
    """Replace the payload of a queued event, if it is the expected one; the one it has then."""
    row = tx.one("SELECT payload FROM events WHERE eid = ? AND state = 'queued'", eid)
    if row is None:
        return None
    if (held := decoded(row["payload"])) != before:
        return held
    tx.do("UPDATE events SET payload = ? WHERE eid = ?", blob(after), eid)
    return after


def link(tx: Transaction, name: str, cid: str, lease: Lease | None = None) -> bool:
    """Let a name lead to a conversation, which is no alias itself, hence never in a circle.

    Its events and a human's takeover go along. Answers whether the name leads there now: not while
    it has operations, or a turn that is not the caller's.
    """
    if name == cid:
        return True
    if tx.one("SELECT 1 FROM ops WHERE cid = ?", name):
        return False
    turn = lane_of(tx, name, "turn")
    if lease is not None and lease.cid == name and is_held(tx, lease):
        head = head_of(tx, name, "turn")
        tx.do("UPDATE events SET starts = starts - 1 WHERE eid = ?", head)
    elif turn is not None and tx.now < (turn["until"] or 0):
        return False
    if head_of(tx, name, "turn") is not None:
        _bring_along(tx, name, cid)
    tx.do("INSERT OR REPLACE INTO aliases VALUES (?, ?, ?)", name, cid, tx.now + tx.retention)
    tx.do(
        "INSERT INTO pauses SELECT ?, until FROM pauses WHERE cid = ?"
        " ON CONFLICT (cid) DO UPDATE SET until = max(until, excluded.until)",
        *(cid, name),
    )
    tx.do("DELETE FROM pauses WHERE cid = ?", name)
    return True


def commit_turn(tx: Transaction, lease: Lease, commit: Commit) -> Committed:
    """End a turn: its events, operations and snapshot change together."""
    by = f"{lease.epoch} {lease.token}"
    head = tx.one("SELECT state, ended_by FROM events WHERE eid = ?", commit.eids[0])
    if head is not None and head["state"] != "queued":
        return "done" if head["ended_by"] == by else "already"
    query = "SELECT eid FROM events WHERE cid = ? AND state = 'queued' ORDER BY seq LIMIT ?"
    waiting = [row["eid"] for row in tx.all(query, lease.cid, len(commit.eids) + 1)]
    if not is_held(tx, lease) or waiting[: len(commit.eids)] != list(commit.eids):
        return "fenced"
    if commit.unless_paused and is_paused(tx, lease.cid):
        return "paused"
    if commit.unless_newer and len(waiting) > len(commit.eids):
        return "newer"
    for eid in commit.eids:
        _end(tx, eid, commit, by)
    lives = milliseconds(commit.snapshot_ttl)
    valid = commit.snapshot is not None and lives > 0
    tx.do(
        "UPDATE conversations SET turns = turns + 1, snapshot = ?, snapshot_until = ?"
        " WHERE cid = ?",
        blob(commit.snapshot) if valid else None,
        tx.now + lives if valid else None,
        lease.cid,
    )
    tx.do("UPDATE lanes SET until = NULL WHERE cid = ? AND lane = 'turn'", lease.cid)
    _append(tx, lease.cid, "write", commit.ops)
    _append(tx, lease.cid, "say", commit.says)
    for lane in LANES:
        schedule(tx, lease.cid, lane)
    keep_while_busy(tx, lease.cid)
    return "done"


def _sweep(tx: Transaction) -> None:
    for table, name in (("events", "eid"), ("conversations", "cid"), ("aliases", "alias")):
        tx.do(
            f"DELETE FROM {table} WHERE {name} IN"  # noqa: S608 - our own names
            f" (SELECT {name} FROM {table} WHERE expires <= ? ORDER BY expires LIMIT {_SWEEP})",
            tx.now,
        )


def _enqueue(
    tx: Transaction, event: NewEvent, cid: str, *, by: str, quiet: int, max_quiet: int
) -> None:
    revive(tx, cid)
    tx.do("UPDATE conversations SET quiet = ?, max_quiet = ? WHERE cid = ?", quiet, max_quiet, cid)
    tx.do(
        "INSERT INTO events (eid, cid, digest, payload, accepted_at, accepted_by)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        *(event.eid, cid, event.digest, blob(event.payload), tx.now, by),
    )
    keep_while_busy(tx, cid)
    schedule(tx, cid, "turn")


def _bring_along(tx: Transaction, name: str, cid: str) -> None:
    """Put the events that wait under a name behind those of a conversation."""
    revive(tx, cid, like=name)
    waiting = "SELECT eid FROM events WHERE cid = ? AND state = 'queued' ORDER BY seq"
    for row in tx.all(waiting, name):
        tx.do(
            "UPDATE events SET cid = ?, seq = (SELECT max(seq) + 1 FROM events) WHERE eid = ?",
            *(cid, row["eid"]),
        )
    tx.do("UPDATE lanes SET until = NULL WHERE cid = ? AND lane = 'turn'", name)
    for each in (cid, name):  # in this order, so that their account keeps its place
        schedule(tx, each, "turn")
        keep_while_busy(tx, each)


def _end(tx: Transaction, eid: str, commit: Commit, by: str) -> None:
    tx.do(
        "UPDATE events SET state = ?, outcome = ?, ended_by = ? WHERE eid = ?",
        *("dead" if commit.dead else "done", blob(commit.outcomes.get(eid)), by, eid),
    )
    if not commit.dead:
        tx.do(
            "UPDATE events SET payload = NULL, expires = ? WHERE eid = ?",
            *(tx.now + tx.retention, eid),
        )


def _append(tx: Transaction, cid: str, lane: Lane, ops: Sequence[Op]) -> None:
    if not ops:
        return
    if head_of(tx, cid, lane) is None:  # an empty lane's delay, if it has one, is still to be kept
        tx.do(
            "UPDATE lanes SET not_before = max(not_before, ?) WHERE cid = ? AND lane = ?",
            *(tx.now, cid, lane),
        )
    for op in ops:
        tx.do(
            "INSERT INTO ops (cid, lane, id, body) VALUES (?, ?, ?, ?)",
            *(cid, lane, op.id, blob(op.body)),
        )
