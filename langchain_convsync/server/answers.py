"""The answers to writes with an ``Idempotency-Key``: a repeated one gets the same answer again."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

from sqlalchemy import delete
from sqlalchemy.orm import Session

from langchain_convsync.server.access import Caller
from langchain_convsync.server.tables import AnswerRow
from langchain_convsync.server.wire import NewMessage, StateSync

KEPT = timedelta(hours=24)


class KeyReusedError(ValueError):
    """An idempotency key came back with another request."""


class KeyedRequest(NamedTuple):
    """A write that its sender may repeat.

    Attributes:
        scope: Whose keys they are: the caller's, or the conversation's where callers have no name.
        key: The ``Idempotency-Key``.
        fingerprint: The same for the same request, however its JSON is spelled.
    """

    scope: str
    key: str
    fingerprint: str

    @classmethod
    def of(
        cls, caller: Caller, session_id: str, key: str | None, request: StateSync | NewMessage
    ) -> Self | None:
        """The request under its key; None without one."""
        if key is None:
            return None
        body = request.model_dump(mode="json", by_alias=True, exclude_unset=True)
        spelled = json.dumps([type(request).__name__, session_id, body], sort_keys=True)
        fingerprint = hashlib.sha256(spelled.encode()).hexdigest()
        return cls(caller.id or session_id, key, fingerprint)

    def answered(self, db: Session, at: datetime) -> dict[str, Any] | None:
        """What it was answered before, in the last 24 hours; older answers are removed.

        Raises:
            KeyReusedError: The key belongs to another request.
        """
        db.execute(delete(AnswerRow).where(AnswerRow.expires_at <= at))
        before = db.get(AnswerRow, (self.scope, self.key))
        if before is None:
            return None
        if before.fingerprint != self.fingerprint:
            raise KeyReusedError
        return before.answer

    def keep(self, db: Session, answer: dict[str, Any], at: datetime) -> None:
        """Note what it is answered."""
        db.add(AnswerRow(**self._asdict(), answer=answer, expires_at=at + KEPT))
