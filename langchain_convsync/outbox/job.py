"""The write at the head of an outbox while it is worked on, and what its answers tell. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_convsync.models import Conversation, PartialConversation, StateUpdate, Words
from langchain_convsync.outbox.carry import carried, place_written
from langchain_convsync.outbox.plan import Anchor, Write, anchor_for, find, is_recorded
from langchain_convsync.outbox.queue import Head
from langchain_convsync.settings import CallTarget, ServerProfile
from langchain_convsync.surfaces.recorded import unanswered


@dataclass(slots=True, kw_only=True)
class WriteJob(Head):
    """The write; its anchor is the last confirmed message.

    Attributes:
        write: The write.
        carries: Whether it carries what was just read.
        records: Whether the server was seen to record the customer's words by itself.
        read: The conversation as it was just read, without the write.
    """

    write: Write
    carries: bool
    records: bool = False
    read: Conversation | None = None

    def target(self) -> CallTarget:
        """What every answer must be about."""
        return self.write.target

    @property
    def done(self) -> bool:
        """Whether all of it is confirmed."""
        return self.cursor.pos >= self.write.parts

    @property
    def end(self) -> int:
        """The position after the part that is next: one PUT takes all messages at once."""
        return self.write.parts if self.carries else self.cursor.pos + 1

    @property
    def key(self) -> str:
        """The idempotency key of the part; what carries a read has another body each time."""
        key = f"{self.operation.id}/{self.cursor.pos}"
        return f"{key}/{self.cursor.tries}" if self.carries else key

    @property
    def note(self) -> str | None:
        """The end of the history that a PUT replaces: what it writes stands right after it."""
        if self.read is None or not self.carries or self.write.kind == "sync_state":
            return None
        return Anchor.end_of(self.read).model_dump_json()

    def carried(self, profile: ServerProfile) -> dict[str, Any] | None:
        """The context that goes along with a sync; None where nothing is to be carried."""
        if self.read is None or not self.carries:
            return None
        return carried(self.read, self.write, self.cursor.pos, profile)

    def update(self) -> StateUpdate:
        """What a sync says besides what it carries: messages leave the state as it is."""
        if self.write.kind == "append":
            return StateUpdate(is_active=None if self.read is None else self.read.is_active)
        return self.write.marked_update()

    def recorded(self, history: Sequence[Words]) -> int | None:
        """Where the messages of the part stand that was sent; None if they do not.

        Raises:
            LookupError: The history does not tell.
        """
        messages, pos, note = self.write.messages, self.cursor.pos, self.cursor.note
        if self.carries:
            anchor = None if note is None else Anchor.stored(note)
            return place_written(history, messages[pos:], anchor)
        return is_recorded(history, messages[pos], anchor_for(self.write, pos, self.anchor))

    def recorded_by_server(self, history: Sequence[Words], *, expected: bool) -> int | None:
        """Where the part stands although it was not sent; None if it does not.

        It came after all that its turn has read or, where that is not in the history any more and
        the profile expects it, after the last answer.
        """
        message, pos = self.write.messages[self.cursor.pos], self.cursor.pos
        try:
            return is_recorded(history, message, anchor_for(self.write, pos, self.anchor))
        except LookupError:
            if not expected:
                return None
            start = len(history) - unanswered(history).total()
            return find(history, message, start)

    def anchor_in(self, answer: PartialConversation) -> Anchor | None:
        """Where the answer to the part shows the last message that it recorded."""
        if self.write.kind != "append":
            return None
        alike = answer.said_like(self.write.messages[self.end - 1])
        return Anchor.at_end(answer.session_id, alike) if alike else None
