"""A conversation in SQLite: its three queues, their leases, its aliases, and its pause.

Most are the functions that the Redis scripts share in ``lua/_prelude.lua``, under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from langchain_convsync.stores.base import (
    Acquired,
    Cursor,
    Lease,
    Operation,
    QueuedEvent,
    QueueName,
)
from langchain_convsync.stores.checks import account_of, decoded, encoded, lines
from langchain_convsync.stores.sqlite.sending import (
    held_until,
    is_capped,
    on_trial,
    restriction,
    try_out,
)
from langchain_convsync.stores.sqlite.transaction import QueueRow, Transaction

QUEUES: tuple[QueueName, ...] = ("inbox", "outbox", "replies")


def due_in(tx: Transaction, conversation: str, queue: QueueName) -> float | None:
    """Seconds until a queue can be acquired; None without work."""
    row = tx.queue(conversation, queue)
    if row.due is None:
        return None
    return max(0, max(row.due, held_until(tx, row)) - tx.now) / 1000


def revive(tx: Transaction, conversation: str, *, debounce: int = 0, max_debounce: int = 0) -> None:
    """To be called before work is added: a conversation that has some does not expire.

    A new one, or one that was idle for long, begins with these windows.
    """
    talk = tx.one("SELECT expires FROM conversations WHERE conversation = ?", conversation)
    if talk is not None and talk["expires"] is None:
        return
    if talk is not None and talk["expires"] > tx.now:
        tx.do("UPDATE conversations SET expires = NULL WHERE conversation = ?", conversation)
        return
    tx.do("DELETE FROM conversations WHERE conversation = ?", conversation)  # and its queues
    begin = "INSERT INTO conversations (conversation, debounce, max_debounce) VALUES (?, ?, ?)"
    tx.do(begin, conversation, debounce, max_debounce)
    tx.do(
        "INSERT INTO queues (conversation, account, queue)"
        " VALUES (?, ?, 'inbox'), (?, ?, 'outbox'), (?, ?, 'replies')",
        *((conversation, account_of(conversation)) * 3),
    )


def expire_if_idle(tx: Transaction, conversation: str) -> None:
    """To be called when the last of a queue was removed: only an idle conversation expires."""
    tx.do(
        "UPDATE conversations SET expires = ? WHERE conversation = ?"
        " AND NOT EXISTS (SELECT 1 FROM events WHERE conversation = ? AND state = 'queued')"
        " AND NOT EXISTS (SELECT 1 FROM operations WHERE conversation = ?)",
        *(tx.now + tx.retention, conversation, conversation, conversation),
    )


def is_held(row: QueueRow, lease: Lease) -> bool:
    """Whether no other lease followed, and the queue was not given back."""
    return row.until is not None and (row.token, row.epoch) == (lease.token, lease.epoch)


def is_full(tx: Transaction, account: str, queue: QueueName, account_concurrency: int) -> bool:
    """Whether so many turns of the account run already, 0 stands for any number; or it sends none.

    One that is capped sends some. To be asked before the operation begins or ends one, which the
    file does not know yet.
    """
    if queue == "replies":
        found = restriction(tx, account)
        return found is not None and tx.now < found["until"] and not is_capped(tx, account)
    if queue != "inbox" or not account_concurrency:
        return False
    return running(tx, account) >= account_concurrency


def running(tx: Transaction, account: str) -> int:
    """How many turns of an account run now."""
    query = "SELECT count(*) FROM queues WHERE queue = 'inbox' AND account = ? AND until > ?"
    found: int = tx.one(query, account, tx.now)[0]
    return found


def acquire(
    tx: Transaction,
    conversation: str,
    queue: QueueName,
    token: str,
    length: int,
    *,
    account_concurrency: int,
) -> Acquired | None:
    """Lease the queue if it is due, or again to the token that holds it."""
    row, account = tx.queue(conversation, queue), account_of(conversation)
    if row.token == token and row.until is not None:
        return acquired(tx, conversation, queue)
    if row.due is None or max(row.due, held_until(tx, row)) > tx.now:
        return None
    if is_full(tx, account, queue, account_concurrency):
        return None
    row.epoch, row.token, row.until, row.since = row.epoch + 1, token, tx.now + length, tx.now
    try_out(tx, row, token, length)
    if queue == "inbox":
        row.pos, row.not_before = None, 0
        tx.do("UPDATE events SET starts = starts + 1 WHERE event_key = ?", row.head)
    tx.serve(account, queue)
    return acquired(tx, conversation, queue)


def acquired(tx: Transaction, conversation: str, queue: QueueName) -> Acquired:
    """A leased queue with everything needed to work on it."""
    work: QueueName = "outbox" if queue == "inbox" else queue
    row, sending = tx.queue(conversation, queue), tx.queue(conversation, work)
    talk = tx.one(
        "SELECT turns, tenant, noted,"
        " iif(? = 'inbox' AND snapshot_until > ?, snapshot, NULL) AS snapshot"
        " FROM conversations WHERE conversation = ?",
        *(queue, tx.now, conversation),
    )
    query = "SELECT id, body FROM operations WHERE conversation = ? AND queue = ? ORDER BY seq"
    return Acquired(
        lease=Lease(
            conversation_key=conversation,
            queue=queue,
            token=row.token or "",
            epoch=row.epoch,
            until=(row.until or 0) / 1000,
        ),
        now=tx.now / 1000,
        events=inbox(tx, conversation) if queue == "inbox" else (),
        operations=as_operations(tx.all(query, conversation, work)),
        cursor=as_cursor(sending),
        anchor=text(sending.anchor),
        snapshot=text(talk["snapshot"]),
        turns=talk["turns"],
        paused=queue == "inbox" and is_paused(tx, conversation),
        tenant=text(talk["tenant"]),
        note=text(talk["noted"]) if queue == "inbox" else None,
        restriction=on_trial(tx, row),
    )


def inbox(tx: Transaction, conversation: str) -> tuple[QueuedEvent, ...]:
    """The events that no turn has answered yet."""
    rows = tx.all(
        "SELECT * FROM events WHERE conversation = ? AND state = 'queued' ORDER BY seq",
        conversation,
    )
    return tuple(
        QueuedEvent(
            event_key=row["event_key"],
            payload=text(row["payload"]) or "",
            accepted_at=row["accepted_at"] / 1000,
            starts=row["starts"],
            errors=row["errors"],
            apart=tuple((row["apart"] or "").split()),
        )
        for row in rows
    )


def as_operations(rows: Sequence[Any]) -> tuple[Operation, ...]:
    """Operations from their rows."""
    return tuple(Operation(id=row["id"], body=decoded(row["body"])) for row in rows)


def as_cursor(row: QueueRow) -> Cursor | None:
    """The cursor of a queue."""
    if row.operation is None:
        return None
    return Cursor(
        operation_id=row.operation,
        pos=row.pos or 0,
        sent_at=None if row.sent is None else row.sent / 1000,
        tries=row.tries or 0,
        note=text(row.note),
        echoes=lines(text(row.echoes)),
    )


def refusal(
    row: QueueRow, lease: Lease, operation_id: str, pos: int | None = None
) -> Literal["already", "fenced"] | None:
    """Why the operation at the head of a queue cannot be moved on; None if it can."""
    if row.head != operation_id:
        return "already"
    if row.pos is not None and pos is not None and row.pos > pos:
        return "already"
    return None if is_held(row, lease) else "fenced"


def move_to(row: QueueRow, operation_id: str, pos: int) -> None:
    """Put the cursor on a part; what was noted about an earlier part is forgotten."""
    if (row.operation, row.pos) != (operation_id, pos):
        row.operation, row.pos, row.tries = operation_id, pos, 0
        row.sent = row.note = row.echoes = None


def append(
    tx: Transaction,
    conversation: str,
    queue: QueueName,
    operations: Sequence[Operation],
) -> None:
    """Put operations at the end of a queue."""
    if not operations:
        return
    row = tx.queue(conversation, queue)
    if row.head is None:  # an empty queue's delay, if it has one, is still to be kept
        row.head, row.not_before = operations[0].id, max(row.not_before, tx.now)
    insert = "INSERT INTO operations (conversation, queue, id, body, queued_at)"
    for operation in operations:
        new = (conversation, queue, operation.id, encoded(operation.body), tx.now)
        tx.do(f"{insert} VALUES (?, ?, ?, ?, ?)", *new)


def drop_head(tx: Transaction, row: QueueRow) -> None:
    """Remove the operation at the head of the queue."""
    place = (row.conversation, row.queue)
    delete = "DELETE FROM operations WHERE conversation = ? AND queue = ? AND id = ?"
    tx.do(delete, *place, row.head)
    row.operation = row.pos = row.sent = row.tries = row.note = row.echoes = None
    if tx.moved(*place).head is None:
        expire_if_idle(tx, row.conversation)


def text(data: bytes | None) -> str | None:
    """Optional text from its bytes."""
    return None if data is None else decoded(data)


def blob(written: str | None) -> bytes | None:
    """Optional text as bytes."""
    return None if written is None else encoded(written)


def follow(tx: Transaction, conversation: str) -> str:
    """The conversation that a name leads to."""

    def target_of(name: str) -> Any:
        query = "SELECT conversation FROM aliases WHERE alias = ? AND expires > ?"
        if alias := tx.one(query, name, tx.now):  # most names are none, and looking writes nothing
            keep = "UPDATE aliases SET expires = ? WHERE alias = ?"
            tx.do(keep, tx.now + tx.retention, name)
        return alias

    return led_by(conversation, target_of)


def led_by(name: str, target_of: Callable[[str], Any]) -> str:
    """Where a name leads to; one that leads to no key of its shard, or in a circle, nowhere."""
    met = {name}
    while alias := target_of(name):
        target: str = alias["conversation"]
        if target in met or target[:2] != name[:2] or len(target) != len(name):
            break
        met.add(target)
        name = target
    return name


def pause(tx: Transaction, conversation: str, length: int) -> None:
    """Give a conversation to a human for a while, or back."""
    conversation = follow(tx, conversation)
    tx.do("DELETE FROM pauses WHERE conversation = ? OR until <= ?", conversation, tx.now)
    if length:
        tx.do("INSERT INTO pauses VALUES (?, ?)", conversation, tx.now + length)


def is_paused(tx: Transaction, conversation: str) -> bool:
    """Whether a human has the conversation."""
    query = "SELECT 1 FROM pauses WHERE conversation = ? AND until > ?"
    return tx.one(query, conversation, tx.now) is not None
