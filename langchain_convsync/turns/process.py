"""What happens between acquiring a conversation and committing its turn."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from langchain_core.runnables import Runnable

from langchain_convsync import _machine, telemetry
from langchain_convsync._flow import Flow, off_the_loop
from langchain_convsync._platform import now
from langchain_convsync.client import Api
from langchain_convsync.client._breaker import CircuitBreaker, is_away
from langchain_convsync.errors import (
    APIError,
    ClosedError,
    ConversationMismatchError,
    ConversationNotFoundError,
    FencedError,
    LoopError,
    StoreError,
    UnknownOutcomeError,
    cause_of,
    loggable,
)
from langchain_convsync.models import (
    Conversation,
    ConversationMessage,
)
from langchain_convsync.outbox.plan import digest
from langchain_convsync.stores.base import Acquired, Commit, EventStore, Lease, QueuedEvent
from langchain_convsync.stores.heartbeat import Watch
from langchain_convsync.surfaces.bounds import latest
from langchain_convsync.surfaces.calls import TurnCalls
from langchain_convsync.surfaces.context import ConversationRef, TurnRecord
from langchain_convsync.surfaces.state import Extractor
from langchain_convsync.turns import telling
from langchain_convsync.turns.agent import (
    Call,
    abandon,
    call_for,
    has_memory,
    shows_files,
)
from langchain_convsync.turns.agents import Agent, Agents, ContextOf
from langchain_convsync.turns.files import as_messages
from langchain_convsync.turns.lids import Lids
from langchain_convsync.turns.media import Media
from langchain_convsync.turns.note import Note
from langchain_convsync.turns.reading import READ_TIME, Reader
from langchain_convsync.turns.result import Attempt, TurnResult, inbound, paced, recorded
from langchain_convsync.turns.resuming import (
    NOT_RUN,
    Answers,
    ForgottenError,
    Prepare,
    Resume,
    held_event,
)
from langchain_convsync.turns.running import Runs
from langchain_convsync.turns.turn import Batch, Outcome, Status, Turn

logger = logging.getLogger(__name__)

#: Seconds after which a turn that could not begin is tried again.
RETRY_LATER = 1.0
#: Seconds before an agent that failed is run again; doubled each time.
FIRST_BACKOFF = 0.2
#: Seconds at most before a turn begins again that the machine lacked something for.
LONGEST_WANT = 60.0


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
    max_age: float | None
    max_turns: int | None


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
        resume: Resume | None,
        interrupt_timeout: float | None,
        limits: Limits,
        lids: Lids,
        media: Media,
        queues_replies: bool = False,
        log_errors: bool = False,
    ) -> None:
        self._agents = Agents(agent, context)
        self._api = api
        self._store = store
        self._reader = Reader(api, breaker)
        self._prepare = prepare
        self._history_limit = history_limit
        self._answers = Answers(store, prepare, resume, interrupt_timeout, log_errors)
        self._runs = Runs(self._answers, extractor, api.profile, limits.agent_timeout)
        self._limits = limits
        self._lids = lids
        self._media = media
        self._queues_replies = queues_replies
        self._log_errors = log_errors

    def require(self, *, awaited: bool) -> None:
        """Tell at once what would fail in every turn; see :class:`Agents`."""
        self._agents.require(awaited=awaited)

    def run_plain_functions_on_threads(self) -> None:
        """``extractor`` and ``resume``."""
        answers, extractor = self._answers, self._runs.extractor
        if answers.resume is not None:
            answers = self._answers = replace(answers, resume=off_the_loop(answers.resume))
        if extractor is not None and not isinstance(extractor, Runnable):
            extractor = off_the_loop(extractor)
        self._runs = replace(self._runs, answers=answers, extractor=extractor)

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
        deadline = limits.agent_timeout + READ_TIME + self._media.longest
        watch = Watch(self._store, lease, seconds=limits.lease, deadline=deadline)
        with telemetry.timed("turn") as timing:
            timing.note(turn=batch.turn_id, conversation=lease.conversation_key)
            try:
                with watch:
                    if not batch.events and batch.waiting is None:
                        return (yield from self._bury(acquired, batch.damage))
                    attempt = yield from self._attempt(acquired, batch)
                    if attempt is None:
                        return None
                    attempt.left = left - len(acquired.events)
                    return (yield from self._begin(attempt, watch))
            except FencedError:
                telemetry.count("turns_fenced")
                return None
            except (StoreError, ClosedError) as error:  # the turn begins again later
                yield from self._give_back(
                    watch, lease, f"the event store failed: {cause_of(error)}"
                )
                raise
            except Exception as error:
                if shortage := _machine.noticed(error):
                    yield from self._give_back(watch, lease, shortage)
                    raise
                reason = f"no turn could be made of the stored event: {loggable(error)}"
                if batch.head.errors + 1 < limits.max_errors:
                    yield from self._store.release(
                        lease, delay=RETRY_LATER, failed=True, why=reason
                    )
                    raise
                return (yield from self._bury(acquired, reason, error))

    def _give_back(self, watch: Watch, lease: Lease, why: str) -> Flow[None]:
        """Release a turn that is to begin again later, now or when the store can."""
        try:
            yield from self._store.release(lease, delay=RETRY_LATER, why=why)
        except StoreError:
            watch.give_back(delay=RETRY_LATER)

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
        key = acquired.lease.conversation_key
        telemetry.log(logger, logging.ERROR, key, "event %s is a dead letter: %s", turn_id, reason)
        return outcome.turn(error=error)

    def _attempt(self, acquired: Acquired, batch: Batch) -> Flow[Attempt | None]:
        """An attempt at the turn; None if its events wait, or wait in another conversation."""
        lease, key = acquired.lease, acquired.lease.conversation_key
        for name in dict.fromkeys(name for event in batch.queued for name in event.apart):
            linked = self._store.alias(name, key, lease=lease)
            if not (yield from self._stays(acquired, batch, (yield from linked))):
                return None
        if (number := (yield from self._lids.phone_number_of(batch.latest, key))) is not None:
            place = yield from self._lids.link(lease, batch.latest, number)
            if not (yield from self._stays(acquired, batch, place)):
                return None
            batch = batch.known_as(number)
        if (seconds := self._limits.max_age) is not None:
            batch = batch.judged(before=now() - timedelta(seconds=seconds))
        customer, *others = batch.names or [batch.latest.phone_number or ""]  # which is refused
        ref = ConversationRef(
            customer,
            bot_id=batch.told("bot_id"),
            subdomain=batch.told("subdomain"),
            turn_id=batch.turn_id,
        )
        note = Note.read(acquired.note).hearing(batch.heard).taken_over(batch.taken_over)
        return Attempt(acquired, batch, ref, note, tuple(others))

    def _stays(self, acquired: Acquired, batch: Batch, place: str | None) -> Flow[bool]:
        """Whether a turn goes on where it is, after two of its customer's names were to be linked.

        Args:
            acquired: The turn's inbox.
            batch: The turn's events.
            place: Where both names lead to now; None while both have something under way, which is
                waited for, lest its reply be overtaken.
        """
        is_late = acquired.now - batch.since >= self._limits.conversation_timeout
        if place is None and not is_late:
            why = "the customer's other conversation has something under way"
            yield from self._store.release(acquired.lease, delay=RETRY_LATER, why=why)
        return place == acquired.lease.conversation_key or (place is None and is_late)

    def _begin(self, attempt: Attempt, watch: Watch) -> Flow[Turn | None]:
        if not attempt.batch.said and attempt.batch.waiting is None:
            return (yield from self._commit(attempt, TurnResult(status="dropped", messages=[])))
        yield from self._give_back_to_agent(attempt)
        if self._answers.must_wait(attempt):
            yield from self._answers.hold(attempt)
            return None
        try:
            with telemetry.timed("turn_phase", phase="read") as timing:
                yield from self._reader.read(attempt)
            attempt.phases["read"] = timing.seconds
            attempt.keys = yield from self._store.keys()
        except APIError as error:
            return (yield from self._unread(attempt, error))
        except ConversationMismatchError as error:
            turn_id, key = attempt.batch.turn_id, attempt.conversation_key
            told = "event %s is a dead letter: %s"
            telemetry.log(logger, logging.CRITICAL, key, told, turn_id, error)
            telemetry.count("mismatch", operation="read")
            return (yield from self._give_up(attempt, error))
        return (yield from self._end(attempt, watch))

    def _give_back_to_agent(self, attempt: Attempt) -> Flow[None]:
        """End a pause that no human has begun, as the customer's own message tells."""
        batch, is_paused = attempt.batch, attempt.acquired.paused
        if batch.latest.is_group or not (is_paused and batch.asked and attempt.note.was_machine):
            return
        yield from self._store.pause(attempt.conversation_key, seconds=0.0)
        telemetry.count("automatic_messages", by="promptness")
        attempt.acquired = replace(attempt.acquired, paused=False)
        attempt.note = attempt.note.model_copy(update={"takes": 0})

    def _end(self, attempt: Attempt, watch: Watch) -> Flow[Turn | None]:
        """Answer the events of a conversation that was read, or give them up."""
        head, limits = attempt.batch.head, self._limits
        damaged = bool(attempt.batch.damage)
        if damaged or head.errors >= limits.max_errors or head.starts > limits.max_starts:
            return (yield from self._give_up(attempt))
        try:
            result = yield from self._answer(attempt, watch)
        except FencedError:
            raise
        except ForgottenError as forgotten:
            return (yield from self._give_up(attempt, forgotten))
        except Exception as failure:  # noqa: BLE001 - whatever the user's agent raises ends here
            return (yield from self._failed(attempt, failure))
        if result is None:
            yield from self._answers.hold(attempt)
            return None
        return (yield from self._commit(attempt, result, rerun=self._may_rerun(attempt, result)))

    def _may_rerun(self, attempt: Attempt, result: TurnResult) -> bool:
        """A customer who never stops writing must be answered at last."""
        waits = attempt.acquired.now - attempt.batch.since
        if attempt.left:  # they are newer, and would be left again
            return False
        if result.waiting is not None or attempt.batch.waiting is not None:  # it cannot be undone
            return False
        return self._limits.on_newer_message == "rerun" and waits < self._limits.agent_timeout

    def _unread(self, attempt: Attempt, error: APIError) -> Flow[Turn | None]:
        """Without a conversation there is no tenant: the events wait, at last for an operator."""
        acquired, batch = attempt.acquired, attempt.batch
        missing = isinstance(error, ConversationNotFoundError)
        by_human = any(event.paused for _, event in batch.events)
        if missing and batch.waiting is None and not (batch.asked or batch.stale or by_human):
            # What a machine wrote has no session that it could be recorded in.
            return (yield from self._commit(attempt, TurnResult(status="dropped", messages=[])))
        is_over = acquired.now - batch.since >= self._limits.conversation_timeout
        if is_over and not _machine.lacking(error):
            return (yield from self._give_up(attempt, error))
        why = _why_unread(error, "group" if batch.latest.is_group else "customer")
        yield from self._store.release(acquired.lease, delay=RETRY_LATER, why=why)
        key, told = acquired.lease.conversation_key, "its events wait for the API server: %s"
        telemetry.log(logger, logging.WARNING, key, told, error, repeats=True)
        status: Status = "no_conversation" if missing else "queued"
        return Turn(status=status, turn_id=batch.turn_id, error=error)

    def _answer(self, attempt: Attempt, watch: Watch) -> Flow[TurnResult | None]:
        """How the turn ends; None where it waits on for what an earlier one was interrupted by."""
        current, batch = attempt.current, attempt.batch
        paused = attempt.acquired.paused
        closed = current is None or not current.conversation.is_active
        if batch.waiting is not None and (paused or closed):
            yield from self._abandon(attempt)
        if paused or not (batch.asked or batch.waiting):
            return recorded(attempt, retention=self._store.retention)
        if current is None or closed:
            return TurnResult(status="dropped", messages=inbound(batch))
        if silence := paced(attempt, self._limits.max_turns):
            return silence
        yield from self._load(attempt)
        call, record = self._call(attempt, current.conversation)
        if batch.waiting is None:
            return (yield from self._runs.begin(attempt, watch, call, record))
        return (yield from self._runs.resume(attempt, watch, call, record))

    def _load(self, attempt: Attempt) -> Flow[None]:
        """Load what came along; after runs that failed, the last one goes without."""
        batch, last = attempt.batch, self._limits.max_errors - 1
        if not self._media.is_needed or all(event.media is None for _, event in batch.asked):
            return
        calls = TurnCalls(self._store, attempt.acquired.lease, batch.event_keys)
        only_words = batch.head.errors >= max(last, 1)
        with telemetry.timed("turn_phase", phase="media") as timing:
            attempt.batch, attempt.shown = yield from self._media.load(
                batch, calls, attempt.conversation_key, only_words=only_words
            )
        attempt.phases["media"] = timing.seconds

    def _abandon(self, attempt: Attempt) -> Flow[None]:
        """End what waits in the agent's own memory, as far as it can be found."""
        if attempt.current is None:
            return
        try:
            call, _ = self._call(attempt, attempt.current.conversation)
        except Exception as error:  # noqa: BLE001 - a factory that fails has failed before
            key, told = attempt.conversation_key, "no run can be ended without an agent: %s"
            telemetry.log(logger, logging.WARNING, key, told, error)
            return
        yield from abandon(call, NOT_RUN)

    def _call(self, attempt: Attempt, conversation: Conversation) -> tuple[Call, TurnRecord]:
        agent, batch = self._agents.of(attempt.ref), attempt.batch
        # A store may forget a conversation, and with it whose it was; an agent's memory does not.
        tenant = digest(conversation.subdomain)[:8]
        thread = f"{attempt.acquired.lease.conversation_key}.{tenant}"
        if batch.waiting is not None:
            thread = batch.waiting.thread
        owns_history = has_memory(agent) and self._prepare is None
        new, files = as_messages(batch, attempt.shown, apart=shows_files(agent))
        record = TurnRecord(
            attempt.ref,
            conversation,
            thread=thread,
            history_given=not owns_history,
            calls=TurnCalls(self._store, attempt.acquired.lease, attempt.batch.event_keys),
            noted=() if batch.waiting is None else batch.waiting.notes,
            files=files,
        )
        about: dict[str, Any] = {
            "facts": {"convsync_turn": batch.turn_id, "convsync_tenant": attempt.ref.subdomain},
            "options": self._agents.options(attempt.ref),
            "blocks": self._agents.blocks(agent),
        }
        given = owns_history or self._prepare is not None
        history = [] if given else latest(conversation.said, self._history_limit)
        said = [*telling.about(attempt), *new]
        return call_for(agent, history, said, thread=thread, **about), record

    def _failed(self, attempt: Attempt, error: Exception) -> Flow[Turn | None]:
        if self._agents.learn_from(error):  # it was made for no customer, and begins again
            yield from self._store.release(attempt.acquired.lease)
            return None
        if not isinstance(error, UnknownOutcomeError) and _machine.noticed(error):
            what = _machine.lacking(error)
            logger.warning("Turn %s waits: the machine is short (%s)", attempt.batch.turn_id, what)
            yield from self._store.release(attempt.acquired.lease, delay=_until_again(attempt))
            return None
        batch, limit = attempt.batch, self._limits.max_errors
        failures = batch.head.errors + 1
        telemetry.count("agent_failures", error=type(error).__name__)
        telemetry.log(
            logger,
            logging.WARNING,
            attempt.conversation_key,
            "the agent failed (run %d of %d): %s",
            failures,
            limit,
            error,
            with_text=self._log_errors or logger.isEnabledFor(logging.DEBUG),
        )
        if isinstance(error, UnknownOutcomeError | LoopError):
            return (yield from self._give_up(attempt, error))
        if failures >= limit:
            why = f"the agent failed {failures} times, last with {loggable(error)}"
            return (yield from self._give_up(attempt, error, why))
        delay = FIRST_BACKOFF * 2.0 ** (failures - 1)
        why = f"the agent failed {failures} of {limit} times: {loggable(error)}"
        yield from self._store.release(attempt.acquired.lease, delay=delay, failed=True, why=why)
        return None

    def _give_up(
        self, attempt: Attempt, error: BaseException | None = None, reason: str = ""
    ) -> Flow[Turn | None]:
        """The one result of every failure: fallback, user message recorded, dead letter."""
        telemetry.count("turns_failed")
        yield from self._abandon(attempt)
        waiting = attempt.batch.waiting
        is_awaited = attempt.batch.asked or (waiting is not None and not waiting.is_back)
        fallback = self._limits.fallback_reply if is_awaited else None
        messages = inbound(attempt.batch)
        if fallback:
            messages.append(ConversationMessage(role="bot", content=fallback))
        if not reason:
            reason = self._never_ended(attempt.batch.head) if error is None else str(error)
        result = TurnResult(status="failed", messages=messages, reply=fallback, reason=reason)
        return (yield from self._commit(attempt, result, error))

    def _never_ended(self, head: QueuedEvent) -> str:
        """Why an event is given up whose last run told nothing."""
        if head.errors >= self._limits.max_errors:
            return f"the agent failed {head.errors} times"
        return (
            f"its run was begun {head.starts - 1} times and never ended: the process died, was "
            "killed or stood still meanwhile"
        )

    def _commit(
        self,
        attempt: Attempt,
        result: TurnResult,
        error: BaseException | None = None,
        *,
        rerun: bool = False,
    ) -> Flow[Turn | None]:
        outcome, lease = result.outcome(attempt.batch), attempt.acquired.lease
        commit = result.commit(attempt, outcome, queue_reply=self._queues_replies)
        guarded = replace(
            commit,
            unless_paused=result.reply is not None,
            unless_newer=rerun and result.reply is not None,
        )
        if result.waiting is not None:
            keys = yield from self._store.keys()
            guarded = replace(guarded, held=held_event(keys, outcome.turn_id, result.waiting))
        with telemetry.timed("turn_phase", phase="commit") as timing:
            committed = yield from self._store.commit_turn(lease, guarded)
        attempt.phases["commit"] = timing.seconds
        match committed:
            case "done":
                waited = max(0.0, attempt.acquired.now - attempt.batch.since)
                telemetry.observe("turn_phase", waited, phase="wait")
                turn = attempt.batch.addressed(outcome.turn(error=error))
                return replace(
                    turn, conversation_key=lease.conversation_key, phases=dict(attempt.phases)
                )
            case "paused":
                telemetry.count("replies_withheld")
                if result.waiting is not None:
                    yield from self._abandon(attempt)
                paused = TurnResult(status="paused", messages=inbound(attempt.batch))
                return (yield from self._commit(attempt, paused))
            case "newer":
                telemetry.count("turns_rerun")
                yield from self._store.release(lease)
                return None
            case _:
                raise FencedError


def _why_unread(error: APIError, whose: str) -> str:
    if isinstance(error, ConversationNotFoundError):
        advice = "`convsync doctor --phone PHONE` tells why"
        if whose == "group":
            advice = "it must keep one under the group's chat id, or leave groups= away"
        return f"the API server knows no conversation of this {whose}: {advice}"
    if is_away(error):
        return f"the API server does not answer: {cause_of(error)}"
    return f"the conversation cannot be read: {cause_of(error)}"


def _until_again(attempt: Attempt) -> float:
    """Seconds until a turn begins again for which the machine lacked something.

    The longer it has waited, the longer they are: each run may cost calls of a model.
    """
    waited = attempt.acquired.now - attempt.batch.since
    return min(LONGEST_WANT, max(RETRY_LATER, waited / 2))
