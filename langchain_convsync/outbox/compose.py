"""What is said and decided, as operations; and a conversation with an outbox on top."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from langchain_convsync.models import Conversation, ConversationMessage, StateUpdate
from langchain_convsync.outbox.plan import Anchor, Write, anchor_for, digest, overlay
from langchain_convsync.outbox.reply import PendingFile, PendingReply, sent_of
from langchain_convsync.reply import Reply
from langchain_convsync.stores.base import Acquired, Operation, QueueView


def writes_for(
    conversation: Conversation,
    messages: Iterable[ConversationMessage],
    update: StateUpdate,
    *,
    phone_number: str,
    turn: str,
    number: int,
    decided_at: float,
    base: Anchor | None,
    records: bool | None = False,
    follows: Sequence[str] = (),
) -> list[Write]:
    """The writes that record messages and a state update.

    Args:
        conversation: Where to, as it was read.
        messages: In order, without those that were seen to be recorded.
        update: Without a word about ``is_active`` the conversation stays as open as it was read.
        phone_number: See :class:`Write`, for this and what follows.
        turn: The turn's id.
        number: The turn's number.
        decided_at: Store time of the read.
        base: End of the history at that read.
        records: See :class:`Write`, too.
        follows: The same, of the last message: then it is a write of its own, behind the others.
    """
    common: dict[str, Any] = {
        "phone_number": phone_number,
        "session_id": conversation.session_id,
        "bot_id": conversation.bot_id,
        "subdomain": conversation.subdomain,
        "turn": turn,
        "number": number,
        "decided_at": decided_at,
    }
    writes: list[Write] = []
    ours, last = tuple(messages), tuple[ConversationMessage, ...]()
    if follows:
        ours, last = ours[:-1], ours[-1:]
    if ours:
        writes.append(Write(kind="append", messages=ours, base=base, records=records, **common))
    if update:
        active = conversation.is_active if update.is_active is None else update.is_active
        update = update.model_copy(update={"is_active": active})
        writes.append(Write(kind="sync_state", update=update, **common))
    if last:
        base = None if ours else base
        told = {**common, "base": base, "follows": tuple(follows)}
        writes.append(Write(kind="append", messages=last, **told))
    return writes


def words_of(said: Iterable[Reply]) -> list[str]:
    """What the history holds of each message that is sent, in order."""
    return [part for reply in said for part in (*reply.texts, reply.words) if part]


def without_dropped(acquired: Acquired, replies: QueueView) -> Acquired:
    """What was acquired, without messages that the customer will not get: a newer turn begins."""

    def known(operation: Operation) -> Operation:
        try:
            write = Write.stored(operation.body)
        except ValueError:
            return operation
        if not write.follows:
            return operation
        sent = sent_of(write.turn, len(write.follows), replies, so_far=True) or 0
        return replace(operation, body=write.as_far_as(sent).model_dump_json(exclude_defaults=True))

    return replace(acquired, operations=tuple(map(known, acquired.operations)))


def as_operations(writes: Sequence[Write]) -> list[Operation]:
    """Writes of one turn, as a store keeps them."""
    return [
        Operation(id=f"{write.turn}/{index}", body=write.model_dump_json(exclude_defaults=True))
        for index, write in enumerate(writes)
    ]


def replies_of(
    said: Sequence[Reply],
    *,
    turn: str,
    quoted: str | None = None,
    unless_newer: int | None = None,
    **common: Any,
) -> list[Operation]:
    """What a turn says, as a store keeps it until it is sent: one operation for each message.

    Args:
        said: What it says, in order.
        turn: The turn's id.
        quoted: WAHA's id of the message that is quoted, where a reply quotes.
        unless_newer: See :class:`PendingReply`, for all but the first message.
        common: See :class:`PendingReply`.
    """
    pending: list[PendingReply] = []
    for reply in said:
        parts: list[tuple[str, PendingFile | None]] = [(text, None) for text in reply.texts]
        if (file := PendingFile.of(reply)) is not None:
            parts.append(("" if file.voice else reply.caption, file))
        about = {**common, "turn": turn, "expires": reply.expires}
        pending += [
            PendingReply(
                **about,
                text=text,
                file=file,
                recorded=None if file is None else digest(reply.words),
                reply_to=None if n or not reply.quote else quoted,
            )
            for n, (text, file) in enumerate(parts)
        ]
    return [
        Operation(id=f"{turn}/{number}", body=each.model_dump_json(exclude_defaults=True))
        for number, each in enumerate(
            each.model_copy(update={"unless_newer": unless_newer}) if n else each
            for n, each in enumerate(pending)
        )
    ]


def overlaid(conversation: Conversation, acquired: Acquired) -> Conversation:
    """The conversation with the outbox on top, as it was acquired."""
    writes, pos = readable(acquired), begun(acquired)
    if not writes:
        return conversation
    anchor = anchor_for(writes[0], pos, acquired.anchor)
    return overlay(conversation, writes, pos=pos, anchor=anchor)


def readable(acquired: Acquired) -> list[Write]:
    """The outbox' writes, without those that become dead letters since they cannot be read."""
    writes: list[Write] = []
    dead: set[str] = set()
    for operation in acquired.operations:
        turn = operation.id.rpartition("/")[0]
        try:
            if turn not in dead:
                writes.append(Write.stored(operation.body))
        except ValueError:
            dead.add(turn)
    return writes


def begun(acquired: Acquired) -> int:
    """How many parts of the outbox' first write are confirmed."""
    cursor, operations = acquired.cursor, acquired.operations
    if cursor is None or not operations or cursor.operation_id != operations[0].id:
        return 0
    try:
        Write.stored(operations[0].body)
    except ValueError:  # the first one that can be read is another one
        return 0
    return cursor.pos
