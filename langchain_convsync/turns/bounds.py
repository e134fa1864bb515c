"""How much of what customers send one turn takes: the rest waits for the next one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TypeVar

from langchain_convsync import telemetry
from langchain_convsync._lines import cut
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores.base import Acquired

E = TypeVar("E", bound=InboundEvent)

#: Characters of one event that are kept: what WhatsApp takes as one message.
LONGEST_TEXT = 65_536
#: Events, and characters of them all, that one turn answers; a longer event is one alone.
MOST_EVENTS, MOST_CHARACTERS = 500, 100_000

#: What else of an event a model reads; of each, no more than a few thousand characters.
_PARTS = ("quoted", "choice", "referral", "location", "contacts")


def shortened(event: E) -> E:
    """The event with no more text than is kept; what is cut is told in its place, and counted."""
    if len(event.content) <= LONGEST_TEXT:
        return event
    telemetry.count("cuts", what="text")
    most = LONGEST_TEXT - len(event.model_copy(update={"text": "", "notes": ()}).content) - 1
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
        stored = json.loads(payload)
        beside = sum(len(str(stored[part])) for part in _PARTS if part in stored)
        return len(stored.get("text", "")) + sum(map(len, stored.get("notes", ()))) + beside
    except (ValueError, TypeError, AttributeError, RecursionError):
        return len(payload)  # it cannot be read, which others tell
