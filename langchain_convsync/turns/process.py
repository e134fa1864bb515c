"""What happens between acquiring a conversation and committing its turn."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from langchain_core.messages import HumanMessage

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, sleep
from langchain_convsync.client import Api
from langchain_convsync.client._breaker import CircuitBreaker
from langchain_convsync.errors import (
    APIConnectionError,
    APIError,
    ClosedError,
    ConversationMismatchError,
    ConversationNotFoundError,
    ConvSyncError,
    FencedError,
    StoreError,
    UnknownOutcomeError,
)
from langchain_convsync.models import (
    Conversation,
    ConversationMessage,
    InboundEvent,
    StateUpdate,
)
from langchain_convsync.outbox.plan import digest, noted_target, require_tenant
from langchain_convsync.settings import CallTarget
from langchain_convsync.stores.base import Acquired, Commit, EventStore
from langchain_convsync.stores.heartbeat import Watch
from langchain_convsync.surfaces.bounds import recent
from langchain_convsync.surfaces.calls import TurnCalls
from langchain_convsync.surfaces.context import ConversationRef, TurnRecord
from langchain_convsync.surfaces.messages import to_langchain
from langchain_convsync.surfaces.state import (
    Extractor,
    as_update,
    ask,
    bounded,
    called,
    extract,
    without,
)
from langchain_convsync.turns.agent import (
    Call,
    baseline,
    call_for,
    has_memory,
    invoke,
    is_interrupted,
    reply_of,
)
from langchain_convsync.turns.agents import Agent, Agents, ContextOf
from langchain_convsync.turns.lids import Lids
from langchain_convsync.turns.naming import is_named
from langchain_convsync.turns.result import Attempt, CurrentConversation, Snapshot, TurnResult
from langchain_convsync.turns.turn import Batch, Outcome, Status, Turn

logger = logging.getLogger(__name__)

Prepare: TypeAlias = Callable[[Conversation, Sequence[InboundEvent]], Any]

#: Seconds that the read at the start of a turn may take, retries included.
READ_TIME = 10.0
#: The same where the turn can do without: what the last one left is still valid.
SPARE_READ_TIME = 3.0
#: Seconds for which it may be missing: the first message may beat the server's own webhook.
NOT_FOUND_TIME = 3.0
#: Seconds after which a turn that could not begin is tried again.
RETRY_LATER = 1.0
#: Seconds before an agent that failed is run again; doubled each time.
FIRST_BACKOFF = 0.2


#: What becomes of a reply while whose agent ran another message came.
OnNewerMessage: TypeAlias = Literal["answer", "rerun"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a turn; ``TurnRunner`` describes them."""

    fallback_reply: str | None
    agent_timeout: float
    max_errors: int
    max_starts: int
    conversation_timeout: float
    lease: float
    on_newer_message: OnNewerMessage


class Processor:
    """Runs turns: read, agent, commit."""

    def __init__(
        self,
        agent: Agent,
        api: Api,
        store: EventStore,
        *,
        breaker: CircuitBreaker,
        extractor: Extractor | None,
        prepare: Prepare | None,
        history_limit: int,
        context: ContextOf | None,
        limits: Limits,
        lids: Lids,
        queues_replies: bool = False,
    ) -> None:
        self._agents = Agents(agent, context)
        self._api = api
        self._store = store
        self._breaker = breaker
        self._extractor = extractor
        self._prepare = prepare
        self._history_limit = history_limit
        self._limits = limits
        self._lids = lids
        self._queues_replies = queues_replies

    def process(self, acquired: Acquired, batch: Batch) -> Flow[Turn | None]:
        """Run one turn on an acquired conversation.

        Args:
            acquired: The conversation.
            batch: The head of its inbox.

        Returns:
            What it came to; None when another worker has it now, or it is due again shortly.
        """
        left, limits, lease = len(acquired.events), self._limits, acquired.lease
        acquired = replace(acquired, events=batch.queued)
        deadline = limits.agent_timeout + READ_TIME
        with (
            telemetry.timed("turn") as timing,
            Watch(self._store, lease, seconds=limits.lease, deadline=deadline) as watch,
        ):
            timing.note(turn=batch.turn_id, conversation=lease.conversation_key)
            try:
                if not batch.events:
                    return (yield from self._bury(acquired, batch.damage))
                attempt = yield from self._attempt(acquired, batch)
                if attempt is None:
                    return None
                attempt.left = left - len(acquired.events)
                return (yield from self._begin(attempt, watch))
            except FencedError:
                telemetry.count("turns_fenced")
                return None
            except (StoreError, ClosedError):  # no failure of the turn's: it begins again later
                yield from self._store.release(lease, delay=RETRY_LATER)
                raise
            except Exception as error:
                if batch.head.errors + 1 < limits.max_errors:
                    yield from self._store.release(lease, delay=RETRY_LATER, failed=True)
                    raise
                reason = f"no turn could be made of the stored event: {type(error).__name__}"
                return (yield from self._bury(acquired, reason, error))

    def _bury(
        self, acquired: Acquired, reason: str, error: BaseException | None = None
    ) -> Flow[Turn | None]:
        """An event that no turn can be made of ends as a dead letter, and holds up no other."""
        turn_id = acquired.events[0].event_key
        outcome = Outcome(status="failed", turn_id=turn_id)
        commit = Commit(
            event_keys=[turn_id], outcomes={}, fact=outcome.fact, dead=True, reason=reason
        )
        if (yield from self._store.commit_turn(acquired.lease, commit)) != "done":
            telemetry.count("turns_fenced")
            return None
        telemetry.count("turns_failed")
        telemetry.count("unreadable", what="event")
        logger.error("Turn %s is a dead letter: %s", turn_id, reason)
        return outcome.turn(error=error)

    def _attempt(self, acquired: Acquired, batch: Batch) -> Flow[Attempt | None]:
        """An attempt at the turn; None if its events wait under the customer's number instead."""
        lid = None
        if (number := (yield from self._lids.phone_number_of(batch.latest))) is not None:
            if (yield from self._lids.moved(acquired.lease, batch.latest, number)):
                return None
            batch, lid = batch.known_as(number), batch.latest.lid
        event = batch.latest
        ref = ConversationRef(
            event.phone_number or event.lid or event.chat_id or "",
            bot_id=batch.told("bot_id"),
            subdomain=batch.told("subdomain"),
            turn_id=batch.turn_id,
        )
        return Attempt(acquired, batch, ref, lid)

    def _begin(self, attempt: Attempt, watch: Watch) -> Flow[Turn | None]:
        if not attempt.batch.said:
            return (yield from self._commit(attempt, TurnResult(status="dropped", messages=[])))
        try:
            with telemetry.timed("turn_phase", phase="read"):
                yield from self._read(attempt)
        except APIError as error:
            return (yield from self._unread(attempt, error))
        except ConversationMismatchError as error:
            logger.critical("Turn %s is a dead letter: %s", attempt.batch.turn_id, error)
            telemetry.count("mismatch", operation="read")
            return (yield from self._give_up(attempt, error))
        head, limits = attempt.batch.head, self._limits
        damaged = bool(attempt.batch.damage)
        if damaged or head.errors >= limits.max_errors or head.starts > limits.max_starts:
            return (yield from self._give_up(attempt))
        try:
            result = yield from self._answer(attempt, watch)
        except FencedError:
            raise
        except Exception as failure:  # noqa: BLE001 - whatever the user's agent raises ends here
            return (yield from self._failed(attempt, failure))
        return (yield from self._commit(attempt, result, rerun=self._may_rerun(attempt)))

    def _may_rerun(self, attempt: Attempt) -> bool:
        """A customer who never stops writing must be answered at last."""
        waits = attempt.acquired.now - attempt.batch.head.accepted_at
        if attempt.left:  # they are newer, and would be left again
            return False
        return self._limits.on_newer_message == "rerun" and waits < self._limits.agent_timeout

    def _read(self, attempt: Attempt) -> Flow[None]:
        """Read the conversation, or take the last turn's snapshot where the API does not answer."""
        if attempt.acquired.snapshot is None:
            read = yield from self._find_own(attempt, READ_TIME)
        else:
            last = Snapshot(attempt.acquired.snapshot)
            try:
                if self._breaker.wait(last.target):
                    message = "the API server did not answer a moment ago"
                    raise APIConnectionError(message)
                finding = self._find_own(attempt, SPARE_READ_TIME)
                read = yield from self._breaker.guarded(last.target, finding)
            except ConversationNotFoundError:
                raise
            except APIError:
                if last.conversation is None:
                    raise
                telemetry.count("snapshots_used")
                attempt.work_on(CurrentConversation(last.conversation))
                return
        recorded = attempt.batch if self._api.profile.records_inbound else None
        attempt.work_on(CurrentConversation.read(read, attempt.acquired, recorded))

    def _find_own(self, attempt: Attempt, seconds: float) -> Flow[Conversation]:
        """The conversation, of the tenant that the turns before this one were of.

        Raises:
            ConversationMismatchError: The API server tells another tenant's.
        """
        note = attempt.acquired.tenant
        try:
            read = yield from self._find(attempt, seconds)
            require_tenant(note, read)
        except ConversationMismatchError:
            noted = noted_target(note)
            if noted is None or attempt.ref.bot_id or not is_named(attempt.batch.latest):
                raise
            # A customer of two tenants, whose bot is not told: the server took the newest.
            attempt.ref = replace(attempt.ref, bot_id=noted.bot_id)
            read = yield from self._find(attempt, seconds)
            require_tenant(note, read)
        return read

    def _find(self, attempt: Attempt, seconds: float) -> Flow[Conversation]:
        """The one API round trip before the agent; waits where the server's webhook is late."""
        until, delay = time.monotonic() + NOT_FOUND_TIME, 0.1
        while True:
            try:
                return (yield from self._get(attempt, seconds))
            except ConversationNotFoundError:
                if time.monotonic() + delay > until:
                    raise
            yield from sleep(delay)
            delay *= 2

    def _get(self, attempt: Attempt, seconds: float) -> Flow[Conversation]:
        """The conversation; a server may know its customer by the LID only, as we did before."""

        def ask(ref: ConversationRef) -> Flow[Conversation]:
            target = CallTarget(subdomain=ref.subdomain, bot_id=ref.bot_id)
            return self._api.get_conversation(
                ref.phone_number, ref.bot_id, target=target, timeout=seconds
            )

        try:
            return (yield from ask(attempt.ref))
        except ConversationNotFoundError:
            if attempt.lid is None:
                raise
        of_lid = replace(attempt.ref, phone_number=attempt.lid)
        found = yield from ask(of_lid)
        attempt.ref = of_lid
        return found

    def _unread(self, attempt: Attempt, error: APIError) -> Flow[Turn | None]:
        """Without a conversation there is no tenant: the events wait, at last for an operator."""
        acquired, batch = attempt.acquired, attempt.batch
        if acquired.now - batch.head.accepted_at >= self._limits.conversation_timeout:
            return (yield from self._give_up(attempt, error))
        yield from self._store.release(acquired.lease, delay=RETRY_LATER)
        logger.warning("Turn %s waits for the API server: %s", batch.turn_id, error)
        missing = isinstance(error, ConversationNotFoundError)
        status: Status = "no_conversation" if missing else "queued"
        return Turn(status=status, turn_id=batch.turn_id, error=error)

    def _answer(self, attempt: Attempt, watch: Watch) -> Flow[TurnResult]:
        current, inbound = attempt.current, _inbound(attempt.batch)
        if attempt.acquired.paused or not attempt.batch.asked:
            return _given_to_a_human(attempt)
        if current is None or not current.conversation.is_active:
            return TurnResult(status="dropped", messages=inbound)
        call, record = self._call(attempt, current.conversation)
        before = yield from baseline(call)
        with telemetry.timed("turn_phase", phase="agent"):
            output = yield from invoke(
                call, record, watch, before=before, deadline=self._limits.agent_timeout
            )
        if is_interrupted(output):
            return TurnResult(status="interrupted", messages=[*inbound, *record.added])
        reply = reply_of(output, before.values)
        decided = yield from self._decide(output, before.values)
        noted = record.update
        if before.waiting:  # the calls before the interrupt were noted in that turn's record
            noted = called(without(output, before.values)).updated_by(noted)
        return TurnResult(
            status="answered",
            messages=[*inbound, *record.added, ConversationMessage(role="bot", content=reply)],
            reply=reply,
            update=self._accepted(noted.updated_by(decided)),
        )

    def _call(self, attempt: Attempt, conversation: Conversation) -> tuple[Call, TurnRecord]:
        agent = self._agents.of(attempt.ref)
        # A store may forget a conversation, and with it whose it was; an agent's memory does not.
        tenant = digest(conversation.subdomain)[:8]
        thread = f"{attempt.acquired.lease.conversation_key}.{tenant}"
        owns_history = has_memory(agent) and self._prepare is None
        record = TurnRecord(
            attempt.ref,
            conversation,
            thread=thread,
            history_given=not owns_history,
            calls=TurnCalls(self._store, attempt.acquired.lease, attempt.batch.event_keys),
        )
        events = attempt.batch.asked
        new = [
            HumanMessage(content=event.content, id=f"convsync-{event_key}")
            for event_key, event in events
        ]
        facts = {"convsync_turn": attempt.batch.turn_id, "convsync_tenant": attempt.ref.subdomain}
        about: dict[str, Any] = {"facts": facts, "options": self._agents.options(attempt.ref)}
        if self._prepare is None:
            said = [] if owns_history else to_langchain(conversation.said)
            history = recent(said, self._history_limit)
            return call_for(agent, history, new, thread=thread, **about), record
        given = self._prepare(conversation, [event for _, event in events])
        return replace(call_for(agent, [], new, thread=thread, **about), input=given), record

    def _decide(self, output: object, before: Mapping[str, Any]) -> Flow[StateUpdate]:
        if self._extractor is not None:
            try:
                decision = yield from ask(self._extractor, output)
            except Exception as error:  # noqa: BLE001 - the customer's reply is there already
                telemetry.count("extraction_failures", error=type(error).__name__)
                logger.warning("The extractor failed, no state is synced: %s", _told(error))
                return StateUpdate()
            if decision is not None:
                return as_update(decision)
        return extract(output, baseline=before, tool_calls=False)  # those are in the record

    def _accepted(self, update: StateUpdate) -> StateUpdate:
        """The update, within bounds, without an intent that this API server is known to refuse."""
        update = bounded(update)
        intents = self._api.profile.intents
        if update.intent is None or intents is None or update.intent in intents:
            return update
        telemetry.count("intents_refused")
        logger.warning(
            "The intent is none of ServerProfile.intents (%s); it is not synced",
            ", ".join(sorted(intents)),
        )
        return update.model_copy(update={"intent": None})

    def _failed(self, attempt: Attempt, error: Exception) -> Flow[Turn | None]:
        if self._agents.learn_from(error):  # it was made for no customer, and begins again
            yield from self._store.release(attempt.acquired.lease)
            return None
        batch, limit = attempt.batch, self._limits.max_errors
        failures = batch.head.errors + 1
        telemetry.count("agent_failures", error=type(error).__name__)
        logger.warning(
            "Turn %s: the agent failed with %s, run %d of %d",
            batch.turn_id,
            _told(error),
            failures,
            limit,
            exc_info=logger.isEnabledFor(logging.DEBUG),  # its text may quote the customer
        )
        if failures >= limit or isinstance(error, UnknownOutcomeError):
            return (yield from self._give_up(attempt, error))
        delay = FIRST_BACKOFF * 2.0 ** (failures - 1)
        yield from self._store.release(attempt.acquired.lease, delay=delay, failed=True)
        return None

    def _give_up(self, attempt: Attempt, error: BaseException | None = None) -> Flow[Turn | None]:
        """The one result of every failure: fallback, user message recorded, dead letter."""
        telemetry.count("turns_failed")
        fallback = self._limits.fallback_reply if attempt.batch.asked else None
        messages = _inbound(attempt.batch)
        if fallback:
            messages.append(ConversationMessage(role="bot", content=fallback))
        reason = str(error) if isinstance(error, ConvSyncError) else ""
        result = TurnResult(status="failed", messages=messages, reply=fallback, reason=reason)
        return (yield from self._commit(attempt, result, error))

    def _commit(
        self,
        attempt: Attempt,
        result: TurnResult,
        error: BaseException | None = None,
        *,
        rerun: bool = False,
    ) -> Flow[Turn | None]:
        outcome, lease = result.outcome(attempt.batch), attempt.acquired.lease
        profile, queued = self._api.profile, self._queues_replies
        commit = result.commit(attempt, outcome, profile, queue_reply=queued)
        guarded = replace(
            commit,
            unless_paused=result.reply is not None,
            unless_newer=rerun and result.reply is not None,
        )
        with telemetry.timed("turn_phase", phase="commit"):
            committed = yield from self._store.commit_turn(lease, guarded)
        match committed:
            case "done":
                waited = max(0.0, attempt.acquired.now - attempt.batch.head.accepted_at)
                telemetry.observe("turn_phase", waited, phase="wait")
                return attempt.batch.addressed(outcome.turn(error=error))
            case "paused":
                telemetry.count("replies_withheld")
                return (yield from self._commit(attempt, _given_to_a_human(attempt)))
            case "newer":
                telemetry.count("turns_rerun")
                yield from self._store.release(lease)
                return None
            case _:
                raise FencedError


def _told(error: Exception) -> str:
    """An error for the log: ours hold no words of the customer's, and others may."""
    return str(error) if isinstance(error, ConvSyncError) else type(error).__name__


def _given_to_a_human(attempt: Attempt) -> TurnResult:
    """What was said is recorded; a human answers it."""
    return TurnResult(status="paused", messages=_inbound(attempt.batch))


def _inbound(batch: Batch) -> list[ConversationMessage]:
    return [
        ConversationMessage(role=event.role, content=event.content)
        for _, event in batch.said
        if event.content
    ]
