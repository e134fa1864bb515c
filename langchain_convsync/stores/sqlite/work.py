"""Work under a lease in SQLite: acquiring queues, keeping them, and delivering their operations.

Says the same as the Redis scripts of these names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from langchain_convsync.stores.base import (
    APART,
    MOST_COUNTED,
    Acquired,
    Backlog,
    Confirmed,
    Cursor,
    Done,
    Lease,
    QueueName,
    Upcoming,
)
from langchain_convsync.stores.checks import account_of, lines, turn_of
from langchain_convsync.stores.sqlite.queues import (
    acquire,
    acquired,
    as_cursor,
    blob,
    drop_head,
    follow,
    is_full,
    is_held,
    move_to,
    refusal,
    text,
)
from langchain_convsync.stores.sqlite.sending import is_capped, may_send, tried_out
from langchain_convsync.stores.sqlite.transaction import QueueRow, Transaction


def acquire_any(
    tx: Transaction, queue: QueueName, token: str, length: int, account_concurrency: int
) -> Acquired | None:
    """Lease the queue that is next: accounts take turns, the longest due first within one."""
    query = "SELECT conversation FROM queues WHERE token = ? AND until IS NOT NULL AND queue IS ?"
    if holding := tx.one(query, token, queue):
        return acquired(tx, holding["conversation"], queue)
    accounts = tx.sql.execute(
        "SELECT account FROM (SELECT account, place, (SELECT min(due) FROM queues"
        " WHERE queues.queue = accounts.queue AND queues.account = accounts.account"
        " AND due IS NOT NULL) AS due FROM accounts WHERE queue = ?)"
        " WHERE due <= ? ORDER BY max(place, due * 1000), account",
        (queue, tx.now),
    )
    ring = (row["account"] for row in accounts)
    free = (found for found in ring if not is_full(tx, found, queue, account_concurrency))
    conversation = next(filter(None, (_first_of(tx, queue, account) for account in free)), None)
    if conversation is None:
        return None
    return acquire(tx, conversation, queue, token, length, account_concurrency=account_concurrency)


def _first_of(tx: Transaction, queue: QueueName, account: str) -> str | None:
    """The conversation of an account that is next; a cap steps over its first contacts."""
    ready = "SELECT conversation FROM queues WHERE queue IS ? AND account = ? AND due IS NOT NULL"
    if queue == "replies" and is_capped(tx, account):
        ready += f" AND due <= {tx.now} AND anchor IS NOT NULL"
    first = tx.one(f"{ready} ORDER BY due, conversation LIMIT 1", queue, account)
    return None if first is None else first["conversation"]


def upcoming(tx: Transaction, conversations: Sequence[str]) -> Upcoming:
    """What can be acquired, and when more can be."""
    place = (
        "FROM queues WHERE queues.queue = accounts.queue AND queues.account = accounts.account"
        " AND due IS NOT NULL AND due"
    )
    upto = f"? - iif(queue = 'inbox', 0, {APART})"
    found = tx.all(
        f"SELECT queue, (SELECT count(*) FROM (SELECT 1 {place} <= {upto} LIMIT {MOST_COUNTED})),"  # noqa: S608 - our own names
        f" (SELECT min(due) {place} > {upto}) FROM accounts",
        *(tx.now, tx.now),
    )
    due: dict[QueueName, int] = {}
    comes = []
    for queue, count, later in found:
        if count:
            due[queue] = min(MOST_COUNTED, due.get(queue, 0) + count)
        if later is not None:
            comes.append(later + (0 if queue == "inbox" else APART) - tx.now)
    waiting = (tx.queue(name, "inbox") for name in conversations)
    return Upcoming(
        due=due,
        next_in=min(comes) / 1000 if comes else None,
        free=tuple(row.conversation for row in waiting if (row.due or 0) <= tx.now),
    )


def renew(tx: Transaction, lease: Lease, seconds: int) -> Lease | None:
    """Renew a lease; None when it is lost."""
    row = tx.queue(lease.conversation_key, lease.queue)
    if not is_held(row, lease):
        return None
    return replace(lease, until=_renew(row, tx.now + seconds) / 1000)


def release(
    tx: Transaction,
    lease: Lease,
    *,
    delay: int,
    failed: bool,
    held: int | None,
    done: Confirmed | None,
    why: str | None,
) -> bool:
    """Give a queue back; False when the lease was lost already."""
    if done is not None:
        confirm(tx, lease, done)
    row = tx.queue(lease.conversation_key, lease.queue)
    if (row.token, row.epoch) != (lease.token, lease.epoch):
        return False
    if row.until is None:  # given back before
        return True
    row.give_back()
    if lease.queue == "replies":
        tried_out(tx, account_of(lease.conversation_key), lease.token)
    row.waits(blob(why), tx.now)
    row.not_before = max(row.not_before, tx.now + delay)
    if lease.queue == "inbox":
        if row.pos is None:
            row.pos = held
        elif held is None:
            row.pos = None
        tx.moved(lease.conversation_key, "inbox")
        tx.do(
            "UPDATE events SET starts = starts - 1, errors = errors + ? WHERE event_key = ?",
            *(failed, row.head),
        )
    return True


def begin(
    tx: Transaction,
    lease: Lease,
    operation_id: str,
    pos: int,
    *,
    attempt: int,
    need: int,
    note: str | None,
    done: Confirmed | None,
) -> Cursor | None:
    """Note that a part of the head operation goes on the wire; None when fenced."""
    if done is not None and confirm(tx, lease, done) == "fenced":
        return None
    row = tx.queue(lease.conversation_key, lease.queue)
    if refusal(row, lease, operation_id, pos) or not may_send(tx, row):
        return None
    move_to(row, operation_id, pos)
    if row.sent is None or row.tries != attempt:
        row.sent, row.tries, row.echoes = tx.now, attempt, None
    if note is not None:
        row.note = blob(note)
    _renew(row, tx.now + need)
    return as_cursor(row)


def confirm(tx: Transaction, lease: Lease, done: Confirmed) -> Done:
    """Note that a part of the head operation is confirmed; the last part removes it."""
    row = tx.queue(lease.conversation_key, lease.queue)
    operation_id, pos = done.operation_id, done.pos
    this_call = f"confirm {lease.epoch} {lease.token} {pos} {operation_id}"
    if row.last == this_call:
        return "done"
    if refused := refusal(row, lease, operation_id, pos):
        return refused
    _moves_on(row, this_call)
    if done.anchor is not None:
        row.anchor = blob(done.anchor)
    if done.last:
        drop_head(tx, row)
    else:
        move_to(row, operation_id, pos + 1)
    return "done"


def retry(
    tx: Transaction,
    lease: Lease,
    operation_id: str,
    pos: int,
    *,
    delay: int,
    sent: bool,
    note: str | None,
) -> Done:
    """Note that a part of the head operation is to be tried again, after a delay."""
    row = tx.queue(lease.conversation_key, lease.queue)
    if refused := refusal(row, lease, operation_id, pos):
        return refused
    move_to(row, operation_id, pos)
    row.not_before = tx.now + delay
    if not sent:
        row.sent = row.echoes = None
    if note is not None:
        row.note = blob(note)
    return "done"


def set_dead(tx: Transaction, lease: Lease, operation_id: str, reason: str) -> Done:
    """Make the head operation a dead letter, and the rest of its turn with it."""
    row = tx.queue(lease.conversation_key, lease.queue)
    this_call = f"set_dead {lease.epoch} {lease.token} {operation_id}"
    if row.last == this_call:
        return "done"
    if refused := refusal(row, lease, operation_id):
        return refused
    _moves_on(row, this_call)
    while row.head is not None and row.head.startswith(turn_of(operation_id)):
        is_begun = row.operation == row.head
        begun = (row.pos, row.sent, row.tries, row.note) if is_begun else (None,) * 4
        tx.do(
            "INSERT INTO dead_operations (conversation, queue, id, body, reason, died_at,"
            " pos, sent, tries, note)"
            " SELECT conversation, queue, id, body, ?, ?, ?, ?, ?, ? FROM operations"
            " WHERE conversation = ? AND queue = ? AND id = ?",
            *(blob(reason), tx.now, *begun, row.conversation, row.queue, row.head),
        )
        drop_head(tx, row)
    return "done"


def record_echo(tx: Transaction, conversation: str, note: str) -> bool:
    """Keep an echo of the reply that is on the wire; False where none is on the wire."""
    row = tx.queue(follow(tx, conversation), "replies")
    if row.sent is None:
        return False
    echoes = dict.fromkeys([*lines(text(row.echoes)), note])
    row.echoes, row.not_before = blob("\n".join(echoes)), 0
    return True


def backlog(tx: Transaction) -> Backlog:
    """What is left to do."""
    row = tx.one(
        "SELECT (SELECT count(*) FROM events WHERE state = 'queued') - held AS queued,"
        " held AS interrupts,"
        " (SELECT count(*) FROM operations WHERE queue = 'outbox') AS writes,"
        " (SELECT count(*) FROM operations WHERE queue = 'replies') AS replies,"
        " (SELECT count(*) FROM dead_operations)"
        " + (SELECT count(*) FROM events WHERE state = 'dead') AS dead_letters"
        " FROM (SELECT count(*) AS held FROM queues WHERE queue IS 'inbox' AND due IS NOT NULL"
        " AND pos > 0)"
    )
    return Backlog(**dict(row))


def _renew(row: QueueRow, until: int) -> int:
    row.until = max(row.until or 0, until)
    return row.until


def _moves_on(row: QueueRow, call: str) -> None:
    """Remember the call that moves the queue; what the moved operation waited for is over."""
    row.last, row.not_before = call, 0
    row.waits(None, 0)
