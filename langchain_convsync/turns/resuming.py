"""Runs of the agent that wait: holding their inbox, finding their answer, going on with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_convsync import _machine, telemetry
from langchain_convsync._flow import Flow
from langchain_convsync.errors import ConvSyncError, raised_by
from langchain_convsync.models import Conversation, InboundEvent
from langchain_convsync.stores.base import AccountKey, EventStore, HeldEvent, Keys
from langchain_convsync.surfaces.context import TurnRecord
from langchain_convsync.surfaces.state import consult
from langchain_convsync.turns.agent import Before, Call, earlier
from langchain_convsync.turns.interrupts import (
    Answer,
    Interrupt,
    WaitingRun,
    as_command,
    question_of,
    resume_value,
    resumption,
)
from langchain_convsync.turns.result import Attempt

if TYPE_CHECKING:
    from langgraph.types import Command

logger = logging.getLogger(__name__)

Prepare: TypeAlias = Callable[[Conversation, Sequence[InboundEvent]], Any]
Resume: TypeAlias = Callable[[Sequence[Interrupt], Sequence[InboundEvent]], Any]

#: What the model is told of a tool that was to be run by a run that ended before.
NOT_RUN = "Not run: this waited for an answer, and was given up."
#: Why a turn fails whose agent remembers nothing of the question.
FORGOTTEN = "the agent's memory does not wait for this answer any more"
#: Why a turn fails whose agent could never hear the answer.
MEMORYLESS = (
    "the agent was interrupted and has no checkpointer, so no answer could reach it: compile it "
    "with one, create_agent(…, checkpointer=…) for example"
)


class ForgottenError(ConvSyncError):
    """The agent's own memory does not hold the run that an answer is for."""

    def __init__(self, why: str = FORGOTTEN) -> None:
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Answers:
    """Who answers what a run waits for; ``TurnRunner`` documents them.

    Args:
        store: Where runs wait.
        prepare: The agent's input; a ``Command`` of it is an answer.
        resume: (interrupts, events) → value.
        timeout: Seconds for which it waits for a human; None for as long as it takes.
        log_errors: Whether the log holds the texts of errors.
    """

    store: EventStore
    prepare: Prepare | None
    resume: Resume | None
    timeout: float | None
    log_errors: bool = False

    def must_wait(self, attempt: Attempt) -> bool:
        """Whether there is nothing that could answer it now, nor end it."""
        waiting = attempt.batch.waiting
        if waiting is None or waiting.answer is not None:
            return False
        if attempt.acquired.paused or self._is_due(attempt, waiting):
            return False
        answers = waiting.question is not None or self.prepare or self.resume
        return not (attempt.batch.asked and answers)

    def hold(self, attempt: Attempt) -> Flow[None]:
        """Let it wait on, and all that waits behind it."""
        acquired, batch = attempt.acquired, attempt.batch
        if (waiting := batch.waiting) is None:
            return
        left = min(batch.head.accepted_at + waiting.life, batch.due) - acquired.now
        known = len(acquired.events) + attempt.left + len(batch.kept)
        yield from self.store.release(acquired.lease, delay=max(0.0, left), held=known)

    def answer(self, attempt: Attempt, conversation: Conversation) -> Flow[Command[Any] | None]:
        """Decide what the run of this attempt goes on with, for good, if it can be decided.

        Afterwards ``attempt.batch.waiting`` has its answer; where it has none, it waits on.

        Returns:
            What ``prepare=`` made.
        """
        batch = attempt.batch
        if (waiting := batch.waiting) is None:
            return None
        events = [event for _, event in batch.asked]
        if waiting.answer is not None:
            if waiting.answer.by == "prepare":
                return (yield from self._command(conversation, events))
            return None
        answer, command = yield from self._found(attempt, waiting, conversation, events)
        if answer is not None:
            answered = waiting.answered(
                answer.model_copy(update={"messages": len(batch.events), "at": attempt.now})
            )
            stored = batch.head.payload
            held = yield from self.store.amend(batch.turn_id, stored, answered.stored)
            if held == answered.stored:  # else a human decided in this moment
                attempt.batch = replace(batch, waiting=answered)
        return command

    def _found(
        self,
        attempt: Attempt,
        waiting: WaitingRun,
        conversation: Conversation,
        events: Sequence[InboundEvent],
    ) -> Flow[tuple[Answer | None, Command[Any] | None]]:
        if events and (command := (yield from self._command(conversation, events))) is not None:
            return Answer(by="prepare"), command
        words = [event.content for event in events]
        if events and waiting.question is not None:
            return Answer(by="customer", value="\n".join(words)), None
        if events and self.resume is not None:
            value = yield from self._asked(attempt, self.resume, waiting.interrupts, events)
            if value is not None:
                return Answer(by="resume", value=value), None
        if waiting.question is None and self._is_due(attempt, waiting):
            return Answer(by="timeout", value=_refusals(waiting, words)), None
        return None, None

    def _command(
        self, conversation: Conversation, events: Sequence[InboundEvent]
    ) -> Flow[Command[Any] | None]:
        """What ``prepare=`` makes, if it is an answer."""
        command: Command[Any] | None = as_command((yield from self.prepared(conversation, events)))
        return command

    def prepared(self, conversation: Conversation, events: Sequence[InboundEvent]) -> Flow[Any]:
        """What ``prepare=`` makes; None where there is none.

        Raises:
            ConfigurationError: It is async in a blocking run.
        """
        if self.prepare is None:
            return None
        is_async = "prepare= is async: use arun(), or pass a plain function"
        with raised_by("prepare="):
            return (yield from consult(self.prepare, conversation, events, is_async=is_async))

    def _asked(
        self,
        attempt: Attempt,
        resume: Resume,
        interrupts: Sequence[Interrupt],
        events: Sequence[InboundEvent],
    ) -> Flow[Any]:
        is_async = "resume= is async: use arun(), or pass a plain function"
        try:
            value = yield from consult(resume, interrupts, events, is_async=is_async)
            return resume_value(value)
        except Exception as error:  # whatever it raises, a human may still answer
            if _machine.lacking(error):  # it is asked again
                raise
            telemetry.count("resume_failures", error=type(error).__name__)
            telemetry.log(
                logger,
                logging.WARNING,
                attempt.conversation_key,
                "resume= decided nothing, the run waits on: %s",
                error,
                with_text=self.log_errors,
            )
            return None

    def is_over(self, attempt: Attempt) -> bool:
        """Whether a question to the customer found no answer for as long as it is kept."""
        waiting = attempt.batch.waiting
        if waiting is None or waiting.question is None or attempt.batch.asked:
            return False
        return self._is_due(attempt, waiting)

    def _is_due(self, attempt: Attempt, waiting: WaitingRun) -> bool:
        return attempt.acquired.now >= attempt.batch.head.accepted_at + waiting.life

    def waiting(
        self, attempt: Attempt, record: TurnRecord, interrupts: Sequence[Interrupt]
    ) -> WaitingRun:
        """The run that was interrupted just now, after what this turn's record holds."""
        asks = "human" if question_of(interrupts) is None else "customer"
        telemetry.count("interrupts", by=asks)
        batch = attempt.batch
        notes = () if batch.waiting is None else batch.waiting.notes
        return WaitingRun(
            turn=batch.turn_id,
            customer=batch.customer,
            thread=record.thread,
            interrupts=tuple(interrupts),
            seconds=self.timeout,
            notes=(*notes, *record.notes),
        )


def command_to(value: Any) -> Command[Any]:
    """What a graph goes on with."""
    from langgraph.types import Command  # a graph is waiting, so langgraph is there

    return Command(resume=value)


def by_words(call: Call, before: Before, words: Sequence[str]) -> Call:
    """The call that answers every question with the customer's words."""
    said = "\n".join(words)
    value = resumption(said, of=before.interrupts, pending=before.interrupts)
    return replace(call, input=command_to(value))


def going_on(
    call: Call, waiting: WaitingRun, before: Before, command: Command[Any] | None
) -> Flow[tuple[Call | None, Before, Any]]:
    """How a run goes on that has its answer.

    Returns:
        The call that is to be made, its state before, and None; or no call, where the run asks
        something else already, and that.

    Raises:
        ForgottenError: The agent's memory does not hold the run.
    """
    if waiting.answer and (waiting.answer.by, waiting.answer.value) == ("timeout", None):
        raise ForgottenError  # it takes no refusal
    turn = call.config["metadata"].get("convsync_turn")
    if turn and before.turn == turn:  # an attempt at this very turn, which was not committed
        if (found := (yield from earlier(call, turn))) is None:
            raise ForgottenError
        call, before = found
    if not before.interrupts:
        raise ForgottenError
    if not all(any(map(each.is_same_as, waiting.interrupts)) for each in before.interrupts):
        return None, before, {**before.values, "__interrupt__": before.interrupts}
    given = command or command_to(waiting.resumption(before.interrupts))
    return replace(call, input=given), before, None


def _refusals(waiting: WaitingRun, words: Sequence[str]) -> Any:
    try:
        return waiting.refusals(words)
    except ValueError:
        return None


def held_event(keys: Keys, turn_id: str, waiting: WaitingRun) -> HeldEvent:
    """The entry of a waiting run for the head of its inbox; the same one for the same turn."""
    account = AccountKey(turn_id[:15])
    event_key = keys.event(account, "", "interrupt", turn_id)
    return HeldEvent(event_key=event_key, payload=waiting.stored, seconds=waiting.life)
