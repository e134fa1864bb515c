"""Delivering an outbox: each write applied once, in order, to the right tenant."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeAlias, cast

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, sleep
from langchain_convsync.client import Api
from langchain_convsync.errors import (
    APIError,
    ConversationMismatchError,
    ConversationNotFoundError,
    ConvSyncError,
    FencedError,
)
from langchain_convsync.models import Conversation, PartialConversation, Role
from langchain_convsync.outbox.breaker import Breaker
from langchain_convsync.outbox.job import Job
from langchain_convsync.outbox.plan import (
    ATTEMPT,
    Anchor,
    Send,
    Verify,
    Wait,
    Write,
    carries_what_was_read,
    is_applied,
    plan,
)
from langchain_convsync.stores.base import Cursor, EventStore, Taken, new_token

logger = logging.getLogger(__name__)

#: Seconds between tries of a write that surely was not applied: doubled each time, up to the last.
FIRST_DELAY, LAST_DELAY = 0.2, 30.0
#: Seconds that have to be left of a strict drain for another request.
SHORTEST_ATTEMPT = 0.5


Unverifiable: TypeAlias = Literal["park", "resend", "skip"]


class _Parked(Exception):  # noqa: N818 - control flow inside this module
    """The write cannot be delivered; an operator has to look at it."""


class _Held(Exception):  # noqa: N818 - control flow inside this module
    """The API server does not answer; the write has to wait for some seconds."""


class Outbox:
    """Delivers the outboxes of a store to one API server.

    Args:
        api: The API server; the outbox is the only retry layer above the wire.
        store: The store.
        lease: Seconds for which a queue is leased while it is worked on.
        unverifiable: What becomes of a message of which nobody can tell whether it was recorded.
        breaker: What others know already about the API server.
        clock: Seconds that only ever grow.
    """

    def __init__(
        self,
        api: Api,
        store: EventStore,
        *,
        lease: float = 30.0,
        unverifiable: Unverifiable = "park",
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._store = store
        self._lease = lease
        self._unverifiable = unverifiable
        self._clock = clock
        self.breaker = breaker or new_breaker(clock)

    def drain(self, cid: str, *, budget: float, strict: bool = False) -> Flow[bool]:
        """Deliver what one conversation has to write, for at most ``budget`` seconds.

        What is not due within that time, because the API server does not answer or another process
        is at it, stays in the store. A request that is under way then is waited for, unless
        ``strict``: then it is given up, and looked up by whoever goes on.

        Returns:
            Whether everything is delivered.
        """
        until = self._clock() + budget
        while self._clock() < until:
            taken = yield from self._store.take("write", new_token(), cid=cid, lease=self._lease)
            if taken is not None:
                end = until if strict else math.inf
                yield from self.deliver(taken, budget=until - self._clock(), end=end)
            due = yield from self._store.due("write", cid)
            if due is None:
                return True
            if self._clock() + due > until:
                return False
            yield from sleep(due)
        return (yield from self._store.due("write", cid)) is None

    def deliver(self, taken: Taken, *, budget: float, end: float = math.inf) -> Flow[None]:
        """Deliver a queue that was taken, and give it back.

        Nothing is waited for beyond ``budget`` seconds, and no request lasts beyond ``end``.
        """
        delay = yield from self._work(taken, self._clock() + budget, end)
        yield from self._store.release(taken.lease, delay=delay)

    def _work(self, taken: Taken, until: float, end: float) -> Flow[float]:
        """Deliver the queue in order; the seconds after which to come back, 0.0 when it is done."""
        anchor, offset = taken.anchor, taken.now - self._clock()
        for op in taken.ops:
            cursor = taken.cursor if taken.cursor and taken.cursor.op_id == op.id else None
            write = Write.model_validate_json(op.body)
            carries = carries_what_was_read(write, self._api.profile)
            job = Job(taken, op, write, cursor or Cursor(op_id=op.id), anchor, carries, end)
            try:
                while job.cursor.pos < job.write.parts:
                    if self._clock() + SHORTEST_ATTEMPT > end:
                        return 0.0
                    wait = yield from self._step(job, offset)
                    if wait and wait > until - self._clock():
                        return wait
                    yield from sleep(wait)
            except FencedError:
                return 0.0
            except _Held as held:
                return float(held.args[0])
            except _Parked as reason:
                yield from self._park(job, str(reason))
                return 0.0
            anchor = job.anchor
        return 0.0

    def _step(self, job: Job, offset: float) -> Flow[float]:
        now = self._clock() + offset
        step = plan(
            job.write,
            job.cursor,
            now=now,
            profile=self._api.profile,
            verified=job.read is not None,
        )
        if isinstance(step, Wait):
            return step.seconds
        if silence := self.breaker.wait(job.write.target):
            raise _Held(silence)
        match step:
            case Send():
                return (yield from self._send(job, step))
            case Verify():
                return (yield from self._verify(job))

    def _send(self, job: Job, step: Send) -> Flow[float]:
        cursor = yield from self._store.op_begin(
            job.lease,
            job.op.id,
            step.pos,
            attempt=step.attempt,
            need=ATTEMPT + 1.0,
            note=job.note,
        )
        if cursor is None:
            raise FencedError
        job.cursor = cursor
        try:
            request = self._request(job)
            answer = yield from self.breaker.watched(job.write.target, request)
        except ConversationNotFoundError:
            return (yield from self._move(job))
        except ConversationMismatchError as error:
            telemetry.count("mismatch", operation=job.write.kind)
            raise _Parked(str(error)) from error
        except APIError as error:
            return (yield from self._failed(job, error))
        except ConvSyncError as error:
            raise _Parked(str(error)) from error
        yield from self._confirm(job, job.anchor_in(answer))
        return 0.0

    def _request(self, job: Job) -> Flow[PartialConversation]:
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

    def _time(self, job: Job) -> float:
        return min(ATTEMPT, max(SHORTEST_ATTEMPT, job.end_at - self._clock()))

    def _failed(self, job: Job, error: APIError) -> Flow[float]:
        """Keep the write for later: to be verified first where it may have been applied."""
        if not (error.ambiguous or _passing(error)):
            raise _Parked(str(error)) from error
        telemetry.count("write_retries", operation=job.write.kind, error=type(error).__name__)
        delay = max(_backoff(job.cursor.tries), error.retry_after or 0.0)
        sent_at = job.cursor.sent_at if error.ambiguous else None
        job.read = None  # it is old by then
        yield from self._again(job, delay=delay, sent_at=sent_at)
        return delay

    def _again(self, job: Job, *, delay: float, sent_at: float | None) -> Flow[None]:
        done = yield from self._store.op_retry(
            job.lease, job.op.id, job.cursor.pos, delay=delay, sent=sent_at is not None
        )
        if done == "fenced":
            raise FencedError
        job.cursor = replace(job.cursor, sent_at=sent_at)

    def _confirm(self, job: Job, anchor: Anchor | None) -> Flow[None]:
        noted = None if anchor is None else anchor.model_dump_json()
        done = yield from self._store.op_done(
            job.lease, job.op.id, job.cursor.pos, last=job.last, anchor=noted
        )
        if done == "fenced":
            raise FencedError
        telemetry.count("writes", operation=job.write.kind)
        job.anchor = noted or job.anchor
        job.cursor = Cursor(op_id=job.op.id, pos=job.end)
        job.read = None

    def _verify(self, job: Job) -> Flow[float]:
        telemetry.count("verifications", operation=job.write.kind)
        try:
            conversation = yield from self._read(job)
        except ConversationNotFoundError:
            return (yield from self._gone(job))
        except ConversationMismatchError as error:
            raise _Parked(str(error)) from error
        except APIError as error:
            if not _passing(error):
                raise _Parked(str(error)) from error
            job.unread += 1
            return max(_backoff(job.unread), error.retry_after or 0.0)
        job.unread = 0
        if conversation.session_id != job.write.session_id:
            if job.write.kind == "append" and job.cursor.sent_at is None:
                return (yield from self._follow(job, conversation))
            return (yield from self._gone(job))
        if job.write.kind == "sync_state":
            return (yield from self._verify_sync(job, conversation))
        return (yield from self._verify_append(job, conversation))

    def _verify_append(self, job: Job, conversation: Conversation) -> Flow[float]:
        history, place = conversation.messages, None
        if job.cursor.sent_at is not None:
            try:
                place = job.recorded(history)
            except LookupError as error:
                if self._unverifiable == "park":
                    raise _Parked(str(error)) from error
                telemetry.count("unverified", policy=self._unverifiable)
                if self._unverifiable == "skip":
                    place = len(history) - 1
            if place is None:
                yield from self._again(job, delay=0.0, sent_at=None)
        job.read = conversation
        if place is not None:
            yield from self._confirm(job, Anchor.at(conversation.session_id, history, place))
        return 0.0

    def _verify_sync(self, job: Job, conversation: Conversation) -> Flow[float]:
        if is_applied(conversation, job.write):
            yield from self._confirm(job, None)
            return 0.0
        if not conversation.is_active:
            return (yield from self._gone(job))  # somebody closed it: an old sync never reopens
        if job.cursor.sent_at is not None:
            yield from self._again(job, delay=0.0, sent_at=None)
        job.read = conversation
        return 0.0

    def _move(self, job: Job) -> Flow[float]:
        """The session is gone: messages follow the customer to the new one, a sync does not."""
        write = job.write
        try:
            conversation = yield from self._read(job)
        except ConversationNotFoundError as error:
            if write.kind == "sync_state":
                return (yield from self._gone(job))
            raise _Parked(str(error)) from error
        except ConversationMismatchError as error:
            raise _Parked(str(error)) from error
        except APIError as error:
            return (yield from self._failed(job, error))
        if write.kind == "sync_state":
            return (yield from self._gone(job))
        if conversation.session_id == write.session_id:
            reason = "the API server finds the conversation but refuses the message"
            raise _Parked(reason)
        return (yield from self._follow(job, conversation))

    def _follow(self, job: Job, conversation: Conversation) -> Flow[float]:
        """Messages follow the customer to the session that the conversation has now."""
        telemetry.count("messages_moved")
        base = Anchor.at_end(conversation.session_id, conversation.messages)
        moved = {"session_id": conversation.session_id, "base": base}
        job.write, job.read = job.write.model_copy(update=moved), None
        job.anchor = base.model_dump_json()
        if job.cursor.sent_at is not None:
            yield from self._again(job, delay=0.0, sent_at=None)
        return 0.0

    def _gone(self, job: Job) -> Flow[float]:
        """The session that the write was decided for is over."""
        if job.write.kind == "append":
            reason = "the session ended before it could be verified that the message was recorded"
            raise _Parked(reason)
        telemetry.count("syncs_dropped")
        yield from self._confirm(job, None)
        return 0.0

    def _read(self, job: Job) -> Flow[Conversation]:
        write = job.write
        request = self._api.get_conversation(
            write.phone_number,
            write.bot_id,
            target=write.target,
            timeout=self._time(job),
            attempts=1,
        )
        return self.breaker.watched(write.target, request)

    def _park(self, job: Job, reason: str) -> Flow[None]:
        telemetry.count("parked", operation=job.write.kind)
        logger.error(
            "A write of turn %s is parked for an operator, with the rest of its turn: %s",
            job.write.turn,
            reason,
        )
        yield from self._store.op_park(job.lease, job.op.id, reason=reason)


def new_breaker(clock: Callable[[], float] = time.monotonic) -> Breaker:
    """A breaker that leaves a silent API server alone for as long as writes wait for it."""
    return Breaker(first=FIRST_DELAY, longest=LAST_DELAY, clock=clock)


def _backoff(tries: int) -> float:
    """Seconds to wait after so many failures."""
    return min(LAST_DELAY, FIRST_DELAY * 2.0 ** (tries - 1))


def _passing(error: APIError) -> bool:
    """Whether the same request may well succeed later."""
    status = error.status_code
    return status is None or status in {408, 425, 429} or status >= 500
