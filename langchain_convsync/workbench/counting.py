"""What was lost, and what was doubled: counted from outside, by nobody's word but the customer's.

A customer's message counts as lost once nothing of the conversation waits and the API server's
history does not hold it; as doubled where the history holds it more often than it was written. A
word of the bot's counts as doubled where the customer read it more often than it was recorded, as
lost where it was recorded and never arrived. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

#: A role, ``user`` or ``bot``, and words.
Said: TypeAlias = tuple[str, str]


@dataclass(slots=True)
class Ledger:
    """One customer's side of the story.

    Attributes:
        written: What they wrote, by message: all words it may have been recorded with, the last
            ones first.
        revoked: The messages that they took back: these may stand in the history or not.
        read: What they read from the bot.
        colleague: What a human wrote to them.
        over: The history of sessions that have ended: pairs of role and words.
        given_up: What an operator has discarded, likewise.
    """

    written: dict[str, list[str]] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    read: list[str] = field(default_factory=list)
    colleague: list[str] = field(default_factory=list)
    over: list[Said] = field(default_factory=list)
    given_up: list[Said] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many messages of both sides."""
        return len(self.written) + len(self.read)


@dataclass(frozen=True, slots=True)
class Tally:
    """Numbers of messages of both sides."""

    sent: int = 0
    lost: int = 0
    doubled: int = 0


def tally(
    ledger: Ledger, history: Iterable[Said], *, settled: bool, dead: Iterable[Said] = ()
) -> Tally:
    """Count.

    Args:
        ledger: The customer's side.
        history: The API server's, of the session that is open.
        settled: Whether nothing of the conversation waits or is on its way.
        dead: What dead letters hold: it is kept for a human, so it is not lost.
    """
    told, kept = [*ledger.over, *history], [*ledger.given_up, *dead]
    heard = Counter(_of("user", told))
    waiting = Counter(_of("user", kept))
    lost = 0
    # Who may have several words, or none, takes none from those who have just these.
    written = sorted(
        ledger.written.items(), key=lambda one: (one[0] in ledger.revoked, len(one[1]))
    )
    for message_id, choices in written:
        meant = [bare(each) for each in choices]
        found = next(((c, each) for c in (heard, waiting) for each in meant if c[each] > 0), None)
        if found is not None:
            found[0][found[1]] -= 1
        elif message_id not in ledger.revoked:
            lost += 1
    sent, doubled = ledger.size, sum(heard.values())
    if not settled:
        return Tally(sent, 0, doubled)
    read, colleague = map(bare, ledger.read), map(bare, ledger.colleague)
    missing, left = _matched(_of("bot", told), read, [*colleague, *_of("bot", kept)])
    _, surplus = _matched(_of("bot", kept), left, ())
    return Tally(sent, lost + missing, doubled + len(surplus))


def _of(role: str, told: Iterable[Said]) -> list[str]:
    return [bare(words) for speaker, words in told if speaker == role]


def _matched(
    said: Iterable[str], read: Iterable[str], others: Iterable[str]
) -> tuple[int, list[str]]:
    """How many recorded answers were not read, and the pieces that were read and not recorded."""
    left, known, missing = [*read], [*others], 0
    for words in said:
        if (place := _place(words, left)) is not None:
            del left[place]
        elif words in known:
            known.remove(words)
        else:
            missing += 1
    return missing, left


def _place(words: str, pieces: Sequence[str]) -> slice | None:
    """Where neighbouring pieces are these words together: an answer may come in bubbles."""
    for start, first in enumerate(pieces):
        joined, end = first, start + 1
        while joined != words and words.startswith(joined) and end < len(pieces):
            joined, end = joined + pieces[end], end + 1
        if joined == words:
            return slice(start, end)
    return None


def bare(words: str) -> str:
    """Letters and digits: marks of Markdown and spaces, a phone shows another way."""
    return "".join(each for each in words if each.isalnum()) or words.strip()
