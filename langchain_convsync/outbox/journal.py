"""Writes of a surface that runs no turn: recorded first, then delivered as far as time allows.

What is to be written is an event of its own, accepted and committed like a turn's, in an inbox that
only such events share. What comes next (the conversation's next write, or a worker) finishes
what a process that died, or that could not reach the API server, has begun.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, Polling, monotonic, sleep
from langchain_convsync._platform import now
from langchain_convsync.client import Api
from langchain_convsync.client._breaker import is_away
from langchain_convsync.errors import (
    APIConnectionError,
    APIError,
    ConversationMismatchError,
    ConversationNotFoundError,
    ConvSyncError,
    StoreError,
    cause_of,
)
from langchain_convsync.models import Conversation, ConversationMessage, StateUpdate
from langchain_convsync.outbox.compose import as_operations, writes_for
from langchain_convsync.outbox.delivery import Outbox
from langchain_convsync.outbox.memory import Known, Memory, Pending
from langchain_convsync.outbox.plan import (
    FRESH,
    Anchor,
    Write,
    require_tenant,
    target_of,
    tenant_note,
)
from langchain_convsync.stores.base import (
    AcceptRules,
    Acquired,
    Commit,
    EventStore,
    NewEvent,
    new_token,
)
from langchain_convsync.stores.changed import with_new_names
from langchain_convsync.stores.served import require_served
from langchain_convsync.surfaces.access import Access
from langchain_convsync.surfaces.context import ConversationRef
from langchain_convsync.surfaces.recorded import unanswered, unrecorded

logger = logging.getLogger(__name__)

#: Seconds that a write may spend on the API server; what is not delivered then stays in the store.
INLINE = 2.0
#: Seconds that a read may take where what was read last can stand for it.
SPARE_READ_TIME = 3.0
#: Seconds after which the next one goes on with what a process that died has recorded.
LEASE = 2.0
#: Seconds after which messages are tried again whose conversation could not be read.
RETRY_LATER = 1.0
#: Tells a history's messages from a customer's, which `turns` reads.
KIND: Literal["history"] = "history"


class _Entry(BaseModel):
    """Messages as their event keeps them until they are committed, and their conversation."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    kind: Literal["history"]
    phone_number: str = Field(repr=False)
    bot_id: str | None = None
    subdomain: str | None = None
    messages: tuple[ConversationMessage, ...]

    @classmethod
    def of(cls, ref: ConversationRef, messages: Sequence[ConversationMessage]) -> _Entry:
        """Messages to a conversation."""
        return cls(
            kind=KIND,
            phone_number=ref.phone_number,
            bot_id=ref.bot_id,
            subdomain=ref.subdomain,
            messages=tuple(messages),
        )

    @classmethod
    def batch(cls, payloads: Iterable[str]) -> list[_Entry]:
        """The first messages, as far as they can be read and are of one conversation."""
        entries: list[_Entry] = []
        for payload in payloads:
            try:
                entry = cls.model_validate_json(payload)
                ref = entry.ref
            except ValueError:  # it names no customer, say
                break
            if entries and ref != entries[0].ref:
                break
            entries.append(entry)
        return entries

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
        self, api: Api, store: EventStore, *, clock: Callable[[], float] = monotonic
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
        conversation_key = yield from self._conversation_key(ref)
        known = yield from self._recent(conversation_key, ref)
        if conversation_key in self._memory.waiting:
            yield from self._catch_up(conversation_key, known)
            known = self._memory.get(conversation_key) or known
        return known.with_writes

    def write(self, ref: ConversationRef, messages: Sequence[ConversationMessage]) -> Flow[None]:
        """Record messages in the store, then deliver them, for :data:`INLINE` seconds at most.

        Raises:
            APIError: The API server answered, and it cannot be written to: nothing was recorded.
            ConfigurationError: A message cannot be sent as JSON; nothing was recorded.
            ConversationMismatchError: The API server told about another conversation.
            StoreError: The store did not accept them.
        """
        if not messages:
            return
        for message in messages:
            self._api.require_sendable(message.role, message.content)
        yield from require_served(self._store, self._api.address)
        until, token = self._clock() + INLINE, new_token()
        conversation_key, known = yield from with_new_names(
            lambda: self._recorded(ref, messages, until, token)
        )
        delivered = known is not None and (yield from self._deliver(conversation_key, until))
        if not delivered:
            self._tell_of_leftovers()

    def _recorded(
        self,
        ref: ConversationRef,
        messages: Sequence[ConversationMessage],
        until: float,
        token: str,
    ) -> Flow[tuple[str, Known | None]]:
        """Record messages as an event; their conversation, and what is known of it."""
        keys, account = (yield from self._store.keys()), _account(ref)
        conversation_key = keys.conversation(account, ref.phone_number)
        known = self._memory.get(conversation_key)
        if known is None or self._clock() - known.read_at > FRESH:
            try:
                known = yield from self._recent(conversation_key, ref, until=until)
            except APIError as error:
                if not is_away(error):
                    raise
                known = None  # its tenant will be seen when the API server answers again
        if known is not None:
            ref = ref.agreeing(ref.at(known.conversation))
        event = NewEvent(
            event_key=keys.event(account, ref.phone_number, "journal", token),
            conversation_key=conversation_key,
            payload=_Entry.of(ref, messages).model_dump_json(exclude_none=True),
            names=keys,
        )
        yield from self._record(event, known, until)
        return conversation_key, known

    def commit(self, acquired: Acquired, known: Known | None = None) -> Flow[int]:
        """Queue recorded messages for delivery, in order of arrival, and give the queue back.

        Those of one conversation at a time: what is left is due at once.

        Returns:
            How many of the acquired events it answers; 0 where they are tried again later, or by
            another worker.

        Raises:
            StoreError: The store did not answer.
        """
        batch = _Entry.batch(event.payload for event in acquired.events)
        answered = [event.event_key for event in acquired.events[: len(batch) or 1]]
        commit = Commit(event_keys=answered, outcomes={})
        if not batch:
            return (yield from self._bury(acquired, commit))
        ref = batch[0].ref
        writes: list[Write] = []
        try:
            known = yield from self._of(acquired.lease.conversation_key, ref, known)
            require_tenant(acquired.tenant, known.conversation)
        except (ConversationNotFoundError, ConversationMismatchError) as error:
            told = "messages are dead letters, their conversation is gone: %s"
            telemetry.log(logger, logging.CRITICAL, acquired.lease.conversation_key, told, error)
            telemetry.count("journal_failures", error=type(error).__name__)
            commit = replace(commit, dead=True, reason=f"no conversation: {type(error).__name__}")
        except APIError as error:
            key, told = acquired.lease.conversation_key, "its messages wait for the API server: %s"
            telemetry.log(logger, logging.WARNING, key, told, error, repeats=True)
            why = cause_of(error)
            yield from self._store.release(acquired.lease, delay=RETRY_LATER, why=why)
            return 0
        else:
            messages = [message for entry in batch for message in entry.messages]
            writes = self._writes(acquired, ref, messages, known)
            tenant = tenant_note(known.conversation)
            commit = replace(commit, operations=as_operations(writes), tenant=tenant)
        if (yield from self._store.commit_turn(acquired.lease, commit)) == "fenced":
            return 0
        if known is not None and not commit.dead:
            pending = Pending.of(acquired, writes)
            self._memory.wrote(acquired.lease.conversation_key, known, writes, pending)
        return len(batch)

    def _bury(self, acquired: Acquired, commit: Commit) -> Flow[int]:
        """What cannot be read ends as a dead letter, and holds up nothing behind it."""
        commit = replace(commit, dead=True, reason="the stored messages cannot be read")
        if (yield from self._store.commit_turn(acquired.lease, commit)) == "fenced":
            return 0
        key, told = acquired.lease.conversation_key, "event %s is a dead letter: %s"
        telemetry.log(logger, logging.ERROR, key, told, commit.event_keys[0], commit.reason)
        telemetry.count("unreadable", what="event")
        return 1

    def _writes(
        self,
        acquired: Acquired,
        ref: ConversationRef,
        messages: Sequence[ConversationMessage],
        known: Known,
    ) -> list[Write]:
        read = known.conversation
        fresh = known.settled and self._clock() - known.read_at <= FRESH
        if self._api.profile.records_inbound:
            messages = unrecorded(messages, unanswered(read.said).elements())
        return writes_for(
            read,
            messages,
            StateUpdate(),
            phone_number=ref.phone_number,
            turn=acquired.events[0].event_key,
            number=acquired.turns + 1,
            decided_at=acquired.now,
            base=Anchor.end_of(read) if fresh and not acquired.operations else None,
        )

    def settle(self, ref: ConversationRef) -> Flow[None]:
        """Deliver what is on its way, and forget what is known of the conversation.

        Raises:
            APIError: Something is still on its way.
            StoreError: The store did not answer.
        """
        conversation_key = yield from self._conversation_key(ref)
        if conversation_key in self._memory.waiting:
            yield from self._catch_up(
                conversation_key, (yield from self._recent(conversation_key, ref))
            )
        recorded = yield from self._store.due("inbox", conversation_key)  # e.g. by another process
        delivered = yield from self._outbox.drain(conversation_key, budget=INLINE, strict=True)
        if recorded is not None or not delivered:
            message = "earlier messages are still on their way to the API server; try again later"
            raise APIConnectionError(message)
        self._memory.forget(conversation_key)

    def _conversation_key(self, ref: ConversationRef) -> Flow[str]:
        yield from require_served(self._store, self._api.address)
        keys = yield from self._store.keys()
        return keys.conversation(_account(ref), ref.phone_number)

    def _recent(
        self, conversation_key: str, ref: ConversationRef, *, until: float | None = None
    ) -> Flow[Known]:
        """Read the conversation; once, and no longer than ``until``, if that is given."""
        known = self._memory.get(conversation_key)
        # Asked before the read: what is delivered by now, the read will show.
        if known and known.pending:
            delivered = (yield from self._store.due("outbox", conversation_key)) is None
            if delivered:
                known = self._memory.put(conversation_key, replace(known, pending=None))
        try:
            found = yield from self._fetch(ref, known, until)
        except ConversationNotFoundError:
            self._memory.forget(conversation_key)
            raise
        except APIError as error:
            if known is None or not is_away(error) or known.conversation.expired(now()):
                raise
            telemetry.count("snapshots_used")
            ref.agreeing(ref.at(known.conversation))
            return known
        pending = known.pending if known else None
        return self._memory.put(conversation_key, Known.read(found, self._clock(), pending))

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
        target = partial(target_of, known.conversation)
        return (yield from self._outbox.breaker.guarded(target, request))

    def _of(self, conversation_key: str, ref: ConversationRef, known: Known | None) -> Flow[Known]:
        """What is known of the very conversation that was written to."""
        if known is not None:
            with suppress(ConversationMismatchError):
                ref.agreeing(ref.at(known.conversation))
                return known
        found = yield from self._fetch(ref, None, self._clock() + INLINE)
        return Known.read(found, self._clock())

    def _record(self, event: NewEvent, known: Known | None, until: float) -> Flow[None]:
        """Accept messages, and commit them where their conversation is known."""
        polling, rules = Polling(), AcceptRules(lease=LEASE)
        while True:
            token = None if known is None else new_token()
            accepted = yield from self._store.accept(event, rules, token=token)
            if accepted.status == "busy":
                message = "too many messages of this conversation wait in the store; try later"
                raise StoreError(message)
            if accepted.state != "queued":
                return  # the worker at the inbox has committed them
            if (acquired := accepted.acquired) is not None:  # however late: no other worker can now
                if (yield from self.commit(acquired, known)) == len(acquired.events):
                    return
                continue
            if known is None or self._clock() > until:
                self._memory.waiting.add(event.conversation_key)
                return
            yield from sleep(polling.pause(accepted.due_in or math.inf))

    def _catch_up(self, conversation_key: str, known: Known) -> Flow[None]:
        """Commit what was recorded while the API server was away."""
        self._memory.waiting.discard(conversation_key)
        while True:
            acquired = yield from self._store.acquire(
                "inbox", new_token(), conversation_key=conversation_key, lease=LEASE
            )
            if acquired is None or not (yield from self.commit(acquired, known)):
                return

    def _deliver(self, conversation_key: str, until: float) -> Flow[bool]:
        try:
            return (
                yield from self._outbox.drain(
                    conversation_key, budget=until - self._clock(), strict=True
                )
            )
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


def is_journal(acquired: Acquired) -> bool:
    """Whether these are messages of a history, recorded and not committed yet."""
    try:
        stored = from_json(acquired.events[0].payload)
    except ValueError:
        return False
    return isinstance(stored, dict) and stored.get("kind") == KIND


def _account(ref: ConversationRef) -> str:
    """An inbox apart: no account receives messages under this name."""
    tenant = "" if ref.subdomain is None else f" of {ref.subdomain}"
    return f"convsync journal {ref.bot_id or ''}{tenant}"
