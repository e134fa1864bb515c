"""Where servers in the wild differ from the document: each difference can be switched on alone.

A :class:`Quirks` is asked at every point where servers differ; without names it answers as the
document says. Nothing else of the server knows of quirks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

from sqlalchemy import select
from sqlalchemy.orm import Session

from langchain_convsync import phone
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.server import conversation, histories
from langchain_convsync.server.customers import Customer, Exactly
from langchain_convsync.server.tables import ConversationRow, MessageRow
from langchain_convsync.server.wire import NewMessage, StateSync
from langchain_convsync.settings import (
    DOCUMENTED_PREFIX,
    OBSERVED_INTENTS,
    OBSERVED_PREFIX,
    ServerProfile,
)

#: What can be switched on, and what it does.
QUIRKS: Mapping[str, str] = {
    "prefix": "mounted under /api/v1/whatsapp-providers; anywhere else a 404 in HTML",
    "exact_phone": "customers are found by exact text; those that WAHA brings are stored as JID",
    "bare_start": "a fresh conversation has neither context nor metadata",
    "whole_answers": "writes are answered with the whole document",
    "sync_reopens": "a sync without isActive sets it to true",
    "intent_enum": "intents other than seven are answered with 500, and nothing is stored",
    "intent_repeats": "the same intent or step again becomes the previous one too",
    "last_20": "a new message leaves the last 20; a history that a sync brings is not capped",
    "messages_not_stored": "no message is stored once a context exists, posted ones only look it",
    "fixed_expiry": "agents' writes do not prolong a conversation, and reach expired ones too",
    "hex_bot_ids": "a botId that is not 24 hex digits is answered with 500",
    "records_inbound": "the webhook records the customer's message itself, as far as any is stored",
    "keys_ignored": "Idempotency-Key is not looked at",
    "context_replaced": "the context of a sync replaces the whole context, history included",
}
#: All that one public server shows; replacing the context is a habit of others.
OBSERVED = frozenset(QUIRKS) - {"context_replaced"}

OBSERVED_CAP = 20

_HEX_ID = re.compile(r"[0-9a-fA-F]{24}")


class BrokenRequestError(ValueError):
    """The server fails on the request, with status 500; nothing is stored."""


@dataclass(frozen=True)
class Quirks:
    """The deviations of one server.

    Args:
        names: Keys of :data:`QUIRKS`.

    Raises:
        ConfigurationError: One of the names is not a quirk's.
    """

    names: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if unknown := self.names - QUIRKS.keys():
            message = (
                f"no such quirk: {', '.join(sorted(unknown))}; there are {', '.join(QUIRKS)}, "
                "and observed for all that one public server shows"
            )
            raise ConfigurationError(message)

    @classmethod
    def of(cls, quirks: Iterable[str] | Literal["observed"]) -> Self:
        """The quirks of these names; ``observed`` stands for all of one public server.

        Raises:
            ConfigurationError: One of the names is not a quirk's.
        """
        names = frozenset([quirks] if isinstance(quirks, str) else quirks)
        return cls((names - {"observed"}) | OBSERVED if "observed" in names else names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    @property
    def profile(self) -> ServerProfile:
        """What a client should know about a server with these quirks."""
        return ServerProfile(
            prefix=OBSERVED_PREFIX if "prefix" in self else DOCUMENTED_PREFIX,
            phone_format="jid" if "exact_phone" in self else "e164",
            history="sync" if "messages_not_stored" in self else "messages",
            records_inbound="records_inbound" in self,
            context_sync="replace" if "context_replaced" in self else "merge",
            intents=OBSERVED_INTENTS if "intent_enum" in self else None,
            history_cap=OBSERVED_CAP if "last_20" in self else None,
            idempotency_keys="keys_ignored" not in self,
        )

    # --- who ---------------------------------------------------------------------------------

    def customer(self, name: str) -> Customer:
        """The customer that a lookup names."""
        return Exactly.of(name) if "exact_phone" in self else Customer.of(name)

    def sender(self, customer: Customer) -> Customer:
        """The customer that an event of WAHA names."""
        name = customer.phone_number or customer.lid
        if "exact_phone" not in self or name is None:
            return customer
        return Exactly.of(phone.chat_id(name))

    def bot_id(self, bot_id: str) -> str:
        """The bot that a lookup names.

        Raises:
            BrokenRequestError: The server has no such ids.
        """
        if "hex_bot_ids" not in self:
            return bot_id
        if not _HEX_ID.fullmatch(bot_id):
            message = "Cast to ObjectId failed for the botId"
            raise BrokenRequestError(message)
        return bot_id.lower()

    def require_bot_id(self, bot_id: str) -> None:
        """Refuse a bot whose conversations no lookup by bot would find.

        Raises:
            ConfigurationError: The server has no such ids.
        """
        if "hex_bot_ids" in self and not _HEX_ID.fullmatch(bot_id):
            message = "bot_id must be 24 hex digits on a server with the quirk hex_bot_ids"
            raise ConfigurationError(message)

    # --- what happens ------------------------------------------------------------------------

    def begun(self, row: ConversationRow) -> None:
        """A conversation began."""
        if "bare_start" in self:
            row.extra = {}

    def received(self, db: Session, row: ConversationRow, text: str) -> None:
        """WAHA told of a message."""
        if "records_inbound" in self and text:
            with self.append(db, row, NewMessage(role="user", content=text)):
                pass

    def touch(self, row: ConversationRow, at: datetime) -> None:
        """An agent wrote."""
        expires_at = row.expires_at
        conversation.touch(row, at)
        if "fixed_expiry" in self:
            row.expires_at = expires_at

    def writable(self, row: ConversationRow, at: datetime) -> bool:
        """Whether agents may write to the conversation."""
        return "fixed_expiry" in self or row.expires_at > at

    @property
    def stores_what_it_tells(self) -> bool:
        """Whether the history that a write is answered with is the one that there is."""
        return "messages_not_stored" not in self

    def key(self, key: str | None) -> str | None:
        """The idempotency key, as far as it counts."""
        return None if "keys_ignored" in self else key

    @contextmanager
    def append(self, db: Session, row: ConversationRow, message: NewMessage) -> Iterator[None]:
        """Add a message; what is read inside the block is what its sender gets."""
        lost = "messages_not_stored" in self and (
            bool(row.context) or histories.last_position(db, row.id) >= 0
        )
        forgotten = db.begin_nested() if lost else None
        conversation.append(db, row, message)
        self._cap(db, row)
        yield
        if forgotten is not None:
            forgotten.rollback()

    def merge(self, db: Session, row: ConversationRow, update: StateSync) -> None:
        """Apply a state update.

        Raises:
            BrokenRequestError: The server does not know the intent.
        """
        sent = update.model_fields_set
        if "intent_enum" in self and "intent" in sent and update.intent not in OBSERVED_INTENTS:
            message = "The intent is not a valid enum value"
            raise BrokenRequestError(message)
        if "sync_reopens" in self and "is_active" not in sent:
            update = update.model_copy(update={"is_active": True})
        if "context_replaced" in self and "context" in sent:
            row.context = {}
            histories.forget(db, row)
        before = row.current_intent, row.current_step
        conversation.merge(db, row, update)
        if "intent_repeats" in self:
            row.previous_intent = before[0] if "intent" in sent else row.previous_intent
            row.previous_step = before[1] if "step" in sent else row.previous_step

    def _cap(self, db: Session, row: ConversationRow) -> None:
        if "last_20" not in self:
            return
        mine = MessageRow.conversation_id == row.id
        newest = select(MessageRow.position).where(mine).order_by(MessageRow.position.desc())
        kept = db.scalars(newest.limit(OBSERVED_CAP)).all()
        histories.forget(db, row, before=min(kept))

    # --- what is answered ------------------------------------------------------------------------

    def document(self, whole: dict[str, Any]) -> dict[str, Any]:
        """A conversation as it goes over the wire."""
        if "bare_start" not in self:
            return whole
        context = {k: v for k, v in whole["context"].items() if k != "previousMessages" or v}
        sparse = {**whole, "context": context or None, "metadata": whole["metadata"] or None}
        return {key: value for key, value in sparse.items() if value is not None}

    def answer(self, whole: dict[str, Any], documented: dict[str, Any]) -> dict[str, Any]:
        """What a write is answered with."""
        return whole if "whole_answers" in self else documented


DOCUMENTED = Quirks()
