"""What becomes of a reply that WAHA refuses: other names, more tries, an end. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from langchain_convsync import phone
from langchain_convsync._lines import span
from langchain_convsync.errors import WAHAError
from langchain_convsync.waha.limits import LIMIT_KINDS

if TYPE_CHECKING:
    from langchain_convsync.outbox.reply import PendingReply

#: Seconds for which WAHA may refuse a reply, or fail at it, before it is a dead letter.
REPLY_TIMEOUT = 900.0
#: Seconds after its turn for which a reply is worth sending: beyond, its customer has asked again.
EXPIRES = 3 * 3600.0
#: Seconds between two failures that count: a longer time was a limit of the account, an outage, or
#: nobody who tried.
LONGEST_GAP = 60.0
#: As much of the last refusal is kept.
_LONGEST = 300


class Refusals(BaseModel):
    """How often a reply was refused, and by which names: the note of its cursor.

    Attributes:
        failing: Seconds for which WAHA has failed at it so far, the times left out at which nobody
            could have sent it.
        at: Store time of the last failure; None where there was none, or WAHA was away since.
        unread: Seconds for which the chat could not be read to see whether it arrived, and when
            that was tried last.
        chat_id: The name that it goes to now; None is the chat that the customer wrote in.
        refused: The names that are refused for good.
        unclear: The names by which it may have been sent.
        found: A name that WAHA told when it was asked; empty where it told none.
        said: The last refusal, in WAHA's words.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    failing: float = 0.0
    at: float | None = None
    unread: tuple[float, float] | None = None
    chat_id: str | None = Field(default=None, repr=False)
    refused: tuple[str, ...] = Field(default=(), repr=False)
    unclear: tuple[str, ...] = Field(default=(), repr=False)
    found: str | None = Field(default=None, repr=False)
    said: str = ""

    @classmethod
    def read(cls, note: str | None) -> Refusals:
        """What a cursor's note tells; nothing where it is none of this kind."""
        if note is None:
            return cls()
        try:
            return cls.model_validate_json(note)
        except ValidationError:
            return cls()

    @property
    def note(self) -> str:
        """For the cursor."""
        return self.model_dump_json(exclude_defaults=True)

    def chat_of(self, reply: PendingReply) -> str:
        """Where it goes now."""
        return self.chat_id or reply.chat_id

    def chats_of(self, reply: PendingReply) -> list[str]:
        """Where it may stand by now."""
        return list(dict.fromkeys([self.chat_of(reply), *self.unclear]))

    def names_of(self, reply: PendingReply) -> list[str]:
        """The names that are left, the customer's own choice first."""
        names = dict.fromkeys([reply.chat_id, *reply.other_chats, self.found or ""])
        return [name for name in names if name and name not in self.refused]

    def to_look_up(self, reply: PendingReply) -> str | None:
        """The name whose LID, or whose number, WAHA has not been asked for."""
        names = [reply.chat_id, *reply.other_chats]
        kinds = {phone.kind_of(name) for name in names}
        is_asked = self.found is not None or not kinds < {"phone", "lid"}
        return None if is_asked else names[0]

    def after_refusal(self, reply: PendingReply, error: WAHAError) -> Refusals:
        """This name is refused for good; which one is next, :meth:`names_of` tells."""
        refused = (*self.refused, self.chat_of(reply))
        left = self.model_copy(update={"refused": refused, "said": _said(error)})
        return left.by(next(iter(left.names_of(reply)), None))

    def by(self, name: str | None) -> Refusals:
        """It goes there now."""
        return self.model_copy(update={"chat_id": name})

    def after_failure(self, reply: PendingReply, error: WAHAError, now: float) -> Refusals:
        """It may pass: by the next name, where WAHA itself failed at this one."""
        is_away = error.foreign or error.kind in LIMIT_KINDS
        is_away = is_away or (error.status_code is None and not error.ambiguous)
        chat, names = self.chat_of(reply), self.names_of(reply)
        changes: dict[str, object] = {"said": _said(error)}
        changes |= {"failing": self._failing(now), "at": None if is_away else now}
        if error.ambiguous:
            changes["unclear"] = tuple(dict.fromkeys([*self.unclear, chat]))
        if error.status_code == 500 and not error.foreign and chat in names:
            changes["chat_id"] = names[(names.index(chat) + 1) % len(names)]
        return self.model_copy(update=changes)

    def after_unread(self, now: float) -> Refusals:
        """Its chat could not be read."""
        seconds, at = self.unread or (0.0, now)
        return self.model_copy(update={"unread": (seconds + min(now - at, LONGEST_GAP), now)})

    def end_of(self, reply: PendingReply, *, now: float, timeout: float) -> str | None:
        """Why it is not tried any more; None while it is."""
        last = f": {self.said}" if self.said else ""
        failing = self._failing(now)
        if (failing or self.at is not None) and failing >= timeout:
            return f"WAHA has failed at it for {span(failing)}{last}"
        life = EXPIRES if reply.expires is None else reply.expires
        if reply.decided_at is not None and now > reply.decided_at + life:
            age = span(now - reply.decided_at)
            return f"it came too late: decided {age} ago, it expires after {span(life)}{last}"
        return None

    def _failing(self, now: float) -> float:
        return self.failing + (0.0 if self.at is None else min(now - self.at, LONGEST_GAP))


def _said(error: WAHAError) -> str:
    return str(error)[:_LONGEST]
