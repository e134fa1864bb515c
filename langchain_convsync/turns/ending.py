"""What a turn leaves behind, as one commit: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from langchain_convsync.context import ConversationRef
from langchain_convsync.models import Conversation, ConversationMessage, StateUpdate
from langchain_convsync.outbox import Anchor, Write, anchor_for, overlay
from langchain_convsync.settings import ServerProfile
from langchain_convsync.stores.base import Commit, Op, Taken
from langchain_convsync.turns.turn import Batch, FinalStatus, Outcome

#: Messages of the history that a snapshot keeps.
SNAPSHOT_MESSAGES = 50


@dataclass(frozen=True, slots=True)
class Seen:
    """The conversation as the turn sees it.

    Attributes:
        conversation: With the writes that are still on their way.
        base: The end of the history that was read, if no write was on its way.
    """

    conversation: Conversation
    base: Anchor | None = None

    @classmethod
    def read(cls, conversation: Conversation, taken: Taken) -> Seen:
        """What was just read, overlaid with the outbox as it was taken before."""
        if not taken.ops:
            end = Anchor.at_end(conversation.session_id, conversation.messages)
            return cls(conversation, end)
        writes = [Write.model_validate_json(op.body) for op in taken.ops]
        cursor = taken.cursor
        pos = cursor.pos if cursor is not None and cursor.op_id == taken.ops[0].id else 0
        anchor = anchor_for(writes[0], pos, taken.anchor)
        return cls(overlay(conversation, writes, pos=pos, anchor=anchor))

    @classmethod
    def snapshot(cls, taken: Taken, now: datetime) -> Seen | None:
        """What the last turn left behind, while its session lives."""
        if taken.snapshot is None:
            return None
        conversation = Conversation.model_validate_json(taken.snapshot)
        return None if conversation.expired(now) else cls(conversation)


@dataclass(slots=True)
class Attempt:
    """One attempt at a turn: what was taken, for whom, and what was read.

    Attributes:
        seen: None as long as the conversation could not be read.
    """

    taken: Taken
    batch: Batch
    ref: ConversationRef
    seen: Seen | None = None

    def see(self, seen: Seen) -> None:
        """Work on this conversation from now on."""
        self.seen, self.ref = seen, self.ref.at(seen.conversation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a turn ends: what the customer gets, and what the API server is told."""

    status: FinalStatus
    messages: Sequence[ConversationMessage]
    reply: str | None = None
    update: StateUpdate = field(default_factory=StateUpdate)

    def outcome(self, batch: Batch) -> Outcome:
        """What repeated events are answered with."""
        return Outcome(
            status=self.status,
            reply=self.reply,
            state=self.update,
            turn_id=batch.turn_id,
            events=tuple(event.event_id for _, event in batch.events),
        )

    def commit(self, attempt: Attempt, outcome: Outcome, profile: ServerProfile) -> Commit:
        """Everything that this ending changes in the store."""
        seen, eids = attempt.seen, attempt.batch.eids
        writes = [] if seen is None else self._writes(attempt, seen, profile)
        snapshot, ttl = (None, 0.0) if seen is None else _snapshot(seen.conversation, writes)
        return Commit(
            eids=eids,
            outcomes=dict.fromkeys(eids, outcome.model_dump_json(exclude_defaults=True)),
            ops=[
                Op(id=f"{write.turn}/{index}", body=write.model_dump_json(exclude_defaults=True))
                for index, write in enumerate(writes)
            ],
            dead=self.status == "failed",
            snapshot=snapshot,
            snapshot_ttl=ttl,
        )

    def _writes(self, attempt: Attempt, seen: Seen, profile: ServerProfile) -> list[Write]:
        conversation = seen.conversation
        common: dict[str, Any] = {
            "phone_number": attempt.ref.phone_number,
            "session_id": conversation.session_id,
            "bot_id": conversation.bot_id,
            "subdomain": conversation.subdomain,
            "turn": attempt.batch.turn_id,
            "number": attempt.taken.turns + 1,
            "decided_at": attempt.taken.now,
        }
        messages = tuple(
            message
            for message in self.messages
            if not (profile.records_inbound and message.role == "user")
        )
        writes = []
        if messages:
            writes.append(Write(kind="append", messages=messages, base=seen.base, **common))
        if self.update:
            active = self.update.is_active
            active = conversation.is_active if active is None else active
            update = self.update.model_copy(update={"is_active": active})
            writes.append(Write(kind="sync_state", update=update, **common))
        return writes


def _snapshot(conversation: Conversation, writes: Sequence[Write]) -> tuple[str | None, float]:
    """The conversation after this turn, and for how many seconds it is good."""
    if conversation.expires_at is None:
        return None, 0.0
    ttl = (conversation.expires_at - datetime.now(UTC)).total_seconds()
    if ttl <= 0:
        return None, 0.0
    after = overlay(conversation, writes)
    history = after.context["previousMessages"][-SNAPSHOT_MESSAGES:]
    after = after.model_copy(update={"context": {**after.context, "previousMessages": history}})
    return after.model_dump_json(by_alias=True), ttl
