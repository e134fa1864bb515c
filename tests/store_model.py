"""What an event store does, on plain dictionaries: the specification that stores are tested by.

Each method answers what the :class:`EventStore` operation of the same name must answer. Times are
whole milliseconds inside, as in the stores.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_convsync.stores.base import (
    ACKS_KEPT,
    DEFAULT_RULES,
    FIRST_CONTACTS,
    RESTRICTION_KEPT,
    Accepted,
    AcceptRules,
    AccountKey,
    Ack,
    Acquired,
    Adopt,
    Backlog,
    Commit,
    Committed,
    Confirmed,
    ConversationView,
    Cursor,
    DeadLetter,
    Done,
    EventState,
    KeptCall,
    Lease,
    Load,
    NewEvent,
    Operation,
    QueuedEvent,
    QueueName,
    QueueView,
    Restriction,
    is_claim,
)
from langchain_convsync.stores.checks import call_key, renewed_id

#: As many events of one source are compared.
MOST_TWINS = 16
QUEUES: tuple[QueueName, ...] = ("inbox", "outbox", "replies")


@dataclass
class Event:
    event_key: str
    conversation_key: str
    digest: str
    payload: str
    by: object
    at: int
    source: str = ""
    facts: str = ""
    state: EventState = "queued"
    outcome: str | None = None
    said_until: int = 0
    fact: str | None = None
    reason: str = ""
    starts: int = 0
    errors: int = 0
    ended_by: tuple[int, str] | None = None
    calls: dict[str, KeptCall] = field(default_factory=dict)
    apart: tuple[str, ...] = ()


@dataclass
class QueueState:
    token: str | None = None
    epoch: int = 0
    until: int | None = None  # None once it was given back
    acquired_at: int | None = None
    why: tuple[str, int] | None = None  # why its work waits, and since when
    not_before: int = 0
    held: int | None = None  # of an inbox: how many events wait for something else
    cursor: Cursor | None = None
    anchor: str | None = None
    slot: tuple[str, int] | None = None  # when the message of a token may be sent
    moved_by: tuple[Any, ...] | None = None  # the call that moved the queue last


@dataclass
class Talk:
    """A conversation."""

    inbox: list[Event] = field(default_factory=list)
    queued_at: dict[str, int] = field(default_factory=dict)  # of operations that wait
    operations: dict[QueueName, list[Operation]] = field(
        default_factory=lambda: {"outbox": [], "replies": []}
    )
    queues: dict[QueueName, QueueState] = field(
        default_factory=lambda: {queue: QueueState() for queue in QUEUES}
    )
    debounce: int = 0
    max_debounce: int = 0
    snapshot: tuple[str, int] | None = None
    tenant: str | None = None
    note: str | None = None
    acks: list[Ack] = field(default_factory=list)
    turns: int = 0

    @property
    def busy(self) -> bool:
        return bool(self.inbox or self.operations["outbox"] or self.operations["replies"])

    def due(self, queue: QueueName) -> int | None:
        state = self.queues[queue]
        at = max(state.until or 0, state.not_before)
        if queue != "inbox":
            return at if self.operations[queue] else None
        if not self.inbox:
            return None
        if not (further := self.inbox[state.held or 0 :]):
            return at
        window = min(further[0].at + self.max_debounce, further[-1].at + self.debounce)
        return max((state.until or 0) if state.held is not None else at, window)


class StoreModel:
    def __init__(self, clock: Callable[[], float], *, replies_kept: float = 3600.0) -> None:
        self._clock = clock
        self.replies_kept = ms(replies_kept)
        self.events: dict[str, Event] = {}
        self.talks: dict[str, Talk] = {}
        self.aliases: dict[str, str] = {}
        self.pauses: dict[str, int] = {}
        self.dead_operations: list[DeadLetter] = []
        #: Of every account, under its own name: what is known of it, and all names for it.
        self.names: dict[AccountKey, tuple[set[str], set[str]]] = {}
        #: Per queue and account with work: the microsecond at which it was served last.
        self.places: dict[tuple[QueueName, str], int] = {}
        self.servers: set[str] = set()
        #: Of an account: its kind, why, since and until, and the token that tries if it is over.
        self.restricted: dict[str, tuple[str, str, int, int, str | None]] = {}
        #: Of an account's kind: when there is room, and when and under which token the last went.
        self.paces: dict[tuple[str, str], tuple[int, int, str | None]] = {}

    @property
    def now(self) -> int:
        return ms(self._clock())

    # Accepting

    def account(self, name: AccountKey, facts: str) -> AccountKey:
        told = set(facts.split())
        for account, (_, names) in self.names.items():
            if name in names:
                return account
        same = [
            account
            for account, (known, _) in self.names.items()
            if agree(known, told) and tells(known & told)
        ]
        account = same[0] if len(same) == 1 else name
        known, names = self.names.setdefault(account, (set(), set()))
        known |= told
        names.add(name)
        return account

    def serve(self, server: str = "", *, adopt: Adopt = "first") -> tuple[str, ...]:
        if adopt == "only":
            self.servers.clear()
        if server and (adopt != "first" or not self.servers):
            self.servers.add(server)
        return tuple(sorted(self.servers))

    def accept(
        self, event: NewEvent, rules: AcceptRules = DEFAULT_RULES, *, token: str | None = None
    ) -> Accepted:
        names = [event.conversation_key, *event.aliases]
        conversation_key, is_one = self._unite(names)
        known = self.events.get(event.event_key) or self._twin(event, conversation_key)
        if known is None and event.pause:
            self.pause(conversation_key, seconds=event.pause)
        if known is None and len(self._talk(conversation_key).inbox) >= rules.max_queued:
            return Accepted(
                status="busy",
                conversation_key=conversation_key,
                event_key=event.event_key,
                due_in=self.due("inbox", conversation_key) or 0.0,
            )
        if known is not None and known.event_key != event.event_key:
            self._meet(event, conversation_key, known)
        by = token or object()
        if known is None:
            known = Event(
                event.event_key,
                conversation_key,
                event.digest,
                event.payload,
                by,
                self.now,
                event.source,
                event.facts,
            )
            self.events[event.event_key] = known
            talk = self.talks.setdefault(conversation_key, Talk())
            talk.inbox.append(known)
            talk.debounce, talk.max_debounce = ms(rules.debounce), ms(rules.max_debounce)
            self._update_places()
        acquired = None
        if known.state == "queued" and not is_one:
            known.apart = tuple(names)
        if token is not None and known.state == "queued":
            acquired = self.acquire(
                "inbox",
                token,
                conversation_key=known.conversation_key,
                lease=rules.lease,
                account_concurrency=rules.account_concurrency,
            )
        waits = known.state == "queued" and acquired is None
        return Accepted(
            status="new" if known.by == by else "duplicate",
            conversation_key=known.conversation_key,
            event_key=known.event_key,
            state=known.state,
            outcome=known.outcome if self.now < known.said_until else known.fact,
            differs=known.digest != event.digest,
            due_in=(waits and self.due("inbox", known.conversation_key)) or 0.0,
            acquired=acquired,
        )

    def _twin(self, event: NewEvent, conversation_key: str) -> Event | None:
        told = set(event.facts.split())
        of_source = [e for e in self.events.values() if event.source and e.source == event.source]
        twins = [
            e
            for e in of_source[:MOST_TWINS]
            if agree(set(e.facts.split()), told)
            and (told or self._follow(e.conversation_key) == conversation_key)
        ]
        return twins[0] if len(twins) == 1 else None

    def _meet(self, event: NewEvent, conversation_key: str, known: Event) -> None:
        known.facts = " ".join(sorted({*known.facts.split(), *event.facts.split()}))
        if conversation_key[:15] == known.conversation_key[:15]:
            self._unite([known.conversation_key, conversation_key])

    def find(self, account: AccountKey, source: str, facts: str) -> str | None:
        of_source = [e for e in self.events.values() if e.source == source]
        told = set(facts.split())
        found = [
            e
            for e in of_source[:MOST_TWINS]
            if e.event_key[:15] == account and agree(set(e.facts.split()), told)
        ]
        return found[0].event_key if len(found) == 1 else None

    def amend(self, event_key: str, before: str, after: str, *, due: bool = False) -> str | None:
        event = self.events.get(event_key)
        if event is None or event.state != "queued":
            return None
        if event.payload == before:
            event.payload = after
            if due:
                self.talks[event.conversation_key].queues["inbox"].held = 0
        return event.payload

    def _pause(self, conversation_key: str, seconds: float) -> None:
        if seconds:
            self.pause(conversation_key, seconds=seconds)

    def pause(self, conversation_key: str, *, seconds: float) -> None:
        self.pauses[self._follow(conversation_key)] = self.now + ms(seconds)

    def alias(self, name: str, conversation_key: str, *, lease: Lease | None = None) -> str | None:
        target, is_one = self._unite([conversation_key, name], lease)
        return target if is_one else None

    def _unite(self, names: list[str], lease: Lease | None = None) -> tuple[str, bool]:
        roots = list(dict.fromkeys(map(self._follow, names)))
        bound = [root for root in roots if self._is_bound(root, lease)]
        past = [root for root in roots if self._talk(root).turns]
        target = (bound or past or roots)[0]
        linked = [self._link(root, target, lease) for root in roots if root != target]
        return target, all(linked)

    def _is_bound(self, name: str, lease: Lease | None) -> bool:
        talk = self._talk(name)
        if talk.operations["outbox"] or talk.operations["replies"]:
            return True
        return not self._is_mine(name, lease) and self.now < (talk.queues["inbox"].until or 0)

    def _is_mine(self, name: str, lease: Lease | None) -> bool:
        return lease is not None and lease.conversation_key == name and self.holds(lease)

    def _link(self, name: str, target: str, lease: Lease | None) -> bool:
        talk, there = self._talk(name), self._talk(target)
        if self._is_bound(name, lease) or len({talk.tenant, there.tenant} - {None}) > 1:
            return False
        if self._is_mine(name, lease):
            talk.inbox[0].starts -= 1
        if talk.inbox:
            begun = Talk(debounce=talk.debounce, max_debounce=talk.max_debounce)
            there = self.talks.setdefault(target, begun)
            turn, own = there.queues["inbox"], talk.queues["inbox"]
            for event in talk.inbox:
                event.conversation_key = target
            if self.now < (turn.until or 0) or turn.held is not None or own.held is not None:
                there.inbox += talk.inbox
            else:
                there.inbox = list(heapq.merge(there.inbox, talk.inbox, key=lambda e: e.at))
            talk.inbox, own.until, own.held = [], None, None
            self._update_places()
        if target in self.talks:
            there.tenant = there.tenant or talk.tenant
        self.aliases[name] = target
        self.pauses[target] = max(self.pauses.get(target, 0), self.pauses.pop(name, 0))
        return True

    # Sending

    def record_ack(self, conversation_key: str, message_id: str, level: int) -> None:
        talk = self._talk(self._follow(conversation_key))
        known = next((ack.level for ack in talk.acks if ack.message_id == message_id), None)
        if known is None or level > known or (level == -1 and known in {0, 1}):
            others = [ack for ack in talk.acks if ack.message_id != message_id]
            new = Ack(message_id=message_id, level=level, at=self.now / 1000)
            talk.acks = [*others, new][-ACKS_KEPT:]

    def restrict(self, account: AccountKey, *, kind: str, seconds: float, why: str) -> None:
        known, until = self._restriction(account), self.now + ms(seconds)
        if known is not None and known[0] not in {kind, FIRST_CONTACTS}:
            ends_none = kind == FIRST_CONTACTS and known[4] is None
            if known[3] > (self.now if ends_none else until):
                return
        since = self.now if known is None or known[0] != kind else known[2]
        self.restricted[account] = (kind, why, since, until, None)

    def lift(
        self, account: AccountKey, *, kind: str | None = None, token: str | None = None
    ) -> None:
        known = self._restriction(account)
        if known is None or known[0] != (kind or known[0]) or (token and known[4] != token):
            return
        del self.restricted[account]

    def restrictions(self) -> tuple[Restriction, ...]:
        found = {account: self._restriction(account) for account in sorted(self.restricted)}
        return tuple(
            Restriction(
                account=account, kind=of[0], why=of[1], since=of[2] / 1000, until=of[3] / 1000
            )
            for account, of in found.items()
            if of is not None
        )

    def _restriction(self, account: str) -> tuple[str, str, int, int, str | None] | None:
        known = self.restricted.get(account)
        return None if known is None or self.now >= known[3] + ms(RESTRICTION_KEPT) else known

    def _holding(
        self, conversation_key: str, queue: QueueName
    ) -> tuple[str, str, int, int, str | None] | None:
        """A cap holds those alone that have sent nothing."""
        known = self._restriction(conversation_key[:15]) if queue == "replies" else None
        has_sent = self._talk(conversation_key).queues["replies"].anchor is not None
        return None if known is None or (known[0] == FIRST_CONTACTS and has_sent) else known

    def _restricted_until(self, conversation_key: str, queue: QueueName) -> int:
        known = self._holding(conversation_key, queue)
        return 0 if known is None else known[3]

    def _try(self, account: str, until: int, token: str | None) -> None:
        if (known := self._restriction(account)) is not None:
            self.restricted[account] = (*known[:3], until, token)

    def pace(self, lease: Lease, token: str, *, spacing: Mapping[str, float]) -> float | None:
        state = self._held(lease)
        if state is None:
            return None
        account, times = lease.conversation_key[:15], {k: ms(v) for k, v in spacing.items()}
        known = {kind: self.paces.get((account, kind), (0, 0, None)) for kind in times}
        if (
            state.slot is None
            or state.slot[0] != token
            or self.now > state.slot[1] + max(times.values())
        ):
            state.slot = token, max(self.now, *(room for room, _, _ in known.values()))
            for kind, (_, last, by) in known.items():
                known[kind] = state.slot[1] + times[kind], last, by
        others = [
            last + times[kind] for kind, (_, last, by) in known.items() if by not in {None, token}
        ]
        wait = max(state.slot[1], *others, 0) - self.now
        for kind, (room, last, by) in known.items():
            now = (self.now, token) if wait <= 0 else (last, by)
            self.paces[account, kind] = (room, *now)
        return max(0, wait) / 1000

    # Leases

    def acquire(
        self,
        queue: QueueName,
        token: str,
        *,
        conversation_key: str | None = None,
        lease: float = 30.0,
        account_concurrency: int = 0,
    ) -> Acquired | None:
        if conversation_key is None:
            conversation_key = self._held_by(queue, token) or self.next_due(
                queue, account_concurrency
            )
        talk = self.talks.get(conversation_key or "")
        if conversation_key is None or talk is None:
            return None
        state = talk.queues[queue]
        if state.token == token and state.until is not None:
            return self._acquired(conversation_key, queue)
        due = talk.due(queue)
        if (
            due is None
            or max(due, self._restricted_until(conversation_key, queue)) > self.now
            or self._is_full(conversation_key[:15], queue, account_concurrency)
        ):
            return None
        state.token, state.epoch, state.until = token, state.epoch + 1, self.now + ms(lease)
        state.acquired_at = self.now
        if self._holding(conversation_key, queue):
            self._try(conversation_key[:15], state.until, token)
        if queue == "inbox":
            talk.inbox[0].starts += 1
            state.held, state.not_before = None, 0
        ring = (queue, conversation_key[:15])
        self.places[ring] = max(self.places[ring], self.now * 1000) + 1
        return self._acquired(conversation_key, queue)

    def renew(self, lease: Lease, *, seconds: float = 30.0) -> Lease | None:
        state = self._held(lease)
        if state is None:
            return None
        state.until = max(state.until or 0, self.now + ms(seconds))
        return replace(lease, until=state.until / 1000)

    def release(
        self,
        lease: Lease,
        *,
        delay: float = 0.0,
        failed: bool = False,
        held: int | None = None,
        done: Confirmed | None = None,
        why: str | None = None,
    ) -> bool:
        if done is not None:
            self._confirm(lease, done)
        talk = self._talk(lease.conversation_key)
        state = talk.queues[lease.queue]
        if (state.token, state.epoch) != (lease.token, lease.epoch):
            return False
        if state.until is None:
            return True
        state.until = state.acquired_at = None
        tried = self._restriction(lease.conversation_key[:15])
        if lease.queue == "replies" and tried is not None and tried[4] == lease.token:
            self._try(lease.conversation_key[:15], min(tried[3], self.now), None)
        if why is None or state.why is None or state.why[0] != why:
            state.why = None if why is None else (why, self.now)
        state.not_before = max(state.not_before, self.now + ms(delay))
        if lease.queue == "inbox":
            state.held = 0 if state.held == 0 and held is not None else held
            talk.inbox[0].starts -= 1
            talk.inbox[0].errors += failed
        return True

    # Turns

    def commit_turn(self, lease: Lease, commit: Commit) -> Committed:
        head, by = self.events[commit.event_keys[0]], (lease.epoch, lease.token)
        if head.state != "queued":
            return "done" if head.ended_by == by else "already"
        state, talk = self._held(lease), self._talk(lease.conversation_key)
        known = talk.inbox[: len(commit.event_keys) + len(commit.kept)]
        answered = [event for event in known if event.event_key not in commit.kept]
        kept = [event for event in known if event.event_key in commit.kept]
        if state is None or [event.event_key for event in (*answered, *kept)] != [
            *commit.event_keys,
            *commit.kept,
        ]:
            return "fenced"
        if commit.unless_paused and self._is_paused(lease.conversation_key):
            return "paused"
        if commit.unless_newer and len(talk.inbox) > len(known):
            return "newer"
        for event in answered:
            event.state, event.ended_by = "dead" if commit.dead else "done", by
            event.outcome, event.fact = commit.outcomes.get(event.event_key), commit.fact
            event.said_until = 0 if event.outcome is None else self.now + self.replies_kept
            event.reason = commit.reason if commit.dead else ""
            if not commit.dead:
                event.calls = {}
        talk.inbox[: len(known)] = kept
        is_due = state.held == 0
        state.until = state.held = state.acquired_at = state.why = None
        self._hold(lease.conversation_key, commit, kept, is_due=is_due)
        work: dict[QueueName, Sequence[Operation]] = {
            "outbox": commit.operations,
            "replies": commit.replies,
        }
        for queue, operations in work.items():
            if operations and not talk.operations[queue]:
                sending = talk.queues[queue]
                sending.not_before = max(sending.not_before, self.now)
            talk.operations[queue] += operations
            talk.queued_at |= {operation.id: self.now for operation in operations}
        valid = commit.snapshot is not None and commit.snapshot_ttl > 0
        lives = ms(min(commit.snapshot_ttl, 24 * 3600.0))
        talk.snapshot = (commit.snapshot or "", self.now + lives) if valid else None
        talk.turns += 1
        talk.tenant = talk.tenant or commit.tenant
        talk.note = talk.note if commit.note is None else commit.note
        self._pause(lease.conversation_key, commit.pause)
        self._update_places()
        return "done"

    def _hold(
        self, conversation_key: str, commit: Commit, kept: list[Event], *, is_due: bool
    ) -> None:
        talk = self.talks[conversation_key]
        state, waits = talk.queues["inbox"], []
        if kept:
            kept[0].starts = kept[0].errors = 0
            waits.append(commit.kept_for)
        if (held := commit.held) is not None:
            waits.append(held.seconds)
            first = Event(held.event_key, conversation_key, "", held.payload, object(), self.now)
            self.events[first.event_key] = first
            talk.inbox.insert(0, first)
        if waits and (held is not None or not is_due):
            state.held = len(kept) + (held is not None)
            state.not_before = self.now + ms(min(waits))

    def begin_call(
        self, lease: Lease, event_keys: Sequence[str], call: str, *, token: str
    ) -> KeptCall | None:
        if not self._is_turn(lease, event_keys[0]):
            return None
        for event_key in event_keys:
            event = self.events.get(event_key)
            if event is not None and call in event.calls:
                return event.calls[call]
        begun = self.events[event_keys[0]].calls[call] = KeptCall(by=token)
        return begun

    def end_call(
        self, lease: Lease, event_key: str, call: str, *, token: str, result: str | None
    ) -> bool:
        if not self._is_turn(lease, event_key):
            return False
        calls = self.events[event_key].calls
        if result is None:
            calls.pop(call, None)
        else:
            calls[call] = KeptCall(by=token, result=result)
        return True

    def _is_turn(self, lease: Lease, event_key: str) -> bool:
        event = self.events.get(event_key)
        return self._held(lease) is not None and event is not None and event.state == "queued"

    # Operations

    def begin(
        self,
        lease: Lease,
        operation_id: str,
        pos: int,
        *,
        attempt: int,
        need: float,
        note: str | None = None,
        done: Confirmed | None = None,
    ) -> Cursor | None:
        if done is not None and self._confirm(lease, done) == "fenced":
            return None
        if self._refusal(lease, operation_id, pos):
            return None
        known = self._holding(lease.conversation_key, lease.queue)
        if known and self.now < known[3] and known[4] != lease.token:
            return None
        state = self._talk(lease.conversation_key).queues[lease.queue]
        cursor = self._move_to(state, operation_id, pos)
        if cursor.tries != attempt or cursor.sent_at is None:
            cursor = replace(cursor, tries=attempt, sent_at=self.now / 1000, echoes=())
        state.cursor = replace(cursor, note=cursor.note if note is None else note)
        state.until = max(state.until or 0, self.now + ms(need))
        return state.cursor

    def confirm(
        self, lease: Lease, operation_id: str, pos: int, *, last: bool, anchor: str | None = None
    ) -> Done:
        return self._confirm(
            lease, Confirmed(operation_id=operation_id, pos=pos, last=last, anchor=anchor)
        )

    def _confirm(self, lease: Lease, done: Confirmed) -> Done:
        operation_id, pos = done.operation_id, done.pos
        talk, call = (
            self._talk(lease.conversation_key),
            ("done", lease.epoch, lease.token, pos, operation_id),
        )
        state = talk.queues[lease.queue]
        if state.moved_by == call:
            return "done"
        if refused := self._refusal(lease, operation_id, pos):
            return refused
        state.moved_by, state.not_before, state.why = call, 0, None
        state.anchor = state.anchor if done.anchor is None else done.anchor
        if done.last:
            del talk.operations[lease.queue][0]
            state.cursor = None
        else:
            state.cursor = self._move_to(state, operation_id, pos + 1)
        self._update_places()
        return "done"

    def retry(
        self,
        lease: Lease,
        operation_id: str,
        pos: int,
        *,
        delay: float,
        sent: bool,
        note: str | None = None,
    ) -> Done:
        if refused := self._refusal(lease, operation_id, pos):
            return refused
        state = self._talk(lease.conversation_key).queues[lease.queue]
        cursor = self._move_to(state, operation_id, pos)
        state.cursor = replace(
            cursor,
            sent_at=cursor.sent_at if sent else None,
            echoes=cursor.echoes if sent else (),
            note=cursor.note if note is None else note,
        )
        state.not_before = self.now + ms(delay)
        return "done"

    def set_dead(self, lease: Lease, operation_id: str, *, reason: str) -> Done:
        talk, call = (
            self._talk(lease.conversation_key),
            ("set_dead", lease.epoch, lease.token, operation_id),
        )
        state = talk.queues[lease.queue]
        if state.moved_by == call:
            return "done"
        if refused := self._refusal(lease, operation_id, None):
            return refused
        cursor = state.cursor
        state.moved_by, state.not_before, state.cursor, state.why = call, 0, None, None
        turn = operation_id.rpartition("/")[0] + "/"
        queue = talk.operations[lease.queue]
        while queue and queue[0].id.startswith(turn):
            operation, at = queue.pop(0), cursor or Cursor(operation_id=operation_id)
            dead = DeadLetter(
                conversation_key=lease.conversation_key,
                queue=lease.queue,
                id=operation.id,
                body=operation.body,
                reason=reason,
                since=self.now / 1000,
                pos=at.pos,
                sent_at=at.sent_at,
                tries=at.tries,
            )
            self.dead_operations.append(dead)
            cursor = None
        self._update_places()
        return "done"

    def record_echo(self, conversation_key: str, note: str) -> bool:
        state = self._talk(self._follow(conversation_key)).queues["replies"]
        if state.cursor is None or state.cursor.sent_at is None:
            return False
        echoes = dict.fromkeys([*state.cursor.echoes, note])
        state.cursor, state.not_before = replace(state.cursor, echoes=tuple(echoes)), 0
        return True

    def due(self, queue: QueueName, conversation_key: str) -> float | None:
        at = self._talk(conversation_key).due(queue)
        if at is None:
            return None
        return max(0, max(at, self._restricted_until(conversation_key, queue)) - self.now) / 1000

    def backlog(self) -> Backlog:
        states = [event.state for event in self.events.values()]
        held = sum(bool(talk.queues["inbox"].held) for talk in self.talks.values())
        return Backlog(
            queued=states.count("queued") - held,
            interrupts=held,
            writes=sum(len(talk.operations["outbox"]) for talk in self.talks.values()),
            replies=sum(len(talk.operations["replies"]) for talk in self.talks.values()),
            dead_letters=len(self.dead_operations) + states.count("dead"),
        )

    # Operators

    def loads(self) -> tuple[Load, ...]:
        dues: dict[tuple[str, QueueName], list[tuple[int, str]]] = {}
        for conversation_key, talk in self.talks.items():
            for queue in QUEUES:
                if not is_claim(conversation_key) and (due := talk.due(queue)) is not None:
                    work = dues.setdefault((conversation_key[:15], queue), [])
                    work.append((due, conversation_key))
        found = [(min(work)[0], *of, min(work)[1], len(work)) for of, work in dues.items()]
        return tuple(
            Load(
                account=account,
                queue=queue,
                conversations=n,
                due_in=(due - self.now) / 1000,
                held=(self.talks[first].queues[queue].until or 0) > self.now,
                queued_for=self._queued_for(account) if queue == "replies" else None,
            )
            for due, account, queue, first, n in sorted(found)
        )

    def _queued_for(self, account: str) -> float:
        since = [
            talk.queued_at[talk.operations["replies"][0].id]
            for name, talk in self.talks.items()
            if name.startswith(account) and talk.operations["replies"]
        ]
        return (self.now - min(since)) / 1000

    def view(self, conversation_key: str, *, most: int = 100) -> ConversationView:
        conversation_key = self._follow(conversation_key)
        talk, paused = self._talk(conversation_key), self.pauses.get(conversation_key, 0)
        snapshot, until = talk.snapshot or (None, 0)

        def queue_view(queue: QueueName) -> QueueView:
            state, operations = talk.queues[queue], talk.operations.get(queue, [])
            return QueueView(
                depth=len(talk.inbox) if queue == "inbox" else len(operations),
                due_in=self.due(queue, conversation_key),
                held_until=None if state.until is None else state.until / 1000,
                held_since=None if state.acquired_at is None else state.acquired_at / 1000,
                why=state.why and state.why[0],
                since=state.why and state.why[1] / 1000,
                cursor=state.cursor,
                operations=tuple(operations[:most]),
                anchor=state.anchor,
            )

        return ConversationView(
            conversation_key=conversation_key,
            now=self.now / 1000,
            turns=talk.turns,
            paused_until=paused / 1000 if self.now < paused else None,
            events=tuple(map(_queued, talk.inbox[:most])),
            running=self._running(conversation_key[:15]),
            note=talk.note,
            acks=tuple(talk.acks),
            snapshot=snapshot if most > 1 and self.now < until else None,
            restriction=next(
                (
                    each
                    for each in self.restrictions()
                    if each.account == conversation_key[:15]
                    and self._holding(conversation_key, "replies")
                ),
                None,
            ),
            inbox=queue_view("inbox"),
            outbox=queue_view("outbox"),
            replies=queue_view("replies"),
        )

    def dead_letters(
        self, conversation_key: str | None = None, *, most: int = 100
    ) -> tuple[DeadLetter, ...]:
        dead = [
            DeadLetter(
                conversation_key=event.conversation_key,
                queue="inbox",
                id=event.event_key,
                body=event.payload,
                reason=event.reason,
                since=event.at / 1000,
                tries=event.starts + event.errors,
            )
            for event in sorted(self.events.values(), key=lambda event: event.event_key)
            if event.state == "dead"
        ]
        found = sorted(
            [*self.dead_operations, *dead],
            key=lambda one: (one.since, one.conversation_key, one.queue),
        )
        wanted = (
            {one.conversation_key for one in found}
            if conversation_key is None
            else {conversation_key, self._follow(conversation_key)}
        )
        return tuple(one for one in found if one.conversation_key in wanted)[:most]

    def requeue(self, letter: DeadLetter, *, token: str, body: str | None = None) -> str | None:
        note, renewed = call_key(letter, "requeue", token), renewed_id(letter, token)
        if note in self.events:
            return renewed
        if not self._unset(letter):
            return None
        conversation_key = self._follow(letter.conversation_key)
        talk, body = (
            self.talks.setdefault(conversation_key, Talk()),
            letter.body if body is None else body,
        )
        if letter.queue == "inbox":
            old = self.events[letter.id]
            self.events[note] = Event(note, conversation_key, old.digest, body, note, self.now)
            known = {name: kept for name, kept in old.calls.items() if kept.result is not None}
            self.events[note].calls = known
            talk.inbox.append(self.events[note])
        else:
            if not talk.operations[letter.queue]:
                state = talk.queues[letter.queue]
                state.not_before = max(state.not_before, self.now)
            talk.operations[letter.queue].append(Operation(id=renewed, body=body))
            talk.queued_at[renewed] = self.now
            self.events[note] = Event(note, conversation_key, "", "", "", self.now, state="done")
        self._update_places()
        return renewed

    def discard(self, letter: DeadLetter, *, token: str) -> bool:
        note = call_key(letter, "discard", token)
        if note in self.events:
            return True
        if not self._unset(letter):
            return False
        self.events[note] = Event(note, letter.conversation_key, "", "", "", self.now, state="done")
        return True

    def forget(self, conversation_key: str) -> bool:
        names = self.names_of(conversation_key)
        known = len(names) > 1 or any(
            [
                names & self.talks.keys(),
                [event for event in self.events.values() if event.conversation_key in names],
                [one for one in self.dead_operations if one.conversation_key in names],
                [name for name in names if self._is_paused(name)],
            ]
        )
        self.events = {
            event_key: event
            for event_key, event in self.events.items()
            if event.conversation_key not in names
        }
        self.dead_operations = [
            one for one in self.dead_operations if one.conversation_key not in names
        ]
        for name in names:
            for kept in (self.talks, self.aliases, self.pauses):
                kept.pop(name, None)
        self._update_places()
        return bool(known)

    def names_of(self, conversation_key: str) -> set[str]:
        """A conversation and every alias that leads to it."""
        conversation_key = self._follow(conversation_key)
        return {conversation_key} | {
            alias for alias in self.aliases if self._follow(alias) == conversation_key
        }

    def _unset(self, letter: DeadLetter) -> bool:
        """Take it from the dead letters; whether it was there."""
        if letter.queue == "inbox":
            event = self.events.get(letter.id)
            if event is None or event.state != "dead":
                return False
            event.state = "done"
            return True
        place = (letter.conversation_key, letter.queue, letter.id)
        found = next(
            (
                one
                for one in self.dead_operations
                if (one.conversation_key, one.queue, one.id) == place
            ),
            None,
        )
        if found is not None:
            self.dead_operations.remove(found)
        return found is not None

    # What tests ask besides

    def next_due(self, queue: QueueName, account_concurrency: int = 0) -> str | None:
        """Accounts take turns; within an account the longest due comes first."""
        dues: dict[str, list[tuple[int, str]]] = {}
        for conversation_key, talk in self.talks.items():
            if not is_claim(conversation_key) and (due := talk.due(queue)) is not None:
                dues.setdefault(conversation_key[:15], []).append((due, conversation_key))
        ring = [
            (max(self.places[queue, account], min(work)[0] * 1000), account)
            for account, work in dues.items()
            if self._first_of(work, queue)
            and not self._is_full(account, queue, account_concurrency)
        ]
        return self._first_of(dues[min(ring)[1]], queue) if ring else None

    def _first_of(self, work: list[tuple[int, str]], queue: QueueName) -> str | None:
        return next(
            (
                conversation_key
                for due, conversation_key in sorted(work)
                if max(due, self._restricted_until(conversation_key, queue)) <= self.now
            ),
            None,
        )

    def holds(self, lease: Lease) -> bool:
        return self._held(lease) is not None

    # What the operations stand on

    def _talk(self, conversation_key: str | None) -> Talk:
        return self.talks.get(conversation_key or "", Talk())

    def _follow(self, conversation_key: str) -> str:
        while conversation_key in self.aliases:
            conversation_key = self.aliases[conversation_key]
        return conversation_key

    def _is_paused(self, conversation_key: str) -> bool:
        return self.now < self.pauses.get(conversation_key, 0)

    def _is_full(self, account: str, queue: QueueName, account_concurrency: int) -> bool:
        return queue == "inbox" and 0 < account_concurrency <= self._running(account)

    def _running(self, account: str) -> int:
        ends = [
            t.queues["inbox"].until
            for conversation_key, t in self.talks.items()
            if conversation_key[:15] == account
        ]
        return sum(end is not None and end > self.now for end in ends)

    def _held(self, lease: Lease) -> QueueState | None:
        state = self._talk(lease.conversation_key).queues[lease.queue]
        same = (state.token, state.epoch) == (lease.token, lease.epoch)
        return state if same and state.until is not None else None

    def _held_by(self, queue: QueueName, token: str) -> str | None:
        for conversation_key, talk in self.talks.items():
            if talk.queues[queue].token == token and talk.queues[queue].until is not None:
                return conversation_key
        return None

    def _update_places(self) -> None:
        """An account without work has no place."""
        busy = {
            (queue, conversation_key[:15])
            for conversation_key, talk in self.talks.items()
            for queue in QUEUES
            if talk.due(queue) is not None
        }
        self.places = {ring: self.places.get(ring, 0) for ring in busy}

    def _acquired(self, conversation_key: str, queue: QueueName) -> Acquired:
        talk, state = self.talks[conversation_key], self.talks[conversation_key].queues[queue]
        work: QueueName = "outbox" if queue == "inbox" else queue
        valid = queue == "inbox" and talk.snapshot is not None and self.now < talk.snapshot[1]
        return Acquired(
            lease=Lease(
                conversation_key=conversation_key,
                queue=queue,
                token=state.token or "",
                epoch=state.epoch,
                until=(state.until or 0) / 1000,
            ),
            now=self.now / 1000,
            events=tuple(map(_queued, talk.inbox)) if queue == "inbox" else (),
            operations=tuple(talk.operations[work]),
            cursor=talk.queues[work].cursor,
            anchor=talk.queues[work].anchor,
            snapshot=talk.snapshot[0] if valid and talk.snapshot else None,
            turns=talk.turns,
            paused=queue == "inbox" and self._is_paused(conversation_key),
            tenant=talk.tenant,
            note=talk.note if queue == "inbox" else None,
            restriction=self._on_trial(conversation_key, queue),
        )

    def _on_trial(self, conversation_key: str, queue: QueueName) -> Restriction | None:
        account = conversation_key[:15]
        known, token = self._restriction(account), self.talks[conversation_key].queues[queue].token
        if known is None or queue != "replies" or known[4] != token:
            return None
        return next(each for each in self.restrictions() if each.account == account)

    def _refusal(self, lease: Lease, operation_id: str, pos: int | None) -> Done | None:
        talk = self._talk(lease.conversation_key)
        if [operation.id for operation in talk.operations[lease.queue][:1]] != [operation_id]:
            return "already"
        cursor = talk.queues[lease.queue].cursor
        if cursor is not None and pos is not None and cursor.pos > pos:
            return "already"
        return None if self._held(lease) else "fenced"

    @staticmethod
    def _move_to(state: QueueState, operation_id: str, pos: int) -> Cursor:
        """The cursor on a part; what was noted about an earlier part is forgotten."""
        if state.cursor is not None and (state.cursor.operation_id, state.cursor.pos) == (
            operation_id,
            pos,
        ):
            return state.cursor
        return Cursor(operation_id=operation_id, pos=pos)


def agree(known: set[str], told: set[str]) -> bool:
    """Whether no kind of fact has two values."""
    return len({fact[0] for fact in known | told}) == len(known | told)


def tells(facts: set[str]) -> bool:
    """Whether they tell one receiving side from all others."""
    return any(fact[0] in "bdn" for fact in facts)


def ms(seconds: float) -> int:
    return round(seconds * 1000)


def _queued(event: Event) -> QueuedEvent:
    return QueuedEvent(
        event_key=event.event_key,
        payload=event.payload,
        accepted_at=event.at / 1000,
        starts=event.starts,
        errors=event.errors,
        apart=event.apart,
    )
