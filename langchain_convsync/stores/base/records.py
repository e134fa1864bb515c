"""What goes into an event store and comes out of it: frozen records, the same for every store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from langchain_convsync.stores.base.keys import Keys

#: A store of a newer format is refused. Within one format, processes of different versions may work
#: on one store while they are upgraded one by one: what is stored as JSON gains fields only, as do
#: Redis' hashes, and tables gain columns that may be null; readers ignore what they do not know.
#: Whatever else changes makes a new format.
FORMAT_VERSION = 1
#: Seconds that a finished event is remembered: longer than any sender repeats it.
RETENTION = 7 * 24 * 3600.0
#: Seconds that the words of an outcome are kept, for whoever repeats its event: as senders do.
REPLIES_KEPT = 3600.0
#: Seconds that a snapshot is kept at most: as long as a session lives.
LONGEST_SNAPSHOT = 24 * 3600.0

#: Seconds after its end for which a restriction that no reply has tried is remembered.
RESTRICTION_KEPT = 24 * 3600.0
#: The kind of restriction that holds first contacts alone: reply queues that have sent nothing yet.
FIRST_CONTACTS = "capping"

#: Of as many own messages of a conversation it is kept how far they got.
ACKS_KEPT = 20

#: As many characters are kept of why a queue's work waits.
LONGEST_WHY = 300

QueueName: TypeAlias = Literal["inbox", "outbox", "replies"]
#: Which API servers a store serves after it was told one: that one if it served none yet; that one,
#: too; only that one.
Adopt: TypeAlias = Literal["first", "also", "only"]
EventState: TypeAlias = Literal["queued", "done", "dead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event to accept.

    Attributes:
        event_key: Names the event.
        conversation_key: Names the conversation it belongs to.
        aliases: Further conversation keys of the same customer (of their LID, their BSUID): all of
            them lead to one conversation from now on, see :meth:`EventStore.alias`.
        digest: Hash of the normalised content: a repeated event key with another digest is counted.
        source: Under which name deliveries of the message find each other that tell of different
            accounts or customers, see :meth:`Keys.source`.
        facts: What this delivery tells of both sides and the words, see :meth:`Keys.facts`; empty
            where its id is no more than one source's own.
        payload: The event itself, JSON.
        pause: Seconds for which the conversation is given to a human in the same step, where the
            event is not known yet; 0.0 leaves it as it is.
        names: What the keys were made with: a store that goes by another secret refuses them. None
            where nobody tells.
    """

    event_key: str
    conversation_key: str
    aliases: tuple[str, ...] = ()
    digest: str = ""
    source: str = ""
    facts: str = ""
    payload: str = field(default="", repr=False)
    pause: float = 0.0
    names: Keys | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptRules:
    """How a process accepts events; made once.

    Attributes:
        lease: Seconds for which the inbox is leased, where it is acquired in the same step.
        debounce: Seconds without a further event after which a conversation is due.
        max_debounce: Seconds after the first queued event at which it is due in any case.
        max_queued: At most so many queued events per conversation; beyond, events are refused.
        account_concurrency: Acquire only while fewer turns of the account run; 0 for any number.
    """

    lease: float = 30.0
    debounce: float = 0.0
    max_debounce: float = 0.0
    max_queued: int = 1000
    account_concurrency: int = 0


DEFAULT_RULES = AcceptRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedEvent:
    """An accepted event that no turn has answered yet.

    Attributes:
        starts: How often a turn began with it at its head and neither committed nor released.
        errors: How often a turn with it at its head was released as failed.
        apart: The names of its customer that did not lead to one conversation when it came, since
            several had something under way: its turn waits for that, see :meth:`EventStore.alias`.
    """

    event_key: str
    payload: str = field(repr=False)
    accepted_at: float
    starts: int = 0
    errors: int = 0
    apart: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of a turn's outbox or reply queue.

    Attributes:
        id: ``<turn id>/<index>``: the operations of one turn share the part before the slash.
        body: What to do, JSON.
    """

    id: str
    body: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far the operation at the head of a queue has come.

    Attributes:
        operation_id: The operation; the cursor is void when another one is at the head.
        pos: Index of its part that is next (an append has one part per message).
        sent_at: Store time at which that part was begun; None while it surely is not on the wire.
        tries: How often that part was begun.
        note: What the deliverer remembers about that part, JSON.
        echoes: What was seen of it since ``sent_at``, see :meth:`EventStore.record_echo`.
    """

    operation_id: str
    pos: int = 0
    sent_at: float | None = None
    tries: int = 0
    note: str | None = field(default=None, repr=False)
    echoes: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """A part of the operation at the head of a queue that surely was applied.

    Attributes:
        operation_id: The operation.
        pos: The part.
        last: Whether it was the operation's last one.
        anchor: JSON that replaces the queue's anchor; None keeps it.
    """

    operation_id: str
    pos: int
    last: bool
    anchor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to work on one queue of one conversation, until ``until`` (store time, seconds)."""

    conversation_key: str
    queue: QueueName
    token: str
    epoch: int
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Restriction:
    """Why an account sends no replies for now, or none to first contacts.

    Attributes:
        account: The part that the keys of its conversations begin with.
        kind: What restricts it: one word.
        why: One line, without a word or a number of anyone's.
        since: When it began.
        until: When a reply is tried again; in the past, it is the next one that is sent.
    """

    account: str
    kind: str
    why: str
    since: float
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquired:
    """An acquired queue, with everything needed to work on it.

    Attributes:
        lease: The lease; pass it to every further operation.
        now: Store time of the acquire.
        events: Of the inbox: all of it, in order of arrival.
        operations: Of the reply queue: all of it; else of the outbox, which a turn reads too.
        cursor: Of the first of ``operations``; None before it was ever begun.
        anchor: JSON noted by the last confirmed operation of that queue.
        snapshot: JSON stored by the last commit, while it is valid; inbox only.
        turns: How many turns were committed so far.
        paused: Whether a human has taken the conversation over; inbox only.
        tenant: Whose conversation it is, as the first commit that knew it noted it.
        note: JSON that the last turn which noted something left for the next ones; inbox only.
        restriction: Why the account is restricted, where this queue shows if that is over, see
            :meth:`EventStore.restrict`.
    """

    lease: Lease
    now: float
    events: tuple[QueuedEvent, ...] = ()
    operations: tuple[Operation, ...] = ()
    cursor: Cursor | None = None
    anchor: str | None = field(default=None, repr=False)
    snapshot: str | None = field(default=None, repr=False)
    turns: int = 0
    paused: bool = False
    tenant: str | None = None
    note: str | None = field(default=None, repr=False)
    restriction: Restriction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What became of an event that was offered.

    Attributes:
        status: ``new``, ``duplicate`` (known before) or ``busy`` (inbox full, nothing recorded).
        conversation_key: The conversation it is queued in, after aliases.
        event_key: The event that it is; another one than was offered, where another delivery of the
            message told of it.
        state: The event's state; None when busy.
        outcome: The JSON that the turn which finished it stored; later its fact only.
        differs: It was known, but with another digest.
        due_in: Seconds until its conversation can be acquired: the debounce window, a retry's delay
            or another worker's lease; 0.0 when it could be now, was, waits for its account's other
            turns, or when the event needs no turn any more.
        acquired: The inbox, when a token was given, the event is queued, and the inbox was free and
            due.
    """

    status: Literal["new", "duplicate", "busy"]
    conversation_key: str
    event_key: str
    state: EventState | None = None
    outcome: str | None = field(default=None, repr=False)
    differs: bool = False
    due_in: float = 0.0
    acquired: Acquired | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldEvent:
    """An event of our own that waits at the head of an inbox for what answers it.

    Attributes:
        event_key: Names the event; made of the turn's id, so the same turn makes the same one.
        payload: The event itself, JSON.
        seconds: After which it is due by itself.
    """

    event_key: str
    payload: str = field(repr=False)
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Everything that one turn changes, at its one linearisation point.

    Attributes:
        event_keys: The events it answers: exactly the head of the inbox, but for those that are
            ``kept``. The first one is the turn id.
        outcomes: Outcome JSON by event key, for those that repeat it, as long as the store keeps
            words of what is done (``replies_kept``).
        fact: JSON for those that repeat one of the events after that; it holds no words.
        operations: New operations for the outbox; their ids begin with the turn id and a slash.
        replies: New operations for the reply queue.
        dead: True keeps the events as dead letters, payload included, for an operator.
        reason: Why, where the events themselves do not tell.
        snapshot: JSON for the next turn, should the API not answer then.
        snapshot_ttl: Seconds for which it is valid, and kept; a day at most.
        tenant: Whose conversation it is: noted for good by the first commit that tells it.
        note: JSON for the turns that follow, kept as long as the conversation is: without a word of
            the customer's. None keeps the one that is there.
        pause: Seconds for which the conversation is paused in the same step, as by
            :meth:`EventStore.pause`; 0.0 leaves it as it is.
        unless_paused: Commit nothing while a human has the conversation.
        unless_newer: Commit nothing if the inbox holds more events than ``event_keys`` and
            ``kept``.
        held: An event for the head of the inbox, which is held from then on: it is due after
            ``held.seconds``, or by the events that stand or arrive behind it, or by
            :meth:`EventStore.amend`.
        kept: Events that stand among those, and stay where they are, in this order: their time has
            not come. They are held from then on, as :meth:`EventStore.release` holds events, and
            what was counted of the first one's starts and errors begins anew.
        kept_for: Seconds for which they are.
    """

    event_keys: Sequence[str]
    outcomes: Mapping[str, str] = field(repr=False)
    fact: str | None = None
    operations: Sequence[Operation] = ()
    replies: Sequence[Operation] = ()
    dead: bool = False
    reason: str = ""
    snapshot: str | None = field(default=None, repr=False)
    snapshot_ttl: float = 0.0
    tenant: str | None = None
    note: str | None = field(default=None, repr=False)
    pause: float = 0.0
    unless_paused: bool = False
    unless_newer: bool = False
    held: HeldEvent | None = None
    kept: Sequence[str] = ()
    kept_for: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCall:
    """What a store keeps of a tool's call in a turn that is not committed yet.

    Attributes:
        by: Who began it: the token of that :meth:`EventStore.begin_call`.
        result: What it came to, as the caller wrote it; None while that is not known.
    """

    by: str
    result: str | None = field(default=None, repr=False)


#: Conversations that are counted at most, where due work is.
MOST_COUNTED = 100
#: Milliseconds that writes and replies are left to the process that left them: it delivers them.
APART = 250
#: Milliseconds within which work has to be due for others to be told of it at once: they look for
#: what comes later.
SOON = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What a store still has to do: numbers of events, operations and dead letters.

    ``interrupts`` are the held inboxes; the event at the head of each is not among ``queued``.
    """

    queued: int = 0
    interrupts: int = 0
    writes: int = 0
    replies: int = 0
    dead_letters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Upcoming:
    """What the queues of a store have due, and when more will be.

    Attributes:
        due: Of each queue that has any, how many conversations it can be acquired of; no more than
            :data:`MOST_COUNTED` are counted. Writes and replies are left to the process that left
            them for :data:`APART`.
        next_in: Seconds until more is due; None where nothing is known to come.
        free: Of the conversations asked for, those whose inbox no turn holds up.
    """

    due: dict[QueueName, int]
    next_in: float | None = None
    free: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A sign that something may be due that another process left. It is never state.

    Attributes:
        seconds: Until it may be; infinity where a turn ended that left nothing in its inbox.
        queue: Where; None where only a look can tell.
        conversation_key: Whose.
    """

    seconds: float = 0.0
    queue: QueueName | None = None
    conversation_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """What no machine can decide: an event, a write or a reply that waits for an operator.

    Attributes:
        conversation_key: Its conversation, when it became a dead letter.
        queue: The queue it was in: ``inbox`` for an event.
        id: The operation's id, or the event's key.
        body: The operation's body, or the event's payload.
        reason: Why; empty for an event whose agent could not answer it.
        since: When an operation became a dead letter; when an event was accepted.
        pos: How many of its parts were confirmed before.
        sent_at: When the part after those went on the wire, if it is unknown whether it arrived.
        tries: How often that part was begun, or the agent was started on the event.
    """

    conversation_key: str
    queue: QueueName
    id: str
    body: str = field(repr=False)
    reason: str = ""
    since: float
    pos: int = 0
    sent_at: float | None = None
    tries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterPage:
    """Some of a store's dead letters.

    Attributes:
        letters: In any order; but of a conversation's operations those that died first come first.
        next: The page that follows; None behind the last one.
    """

    letters: tuple[DeadLetter, ...] = ()
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """One queue of a conversation, seen from outside.

    Attributes:
        depth: How many events or operations are in it.
        due_in: As :meth:`EventStore.due` answers it.
        held_until: The end of its lease, lapsed or not; None when it was given back.
        held_since: When that lease was acquired; None when it was given back.
        why: Why its work waits, as the last :meth:`EventStore.release` told it; None where it told
            nothing, or something was done since.
        since: Since when that is why.
        cursor: How far the first of its operations has come.
        operations: Its first operations.
        anchor: JSON noted by the last confirmed operation of that queue.
    """

    depth: int = 0
    due_in: float | None = None
    held_until: float | None = None
    held_since: float | None = None
    why: str | None = None
    since: float | None = None
    cursor: Cursor | None = None
    operations: tuple[Operation, ...] = ()
    anchor: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """How far one of our own messages got.

    Attributes:
        message_id: Its stanza id.
        level: WAHA's ``ack``: -1 error, 0 pending, 1 server, 2 device, 3 read, 4 played.
        at: Store time at which that was told.
    """

    message_id: str
    level: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationView:
    """One conversation, seen without acquiring anything of it.

    Attributes:
        conversation_key: Its key, after aliases.
        now: Store time.
        turns: How many turns were committed so far, since it was idle for long.
        paused_until: Until when a human has it; None when the agent answers.
        events: The first events in its inbox.
        running: How many turns of its account run now.
        note: JSON that its turns left for the next ones.
        restriction: Why its account sends it nothing now.
        acks: How far its last messages got, see :meth:`EventStore.record_ack`.
        snapshot: JSON stored by the last commit, while it is valid; where more than one event was
            asked for.
    """

    conversation_key: str
    now: float
    turns: int = 0
    running: int = 0
    paused_until: float | None = None
    events: tuple[QueuedEvent, ...] = ()
    inbox: QueueView = QueueView()
    outbox: QueueView = QueueView()
    replies: QueueView = QueueView()
    note: str | None = field(default=None, repr=False)
    restriction: Restriction | None = None
    acks: tuple[Ack, ...] = ()
    snapshot: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one account has to do in one queue.

    Attributes:
        account: The part that the keys of its conversations begin with.
        queue: The queue.
        conversations: How many of its conversations have work there.
        due_in: Seconds until the first of them is due; negative for how long it is overdue.
        held: Whether a worker has that one; then it is due when its lease ends.
        queued_for: Of the reply queue: seconds since the oldest of its replies was queued, whatever
            became of it since. None where that is not known, and elsewhere.
    """

    account: str
    queue: QueueName
    conversations: int
    due_in: float
    held: bool = False
    queued_for: float | None = None


Done: TypeAlias = Literal["done", "already", "fenced"]
Committed: TypeAlias = Literal["done", "already", "fenced", "paused", "newer"]
