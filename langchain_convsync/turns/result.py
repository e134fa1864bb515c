"""What a turn leaves behind, as one commit: pure."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from typing import Any

from pydantic import JsonValue

from langchain_convsync import telemetry
from langchain_convsync._flow import monotonic
from langchain_convsync._lines import span
from langchain_convsync._platform import now
from langchain_convsync.models import Conversation, ConversationMessage, StateUpdate
from langchain_convsync.outbox import (
    Anchor,
    Write,
    as_operations,
    overlaid,
    overlay,
    replies_of,
    target_of,
    words_of,
    writes_for,
)
from langchain_convsync.outbox.plan import tenant_note
from langchain_convsync.reply import Handoff, Reply
from langchain_convsync.settings import CallTarget
from langchain_convsync.stores.base import (
    LONGEST_SNAPSHOT,
    Acquired,
    Commit,
    Keys,
    Operation,
)
from langchain_convsync.surfaces.context import ConversationRef
from langchain_convsync.surfaces.recorded import unrecorded
from langchain_convsync.surfaces.usage import Meter
from langchain_convsync.turns.bounds import is_telling
from langchain_convsync.turns.files import Shown
from langchain_convsync.turns.interrupts import WaitingRun
from langchain_convsync.turns.naming import is_named
from langchain_convsync.turns.note import Note
from langchain_convsync.turns.recorded import (
    SNAPSHOT_MESSAGES,
    own_records,
    seen_recording,
    without,
)
from langchain_convsync.turns.said import text_of
from langchain_convsync.turns.saying import Saying
from langchain_convsync.turns.turn import Batch, FinalStatus, Outcome

logger = logging.getLogger(__name__)

#: Begins a snapshot that no turn reads instead of the conversation.
_COMPARED = "~"


@dataclass(frozen=True, slots=True)
class CurrentConversation:
    """The conversation as the turn sees it.

    Attributes:
        conversation: With the writes that are still on their way.
        base: The end of the history that was read, if no write was on its way.
        recorded: What the server was seen to have recorded of the turn's events by itself.
        records: Whether it was ever seen to; None where nothing is known yet.
    """

    conversation: Conversation
    base: Anchor | None = None
    recorded: tuple[str, ...] = ()
    records: bool | None = False

    @classmethod
    def read(
        cls, conversation: Conversation, acquired: Acquired, batch: Batch, *, expected: bool
    ) -> CurrentConversation:
        """What was just read, overlaid with the outbox as it was acquired before.

        The server's own records of the turn's events are left out, or the agent would read the
        customer's words twice.

        Args:
            conversation: As it was read.
            acquired: What was acquired before.
            batch: The turn's events.
            expected: Whether the profile says that the server records them.
        """
        base, current = None, conversation
        if acquired.operations:
            current = overlaid(conversation, acquired)
        else:
            base = Anchor.end_of(conversation)
        last = None if acquired.snapshot is None else Snapshot(acquired.snapshot).conversation
        own = own_records(current, acquired, batch, last, expected=expected)
        records = True if own else seen_recording(current, acquired)
        return cls(without(current, own), base, tuple(own.values()), records)


class Snapshot:
    """What the last turn left behind, while its session lives: read only when it is needed.

    Args:
        snapshot: As the turn stored it.

    Attributes:
        stands_in: Whether it can stand in for a read; else it is only compared with one, since the
            next event may be for another tenant, or nothing tells how long the session lives.
    """

    def __init__(self, snapshot: str) -> None:
        self.stands_in = not snapshot.startswith(_COMPARED)
        self._snapshot = snapshot.removeprefix(_COMPARED)

    @cached_property
    def conversation(self) -> Conversation | None:
        """The conversation after that turn; None where it cannot be read."""
        try:
            return Conversation.model_validate_json(self._snapshot)
        except ValueError:
            telemetry.count("unreadable", what="snapshot")
            return None

    def target(self) -> CallTarget:
        """The tenant and bot that it was about."""
        return CallTarget() if self.conversation is None else target_of(self.conversation)


@dataclass(slots=True)
class Attempt:
    """One attempt at a turn: what was acquired, for whom, and what was read.

    Attributes:
        note: What the turns before left, and then what this one leaves.
        others: Further ids of the customer, under which the API server may know them.
        keys: The store's, once the conversation was read.
        current: None as long as the conversation could not be read.
        began: When it was acquired, on this process's clock.
        left: Events that wait for the next turn already.
        phases: Seconds that each phase has taken.
        shown: What a model reads of events that came with files.
        typing: Whether the customer sees that an answer is being written.
        meter: What the agent's models have taken.
    """

    acquired: Acquired
    batch: Batch
    ref: ConversationRef
    note: Note
    others: tuple[str, ...] = ()
    keys: Keys | None = None
    current: CurrentConversation | None = None
    began: float = field(default_factory=monotonic)
    left: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    shown: Mapping[str, Shown] = field(default_factory=dict)
    typing: bool = False
    meter: Meter = field(default_factory=Meter)

    @property
    def conversation_key(self) -> str:
        """The key under which an operator finds the conversation, and its lines in the log."""
        return self.acquired.lease.conversation_key

    @property
    def now(self) -> float:
        """Store time, as far as this process knows."""
        return self.acquired.now + monotonic() - self.began

    def hashed(self, text: str) -> str:
        """A text under the store's secret: to be compared, and not to be read."""
        return "" if self.keys is None else self.keys.facts({"h": text})

    @property
    def session(self) -> str:
        """Names the session of the conversation that was read; empty before it was."""
        return "" if self.current is None else self.hashed(self.current.conversation.session_id)

    def work_on(self, current: CurrentConversation) -> None:
        """Work on this conversation from now on."""
        self.current, self.ref = current, self.ref.at(current.conversation)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResult:
    """How a turn ends: what the customer gets, and what the API server is told.

    Attributes:
        said: What the customer gets, in order.
        reason: Why it failed, for an operator; it holds no words and no number.
        waiting: The run that was interrupted, and waits from now on.
        silence: Seconds for which the conversation is silent from now on, because it goes too fast.
        handoff: Why a human goes on.
    """

    status: FinalStatus
    messages: Sequence[ConversationMessage]
    said: Sequence[Reply] = ()
    update: StateUpdate = field(default_factory=StateUpdate)
    reason: str = ""
    waiting: WaitingRun | None = None
    silence: float = 0.0
    handoff: Handoff | None = None

    @property
    def reply(self) -> str | None:
        """All that the customer gets as one text; None where that is nothing."""
        return text_of(self.said) or None

    def outcome(self, batch: Batch) -> Outcome:
        """What repeated events are answered with."""
        return Outcome(
            status=self.status,
            reply=self.reply,
            state=self.update,
            turn_id=batch.turn_id,
            events=tuple(event.event_id for _, event in batch.events),
            interrupts=() if self.waiting is None else self.waiting.interrupts,
        )

    def commit(
        self,
        attempt: Attempt,
        outcome: Outcome,
        *,
        queue_reply: bool = False,
        may_drop: bool = False,
        handoff_pause: float = 0.0,
    ) -> Commit:
        """Everything that this result changes in the store; the reply too, where we send it.

        Where a newer message ``may_drop`` the rest of it, the history waits for what is sent.
        """
        current, event_keys = attempt.current, attempt.batch.event_keys
        writes: list[Write] = []
        parts = words_of(self.said) if queue_reply and may_drop else []
        follows = parts if len(parts) > 1 and self.status == "answered" else []
        tenant, snapshot, ttl = None, None, 0.0
        note = attempt.note.spending(attempt.meter.usage, now=attempt.acquired.now)
        note = note.after_turn(is_own=attempt.batch.saying is not None)
        if current is not None:
            ours = unrecorded(self.messages, current.recorded)
            writes = self._writes(attempt, current, ours, follows)
            everything = self._writes(attempt, current, self.messages)
            tenant = tenant_note(current.conversation)
            if self.status in {"answered", "interrupted"} or self.update:
                session, at = attempt.session, attempt.acquired.now
                note = note.after_answering(session, current.conversation, self.update, now=at)
            named = is_named(attempt.batch.latest)
            snapshot, ttl = _snapshot(current.conversation, everything, stands_in=named)
        return Commit(
            event_keys=event_keys,
            outcomes=dict.fromkeys(event_keys, outcome.stored),
            fact=outcome.fact,
            operations=as_operations(writes),
            replies=self._replies(attempt, may_drop=bool(follows)) if queue_reply else (),
            dead=self.status == "failed" or self.silence > 0,
            reason=attempt.batch.damage or self.reason,
            snapshot=snapshot,
            snapshot_ttl=ttl,
            tenant=tenant,
            note=note.stored,
            pause=self.silence if self.handoff is None else handoff_pause,
            kept=attempt.batch.kept,
            kept_for=attempt.batch.wait(attempt.acquired.now),
        )

    def _replies(self, attempt: Attempt, *, may_drop: bool) -> list[Operation]:
        batch = attempt.batch
        waha_session, chat_id = batch.chat
        return replies_of(
            self.said,
            turn=batch.turn_id,
            waha_session=waha_session,
            chat_id=chat_id,
            other_chats=batch.other_chats,
            quoted=batch.quotable,
            unless_newer=attempt.acquired.turns + 1 if may_drop else None,
            decided_at=attempt.now,
        )

    def _writes(
        self,
        attempt: Attempt,
        current: CurrentConversation,
        messages: Sequence[ConversationMessage],
        follows: Sequence[str] = (),
    ) -> list[Write]:
        return writes_for(
            current.conversation,
            messages,
            self.update,
            phone_number=attempt.ref.phone_number,
            turn=attempt.batch.turn_id,
            number=attempt.acquired.turns + 1,
            decided_at=attempt.acquired.now,
            base=current.base,
            records=current.records,
            follows=follows,
        )


def _snapshot(
    conversation: Conversation, writes: Sequence[Write], *, stands_in: bool
) -> tuple[str | None, float]:
    """The conversation after this turn, and for how many seconds it is good."""
    ttl = LONGEST_SNAPSHOT
    if conversation.expires_at is not None:
        ttl = (conversation.expires_at - now()).total_seconds()
        if ttl <= 0:
            return None, 0.0
    stands_in = stands_in and conversation.expires_at is not None
    after = overlay(conversation, writes, is_new=True)
    kept = after.with_history(after.entries[-SNAPSHOT_MESSAGES:])
    return ("" if stands_in else _COMPARED) + kept.model_dump_json(by_alias=True), ttl


#: Where the API server's metadata tells why a conversation was handed over.
HANDOFF = "handoff"


def noting_handoff(attempt: Attempt, result: TurnResult) -> TurnResult:
    """The result with what the API server is told of a hand-over, and of its end.

    The agent's next run is told why it was, and what the human has said since: behind the last
    message of the turn that handed over, which is known by its hash.
    """
    current = attempt.current
    changes: dict[str, JsonValue] | None = None
    if result.handoff is not None:
        last = result.messages[-1].content if result.messages else ""
        told = {"reason": result.handoff.reason, "summary": result.handoff.summary}
        changes = {**told, "at": attempt.acquired.now, "after": attempt.hashed(last)}
    elif (
        current is None
        or not handed_over_in(current.conversation)
        or not attempt.batch.asked
        or result.status not in {"answered", "silent", "interrupted"}
    ):
        return result
    update = result.update.updated_by(StateUpdate(metadata={HANDOFF: changes}))
    return replace(result, update=update)


def handed_over_in(conversation: Conversation) -> Mapping[str, Any] | None:
    """What the metadata tells of a hand-over that no run of the agent was told of yet."""
    told = conversation.metadata.get(HANDOFF)
    return told if isinstance(told, Mapping) and told else None


def snapshot_of(acquired: Acquired) -> tuple[str | None, float]:
    """What the last turn left behind, for a commit that changes nothing of it."""
    if acquired.snapshot is None:
        return None, 0.0
    known = Snapshot(acquired.snapshot).conversation
    if known is None or known.expires_at is None:
        return acquired.snapshot, LONGEST_SNAPSHOT
    return acquired.snapshot, max(0.0, (known.expires_at - now()).total_seconds())


def inbound(batch: Batch) -> list[ConversationMessage]:
    """What the turn records of what was said to it."""
    return [
        ConversationMessage(role=event.role, content=event.words)
        for _, event in batch.said
        if event.content and event.by != "bot"
    ]


def recorded(attempt: Attempt, *, retention: float) -> TurnResult:
    """What was said is recorded, not answered: a human has it, it is old, or asks for nothing.

    A delivery that is older than the store's ``retention`` may be one that it has forgotten.
    """
    messages, batch = inbound(attempt.batch), attempt.batch
    if attempt.acquired.paused:
        return TurnResult(status="paused", messages=messages)
    if not batch.stale:
        return TurnResult(status="silent", messages=messages)
    if attempt.current is not None:
        forgotten = batch.judged(before=now() - timedelta(seconds=retention)).stale
        known = attempt.current.conversation.said if forgotten else ()
        said = [message.content for message in known if message.role == "user"]
        messages = unrecorded(messages, said)
    return TurnResult(status="stale", messages=messages)


def spoken(attempt: Attempt, saying: Saying, said: Sequence[Reply]) -> TurnResult:
    """What the bot says of its own accord; nothing where it is not wanted any more.

    Where the API server knows no conversation it is sent all the same, and nowhere recorded.
    """
    current, batch = attempt.current, attempt.batch
    since = batch.head.accepted_at
    # Servers hide what was closed: a session that has not ended is known, or it was.
    lives = attempt.acquired.snapshot is not None
    is_closed = lives if current is None else not current.conversation.is_active
    if attempt.acquired.paused and not saying.colleague:
        outcome = "paused"
    elif is_closed:
        outcome = "closed"
    elif saying.unless_heard and (batch.is_heard or attempt.note.has_heard(since, but=saying.turn)):
        outcome = "heard"
    else:
        outcome = "unrecorded" if current is None else "said"
    telemetry.count("said", outcome=outcome)
    if outcome in {"said", "unrecorded"}:
        words = ConversationMessage(role="bot", content=text_of(said))
        return TurnResult(status="said", messages=[words], said=said)
    status: FinalStatus = "paused" if outcome == "paused" else "dropped"
    return TurnResult(status=status, messages=[])


def paced(attempt: Attempt, most: int | None) -> TurnResult | None:
    """Silence, where the conversation goes faster than so many turns a minute; else None.

    Two machines that answer each other would never end. What was said is recorded, and kept as a
    dead letter.
    """
    if most is None:
        return None
    said = "\n".join(event.content for _, event in attempt.batch.asked)
    taps = any(event.choice for _, event in attempt.batch.asked)  # no machine does
    words = attempt.hashed(said) if is_telling(said) and not taps else ""
    pace, seconds = attempt.note.pace.after_turn(words, now=attempt.acquired.now, most=most)
    attempt.note = attempt.note.model_copy(update={"pace": pace})
    if not seconds:
        return None
    reason = (
        f"more turns than max_turns_per_minute={most} allows, or the same words again and again: "
        "another machine may answer"
    )
    telemetry.count("silences")
    told = "it is not answered for %s: %s; convsync resume ends that"
    telemetry.log(logger, logging.WARNING, attempt.conversation_key, told, span(seconds), reason)
    messages = inbound(attempt.batch)
    return TurnResult(status="paused", messages=messages, reason=reason, silence=seconds)
