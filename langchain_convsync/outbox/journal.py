"""Writes of a surface that runs no turn: recorded first, then delivered as far as time allows.

What is to be written is an event of its own, accepted and committed like a turn's, in an inbox that
only such events share. Whoever comes next (the conversation's next write, or a worker) finishes
what a process that died, or that could not reach the API server, has begun.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, sleep
from langchain_convsync.access import Access
from langchain_convsync.client import Api
from langchain_convsync.context import ConversationRef
from langchain_convsync.errors import (
    APIConnectionError,
    APIError,
    ConversationMismatchError,
    ConversationNotFoundError,
    ConvSyncError,
    StoreError,
)
from langchain_convsync.models import Conversation, ConversationMessage, StateUpdate
from langchain_convsync.outbox.compose import as_ops, writes_for
from langchain_convsync.outbox.delivery import Outbox
from langchain_convsync.outbox.memory import Known, Memory, Pending
from langchain_convsync.outbox.plan import FRESH, Anchor, Write, target_of
from langchain_convsync.stores.base import Commit, EventStore, NewEvent, Taken, new_token

logger = logging.getLogger(__name__)

#: Seconds that a write may spend on the API server; what is not delivered then stays in the store.
INLINE = 2.0
#: Seconds that a read may take where what was read last can stand for it.
SPARE_READ_TIME = 3.0
#: Seconds after which the next one goes on with what a process that died has recorded.
LEASE = 2.0
#: Seconds after which messages are tried again whose conversation could not be read.
RETRY_LATER = 1.0
#: Seconds between looks at an inbox that somebody else is at: doubled each time, up to the last.
FIRST_LOOK, LAST_LOOK = 0.01, 0.25


class _Entry(BaseModel):
    """Messages as their event keeps them until they are committed, and whose they are."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    journal: Literal["append"] = "append"
    phone_number: str = Field(repr=False)
    bot_id: str | None = None
    subdomain: str | None = None
    messages: tuple[ConversationMessage, ...]

    @classmethod
    def of(cls, ref: ConversationRef, messages: Sequence[ConversationMessage]) -> _Entry:
        """Messages to a conversation."""
        return cls(
            phone_number=ref.phone_number,
            bot_id=ref.bot_id,
            subdomain=ref.subdomain,
            messages=tuple(messages),
        )

    @property
    def ref(self) -> ConversationRef:
        """The conversation; its session may be another one by the time of delivery."""
        return ConversationRef(self.phone_number, bot_id=self.bot_id, subdomain=self.subdomain)


class Journal:
    """One API server's conversations, written to through a store.

    Args:
        api: The API server.
        store: Where writes live until they are delivered.
        clock: Seconds that only ever grow.
    """

    def __init__(
        self, api: Api, store: EventStore, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._store = store
        self._clock = clock
        self._memory = Memory.of(store)
        self._outbox = Outbox(api, store, breaker=self._memory.breaker(api), clock=clock)

    def read(self, ref: ConversationRef) -> Flow[Conversation]:
        """The conversation, with what this process has written and is on its way on top.

        While the API server does not answer, what this process has read last stands for it, as long
        as its session lives.

        Raises:
            APIError: The API server did not tell, and nothing is known here.
            ConversationMismatchError: It told about another conversation.
            StoreError: The store did not answer.
        """
        cid = yield from self._cid(ref)
        known = yield from self._look(cid, ref)
        if cid in self._memory.waiting:
            yield from self._catch_up(cid, known)
            known = self._memory.get(cid) or known
        return known.shown

    def write(self, ref: ConversationRef, messages: Sequence[ConversationMessage]) -> Flow[None]:
        """Record messages in the store, then deliver them, for :data:`INLINE` seconds at most.

        Raises:
            APIError: The API server answered, and it cannot be written to: nothing was recorded.
            ConfigurationError: A message cannot be sent as JSON; nothing was recorded.
            ConversationMismatchError: The API server told about another conversation.
            StoreError: The store did not take them.
        """
        if not messages:
            return
        for message in messages:
            self._api.require_sendable(message.role, message.content)
        until, cid = self._clock() + INLINE, (yield from self._cid(ref))
        account, known = _account(ref), self._memory.get(cid)
        if known is None or self._clock() - known.read_at > FRESH:
            try:
                known = yield from self._look(cid, ref, until=until)
            except APIError as error:
                if not _away(error):
                    raise
                known = None  # whose it is will be seen when the API server answers again
        if known is not None:
            ref = ref.agreeing(ref.at(known.conversation))
        handles = yield from self._store.handles()
        event = NewEvent(
            eid=handles.event(account, "journal", new_token()),
            cid=cid,
            payload=_Entry.of(ref, messages).model_dump_json(exclude_none=True),
        )
        yield from self._record(event, known, until)
        delivered = known is not None and (yield from self._deliver(cid, until))
        if not delivered:
            self._tell_of_leftovers()

    def commit(self, taken: Taken, known: Known | None = None) -> Flow[int]:
        """Queue recorded messages for delivery, in order of arrival, and give the lane back.

        Those of one conversation at a time: what is left is due at once.

        Returns:
            How many of the events that were taken it answers; 0 where they are tried again later,
            or by somebody else.

        Raises:
            StoreError: The store did not answer.
        """
        entries = [_Entry.model_validate_json(event.payload) for event in taken.events]
        ref = entries[0].ref
        batch = [*itertools.takewhile(lambda entry: entry.ref == ref, entries)]
        commit = Commit(eids=[event.eid for event in taken.events[: len(batch)]], outcomes={})
        writes: list[Write] = []
        try:
            known = yield from self._of(taken.lease.cid, ref, known)
        except (ConversationNotFoundError, ConversationMismatchError) as error:
            logger.critical("Messages are set aside, their conversation is gone: %s", error)
            telemetry.count("journal_failures", error=type(error).__name__)
            commit = replace(commit, dead=True)
        except APIError:
            yield from self._store.release(taken.lease, delay=RETRY_LATER)
            return 0
        else:
            messages = [message for entry in batch for message in entry.messages]
            writes = self._writes(taken, ref, messages, known)
            commit = replace(commit, ops=as_ops(writes))
        if (yield from self._store.commit_turn(taken.lease, commit)) == "fenced":
            return 0
        if known is not None and not commit.dead:
            self._memory.wrote(taken.lease.cid, known, writes, Pending.of(taken, writes))
        return len(batch)

    def _writes(
        self,
        taken: Taken,
        ref: ConversationRef,
        messages: Sequence[ConversationMessage],
        known: Known,
    ) -> list[Write]:
        seen = known.conversation
        fresh = known.quiet and self._clock() - known.read_at <= FRESH
        return writes_for(
            seen,
            messages,
            StateUpdate(),
            profile=self._api.profile,
            phone_number=ref.phone_number,
            turn=taken.events[0].eid,
            number=taken.turns + 1,
            decided_at=taken.now,
            base=Anchor.end_of(seen) if fresh and not taken.ops else None,
        )

    def settle(self, ref: ConversationRef) -> Flow[None]:
        """Deliver what is on its way, and forget what is known of the conversation.

        Raises:
            APIError: Something is still on its way.
            StoreError: The store did not answer.
        """
        cid = yield from self._cid(ref)
        if cid in self._memory.waiting:
            yield from self._catch_up(cid, (yield from self._look(cid, ref)))
        recorded = yield from self._store.due("turn", cid)  # by another process, for example
        delivered = yield from self._outbox.drain(cid, budget=INLINE, strict=True)
        if recorded is not None or not delivered:
            message = "earlier messages are still on their way to the API server; try again later"
            raise APIConnectionError(message)
        self._memory.forget(cid)

    def _cid(self, ref: ConversationRef) -> Flow[str]:
        handles = yield from self._store.handles()
        return handles.conversation(_account(ref), ref.phone_number)

    def _look(self, cid: str, ref: ConversationRef, *, until: float | None = None) -> Flow[Known]:
        """Read the conversation; once, and no longer than ``until``, if that is given."""
        known = self._memory.get(cid)
        # Asked before the read: what is delivered by now, the read will show.
        if known and known.pending and (yield from self._store.due("write", cid)) is None:
            known = self._memory.put(cid, replace(known, pending=None))
        try:
            found = yield from self._fetch(ref, known, until)
        except ConversationNotFoundError:
            self._memory.forget(cid)
            raise
        except APIError as error:
            if known is None or not _away(error) or known.conversation.expired(datetime.now(UTC)):
                raise
            telemetry.count("snapshots_used")
            ref.agreeing(ref.at(known.conversation))
            return known
        pending = known.pending if known else None
        return self._memory.put(cid, Known.read(found, self._clock(), pending))

    def _fetch(
        self, ref: ConversationRef, known: Known | None, until: float | None
    ) -> Flow[Conversation]:
        timeout, attempts = None, None
        if until is not None:
            timeout, attempts = until - self._clock(), 1
        elif known is not None:
            timeout = SPARE_READ_TIME
        request = Access(self._api, ref, None).read(timeout=timeout, attempts=attempts)
        if known is None:
            return (yield from request)
        whose = partial(target_of, known.conversation)
        return (yield from self._outbox.breaker.watched(whose, request))

    def _of(self, cid: str, ref: ConversationRef, known: Known | None) -> Flow[Known]:
        """What is known of the very conversation that was written to."""
        if known is not None:
            with suppress(ConversationMismatchError):
                ref.agreeing(ref.at(known.conversation))
                return known
        found = yield from self._fetch(ref, None, self._clock() + INLINE)
        return Known.read(found, self._clock())

    def _record(self, event: NewEvent, known: Known | None, until: float) -> Flow[None]:
        """Accept messages, and commit them where it is known whose they are."""
        look = FIRST_LOOK
        while True:
            token = None if known is None else new_token()
            accepted = yield from self._store.accept(event, token=token, lease=LEASE)
            if accepted.status == "busy":
                message = "too many messages of this conversation wait in the store; try later"
                raise StoreError(message)
            if accepted.state != "queued":
                return  # whoever was at the inbox has committed them
            if (taken := accepted.taken) is not None:  # however late it is: nobody else can now
                if (yield from self.commit(taken, known)) == len(taken.events):
                    return
                continue
            if known is None or self._clock() > until:
                self._memory.waiting.add(event.cid)
                return
            yield from sleep(min(look, accepted.due_in or look))
            look = min(LAST_LOOK, look * 2)

    def _catch_up(self, cid: str, known: Known) -> Flow[None]:
        """Commit what was recorded while the API server was away."""
        self._memory.waiting.discard(cid)
        while True:
            taken = yield from self._store.take("turn", new_token(), cid=cid, lease=LEASE)
            if taken is None or not (yield from self.commit(taken, known)):
                return

    def _deliver(self, cid: str, until: float) -> Flow[bool]:
        try:
            return (yield from self._outbox.drain(cid, budget=until - self._clock(), strict=True))
        except ConvSyncError as error:  # it is recorded: failing now would have it written twice
            telemetry.count("journal_failures", error=type(error).__name__)
            return False

    def _tell_of_leftovers(self) -> None:
        telemetry.count("leftovers")
        if not self._memory.warned:  # once: while an API server is away it would be said each time
            self._memory.warned = True
            logger.warning(
                "Messages are left in the store; they are delivered by the next ones of their "
                "conversations, or by: convsync worker MODULE:RUNNER. "
                "How many there are tells: convsync status"
            )


def is_journal(taken: Taken) -> bool:
    """Whether these are recorded messages that nobody has committed yet."""
    return bool(taken.events) and taken.events[0].payload.startswith('{"journal":')


def _account(ref: ConversationRef) -> str:
    """Whose inbox it is: nobody receives messages under this name."""
    return f"convsync journal {ref.bot_id or ''}"


def _away(error: APIError) -> bool:
    return error.status_code is None or error.status_code >= 500
