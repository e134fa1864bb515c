"""How an account sends in SQLite: whether it may, and how fast.

Says the same as the Redis scripts, ``lua/_prelude.lua`` and ``lua/pace.lua``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_convsync.stores.base import (
    ACKS_KEPT,
    FIRST_CONTACTS,
    RESTRICTION_KEPT,
    Ack,
    Lease,
    Restriction,
)
from langchain_convsync.stores.checks import account_of, acks_in, decoded, encoded, is_farther
from langchain_convsync.stores.sqlite.transaction import QueueRow, Transaction

_KEPT = round(RESTRICTION_KEPT * 1000)


def restriction(tx: Transaction, account: str) -> Any:
    """The row of an account that is restricted, or on trial; None where it is not."""
    query = "SELECT * FROM restrictions WHERE account = ? AND until + ? > ?"
    return tx.one(query, account, _KEPT, tx.now)


def is_capped(tx: Transaction, account: str) -> bool:
    """Whether what restricts it now holds first contacts alone."""
    found = restriction(tx, account)
    return found is not None and found["kind"] == FIRST_CONTACTS and tx.now < found["until"]


def holding(tx: Transaction, row: QueueRow) -> Any:
    """What restricts a queue; None where nothing does."""
    found = restriction(tx, account_of(row.conversation)) if row.queue == "replies" else None
    is_known = found is not None and found["kind"] == FIRST_CONTACTS and row.anchor is not None
    return None if is_known else found


def held_until(tx: Transaction, row: QueueRow) -> int:
    """When its next reply may be tried."""
    found = holding(tx, row)
    return 0 if found is None else found["until"]


def try_out(tx: Transaction, row: QueueRow, token: str, length: int) -> None:
    """To be called where a queue is acquired: it shows whether what restricts it is over."""
    if holding(tx, row) is not None:
        change = "UPDATE restrictions SET until = ?, by = ? WHERE account = ?"
        tx.do(change, tx.now + length, token, account_of(row.conversation))


def tried_out(tx: Transaction, account: str, token: str) -> None:
    """To be called where it is given back: another one may be tried."""
    change = "UPDATE restrictions SET until = min(until, ?), by = NULL WHERE account = ? AND by = ?"
    tx.do(change, tx.now, account, token)


def on_trial(tx: Transaction, row: QueueRow) -> Restriction | None:
    """Why an account is restricted, where the holder of a queue shows if that is over."""
    found = restriction(tx, account_of(row.conversation)) if row.queue == "replies" else None
    return None if found is None or found["by"] != row.token else as_restriction(found)


def may_send(tx: Transaction, row: QueueRow) -> bool:
    """Whether a message may go now: of a restricted account, what shows if that is over."""
    found = holding(tx, row)
    return found is None or tx.now >= found["until"] or found["by"] == row.token


def restrict(tx: Transaction, account: str, kind: str, length: int, why: str) -> None:
    """Restrict an account."""
    tx.do("DELETE FROM restrictions WHERE until + ? <= ?", _KEPT, tx.now)
    known, until = restriction(tx, account), tx.now + length
    if known is not None and known["kind"] not in {kind, FIRST_CONTACTS}:
        is_tried = known["by"] is not None
        if known["until"] > (tx.now if kind == FIRST_CONTACTS and not is_tried else until):
            return
    is_new = known is None or known["kind"] != kind
    tx.do(
        "INSERT OR REPLACE INTO restrictions (account, kind, why, since, until)"
        " VALUES (?, ?, ?, ?, ?)",
        *(account, kind, encoded(why), tx.now if is_new else known["since"], until),
    )


def lift(tx: Transaction, account: str, kind: str | None, token: str | None) -> None:
    """End a restriction, if it is of the kind, and tried under the token."""
    tx.do(
        "DELETE FROM restrictions WHERE account = ? AND kind = ifnull(?, kind)"
        " AND (? IS NULL OR by = ?)",
        *(account, kind, token, token),
    )


def restrictions(tx: Transaction) -> tuple[Restriction, ...]:
    """All of them."""
    query = "SELECT * FROM restrictions WHERE until + ? > ? ORDER BY account"
    return tuple(map(as_restriction, tx.all(query, _KEPT, tx.now)))


def as_restriction(row: Any) -> Restriction:
    """A restriction from its row."""
    return Restriction(
        account=row["account"],
        kind=row["kind"],
        why=decoded(row["why"]),
        since=row["since"] / 1000,
        until=row["until"] / 1000,
    )


def pace(tx: Transaction, lease: Lease, token: str, spacing: Mapping[str, int]) -> int | None:
    """Milliseconds until a message may be sent; None when fenced."""
    row = tx.queue(lease.conversation_key, lease.queue)
    if row.until is None or (row.token, row.epoch) != (lease.token, lease.epoch):
        return None
    account, longest = account_of(lease.conversation_key), max(spacing.values(), default=0)
    known: dict[str, Any] = {
        kind: tx.one("SELECT * FROM paces WHERE account = ? AND kind = ?", account, kind)
        or {"next": 0, "last": 0, "by": ""}
        for kind in spacing
    }
    told, _, owner = (row.slot or "0 ").partition(" ")
    slot = int(told)
    if owner != token or tx.now > slot + longest:
        slot = max([tx.now, *(each["next"] for each in known.values())])
        row.slot = f"{slot} {token}"
        for kind, each in known.items():
            values = (account, kind, slot + spacing[kind], each["last"], each["by"])
            tx.do("INSERT OR REPLACE INTO paces VALUES (?, ?, ?, ?, ?)", *values)
    others = [
        (spacing[kind], each) for kind, each in known.items() if each["by"] not in {"", token}
    ]
    free: int = max([slot, *(each["last"] + space for space, each in others)])
    if tx.now < free:
        return free - tx.now
    for kind in spacing:
        change = "UPDATE paces SET last = ?, by = ? WHERE account = ? AND kind = ?"
        tx.do(change, tx.now, token, account, kind)
    return 0


def record_ack(tx: Transaction, conversation: str, message_id: str, level: int) -> None:
    """Keep how far a message of a conversation got."""
    talk = tx.one("SELECT acks FROM conversations WHERE conversation = ?", conversation)
    if talk is None:
        return
    kept = as_acks(talk["acks"])
    known = next((each.level for each in kept if each.message_id == message_id), None)
    if known is not None and not is_farther(known, level):
        return
    kept = [each for each in kept if each.message_id != message_id]
    kept.append(Ack(message_id=message_id, level=level, at=tx.now / 1000))
    lines = [f"{each.message_id} {each.level} {round(each.at * 1000)}" for each in kept]
    change = "UPDATE conversations SET acks = ? WHERE conversation = ?"
    tx.do(change, encoded("\n".join(lines[-ACKS_KEPT:])), conversation)


def as_acks(stored: bytes | None) -> list[Ack]:
    """What is kept of acks; nothing of what cannot be read."""
    return acks_in(None if stored is None else decoded(stored))
