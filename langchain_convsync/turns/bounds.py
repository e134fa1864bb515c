"""How much of what customers send one turn takes, and how many turns a minute: pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar
from unicodedata import east_asian_width

from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json

from langchain_convsync import telemetry
from langchain_convsync._lines import cut
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores.base import Acquired

E = TypeVar("E", bound=InboundEvent)

#: Characters of one event that are kept: what WhatsApp takes as one message.
LONGEST_TEXT = 65_536
#: Events, and characters of them all, that one turn answers; a longer event is one alone.
MOST_EVENTS, MOST_CHARACTERS = 500, 100_000
#: Seconds for which a conversation is silent that went too fast: the first time, and at most.
FIRST_SILENCE, LONGEST_SILENCE = 60.0, 24 * 3600.0
#: Seconds after which the same words are no repetition any more.
REPEATED_WITHIN = 600.0
#: Seconds without a silence after which the next one is the first again.
CALM = 3600.0
#: Columns from which on words are hardly said twice by chance: "sí" and "más" often are.
TELLING = 24

#: What else of an event a model reads; of each, no more than a few thousand characters.
_PARTS = ("quoted", "choice", "referral", "location", "contacts")


def shortened(event: E) -> E:
    """The event with no more text than is kept; what is cut is told in its place, and counted."""
    if len(event.content) <= LONGEST_TEXT:
        return event
    telemetry.count("cuts", what="text")
    beside = len(event.model_copy(update={"text": "", "notes": ()}).content)
    most = LONGEST_TEXT - (beside and beside + 1)
    text = cut(event.text, most)
    room, notes = most - len(text), []
    for note in event.notes:
        if room <= 0:
            break
        notes.append(cut(note, max(room - 1, 1)))
        room -= len(notes[-1]) + 1
    return event.model_copy(update={"text": text, "notes": tuple(notes)})


def head_of(acquired: Acquired) -> Acquired:
    """What was acquired, with as many events as one turn takes: a prefix of the inbox."""
    taken, characters = 0, 0
    for event in acquired.events[:MOST_EVENTS]:
        characters += _characters(event.payload)
        if taken and characters > MOST_CHARACTERS:
            break
        taken += 1
    if taken == len(acquired.events):
        return acquired
    return replace(acquired, events=acquired.events[:taken])


def _characters(payload: str) -> int:
    if len(payload) < 500:  # most are, and need no parsing
        return len(payload)
    try:
        stored = from_json(payload)
        beside = sum(len(str(stored[part])) for part in _PARTS if part in stored)
        return len(stored.get("text", "")) + sum(map(len, stored.get("notes", ()))) + beside
    except (ValueError, TypeError, AttributeError):
        return len(payload)  # it cannot be read, which others tell


def is_telling(text: str) -> bool:
    """Whether a text is so long that the same one again is likely a machine's."""
    return sum(2 if east_asian_width(each) in "WF" else 1 for each in text[:TELLING]) >= TELLING


class Pace(BaseModel):
    """How fast a conversation goes: so many turns, and again as many with each minute.

    Two machines that answer each other end here. A turn that answers the same words as those
    before it weighs as many turns as have answered them.

    Attributes:
        left: Turns that it may take now; None for those of a whole minute.
        at: Store time at which that was so.
        words: Keyed hash of what its last turn answered; empty where that was too short to tell.
        same: How many turns in a row have answered that.
        silences: How many silences followed each other.
        until: Store time at which the last of them ends.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    left: float | None = None
    at: float = 0.0
    words: str = ""
    same: int = 0
    silences: int = 0
    until: float = 0.0

    def after_turn(self, words: str, *, now: float, most: int) -> tuple[Pace, float]:
        """The pace after one more turn, and 0.0; or seconds of silence, instead of that turn.

        Args:
            words: Keyed hash of what the turn answers; empty where that is too short to tell.
            now: Store time.
            most: Turns of a minute.
        """
        calm = max(0.0, now - self.at)
        is_same = bool(words) and words == self.words and calm < REPEATED_WITHIN
        same = self.same + 1 if is_same else 1
        left = min(most, (most if self.left is None else self.left) + calm * most / 60) - same
        if left >= 0:
            return self.model_copy(
                update={"left": round(left, 3), "at": now, "words": words, "same": same}
            ), 0.0
        silences = self.silences + 1 if now < self.until + CALM else 1
        seconds = min(LONGEST_SILENCE, FIRST_SILENCE * 2.0 ** min(silences - 1, 20))
        until = now + seconds
        return Pace(at=until, silences=silences, until=until), seconds
