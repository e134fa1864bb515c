"""One run of the agent within a turn: it begins, or goes on after it was interrupted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow
from langchain_convsync.models import ConversationMessage, StateUpdate
from langchain_convsync.reply import Reply
from langchain_convsync.settings import ServerProfile
from langchain_convsync.stores.heartbeat import Watch
from langchain_convsync.surfaces.context import TurnRecord
from langchain_convsync.surfaces.messages import messages_of
from langchain_convsync.surfaces.state import Extractor, as_update, ask, bounded, extract
from langchain_convsync.turns.agent import (
    Before,
    Call,
    abandon,
    baseline,
    has_memory,
    invoke,
    is_graph,
    require_input,
    said_anew,
    undo,
)
from langchain_convsync.turns.interrupts import (
    WaitingRun,
    as_command,
    interrupts_in,
    question_of,
)
from langchain_convsync.turns.result import Attempt, TurnResult, inbound
from langchain_convsync.turns.resuming import (
    MEMORYLESS,
    NOT_RUN,
    Answers,
    ForgottenError,
    by_words,
    going_on,
)
from langchain_convsync.turns.said import handoff_in, said_in, set_since, text_of
from langchain_convsync.turns.turn import FinalStatus

logger = logging.getLogger(__name__)

AsSent: TypeAlias = Callable[[Sequence[Reply]], list[Reply]]


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs the agent of a turn, and tells what the turn comes to.

    Args:
        answers: Who answers what it waits for.
        extractor: What its output says about the state; None takes the usual places.
        profile: The API server, which may refuse intents.
        agent_timeout: Seconds that one run may take.
        silent_marker: The text by which an agent says that it says nothing.
        as_sent: Makes of what is said what is sent.
    """

    answers: Answers
    extractor: Extractor | None
    profile: ServerProfile
    agent_timeout: float
    silent_marker: str | None = None
    as_sent: AsSent = list

    def begin(
        self, attempt: Attempt, watch: Watch, call: Call, record: TurnRecord
    ) -> Flow[TurnResult]:
        """A run that begins; or one that goes on with the customer's words, as they are."""
        events = [event for _, event in attempt.batch.asked]
        if self.answers.prepare is not None:
            prepared = yield from self.answers.prepared(record.conversation, events)
            call = replace(call, input=prepared)
            require_input(call)
        before, turn = (yield from baseline(call)), attempt.batch.turn_id
        if before.interrupts and before.turn == turn:  # an attempt that was not committed
            call, before = yield from undo(call, turn, NOT_RUN)
        elif before.interrupts and as_command(call.input) is None:
            given_up = question_of(before.interrupts) is None or attempt.batch.counts.errors > 0
            if given_up:  # its entry is lost, or was discarded; or it takes no such answer
                yield from abandon(call, NOT_RUN)
                before = yield from baseline(call)
            else:
                call = by_words(call, before, [event.content for event in events])
        output = yield from self._invoke(attempt, call, record, watch)
        return (yield from self._result(attempt, call, record, output, before))

    def resume(
        self, attempt: Attempt, watch: Watch, call: Call, record: TurnRecord
    ) -> Flow[TurnResult | None]:
        """A run that was interrupted by an earlier turn goes on, if there is an answer."""
        command = yield from self.answers.answer(attempt, record.conversation)
        waiting = attempt.batch.waiting
        if waiting is None or waiting.answer is None:
            if self.answers.is_over(attempt):
                return TurnResult(status="dropped", messages=inbound(attempt.batch))
            return None
        before = yield from baseline(call)
        try:
            onward, before, output = yield from going_on(call, waiting, before, command)
        except ForgottenError:
            yield from abandon(call, NOT_RUN)
            if attempt.batch.asked:
                return (yield from self.begin(attempt, watch, call, record))
            if waiting.answer.by != "timeout":
                raise
            return TurnResult(status="dropped", messages=inbound(attempt.batch))
        if onward is not None:
            output = yield from self._invoke(attempt, onward, record, watch)
        return (yield from self._result(attempt, call, record, output, before, waiting=waiting))

    def _invoke(self, attempt: Attempt, call: Call, record: TurnRecord, watch: Watch) -> Flow[Any]:
        with telemetry.timed("turn_phase", phase="agent") as timing:
            output = yield from invoke(call, record, watch, deadline=self.agent_timeout)
        attempt.phases["agent"] = timing.seconds
        if interrupts_in(output) and is_graph(call.agent) and not has_memory(call.agent):
            raise ForgottenError(MEMORYLESS)  # the customer would be asked the same for ever
        return output

    def _result(
        self,
        attempt: Attempt,
        call: Call,
        record: TurnRecord,
        output: object,
        before: Before,
        *,
        waiting: WaitingRun | None = None,
    ) -> Flow[TurnResult]:
        """What a run came to; of one that went on, what it has not noted before."""
        if not attempt.meter.usage:  # its models were asked elsewhere
            known = {message.id for message in messages_of(before.values)}
            attempt.meter.add(m for m in messages_of(output) if m.id is None or m.id not in known)
        interrupts, said = interrupts_in(output), [*record.said]
        anew = yield from said_anew(call, output, before)
        if not interrupts:
            said = said_in(anew, before.values, recorded=said, silent_marker=self.silent_marker)
            said = self.as_sent(said)
            decided = yield from self._decide(attempt, record, output, before.values)
        elif self.extractor is None:
            decided = extract(output, baseline=before.values, noted=record.update)
        else:  # it is asked about the end of the run
            decided = StateUpdate()
        update = self._accepted(attempt, record.update.updated_by(decided))
        handoff = record.handoff or handoff_in(anew, before.values)
        added = list(record.added)
        if waiting is not None:
            update, added = waiting.rest_of(update), waiting.rest_of_added(added)
        messages = [*inbound(attempt.batch), *added]
        if interrupts:
            stopped = self.answers.waiting(attempt, record, interrupts)
            said = [r for r in [*said, *set_since(output, before.values)] if not r.is_silent]
            said = self.as_sent(said)
            if said:
                messages.append(ConversationMessage(role="bot", content=text_of(said)))
            if stopped.question:
                said += self.as_sent([Reply(texts=(stopped.question,))])
            return TurnResult(
                status="interrupted",
                messages=messages,
                said=said,
                update=update,
                waiting=stopped.having_noted(update, added, waiting),
                handoff=handoff,
            )
        status: FinalStatus = "answered" if said else "silent"
        if said:
            messages.append(ConversationMessage(role="bot", content=text_of(said)))
        return TurnResult(
            status=status, messages=messages, said=said, update=update, handoff=handoff
        )

    def _decide(
        self, attempt: Attempt, record: TurnRecord, output: object, before: Mapping[str, Any]
    ) -> Flow[StateUpdate]:
        if self.extractor is not None:
            try:
                decision = yield from ask(self.extractor, output)
            except Exception as error:  # noqa: BLE001 - the customer's reply is there already
                telemetry.count("extraction_failures", error=type(error).__name__)
                telemetry.log(
                    logger,
                    logging.WARNING,
                    attempt.conversation_key,
                    "extractor= failed with %s: no state is synced",
                    error,
                    with_text=self.answers.log_errors,
                )
                return StateUpdate()
            if decision is not None:
                return as_update(decision)
        return extract(output, baseline=before, noted=record.update)

    def _accepted(self, attempt: Attempt, update: StateUpdate) -> StateUpdate:
        """The update, within bounds, without an intent that this API server is known to refuse."""
        update = bounded(update)
        intents = self.profile.intents
        if update.intent is None or intents is None or update.intent in intents:
            return update
        telemetry.count("intents_refused")
        telemetry.log(
            logger,
            logging.WARNING,
            attempt.conversation_key,
            "the intent is none of ServerProfile.intents (%s); it is not synced",
            ", ".join(sorted(intents)),
        )
        return update.model_copy(update={"intent": None})
