"""Compares what was sent with what was kept: pure.

Each turn's reply names its conversation, its number, the reply that its agent saw last and the
events that it answers; each sync carries the reply of its turn. So what a conversation must hold
follows from what was said and what was returned, word for word.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.chaos.script import Talk

FINAL = {"answered", "merged", "duplicate"}

_REPLY = re.compile(r"(?P<subdomain>\S+) #(?P<number>\d+) after #(?P<previous>\d+): (?P<events>.*)")


def reply_to(subdomain: str, number: int, previous: int, events: Iterable[str]) -> str:
    """What the agent answers."""
    return f"{subdomain} #{number} after #{previous}: {' '.join(events)}"


def number_of(reply: str) -> int:
    """The number of the turn that a reply belongs to; 0 for what is no reply."""
    found = _REPLY.fullmatch(reply)
    return int(found["number"]) if found else 0


@dataclass(frozen=True, slots=True)
class Kept:
    """One write that the API server applied, or one reply that WAHA sent.

    Attributes:
        text: ``user …`` or ``bot …``; for a sync the reply of its turn.
    """

    session_id: str
    kind: Literal["message", "sync", "reply"]
    text: str


@dataclass(frozen=True, slots=True)
class Returned:
    """What a delivery was answered with."""

    session_id: str
    event_id: str
    status: str
    reply: str | None
    turn_id: str
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sent:
    """A reply that was sent to the customer."""

    turn_id: str
    reply: str


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the agent.

    Attributes:
        session_id: The conversation.
        start: When it began.
        end: When it ended, when its process was killed, or when that was so late to renew its
            leases that another one may have begun.
    """

    session_id: str
    start: float
    end: float


@dataclass(slots=True)
class Tally:
    """How one kind of thing fared."""

    kept: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    stale: int = 0
    foreign: int = 0

    @property
    def wrong(self) -> int:
        """Everything that should not be."""
        return self.lost + self.doubled + self.disordered + self.stale + self.foreign


@dataclass(slots=True)
class Verdict:
    """What came of a run.

    Attributes:
        replies: What calls returned.
        sends: What customers were sent.
        charges: What a tool did that acts once in a turn; what a killed process left is not lost,
            since nobody knows whether it acted.
        turns: Turns that were answered.
        unsent: Turns whose reply was not sent, where nothing was sent through WAHA: its process was
            killed between the commit and that. So whoever sends on ``on_reply`` or ``answered``
            sends at most once, not at least once.
        overlaps: Runs of an agent that began while another one was at the same conversation.
    """

    messages: Tally = field(default_factory=Tally)
    syncs: Tally = field(default_factory=Tally)
    replies: Tally = field(default_factory=Tally)
    sends: Tally = field(default_factory=Tally)
    charges: Tally = field(default_factory=Tally)
    turns: int = 0
    unsent: int = 0
    overlaps: int = 0


def judge(
    talks: Sequence[Talk],
    returned: Sequence[Returned],
    sent: Sequence[Sent],
    kept: Sequence[Kept],
    finals: Mapping[str, Mapping[str, Any]],
    runs: Sequence[Run] = (),
) -> Verdict:
    """The verdict.

    Args:
        talks: What was said.
        returned: Every answer to every delivery, in the order in which they came.
        sent: Every reply that a process sent by itself.
        kept: Every write that the API server applied, and every reply that WAHA sent, in order.
        finals: The context of each session in the end.
        runs: Every run of the agent.
    """
    verdict = Verdict(overlaps=overlaps(runs))
    through_waha = any(write.kind == "reply" for write in kept)
    home = {f"user {said.words}": talk.session_id for talk in talks for said in talk.said}
    home.update({f"bot {got.reply}": got.session_id for got in returned if got.reply})
    answers: dict[str, list[Returned]] = defaultdict(list)
    for answer in returned:
        answers[answer.session_id].append(answer)
    writes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for write in kept:
        writes[write.session_id, write.kind].append(write.text)
    for talk in talks:
        session, got = talk.session_id, answers[talk.session_id]
        messages, syncs = _as_said(talk, writes[session, "message"]), writes[session, "sync"]
        messages = _without_colleague(verdict.messages, talk, messages)
        expected, replies = _expected(talk, got)
        _tally(verdict.messages, expected, messages, [_strays(home, session, m) for m in messages])
        _tally(verdict.syncs, replies, syncs, [_strays(home, session, f"bot {s}") for s in syncs])
        _chain(verdict, replies, finals.get(session, {}))
        _returns(verdict.replies, talk, got)
        if through_waha:
            sends = writes[session, "reply"]
            strange = [_strays(home, session, f"bot {text}") for text in sends]
            _tally(verdict.sends, replies, sends, strange)
    if not through_waha:
        _sends(verdict, returned, sent)
    return verdict


def _as_said(talk: Talk, messages: Sequence[str]) -> list[str]:
    """The messages with the words that were edited as they were said at first."""
    first = {f"user {said.edited}": f"user {said.words}" for said in talk.said if said.edited}
    return [first.get(text, text) for text in messages]


def _without_colleague(tally: Tally, talk: Talk, messages: Sequence[str]) -> list[str]:
    """What is left without a human's words, each of which stands there once, wherever."""
    words = [f"bot {text}" for text in talk.colleague]
    found = Counter(text for text in messages if text in words)
    tally.kept += found.total()
    tally.lost += len(set(words) - set(found))
    tally.doubled += found.total() - len(found)
    return [text for text in messages if text not in words]


def _strays(home: Mapping[str, str], session: str, message: str) -> bool:
    """Whether a message belongs to another conversation; what everybody says belongs anywhere."""
    _, _, text = message.partition(" ")
    return " " in text and home.get(message, session) != session


def _expected(talk: Talk, got: Sequence[Returned]) -> tuple[list[str], list[str]]:
    """The messages and the replies that the conversation must hold, in order."""
    turn_of: dict[str, str] = {}
    reply_of: dict[str, str] = {}
    for answer in got:
        if answer.status in FINAL and answer.reply is not None:
            turn_of.setdefault(answer.event_id, answer.turn_id)
            reply_of.setdefault(answer.turn_id, answer.reply)
    ends = {turn_of.get(said.event_id): said.event_id for said in talk.said}
    messages, replies = [], []
    for said in talk.said:
        messages.append(f"user {said.words}")
        ended = turn_of.get(said.event_id)
        if ended is not None and ends[ended] == said.event_id:
            messages.append(f"bot {reply_of[ended]}")
            replies.append(reply_of[ended])
    return messages, replies


def _tally(tally: Tally, expected: list[str], kept: list[str], strays: list[bool]) -> None:
    tally.kept += len(kept)
    tally.foreign += sum(strays)
    own = [text for text, stray in zip(kept, strays, strict=True) if not stray]
    lost, doubled, disordered = compare(expected, own)
    tally.lost += lost
    tally.doubled += doubled
    tally.disordered += disordered


def compare(expected: Sequence[str], kept: Sequence[str]) -> tuple[int, int, int]:
    """How many are lost, doubled, and out of order; equal texts are told apart by counting."""
    wanted, found = Counter(expected), Counter(kept)
    places = {key: place for place, key in enumerate(_counted(expected))}
    order = [places[key] for key in _counted(kept) if key in places]
    return (
        (wanted - found).total(),
        (found - wanted).total(),
        len(order) - _longest_rise(order),
    )


def _counted(texts: Sequence[str]) -> list[tuple[str, int]]:
    """Each text with how often it was there before."""
    seen: Counter[str] = Counter()
    counted = []
    for text in texts:
        counted.append((text, seen[text]))
        seen[text] += 1
    return counted


def _longest_rise(numbers: Sequence[int]) -> int:
    tails: list[int] = []
    for number in numbers:
        place = bisect_left(tails, number)
        tails[place : place + 1] = [number]
    return len(tails)


def _chain(verdict: Verdict, replies: Sequence[str], final: Mapping[str, Any]) -> None:
    """Each turn must have seen the one before it: its reply in the history, its state."""
    verdict.turns += len(replies)
    for number, reply in enumerate(replies, start=1):
        found = _REPLY.fullmatch(reply)
        verdict.syncs.stale += found is None or int(found["number"]) != number
        verdict.messages.stale += found is None or int(found["previous"]) != number - 1
    last = replies[-1] if replies else None
    verdict.syncs.stale += final.get("reply") != last or final.get("language") != "es"


def _returns(tally: Tally, talk: Talk, got: Sequence[Returned]) -> None:
    """Every event got one reply, its own, and one call only was told to have answered it."""
    ids = {said.event_id for said in talk.said}
    final = [answer for answer in got if answer.status in FINAL]
    ended = {answer.event_id for answer in final if answer.reply}
    if talk.colleague:  # what was said meanwhile is recorded, and left to the human
        silent = [answer for answer in got if answer.reply is None]
        final = [answer for answer in final if answer.reply is not None]
        ended |= {answer.event_id for answer in silent}
    tally.lost += len(ids - ended)
    answered = Counter(answer.turn_id for answer in final if answer.status == "answered")
    tally.doubled += sum(count - 1 for count in answered.values())
    replies: dict[str, set[str | None]] = defaultdict(set)
    for answer in final:
        replies[answer.event_id].add(answer.reply)
        found = _REPLY.fullmatch(answer.reply or "")
        named = set(found["events"].split()) if found else set()
        strange = found is None or found["subdomain"] != talk.subdomain or not named <= ids
        tally.foreign += strange or not {*answer.events} <= ids | _of_colleague(talk, answer)
    tally.stale += sum(len(different) - 1 for different in replies.values())


def _of_colleague(talk: Talk, answer: Returned) -> set[str]:
    """Messages of the business's own that a turn recorded on the way."""
    return {each for each in answer.events if talk.colleague and each.startswith("true_")}


def _sends(verdict: Verdict, returned: Sequence[Returned], sent: Sequence[Sent]) -> None:
    """Each turn's reply was sent once, as it was recorded."""
    tally, times = verdict.sends, Counter(reply.turn_id for reply in sent)
    recorded = {answer.turn_id: answer.reply for answer in returned if answer.status in FINAL}
    tally.kept += len(sent)
    tally.doubled += sum(count - 1 for count in times.values())
    tally.stale += sum(recorded.get(reply.turn_id) != reply.reply for reply in sent)
    verdict.unsent += len(set(recorded) - set(times))


def overlaps(runs: Sequence[Run]) -> int:
    """How many runs began while another one was at the same conversation."""
    until: dict[str, float] = {}
    count = 0
    for run in sorted(runs, key=lambda run: run.start):
        count += run.start < until.get(run.session_id, 0.0)
        until[run.session_id] = max(run.end, until.get(run.session_id, 0.0))
    return count
