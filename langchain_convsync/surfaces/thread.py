"""A conversation beside the thread of an agent that remembers by itself.

A checkpointer keeps what its agent read and said. Others speak in the conversation, too: a
colleague at the API server, another channel, the customer while a human had the conversation. Here
gets what of a conversation its thread does not hold, and where that belongs. Pure; what is kept
in checkpoints are plain values that name no customer.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage

from langchain_convsync import telemetry
from langchain_convsync.models import ConversationMessage
from langchain_convsync.surfaces.bounds import MOST_CHARACTERS, MOST_MESSAGES
from langchain_convsync.surfaces.messages import by_timestamp, to_langchain

#: Messages at the end of the history that are remembered as seen.
SEEN = 50
#: Messages at the end of the history that are looked through for new ones.
RECENT = 200

#: Words of others as a checkpoint keeps them, with the ids of the messages that they stand between.
Interjection: TypeAlias = dict[str, Any]


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
        self, history: Sequence[ConversationMessage]
    ) -> tuple[list[ConversationMessage], Watermark]:
        """What a history holds and the thread does not, oldest first, and the watermark after it.

        What was said in the thread is recognised by its words, each once; one that has no time yet,
        where others have, is still on its way, and will be seen once more.
        """
        ordered = by_timestamp(history)
        if self.seen is not None:
            ordered = ordered[-RECENT:]
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


def interjection(
    others: Iterable[ConversationMessage],
    thread: Sequence[BaseMessage],
    *,
    held: Collection[str | None],
) -> Interjection:
    """Words of others, to stand between what a thread held and what came now.

    Args:
        others: What they said; fields that the API document does not know are left behind.
        thread: The messages of the thread.
        held: Ids of those that it held already.
    """
    known = {"role", "content", "timestamp"}
    entries = [message.model_dump(mode="json", include=known) for message in others]
    ids = ids_of(thread)
    new = (place for place, key in enumerate(ids) if key not in held)
    place = next(new, len(ids) - len(last_words(thread)))  # none is new: a run is tried again
    return {
        "after": ids[place - 1] if place else None,
        "before": ids[place] if place < len(ids) else None,
        "messages": entries,
    }


def latest(interjections: Sequence[Interjection]) -> list[Interjection]:
    """The last of them, as many as one prompt holds; the oldest would be condensed by now."""
    kept: list[Interjection] = []
    messages = characters = 0
    for each in reversed(interjections):
        messages += len(each["messages"])
        characters += sum(len(message["content"]) for message in each["messages"])
        if kept and (messages > MOST_MESSAGES or characters > MOST_CHARACTERS):
            telemetry.count("cuts", what="history")
            break
        kept.insert(0, each)
    return kept


def interleaved(
    thread: Sequence[BaseMessage], interjections: Iterable[Interjection]
) -> list[BaseMessage]:
    """A thread with the words of others in their places.

    Where both neighbours are gone, because the thread was condensed, they stand at its beginning:
    they are not part of its summary.
    """
    ids = ids_of(thread)
    places: defaultdict[int, list[BaseMessage]] = defaultdict(list)
    for each in interjections:
        said = [ConversationMessage.model_validate(entry) for entry in each["messages"]]
        places[_place(each, ids)].extend(to_langchain(said))
    whole = []
    for place, message in enumerate(thread):
        whole += [*places[place], message]
    return whole + places[len(thread)]


def ids_of(messages: Iterable[BaseMessage]) -> list[str | None]:
    """The ids of messages."""
    return [message.id for message in messages]


def last_words(thread: Sequence[BaseMessage]) -> list[BaseMessage]:
    """What the customer said since the last message of another role."""
    return list(itertools.takewhile(_is_said, reversed(thread)))[::-1]


def _is_said(message: BaseMessage) -> bool:
    # LangChain's summaries are human messages, too.
    return message.type == "human" and "lc_source" not in message.additional_kwargs


def _place(each: Interjection, ids: Sequence[str | None]) -> int:
    if each["before"] in ids:
        return ids.index(each["before"])
    return ids.index(each["after"]) + 1 if each["after"] in ids else 0


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
