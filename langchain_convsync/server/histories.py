"""The messages of conversations: read as the JSON that they are, kept while answers need them.

An answer repeats the whole history. So that a conversation's next message costs little more than
its first, the entries are neither parsed nor written again on their way out, and the answer to a
write with an ``Idempotency-Key`` is kept as a place in the history, not as a copy of it.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, Text, cast, delete, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from langchain_convsync.server.tables import (
    ConversationRow,
    HistoryRow,
    MessageRow,
    ReplacedHistoryRow,
)

#: Answers with no more messages are kept as they are.
SHORT = 20


class SpelledHistory(NamedTuple):
    """A history as the JSON array that goes over the wire."""

    json: str

    def __bool__(self) -> bool:
        """Whether there are messages."""
        return self.json != "[]"


class Place(NamedTuple):
    """How far a history went at some time, so that it can be told again."""

    conversation: int
    generation: int
    upto: int


def spelled(db: Session, conversation: int, *, upto: int | None = None) -> str:
    """The messages in their order, as a JSON array."""
    where = [MessageRow.conversation_id == conversation]
    if upto is not None:
        where.append(MessageRow.position <= upto)
    return f"[{db.scalar(_joined(db, ',', *where)) or ''}]"


def last_position(db: Session, conversation: int) -> int:
    """Where the last message stands; -1 without any."""
    last = select(func.coalesce(func.max(MessageRow.position), -1))
    return db.scalars(last.where(MessageRow.conversation_id == conversation)).one()


def length(db: Session, conversation: int) -> int:
    """How many messages there are."""
    first = _first_position(db, conversation)
    return 0 if first is None else last_position(db, conversation) - first + 1


def forget(db: Session, row: ConversationRow, *, before: int | None = None) -> None:
    """Remove the messages, or those before a position; what answers refer to stays as long as they.

    So much the answers to repeated requests cost: one copy of a history that is replaced.
    """
    where = [MessageRow.conversation_id == row.id]
    if before is not None:
        where.append(MessageRow.position < before)
    known = db.get(HistoryRow, row.id)
    if known is not None and known.referred_until > row.updated_at:
        mine, first = MessageRow.conversation_id == row.id, _first_position(db, row.id)
        if first is not None:
            db.add(
                ReplacedHistoryRow(
                    conversation_id=row.id,
                    generation=known.generation,
                    first=first,
                    entries=db.scalar(_joined(db, "\n", mine)),
                    expires_at=known.referred_until,
                )
            )
        known.generation, known.referred_until = known.generation + 1, row.updated_at
    db.execute(delete(MessageRow).where(*where))


def refer(db: Session, row: ConversationRow, until: datetime) -> Place:
    """The place of the last message, which can be told until then."""
    known = db.get(HistoryRow, row.id)
    if known is None:
        known = HistoryRow(conversation_id=row.id, generation=0, referred_until=until)
        db.add(known)
    known.referred_until = until
    return Place(row.id, known.generation, last_position(db, row.id))


def told_again(db: Session, place: Place) -> str:
    """The history as it was, as a JSON array."""
    conversation, generation, upto = place
    known = db.get(HistoryRow, conversation)
    if known is not None and known.generation == generation:
        return spelled(db, conversation, upto=upto)
    replaced = db.get(ReplacedHistoryRow, (conversation, generation))
    entries = [] if replaced is None else replaced.entries.split("\n")
    first = 0 if replaced is None else replaced.first
    return f"[{','.join(entries[: upto - first + 1])}]"


def forget_replaced(db: Session, at: datetime) -> None:
    """Remove the replaced histories to which no answer refers any more."""
    db.execute(delete(ReplacedHistoryRow).where(ReplacedHistoryRow.expires_at <= at))


def parsed(spelling: str) -> list[dict[str, Any]]:
    """The messages of a history."""
    entries: list[dict[str, Any]] = json.loads(spelling)
    return entries


def _first_position(db: Session, conversation: int) -> int | None:
    # Alone in its query: SQLite looks the smallest up, and counts through all for two things.
    first = select(func.min(MessageRow.position))
    return db.scalar(first.where(MessageRow.conversation_id == conversation))


def _joined(db: Session, separator: str, *where: ColumnElement[bool]) -> Select[tuple[str]]:
    # In the database: a row costs more on its way through SQLAlchemy than its text does.
    entry = cast(MessageRow.entry, Text)
    if db.get_bind().dialect.name == "postgresql":
        ordered = aggregate_order_by(func.chr(ord(separator)), MessageRow.position)
        return select(func.string_agg(entry, ordered)).where(*where)
    rows = select(entry.label("entry")).where(*where).order_by(MessageRow.position).subquery()
    return select(func.group_concat(rows.c.entry, separator))
