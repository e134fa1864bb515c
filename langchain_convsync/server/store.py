"""The conversations of the reference server: every public method is one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self

from sqlalchemy import select
from sqlalchemy.orm import Session

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.models import InboundEvent
from langchain_convsync.server import answers, conversation, histories
from langchain_convsync.server.access import UNIDENTIFIED, Caller
from langchain_convsync.server.answers import KEPT, KeptAnswer, KeyedRequest
from langchain_convsync.server.customers import (
    Customer,
    Tenant,
    completed,
    exists_for,
    is_open,
    linked,
    lock,
    locked,
    newest_to_read,
    of_bot,
)
from langchain_convsync.server.database import Database
from langchain_convsync.server.forwards import ForwardQueue, enqueue
from langchain_convsync.server.histories import SpelledHistory
from langchain_convsync.server.quirks import DOCUMENTED, Quirks
from langchain_convsync.server.tables import ConversationRow
from langchain_convsync.server.wire import NewMessage, StateSync

#: No id has one, and some databases refuse to be asked for it.
NUL = "\0"
#: How often answers that nobody can ask for any more are removed.
TIDYING = timedelta(minutes=10)

Clock = Callable[[], datetime]


class UnknownSessionError(LookupError):
    """No unexpired conversation has this session id."""


class Applied(NamedTuple):
    """What a write answers, and whether an earlier request with its key had been applied."""

    data: dict[str, Any]
    replayed: bool


def wall_clock() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class ConversationStore:
    """Conversations in a database.

    Args:
        database_url: An SQLAlchemy URL.
        clock: Tells the time, in UTC.
        quirks: Where it differs from the document.
        answer_cap: Messages that the answer to a write shows at most, the newest; None for all.

    Raises:
        ConfigurationError: The database cannot be opened, or the cap is less than 1.
    """

    def __init__(
        self,
        database_url: str,
        *,
        clock: Clock = wall_clock,
        quirks: Quirks = DOCUMENTED,
        answer_cap: int | None = None,
    ) -> None:
        if answer_cap is not None and answer_cap < 1:
            message = "answer_cap must be 1 or more: the newest message is in every answer"
            raise ConfigurationError(message)
        self._database = Database(database_url)
        self._transaction = self._database.transaction
        self._clock = clock
        self._quirks = quirks
        self._answer_cap = answer_cap
        self._tidy_at: datetime | None = None
        self._spells = False

    @property
    def forwards(self) -> ForwardQueue:
        """The events that wait for the agent's webhook."""
        return ForwardQueue(self._transaction, self._clock)

    @property
    def spelling(self) -> Self:
        """The same store; its answers hold histories as :class:`SpelledHistory`, unparsed."""
        other = copy(self)
        other._spells = True  # noqa: SLF001 - our own
        return other

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def ping(self) -> None:
        """Look at the conversations.

        Raises:
            DatabaseAwayError: The database does not answer.
        """
        with self._transaction() as db:
            db.execute(select(ConversationRow.id).limit(1))

    def find(
        self,
        phone_number: str,
        bot_id: str | None = None,
        *,
        closed: bool = False,
        caller: Caller = UNIDENTIFIED,
    ) -> dict[str, Any] | None:
        """The customer's conversation with this bot, or with any.

        Args:
            phone_number: The customer in any spelling, or a chat id.
            bot_id: The bot.
            closed: Whether closed and expired conversations are found, too.
            caller: Who asks.

        Raises:
            BrokenRequestError: A quirk: the server fails on such a bot.
        """
        if bot_id is not None and NUL in bot_id:
            return None
        where = [exists_for(caller)]
        if not closed:
            where.append(is_open(self._clock()))
        if bot_id is not None:
            where.append(of_bot(self._quirks.bot_id(bot_id)))
        with self._transaction() as db:
            row = newest_to_read(db, self._quirks.customer(phone_number), *where)
            return None if row is None else self._told(self._document(db, row))

    def find_tenant(
        self, phone_number: str, *, caller: Caller = UNIDENTIFIED
    ) -> dict[str, Any] | None:
        """Whose the customer's open conversation is; nothing of what was said is read."""
        where = exists_for(caller), is_open(self._clock())
        with self._transaction() as db:
            row = newest_to_read(db, self._quirks.customer(phone_number), *where)
            return None if row is None else conversation.tenant(row)

    def create(self, customer: Customer, tenant: Tenant, state: StateSync) -> dict[str, Any]:
        """Begin a conversation in a given state, whether there is one already or not."""
        with self._transaction() as db:
            row = conversation.begin(completed(db, customer, tenant), tenant, self._clock())
            self._quirks.begun(row)
            db.add(row)
            db.flush()
            conversation.merge(db, row, state)
            row.previous_intent = row.previous_step = None
            return self._told(self._document(db, row))

    def receive(
        self,
        customer: Customer,
        tenant: Tenant,
        text: str = "",
        *,
        forward: InboundEvent | None = None,
    ) -> str:
        """Note that a customer wrote: prolongs the conversation, or begins one.

        Args:
            customer: Who wrote.
            tenant: To whom.
            text: What; the documented flow leaves it to the agent to record it.
            forward: The event, to be noted for the agent's webhook.

        Returns:
            Its session id.

        Raises:
            QueueFullError: Too many events wait for the agent; nothing was noted.
        """
        with self._transaction() as db:
            at, customer = self._clock(), self._quirks.sender(customer)
            lock(db, customer, tenant)
            row = linked(db, customer, tenant, at)
            if row is None:
                row = conversation.begin(completed(db, customer, tenant), tenant, at)
                self._quirks.begun(row)
                db.add(row)
                db.flush()
            conversation.touch(row, at)
            self._quirks.received(db, row, text)
            if forward is not None:
                enqueue(db, row, forward, at)
            return row.session_id

    def sync(
        self,
        session_id: str,
        update: StateSync,
        *,
        key: str | None = None,
        caller: Caller = UNIDENTIFIED,
    ) -> Applied:
        """Merge a state update into a conversation.

        Raises:
            UnknownSessionError: It is unknown or expired.
            KeyReusedError: ``key`` belongs to another request.
        """

        @contextmanager
        def merged(db: Session, row: ConversationRow) -> Iterator[None]:
            self._quirks.merge(db, row, update)
            yield

        def told(whole: dict[str, Any]) -> dict[str, Any]:
            answered = ("sessionId", "currentIntent", "currentStep", "context", "lastActivity")
            return {field: whole[field] for field in answered if field in whole}

        return self._write(session_id, caller, key, update, change=merged, told=told)

    def add_message(
        self,
        session_id: str,
        message: NewMessage,
        *,
        key: str | None = None,
        caller: Caller = UNIDENTIFIED,
    ) -> Applied:
        """Append a message to a conversation's history.

        Raises:
            UnknownSessionError: It is unknown or expired.
            KeyReusedError: ``key`` belongs to another request.
        """

        def appended(db: Session, row: ConversationRow) -> AbstractContextManager[None]:
            return self._quirks.append(db, row, message)

        def told(whole: dict[str, Any]) -> dict[str, Any]:
            context = {
                "previousMessages": whole["context"]["previousMessages"],
                "lastUserMessage": whole["context"].get("lastUserMessage"),
            }
            return {"sessionId": whole["sessionId"], "context": context}

        return self._write(session_id, caller, key, message, change=appended, told=told)

    def expire(self, session_id: str) -> None:
        """Let a conversation expire now.

        Raises:
            UnknownSessionError: It is unknown or expired already.
        """
        with self._transaction() as db:
            row, at = self._locked(db, session_id, UNIDENTIFIED), self._clock()
            self._require_writable(row, at)
            row.expires_at = at

    def _document(
        self, db: Session, row: ConversationRow, *, most: int | None = None
    ) -> dict[str, Any]:
        history = histories.read(db, row.id, most=most)
        return self._quirks.document(conversation.document(row, history))

    def _told(self, data: dict[str, Any]) -> dict[str, Any]:
        """What leaves the store: with its history parsed, unless that is only passed on."""
        context = data.get("context") or {}
        history = context.get("previousMessages")
        if self._spells or not isinstance(history, SpelledHistory):
            return data
        return {**data, "context": {**context, "previousMessages": history.parsed()}}

    def _locked(self, db: Session, session_id: str, caller: Caller) -> ConversationRow:
        row = None if NUL in session_id else locked(db, session_id, exists_for(caller))
        if row is None:
            raise UnknownSessionError
        return row

    def _require_writable(self, row: ConversationRow, at: datetime) -> None:
        if not self._quirks.writable(row, at):
            raise UnknownSessionError

    def _write(
        self,
        session_id: str,
        caller: Caller,
        key: str | None,
        request: StateSync | NewMessage,
        *,
        change: Callable[[Session, ConversationRow], AbstractContextManager[None]],
        told: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> Applied:
        keyed = KeyedRequest.of(caller, session_id, self._quirks.key(key), request)

        def answer(db: Session, row: ConversationRow) -> dict[str, Any]:
            whole = self._document(db, row, most=self._answer_cap)
            return self._quirks.answer(whole, told(whole))

        with self._transaction() as db:
            at = self._clock()
            row = self._locked(db, session_id, caller)
            if keyed is not None:
                # A repetition waits for the request that it repeats, also after the expiry.
                if (before := keyed.answered(db, at)) is not None:
                    again = answer(db, row) if before.data is None else self._again(db, before)
                    return Applied(self._told(again), replayed=True)
                self._tidy(db, at)
            self._require_writable(row, at)
            self._quirks.touch(row, at)
            with change(db, row):
                data = answer(db, row)
            if keyed is not None:
                keyed.keep(db, self._kept(db, row, data, at), at)
            return Applied(self._told(data), replayed=False)

    def _tidy(self, db: Session, at: datetime) -> None:
        if self._tidy_at is None or at >= self._tidy_at:
            answers.forget_old(db, at)
            self._tidy_at = at + TIDYING

    def _kept(
        self, db: Session, row: ConversationRow, data: dict[str, Any], at: datetime
    ) -> KeptAnswer:
        """An answer to be told again, without a long history: that is there already."""
        context = data.get("context") or {}
        history = context.get("previousMessages")
        if not isinstance(history, SpelledHistory):
            return KeptAnswer(data)
        length = history.last - history.first + 1
        if not self._quirks.stores_what_it_tells or length <= histories.SHORT:
            return KeptAnswer(
                {**data, "context": {**context, "previousMessages": history.parsed()}}
            )
        place = histories.refer(db, row.id, history, at + KEPT)
        return KeptAnswer({**data, "context": {**context, "previousMessages": None}}, place)

    def _again(self, db: Session, kept: KeptAnswer) -> dict[str, Any]:
        data = dict(kept.data or {})
        if kept.place is not None:
            history = histories.told_again(db, kept.place)
            data["context"] = {**data["context"], "previousMessages": history}
        return data
