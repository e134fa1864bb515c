"""What happens to one conversation: it begins, takes messages and state, and is read back."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from langchain_convsync.server import histories
from langchain_convsync.server.customers import Customer, Tenant
from langchain_convsync.server.tables import ConversationRow
from langchain_convsync.server.wire import NewMessage, StateSync, SyncedMessage, timestamp

LIFETIME = timedelta(hours=24)
_MILLISECOND = timedelta(milliseconds=1)


def begin(customer: Customer, tenant: Tenant, at: datetime) -> ConversationRow:
    """A conversation in which nothing was said yet."""
    name = customer.phone_number or customer.lid or ""
    digits = "".join(filter(str.isdigit, name))
    return ConversationRow(
        session_id=f"{tenant.bot_id}_{digits}_{int(at.timestamp() * 1000)}_{secrets.token_hex(6)}",
        subdomain=tenant.subdomain,
        bot_id=tenant.bot_id,
        phone_number=customer.phone_number,
        lid=customer.lid,
        current_intent="idle",
        current_step="initial",
        context={},
        extra={"platform": "whatsapp"},
        is_active=True,
        last_message_at=at - _MILLISECOND,
        last_activity=at,
        expires_at=at + LIFETIME,
        created_at=at,
        updated_at=at,
    )


def touch(row: ConversationRow, at: datetime) -> None:
    """Every sign of life prolongs the conversation."""
    row.last_activity = row.updated_at = at
    row.expires_at = at + LIFETIME


def append(db: Session, row: ConversationRow, message: NewMessage) -> None:
    """Add a message to the history, with the server's time."""
    row.last_message_at = _after(row.last_message_at, row.last_activity)
    entry = {**message.model_dump(), "timestamp": timestamp(row.last_message_at)}
    histories.append(db, row.id, entry)
    if message.role == "user":
        row.context = {**row.context, "lastUserMessage": message.content}


def merge(db: Session, row: ConversationRow, update: StateSync) -> None:
    """Apply what a state update names, key by key at the top level; the history as a whole."""
    sent = update.model_fields_set
    if "intent" in sent and update.intent != row.current_intent:
        row.previous_intent, row.current_intent = row.current_intent, update.intent
    if "step" in sent and update.step != row.current_step:
        row.previous_step, row.current_step = row.current_step, update.step
    if "is_active" in sent:
        row.is_active = update.is_active
    row.extra = {**row.extra, **update.metadata}
    patch = update.context.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if patch.pop("previousMessages", None) is not None:
        _replace_history(db, row, update.context.previous_messages)
    row.context = {**row.context, **patch}


def tenant(row: ConversationRow) -> dict[str, Any]:
    """Whose conversation it is, as it goes over the wire."""
    return {
        "subDomain": row.subdomain,
        "botId": row.bot_id,
        "sessionId": row.session_id,
        "isActive": row.is_active,
    }


def document(row: ConversationRow, history: object) -> dict[str, Any]:
    """The whole conversation with its history, as it goes over the wire."""
    return {
        "sessionId": row.session_id,
        "userId": row.phone_number or row.lid,
        "botId": row.bot_id,
        "subDomain": row.subdomain,
        "currentIntent": row.current_intent,
        "currentStep": row.current_step,
        "previousIntent": row.previous_intent,
        "previousStep": row.previous_step,
        "context": {"previousMessages": history, **row.context},
        "metadata": row.extra,
        "isActive": row.is_active,
        "lastActivity": timestamp(row.last_activity),
        "expiresAt": timestamp(row.expires_at),
        "createdAt": timestamp(row.created_at),
        "updatedAt": timestamp(row.updated_at),
    }


def _replace_history(db: Session, row: ConversationRow, messages: list[SyncedMessage]) -> None:
    histories.forget(db, row)
    entries = []
    for message in messages:
        at = message.timestamp
        if at > row.last_activity:
            at = _after(row.last_message_at, row.last_activity)
        row.last_message_at = max(row.last_message_at, at)
        entries.append({**message.model_dump(mode="json"), "timestamp": timestamp(at)})
    histories.write(db, row.id, entries)


def _after(last: datetime, now: datetime) -> datetime:
    """Now, in the milliseconds of the wire, and in any case after the last message."""
    now -= timedelta(microseconds=now.microsecond % 1000)
    return max(now, last + _MILLISECOND)
