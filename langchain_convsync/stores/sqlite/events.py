"""Events in SQLite: accepting them, changing them, and committing the turn that answers them.

Says the same as ``account``, ``accounts``, ``serve``, ``accept``, ``amend``, ``alias``, ``commit``,
``begin_call`` and ``end_call`` among the Redis scripts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from langchain_convsync.stores import facts
from langchain_convsync.stores.base import (
    Accepted,
    AccountKey,
    Adopt,
    Commit,
    Committed,
    KeptCall,
    Lease,
    NewEvent,
)
from langchain_convsync.stores.checks import (
    MillisecondRules,
    account_of,
    milliseconds,
    snapshot_life,
)
from langchain_convsync.stores.sqlite.queues import (
    acquire,
    append,
    blob,
    due_in,
    expire_if_idle,
    follow,
    is_held,
    is_paused,
    pause,
    revive,
    text,
)
from langchain_convsync.stores.sqlite.transaction import QueueRow, Transaction

#: How much of each kind an operation erases that ran out: more than it adds, and never long.
SWEEP = 20
#: At most so many events of one source are compared.
MOST_TWINS = 16
#: What runs out: where it is, what names it there, when it does, and what is done then.
_ERASED = (
    ("events", "seq", "outcome_until", "UPDATE events SET outcome = NULL, outcome_until = NULL"),
    (
        *("conversations", "conversation", "snapshot_until"),
        "UPDATE conversations SET snapshot = NULL, snapshot_until = NULL",
    ),
    ("events", "seq", "expires", "DELETE FROM events"),
    ("conversations", "conversation", "expires", "DELETE FROM conversations"),
    ("aliases", "alias", "expires", "DELETE FROM aliases"),
)
_EXISTS = "EXISTS (SELECT 1 FROM {} WHERE {} <= ?)"
_HAS_RUN_OUT = "SELECT " + " OR ".join(
    _EXISTS.format(table, until) for table, _, until, _ in _ERASED
)
_WAITING = (
    "SELECT event_key, accepted_at FROM events WHERE conversation = ? AND state = 'queued'"
    " ORDER BY seq"
)


def accept(
    tx: Transaction,
    event: NewEvent,
    rules: MillisecondRules,
    *,
    by: str,
    token: str | None,
) -> Accepted:
    """Record an event once; ``by`` tells a repeated call from another delivery of the event."""
    names = (event.conversation_key, *event.aliases)
    conversation, is_one = _unite(tx, names)
    known = _known(tx, event.event_key) or _twin(tx, event, conversation)
    if known is None:
        if length := milliseconds(event.pause):
            pause(tx, conversation, length)
        queued = tx.one(
            "SELECT count(*) FROM events WHERE conversation = ? AND state = 'queued'",
            conversation,
        )
        if queued[0] >= rules.max_queued:
            return Accepted(
                status="busy",
                conversation_key=conversation,
                event_key=event.event_key,
                due_in=due_in(tx, conversation, "inbox") or 0.0,
            )
    if known is not None and known["event_key"] != event.event_key:
        _meet(tx, event, conversation, known)
    if known is not None:
        known = _known(tx, known["event_key"])  # it may have moved
    if known is None:
        _enqueue(tx, event, conversation, rules, by=by)
        accepted = Accepted(
            status="new",
            conversation_key=conversation,
            event_key=event.event_key,
            state="queued",
        )
    else:
        accepted = Accepted(
            status="new" if known["accepted_by"] == by else "duplicate",
            conversation_key=known["conversation"],
            event_key=known["event_key"],
            state=known["state"],
            outcome=text(known["outcome" if (known["outcome_until"] or 0) > tx.now else "fact"]),
            differs=known["digest"] != event.digest,
        )
    if accepted.state != "queued":
        return accepted
    if not is_one:
        note = "UPDATE events SET apart = ? WHERE event_key = ?"
        tx.do(note, " ".join(names), accepted.event_key)
    conversation = accepted.conversation_key
    inbox, limit = None, rules.account_concurrency
    if token is not None:
        inbox = acquire(tx, conversation, "inbox", token, rules.lease, account_concurrency=limit)
    waits = 0.0 if inbox else due_in(tx, conversation, "inbox") or 0.0
    return replace(accepted, acquired=inbox, due_in=waits)


def find(tx: Transaction, account: AccountKey, source: str, told: str) -> str | None:
    """The event key of the one event of an account and a source that agrees with these facts."""
    found = _only_one_of(tx, source, told, lambda row: account_of(row["event_key"]) == account)
    return None if found is None else str(found["event_key"])


def amend(tx: Transaction, event_key: str, before: str, after: str, *, due: bool) -> str | None:
    """Replace the payload of a queued event, if it is the expected one; the one it has then."""
    query = "SELECT payload, conversation FROM events WHERE event_key = ? AND state = 'queued'"
    row = tx.one(query, event_key)
    if row is None:
        return None
    if (held := text(row["payload"]) or "") != before:
        return held
    tx.do("UPDATE events SET payload = ? WHERE event_key = ?", blob(after), event_key)
    if due:
        tx.queue(row["conversation"], "inbox").pos = 0
        tx.moved(row["conversation"], "inbox")
    return after


def alias(tx: Transaction, name: str, conversation: str, lease: Lease | None) -> str | None:
    """The conversation that two names lead to from now on; None where they cannot."""
    target, is_one = _unite(tx, (conversation, name), lease)
    return target if is_one else None


def _unite(tx: Transaction, names: Sequence[str], lease: Lease | None = None) -> tuple[str, bool]:
    """The conversation of a customer's names, the surest first, and whether all lead there now."""
    roots = list(dict.fromkeys(follow(tx, name) for name in names))
    if len(roots) == 1:
        return roots[0], True
    bound = (root for root in roots if _is_bound(tx, root, lease))
    past = (root for root in roots if _has_past(tx, root))
    target = next(chain(bound, past, roots))
    linked = [_link(tx, root, target, lease) for root in roots if root != target]
    return target, all(linked)


def _is_bound(tx: Transaction, conversation: str, lease: Lease | None) -> bool:
    """Whether it has what can go nowhere else: operations, or a turn that is not the caller's."""
    if tx.one("SELECT 1 FROM operations WHERE conversation = ?", conversation):
        return True
    turn = tx.queue(conversation, "inbox")
    return not _is_callers(turn, lease) and tx.now < (turn.until or 0)


def _is_callers(turn: QueueRow, lease: Lease | None) -> bool:
    return (
        lease is not None and lease.conversation_key == turn.conversation and is_held(turn, lease)
    )


def _has_past(tx: Transaction, conversation: str) -> bool:
    query = "SELECT turns FROM conversations WHERE conversation = ? AND ifnull(expires, ?) > ?"
    row = tx.one(query, conversation, tx.now + 1, tx.now)
    return bool(row and row["turns"])


def _link(tx: Transaction, name: str, conversation: str, lease: Lease | None) -> bool:
    """Let a name lead to a conversation; neither is an alias itself, hence never in a circle."""
    if _is_bound(tx, name, lease):
        return False
    tenant, other = _tenant(tx, name), _tenant(tx, conversation)
    if tenant and other and tenant != other:
        return False
    turn = tx.queue(name, "inbox")
    if _is_callers(turn, lease):
        tx.do("UPDATE events SET starts = starts - 1 WHERE event_key = ?", turn.head)
    if turn.head is not None:
        _bring_along(tx, name, conversation)
    if tenant:
        note = "UPDATE conversations SET tenant = ifnull(tenant, ?) WHERE conversation = ?"
        tx.do(note, tenant, conversation)
    expires = tx.now + tx.retention
    tx.do("INSERT OR REPLACE INTO aliases VALUES (?, ?, ?)", name, conversation, expires)
    tx.do(
        "INSERT INTO pauses SELECT ?, until FROM pauses WHERE conversation = ?"
        " ON CONFLICT (conversation) DO UPDATE SET until = max(until, excluded.until)",
        *(conversation, name),
    )
    tx.do("DELETE FROM pauses WHERE conversation = ?", name)
    return True


def commit_turn(tx: Transaction, lease: Lease, commit: Commit) -> Committed:
    """End a turn: its events, operations and snapshot change together."""
    by = f"{lease.epoch} {lease.token}"
    head = tx.one("SELECT state, ended_by FROM events WHERE event_key = ?", commit.event_keys[0])
    if head is not None and head["state"] != "queued":
        return "done" if head["ended_by"] == by else "already"
    conversation = lease.conversation_key
    turn = tx.queue(conversation, "inbox")
    known = len(commit.event_keys) + len(commit.kept)
    rows = tx.all(f"{_WAITING} LIMIT ?", conversation, known + 1)
    waiting = [row["event_key"] for row in rows]
    if not is_held(turn, lease) or not _is_head(commit, waiting[:known]):
        return "fenced"
    if commit.unless_paused and is_paused(tx, conversation):
        return "paused"
    if commit.unless_newer and len(waiting) > known:
        return "newer"
    for event_key in commit.event_keys:
        _end(tx, event_key, commit, by)
    lives = snapshot_life(commit)
    tx.do(
        "UPDATE conversations SET turns = turns + 1, tenant = ifnull(tenant, ?),"
        " noted = ifnull(?, noted), snapshot = ?, snapshot_until = ? WHERE conversation = ?",
        blob(commit.tenant),
        blob(commit.note),
        blob(commit.snapshot) if lives else None,
        tx.now + lives if lives else None,
        conversation,
    )
    if length := milliseconds(commit.pause):
        pause(tx, conversation, length)
    turn.give_back()
    turn.waits(None, 0)
    _hold(tx, conversation, commit, by)
    tx.moved(conversation, "inbox")
    append(tx, conversation, "outbox", commit.operations)
    append(tx, conversation, "replies", commit.replies)
    if turn.head is None and not commit.operations and not commit.replies:
        expire_if_idle(tx, conversation)
    return "done"


def begin_call(
    tx: Transaction, lease: Lease, event_keys: Sequence[str], call: str, *, token: str
) -> KeptCall | None:
    """Note that a turn calls a tool, or what an earlier run of it left; None when fenced."""
    if not _is_turn(tx, lease, event_keys[0]):
        return None
    for event_key in event_keys:
        query = "SELECT by, result FROM calls WHERE event_key = ? AND call = ?"
        if kept := tx.one(query, event_key, call):
            return KeptCall(by=kept["by"], result=text(kept["result"]))
    tx.do("INSERT INTO calls VALUES (?, ?, ?, NULL)", event_keys[0], call, token)
    return KeptCall(by=token)


def end_call(
    tx: Transaction, lease: Lease, event_key: str, call: str, *, token: str, result: str | None
) -> bool:
    """Keep what a call came to, or take back that it began; False when fenced."""
    if not _is_turn(tx, lease, event_key):
        return False
    if result is None:
        tx.do("DELETE FROM calls WHERE event_key = ? AND call = ?", event_key, call)
    else:
        keep = "INSERT OR REPLACE INTO calls VALUES (?, ?, ?, ?)"
        tx.do(keep, event_key, call, token, blob(result))
    return True


def _is_turn(tx: Transaction, lease: Lease, event_key: str) -> bool:
    """Whether the lease's turn may still note what it does about an event."""
    if not is_held(tx.queue(lease.conversation_key, "inbox"), lease):
        return False
    query = "SELECT 1 FROM events WHERE event_key = ? AND state = 'queued'"
    return tx.one(query, event_key) is not None


def _tenant(tx: Transaction, conversation: str) -> Any:
    live = "ifnull(expires, ?) > ?"
    query = f"SELECT tenant FROM conversations WHERE conversation = ? AND {live}"  # noqa: S608
    row = tx.one(query, conversation, tx.now + 1, tx.now)
    return row and row["tenant"]


def account(tx: Transaction, name: AccountKey, told: str) -> AccountKey:
    """The account that an account key stands for, from now on."""
    if known := tx.one("SELECT account FROM account_names WHERE name = ?", name):
        return AccountKey(known["account"])
    same = [(key, has) for key, has in accounts(tx).items() if facts.is_one_side(has, told)]
    if len(same) != 1:
        tx.do("INSERT INTO account_names VALUES (?, ?, ?)", name, name, told)
        return name
    [(found, has)] = same
    tx.do("INSERT INTO account_names VALUES (?, ?, NULL)", name, found)
    all_told = facts.joined(has, told)
    tx.do("UPDATE account_names SET facts = ? WHERE name = ?", all_told, found)
    return found


def accounts(tx: Transaction) -> dict[AccountKey, str]:
    """Every account that a source has named, and what is known of it."""
    rows = tx.all("SELECT name, facts FROM account_names WHERE facts IS NOT NULL")
    return {AccountKey(row["name"]): row["facts"] for row in rows}


def serve(tx: Transaction, server: str, adopt: Adopt) -> tuple[str, ...]:
    """The API servers whose conversations the store holds."""
    if adopt == "only":
        tx.do("DELETE FROM meta WHERE name LIKE 'server %' AND value IS NOT ?", server)
    known = [row["value"] for row in tx.all("SELECT value FROM meta WHERE name LIKE 'server %'")]
    if server and server not in known and (adopt != "first" or not known):
        tx.do("INSERT INTO meta VALUES (?, ?)", f"server {server}", server)
        known.append(server)
    return tuple(sorted(known))


def _known(tx: Transaction, event_key: str) -> Any:
    """The record of an event that was accepted before, and is not forgotten yet."""
    known = tx.one("SELECT * FROM events WHERE event_key = ?", event_key)
    if known is None or known["expires"] is None or known["expires"] > tx.now:
        return known
    tx.do("DELETE FROM events WHERE event_key = ?", event_key)
    return None


def _twin(tx: Transaction, event: NewEvent, conversation: str) -> Any:
    """The one event that another delivery of the message has told; None without exactly one."""

    def is_same(row: Any) -> bool:
        return bool(event.facts) or follow(tx, row["conversation"]) == conversation

    return _only_one_of(tx, event.source, event.facts, is_same)


def _only_one_of(tx: Transaction, source: str, told: str, fits: Callable[[Any], bool]) -> Any:
    """The one event of a source that agrees with these facts and fits; None without exactly one."""
    if not source:
        return None
    query = "SELECT * FROM events WHERE source = ? AND (expires IS NULL OR expires > ?)"
    rows = tx.all(f"{query} ORDER BY seq LIMIT {MOST_TWINS}", source, tx.now)
    found = [row for row in rows if facts.agree(row["facts"], told) and fits(row)]
    return found[0] if len(found) == 1 else None


def _meet(tx: Transaction, event: NewEvent, conversation: str, known: Any) -> None:
    """Learn from another delivery of a message: more about it, and whose names are one."""
    all_told = facts.joined(known["facts"], event.facts)
    tx.do("UPDATE events SET facts = ? WHERE event_key = ?", all_told, known["event_key"])
    if account_of(conversation) == account_of(known["conversation"]):
        _unite(tx, (known["conversation"], conversation))


def sweep(tx: Transaction, operations: int) -> bool:
    """Erase what ran out, some of each kind for every operation; whether there was any."""
    if not tx.one(_HAS_RUN_OUT, *(tx.now for _ in _ERASED))[0]:
        return False
    for table, name, until, erase in _ERASED:
        tx.do(
            f"{erase} WHERE {name} IN"  # noqa: S608 - our own names
            f" (SELECT {name} FROM {table} WHERE {until} <= ? ORDER BY {until} LIMIT ?)",
            *(tx.now, SWEEP * operations),
        )
    return True


def _enqueue(
    tx: Transaction, event: NewEvent, conversation: str, rules: MillisecondRules, *, by: str
) -> None:
    revive(tx, conversation)
    windows = (rules.debounce, rules.max_debounce)
    tx.do(
        "UPDATE conversations SET debounce = ?, max_debounce = ?"
        " WHERE conversation = ? AND (debounce, max_debounce) <> (?, ?)",
        *(*windows, conversation, *windows),
    )
    tx.do(
        "INSERT INTO events (event_key, conversation, digest, source, facts, payload, accepted_at,"
        " accepted_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        *(event.event_key, conversation, event.digest, event.source or None, event.facts),
        *(blob(event.payload), tx.now, by),
    )
    tx.moved(conversation, "inbox")


def _is_head(commit: Commit, waiting: Sequence[str]) -> bool:
    """Whether the inbox begins with what is answered, and with what is kept among it."""
    kept = {*commit.kept}
    return [
        [each for each in waiting if each not in kept],
        [each for each in waiting if each in kept],
    ] == [[*commit.event_keys], [*commit.kept]]


def _hold(tx: Transaction, conversation: str, commit: Commit, by: str) -> None:
    """Hold what a turn keeps, and what it puts before that, at the head of the inbox."""
    turn, held, waits = tx.queue(conversation, "inbox"), commit.held, []
    is_due, turn.pos = turn.pos == 0, None
    if commit.kept:
        waits.append(commit.kept_for)
        anew = "UPDATE events SET starts = 0, errors = 0 WHERE event_key = ?"
        tx.do(anew, commit.kept[0])
    if held is not None:
        waits.append(held.seconds)
        tx.do(
            "INSERT INTO events (seq, event_key, conversation, digest, payload, accepted_at,"
            " accepted_by) SELECT min(0, ifnull(min(seq), 0)) - 1, ?, ?, '', ?, ?, ? FROM events",
            *(held.event_key, conversation, blob(held.payload), tx.now, by),
        )
    if waits and (held is not None or not is_due):
        turn.pos = len(commit.kept) + (held is not None)
        turn.not_before = tx.now + milliseconds(min(waits))


def _bring_along(tx: Transaction, name: str, conversation: str) -> None:
    """Put the events that wait under a name among those of a conversation, by their arrival.

    They stand behind what a turn has acquired or holds.
    """
    windows = tx.one(
        "SELECT debounce, max_debounce FROM conversations WHERE conversation = ?", name
    )
    revive(tx, conversation, **dict(windows))
    turn, own = tx.queue(conversation, "inbox"), tx.queue(name, "inbox")
    coming = tx.all(_WAITING, name)
    if tx.now < (turn.until or 0) or turn.pos is not None or own.pos is not None:
        moved = [row["event_key"] for row in coming]
    else:
        moved = _merged(tx.all(_WAITING, conversation), coming)
    for event_key in moved:
        tx.do(
            "UPDATE events SET conversation = ?, seq = (SELECT max(seq) + 1 FROM events)"
            " WHERE event_key = ?",
            *(conversation, event_key),
        )
    tx.moved(conversation, "inbox")
    emptied = tx.moved(name, "inbox")
    emptied.give_back()
    emptied.pos = None
    expire_if_idle(tx, name)


def _merged(waiting: Sequence[Any], coming: Sequence[Any]) -> list[str]:
    """The event keys of two inboxes as they arrived; each keeps its own order."""
    merged, rest = [], list(waiting)
    for row in coming:
        while rest and rest[0]["accepted_at"] <= row["accepted_at"]:
            merged.append(rest.pop(0))
        merged.append(row)
    return [row["event_key"] for row in (*merged, *rest)]


def _end(tx: Transaction, event_key: str, commit: Commit, by: str) -> None:
    if not commit.dead:
        tx.do("DELETE FROM calls WHERE event_key = ?", event_key)
    outcome, until = commit.outcomes.get(event_key), tx.now + tx.replies_kept
    said = outcome is not None and tx.replies_kept > 0
    tx.do(
        "UPDATE events SET state = ?, outcome = ?, outcome_until = ?, fact = ?, ended_by = ?,"
        " apart = NULL,"
        " expires = ?, payload = iif(?, ifnull(payload, X''), NULL), reason = ?"
        " WHERE event_key = ?",
        *("dead" if commit.dead else "done", *((blob(outcome), until) if said else (None, None))),
        *(blob(commit.fact), by),
        *(None if commit.dead else tx.now + tx.retention, commit.dead),
        *(blob(commit.reason) if commit.dead else None, event_key),
    )
