"""What both stores check before the first write, and their units."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from langchain_convsync._checked import LONGEST
from langchain_convsync._lines import cut, one_line
from langchain_convsync.errors import StoreFormatError
from langchain_convsync.stores.base import (
    DIGITS,
    FORMAT_VERSION,
    LONGEST_SNAPSHOT,
    LONGEST_WHY,
    AcceptRules,
    Ack,
    Commit,
    DeadLetter,
    Lease,
    NewEvent,
)

_KEY = re.compile(rf"[0-9]{{2}}\.[0-9a-f]{{12}}\.[0-9a-f]{{{DIGITS}}}")
#: As many things as one listing tells of at most.
_MOST = 1000


def account_of(key: str) -> str:
    """The part that all keys of one account share: its shard and its hash."""
    return _checked(key)[:15]


def shard_of(key: str) -> int:
    """The shard that everything of the key's account lies in."""
    return int(_checked(key)[:2])


#: Bytes of a store's secret.
SECRET_SIZE = 32


def check_meta(key: object, version: object, *, place: str) -> bytes:
    """A store's secret, as it is kept beside the format that the store is written in.

    Raises:
        StoreFormatError: They cannot be read, or the format is a newer one.
    """
    told = version.decode("ascii", "replace") if isinstance(version, bytes) else str(version)
    number = int(told) if told.isascii() and told.isdigit() and len(told) < 10 else 0
    if number > FORMAT_VERSION:
        message = (
            f"this store was written in format {number}, and this version reads up to "
            f"{FORMAT_VERSION}: upgrade langchain-convsync"
        )
        raise StoreFormatError(message, is_newer=True)
    if not isinstance(key, bytes) or len(key) != SECRET_SIZE or not number:
        message = (
            f"{place} cannot be read, and names all that this store holds: restore it from a "
            "backup, give the store a place of its own, or delete the store if it may be lost"
        )
        raise StoreFormatError(message)
    return key


def milliseconds(seconds: float) -> int:
    """A duration in the stores' unit."""
    if not 0 <= seconds <= LONGEST or math.isnan(seconds):
        message = f"{seconds} is not a duration in seconds from 0 to {LONGEST:.0f}"
        raise ValueError(message)
    return round(seconds * 1000)


class MillisecondRules(NamedTuple):
    """How events are accepted, in the stores' unit; see :class:`AcceptRules`."""

    lease: int
    debounce: int
    max_debounce: int
    max_queued: int
    account_concurrency: int


def in_milliseconds(rules: AcceptRules) -> MillisecondRules:
    """The rules in the stores' unit."""
    return MillisecondRules(
        milliseconds(rules.lease),
        milliseconds(rules.debounce),
        milliseconds(rules.max_debounce),
        rules.max_queued,
        rules.account_concurrency,
    )


def encoded(text: str) -> bytes:
    """Opaque text as bytes; lone surrogates survive."""
    return text.encode("utf-8", "surrogatepass")


def decoded(data: bytes) -> str:
    """The inverse of :func:`encoded`; of bytes that never were text, what can be read."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def is_key(text: bytes) -> bool:
    """Whether it is the key of an event or a conversation."""
    return _KEY.fullmatch(text.decode("ascii", "replace")) is not None


def check_event(event: NewEvent) -> None:
    """Raise ValueError unless the event's keys belong together."""
    check_names(event.event_key, event.conversation_key, *event.aliases)


def is_farther(known: int, level: int) -> bool:
    """Whether an ack tells more than is known: an error does while the message has not arrived."""
    return level > known or (level < 0 <= known < 2)


def acks_in(text: str | None) -> list[Ack]:
    """What a store keeps of acks, one a line; nothing of what cannot be read."""
    found = (line.split(" ") for line in lines(text))
    return [
        Ack(message_id=parts[0], level=int(parts[1]), at=int(parts[2]) / 1000)
        for parts in found
        if len(parts) == 3 and all(_WHOLE.fullmatch(part) for part in parts[1:])
    ]


_WHOLE = re.compile(r"-?[0-9]{1,15}")


def check_id(message_id: str) -> None:
    """Raise ValueError unless it is one word: no name of a message has a space."""
    if message_id.split() != [message_id]:
        message = "a message's id is one word without spaces"
        raise ValueError(message)


def check_word(word: str) -> str:
    """Raise ValueError unless it is a word of an identifier's letters."""
    if not (word.isascii() and word.isidentifier()):
        message = f"{word!r} is not a word"
        raise ValueError(message)
    return word


def check_names(*keys: str) -> None:
    """Raise ValueError unless the keys belong together."""
    if len({account_of(key) for key in keys}) > 1:
        message = "an event, its conversation and its aliases must belong to one account"
        raise ValueError(message)


def check_commit(lease: Lease, commit: Commit) -> None:
    """Raise ValueError where a commit contradicts itself, or its lease is for another queue."""
    if lease.queue != "inbox":
        message = "a turn is committed under a lease on the inbox"
        raise ValueError(message)
    snapshot_life(commit)
    milliseconds(commit.pause)
    if commit.held is not None:
        check_names(lease.conversation_key, commit.held.event_key)
        milliseconds(commit.held.seconds)
    if commit.kept:
        check_names(lease.conversation_key, *commit.kept)
        milliseconds(commit.kept_for)
    if not {*commit.event_keys}.isdisjoint(commit.kept):
        message = "a commit keeps none of the events that it answers"
        raise ValueError(message)
    if not commit.event_keys:
        message = "a commit answers at least one event"
        raise ValueError(message)
    if not set(commit.outcomes) <= set(commit.event_keys):
        message = "a commit stores outcomes of its own events only"
        raise ValueError(message)
    turn = f"{commit.event_keys[0]}/"
    for queue in (commit.operations, commit.replies):
        ids = Counter(operation.id for operation in queue)
        if any(
            count > 1 or not operation_id.startswith(turn) for operation_id, count in ids.items()
        ):
            message = "the operations of a commit need ids of their own: <turn id>/<index>"
            raise ValueError(message)


def snapshot_life(commit: Commit) -> int:
    """Milliseconds for which a commit's snapshot is kept; 0 where it has none."""
    lives = milliseconds(min(commit.snapshot_ttl, LONGEST_SNAPSHOT))  # a server may say: never
    return 0 if commit.snapshot is None else lives


def check_queue(lease: Lease) -> None:
    """Raise ValueError unless the lease is for a queue that delivers operations."""
    if lease.queue == "inbox":
        message = "operations are delivered under a lease on the write or the reply queue"
        raise ValueError(message)


def check_line(note: str) -> None:
    """Raise ValueError unless the note is one line."""
    if not note or "\n" in note:
        message = "an echo is noted in one line of text"
        raise ValueError(message)


def why_line(why: str | None) -> str | None:
    """Why a queue's work waits, as it is kept: one line of bounded length, or nothing."""
    return None if not why else cut(one_line(why), LONGEST_WHY)


def check_call(lease: Lease, event_keys: Sequence[str]) -> None:
    """Raise ValueError unless a turn may call a tool under the lease, for these events."""
    if lease.queue != "inbox":
        message = "a turn's tools are called under a lease on the inbox"
        raise ValueError(message)
    if not event_keys:
        message = "a turn has at least one event"
        raise ValueError(message)
    for key in event_keys:
        account_of(key)  # refuses a malformed key


def check_most(most: int) -> None:
    """Raise ValueError unless a listing may have so many entries."""
    if not 1 <= most <= _MOST:
        message = f"most={most}: ask for 1 to {_MOST}"
        raise ValueError(message)


def check_page(page: str, form: str) -> None:
    """Raise ValueError unless a page is the first one, or named as the store names its pages."""
    if page and not re.fullmatch(form, page):
        message = "not a page: pass the `next` of the page before"
        raise ValueError(message)


def call_key(letter: DeadLetter, call: str, token: str) -> str:
    """The key of the record by which a repeated call is recognised.

    Raises:
        ValueError: The token is empty, or the dead letter has no valid key.
    """
    if not token:
        message = "pass a token, new for every call: new_token()"
        raise ValueError(message)
    parts = (call, letter.conversation_key, letter.queue, letter.id, token)
    hashed = hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{account_of(letter.conversation_key)}.{hashed[:DIGITS]}"


def renewed_id(letter: DeadLetter, token: str) -> str:
    """The id under which something is queued again: no key or record of the old one is met.

    Raises:
        ValueError: As :func:`call_key`.
    """
    key = call_key(letter, "requeue", token)
    if letter.queue == "inbox":
        return key
    return f"{letter.id.partition('~')[0]}~{key[-32:]}"


def lines(text: str | None) -> tuple[str, ...]:
    """The notes in a text that holds one a line."""
    return tuple(line for line in (text or "").split("\n") if line)


def turn_of(operation_id: str) -> str:
    """What the ids of one turn's operations begin with."""
    return operation_id.rpartition("/")[0] + "/"


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        message = "not a key: make event and conversation keys with EventStore.keys()"
        raise ValueError(message)
    return key
