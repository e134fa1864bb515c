"""Delivering an outbox: each write applied once, in order, to the right tenant."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, TypeAlias, cast

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, monotonic
from langchain_convsync.client import Api
from langchain_convsync.client._breaker import CircuitBreaker, is_away
from langchain_convsync.errors import (
    APIError,
    APIStatusError,
    AuthenticationError,
    ConversationMismatchError,
    ConversationNotFoundError,
    ConvSyncError,
    InvalidResponseError,
    cause_of,
)
from langchain_convsync.models import Conversation, PartialConversation, Role
from langchain_convsync.outbox.job import WriteJob
from langchain_convsync.outbox.plan import (
    ATTEMPT,
    Anchor,
    Send,
    Verify,
    Wait,
    Write,
    carries_what_was_read,
    is_applied,
    may_be_recorded,
    plan,
)
from langchain_convsync.outbox.queue import (
    FIRST_DELAY,
    LAST_DELAY,
    SHORTEST_ATTEMPT,
    Held,
    OperationQueue,
    Undeliverable,
    backoff,
    passing,
)
from langchain_convsync.outbox.reply import sent_of
from langchain_convsync.stores.base import Acquired, Cursor, EventStore, Operation

logger = logging.getLogger(__name__)

#: Seconds between looks whether the messages of an answer were sent that its words wait for.
FOLLOW_DELAY = 0.5
#: Tries of a write that is answered with a status of success, and an error: it may be for good.
PATIENCE = 5
#: Why a write waits that is to be looked up.
UNCLEAR = "it may have arrived, and is looked up before it is sent again"

OnUnverifiable: TypeAlias = Literal["dead_letter", "resend", "skip"]


class Outbox(OperationQueue[WriteJob]):
    """Delivers the outboxes of a store to one API server.

    Args:
        api: The API server; the outbox is the only retry layer above the wire.
        store: The store.
        lease: Seconds for which a queue is leased while it is worked on.
        on_unverifiable: What becomes of a message if no read can tell whether it was recorded.
        breaker: What is known already about the API server.
        clock: Seconds that only ever grow.
    """

    name = "outbox"

    def __init__(
        self,
        api: Api,
        store: EventStore,
        *,
        lease: float = 30.0,
        on_unverifiable: OnUnverifiable = "dead_letter",
        breaker: CircuitBreaker | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(store, lease=lease, clock=clock)
        self._api = api
        self._on_unverifiable = on_unverifiable
        self.breaker = breaker or new_breaker(clock)

    def _open(
        self, acquired: Acquired, operation: Operation, cursor: Cursor, anchor: str | None
    ) -> WriteJob:
        write = Write.stored(operation.body)
        carries = carries_what_was_read(write, self._api.profile)
        return WriteJob(
            acquired=acquired,
            operation=operation,
            cursor=cursor,
            anchor=anchor,
            write=write,
            carries=carries,
            records=bool(write.records),
        )

    def _step(self, head: WriteJob, now: float) -> Flow[float]:
        if head.write.follows:
            yield from self._follow_replies(head)
            if head.done:
                return 0.0
        step = plan(
            head.write,
            head.cursor,
            now=now,
            profile=self._api.profile,
            verified=head.read is not None,
        )
        if isinstance(step, Wait):
            head.why = UNCLEAR
            return step.seconds
        if pause := self.breaker.wait(head.target):
            head.why = "the API server does not answer, and is asked again now and then"
            raise Held(pause)
        match step:
            case Send():
                return (yield from self._send(head, step))
            case Verify():
                return (yield from self._verify(head))

    def _follow_replies(self, job: WriteJob) -> Flow[None]:
        """Wait until it is decided which messages of the answer are sent.

        Raises:
            Held: It is not.
        """
        write, key = job.write, job.lease.conversation_key
        view = yield from self._store.view(key, most=1)
        sent = sent_of(write.turn, len(write.follows), view.replies)
        if sent is None:
            job.why = "its answer is being sent, message by message"
            raise Held(FOLLOW_DELAY)
        job.write = write.as_far_as(sent)
        if job.done:
            self._confirm(job, None)

    def _send(self, job: WriteJob, step: Send) -> Flow[float]:
        yield from self._store_begin(job, attempt=step.attempt, need=ATTEMPT, note=job.note)
        try:
            request = self._request(job)
            answer = yield from self.breaker.guarded(job.target, request)
        except ConversationNotFoundError:
            return (yield from self._move(job))
        except ConversationMismatchError as error:
            telemetry.count("mismatch", operation=job.write.kind)
            raise Undeliverable(str(error)) from error
        except APIError as error:
            return (yield from self._failed(job, error))
        except ConvSyncError as error:
            raise Undeliverable(str(error)) from error
        self._confirm(job, job.anchor_in(answer))
        return 0.0

    def _request(self, job: WriteJob) -> Flow[PartialConversation]:
        write = job.write
        if write.kind == "append" and not job.carries:
            message = write.messages[job.cursor.pos]
            return self._api.add_message(
                write.session_id,
                cast("Role", message.role),  # the client refuses any other
                message.content,
                target=write.target,
                idempotency_key=job.key,
                timeout=self._time(job),
                attempts=1,
            )
        return self._api.sync_conversation(
            write.session_id,
            job.update(),
            target=write.target,
            idempotency_key=job.key,
            timeout=self._time(job),
            attempts=1,
            carried=job.carried(self._api.profile),
        )

    def _time(self, job: WriteJob) -> float:
        return min(ATTEMPT, max(SHORTEST_ATTEMPT, job.end_at - self._clock()))

    def _failed(self, job: WriteJob, error: APIError) -> Flow[float]:
        """Keep the write for later: to be verified first where it may have been applied."""
        is_unclear = error.ambiguous or (is_told_as_success(error) and job.cursor.tries < PATIENCE)
        if not (is_unclear or may_pass(error)):
            raise Undeliverable(str(error)) from error
        telemetry.count("write_retries", operation=job.write.kind, error=type(error).__name__)
        told, key = "its writes wait for the API server: %s", job.lease.conversation_key
        telemetry.log(logger, logging.WARNING, key, told, error, repeats=True)
        delay = max(backoff(job.cursor.tries), error.retry_after or 0.0)
        if is_unclear and not self._api.profile.idempotency_keys:
            delay = max(delay, self._api.profile.settle)  # it ended just now, whenever it began
        sent_at = job.cursor.sent_at if is_unclear else None
        job.read = None  # it is old by then
        job.why = f"{UNCLEAR}: {cause_of(error)}" if is_unclear else cause_of(error)
        yield from self._store_retry(job, delay=delay, sent_at=sent_at)
        return delay

    def _confirm(self, job: WriteJob, anchor: Anchor | None, *, end: int | None = None) -> None:
        if anchor is not None and job.records:
            anchor = anchor.model_copy(update={"records": True})
        noted = None if anchor is None else anchor.model_dump_json(exclude_defaults=True)
        end = job.end if end is None else end
        self._remember_confirmed(job, end=end, last=end >= job.write.parts, anchor=noted)
        telemetry.count("writes", operation=job.write.kind)
        job.read = None

    def _verify(self, job: WriteJob) -> Flow[float]:
        telemetry.count("verifications", operation=job.write.kind)
        yield from self._store_confirmed(job)
        try:
            conversation = yield from self._read(job)
        except ConversationNotFoundError:
            return self._gone(job)
        except ConversationMismatchError as error:
            raise Undeliverable(str(error)) from error
        except APIError as error:
            if not may_pass(error, reading=True):
                raise Undeliverable(str(error)) from error
            job.unread += 1
            job.why = f"it cannot be looked up whether it arrived: {cause_of(error)}"
            return max(backoff(job.unread), error.retry_after or 0.0)
        job.unread = 0
        if conversation.session_id != job.write.session_id:
            if job.write.kind == "append" and job.cursor.sent_at is None:
                return (yield from self._follow(job, conversation))
            return self._gone(job)
        if job.write.kind == "sync_state":
            return (yield from self._verify_sync(job, conversation))
        return (yield from self._verify_append(job, conversation))

    def _verify_append(self, job: WriteJob, conversation: Conversation) -> Flow[float]:
        history, place = conversation.said, None
        if job.cursor.sent_at is None:
            profile, pos = self._api.profile, job.cursor.pos
            if may_be_recorded(job.write, pos, profile):
                own = job.recorded_by_server(history, expected=profile.records_inbound)
                if own is not None:
                    job.records = True
                    at = Anchor.at(conversation.session_id, history, own)
                    self._confirm(job, at, end=job.cursor.pos + 1)
                    return 0.0
        else:
            try:
                place = job.recorded(history)
            except LookupError as error:
                if self._on_unverifiable == "dead_letter":
                    raise Undeliverable(str(error)) from error
                telemetry.count("unverified", policy=self._on_unverifiable)
                if self._on_unverifiable == "skip":
                    place = len(history) - 1
            if place is None:
                yield from self._store_retry(job, delay=0.0, sent_at=None)
        job.read = conversation
        if place is not None:
            self._confirm(job, Anchor.at(conversation.session_id, history, place))
        return 0.0

    def _verify_sync(self, job: WriteJob, conversation: Conversation) -> Flow[float]:
        if is_applied(conversation, job.write):
            self._confirm(job, None)
            return 0.0
        if not conversation.is_active:
            return self._gone(job)  # it was closed since: an old sync never reopens
        if job.cursor.sent_at is not None:
            yield from self._store_retry(job, delay=0.0, sent_at=None)
        job.read = conversation
        return 0.0

    def _move(self, job: WriteJob) -> Flow[float]:
        """The session is gone: messages follow the customer to the new one, a sync does not."""
        write = job.write
        try:
            conversation = yield from self._read(job)
        except ConversationNotFoundError as error:
            if write.kind == "sync_state":
                return self._gone(job)
            raise Undeliverable(str(error)) from error
        except ConversationMismatchError as error:
            raise Undeliverable(str(error)) from error
        except APIError as error:
            return (yield from self._failed(job, error))
        if write.kind == "sync_state":
            return self._gone(job)
        if conversation.session_id == write.session_id:
            reason = "the API server finds the conversation but refuses the message"
            raise Undeliverable(reason)
        return (yield from self._follow(job, conversation))

    def _follow(self, job: WriteJob, conversation: Conversation) -> Flow[float]:
        """Messages follow the customer to the session that the conversation has now."""
        telemetry.count("messages_moved")
        base = Anchor.end_of(conversation)
        moved = {"session_id": conversation.session_id, "base": base}
        job.write, job.read = job.write.model_copy(update=moved), None
        job.anchor = base.model_dump_json()
        if job.cursor.sent_at is not None:
            yield from self._store_retry(job, delay=0.0, sent_at=None)
        return 0.0

    def _gone(self, job: WriteJob) -> float:
        """The session that the write was decided for is over."""
        if job.write.kind == "append":
            reason = "the session ended before it could be verified that the message was recorded"
            raise Undeliverable(reason)
        telemetry.count("syncs_dropped")
        self._confirm(job, None)
        return 0.0

    def _read(self, job: WriteJob) -> Flow[Conversation]:
        write = job.write
        request = self._api.get_conversation(
            write.phone_number,
            write.bot_id,
            target=write.target,
            timeout=self._time(job),
            attempts=1,
        )
        return self.breaker.guarded(job.target, request)

    def _report_dead(self, head: WriteJob, reason: str) -> None:
        telemetry.count("dead_letters", operation=head.write.kind)
        key, told = head.lease.conversation_key, "a write of turn %s is a dead letter: %s"
        telemetry.log(logger, logging.ERROR, key, told, head.write.turn, reason)


def may_pass(error: APIError, *, reading: bool = False) -> bool:
    """Whether the same request may well succeed later.

    An answer that broke off, or is not the API's own, tells nothing, whatever its status. A key
    that is not accepted tells nothing of the request. And what cannot be read can be read again.
    """
    if is_away(error) or isinstance(error, InvalidResponseError | AuthenticationError):
        return True
    if reading and error.status_code is not None and error.status_code < 400:
        return True
    return passing(error.status_code)


def is_told_as_success(error: APIError) -> bool:
    """Whether an error has a status of success: some servers answer so when they fail."""
    return type(error) is APIStatusError and error.status_code in range(200, 300)


def new_breaker(clock: Callable[[], float] = monotonic) -> CircuitBreaker:
    """A breaker that leaves a failing API server alone for as long as writes wait for it."""
    return CircuitBreaker(first=FIRST_DELAY, longest=LAST_DELAY, clock=clock)
