"""What an event store promises: the vocabulary and the contract of both implementations.

A store keeps, per conversation, a FIFO of accepted events (the *inbox*) and two FIFOs of
operations: API writes not yet confirmed (the *outbox*) and replies not yet confirmed sent (the *say
queue*). Each of the three is worked on in its own *lane*, under a lease of its own, so a new turn
never waits for an old turn's writes::

    accept ─► inbox ─► take("turn") ─► commit_turn ─► outbox ─► take("write") ─► op_begin ─► op_done
                                                 └──► say queue ─► take("say") ─► …

Every operation is one atomic step on the store's own clock, and safe to repeat: the same call
again, after a lost answer, changes nothing and answers the same. "The same call" is the same
:class:`Io` performed again, or another one made with the same arguments, tokens included.

A lease is lost when another take followed it, not by the clock alone: after ``until`` anybody may
take the lane over, and until somebody does, its holder may still renew it and finish. Whoever lost
the lease gets FENCED.

Payloads, outcomes, bodies, notes and anchors are opaque text, which comes back as it was given,
lone surrogates and NUL included. Times are seconds on the store's clock, exact to the millisecond.
"""

from __future__ import annotations

import binascii
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Protocol, TypeAlias

from langchain_convsync._flow import Io

#: A store of a newer format is refused. Within one format, processes of different versions may work
#: on one store while they are upgraded one by one: what is stored as JSON gains fields only, and
#: readers ignore those that they do not know. Whatever else changes makes a new format.
FORMAT_VERSION = 1
SHARDS = 64
#: The account in the handle of an event that is claimed by itself, outside every conversation.
NO_ACCOUNT = "0" * 12
#: Seconds that a finished event is remembered: longer than any sender repeats it.
RETENTION = 7 * 24 * 3600.0

Lane: TypeAlias = Literal["turn", "write", "say"]
EventState: TypeAlias = Literal["queued", "done", "dead"]


@dataclass(frozen=True, slots=True)
class Handles:
    """Names for events and conversations that reveal nothing about people.

    A handle is ``<shard>.<account>.<hash>``: keyed hashes, so neither a phone number nor an account
    name can be read from it or guessed without the store's key. Everything of one account lies in
    one shard, hence in one slot of a Redis Cluster.

    Args:
        key: The store's secret, created once in the store.
    """

    key: bytes = field(repr=False)

    def event(self, account: str, family: str, source_id: str) -> str:
        """The *eid*: one per message, whichever deliveries report it."""
        return self._handle(account, "event", family, source_id)

    def conversation(self, account: str, customer: str) -> str:
        """The *cid*: it only orders the events of one customer of one account."""
        return self._handle(account, "conversation", customer)

    def claim(self, namespace: str, event_id: str) -> str:
        """Both the eid and the cid of an event that is claimed by itself.

        It is nobody's work but its claimer's: a take of any conversation never finds it.
        """
        hashed = _hash(self.key, "claim", namespace, event_id)[:32]
        return f"{_shard(event_id)}.{NO_ACCOUNT}.{hashed}"

    def _handle(self, account: str, *parts: str) -> str:
        return f"{_account(self.key, account)}.{_hash(self.key, account, *parts)[:32]}"


@lru_cache(maxsize=128)
def _account(key: bytes, account: str) -> str:
    return f"{_shard(account)}.{_hash(key, account)[:12]}"


def _hash(key: bytes, *parts: str) -> str:
    # Length-prefixed, so that no two lists of parts are the same bytes.
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    message = b"".join([len(part).to_bytes(8, "big") + part for part in encoded])
    return hmac.digest(key, message, "sha256").hex()


def _shard(account: str) -> str:
    return f"{crc16(account.encode('utf-8', 'surrogatepass')) % SHARDS:02d}"


def is_claim(handle: str) -> bool:
    """Whether the handle names an event that is claimed by itself."""
    return handle[3:15] == NO_ACCOUNT


def new_token() -> str:
    """A token for one take."""
    return secrets.token_hex(16)


def crc16(data: bytes) -> int:
    """CRC-16/XMODEM, the checksum that Redis Cluster hashes keys with."""
    return binascii.crc_hqx(data, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event to accept.

    Attributes:
        eid: The event's handle.
        cid: The handle of the conversation it belongs to.
        alias: Another handle of the same customer (their LID), to be linked to ``cid``, see
            :meth:`EventStore.link`.
        digest: Hash of the normalised content: a repeated eid with another digest is counted.
        payload: The event itself, JSON.
    """

    eid: str
    cid: str
    alias: str | None = None
    digest: str = ""
    payload: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedEvent:
    """An accepted event that no turn has answered yet.

    Attributes:
        starts: How often a turn began with it at its head and neither committed nor released.
        errors: How often a turn with it at its head was released as failed.
    """

    eid: str
    payload: str = field(repr=False)
    accepted_at: float
    starts: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operation of a turn's outbox or say queue.

    Attributes:
        id: ``<turn id>/<index>``: the operations of one turn share the part before the slash.
        body: What to do, JSON.
    """

    id: str
    body: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far the operation at the head of a lane has come.

    Attributes:
        op_id: The operation; the cursor is void when another one is at the head.
        pos: Index of its part that is next (an append has one part per message).
        sent_at: Store time at which that part was begun; None while it surely is not on the wire.
        tries: How often that part was begun.
        note: What the deliverer remembers about that part, JSON.
        heard: What was heard of it since ``sent_at``, see :meth:`EventStore.hear`.
    """

    op_id: str
    pos: int = 0
    sent_at: float | None = None
    tries: int = 0
    note: str | None = field(default=None, repr=False)
    heard: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """A part of the operation at the head of a queue that surely was applied.

    Attributes:
        op_id: The operation.
        pos: The part.
        last: Whether it was the operation's last one.
        anchor: JSON that replaces the queue's anchor; None keeps it.
    """

    op_id: str
    pos: int
    last: bool
    anchor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to work on one lane of one conversation, until ``until`` (store time, seconds)."""

    cid: str
    lane: Lane
    token: str
    epoch: int
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A lane taken, with everything needed to work on it.

    Attributes:
        lease: The lease; pass it to every further operation.
        now: Store time of the take.
        events: ``turn`` lane: the whole inbox, in order of arrival.
        ops: ``turn`` and ``write``: the outbox; ``say``: the say queue; in order.
        cursor: Of the first of ``ops``; None before it was ever begun.
        anchor: JSON noted by the last confirmed operation of that queue.
        snapshot: JSON stored by the last commit, while it is valid; ``turn`` lane only.
        turns: How many turns were committed so far.
        paused: Whether a human has taken the conversation over; ``turn`` lane only.
    """

    lease: Lease
    now: float
    events: tuple[QueuedEvent, ...] = ()
    ops: tuple[Op, ...] = ()
    cursor: Cursor | None = None
    anchor: str | None = field(default=None, repr=False)
    snapshot: str | None = field(default=None, repr=False)
    turns: int = 0
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What became of an event that was offered.

    Attributes:
        status: ``new``, ``duplicate`` (known before) or ``busy`` (backlog full, nothing recorded).
        cid: The conversation it is queued in, after aliases.
        state: The event's state; None when busy.
        outcome: The JSON that the turn which finished it stored.
        differs: It was known, but with another digest.
        due_in: Seconds until its conversation can be taken: the quiet window, a retry's delay or
            somebody's lease; 0.0 when it could be now, was, waits for its account's other turns,
            or when the event needs no turn any more.
        taken: The turn lane, when a token was given, the event is queued, and the lane was free and
        due.
    """

    status: Literal["new", "duplicate", "busy"]
    cid: str
    state: EventState | None = None
    outcome: str | None = field(default=None, repr=False)
    differs: bool = False
    due_in: float = 0.0
    taken: Taken | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Everything that one turn changes, at its one linearisation point.

    Attributes:
        eids: The events it answers: exactly the head of the inbox. The first one is the turn id.
        outcomes: Outcome JSON by eid, for those that repeat it later.
        ops: New operations for the outbox; their ids begin with the turn id and a slash.
        says: New operations for the say queue.
        dead: True keeps the events as dead letters, payload included, for an operator.
        snapshot: JSON for the next turn, should the API not answer then.
        snapshot_ttl: Seconds for which it is valid.
        unless_paused: Commit nothing while a human has the conversation.
        unless_newer: Commit nothing if the inbox holds more events than ``eids``.
    """

    eids: Sequence[str]
    outcomes: Mapping[str, str] = field(repr=False)
    ops: Sequence[Op] = ()
    says: Sequence[Op] = ()
    dead: bool = False
    snapshot: str | None = field(default=None, repr=False)
    snapshot_ttl: float = 0.0
    unless_paused: bool = False
    unless_newer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What a store still has to do: numbers of events, operations and dead letters."""

    queued: int = 0
    writes: int = 0
    says: int = 0
    parked: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """What waits for an operator's decision: a parked operation, or a dead letter.

    Attributes:
        cid: Its conversation, when it was set aside.
        lane: The lane it was in; ``turn`` for a dead letter.
        id: The operation's id, or the event's handle.
        body: The operation's body, or the event's payload.
        reason: Why it was parked; empty for a dead letter.
        since: When it was parked; when the event of a dead letter was accepted.
        pos: How many of its parts were confirmed before.
        sent_at: When the part after those went on the wire, if nobody can tell whether it arrived.
        tries: How often that part was begun, or the agent was started on the event.
    """

    cid: str
    lane: Lane
    id: str
    body: str = field(repr=False)
    reason: str = ""
    since: float
    pos: int = 0
    sent_at: float | None = None
    tries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneView:
    """One lane of a conversation, seen from outside.

    Attributes:
        depth: How many events or operations are in its queue.
        due_in: As :meth:`EventStore.due` answers it.
        held_until: The end of its lease, lapsed or not; None when it was given back.
        cursor: How far the first of its operations has come.
        ops: The first operations in its queue.
        anchor: JSON noted by the last confirmed operation of that queue.
    """

    depth: int = 0
    due_in: float | None = None
    held_until: float | None = None
    cursor: Cursor | None = None
    ops: tuple[Op, ...] = ()
    anchor: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationView:
    """One conversation, seen without taking anything of it.

    Attributes:
        cid: Its handle, after aliases.
        now: Store time.
        turns: How many turns were committed so far, since it was idle for long.
        paused_until: Until when a human has it; None when nobody has.
        events: The first events in its inbox.
    """

    cid: str
    now: float
    turns: int = 0
    paused_until: float | None = None
    events: tuple[QueuedEvent, ...] = ()
    turn: LaneView = LaneView()
    write: LaneView = LaneView()
    say: LaneView = LaneView()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one account has to do in one lane.

    Attributes:
        account: The part that the handles of its conversations begin with.
        lane: The lane.
        conversations: How many of its conversations have work there.
        due_in: Seconds until the first of them is due; negative for how long it is overdue.
    """

    account: str
    lane: Lane
    conversations: int
    due_in: float


Done: TypeAlias = Literal["done", "already", "fenced"]
Committed: TypeAlias = Literal["done", "already", "fenced", "paused", "newer"]


class EventStore(Protocol):
    """The operations; each is one :class:`Io` step, to be run or awaited."""

    def handles(self) -> Io[Handles]:
        """The store's names for events and conversations; creates the store's secret once."""
        ...

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
    ) -> Io[Accepted]:
        """Record an event once, and take its conversation's turn lane in the same step if possible.

        Follows the alias of ``event.cid``. A new event is appended to the inbox; the conversation
        becomes due at ``min(first + max_quiet, last + quiet)``, first and last being the arrival of
        the oldest and the newest queued event, and the two windows those of the newest. A dead
        letter that is offered again is a duplicate.

        Args:
            event: The event.
            token: New for every take that is attempted; None only records. The same token again
                answers the same lease. Without one, another call is another delivery.
            lease: Seconds.
            quiet: Seconds without a further event after which the conversation is due.
            max_quiet: Seconds after the first queued event at which it is due in any case.
            backlog: At most so many queued events per conversation; beyond, the answer is ``busy``.
            at_once: Take it only while fewer turns of its account run; 0 for any number.

        Raises:
            ValueError: The event's handles are none, or belong to different accounts.
        """
        ...

    def amend(self, eid: str, before: str, after: str) -> Io[str | None]:
        """Replace the payload of an event that no turn has answered yet, if it is ``before``.

        Answers the payload that it has then, so the same call again answers the same, and one with
        another ``before`` reads it; None unless the event is queued. A turn that was taken earlier
        goes on with what it took.

        Raises:
            ValueError: ``eid`` is no handle.
        """
        ...

    def take(
        self,
        lane: Lane,
        token: str,
        *,
        cid: str | None = None,
        lease: float = 30.0,
        at_once: int = 0,
    ) -> Io[Taken | None]:
        """Lease a lane that has work due and no live lease; None if there is none.

        With ``cid``, that conversation's lane. Without, any but those of claims: accounts take
        turns (the next one is that whose oldest work, or whose last turn, is longest ago), within
        an account the longest due comes first. A lapsed lease is taken over with the next epoch.
        Taking a turn lane counts a start on its head event, once per token. A token that holds a
        lane is answered with that lane again. ``at_once`` leaves out the turn lanes of accounts of
        which so many are leased already.
        """
        ...

    def beat(self, lease: Lease, *, seconds: float = 30.0) -> Io[Lease | None]:
        """Renew a lease to at least ``seconds`` from now; None when it is lost."""
        ...

    def commit_turn(self, lease: Lease, commit: Commit) -> Io[Committed]:
        """End a turn and give the turn lane back: all of ``commit``, or nothing.

        The same call again answers ``done`` again. ``already``: another lease committed this turn's
        head event. ``fenced``: the lease is lost, or the events are not the head of the inbox.
        ``paused`` and ``newer``: what ``commit`` was not to be made in is the case; the lease
        holds.
        Finished events lose their payload and expire after the store's retention.

        Raises:
            ValueError: ``commit`` contradicts itself: no events, outcomes of others, or operations
                whose ids are not the turn's own.
        """
        ...

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
    ) -> Io[Cursor | None]:
        """Note that part ``pos`` of the head operation goes on the wire now; None when fenced.

        ``done`` is noted first, as by :meth:`op_done`, in the same step. Fenced also means that
        ``op_id`` is not at the head, or past ``pos``. Renews the lease when less than ``need``
        seconds are left. ``attempt`` is the number of this try, from 1; it becomes the cursor's
        ``tries``, and the first call for an attempt sets ``sent_at``. A ``note`` of None keeps the
        part's note.
        """
        ...

    def op_done(
        self, lease: Lease, op_id: str, pos: int, *, last: bool, anchor: str | None = None
    ) -> Io[Done]:
        """Note that part ``pos`` is confirmed; ``last`` removes the operation from the queue.

        ``anchor`` replaces the queue's anchor; None keeps it. ``already`` when ``op_id`` is not at
        the head any more, or its cursor is past ``pos``, unless it was this very call that moved
        it.
        """
        ...

    def op_retry(
        self,
        lease: Lease,
        op_id: str,
        pos: int,
        *,
        delay: float,
        sent: bool,
        note: str | None = None,
    ) -> Io[Done]:
        """Note that part ``pos`` is to be tried again, and not before ``delay`` seconds from now.

        ``sent`` False takes back ``sent_at``: the part surely was not applied. A ``note`` of None
        keeps the part's note. ``already`` as for :meth:`op_done`.
        """
        ...

    def op_park(self, lease: Lease, op_id: str, *, reason: str) -> Io[Done]:
        """Set the head operation aside for an operator, and the rest of its turn with it.

        Later turns proceed. ``reason`` is kept with the parked operations. ``already`` when
        ``op_id`` is not at the head any more, unless it was this very call that parked it.
        """
        ...

    def release(
        self,
        lease: Lease,
        *,
        delay: float = 0.0,
        failed: bool = False,
        done: Confirmed | None = None,
    ) -> Io[bool]:
        """Give a lane back; False when the lease was lost already.

        ``done`` is noted first, as by :meth:`op_done`, in the same step.

        On the turn lane it takes back the start counted by the take; ``failed`` counts an error on
        the head event instead. The lane is due again after ``delay`` seconds, or after the delay
        that :meth:`op_retry` set if that is later, if it has work. Changes nothing after the lane
        was given back by :meth:`commit_turn` or an earlier release.
        """
        ...

    def hear(self, cid: str, note: str) -> Io[bool]:
        """Keep what shows that a reply was sent, while the reply at the head may be on the wire.

        Its queue is due at once then. False, and nothing is kept, while no reply is waited for. An
        alias stands for the conversation it leads to.

        Args:
            cid: The conversation.
            note: One line of text; the same one again changes nothing.

        Raises:
            ValueError: The note has several lines.
        """
        ...

    def pause(self, cid: str, *, seconds: float) -> Io[None]:
        """Give a conversation to a human for so many seconds from now; 0.0 gives it back.

        The latest call wins. It may be a conversation that has no event yet; an alias stands for
        the conversation it leads to, and one that is linked later brings its pause along.
        """
        ...

    def link(self, alias: str, cid: str, *, lease: Lease | None = None) -> Io[bool]:
        """Let another handle of the same customer lead to their conversation.

        Events that wait under that name go along, behind those that wait there, and so does a
        human's takeover. False, and nothing is changed, while the conversation of that name has
        operations to deliver, or a turn that runs.

        Args:
            alias: The name.
            cid: The conversation.
            lease: The turn lane of ``alias``, for whoever found out in a turn whose name it is:
                instead of standing in the way the turn ends, as released.

        Raises:
            ValueError: They are no handles, or belong to different accounts.
        """
        ...

    def due(self, lane: Lane, cid: str) -> Io[float | None]:
        """Seconds until a lane can be taken, 0.0 if it can be now; None when it has no work.

        It waits for somebody's lease, for a retry's delay, and in the turn lane for quiet.
        """
        ...

    def backlog(self) -> Io[Backlog]:
        """What is left to do."""
        ...

    def loads(self) -> Io[tuple[Load, ...]]:
        """What each account has to do, the longest overdue first; claims belong to none."""
        ...

    def view(self, cid: str, *, most: int = 100) -> Io[ConversationView]:
        """Look at a conversation without taking anything; an alias stands for where it leads to.

        Args:
            cid: The conversation.
            most: At most so many events, and operations of each queue, 1 to 1,000.
        """
        ...

    def set_aside(self, cid: str | None = None, *, most: int = 100) -> Io[tuple[SetAside, ...]]:
        """What waits for an operator, oldest first: parked operations and dead letters.

        An alias stands for the conversation it leads to, and for what was set aside under it before
        it led there. Of more than ``most`` dead letters of all
        conversations Redis tells of those that died first, SQLite of those that arrived first. For
        one conversation Redis looks through the dead letters of its shard.

        Args:
            cid: Of this conversation only; None for all of the store.
            most: At most so many, 1 to 1,000.
        """
        ...

    def requeue(self, aside: SetAside, *, token: str, body: str | None = None) -> Io[str | None]:
        """Give what was set aside back to the workers, under a new id, which is answered.

        A parked operation goes to the end of its queue, so it is delivered after what came later.
        A dead letter is queued as a new event that arrives now, without starts and errors; the old
        one is done, with the outcome that it had, so the message that is offered again is a
        duplicate still. None when it is not set aside any more: of two callers one is answered.

        Args:
            aside: As it was listed.
            token: New for every call; the same one again answers the same.
            body: What to do, instead of the body that it had: what is confirmed of it (``pos``)
                must not be done again.
        """
        ...

    def discard(self, aside: SetAside, *, token: str) -> Io[bool]:
        """Give up what was set aside: the operation is gone, the dead letter done.

        False when it is not set aside any more. The same ``token`` again answers the same.
        """
        ...

    def forget(self, cid: str) -> Io[None]:
        """Erase everything that this store keeps of a conversation, and of aliases that lead to it.

        That is its events (queued, dead and done), operations, what is set aside, its snapshot,
        leases and pause. In one step everything that could still be worked on is gone, and whoever
        holds a lease is fenced; on Redis the records of what is done, and what stands under its
        aliases, follow in small steps, which the same call again begins anew, and which need the
        permission to ``SCAN``.

        It cannot erase what is elsewhere: the API server's own copy, what WAHA and WhatsApp keep,
        logs, traces and backups, an agent's checkpoints; nor a request that is on the wire. A
        message that is offered again is a new event, and a call of a runner that waits for its
        event offers it again.
        """
        ...

    def close(self) -> None:
        """End this store's use, and close the connections it opened in the sync colour."""
        ...

    async def aclose(self) -> None:
        """End this store's use, and close every connection it opened."""
        ...
