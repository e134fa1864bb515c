"""The events that an agent's webhook has yet to accept, beside the conversations they belong to."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, delete, exists, func, select
from sqlalchemy.orm import Session, aliased

from langchain_convsync import phone, telemetry
from langchain_convsync._lines import count_of
from langchain_convsync.models import InboundEvent
from langchain_convsync.server.tables import ConversationRow, ForwardRow

#: Events that may wait; WAHA is told to come again with further ones.
MOST_WAITING = 10_000
#: An event not accepted for so long is dropped; so long the same event is not forwarded again.
KEPT = timedelta(hours=24)
#: An event that the webhook refused is kept for so long, to be sent again once that is mended.
REFUSED_KEPT = timedelta(days=7)
#: No other sender sends an event while it is being sent.
CLAIM = timedelta(seconds=60)


logger = logging.getLogger(__name__)


class QueueFullError(RuntimeError):
    """Too many events wait for the agent's webhook."""


class Forward(NamedTuple):
    """One event to send: its body, and how often that was tried before."""

    id: int
    body: str
    tries: int


def enqueue(db: Session, row: ConversationRow, event: InboundEvent, at: datetime) -> None:
    """Note an event for the agent, once, in the transaction that notes its conversation.

    Raises:
        QueueFullError: Too many wait already.
    """
    _forget(db, at - KEPT)
    spelled = json.dumps([row.subdomain, row.bot_id, event.account, event.event_id])
    digest = hashlib.sha256(spelled.encode("utf-8", "surrogatepass")).hexdigest()
    if db.scalar(select(exists().where(ForwardRow.digest == digest))):
        return
    waiting = select(func.count()).select_from(ForwardRow).where(ForwardRow.due_at.is_not(None))
    if db.scalars(waiting).one() >= MOST_WAITING:
        raise QueueFullError
    customer = row.phone_number or row.lid
    db.add(
        ForwardRow(
            digest=digest,
            customer=f"{row.subdomain} {row.bot_id} {customer}",
            body=json.dumps(_body(row, event), ensure_ascii=False),
            tries=0,
            due_at=at,
            created_at=at,
        )
    )


def _forget(db: Session, until: datetime) -> None:
    refused = (ForwardRow.tries < 0) & (ForwardRow.created_at > until + KEPT - REFUSED_KEPT)
    old = (ForwardRow.created_at <= until) & ~refused
    lost = select(func.count()).select_from(ForwardRow).where(old, ForwardRow.due_at.is_not(None))
    if dropped := db.scalars(lost).one():
        telemetry.count("forwards", dropped, status="expired")
        logger.warning(
            "The agent's webhook did not accept %s within 24 hours: dropped",
            count_of(dropped, "event"),
        )
    db.execute(delete(ForwardRow).where(old))


def _body(row: ConversationRow, event: InboundEvent) -> dict[str, Any]:
    """The documented fields, and all that an :class:`InboundEvent` tells beside them.

    ``message`` is what a person would read of it; ``text`` are the customer's own words alone,
    where that is not the same.
    """
    known = event.model_dump(mode="json", exclude_defaults=True, exclude={"delivery_id", "text"})
    if event.text != event.content:
        known["text"] = event.text
    return {
        **known,
        "phone_number": event.phone_number or phone.phone_of(row.phone_number or ""),
        "message": event.content,
        "account": event.account,
        "bot_id": row.bot_id,
        "subdomain": row.subdomain,
    }


def _is_next() -> ColumnElement[bool]:
    """True for events that wait for none of the same customer's."""
    older = aliased(ForwardRow)
    return ~exists().where(
        older.customer == ForwardRow.customer,
        older.due_at.is_not(None),
        older.id < ForwardRow.id,
    )


class ForwardQueue:
    """What waits, in order of arrival for every customer.

    Args:
        transaction: A transaction of the store that the events were noted in.
        clock: Tells the time, in UTC.
    """

    def __init__(
        self,
        transaction: Callable[[], AbstractContextManager[Session]],
        clock: Callable[[], datetime],
    ) -> None:
        self._transaction = transaction
        self._clock = clock

    def acquire(self) -> Forward | None:
        """The next event that is due; no other sender gets it for a minute."""
        now = self._clock()
        due = select(ForwardRow).where(ForwardRow.due_at <= now, _is_next())
        with self._transaction() as db:
            row = db.scalar(
                due.order_by(ForwardRow.due_at, ForwardRow.id)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            if row is None:
                return None
            row.due_at, row.tries = now + CLAIM, row.tries + 1
            return Forward(row.id, row.body, row.tries)

    def done(self, forward: Forward) -> None:
        """The agent accepted it."""
        self._due(forward, None)

    def refused(self, forward: Forward) -> None:
        """The agent will not take it as it is; it is kept, and holds up no other."""
        with self._transaction() as db:
            row = db.get(ForwardRow, forward.id)
            if row is not None:
                row.due_at, row.tries = None, -forward.tries

    def again(self) -> int:
        """Send what was refused once more; how much that is."""
        with self._transaction() as db:
            refused = db.scalars(select(ForwardRow).where(ForwardRow.tries < 0)).all()
            for row in refused:
                row.due_at, row.tries = self._clock(), 0
        return len(refused)

    def later(self, forward: Forward, seconds: float) -> None:
        """It is to be sent again."""
        self._due(forward, self._clock() + timedelta(seconds=seconds))

    def pause(self) -> float | None:
        """Seconds until something is due; None where nothing waits."""
        with self._transaction() as db:
            due_at = db.scalar(select(func.min(ForwardRow.due_at)).where(_is_next()))
        return None if due_at is None else max(0.0, (due_at - self._clock()).total_seconds())

    def _due(self, forward: Forward, due_at: datetime | None) -> None:
        with self._transaction() as db:
            row = db.get(ForwardRow, forward.id)
            if row is not None:
                row.due_at = due_at
