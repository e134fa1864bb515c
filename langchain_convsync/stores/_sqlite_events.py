"""Events in SQLite: accepting them, changing them, and committing the turn that answers them.

Says the same as ``lua/accept.lua``, ``lua/amend.lua``, ``lua/link.lua`` and ``lua/commit.lua``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from langchain_convsync.stores._checks import decoded, encoded, milliseconds
from langchain_convsync.stores._sqlite_lanes import (
    append,
    blob,
    due_in,
    expire_if_idle,
    is_held,
    revive,
    take,
    text,
)
from langchain_convsync.stores._sqlite_names import follow, is_paused
from langchain_convsync.stores._sqlite_transaction import Transaction
from langchain_convsync.stores.base import Accepted, Commit, Committed, Lease, NewEvent

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
    cid = follow(tx, event.cid)
    known = _known(tx, event)
    if known is None:
        queued = tx.one("SELECT count(*) FROM events WHERE cid = ? AND state = 'queued'", cid)
        if queued[0] >= backlog:
            return Accepted(status="busy", cid=cid, due_in=due_in(tx, cid, "turn") or 0.0)
    if event.alias is not None:
        link(tx, event.alias, cid)
        known = known and _known(tx, event)  # it may have moved
    if known is None:
        _enqueue(tx, event, cid, by=by, quiet=quiet, max_quiet=max_quiet)
        accepted = Accepted(status="new", cid=cid, state="queued")
    else:
        accepted = Accepted(
            status="new" if known["accepted_by"] == by else "duplicate",
            cid=known["cid"],
            state=known["state"],
            outcome=text(known["outcome"]),
            differs=known["digest"] != event.digest,
        )
    if accepted.state != "queued":
        return accepted
    cid = accepted.cid
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
    turn = tx.lane(name, "turn")
    if lease is not None and lease.cid == name and is_held(turn, lease):
        tx.do("UPDATE events SET starts = starts - 1 WHERE eid = ?", turn.head)
    elif tx.now < (turn.until or 0):
        return False
    if turn.head is not None:
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
    turn = tx.lane(lease.cid, "turn")
    query = "SELECT eid FROM events WHERE cid = ? AND state = 'queued' ORDER BY seq LIMIT ?"
    waiting = [row["eid"] for row in tx.all(query, lease.cid, len(commit.eids) + 1)]
    if not is_held(turn, lease) or waiting[: len(commit.eids)] != list(commit.eids):
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
    turn.until = None
    tx.moved(lease.cid, "turn")
    append(tx, lease.cid, "write", [(op.id, encoded(op.body)) for op in commit.ops])
    append(tx, lease.cid, "say", [(op.id, encoded(op.body)) for op in commit.says])
    if turn.head is None and not commit.ops and not commit.says:
        expire_if_idle(tx, lease.cid)
    return "done"


def _known(tx: Transaction, event: NewEvent) -> Any:
    """The record of an event that was accepted before, and is not forgotten yet."""
    known = tx.one("SELECT * FROM events WHERE eid = ?", event.eid)
    if known is None or known["expires"] is None or known["expires"] > tx.now:
        return known
    tx.do("DELETE FROM events WHERE eid = ?", event.eid)
    return None


def _sweep(tx: Transaction) -> None:
    found = tx.one(
        "SELECT EXISTS (SELECT 1 FROM events WHERE expires <= ?)"
        " OR EXISTS (SELECT 1 FROM conversations WHERE expires <= ?)"
        " OR EXISTS (SELECT 1 FROM aliases WHERE expires <= ?)",
        *(tx.now, tx.now, tx.now),
    )
    if not found[0]:
        return
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
    tx.do(
        "UPDATE conversations SET quiet = ?, max_quiet = ?"
        " WHERE cid = ? AND (quiet, max_quiet) <> (?, ?)",
        *(quiet, max_quiet, cid, quiet, max_quiet),
    )
    tx.do(
        "INSERT INTO events (eid, cid, digest, payload, accepted_at, accepted_by)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        *(event.eid, cid, event.digest, blob(event.payload), tx.now, by),
    )
    tx.moved(cid, "turn")


def _bring_along(tx: Transaction, name: str, cid: str) -> None:
    """Put the events that wait under a name behind those of a conversation."""
    windows = tx.one("SELECT quiet, max_quiet FROM conversations WHERE cid = ?", name)
    revive(tx, cid, **dict(windows))
    waiting = "SELECT eid FROM events WHERE cid = ? AND state = 'queued' ORDER BY seq"
    for row in tx.all(waiting, name):
        tx.do(
            "UPDATE events SET cid = ?, seq = (SELECT max(seq) + 1 FROM events) WHERE eid = ?",
            *(cid, row["eid"]),
        )
    tx.moved(cid, "turn")
    tx.moved(name, "turn").until = None
    expire_if_idle(tx, name)


def _end(tx: Transaction, eid: str, commit: Commit, by: str) -> None:
    tx.do(
        "UPDATE events SET state = ?, outcome = ?, ended_by = ?, expires = ?,"
        " payload = iif(?, payload, NULL) WHERE eid = ?",
        *("dead" if commit.dead else "done", blob(commit.outcomes.get(eid)), by),
        *(None if commit.dead else tx.now + tx.retention, commit.dead, eid),
    )
