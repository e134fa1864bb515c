"""What an event store does, on plain dictionaries: the specification that stores are tested by.

Each method answers what the :class:`EventStore` operation of the same name must answer. Times are
whole milliseconds inside, as in the stores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_convsync.stores._checks import call_handle, renewed_id
from langchain_convsync.stores.base import (
    Accepted,
    Backlog,
    Commit,
    Committed,
    Confirmed,
    ConversationView,
    Cursor,
    Done,
    EventState,
    Lane,
    LaneView,
    Lease,
    Load,
    NewEvent,
    Op,
    QueuedEvent,
    SetAside,
    Taken,
    is_claim,
)

LANES: tuple[Lane, ...] = ("turn", "write", "say")


@dataclass
class Event:
    eid: str
    cid: str
    digest: str
    payload: str
    by: object
    at: int
    state: EventState = "queued"
    outcome: str | None = None
    starts: int = 0
    errors: int = 0
    ended_by: tuple[int, str] | None = None


@dataclass
class LaneState:
    token: str | None = None
    epoch: int = 0
    until: int | None = None  # None once it was given back
    not_before: int = 0
    cursor: Cursor | None = None
    anchor: str | None = None
    moved_by: tuple[Any, ...] | None = None  # the call that moved the queue last


@dataclass
class Talk:
    """A conversation."""

    inbox: list[Event] = field(default_factory=list)
    ops: dict[Lane, list[Op]] = field(default_factory=lambda: {"write": [], "say": []})
    lanes: dict[Lane, LaneState] = field(
        default_factory=lambda: {lane: LaneState() for lane in LANES}
    )
    quiet: int = 0
    max_quiet: int = 0
    snapshot: tuple[str, int] | None = None
    turns: int = 0

    @property
    def busy(self) -> bool:
        return bool(self.inbox or self.ops["write"] or self.ops["say"])

    def due(self, lane: Lane) -> int | None:
        state = self.lanes[lane]
        at = max(state.until or 0, state.not_before)
        if lane != "turn":
            return at if self.ops[lane] else None
        if not self.inbox:
            return None
        first, last = self.inbox[0].at, self.inbox[-1].at
        return max(at, min(first + self.max_quiet, last + self.quiet))


class StoreModel:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.events: dict[str, Event] = {}
        self.talks: dict[str, Talk] = {}
        self.aliases: dict[str, str] = {}
        self.pauses: dict[str, int] = {}
        self.parked: list[SetAside] = []
        #: Per lane and account with work: the microsecond at which it was served last.
        self.places: dict[tuple[Lane, str], int] = {}

    @property
    def now(self) -> int:
        return ms(self._clock())

    # Accepting

    def accept(
        self,
        event: NewEvent,
        *,
        token: str | None = None,
        lease: float = 30.0,
        quiet: float = 0.0,
        max_quiet: float = 0.0,
        backlog: int = 1000,
        at_once: int = 0,
    ) -> Accepted:
        cid = self._follow(event.cid)
        known = self.events.get(event.eid)
        if known is None and len(self._talk(cid).inbox) >= backlog:
            return Accepted(status="busy", cid=cid, due_in=self.due("turn", cid) or 0.0)
        if event.alias is not None:
            self.link(event.alias, cid)
        by = token or object()
        if known is None:
            known = Event(event.eid, cid, event.digest, event.payload, by, self.now)
            self.events[event.eid] = known
            talk = self.talks.setdefault(cid, Talk())
            talk.inbox.append(known)
            talk.quiet, talk.max_quiet = ms(quiet), ms(max_quiet)
            self._update_places()
        taken = None
        if token is not None and known.state == "queued":
            taken = self.take("turn", token, cid=known.cid, lease=lease, at_once=at_once)
        waits = known.state == "queued" and taken is None
        return Accepted(
            status="new" if known.by == by else "duplicate",
            cid=known.cid,
            state=known.state,
            outcome=known.outcome,
            differs=known.digest != event.digest,
            due_in=(waits and self.due("turn", known.cid)) or 0.0,
            taken=taken,
        )

    def amend(self, eid: str, before: str, after: str) -> str | None:
        event = self.events.get(eid)
        if event is None or event.state != "queued":
            return None
        if event.payload == before:
            event.payload = after
        return event.payload

    def pause(self, cid: str, *, seconds: float) -> None:
        self.pauses[self._follow(cid)] = self.now + ms(seconds)

    def link(self, alias: str, cid: str, *, lease: Lease | None = None) -> bool:
        cid = self._follow(cid)
        if alias == cid:
            return True
        talk = self._talk(alias)
        turn = talk.lanes["turn"]
        mine = lease is not None and lease.cid == alias and self._held(lease) is not None
        if talk.ops["write"] or talk.ops["say"] or (self.now < (turn.until or 0) and not mine):
            return False
        if mine:
            talk.inbox[0].starts -= 1
        if talk.inbox:
            there = self.talks.setdefault(cid, Talk(quiet=talk.quiet, max_quiet=talk.max_quiet))
            for event in talk.inbox:
                event.cid = cid
            there.inbox += talk.inbox
            talk.inbox, turn.until = [], None
            self._update_places()
        self.aliases[alias] = cid
        self.pauses[cid] = max(self.pauses.get(cid, 0), self.pauses.pop(alias, 0))
        return True

    # Leases

    def take(
        self,
        lane: Lane,
        token: str,
        *,
        cid: str | None = None,
        lease: float = 30.0,
        at_once: int = 0,
    ) -> Taken | None:
        if cid is None:
            cid = self._held_by(lane, token) or self.next_due(lane, at_once)
        talk = self.talks.get(cid or "")
        if cid is None or talk is None:
            return None
        state = talk.lanes[lane]
        if state.token == token and state.until is not None:
            return self._taken(cid, lane)
        due = talk.due(lane)
        if due is None or due > self.now or self._is_full(cid[:15], lane, at_once):
            return None
        state.token, state.epoch, state.until = token, state.epoch + 1, self.now + ms(lease)
        if lane == "turn":
            talk.inbox[0].starts += 1
        ring = (lane, cid[:15])
        self.places[ring] = max(self.places[ring], self.now * 1000) + 1
        return self._taken(cid, lane)

    def beat(self, lease: Lease, *, seconds: float = 30.0) -> Lease | None:
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
        done: Confirmed | None = None,
    ) -> bool:
        if done is not None:
            self._confirm(lease, done)
        talk = self._talk(lease.cid)
        state = talk.lanes[lease.lane]
        if (state.token, state.epoch) != (lease.token, lease.epoch):
            return False
        if state.until is None:
            return True
        state.until = None
        state.not_before = max(state.not_before, self.now + ms(delay))
        if lease.lane == "turn":
            talk.inbox[0].starts -= 1
            talk.inbox[0].errors += failed
        return True

    # Turns

    def commit_turn(self, lease: Lease, commit: Commit) -> Committed:
        head, by = self.events[commit.eids[0]], (lease.epoch, lease.token)
        if head.state != "queued":
            return "done" if head.ended_by == by else "already"
        state, talk = self._held(lease), self._talk(lease.cid)
        answered = talk.inbox[: len(commit.eids)]
        if state is None or [event.eid for event in answered] != list(commit.eids):
            return "fenced"
        if commit.unless_paused and self._is_paused(lease.cid):
            return "paused"
        if commit.unless_newer and len(talk.inbox) > len(commit.eids):
            return "newer"
        for event in answered:
            event.state, event.ended_by = "dead" if commit.dead else "done", by
            event.outcome = commit.outcomes.get(event.eid)
        del talk.inbox[: len(commit.eids)]
        state.until = None
        for lane, ops in (("write", commit.ops), ("say", commit.says)):
            if ops and not talk.ops[lane]:  # type: ignore[index]  # the two lanes with operations
                queue = talk.lanes[lane]  # type: ignore[index]  # as above
                queue.not_before = max(queue.not_before, self.now)
            talk.ops[lane] += ops  # type: ignore[index]  # as above
        valid = commit.snapshot is not None and commit.snapshot_ttl > 0
        talk.snapshot = (
            (commit.snapshot or "", self.now + ms(commit.snapshot_ttl)) if valid else None
        )
        talk.turns += 1
        self._update_places()
        return "done"

    # Operations

    def op_begin(
        self,
        lease: Lease,
        op_id: str,
        pos: int,
        *,
        attempt: int,
        need: float,
        note: str | None = None,
        done: Confirmed | None = None,
    ) -> Cursor | None:
        if done is not None and self._confirm(lease, done) == "fenced":
            return None
        if self._refusal(lease, op_id, pos):
            return None
        state = self._talk(lease.cid).lanes[lease.lane]
        cursor = self._move_to(state, op_id, pos)
        if cursor.tries != attempt or cursor.sent_at is None:
            cursor = replace(cursor, tries=attempt, sent_at=self.now / 1000, heard=())
        state.cursor = replace(cursor, note=cursor.note if note is None else note)
        state.until = max(state.until or 0, self.now + ms(need))
        return state.cursor

    def op_done(
        self, lease: Lease, op_id: str, pos: int, *, last: bool, anchor: str | None = None
    ) -> Done:
        return self._confirm(lease, Confirmed(op_id=op_id, pos=pos, last=last, anchor=anchor))

    def _confirm(self, lease: Lease, done: Confirmed) -> Done:
        op_id, pos = done.op_id, done.pos
        talk, call = self._talk(lease.cid), ("done", lease.epoch, lease.token, pos, op_id)
        state = talk.lanes[lease.lane]
        if state.moved_by == call:
            return "done"
        if refused := self._refusal(lease, op_id, pos):
            return refused
        state.moved_by, state.not_before = call, 0
        state.anchor = state.anchor if done.anchor is None else done.anchor
        if done.last:
            del talk.ops[lease.lane][0]
            state.cursor = None
        else:
            state.cursor = self._move_to(state, op_id, pos + 1)
        self._update_places()
        return "done"

    def op_retry(
        self,
        lease: Lease,
        op_id: str,
        pos: int,
        *,
        delay: float,
        sent: bool,
        note: str | None = None,
    ) -> Done:
        if refused := self._refusal(lease, op_id, pos):
            return refused
        state = self._talk(lease.cid).lanes[lease.lane]
        cursor = self._move_to(state, op_id, pos)
        state.cursor = replace(
            cursor,
            sent_at=cursor.sent_at if sent else None,
            heard=cursor.heard if sent else (),
            note=cursor.note if note is None else note,
        )
        state.not_before = self.now + ms(delay)
        return "done"

    def op_park(self, lease: Lease, op_id: str, *, reason: str) -> Done:
        talk, call = self._talk(lease.cid), ("park", lease.epoch, lease.token, op_id)
        state = talk.lanes[lease.lane]
        if state.moved_by == call:
            return "done"
        if refused := self._refusal(lease, op_id, None):
            return refused
        cursor = state.cursor
        state.moved_by, state.not_before, state.cursor = call, 0, None
        turn = op_id.rpartition("/")[0] + "/"
        queue = talk.ops[lease.lane]
        while queue and queue[0].id.startswith(turn):
            op, at = queue.pop(0), cursor or Cursor(op_id=op_id)
            parked = SetAside(
                cid=lease.cid,
                lane=lease.lane,
                id=op.id,
                body=op.body,
                reason=reason,
                since=self.now / 1000,
                pos=at.pos,
                sent_at=at.sent_at,
                tries=at.tries,
            )
            self.parked.append(parked)
            cursor = None
        self._update_places()
        return "done"

    def hear(self, cid: str, note: str) -> bool:
        state = self._talk(self._follow(cid)).lanes["say"]
        if state.cursor is None or state.cursor.sent_at is None:
            return False
        heard = dict.fromkeys([*state.cursor.heard, note])
        state.cursor, state.not_before = replace(state.cursor, heard=tuple(heard)), 0
        return True

    def due(self, lane: Lane, cid: str) -> float | None:
        at = self._talk(cid).due(lane)
        return None if at is None else max(0, at - self.now) / 1000

    def backlog(self) -> Backlog:
        states = [event.state for event in self.events.values()]
        return Backlog(
            queued=states.count("queued"),
            writes=sum(len(talk.ops["write"]) for talk in self.talks.values()),
            says=sum(len(talk.ops["say"]) for talk in self.talks.values()),
            parked=len(self.parked),
            dead=states.count("dead"),
        )

    # Operators

    def loads(self) -> tuple[Load, ...]:
        dues: dict[tuple[str, Lane], list[int]] = {}
        for cid, talk in self.talks.items():
            for lane in LANES:
                if not is_claim(cid) and (due := talk.due(lane)) is not None:
                    dues.setdefault((cid[:15], lane), []).append(due)
        found = sorted((min(times), *of, len(times)) for of, times in dues.items())
        return tuple(
            Load(account=account, lane=lane, conversations=n, due_in=(due - self.now) / 1000)
            for due, account, lane, n in found
        )

    def view(self, cid: str, *, most: int = 100) -> ConversationView:
        cid = self._follow(cid)
        talk, paused = self._talk(cid), self.pauses.get(cid, 0)

        def lane_view(lane: Lane) -> LaneView:
            state, ops = talk.lanes[lane], talk.ops.get(lane, [])
            return LaneView(
                depth=len(talk.inbox) if lane == "turn" else len(ops),
                due_in=self.due(lane, cid),
                held_until=None if state.until is None else state.until / 1000,
                cursor=state.cursor,
                ops=tuple(ops[:most]),
                anchor=state.anchor,
            )

        return ConversationView(
            cid=cid,
            now=self.now / 1000,
            turns=talk.turns,
            paused_until=paused / 1000 if self.now < paused else None,
            events=tuple(map(_queued, talk.inbox[:most])),
            turn=lane_view("turn"),
            write=lane_view("write"),
            say=lane_view("say"),
        )

    def set_aside(self, cid: str | None = None, *, most: int = 100) -> tuple[SetAside, ...]:
        dead = [
            SetAside(
                cid=event.cid,
                lane="turn",
                id=event.eid,
                body=event.payload,
                since=event.at / 1000,
                tries=event.starts + event.errors,
            )
            for event in sorted(self.events.values(), key=lambda event: event.eid)
            if event.state == "dead"
        ]
        found = sorted([*self.parked, *dead], key=lambda one: (one.since, one.cid, one.lane))
        wanted = {one.cid for one in found} if cid is None else {cid, self._follow(cid)}
        return tuple(one for one in found if one.cid in wanted)[:most]

    def requeue(self, aside: SetAside, *, token: str, body: str | None = None) -> str | None:
        note, renewed = call_handle(aside, "requeue", token), renewed_id(aside, token)
        if note in self.events:
            return renewed
        if not self._unset(aside):
            return None
        cid = self._follow(aside.cid)
        talk, body = self.talks.setdefault(cid, Talk()), aside.body if body is None else body
        if aside.lane == "turn":
            old = self.events[aside.id]
            self.events[note] = Event(note, cid, old.digest, body, note, self.now)
            talk.inbox.append(self.events[note])
        else:
            if not talk.ops[aside.lane]:
                state = talk.lanes[aside.lane]
                state.not_before = max(state.not_before, self.now)
            talk.ops[aside.lane].append(Op(id=renewed, body=body))
            self.events[note] = Event(note, cid, "", "", "", self.now, state="done")
        self._update_places()
        return renewed

    def discard(self, aside: SetAside, *, token: str) -> bool:
        note = call_handle(aside, "discard", token)
        if note in self.events:
            return True
        if not self._unset(aside):
            return False
        self.events[note] = Event(note, aside.cid, "", "", "", self.now, state="done")
        return True

    def forget(self, cid: str) -> None:
        names = self.names_of(cid)
        self.events = {eid: event for eid, event in self.events.items() if event.cid not in names}
        self.parked = [one for one in self.parked if one.cid not in names]
        for name in names:
            for kept in (self.talks, self.aliases, self.pauses):
                kept.pop(name, None)
        self._update_places()

    def names_of(self, cid: str) -> set[str]:
        """A conversation and every alias that leads to it."""
        cid = self._follow(cid)
        return {cid} | {alias for alias in self.aliases if self._follow(alias) == cid}

    def _unset(self, aside: SetAside) -> bool:
        """Take it from what is set aside; whether it was there."""
        if aside.lane == "turn":
            event = self.events.get(aside.id)
            if event is None or event.state != "dead":
                return False
            event.state = "done"
            return True
        place = (aside.cid, aside.lane, aside.id)
        found = next((one for one in self.parked if (one.cid, one.lane, one.id) == place), None)
        if found is not None:
            self.parked.remove(found)
        return found is not None

    # What tests ask besides

    def next_due(self, lane: Lane, at_once: int = 0) -> str | None:
        """Accounts take turns; within an account the longest due comes first."""
        dues: dict[str, list[tuple[int, str]]] = {}
        for cid, talk in self.talks.items():
            if not is_claim(cid) and (due := talk.due(lane)) is not None:
                dues.setdefault(cid[:15], []).append((due, cid))
        ring = [
            (max(self.places[lane, account], min(work)[0] * 1000), account)
            for account, work in dues.items()
            if min(work)[0] <= self.now and not self._is_full(account, lane, at_once)
        ]
        return min(dues[min(ring)[1]])[1] if ring else None

    def holds(self, lease: Lease) -> bool:
        return self._held(lease) is not None

    # What the operations stand on

    def _talk(self, cid: str | None) -> Talk:
        return self.talks.get(cid or "", Talk())

    def _follow(self, cid: str) -> str:
        while cid in self.aliases:
            cid = self.aliases[cid]
        return cid

    def _is_paused(self, cid: str) -> bool:
        return self.now < self.pauses.get(cid, 0)

    def _is_full(self, account: str, lane: Lane, at_once: int) -> bool:
        ends = [t.lanes["turn"].until for cid, t in self.talks.items() if cid[:15] == account]
        running = sum(end is not None and end > self.now for end in ends)
        return lane == "turn" and 0 < at_once <= running

    def _held(self, lease: Lease) -> LaneState | None:
        state = self._talk(lease.cid).lanes[lease.lane]
        same = (state.token, state.epoch) == (lease.token, lease.epoch)
        return state if same and state.until is not None else None

    def _held_by(self, lane: Lane, token: str) -> str | None:
        for cid, talk in self.talks.items():
            if talk.lanes[lane].token == token and talk.lanes[lane].until is not None:
                return cid
        return None

    def _update_places(self) -> None:
        """An account without work has no place."""
        busy = {
            (lane, cid[:15])
            for cid, talk in self.talks.items()
            for lane in LANES
            if talk.due(lane) is not None
        }
        self.places = {ring: self.places.get(ring, 0) for ring in busy}

    def _taken(self, cid: str, lane: Lane) -> Taken:
        talk, state = self.talks[cid], self.talks[cid].lanes[lane]
        queue: Lane = "write" if lane == "turn" else lane
        valid = lane == "turn" and talk.snapshot is not None and self.now < talk.snapshot[1]
        return Taken(
            lease=Lease(
                cid=cid,
                lane=lane,
                token=state.token or "",
                epoch=state.epoch,
                until=(state.until or 0) / 1000,
            ),
            now=self.now / 1000,
            events=tuple(map(_queued, talk.inbox)) if lane == "turn" else (),
            ops=tuple(talk.ops[queue]),
            cursor=talk.lanes[queue].cursor,
            anchor=talk.lanes[queue].anchor,
            snapshot=talk.snapshot[0] if valid and talk.snapshot else None,
            turns=talk.turns,
            paused=lane == "turn" and self._is_paused(cid),
        )

    def _refusal(self, lease: Lease, op_id: str, pos: int | None) -> Done | None:
        talk = self._talk(lease.cid)
        if [op.id for op in talk.ops[lease.lane][:1]] != [op_id]:
            return "already"
        cursor = talk.lanes[lease.lane].cursor
        if cursor is not None and pos is not None and cursor.pos > pos:
            return "already"
        return None if self._held(lease) else "fenced"

    @staticmethod
    def _move_to(state: LaneState, op_id: str, pos: int) -> Cursor:
        """The cursor on a part; what was noted about an earlier part is forgotten."""
        if state.cursor is not None and (state.cursor.op_id, state.cursor.pos) == (op_id, pos):
            return state.cursor
        return Cursor(op_id=op_id, pos=pos)


def ms(seconds: float) -> int:
    return round(seconds * 1000)


def _queued(event: Event) -> QueuedEvent:
    return QueuedEvent(
        eid=event.eid,
        payload=event.payload,
        accepted_at=event.at / 1000,
        starts=event.starts,
        errors=event.errors,
    )
