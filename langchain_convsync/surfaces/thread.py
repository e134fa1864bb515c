"""A conversation beside the thread of an agent that remembers by itself.

A checkpointer keeps what its agent read and said. Others speak in the conversation, too: a
colleague at the API server, another channel, the customer while a human had the conversation. Here
gets what of a conversation its thread does not hold, and where that belongs. Pure; what is kept
in checkpoints are plain values that name no customer.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage

from langchain_convsync._platform import unique
from langchain_convsync.models import ConversationMessage
from langchain_convsync.surfaces.bounds import LEFT_OUT, MOST_MESSAGES, recent
from langchain_convsync.surfaces.messages import by_timestamp, from_langchain, is_told, to_langchain

#: Messages at the end of the history that are remembered as seen.
SEEN = 50
#: Messages at the end of the history that are looked through for new ones, or more if more join.
RECENT = 200

_SAME_WORDS = re.compile(r"-\d{1,4}$")
_CUT = re.compile(rf"\[\d+ {LEFT_OUT}\]\n")

#: Words of others, and before which message of a thread they stand.
Placed: TypeAlias = tuple[int, ConversationMessage]


@dataclass(frozen=True, slots=True)
class Watermark:
    """How much of a conversation a thread holds.

    One message is no watermark: servers cut the history off, keep whole seconds or no times at all,
    and let a colleague's words land between two of ours. So it is the end of the history as it was
    read last, to be aligned with the next one, and what was said in the thread meanwhile.

    Attributes:
        seen: Fingerprints of the last messages when they were read; None before the first read.
        own: What was said in the thread and is not known to stand in the history yet.
    """

    seen: tuple[str, ...] | None = None
    own: tuple[str, ...] = ()

    @classmethod
    def of(cls, kept: Mapping[str, Any] | None) -> Watermark:
        """The watermark that a checkpoint brought back."""
        kept = kept or {}
        seen = kept.get("seen")
        return cls(None if seen is None else tuple(seen), tuple(kept.get("own", ())))

    def plain(self) -> dict[str, Any]:
        """The watermark as a checkpoint keeps it."""
        return {"seen": None if self.seen is None else list(self.seen), "own": list(self.own)}

    def after_saying(self, said: Iterable[ConversationMessage]) -> Watermark:
        """The watermark after these were said in the thread, and recorded or about to be."""
        own = (*self.own, *(_words(message) for message in said))
        return Watermark(self.seen, own[-SEEN:])

    def read(
        self, history: Sequence[ConversationMessage], most: int = MOST_MESSAGES
    ) -> tuple[list[ConversationMessage], Watermark]:
        """What a history holds and the thread does not, oldest first, and the watermark after it.

        What was said in the thread is recognised by its words, each once; one that has no time yet,
        where others have, is still on its way, and will be seen once more.

        Args:
            history: The history.
            most: How many of its messages would join the thread.
        """
        ordered = by_timestamp(history)
        if self.seen is not None:
            ordered = ordered[-max(RECENT, most + SEEN) :]
        fingerprints = [_fingerprint(message) for message in ordered]
        dated = any(message.timestamp for message in ordered)
        own, arrived = Counter(self.own), Counter[str]()
        others: list[ConversationMessage] = []
        for place in reversed(_new_places(self.seen, fingerprints)):
            message = ordered[place]
            words = _words(message)
            if own[words]:
                own[words] -= 1
                arrived[words] += bool(message.timestamp or not dated)
                continue
            others.append(message)
            if self.seen is None:  # before what was there already, nothing is the thread's
                own.clear()
        left = Counter(self.own) - arrived
        return others[::-1], Watermark(tuple(fingerprints[-SEEN:]), tuple(left.elements()))


def beside(history: Sequence[ConversationMessage], thread: Sequence[BaseMessage]) -> list[Placed]:
    """What a history holds and a thread does not, by their words alone.

    For threads without a watermark: those of agents in another graph, and replayed ones. What was
    left out when the history joined the thread does not come back.
    """
    ordered = by_timestamp(history)
    held, begin = [], 0
    for place, message in enumerate(thread):
        spoken = from_langchain(message)
        if spoken and (cut := _CUT.match(spoken.content)):
            spoken = spoken.model_copy(update={"content": spoken.content[cut.end() :]})
            begin = place + 1
        held.append(_words(spoken) if spoken else "")
    recorded = [_words(message) for message in ordered]
    found: list[Placed] = []
    at = 0
    for block in SequenceMatcher(None, recorded, held, autojunk=False).get_matching_blocks():
        found += [(block.b, message) for message in ordered[at : block.a]]
        at = block.a + block.size
    return [(place, message) for place, message in found if place >= begin]


def as_users(words: Iterable[str]) -> list[ConversationMessage]:
    """The customer's words as the API records them; it takes none that are empty."""
    return [ConversationMessage(role="user", content=text) for text in words if text]


def without_history(
    thread: Sequence[BaseMessage], history: Sequence[ConversationMessage]
) -> list[BaseMessage]:
    """A thread without the messages that joined it, or another, from this history."""
    told = {message.id for message in to_langchain(history)}
    return [message for message in thread if _SAME_WORDS.sub("", message.id or "") not in told]


def joined(
    thread: Sequence[BaseMessage], others: Iterable[Placed], *, most: int
) -> list[BaseMessage]:
    """A thread with the words of others in their places, the last so many of them."""
    places = [(place, each) for place, each in others if is_told(each)]
    kept = recent([message for _, message in places], most)
    taken = {message.id for message in thread}
    at: defaultdict[int, list[BaseMessage]] = defaultdict(list)
    for (place, each), message in zip(places[len(places) - len(kept) :], kept, strict=True):
        (told,) = to_langchain([message])
        own = told.id = to_langchain([each])[0].id  # whatever was cut off, or put before it
        for number in itertools.count(2):  # the same words at the same time, or without times
            if told.id not in taken:
                break
            told.id = f"{own}-{number}"  # see _SAME_WORDS
        taken.add(told.id)
        at[place].append(told)
    whole: list[BaseMessage] = []
    for number, held in enumerate(thread):
        whole += [*at[number], held]
    return whole + at[len(thread)]


def with_ids(thread: Sequence[BaseMessage]) -> list[BaseMessage]:
    """A thread whose messages all have ids: some graphs leave them out."""
    return [
        message if message.id else message.model_copy(update={"id": unique()}) for message in thread
    ]


def places_of(words: Sequence[BaseMessage], thread: Sequence[BaseMessage]) -> list[int | None]:
    """Where a thread holds these words of the customer's: by their ids, else as they read."""
    places: list[int | None] = [None] * len(words)
    ids = {message.id: place for place, message in enumerate(thread) if message.id}
    end = len(thread)
    for number in reversed(range(len(words))):
        word = words[number]
        place = ids.get(word.id) if word.id else None
        if place is None:
            same = (
                at
                for at in reversed(range(end))
                if thread[at].type == "human" and thread[at].content == word.content
            )
            place = next(same, None)
        if place is not None:
            places[number] = end = place
    return places


def last_words(thread: Sequence[BaseMessage]) -> list[BaseMessage]:
    """What the customer said since the last message of another role."""
    return list(itertools.takewhile(_is_said, reversed(thread)))[::-1]


def _is_said(message: BaseMessage) -> bool:
    # LangChain's summaries are human messages, too.
    return message.type == "human" and "lc_source" not in message.additional_kwargs


def _new_places(seen: Sequence[str] | None, fingerprints: Sequence[str]) -> list[int]:
    """The places of new messages: those after the first that was seen, and not seen themselves."""
    blocks = SequenceMatcher(None, seen or (), fingerprints, autojunk=False).get_matching_blocks()
    known = {block.b + offset for block in blocks for offset in range(block.size)}
    return [
        place for place in range(min(known, default=0), len(fingerprints)) if place not in known
    ]


def _fingerprint(message: ConversationMessage) -> str:
    timestamp = "" if message.timestamp is None else message.timestamp.isoformat()
    return f"{_words(message)} {timestamp}"


def _words(message: ConversationMessage) -> str:
    # Runners and servers trim what they record.
    content = message.content.strip().encode("utf-8", "surrogatepass")
    return f"{message.role} {hashlib.sha256(content).hexdigest()[:24]}"
