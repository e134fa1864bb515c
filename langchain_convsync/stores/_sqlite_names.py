"""Names of conversations in SQLite: aliases, and who has been given to a human.

The same functions, under the same names, as the Redis scripts share in ``lua/_prelude.lua``.
"""

from __future__ import annotations

from langchain_convsync.stores._sqlite_transaction import Transaction


def follow(tx: Transaction, cid: str) -> str:
    """The conversation that a name leads to."""
    query = "UPDATE aliases SET expires = ? WHERE alias = ? AND expires > ? RETURNING cid"
    while alias := tx.one(query, tx.now + tx.retention, cid, tx.now):
        cid = alias["cid"]
    return cid


def pause(tx: Transaction, cid: str, length: int) -> None:
    """Give a conversation to a human for a while, or back."""
    cid = follow(tx, cid)
    tx.do("DELETE FROM pauses WHERE cid = ? OR until <= ?", cid, tx.now)
    if length:
        tx.do("INSERT INTO pauses VALUES (?, ?)", cid, tx.now + length)


def is_paused(tx: Transaction, cid: str) -> bool:
    """Whether a human has the conversation."""
    return tx.one("SELECT 1 FROM pauses WHERE cid = ? AND until > ?", cid, tx.now) is not None
