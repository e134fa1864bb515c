"""What operators need in SQLite: looking at conversations, and deciding about dead letters.

Says the same as the Redis scripts of these names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from langchain_convsync.stores.base import (
    NO_ACCOUNT,
    ConversationView,
    DeadLetter,
    DeadLetterPage,
    Load,
    Operation,
    QueueName,
    QueueView,
)
from langchain_convsync.stores.checks import account_of, call_key, decoded, renewed_id
from langchain_convsync.stores.sqlite.queues import (
    QUEUES,
    append,
    as_cursor,
    as_operations,
    blob,
    due_in,
    follow,
    inbox,
    led_by,
    revive,
    running,
    text,
)
from langchain_convsync.stores.sqlite.sending import as_acks, as_restriction, holding
from langchain_convsync.stores.sqlite.transaction import Transaction

_OPERATIONS = (
    "SELECT seq, conversation, queue, id, body, reason, died_at AS since, pos, sent, tries"
    " FROM dead_operations WHERE"
)
_EVENTS = (
    "SELECT seq, conversation, 'inbox' AS queue, event_key AS id, payload AS body, reason,"
    " accepted_at AS since, NULL AS pos, NULL AS sent, starts + errors AS tries FROM events"
    " WHERE state = 'dead' AND"
)
_DEAD_OPERATIONS = (
    f"{_OPERATIONS} ? IS NULL OR conversation IN (?, ?)"
    " ORDER BY died_at, conversation, queue, seq LIMIT ?"
)
_DEAD_EVENTS = (
    f"{_EVENTS} (? IS NULL OR conversation IN (?, ?))"
    " ORDER BY accepted_at, conversation, event_key LIMIT ?"
)
#: Of an account or of all, behind a row of the table; by its name the page goes on there.
_PAGES = {
    name: f"{rows} seq > ? AND (? IS NULL OR substr(conversation, 1, 15) = ?) ORDER BY seq LIMIT ?"
    for name, rows in (("operations", _OPERATIONS), ("events", _EVENTS))
}
#: A name, and every alias that leads to it, through others too.
_NAMES = (
    "WITH RECURSIVE names (name) AS (SELECT ? UNION SELECT alias FROM aliases, names"
    " WHERE aliases.conversation = names.name AND expires > ?) SELECT name FROM names"
)

#: Events that are looked through at a time for those of a conversation: for about 20 ms.
LOOKED_THROUGH = 20_000


def loads(tx: Transaction) -> tuple[Load, ...]:
    """What each account has to do in each queue."""
    rows = tx.all(
        "SELECT account, queue, count(*) AS conversations, min(due) AS due,"
        " (SELECT ifnull(until, 0) > ? FROM queues AS first WHERE first.queue = queues.queue"
        " AND first.account = queues.account AND due IS NOT NULL"
        " ORDER BY due, conversation LIMIT 1) AS held"
        " FROM queues WHERE due IS NOT NULL AND account NOT LIKE ? GROUP BY queue, account"
        " ORDER BY min(due), account, queue",
        *(tx.now, f"%{NO_ACCOUNT}"),
    )
    oldest = {
        row["account"]: row["at"]
        for row in tx.all(
            "SELECT substr(conversation, 1, 15) AS account, min(queued_at) AS at FROM operations"
            " WHERE queue = 'replies' GROUP BY 1"
        )
    }
    return tuple(
        Load(
            account=row["account"],
            queue=row["queue"],
            conversations=row["conversations"],
            due_in=(row["due"] - tx.now) / 1000,
            held=bool(row["held"]),
            queued_for=_age(oldest, row, tx.now),
        )
        for row in rows
    )


def _age(oldest: dict[str, int | None], row: Any, now: int) -> float | None:
    at = oldest.get(row["account"]) if row["queue"] == "replies" else None
    return None if at is None else (now - at) / 1000


def view(tx: Transaction, conversation: str, most: int) -> ConversationView:
    """A conversation without acquiring anything of it."""
    conversation = _destination(tx, conversation)
    query = "SELECT * FROM conversations WHERE conversation = ? AND ifnull(expires, ?) > ?"
    talk = tx.one(query, conversation, tx.now + 1, tx.now)
    until = "SELECT until FROM pauses WHERE conversation = ? AND until > ?"
    paused = tx.one(until, conversation, tx.now)
    restricted = holding(tx, tx.queue(conversation, "replies"))
    events = inbox(tx, conversation)
    sending: tuple[QueueName, ...] = ("outbox", "replies") if talk else ()
    queues = {queue: _queue_view(tx, conversation, queue, most) for queue in sending}
    shown = talk and most > 1 and (talk["snapshot_until"] or 0) > tx.now
    return ConversationView(
        conversation_key=conversation,
        now=tx.now / 1000,
        turns=talk["turns"] if talk else 0,
        paused_until=_seconds(paused and paused["until"]),
        events=events[:most],
        running=running(tx, account_of(conversation)),
        note=text(talk["noted"]) if talk else None,
        acks=tuple(as_acks(talk["acks"])) if talk else (),
        snapshot=text(talk["snapshot"]) if talk and shown else None,
        restriction=restricted and as_restriction(restricted),
        inbox=QueueView(depth=len(events), **_waiting(tx, conversation, "inbox")),
        **queues,
    )


def _queue_view(tx: Transaction, conversation: str, queue: QueueName, most: int) -> QueueView:
    row, place = tx.queue(conversation, queue), (conversation, queue)
    found = "FROM operations WHERE conversation = ? AND queue = ?"
    return QueueView(
        depth=tx.one(f"SELECT count(*) {found}", *place)[0],
        **_waiting(tx, conversation, queue),
        cursor=as_cursor(row),
        operations=as_operations(
            tx.all(f"SELECT id, body {found} ORDER BY seq LIMIT ?", *place, most)
        ),
        anchor=text(row.anchor),
    )


def _waiting(tx: Transaction, conversation: str, queue: QueueName) -> dict[str, Any]:
    """When the queue can be acquired, and what it waits for."""
    row = tx.queue(conversation, queue)
    return {
        "due_in": due_in(tx, conversation, queue),
        "held_until": _seconds(row.until),
        "held_since": _seconds(row.since),
        "why": text(row.why),
        "since": _seconds(row.why_since),
    }


def dead_letters(tx: Transaction, conversation: str | None, most: int) -> tuple[DeadLetter, ...]:
    """The dead letters of one conversation or of all: oldest first, at most so many."""
    target = None if conversation is None else _destination(tx, conversation)
    names = (conversation, conversation, target)
    rows = [*tx.all(_DEAD_OPERATIONS, *names, most), *tx.all(_DEAD_EVENTS, *names, most)]
    rows.sort(key=lambda row: (row["since"], row["conversation"], row["queue"]))
    return tuple(_as_dead_letter(row) for row in rows[:most])


def dead_letter_page(tx: Transaction, page: str, account: str | None, most: int) -> DeadLetterPage:
    """The dead letters behind a row: operations as they died, then events as they came."""
    found: list[DeadLetter] = []
    table, _, last = page.partition(" ")
    for name, query in _PAGES.items():
        if table in ("", name):
            table = ""
            rows = tx.all(query, int(last or -(2**63)), account, account, most - len(found))
            found += map(_as_dead_letter, rows)
            if len(found) == most:
                return DeadLetterPage(letters=tuple(found), next=f"{name} {rows[-1]['seq']}")
            last = ""
    return DeadLetterPage(letters=tuple(found))


def requeue(tx: Transaction, letter: DeadLetter, token: str, body: str | None) -> str | None:
    """Give a dead letter back to the workers, once; None when it is not one any more."""
    note, renewed = call_key(letter, "requeue", token), renewed_id(letter, token)
    if _is_remembered(tx, note):
        return renewed
    conversation = follow(tx, letter.conversation_key)
    if letter.queue == "inbox":
        dead = tx.one("SELECT * FROM events WHERE event_key = ? AND state = 'dead'", letter.id)
        if dead is None:
            return None
        revive(tx, conversation)
        tx.do(
            "INSERT INTO events (event_key, conversation, digest, payload, accepted_at,"
            " accepted_by) VALUES (?, ?, ?, ?, ?, ?)",
            *(note, conversation, dead["digest"], dead["payload"] if body is None else blob(body)),
            *(tx.now, note),
        )
        keep = "UPDATE calls SET event_key = ? WHERE event_key = ? AND result IS NOT NULL"
        tx.do(keep, note, letter.id)
        tx.moved(conversation, "inbox")
        _bury(tx, letter.id)
    else:
        had = _pop_dead(tx, letter)
        if had is None:
            return None
        revive(tx, conversation)
        again = Operation(id=renewed, body=decoded(had) if body is None else body)
        append(tx, conversation, letter.queue, [again])
        _remember(tx, note, conversation)
    return renewed


def discard(tx: Transaction, letter: DeadLetter, token: str) -> bool:
    """Give up a dead letter, once; False when it is not one any more."""
    note = call_key(letter, "discard", token)
    if _is_remembered(tx, note):
        return True
    if letter.queue == "inbox":
        if tx.one("SELECT 1 FROM events WHERE event_key = ? AND state = 'dead'", letter.id) is None:
            return False
        _bury(tx, letter.id)
    elif _pop_dead(tx, letter) is None:
        return False
    _remember(tx, note, letter.conversation_key)
    return True


class Sought(NamedTuple):
    """The events of a conversation, as far as they were looked for among all that there are.

    Attributes:
        names: Its conversation key, and the aliases that lead to it.
        after: The place behind which to look next.
        last: The place of the last event when the search began.
        found: The places of its events.
    """

    names: tuple[str, ...]
    after: int
    last: int
    found: tuple[int, ...] = ()


def seek(tx: Transaction, conversation: str, sought: Sought | None) -> Sought:
    """Look for a conversation's events among the next of all, since no index finds what is done.

    It writes nothing, hence holds up no other, and there may be millions.
    """
    if sought is None:
        first, last = tx.one("SELECT min(seq), max(seq) FROM events")
        sought = Sought(_names_of(tx, conversation), (first or 0) - 1, last or -1)
    upto = min(sought.last, sought.after + LOOKED_THROUGH)
    found = _events_of(tx, sought.names, "seq > ? AND seq <= ?", sought.after, upto)
    return sought._replace(after=upto, found=(*sought.found, *found))


def forget(tx: Transaction, conversation: str, sought: Sought) -> bool | None:
    """Erase all that is kept of a conversation, and of aliases that lead to it.

    Whether there was anything; None where it has other names by now than those that were sought.
    """
    names = _names_of(tx, conversation)
    if names != sought.names:
        return None
    newer = _events_of(tx, names, "seq > ?", sought.last)
    waiting = _events_of(tx, names, "state = 'queued'")
    events = sorted({*sought.found, *newer, *waiting})
    known = len(names) > 1 or _is_known(tx, names[0], events)
    for event in events:  # in this order SQLite leaves no copies of what it moves meanwhile
        ours = f"conversation IN ({_places(names)})"
        tx.do(f"DELETE FROM events WHERE seq = ? AND {ours}", event, *names)  # noqa: S608 - as below
    for name in names:
        for table in ("operations", "dead_operations", "pauses", "conversations"):
            tx.do(f"DELETE FROM {table} WHERE conversation = ?", name)  # noqa: S608 - our own names
        tx.do("DELETE FROM aliases WHERE alias = ?", name)
    for queue in QUEUES:
        tx.keep_in_ring(account_of(conversation), queue, is_due=False)
    return known


def _names_of(tx: Transaction, conversation: str) -> tuple[str, ...]:
    rows = tx.all(_NAMES, _destination(tx, conversation), tx.now)
    return tuple(row["name"] for row in rows)


def _events_of(tx: Transaction, names: Sequence[str], which: str, *values: Any) -> list[int]:
    query = f"SELECT seq FROM events WHERE conversation IN ({_places(names)}) AND {which}"  # noqa: S608 - our own words
    return [row["seq"] for row in tx.all(f"{query} ORDER BY seq", *names, *values)]


def _places(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


def _is_known(tx: Transaction, name: str, events: Sequence[int]) -> bool:
    """Whether any of these events, or what else is kept of a name, has not run out."""
    lives, at = "ifnull(expires, ?) > ?", (tx.now + 1, tx.now)
    kept = (
        ("conversations", lives, at),
        ("operations", "TRUE", ()),
        ("dead_operations", "TRUE", ()),
        ("pauses", "until > ?", (tx.now,)),
    )
    done = f"SELECT 1 FROM events WHERE seq = ? AND {lives}"  # noqa: S608 - our own words
    return any(tx.one(done, event, *at) for event in events) or any(
        tx.one(f"SELECT 1 FROM {table} WHERE conversation = ? AND {which}", name, *values)  # noqa: S608
        for table, which, values in kept
    )


def _destination(tx: Transaction, conversation: str) -> str:
    """Where a name leads to, without keeping it alive."""
    query = "SELECT conversation FROM aliases WHERE alias = ? AND expires > ?"
    return led_by(conversation, lambda name: tx.one(query, name, tx.now))


def _pop_dead(tx: Transaction, letter: DeadLetter) -> Any:
    """Take an operation out of the dead ones; its body, None where it is not among them."""
    row = tx.one(
        "DELETE FROM dead_operations WHERE seq = (SELECT min(seq) FROM dead_operations"
        " WHERE conversation = ? AND queue = ? AND id = ?) RETURNING body",
        *(letter.conversation_key, letter.queue, letter.id),
    )
    return None if row is None else row["body"]


def _bury(tx: Transaction, event_key: str) -> None:
    """A dead letter is done, with the outcome that it had."""
    tx.do("DELETE FROM calls WHERE event_key = ?", event_key)
    tx.do(
        "UPDATE events SET state = 'done', payload = NULL, reason = NULL, expires = ?"
        " WHERE event_key = ?",
        *(tx.now + tx.retention, event_key),
    )


def _remember(tx: Transaction, note: str, conversation: str) -> None:
    """Leave the record by which a repeated call is recognised."""
    tx.do(
        "INSERT OR REPLACE INTO events (event_key, conversation, state, digest, accepted_at,"
        " accepted_by, expires) VALUES (?, ?, 'done', '', ?, '', ?)",
        *(note, conversation, tx.now, tx.now + tx.retention),
    )


def _is_remembered(tx: Transaction, note: str) -> bool:
    query = "SELECT 1 FROM events WHERE event_key = ? AND (expires IS NULL OR expires > ?)"
    return tx.one(query, note, tx.now) is not None


def _as_dead_letter(row: Any) -> DeadLetter:
    return DeadLetter(
        conversation_key=row["conversation"],
        queue=row["queue"],
        id=row["id"],
        body=text(row["body"]) or "",
        reason=text(row["reason"]) or "",
        since=row["since"] / 1000,
        pos=row["pos"] or 0,
        sent_at=_seconds(row["sent"]),
        tries=row["tries"] or 0,
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
