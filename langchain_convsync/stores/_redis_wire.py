"""What travels between the store and its scripts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, TypeAlias

from langchain_convsync.stores._checks import decoded, encoded, lines, shard_of
from langchain_convsync.stores.base import (
    SHARDS,
    Accepted,
    Confirmed,
    ConversationView,
    Cursor,
    Lane,
    LaneView,
    Lease,
    Load,
    Op,
    QueuedEvent,
    SetAside,
    Taken,
)

META = b"cs:meta"
#: The scripts that operators need.
OPERATORS = frozenset({"view", "aside", "requeue", "discard", "forget", "finished"})
Argument: TypeAlias = str | bytes | int


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the digest under which the server remembers it."""

    source: bytes
    sha: bytes


@cache
def script(name: str, *, prelude: bool = True) -> Script:
    """One operation's script, with what all operations share in front of it."""
    folder = resources.files(__package__) / "lua"
    parts = ["_prelude", name] if prelude else [name]
    if name in OPERATORS:
        parts.insert(1, "_operators")
    source = b"\n".join((folder / f"{part}.lua").read_bytes() for part in parts)
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()
    return Script(source, sha.encode())


def shard_keys(handle: str | None) -> list[bytes]:
    """What the keys of the handle's shard begin with, or of every shard without one.

    The braces are a Redis Cluster hash tag: all keys of a shard lie in one slot.
    """
    shards = range(SHARDS) if handle is None else [shard_of(handle)]
    return [b"cs:{s%02d}:" % shard for shard in shards]


def to_bytes(arguments: Sequence[Argument]) -> list[bytes]:
    """Script arguments as the server receives them."""
    return [
        each
        if isinstance(each, bytes)
        else (encoded(each) if isinstance(each, str) else b"%d" % each)
        for each in arguments
    ]


def optional(text: str | None) -> bytes:
    """An optional text: empty, or the text after an equals sign."""
    return b"" if text is None else b"=" + encoded(text)


def confirmed(done: Confirmed | None) -> list[Argument]:
    """A confirmed part as the scripts take it: no operation stands for none."""
    if done is None:
        return []
    return [done.op_id, done.pos, done.last, optional(done.anchor)]


def as_cursor(answer: Any) -> Cursor | None:
    """The cursor in a script's answer."""
    if not answer:
        return None
    op_id, pos, sent, tries, note, heard = answer
    return Cursor(
        op_id=decoded(op_id),
        pos=int(pos),
        sent_at=None if sent is None else int(sent) / 1000,
        tries=int(tries),
        note=as_text(note),
        heard=lines(as_text(heard)),
    )


def as_taken(answer: Any, lane: Lane) -> Taken | None:
    """The taken lane in a script's answer."""
    if not answer:
        return None
    cid, token, epoch, until, now, turns, events, ops, cursor, anchor, snapshot, paused = answer
    return Taken(
        lease=Lease(
            cid=decoded(cid),
            lane=lane,
            token=decoded(token),
            epoch=int(epoch),
            until=int(until) / 1000,
        ),
        now=int(now) / 1000,
        events=tuple(_event(*event) for event in events),
        ops=_ops(ops),
        cursor=as_cursor(cursor),
        anchor=as_text(anchor),
        snapshot=as_text(snapshot),
        turns=int(turns or 0),
        paused=bool(paused),
    )


def as_accepted(answer: Any) -> Accepted:
    """What became of an event, from the script's answer."""
    status, cid, state, outcome, differs, due_in, taken = answer
    return Accepted(
        status=status.decode(),
        cid=decoded(cid),
        state=None if state is None else state.decode(),
        outcome=as_text(outcome),
        differs=bool(differs),
        due_in=int(due_in) / 1000,
        taken=as_taken(taken, "turn"),
    )


def as_view(answer: Any) -> ConversationView:
    """A conversation in a script's answer."""
    cid, now, turns, paused_until, events, turn, write, say = answer
    return ConversationView(
        cid=decoded(cid),
        now=int(now) / 1000,
        turns=int(turns or 0),
        paused_until=_seconds(paused_until),
        events=tuple(_event(*event) for event in events),
        turn=_lane(turn),
        write=_lane(write),
        say=_lane(say),
    )


def as_set_aside(answer: Any) -> SetAside:
    """What was set aside, in a script's answer."""
    since, cid, lane, _place, item, body, reason, pos, sent, tries = answer
    return SetAside(
        cid=decoded(cid),
        lane=lane.decode(),
        id=decoded(item),
        body=decoded(body),
        reason=decoded(reason),
        since=int(since) / 1000,
        pos=int(pos or 0),
        sent_at=_seconds(sent or None),
        tries=int(tries or 0),
    )


def as_load(answer: Any) -> Load:
    """What an account has to do, in a script's answer."""
    due_in, account, lane, conversations = answer
    return Load(
        account=decoded(account),
        lane=lane.decode(),
        conversations=int(conversations),
        due_in=int(due_in) / 1000,
    )


def _lane(answer: Any) -> LaneView:
    depth, due_in, until, cursor, ops, anchor = answer
    return LaneView(
        depth=int(depth),
        due_in=_seconds(due_in),
        held_until=_seconds(until),
        cursor=as_cursor(cursor),
        ops=_ops(ops),
        anchor=as_text(anchor),
    )


def _ops(answer: Any) -> tuple[Op, ...]:
    return tuple(
        Op(id=decoded(op_id), body=decoded(body))
        for op_id, body in zip(answer[::2], answer[1::2], strict=True)
    )


def _seconds(milliseconds: Any) -> float | None:
    return None if milliseconds is None else int(milliseconds) / 1000


def _event(eid: bytes, payload: bytes, at: bytes, starts: bytes, errors: bytes) -> QueuedEvent:
    return QueuedEvent(
        eid=decoded(eid),
        payload=decoded(payload),
        accepted_at=int(at) / 1000,
        starts=int(starts),
        errors=int(errors),
    )


def as_text(data: bytes | None) -> str | None:
    """Optional text in a script's answer."""
    return None if data is None else decoded(data)
