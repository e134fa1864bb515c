"""Whether replies have arrived, as WAHA's ``message.ack`` and refusals tell it. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from langchain_convsync.outbox.reply import sent_ids
from langchain_convsync.stores.base import ACKS_KEPT, Ack, ConversationView
from langchain_convsync.stores.checks import is_farther

#: How far a reply got: WhatsApp has it, the customer's phone has it, they have read it; or none.
ArrivalState: TypeAlias = Literal["failed", "sent", "delivered", "read"]
_STATES: dict[int, ArrivalState] = {-1: "failed", 1: "sent", 2: "delivered", 3: "read", 4: "read"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Undelivered:
    """A reply that did not arrive, as ``on_undelivered=`` is told it.

    Attributes:
        conversation_key: Its conversation, as logs and ``convsync show`` name it.
        reason: Why: WAHA's own words, or that WhatsApp reported an error.
        turn_id: The turn that decided it; None where only the message is known.
        message_id: The message's stanza id; None where it was never sent.
        chat_id: Where it was to go.
        text: What it says, where that is known.
    """

    conversation_key: str
    reason: str
    turn_id: str | None = None
    message_id: str | None = None
    chat_id: str | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """The same for the same reply: it may be told more than once, after a crash."""
        return self.message_id or f"{self.turn_id}"


OnUndelivered: TypeAlias = Callable[[Undelivered], Awaitable[object] | object]


@dataclass(frozen=True, slots=True)
class Arrival:
    """How far one of the last replies got; ``taken`` by WAHA where WhatsApp has told nothing."""

    message_id: str
    state: ArrivalState | Literal["taken"]
    at: float | None = None


def state_of(level: int | None) -> ArrivalState | None:
    """What an ack tells; None where it tells nothing of interest."""
    return None if level is None else _STATES.get(level)


def is_news(view: ConversationView, message_id: str, level: int) -> bool:
    """Whether an ack tells more of a reply of ours than is known; of one on the wire, it may be."""
    replies = view.replies
    on_the_wire = replies.cursor is not None and replies.cursor.tries > 0
    if message_id not in sent_ids(replies.anchor) and not on_the_wire:
        return False
    known = _levels(view.acks).get(message_id)
    return known is None or is_farther(known, level)


def arrivals(view: ConversationView) -> list[Arrival]:
    """The last replies that WAHA took, oldest first, and how far they got.

    From the first one on of which anything is known, and the last one in any case.
    """
    acks = {ack.message_id: ack for ack in view.acks}
    sent = sent_ids(view.replies.anchor)[-ACKS_KEPT:]
    first = next((n for n, each in enumerate(sent) if each in acks), len(sent) - 1)
    found = []
    for message_id in sent[max(0, first) :]:
        ack = acks.get(message_id)
        state = state_of(ack.level) if ack else None
        found.append(Arrival(message_id, state or "taken", ack.at if ack and state else None))
    return found


def _levels(acks: Iterable[Ack]) -> dict[str, int]:
    return {ack.message_id: ack.level for ack in acks}
