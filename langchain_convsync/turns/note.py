"""What the turns of a conversation leave for the next ones, without a word of the customer's: pure.

A store keeps it beside the conversation for as long as it knows it, which is longer than an API
server keeps a session.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from langchain_convsync import telemetry
from langchain_convsync._lines import is_name
from langchain_convsync.models import Conversation, StateUpdate
from langchain_convsync.surfaces.bounds import LONGEST_NAME
from langchain_convsync.surfaces.usage import Usage, added
from langchain_convsync.turns.bounds import Pace
from langchain_convsync.turns.naming import UNNAMED

#: Seconds without a word of the customer's after which they begin anew.
BEGINS_ANEW = 3600.0
#: Seconds after a customer's first words within which no human answers, and the app's greeting and
#: away messages do.
PROMPT = 10.0
#: What the clocks may differ by that tell when messages were sent.
SKEW = 2.0


class Note(BaseModel):
    """What is known of a conversation beside what its API server tells.

    Attributes:
        session: Keyed hash of the session that the last answer was given in.
        intent: What the customer wanted then, where that is a plain name.
        step: How far they were, likewise.
        at: Store time of that answer.
        since: When the customer began to write, after a while of silence: seconds since 1970.
        heard: When they wrote last.
        taken: When someone wrote who was taken for a human.
        takes: How often that was since the customer began.
        pace: How fast it goes.
        turn: The last turn that the customer's words came to.
        turn_at: Store time at which that was acquired.
        waha_session: WAHA's session that they wrote through, unless that is its only one.
        own: How many of the last turns had words of nobody's: what the bot said of its own accord.
        day: The day, in UTC, of what was spent: days since 1970.
        spent: Tokens that models took on that day, by model, those given and those that they gave.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    session: str = ""
    intent: str | None = Field(default=None, repr=False)
    step: str | None = Field(default=None, repr=False)
    at: float = 0.0
    since: float | None = None
    heard: float | None = None
    taken: float | None = None
    takes: int = 0
    pace: Pace = Pace()
    turn: str = ""
    turn_at: float = 0.0
    waha_session: str = Field(default="", repr=False)
    own: int = 0
    day: int = 0
    spent: dict[str, tuple[int, int]] = Field(default_factory=dict)

    @classmethod
    def read(cls, stored: str | None) -> Note:
        """A note from a store; an empty one where there is none, or none that can be read."""
        if stored is None:
            return cls()
        try:
            return cls.model_validate_json(stored)
        except ValidationError:
            telemetry.count("unreadable", what="note")
            return cls()

    @property
    def stored(self) -> str:
        """As a store keeps it."""
        return self.model_dump_json(exclude_defaults=True)

    def hearing(self, times: Iterable[float]) -> Note:
        """The note once the customer wrote at these times."""
        since, heard = self.since, self.heard
        for at in sorted(times):
            if heard is None or at > heard + BEGINS_ANEW:
                since = at
            heard = at if heard is None else max(heard, at)
        return self.model_copy(update={"since": since, "heard": heard})

    def taken_over(self, times: Iterable[float]) -> Note:
        """The note once someone wrote at these times who was taken for a human."""
        all_of = [at for at in (self.taken, *times) if at is not None]
        began = self.since is not None and self.taken is not None and self.taken < self.since - SKEW
        takes = (0 if began else self.takes) + len(all_of) - (self.taken is not None)
        return self.model_copy(update={"taken": max(all_of, default=None), "takes": takes})

    @property
    def was_machine(self) -> bool:
        """Whether the one who was taken for a human wrote too soon for one, and has left it there.

        Deliveries come in any order: the app's greeting before the message that it answers.
        """
        if self.takes != 1 or self.taken is None or self.since is None:
            return False
        return 0 <= self.taken - self.since <= PROMPT

    def is_prompt(self, at: float) -> bool:
        """Whether what the business wrote then came too soon after the customer for a human."""
        return self.since is not None and -SKEW <= at - self.since <= PROMPT

    def after_answering(
        self, session: str, conversation: Conversation, update: StateUpdate, *, now: float
    ) -> Note:
        """The note once a turn has answered in a session, and decided this."""
        return self.model_copy(
            update={
                "session": session,
                "intent": _name(update.intent or conversation.current_intent),
                "step": _name(update.step or conversation.current_step),
                "at": now,
            }
        )

    def answering(self, turn: str, waha_session: str | None, *, now: float) -> Note:
        """The note once a turn has words of the customer's."""
        changes: dict[str, object] = {"turn": turn, "turn_at": now}
        if waha_session is not None:
            changes["waha_session"] = "" if waha_session == UNNAMED else waha_session
        return self.model_copy(update=changes)

    def after_turn(self, *, is_own: bool) -> Note:
        """The note once a turn is over."""
        return self.model_copy(update={"own": self.own + 1 if is_own else 0})

    def has_heard(self, since: float, *, but: str | None) -> bool:
        """Whether a turn had words of the customer's after this store time, but for one turn."""
        return self.turn_at > since and self.turn != but

    def spending(self, usage: Usage, *, now: float) -> Note:
        """The note once models took this, at this store time."""
        if not usage:
            return self
        spent = added(self.spent_today(now=now), usage)
        kept = {name: (one["input_tokens"], one["output_tokens"]) for name, one in spent.items()}
        return self.model_copy(update={"day": _day(now), "spent": kept})

    def spent_today(self, *, now: float) -> Usage:
        """What models took since midnight in UTC."""
        if self.day != _day(now):
            return {}
        return {
            name: {"input_tokens": given, "output_tokens": said, "total_tokens": given + said}
            for name, (given, said) in self.spent.items()
        }

    def follows(self, session: str) -> bool:
        """Whether the last answer was given in another session than this one."""
        return self.session not in {"", session}


def _day(at: float) -> int:
    return int(at // 86400)


def _name(name: str | None) -> str | None:
    """A name as programs have them; what else a model calls a step may be the customer's words."""
    return name if name and len(name) <= LONGEST_NAME and is_name(name) else None
