"""A conversation that its agent hands over to a human: how that waits until they are told. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

from pydantic import Field

from langchain_convsync._display import Displayed, Summary
from langchain_convsync.reply import Handoff
from langchain_convsync.stores.base import AccountKey, HeldEvent, Keys
from langchain_convsync.surfaces.context import ConversationRef
from langchain_convsync.turns.entries import InboxEntry

#: Seconds before a human is told again who could not be told: doubled each time, at most so many.
LONGEST_BACKOFF = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOver(Displayed):
    """What ``on_handoff=`` is told.

    Attributes:
        reason: Why the agent hands over.
        summary: What it is about, for whoever goes on.
        key: Names this hand-over: the same one each time that it is told.
        conversation: Whose conversation it is.
        chat_id: The customer's chat.
        waha_session: WAHA's session that they write through, where one was named.
    """

    reason: str = field(repr=False)
    summary: str = field(repr=False)
    key: str
    conversation: ConversationRef
    chat_id: str = field(repr=False)
    waha_session: str | None = field(default=None, repr=False)

    def _summary(self) -> Summary:
        facts = {"reason": self.reason, "key": self.key}
        return Summary("handed over", facts, [("agent", self.summary)] if self.summary else [])


class HandoffEntry(InboxEntry):
    """A hand-over in the inbox, until a human was told.

    Attributes:
        at: Store time from which on it is due.
        tries: How often it was tried in vain.
    """

    kind: Literal["handoff"] = "handoff"
    reason: str = Field(repr=False)
    summary: str = Field(default="", repr=False)
    phone_number: str = Field(repr=False)
    bot_id: str | None = None
    subdomain: str | None = None
    session_id: str | None = Field(default=None, repr=False)
    chat_id: str = Field(repr=False)
    waha_session: str | None = Field(default=None, repr=False)
    at: float = 0.0
    tries: int = 0

    @classmethod
    def of(
        cls, handoff: Handoff, ref: ConversationRef, *, chat_id: str, waha_session: str | None
    ) -> Self:
        """A hand-over that was decided."""
        return cls(
            reason=handoff.reason,
            summary=handoff.summary,
            phone_number=ref.phone_number,
            bot_id=ref.bot_id,
            subdomain=ref.subdomain,
            session_id=ref.session_id,
            chat_id=chat_id,
            waha_session=waha_session,
        )

    def held(self, keys: Keys, turn_id: str) -> HeldEvent:
        """Its entry for the head of the inbox; the same one for the same turn."""
        event_key = keys.event(AccountKey(turn_id[:15]), "", "handoff", turn_id)
        return HeldEvent(event_key=event_key, payload=self.stored, seconds=0.0)

    def told(self, key: str) -> HandedOver:
        """What a human is told, under the entry's key."""
        ref = ConversationRef(
            self.phone_number,
            bot_id=self.bot_id,
            subdomain=self.subdomain,
            session_id=self.session_id,
        )
        return HandedOver(
            reason=self.reason,
            summary=self.summary,
            key=key,
            conversation=ref,
            chat_id=self.chat_id,
            waha_session=self.waha_session,
        )

    def again(self, now: float) -> Self:
        """It was tried in vain, and is due a while later."""
        delay = min(LONGEST_BACKOFF, 2.0 ** min(self.tries, 10))
        return self.model_copy(update={"at": now + delay, "tries": self.tries + 1})
