"""The answers to writes with an ``Idempotency-Key``: a repeated one gets the same answer again."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.orm import Session

from langchain_convsync.server import histories
from langchain_convsync.server.access import Caller
from langchain_convsync.server.histories import Place
from langchain_convsync.server.tables import AnswerRow
from langchain_convsync.server.wire import NewMessage, StateSync

KEPT = timedelta(hours=24)
NEVER = datetime.max.replace(tzinfo=UTC)


_ANSWERS: Any = AnswerRow.__table__
_MINE = (_ANSWERS.c.scope == bindparam("whose"), _ANSWERS.c.key == bindparam("which"))
_NOTED = select(_ANSWERS.c.fingerprint, _ANSWERS.c.answer, _ANSWERS.c.expires_at).where(*_MINE)
_NOTE = insert(_ANSWERS)


class KeyReusedError(ValueError):
    """An idempotency key came back with another request."""


class KeptAnswer(NamedTuple):
    """An answer that is told again.

    Attributes:
        data: What it was; None once that was a day ago.
        place: Where its history ended, which is left out of ``data``; None for one that is in it.
    """

    data: dict[str, Any] | None
    place: Place | None = None

    @classmethod
    def read(cls, kept: dict[str, Any]) -> Self:
        """The answer in a row; those of earlier versions are whole."""
        if "place" not in kept:
            return cls(kept or None)
        return cls(kept["data"], Place(*kept["place"]))

    def written(self) -> dict[str, Any]:
        """The answer for a row."""
        return self.data or {} if self.place is None else {"data": self.data, "place": self.place}


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

    def answered(self, db: Session, at: datetime) -> KeptAnswer | None:
        """What it was answered before; None for a new request.

        Raises:
            KeyReusedError: The key belongs to another request.
        """
        before = db.execute(_NOTED, {"whose": self.scope, "which": self.key}).first()
        if before is None:
            return None
        if before.fingerprint != self.fingerprint:
            raise KeyReusedError
        return KeptAnswer.read(before.answer if before.expires_at > at else {})

    def keep(self, db: Session, answer: KeptAnswer, at: datetime) -> None:
        """Note what it is answered."""
        more = {"answer": answer.written(), "expires_at": at + KEPT}
        db.execute(_NOTE, {**self._asdict(), **more})


def forget_old(db: Session, at: datetime) -> None:
    """Forget answers that are a day old. The keys stay spent: their requests were applied."""
    old = AnswerRow.expires_at <= at
    db.execute(update(AnswerRow).where(old).values(answer={}, expires_at=NEVER))
    histories.forget_replaced(db, at)
