"""Events in SQLite: accepting them, and committing the turn that answers them.

Says the same as ``lua/accept.lua`` and ``lua/commit.lua``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from langchain_convsync.stores._checks import account_of, milliseconds
from langchain_convsync.stores._sqlite_file import Transaction
from langchain_convsync.stores._sqlite_lanes import (
    LANES,
    blob,
    due_in,
    head_of,
    is_held,
    keep_while_busy,
    schedule,
    take,
    text,
)
from langchain_convsync.stores._sqlite_names import follow, is_paused, link
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
        known = tx.one("SELECT * FROM events WHERE eid = ?", event.eid)
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
    tx.do("DELETE FROM conversations WHERE cid = ? AND expires <= ?", cid, tx.now)
    tx.do(
        "INSERT INTO conversations (cid, quiet, max_quiet) VALUES (?, ?, ?) ON CONFLICT (cid)"
        " DO UPDATE SET quiet = excluded.quiet, max_quiet = excluded.max_quiet",
        *(cid, quiet, max_quiet),
    )
    for lane in LANES:
        tx.do(
            "INSERT OR IGNORE INTO lanes (cid, lane, account) VALUES (?, ?, ?)",
            *(cid, lane, account_of(cid)),
        )
    tx.do(
        "INSERT INTO events (eid, cid, digest, payload, accepted_at, accepted_by)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        *(event.eid, cid, event.digest, blob(event.payload), tx.now, by),
    )
    keep_while_busy(tx, cid)
    schedule(tx, cid, "turn")


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
