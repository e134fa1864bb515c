"""What operators need in SQLite: looking at conversations, and deciding what is set aside.

Says the same as the files of these names in ``lua/``.
"""

from __future__ import annotations

from typing import Any

from langchain_convsync.stores._checks import account_of, call_handle, decoded, encoded, renewed_id
from langchain_convsync.stores._sqlite_lanes import (
    LANES,
    append,
    as_cursor,
    due_in,
    inbox,
    revive,
    text,
)
from langchain_convsync.stores._sqlite_names import follow
from langchain_convsync.stores._sqlite_transaction import Transaction
from langchain_convsync.stores.base import (
    NO_ACCOUNT,
    ConversationView,
    Lane,
    LaneView,
    Load,
    Op,
    SetAside,
)

_PARKED = (
    "SELECT cid, lane, id, body, reason, parked_at AS since, pos, sent, tries FROM parked"
    " WHERE ? IS NULL OR cid IN (?, ?) ORDER BY parked_at, cid, lane, seq LIMIT ?"
)
_DEAD = (
    "SELECT cid, 'turn' AS lane, eid AS id, payload AS body, X'' AS reason, accepted_at AS since,"
    " NULL AS pos, NULL AS sent, starts + errors AS tries FROM events"
    " WHERE state = 'dead' AND (? IS NULL OR cid IN (?, ?)) ORDER BY accepted_at, cid, eid LIMIT ?"
)
#: A name, and every alias that leads to it, through others too.
_NAMES = (
    "WITH RECURSIVE names (name) AS (SELECT ? UNION SELECT alias FROM aliases, names"
    " WHERE aliases.cid = names.name AND expires > ?) SELECT name FROM names"
)


def loads(tx: Transaction) -> tuple[Load, ...]:
    """What each account has to do in each lane."""
    rows = tx.all(
        "SELECT account, lane, count(*) AS conversations, min(due) AS due FROM lanes"
        " WHERE due IS NOT NULL AND account NOT LIKE ? GROUP BY lane, account"
        " ORDER BY min(due), account, lane",
        f"%{NO_ACCOUNT}",
    )
    return tuple(
        Load(
            account=row["account"],
            lane=row["lane"],
            conversations=row["conversations"],
            due_in=(row["due"] - tx.now) / 1000,
        )
        for row in rows
    )


def view(tx: Transaction, cid: str, most: int) -> ConversationView:
    """A conversation without taking anything of it."""
    cid = _destination(tx, cid)
    query = "SELECT * FROM conversations WHERE cid = ? AND ifnull(expires, ?) > ?"
    talk = tx.one(query, cid, tx.now + 1, tx.now)
    paused = tx.one("SELECT until FROM pauses WHERE cid = ? AND until > ?", cid, tx.now)
    events = inbox(tx, cid)
    lanes = {lane: _lane_view(tx, cid, lane, most) for lane in ("write", "say")} if talk else {}
    return ConversationView(
        cid=cid,
        now=tx.now / 1000,
        turns=talk["turns"] if talk else 0,
        paused_until=_seconds(paused and paused["until"]),
        events=events[:most],
        turn=LaneView(
            depth=len(events),
            due_in=due_in(tx, cid, "turn"),
            held_until=_seconds(tx.lane(cid, "turn").until),
        ),
        **lanes,
    )


def _lane_view(tx: Transaction, cid: str, lane: Lane, most: int) -> LaneView:
    row, place = tx.lane(cid, lane), (cid, lane)
    query = "SELECT id, body FROM ops WHERE cid = ? AND lane = ? ORDER BY seq LIMIT ?"
    depth = tx.one("SELECT count(*) FROM ops WHERE cid = ? AND lane = ?", *place)[0]
    return LaneView(
        depth=depth,
        due_in=due_in(tx, cid, lane),
        held_until=_seconds(row.until),
        cursor=as_cursor(row),
        ops=tuple(Op(id=op["id"], body=decoded(op["body"])) for op in tx.all(query, *place, most)),
        anchor=text(row.anchor),
    )


def set_aside(tx: Transaction, cid: str | None, most: int) -> tuple[SetAside, ...]:
    """What is set aside in one conversation or in all: oldest first, at most so many."""
    names = (cid, cid, None if cid is None else _destination(tx, cid))
    rows = [*tx.all(_PARKED, *names, most), *tx.all(_DEAD, *names, most)]
    rows.sort(key=lambda row: (row["since"], row["cid"], row["lane"]))
    return tuple(_as_set_aside(row) for row in rows[:most])


def requeue(tx: Transaction, aside: SetAside, token: str, body: str | None) -> str | None:
    """Give what was set aside back to the workers, once; None when it is not set aside any more."""
    note, renewed = call_handle(aside, "requeue", token), renewed_id(aside, token)
    if _is_remembered(tx, note):
        return renewed
    cid = follow(tx, aside.cid)
    if aside.lane == "turn":
        dead = tx.one("SELECT * FROM events WHERE eid = ? AND state = 'dead'", aside.id)
        if dead is None:
            return None
        revive(tx, cid)
        tx.do(
            "INSERT INTO events (eid, cid, digest, payload, accepted_at, accepted_by)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            *(note, cid, dead["digest"], dead["payload"] if body is None else encoded(body)),
            *(tx.now, note),
        )
        tx.moved(cid, "turn")
        _bury(tx, aside.id)
    else:
        parked = _unpark(tx, aside)
        if parked is None:
            return None
        revive(tx, cid)
        append(tx, cid, aside.lane, [(renewed, parked if body is None else encoded(body))])
        _remember(tx, note, cid)
    return renewed


def discard(tx: Transaction, aside: SetAside, token: str) -> bool:
    """Give up what was set aside, once; False when it is not set aside any more."""
    note = call_handle(aside, "discard", token)
    if _is_remembered(tx, note):
        return True
    if aside.lane == "turn":
        if tx.one("SELECT 1 FROM events WHERE eid = ? AND state = 'dead'", aside.id) is None:
            return False
        _bury(tx, aside.id)
    elif _unpark(tx, aside) is None:
        return False
    _remember(tx, note, aside.cid)
    return True


def forget(tx: Transaction, cid: str) -> None:
    """Erase everything that is kept of a conversation, and of aliases that lead to it."""
    for row in tx.all(_NAMES, follow(tx, cid), tx.now):
        name = row["name"]
        for table in ("events", "ops", "parked", "pauses", "conversations"):
            tx.do(f"DELETE FROM {table} WHERE cid = ?", name)  # noqa: S608 - our own names
        tx.do("DELETE FROM aliases WHERE alias = ?", name)
    for lane in LANES:
        tx.keep_in_ring(account_of(cid), lane, is_due=False)


def _destination(tx: Transaction, cid: str) -> str:
    """Where a name leads to, without keeping it alive."""
    while alias := tx.one("SELECT cid FROM aliases WHERE alias = ? AND expires > ?", cid, tx.now):
        cid = alias["cid"]
    return cid


def _unpark(tx: Transaction, aside: SetAside) -> Any:
    """Take an operation out of the parked ones; its body, None where it is not among them."""
    row = tx.one(
        "DELETE FROM parked WHERE seq = (SELECT min(seq) FROM parked"
        " WHERE cid = ? AND lane = ? AND id = ?) RETURNING body",
        *(aside.cid, aside.lane, aside.id),
    )
    return None if row is None else row["body"]


def _bury(tx: Transaction, eid: str) -> None:
    """A dead letter is done, with the outcome that it had."""
    tx.do(
        "UPDATE events SET state = 'done', payload = NULL, expires = ? WHERE eid = ?",
        *(tx.now + tx.retention, eid),
    )


def _remember(tx: Transaction, note: str, cid: str) -> None:
    """Leave the record by which a repeated call is recognised."""
    tx.do(
        "INSERT OR REPLACE INTO events (eid, cid, state, digest, accepted_at, accepted_by, expires)"
        " VALUES (?, ?, 'done', '', ?, '', ?)",
        *(note, cid, tx.now, tx.now + tx.retention),
    )


def _is_remembered(tx: Transaction, note: str) -> bool:
    query = "SELECT 1 FROM events WHERE eid = ? AND (expires IS NULL OR expires > ?)"
    return tx.one(query, note, tx.now) is not None


def _as_set_aside(row: Any) -> SetAside:
    return SetAside(
        cid=row["cid"],
        lane=row["lane"],
        id=row["id"],
        body=decoded(row["body"]),
        reason=decoded(row["reason"]),
        since=row["since"] / 1000,
        pos=row["pos"] or 0,
        sent_at=_seconds(row["sent"]),
        tries=row["tries"] or 0,
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
