"""What to do about a write: decided from records alone, without I/O.

The API's POST is not idempotent and its PUT is not commutative, so a write that got no clear
answer is looked up before it is sent again. A message counts as applied if it stands after the
*anchor*, the last message that some read or answer confirmed; a sync counts as applied if the
conversation's metadata names its turn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from langchain_convsync import telemetry
from langchain_convsync.errors import ConversationMismatchError
from langchain_convsync.models import (
    Conversation,
    ConversationMessage,
    Said,
    StateUpdate,
    StoredUpdate,
    Words,
)
from langchain_convsync.settings import CallTarget, ServerProfile
from langchain_convsync.stores.base import Cursor

#: Seconds that one request of the outbox may take.
ATTEMPT = 5.0
#: Seconds after which another writer may have changed what a turn has read.
FRESH = 30.0
#: Key of the mark that a sync leaves in the conversation's metadata.
MARK = "convsync"


class Anchor(BaseModel):
    """The last message known to stand in the history.

    Attributes:
        session_id: The session whose history it is.
        role: Its role; None for the start of the history.
        digest: Hash of its content.
        timestamp: Its timestamp, as the server sent it.
        occurrence: It is the how-manyth entry that looks like this, from 1.
        records: Whether the server was seen to record what the customer writes by itself.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    session_id: str = Field(repr=False)
    role: str | None = None
    digest: str = ""
    timestamp: str | None = None
    occurrence: int = 0
    records: bool = False

    @classmethod
    def at_end(cls, session_id: str, history: Sequence[Words]) -> Anchor:
        """The anchor at the end of a history."""
        return cls.at(session_id, history, len(history) - 1)

    @classmethod
    def stored(cls, noted: str) -> Anchor | None:
        """The anchor that a store keeps; None where it cannot be read, so nothing is known."""
        try:
            return cls.model_validate_json(noted)
        except ValueError:
            telemetry.count("unreadable", what="anchor")
            return None

    @classmethod
    def end_of(cls, conversation: Conversation) -> Anchor:
        """The anchor at the end of a conversation's history; only what looks like it is read."""
        entries = conversation.entries
        alike = conversation.said_like(Said.of(entries[-1])) if entries else []
        return cls.at_end(conversation.session_id, alike)

    @classmethod
    def at(cls, session_id: str, history: Sequence[Words], index: int) -> Anchor:
        """The anchor at one entry of a history; -1 is its start."""
        if index < 0:
            return cls(session_id=session_id)
        last = history[index]
        role, content, timestamp = last.role, last.content, _time(last)
        alike = [words for words in history[: index + 1] if words.content == content]
        return cls(
            session_id=session_id,
            role=role,
            digest=digest(content),
            timestamp=timestamp,
            occurrence=sum(w.role == role and _time(w) == timestamp for w in alike),
        )

    def index(self, history: Sequence[Words]) -> int | None:
        """Where it stands in a history; -1 for its start, None where the server forgot it."""
        if self.role is None:
            return -1
        places = [place for place, words in enumerate(history) if self._is_like(words)]
        return places[self.occurrence - 1] if len(places) >= self.occurrence else None

    def _is_like(self, words: Words) -> bool:
        looks = words.role == self.role and _time(words) == self.timestamp
        return looks and digest(words.content) == self.digest


def _time(words: Words) -> str | None:
    return None if words.timestamp is None else words.timestamp.isoformat()


def digest(content: str) -> str:
    """A short hash of a text."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:24]


class Write(BaseModel):
    """One operation of the outbox, as it is stored.

    Attributes:
        kind: ``append`` posts ``messages`` one by one, ``sync_state`` puts ``update``.
        phone_number: The customer, as the conversation was read.
        session_id: The conversation's key on the API server.
        bot_id: The bot.
        subdomain: The tenant; every answer must be of the same.
        turn: The turn that decided it.
        number: The number of that turn in its conversation, from 1.
        decided_at: Store time of the read that the turn was based on.
        base: End of the history at that read, if nothing was on its way then.
        records: Whether the server was seen to record the customer's words by itself; None where
            it is to be looked for, since nothing was known yet.
        follows: What the last message says, message by message, where some of them may not be sent:
            it is recorded once that is decided, as far as they were.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    kind: Literal["append", "sync_state"]
    phone_number: str = Field(repr=False)
    session_id: str = Field(repr=False)
    bot_id: str
    subdomain: str
    turn: str
    number: int
    decided_at: float
    messages: tuple[ConversationMessage, ...] = ()
    update: StoredUpdate = StateUpdate()
    base: Anchor | None = None
    records: bool | None = False
    follows: tuple[str, ...] = Field(default=(), repr=False)

    @classmethod
    def stored(cls, body: str) -> Write:
        """The operation that a store keeps as ``body``; read once, since it never changes."""
        return _stored(body)

    @cached_property
    def target(self) -> CallTarget:
        """What every answer must be about."""
        return CallTarget(subdomain=self.subdomain, bot_id=self.bot_id)

    @property
    def parts(self) -> int:
        """How many requests it takes."""
        return len(self.messages) if self.kind == "append" else 1

    def as_far_as(self, sent: int) -> Write:
        """The write once so many of the messages that it follows were sent."""
        *before, last = self.messages
        said = last.model_copy(update={"content": "\n\n".join(self.follows[:sent])})
        messages = (*before, said) if sent else tuple(before)
        return self.model_copy(update={"messages": messages, "follows": ()})

    def marked_update(self) -> StateUpdate:
        """The update with the mark by which a later read recognises it."""
        mark = StateUpdate(metadata={MARK: {"turn": self.turn, "n": self.number}})
        return self.update.updated_by(mark)


@lru_cache(maxsize=1024)
def _stored(body: str) -> Write:
    return Write.model_validate_json(body)


def target_of(conversation: Conversation) -> CallTarget:
    """The tenant and bot of a conversation."""
    return CallTarget(subdomain=conversation.subdomain, bot_id=conversation.bot_id)


def tenant_note(conversation: Conversation) -> str:
    """Whose conversation it is, as a store keeps it."""
    return json.dumps([conversation.subdomain, conversation.bot_id])


def noted_target(note: str | None) -> CallTarget | None:
    """The tenant and bot in a :func:`tenant_note`; None where there is none that can be read."""
    with suppress(ValueError):
        match from_json(note or ""):
            case [str(subdomain), str(bot_id)]:
                return CallTarget(subdomain=subdomain, bot_id=bot_id)
    return None


def require_tenant(note: str | None, conversation: Conversation) -> None:
    """Refuse a conversation of another tenant than the one that was noted, if one was.

    Raises:
        ConversationMismatchError: It is one.
    """
    noted = noted_target(note)
    if noted is not None and noted.subdomain != conversation.subdomain:
        message = (
            "the API server tells another tenant's conversation than the one that this account's "
            "customer has been answered for: let the source of the events name bot_id or "
            "subdomain; where the account now is that tenant's: convsync forget PHONE"
        )
        raise ConversationMismatchError(message)


@dataclass(frozen=True, slots=True)
class Send:
    """Put part ``pos`` on the wire, as try number ``attempt``."""

    pos: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Verify:
    """Read the conversation and see whether part ``pos`` was applied."""

    pos: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Too early to tell: ask again in ``seconds``."""

    seconds: float


Step: TypeAlias = Send | Verify | Wait


def plan(
    write: Write,
    cursor: Cursor,
    *,
    now: float,
    profile: ServerProfile,
    verified: bool = False,
) -> Step:
    """The next step for the write at the head of an outbox.

    Args:
        write: The write.
        cursor: How far it has come.
        now: Store time.
        profile: What the API server does.
        verified: The conversation was just read, and the write is not in it.
    """
    carries = carries_what_was_read(write, profile)
    # A key stands for one body: a write that carries what was read has another one each time.
    if cursor.sent_at is not None and (carries or not profile.idempotency_keys):
        settled = cursor.sent_at + ATTEMPT + profile.settle
        return Wait(settled - now) if now < settled else Verify(cursor.pos)
    stale = cursor.tries > 0 or now - write.decided_at > FRESH
    unsure = carries or (write.kind == "sync_state" and stale)
    if cursor.sent_at is None:
        unsure = unsure or may_be_recorded(write, cursor.pos, profile)
    if unsure and not verified:
        return Verify(cursor.pos)
    return Send(cursor.pos, cursor.tries + 1)


def may_be_recorded(write: Write, pos: int, profile: ServerProfile) -> bool:
    """Whether the server may have recorded the part by itself: the customer's own words."""
    records = profile.records_inbound or write.records is not False
    return records and write.kind == "append" and write.messages[pos].role == "user"


def carries_what_was_read(write: Write, profile: ServerProfile) -> bool:
    """Whether a write replaces something on the server, so that it must carry all of it."""
    if write.kind == "append":
        return profile.history == "sync"
    return profile.context_sync == "replace" and bool(write.update.context)


def anchor_for(write: Write, pos: int, confirmed: str | None) -> Anchor | None:
    """The anchor of a part: the turn's own read, else what the last confirmed write noted."""
    if pos == 0 and write.base is not None:
        return write.base
    return None if confirmed is None else Anchor.stored(confirmed)


def is_recorded(history: Sequence[Words], message: Words, anchor: Anchor | None) -> int | None:
    """Where a message stands after the anchor; None if it does not.

    Raises:
        LookupError: The anchor is unknown or gone, so it cannot be told.
    """
    start = None if anchor is None else anchor.index(history)
    if start is None:
        reason = "the last confirmed message is not in the history any more"
        raise LookupError(reason)
    return find(history, message, start + 1)


def is_applied(conversation: Conversation, write: Write) -> bool:
    """Whether the conversation carries the mark of this sync, or of a later one."""
    mark: Any = conversation.metadata.get(MARK)
    if not isinstance(mark, dict):
        return False
    number = mark.get("n")
    return mark.get("turn") == write.turn or (isinstance(number, int) and number > write.number)


def overlay(
    conversation: Conversation,
    writes: Sequence[Write],
    *,
    pos: int = 0,
    anchor: Anchor | None = None,
    is_new: bool = False,
) -> Conversation:
    """The conversation as it will be once the writes on their way have arrived.

    Args:
        conversation: As just read; some of the writes may be in it already.
        writes: The outbox, in order; another tenant's are left out.
        pos: How many messages of the first write are confirmed.
        anchor: The last confirmed message.
        is_new: Whether nothing of the writes can be in it yet.
    """
    entries = conversation.entries
    history = [] if is_new else list(conversation.said)
    found = None if anchor is None else anchor.index(history)
    place = -1 if found is None else found  # a forgotten anchor: all of the history is newer
    tenant = target_of(conversation)
    patch = StateUpdate()
    for number, write in enumerate(writes):
        if write.target != tenant:
            continue  # the customer was another tenant's when it was decided
        if write.kind == "sync_state" and not is_applied(conversation, write):
            patch = patch.updated_by(write.update)
        for message in write.messages[pos if number == 0 else 0 :]:
            found = find(history, message, place + 1)
            if found is None:
                history.append(Said(message.role, message.content, message.timestamp))
                entries.append(message.model_dump(by_alias=True, mode="json"))
                place = len(history) - 1
            else:
                place = found
    changes: dict[str, Any] = {
        "context": {**conversation.context, **patch.context, "previousMessages": entries},
        "metadata": {**conversation.metadata, **patch.metadata},
    }
    if patch.intent is not None:
        changes["current_intent"] = patch.intent
    if patch.step is not None:
        changes["current_step"] = patch.step
    return conversation.model_copy(update=changes)


def find(history: Sequence[Words], message: Words, start: int) -> int | None:
    """The first place, from ``start``, where these words stand; None if they do not."""
    for place in range(start, len(history)):
        if (history[place].role, history[place].content) == (message.role, message.content):
            return place
    return None
