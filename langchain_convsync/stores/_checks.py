"""What both stores check before the first write, and their units."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter

from langchain_convsync.stores.base import Commit, Lease, NewEvent, SetAside

_HANDLE = re.compile(r"[0-9]{2}\.[0-9a-f]{12}\.[0-9a-f]{32}")
#: Beyond this, milliseconds since 1970 would leave the integers that a double holds exactly.
_LONGEST = 1e9
#: As many things as one listing tells of at most.
_MOST = 1000


def account_of(handle: str) -> str:
    """The part that all handles of one account share: its shard and its hash."""
    return _checked(handle)[:15]


def shard_of(handle: str) -> int:
    """The shard that everything of the handle's account lies in."""
    return int(_checked(handle)[:2])


def milliseconds(seconds: float) -> int:
    """A duration in the stores' unit."""
    if not 0 <= seconds <= _LONGEST or math.isnan(seconds):
        message = f"{seconds} is no duration in seconds from 0 to {_LONGEST:.0f}"
        raise ValueError(message)
    return round(seconds * 1000)


def encoded(text: str) -> bytes:
    """Opaque text as bytes; lone surrogates survive."""
    return text.encode("utf-8", "surrogatepass")


def decoded(data: bytes) -> str:
    """The inverse of :func:`encoded`."""
    return data.decode("utf-8", "surrogatepass")


def check_event(event: NewEvent) -> None:
    """Raise ValueError unless the event's handles belong together."""
    check_names(event.eid, event.cid, *([event.alias] if event.alias is not None else []))


def check_names(*handles: str) -> None:
    """Raise ValueError unless the handles belong together."""
    if len({account_of(handle) for handle in handles}) > 1:
        message = "an event, its conversation and its alias must belong to one account"
        raise ValueError(message)


def check_commit(lease: Lease, commit: Commit) -> None:
    """Raise ValueError where a commit contradicts itself, or its lease is for another lane."""
    if lease.lane != "turn":
        message = "a turn is committed under a lease on the turn lane"
        raise ValueError(message)
    milliseconds(commit.snapshot_ttl)
    if not commit.eids:
        message = "a commit answers at least one event"
        raise ValueError(message)
    if not set(commit.outcomes) <= set(commit.eids):
        message = "a commit stores outcomes of its own events only"
        raise ValueError(message)
    turn = f"{commit.eids[0]}/"
    for queue in (commit.ops, commit.says):
        ids = Counter(op.id for op in queue)
        if any(count > 1 or not op_id.startswith(turn) for op_id, count in ids.items()):
            message = "the operations of a commit need ids of their own: <turn id>/<index>"
            raise ValueError(message)


def check_queue(lease: Lease) -> None:
    """Raise ValueError unless the lease is for a lane that delivers operations."""
    if lease.lane == "turn":
        message = "operations are delivered under a lease on the write or the say lane"
        raise ValueError(message)


def check_line(note: str) -> None:
    """Raise ValueError unless the note is one line."""
    if not note or "\n" in note:
        message = "what was heard is one line of text"
        raise ValueError(message)


def check_most(most: int) -> None:
    """Raise ValueError unless a listing may have so many entries."""
    if not 1 <= most <= _MOST:
        message = f"most={most}: ask for 1 to {_MOST}"
        raise ValueError(message)


def call_handle(aside: SetAside, call: str, token: str) -> str:
    """The handle of the record by which a repeated call is recognised.

    Raises:
        ValueError: The token is empty, or what was set aside has no handle.
    """
    if not token:
        message = "pass a token, new for every call: new_token()"
        raise ValueError(message)
    parts = (call, aside.cid, aside.lane, aside.id, token)
    hashed = hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{account_of(aside.cid)}.{hashed[:32]}"


def renewed_id(aside: SetAside, token: str) -> str:
    """The id under which something is queued again: no key or record of the old one is met.

    Raises:
        ValueError: As :func:`call_handle`.
    """
    handle = call_handle(aside, "requeue", token)
    if aside.lane == "turn":
        return handle
    return f"{aside.id.partition('~')[0]}~{handle[-32:]}"


def lines(text: str | None) -> tuple[str, ...]:
    """The notes in a text that holds one a line."""
    return tuple(line for line in (text or "").split("\n") if line)


def turn_of(op_id: str) -> str:
    """What the ids of one turn's operations begin with."""
    return op_id.rpartition("/")[0] + "/"


def _checked(handle: str) -> str:
    if not _HANDLE.fullmatch(handle):
        message = "not a handle: make event and conversation ids with EventStore.handles()"
        raise ValueError(message)
    return handle
