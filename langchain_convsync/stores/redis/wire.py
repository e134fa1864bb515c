"""What travels between the store and its scripts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, TypeAlias

from langchain_convsync.stores.base import (
    MOST_COUNTED,
    SHARDS,
    Accepted,
    AccountKey,
    Acquired,
    Confirmed,
    ConversationView,
    Cursor,
    DeadLetter,
    KeptCall,
    Lease,
    Load,
    Operation,
    QueuedEvent,
    QueueName,
    QueueView,
    Restriction,
    Upcoming,
)
from langchain_convsync.stores.checks import acks_in, decoded, encoded, lines, shard_of

#: The scripts that operators need.
OPERATORS = frozenset(
    {"view", "dead_letters", "dead_letter_page", "requeue", "discard", "forget", "finished"}
)
#: The scripts that compare facts.
COMPARING = frozenset({"account", "accept", "find"})
#: The queues, as the scripts count them.
QUEUES: tuple[QueueName, ...] = ("inbox", "outbox", "replies")
Argument: TypeAlias = str | bytes | int


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the digest under which the server remembers it."""

    source: bytes
    sha: bytes


@cache
def script(name: str, *, prelude: bool = True) -> Script:
    """One operation's script, with what all operations share in front of it."""
    parts = ["_prelude", name] if prelude else [name]
    if name in OPERATORS:
        parts.insert(1, "_operators")
    if name in COMPARING:
        parts.insert(1, "_facts")
    texts = _texts()
    source = b"\n".join(texts[f"{part}.lua"] for part in parts)
    sha = hashlib.sha1(source, usedforsecurity=False).hexdigest()
    return Script(source, sha.encode())


@cache
def _texts() -> dict[str, bytes]:
    """All files with parts of scripts, read at once: later, no descriptor may be left for one."""
    files = (resources.files(__package__) / "lua").iterdir()
    return {file.name: file.read_bytes() for file in files if file.name.endswith(".lua")}


def sha_of(secret: bytes) -> bytes:
    """What scripts recognise a store's secret by."""
    return hashlib.sha1(secret, usedforsecurity=False).hexdigest().encode()


def root_of(namespace: str) -> bytes:
    """What all keys of a store begin with."""
    return b"cs:%s:" % namespace.encode() if namespace else b"cs:"


def shard_keys(root: bytes, key: str | None) -> list[bytes]:
    """What Redis' keys of the key's shard begin with, or of every shard without one.

    The braces are a Redis Cluster hash tag: all keys of a shard lie in one slot.
    """
    shards = range(SHARDS) if key is None else [shard_of(key)]
    return [b"%s{s%02d}:" % (root, shard) for shard in shards]


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
    """A confirmed part as the scripts read it; nothing where nothing is confirmed."""
    if done is None:
        return []
    return [done.operation_id, done.pos, done.last, optional(done.anchor)]


def placed(letter: DeadLetter) -> list[Argument]:
    """Where a dead letter lies."""
    return [letter.conversation_key, letter.queue, letter.id]


def as_cursor(answer: Any) -> Cursor | None:
    """The cursor in a script's answer."""
    if not answer:
        return None
    operation_id, pos, sent, tries, note, echoes = answer
    return Cursor(
        operation_id=decoded(operation_id),
        pos=int(pos),
        sent_at=None if sent is None else int(sent) / 1000,
        tries=int(tries),
        note=as_text(note),
        echoes=lines(as_text(echoes)),
    )


def as_acquired(answer: Any, queue: QueueName) -> Acquired | None:
    """The acquired queue in a script's answer."""
    if not answer:
        return None
    (
        conversation_key,
        token,
        epoch,
        until,
        now,
        turns,
        events,
        operations,
        cursor,
        anchor,
        snapshot,
        paused,
        tenant,
        note,
        restricted,
    ) = answer
    return Acquired(
        lease=Lease(
            conversation_key=decoded(conversation_key),
            queue=queue,
            token=decoded(token),
            epoch=int(epoch),
            until=int(until) / 1000,
        ),
        now=int(now) / 1000,
        events=tuple(_event(*event) for event in events),
        operations=_operations(operations),
        cursor=as_cursor(cursor),
        anchor=as_text(anchor),
        snapshot=as_text(snapshot),
        turns=int(turns or 0),
        paused=bool(paused),
        tenant=as_text(tenant),
        note=as_text(note),
        restriction=as_restriction(restricted) if restricted else None,
    )


def as_tool_call(answer: Any) -> KeptCall | None:
    """What is kept of a tool's call, in a script's answer."""
    if not answer:
        return None
    by, result = answer
    return KeptCall(by=decoded(by), result=as_text(result))


def as_account(answer: bytes) -> AccountKey:
    """An account key in a script's answer."""
    return AccountKey(decoded(answer))


def as_accounts(answer: Sequence[bytes]) -> dict[AccountKey, str]:
    """Accounts and what is known of them, in a script's answer."""
    return {
        as_account(key): decoded(facts)
        for key, facts in zip(answer[::2], answer[1::2], strict=True)
    }


def as_servers(answer: Sequence[bytes]) -> tuple[str, ...]:
    """The names of API servers in a script's answer."""
    return tuple(sorted(map(decoded, answer)))


def as_accepted(answer: Any) -> Accepted:
    """What became of an event, from the script's answer."""
    status, conversation_key, event_key, state, outcome, differs, due_in, acquired = answer
    return Accepted(
        status=status.decode(),
        conversation_key=decoded(conversation_key),
        event_key=decoded(event_key),
        state=None if state is None else state.decode(),
        outcome=as_text(outcome),
        differs=bool(differs),
        due_in=int(due_in) / 1000,
        acquired=as_acquired(acquired, "inbox"),
    )


def as_view(answer: Any) -> ConversationView:
    """A conversation in a script's answer."""
    conversation_key, now, turns, paused_until, events, running, note, restricted, *rest = answer
    acks, snapshot, *queues = rest
    inbox, outbox, replies = map(_queue, queues)
    return ConversationView(
        conversation_key=decoded(conversation_key),
        now=int(now) / 1000,
        turns=int(turns or 0),
        paused_until=_seconds(paused_until),
        events=tuple(_event(*event) for event in events),
        running=int(running),
        note=as_text(note),
        restriction=as_restriction(restricted) if restricted else None,
        acks=tuple(acks_in(as_text(acks))),
        snapshot=as_text(snapshot),
        inbox=inbox,
        outbox=outbox,
        replies=replies,
    )


def as_dead_letter(answer: Any) -> DeadLetter:
    """A dead letter in a script's answer."""
    since, conversation_key, queue, _place, item, body, reason, pos, sent, tries = answer
    return DeadLetter(
        conversation_key=decoded(conversation_key),
        queue=queue.decode(),
        id=decoded(item),
        body=decoded(body),
        reason=decoded(reason),
        since=int(since) / 1000,
        pos=int(pos or 0),
        sent_at=_seconds(sent or None),
        tries=int(tries or 0),
    )


def as_restriction(answer: Any) -> Restriction:
    """A restriction in a script's answer."""
    account, until, since, _by, kind, why = answer
    return Restriction(
        account=decoded(account),
        kind=decoded(kind),
        why=decoded(why),
        since=int(since) / 1000,
        until=int(until) / 1000,
    )


def as_load(answer: Any) -> Load:
    """What an account has to do, in a script's answer."""
    due_in, account, queue, conversations, held, queued_for = answer
    return Load(
        account=decoded(account),
        queue=queue.decode(),
        conversations=int(conversations),
        due_in=int(due_in) / 1000,
        held=bool(held),
        queued_for=_seconds(queued_for),
    )


def as_upcoming(answers: Sequence[Any]) -> Upcoming:
    """What is due in several shards, in a script's answers."""
    counts = zip(*(each[0] for each in answers), strict=True)
    sums = zip(QUEUES, map(sum, counts), strict=True)
    comes = [int(each[1]) for each in answers if each[1] >= 0]
    return Upcoming(
        due={queue: min(MOST_COUNTED, count) for queue, count in sums if count},
        next_in=min(comes) / 1000 if comes else None,
        free=tuple(decoded(name) for each in answers for name in each[2]),
    )


def _queue(answer: Any) -> QueueView:
    depth, due_in, until, held_since, why, since, cursor, operations, anchor = answer
    return QueueView(
        depth=int(depth),
        due_in=_seconds(due_in),
        held_until=_seconds(until),
        held_since=_seconds(held_since),
        why=as_text(why),
        since=_seconds(since),
        cursor=as_cursor(cursor),
        operations=_operations(operations),
        anchor=as_text(anchor),
    )


def _operations(answer: Any) -> tuple[Operation, ...]:
    return tuple(
        Operation(id=decoded(operation_id), body=decoded(body))
        for operation_id, body in zip(answer[::2], answer[1::2], strict=True)
    )


def _seconds(milliseconds: Any) -> float | None:
    return None if milliseconds is None else int(milliseconds) / 1000


def _event(*fields: bytes) -> QueuedEvent:
    event_key, payload, at, starts, errors, apart = fields
    return QueuedEvent(
        event_key=decoded(event_key),
        payload=decoded(payload),
        accepted_at=int(at) / 1000,
        starts=int(starts),
        errors=int(errors),
        apart=tuple(decoded(apart).split()),
    )


def as_text(data: bytes | None) -> str | None:
    """Optional text in a script's answer."""
    return None if data is None else decoded(data)
