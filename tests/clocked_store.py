"""The reference server's store as its tests drive it: a clock they move, and short words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete

from langchain_convsync.server import Tenant
from langchain_convsync.server.customers import Customer
from langchain_convsync.server.store import ConversationStore
from langchain_convsync.server.tables import AnswerRow
from langchain_convsync.server.wire import NewMessage, StateSync

PHONE = "+51999999999"
ABC = Tenant("restaurant-abc", "bot123")
XYZ = Tenant("restaurant-xyz", "bot456")


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: datetime = datetime(2025, 12, 29, 10, 0, 0, 123_456, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)


class ClockedStore(ConversationStore):
    """A store that begins at 2025-12-29T10:00:00.123Z and stays there."""

    def __init__(self, database_url: str = "sqlite://", **settings: Any) -> None:
        self.clock = Clock()
        super().__init__(database_url, clock=self.clock, **settings)

    def begin(self, phone_number: str = PHONE, tenant: Tenant = ABC, **state: Any) -> str:
        """A new conversation's session id."""
        created = self.create(Customer.of(phone_number), tenant, StateSync.model_validate(state))
        return str(created["sessionId"])

    def merge(self, session_id: str, **body: Any) -> dict[str, Any]:
        """What a sync answers."""
        return self.sync(session_id, StateSync.model_validate(body)).data

    def say(self, session_id: str, content: str, role: str = "user") -> dict[str, Any]:
        """The context that a new message answers."""
        message = NewMessage.model_validate({"role": role, "content": content})
        context: dict[str, Any] = self.add_message(session_id, message).data["context"]
        return context

    def forget_keys(self) -> None:
        """So that a test can use them again: for callers they stay spent."""
        with self._transaction() as db:
            db.execute(delete(AnswerRow))

    def seen(self, phone_number: str = PHONE, bot: str | None = None) -> Any:
        """The conversation that a lookup finds."""
        return self.find(phone_number, bot)
