"""What happens between acquiring a conversation and committing its turn."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from langchain_core.runnables import Runnable

from langchain_convsync import _machine, telemetry
from langchain_convsync._flow import Flow, off_the_loop
from langchain_convsync._lines import cut, often, one_line
from langchain_convsync._platform import now
from langchain_convsync.client import Api
from langchain_convsync.client._breaker import CircuitBreaker, is_away
from langchain_convsync.errors import (
    APIError,
    BudgetError,
    ClosedError,
    ConfigurationError,
    ConversationMismatchError,
    ConversationNotFoundError,
    FencedError,
    LoopError,
    StoreError,
    UnknownOutcomeError,
    cause_of,
    loggable,
    raised_by,
)
from langchain_convsync.models import (
    Conversation,
    ConversationMessage,
)
from langchain_convsync.outbox import Replies, without_dropped
from langchain_convsync.outbox.plan import digest, noted_target
from langchain_convsync.reply import Reply
from langchain_convsync.stores.base import (
    LONGEST_WHY,
    Acquired,
    Commit,
    EventStore,
    HeldEvent,
    Lease,
    QueuedEvent,
)
from langchain_convsync.stores.heartbeat import Watch
from langchain_convsync.surfaces.bounds import latest
from langchain_convsync.surfaces.calls import TurnCalls, TurnStoreUnavailableError
from langchain_convsync.surfaces.context import ConversationRef, TurnRecord
from langchain_convsync.surfaces.state import Extractor, consult
from langchain_convsync.surfaces.usage import Usage
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
from langchain_convsync.turns.handoffs import HandedOver, HandoffEntry
from langchain_convsync.turns.lids import Lids
from langchain_convsync.turns.media import Media
from langchain_convsync.turns.note import Note
from langchain_convsync.turns.reading import READ_TIME, Reader
from langchain_convsync.turns.result import (
    Attempt,
    TurnResult,
    inbound,
    noting_handoff,
    paced,
    recorded,
    snapshot_of,
    spoken,
)
from langchain_convsync.turns.resuming import (
    NOT_RUN,
    Answers,
    ForgottenError,
    Prepare,
    Resume,
    held_event,
)
from langchain_convsync.turns.running import Runs
from langchain_convsync.turns.said import text_of
from langchain_convsync.turns.shapes import kind_of
from langchain_convsync.turns.turn import Batch, Outcome, Status, Turn

logger = logging.getLogger(__name__)
#: What happened to conversations, at INFO.
turns = logging.getLogger("langchain_convsync.turns")

#: Seconds after which a turn that could not begin is tried again.
RETRY_LATER = 1.0
#: Seconds before an agent that failed is run again; doubled each time.
FIRST_BACKOFF = 0.2
#: Seconds at most before a turn begins again that the machine lacked something for.
LONGEST_WANT = 60.0


#: What a budget may say: why the agent is not to run, or what is said instead; or None.
Refusal: TypeAlias = str | Reply | None
#: Asked before the agent runs: (conversation, what its models took today).
Budget: TypeAlias = Callable[[ConversationRef, Usage], Awaitable[Refusal] | Refusal]
#: Told of a conversation that its agent has handed over.
OnHandoff: TypeAlias = Callable[[HandedOver], Awaitable[None] | None]
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
    handoff_pause: float
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
        budget: Budget | None,
        on_handoff: OnHandoff | None,
        limits: Limits,
        lids: Lids,
        media: Media,
        log_errors: bool = False,
        silent_marker: str | None = None,
        replies: Replies | None = None,
    ) -> None:
        self._agents = Agents(agent, context)
        self._api = api
        self._store = store
        self._reader = Reader(api, breaker, store)
        self._prepare = prepare
        self._history_limit = history_limit
        self._answers = Answers(store, prepare, resume, interrupt_timeout, log_errors)
        self._runs = Runs(
            self._answers,
            extractor,
            api.profile,
            limits.agent_timeout,
            silent_marker,
            list if replies is None else replies.as_sent,
        )
        self._budget = budget
        self._on_handoff = on_handoff
        self._limits = limits
        self._lids = lids
        self._media = media
        self._replies = replies
        self._log_errors = log_errors

    def require(self, *, awaited: bool) -> None:
        """Tell at once what would fail in every turn; see :class:`Agents`."""
        self._agents.require(awaited=awaited)

    def run_plain_functions_on_threads(self) -> None:
        """``extractor``, ``resume``, ``budget`` and ``on_handoff``."""
        answers, extractor = self._answers, self._runs.extractor
        if answers.resume is not None:
            answers = self._answers = replace(answers, resume=off_the_loop(answers.resume))
        if extractor is not None and not isinstance(extractor, Runnable):
            extractor = off_the_loop(extractor)
        self._runs = replace(self._runs, answers=answers, extractor=extractor)
        if self._budget is not None:
            self._budget = off_the_loop(self._budget)
        if self._on_handoff is not None:
            self._on_handoff = off_the_loop(self._on_handoff)

    def process(self, acquired: Acquired, batch: Batch) -> Flow[Turn | None]:
        """Run one turn on an acquired conversation.

        Args:
            acquired: The conversation.
            batch: The head of its inbox.

        Returns:
            What it came to; None when another worker has it now, or it is due again shortly.
        """
        left, limits, lease = len(acquired.events), self._limits, acquired.lease
        if not batch.queued:  # all of it waits for its time
            yield from self._store.release(lease, delay=batch.wait(acquired.now), held=left)
            return None
        acquired = replace(acquired, events=batch.queued)
        deadline = limits.agent_timeout + READ_TIME + self._media.longest
        watch = Watch(self._store, lease, seconds=limits.lease, deadline=deadline)
        with telemetry.timed("turn") as timing:
            timing.note(turn=batch.turn_id, conversation=lease.conversation_key)
            try:
                with watch:
                    if not batch.events and batch.waiting is None:
                        return (yield from self._without_words(acquired, batch))
                    attempt = yield from self._attempt(acquired, batch)
                    if attempt is None:
                        return None
                    attempt.left = left - len(acquired.events) - len(batch.kept)
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
                if batch.counts.errors + 1 < limits.max_errors:
                    yield from self._store.release(
                        lease, delay=RETRY_LATER, failed=True, why=reason
                    )
                    raise
                return (yield from self._bury(acquired, batch, reason, error))

    def _give_back(self, watch: Watch, lease: Lease, why: str) -> Flow[None]:
        """Release a turn that is to begin again later, now or when the store can."""
        try:
            yield from self._store.release(lease, delay=RETRY_LATER, why=why)
        except StoreError:
            watch.give_back(delay=RETRY_LATER)

    def _bury(
        self, acquired: Acquired, batch: Batch, reason: str, error: BaseException | None = None
    ) -> Flow[Turn | None]:
        """An event that no turn can be made of ends as a dead letter, and holds up no other."""
        turn_id = batch.turn_id
        outcome = Outcome(status="failed", turn_id=turn_id)
        commit = Commit(
            event_keys=[turn_id],
            outcomes={},
            fact=outcome.fact,
            dead=True,
            reason=reason,
            kept=batch.kept,
            kept_for=batch.wait(acquired.now),
        )
        if (yield from self._store.commit_turn(acquired.lease, commit)) != "done":
            telemetry.count("turns_fenced")
            return None
        telemetry.count("turns_failed")
        telemetry.count("unreadable", what="event")
        key = acquired.lease.conversation_key
        telemetry.log(logger, logging.ERROR, key, "event %s is a dead letter: %s", turn_id, reason)
        return outcome.turn(error=error)

    def _without_words(self, acquired: Acquired, batch: Batch) -> Flow[Turn | None]:
        """What no one has written ends: a hand-over that is to be told, or what is damaged."""
        if batch.handoff is None:
            return (yield from self._bury(acquired, batch, batch.damage))
        yield from self._tell_human(acquired, batch, batch.handoff)
        return None

    def _tell_human(self, acquired: Acquired, batch: Batch, entry: HandoffEntry) -> Flow[None]:
        """Tell a human of a hand-over: again, with pauses, until it succeeds or is given up."""
        lease, key = acquired.lease, acquired.lease.conversation_key
        is_async = "on_handoff= is async: use arun(), or pass a plain function"
        try:
            if self._on_handoff is not None:
                with raised_by("on_handoff="):
                    told = entry.told(batch.turn_id)
                    yield from consult(self._on_handoff, told, is_async=is_async)
        except Exception as error:  # noqa: BLE001 - whatever the user's function raises
            telemetry.count("handoff_failures", error=type(error).__name__)
            telemetry.log(
                logger,
                logging.WARNING,
                key,
                "on_handoff= failed (%d times by now): %s",
                entry.tries + 1,
                error,
                with_text=self._log_errors,
            )
            again = entry.again(acquired.now)
            if again.at < batch.head.accepted_at + self._limits.conversation_timeout:
                yield from self._store.amend(batch.turn_id, batch.head.payload, again.stored)
                yield from self._store.release(lease)  # and what the customer writes goes on
                return
            reason = f"on_handoff= failed {often(again.tries)}, last with {loggable(error)}"
            yield from self._bury(acquired, batch, reason, error)
            return
        snapshot, ttl = snapshot_of(acquired)
        commit = Commit(
            event_keys=batch.event_keys,
            outcomes={},
            fact=Outcome(status="silent", turn_id=batch.turn_id).fact,
            snapshot=snapshot,
            snapshot_ttl=ttl,
            note=Note.read(acquired.note).after_turn(is_own=True).stored,
            kept=batch.kept,
            kept_for=batch.wait(acquired.now),
        )
        if (yield from self._store.commit_turn(lease, commit)) != "done":
            telemetry.count("turns_fenced")

    def _attempt(self, acquired: Acquired, batch: Batch) -> Flow[Attempt | None]:
        """An attempt at the turn; None if its events wait, or wait in another conversation."""
        lease, key = acquired.lease, acquired.lease.conversation_key
        for name in dict.fromkeys(name for event in batch.queued for name in event.apart):
            linked = self._store.alias(name, key, lease=lease)
            if not (yield from self._stays(acquired, batch, (yield from linked))):
                return None
        note = Note.read(acquired.note)
        if batch.saying is not None and note.waha_session:
            batch = batch.through(note.waha_session)
        elif (
            batch.saying is None
            and (number := (yield from self._lids.phone_number_of(batch.latest, key))) is not None
        ):
            place = yield from self._lids.link(lease, batch.latest, number)
            if not (yield from self._stays(acquired, batch, place)):
                return None
            batch = batch.known_as(number)
        if (seconds := self._limits.max_age) is not None:
            batch = batch.judged(before=now() - timedelta(seconds=seconds))
        customer, *others = batch.names or [batch.latest.phone_number or ""]  # which is refused
        bot_id, subdomain = batch.told("bot_id"), batch.told("subdomain")
        if batch.saying is not None and (noted := noted_target(acquired.tenant)) is not None:
            bot_id, subdomain = noted.bot_id, noted.subdomain
        ref = ConversationRef(customer, bot_id=bot_id, subdomain=subdomain, turn_id=batch.turn_id)
        if batch.heard:
            session = batch.newest.waha_session
            note = note.answering(batch.turn_id, session, now=acquired.now)
        acquired = yield from self._without_dropped(acquired)
        note = note.hearing(batch.heard).taken_over(batch.taken_over)
        return Attempt(acquired, batch, ref, note, tuple(others))

    @property
    def _may_drop(self) -> bool:
        """Whether the rest of an answer is dropped once the customer writes again."""
        return self._limits.on_newer_message == "rerun"

    def _without_dropped(self, acquired: Acquired) -> Flow[Acquired]:
        """What was acquired, as far as the customer got the answer before: the rest is dropped."""
        if not any('"follows"' in operation.body for operation in acquired.operations):
            return acquired
        view = yield from self._store.view(acquired.lease.conversation_key, most=1)
        return without_dropped(acquired, view.replies)

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
        head, limits = attempt.batch.counts, self._limits
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
        if attempt.batch.saying is not None:  # words of the customer's may make it needless
            return attempt.batch.saying.unless_heard
        if result.waiting is not None or attempt.batch.waiting is not None:  # it cannot be undone
            return False
        return self._limits.on_newer_message == "rerun" and waits < self._limits.agent_timeout

    def _unread(self, attempt: Attempt, error: APIError) -> Flow[Turn | None]:
        """Without a conversation there is no tenant: the events wait, at last for an operator."""
        acquired, batch = attempt.acquired, attempt.batch
        missing = isinstance(error, ConversationNotFoundError)
        by_human = any(event.paused for _, event in batch.events)
        if missing and batch.saying is not None:
            said = self._runs.as_sent([batch.saying.reply])
            result = spoken(attempt, batch.saying, said)
            return (
                yield from self._commit(attempt, result, rerun=self._may_rerun(attempt, result))
            )
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
        if batch.saying is not None:
            return spoken(attempt, batch.saying, self._runs.as_sent([batch.saying.reply]))
        closed = current is None or not current.conversation.is_active
        if batch.waiting is not None and (paused or closed):
            yield from self._abandon(attempt)
        if paused or not (batch.asked or batch.waiting):
            return recorded(attempt, retention=self._store.retention)
        if current is None or closed:
            return TurnResult(status="dropped", messages=inbound(batch))
        instead = paced(attempt, self._limits.max_turns)
        instead = instead or (yield from self._ask_budget(attempt))
        if instead is not None:
            return instead
        yield from self._show_work(attempt)
        yield from self._load(attempt)
        call, record = self._call(attempt, current.conversation)
        if batch.waiting is None:
            return (yield from self._runs.begin(attempt, watch, call, record))
        return (yield from self._runs.resume(attempt, watch, call, record))

    def _show_work(self, attempt: Attempt) -> Flow[None]:
        """Show the customer that an answer is being written, from before the agent runs on."""
        if self._replies is not None:
            attempt.typing = yield from self._replies.show_work(*attempt.batch.chat)

    def _show_nothing(self, attempt: Attempt) -> Flow[None]:
        """Nothing was written after all."""
        if attempt.typing and self._replies is not None:
            yield from self._replies.show_typing(*attempt.batch.chat, on=False)

    def _ask_budget(self, attempt: Attempt) -> Flow[TurnResult | None]:
        """Ask the user's function whether the agent may run; None where it may.

        Raises:
            BudgetError: It may not, and nothing is said instead.
        """
        if self._budget is None:
            return None
        spent = attempt.note.spent_today(now=attempt.acquired.now)
        is_async = "budget= is async: use arun(), or pass a plain function"
        with raised_by("budget="):
            refused = yield from consult(self._budget, attempt.ref, spent, is_async=is_async)
            if not isinstance(refused, str | Reply | None):
                told = (
                    f"budget= returned {kind_of(refused)}: return None to go ahead, why not, or a "
                    "Reply that is said instead"
                )
                raise ConfigurationError(told)
        if refused is None:
            return None
        telemetry.count("budget_refusals")
        if isinstance(refused, str):
            raise BudgetError(f"budget= refused: {cut(one_line(refused), LONGEST_WHY)}")
        if attempt.batch.waiting is not None:
            yield from self._abandon(attempt)
        said, messages = self._runs.as_sent([refused]), inbound(attempt.batch)
        if said:
            messages.append(ConversationMessage(role="bot", content=text_of(said)))
        return TurnResult(
            status="answered" if said else "silent",
            messages=messages,
            said=said,
            handoff=refused.handed_over,
        )

    def _load(self, attempt: Attempt) -> Flow[None]:
        """Load what came along; after runs that failed, the last one goes without."""
        batch, last = attempt.batch, self._limits.max_errors - 1
        if not self._media.is_needed or all(event.media is None for _, event in batch.asked):
            return
        calls = TurnCalls(self._store, attempt.acquired.lease, batch.event_keys)
        only_words = batch.counts.errors >= max(last, 1)
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
            meter=attempt.meter,
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
        if want := _want(error):
            logger.warning("Turn %s waits: %s", attempt.batch.turn_id, want)
            yield from self._store.release(attempt.acquired.lease, delay=_until_again(attempt))
            return None
        if isinstance(error, BudgetError):
            key, told = attempt.conversation_key, "the agent is not run: %s"
            telemetry.log(logger, logging.WARNING, key, told, error)
            return (yield from self._give_up(attempt, error))
        batch, limit = attempt.batch, self._limits.max_errors
        failures = batch.counts.errors + 1
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
            why = f"the agent failed {often(failures)}, last with {loggable(error)}"
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
        said = [Reply(texts=(fallback,))] if fallback and fallback.strip() else []
        if said:
            messages.append(ConversationMessage(role="bot", content=text_of(said)))
        if not reason:
            reason = self._never_ended(attempt.batch.counts) if error is None else str(error)
        result = TurnResult(status="failed", messages=messages, said=said, reason=reason)
        return (yield from self._commit(attempt, result, error))

    def _never_ended(self, head: QueuedEvent) -> str:
        """Why an event is given up whose last run told nothing."""
        if head.errors >= self._limits.max_errors:
            return f"the agent failed {often(head.errors)}"
        return (
            f"its run was begun {often(head.starts - 1)} and never ended: the process died, was "
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
        result = noting_handoff(attempt, result)
        outcome, lease = result.outcome(attempt.batch), attempt.acquired.lease
        commit = result.commit(
            attempt,
            outcome,
            queue_reply=self._replies is not None,
            may_drop=self._may_drop,
            handoff_pause=self._limits.handoff_pause,
        )
        guarded = replace(
            commit,
            unless_paused=result.reply is not None and not attempt.batch.by_colleague,
            unless_newer=rerun and result.reply is not None,
        )
        if result.waiting is not None or result.handoff is not None:
            guarded = replace(guarded, held=(yield from self._held(attempt, result)))
        with telemetry.timed("turn_phase", phase="commit") as timing:
            committed = yield from self._store.commit_turn(lease, guarded)
        attempt.phases["commit"] = timing.seconds
        match committed:
            case "done":
                if not result.said:
                    yield from self._show_nothing(attempt)
                if result.handoff is not None:
                    yield from self._handed_over(attempt, result)
                waited = max(0.0, attempt.acquired.now - attempt.batch.since)
                telemetry.observe("turn_phase", waited, phase="wait")
                turn = attempt.batch.addressed(outcome.turn(error=error))
                return replace(
                    turn,
                    said=tuple(result.said),
                    handoff=result.handoff,
                    conversation_key=lease.conversation_key,
                    phases=dict(attempt.phases),
                    usage=attempt.meter.usage,
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

    def _held(self, attempt: Attempt, result: TurnResult) -> Flow[HeldEvent | None]:
        """What a turn leaves at the head of its inbox."""
        keys, turn_id = (yield from self._store.keys()), attempt.batch.turn_id
        if result.handoff is None:
            return None if result.waiting is None else held_event(keys, turn_id, result.waiting)
        if self._on_handoff is None:
            return None
        chat_id, waha_session = attempt.batch.chat_id, attempt.batch.newest.waha_session
        entry = HandoffEntry.of(
            result.handoff, attempt.ref, chat_id=chat_id, waha_session=waha_session
        )
        return entry.held(keys, turn_id)

    def _handed_over(self, attempt: Attempt, result: TurnResult) -> Flow[None]:
        """Log it; a run that waits in the agent's memory is over: a human goes on."""
        telemetry.count("handoffs")
        key, seconds = attempt.conversation_key, self._limits.handoff_pause
        about = {"conversation": key, "seconds": seconds}
        turns.info(
            "Conversation %s was handed over to a human, for %g s", key, seconds, extra=about
        )
        if result.waiting is not None:
            yield from self._abandon(attempt)


def _why_unread(error: APIError, whose: str) -> str:
    if isinstance(error, ConversationNotFoundError):
        advice = "`convsync doctor --phone PHONE` tells why"
        if whose == "group":
            advice = "it must keep one under the group's chat id, or leave groups= away"
        return f"the API server knows no conversation of this {whose}: {advice}"
    if is_away(error):
        return f"the API server does not answer: {cause_of(error)}"
    return f"the conversation cannot be read: {cause_of(error)}"


def _want(error: Exception) -> str:
    """What was missing while the agent ran, so that nobody failed; empty where somebody did."""
    if any(isinstance(each, TurnStoreUnavailableError) for each in _machine.led_by(error)):
        return f"its store does not answer: {error}"
    if isinstance(error, UnknownOutcomeError) or not _machine.noticed(error):
        return ""
    return f"the machine is short ({_machine.lacking(error)})"


def _until_again(attempt: Attempt) -> float:
    """Seconds until a turn begins again for which something was missing.

    The longer it has waited, the longer they are: each run may cost calls of a model.
    """
    waited = attempt.acquired.now - attempt.batch.since
    return min(LONGEST_WANT, max(RETRY_LATER, waited / 2))
