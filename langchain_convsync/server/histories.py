"""The messages of conversations: read as the JSON that they are, kept while answers need them.

An answer repeats the history. So that a conversation's next message costs little more than its
first, the entries are neither parsed nor written again on their way out, and the answer to a write
with an ``Idempotency-Key`` is kept as a place in the history, not as a copy of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Select, Text, bindparam, cast, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
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
#: After every position.
END = 2**31 - 1

# The table's columns, not the class's: a statement of those takes SQLAlchemy's longer way.
_MESSAGES: Any = MessageRow.__table__
_M = _MESSAGES.c
_MINE = _M.conversation_id == bindparam("conversation")
_LAST = select(func.coalesce(func.max(_M.position), -1)).where(_MINE)
_SPAN = (_MINE, _M.position.between(bindparam("since"), bindparam("upto")))
_NEWEST = (_MINE, _M.position > _LAST.scalar_subquery() - bindparam("newest"))
_APPEND = insert(_MESSAGES).values(
    conversation_id=bindparam("conversation"), position=_LAST.scalar_subquery() + 1
)


class SpelledHistory(NamedTuple):
    """A history as the JSON array that goes over the wire.

    Attributes:
        json: The array.
        first: The position of its first message; 0 without any.
        last: The position of its last message; -1 without any.
    """

    json: str
    first: int = 0
    last: int = -1

    def __bool__(self) -> bool:
        """Whether there are messages."""
        return self.last >= self.first

    def parsed(self) -> list[dict[str, Any]]:
        """The messages."""
        entries: list[dict[str, Any]] = json.loads(self.json)
        return entries


class Place(NamedTuple):
    """What an answer showed of a history at some time, so that it can be told again."""

    conversation: int
    generation: int
    upto: int
    since: int = 0


def read(db: Session, conversation: int, *, most: int | None = None) -> SpelledHistory:
    """The messages in their order; the newest ones where ``most`` says how many at most."""
    if most is None:
        return _spelled(db, conversation, 0, END)
    statement = _joined(db.get_bind().dialect.name, ",", newest=True)
    return _of(db, statement, {"conversation": conversation, "newest": most})


def append(db: Session, conversation: int, entry: Mapping[str, Any]) -> None:
    """Add a message at the end."""
    db.execute(_APPEND, {"conversation": conversation, "entry": entry})


def write(db: Session, conversation: int, entries: Iterable[Mapping[str, Any]]) -> None:
    """Begin a history anew with these messages."""
    rows = [
        {"conversation_id": conversation, "position": position, "entry": entry}
        for position, entry in enumerate(entries)
    ]
    if rows:
        db.execute(insert(_MESSAGES), rows)


def last_position(db: Session, conversation: int) -> int:
    """Where the last message stands; -1 without any."""
    last: int = db.scalars(_LAST, {"conversation": conversation}).one()
    return last


def forget(db: Session, row: ConversationRow, *, before: int | None = None) -> None:
    """Remove the messages, or those before a position; what answers refer to stays as long as they.

    So much the answers to repeated requests cost: one copy of a history that is replaced.
    """
    where = [_M.conversation_id == row.id]
    if before is not None:
        where.append(_M.position < before)
    known = db.get(HistoryRow, row.id)
    if known is not None and known.referred_until > row.updated_at:
        whole = {"conversation": row.id, "since": 0, "upto": END}
        entries, first, _ = db.execute(_joined(db.get_bind().dialect.name, "\n"), whole).one()
        if first is not None:
            db.add(
                ReplacedHistoryRow(
                    conversation_id=row.id,
                    generation=known.generation,
                    first=first,
                    entries=entries,
                    expires_at=known.referred_until,
                )
            )
        known.generation, known.referred_until = known.generation + 1, row.updated_at
        db.flush()  # statements of a table look at the database alone
    db.execute(delete(_MESSAGES).where(*where))


def refer(db: Session, conversation: int, history: SpelledHistory, until: datetime) -> Place:
    """The place of a history that was just read; it can be told until then."""
    dialect = postgresql if db.get_bind().dialect.name == "postgresql" else sqlite
    values = {"conversation": conversation, "until": until}
    generation = db.scalars(_refer(dialect.insert), values).one()
    return Place(conversation, generation, history.last, history.first)


@lru_cache(maxsize=2)
def _refer(insert: Any) -> Any:
    table: Any = HistoryRow.__table__
    until = bindparam("until", type_=table.c.referred_until.type)
    new = {"conversation_id": bindparam("conversation"), "generation": 0, "referred_until": until}
    return (
        insert(table)
        .values(new)
        .on_conflict_do_update(index_elements=["conversation_id"], set_={"referred_until": until})
        .returning(table.c.generation)
    )


def told_again(db: Session, place: Place) -> SpelledHistory:
    """The history as it was shown."""
    conversation, generation, upto, since = place
    known = db.get(HistoryRow, conversation)
    if known is not None and known.generation == generation:
        return _spelled(db, conversation, since, upto)
    replaced = db.get(ReplacedHistoryRow, (conversation, generation))
    entries = [] if replaced is None else replaced.entries.split("\n")
    first = 0 if replaced is None else replaced.first
    shown = entries[max(0, since - first) : upto - first + 1]
    return SpelledHistory(f"[{','.join(shown)}]", since, upto)


def forget_replaced(db: Session, at: datetime) -> None:
    """Remove the replaced histories to which no answer refers any more."""
    db.execute(delete(ReplacedHistoryRow).where(ReplacedHistoryRow.expires_at <= at))


def _spelled(db: Session, conversation: int, since: int, upto: int) -> SpelledHistory:
    values = {"conversation": conversation, "since": since, "upto": upto}
    return _of(db, _joined(db.get_bind().dialect.name, ","), values)


def _of(db: Session, statement: Select[Any], values: dict[str, int]) -> SpelledHistory:
    entries, first, last = db.execute(statement, values).one()
    return SpelledHistory("[]") if first is None else SpelledHistory(f"[{entries}]", first, last)


@lru_cache(maxsize=8)
def _joined(dialect: str, separator: str, *, newest: bool = False) -> Select[Any]:
    # In the database: a row costs more on its way through SQLAlchemy than its text does.
    entry, where = cast(_M.entry, Text), _NEWEST if newest else _SPAN
    if dialect == "postgresql":
        there = _M.position
        ordered = aggregate_order_by(func.chr(ord(separator)), there)
        return select(func.string_agg(entry, ordered), func.min(there), func.max(there)).where(
            *where
        )
    mine = select(entry.label("entry"), _M.position).where(*where)
    rows = mine.order_by(_M.position).subquery().c
    joined = func.group_concat(rows.entry, separator)
    return select(joined, func.min(rows.position), func.max(rows.position))
