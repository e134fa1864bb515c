"""The reference server's tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import JSON, BigInteger, Dialect, ForeignKey, String, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """A moment as whole microseconds since 1970, which every database compares alike."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """On the way into the database."""
        return None if value is None else (value - _EPOCH) // _TICK

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """On the way out of it."""
        return None if value is None else _EPOCH + value * _TICK


class Base(DeclarativeBase):
    """All tables of the reference server."""

    type_annotation_map = {datetime: Instant, dict[str, Any]: JSON}  # noqa: RUF012 - SQLAlchemy's API


class ConversationRow(Base):
    """One conversation; its messages are :class:`MessageRow`."""

    __tablename__ = "conversations"

    id: Mapped[int] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(String(512), unique=True)
    subdomain: Mapped[str] = mapped_column(String(128))
    bot_id: Mapped[str] = mapped_column(String(128))
    #: E.164 as it was first written, a BSUID or another id; None while only the LID is known.
    phone_number: Mapped[str | None] = mapped_column(String(160), index=True)
    lid: Mapped[str | None] = mapped_column(String(64), index=True)
    current_intent: Mapped[str] = mapped_column(Text)
    current_step: Mapped[str] = mapped_column(Text)
    previous_intent: Mapped[str | None] = mapped_column(Text)
    previous_step: Mapped[str | None] = mapped_column(Text)
    context: Mapped[dict[str, Any]]
    #: `metadata` on the wire; SQLAlchemy keeps that name for itself.
    extra: Mapped[dict[str, Any]] = mapped_column("metadata")
    is_active: Mapped[bool]
    last_message_at: Mapped[datetime]
    last_activity: Mapped[datetime]
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class CustomerRow(Base):
    """A customer of a bot, so that there is something to lock before the first conversation."""

    __tablename__ = "customers"

    name: Mapped[str] = mapped_column(String(512), primary_key=True)


class MessageRow(Base):
    """One entry of ``previousMessages``, as it goes over the wire."""

    __tablename__ = "messages"

    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversations.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    entry: Mapped[dict[str, Any]]


class HistoryRow(Base):
    """How often answers' history was replaced, and until when answers refer to what there is."""

    __tablename__ = "histories"

    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversations.id"), primary_key=True)
    generation: Mapped[int]
    referred_until: Mapped[datetime]


class ReplacedHistoryRow(Base):
    """A history that was replaced while answers referred to it: its entries, one a line."""

    __tablename__ = "replaced_histories"

    conversation_id: Mapped[int] = mapped_column(ForeignKey("conversations.id"), primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True)
    #: The position of the first entry.
    first: Mapped[int]
    entries: Mapped[str] = mapped_column(Text)
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)


class AnswerRow(Base):
    """A write with an ``Idempotency-Key``, for good, and for a while the answer that it got."""

    __tablename__ = "keyed_answers"

    scope: Mapped[str] = mapped_column(String(512), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    answer: Mapped[dict[str, Any]]
    expires_at: Mapped[datetime] = mapped_column(Instant, index=True)


class ForwardRow(Base):
    """An event for the agent's webhook."""

    __tablename__ = "forwards"

    id: Mapped[int] = mapped_column(primary_key=True)
    #: Names the event, so that its copies are not forwarded too.
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    #: Whose events go one after the other.
    customer: Mapped[str] = mapped_column(String(512), index=True)
    body: Mapped[str] = mapped_column(Text)
    tries: Mapped[int]
    #: When it is sent, again; None once it was accepted.
    due_at: Mapped[datetime | None] = mapped_column(Instant, index=True)
    created_at: Mapped[datetime] = mapped_column(Instant, index=True)
