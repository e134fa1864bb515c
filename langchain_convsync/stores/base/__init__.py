"""What an event store promises: the vocabulary and the contract of both implementations.

A store keeps, per conversation, a FIFO of accepted events (the *inbox*) and two FIFOs of
operations: API writes not yet confirmed (the *outbox*) and replies not yet confirmed sent (the
*reply queue*). Each of the three queues is worked on under a lease of its own, so a new turn never
waits for an old turn's writes::

    accept ─► inbox ─► acquire("inbox") ─► commit_turn ─► outbox ─► acquire("outbox") ─► …
                                                     └──► replies ─► acquire("replies") ─► …

Every operation is one atomic step on the store's own clock, and safe to repeat: the same call
again, after a lost answer, changes nothing and answers the same. "The same call" is the same
:class:`Io` performed again, or another one made with the same arguments, tokens included.

A lease is lost when another acquire followed it, not by the clock alone: after ``until`` any worker
may acquire the queue, and until one does, the holder may still renew its lease and finish. A worker
that lost its lease gets FENCED.

What stands in a store may be damaged, by an eviction, another program or a restored file. That is
the conversation's own loss: no operation raises for it, and no other conversation waits. An event
whose payload is gone has an empty one, for its turn to make it a dead letter.

Payloads, outcomes, bodies, notes and anchors are opaque text, which comes back as it was given,
lone surrogates and NUL included. Times are seconds on the store's clock, exact to the millisecond.
"""

from __future__ import annotations

from langchain_convsync.stores.base.keys import (
    DIGITS,
    NO_ACCOUNT,
    SHARDS,
    AccountKey,
    Keys,
    crc16,
    is_claim,
    new_token,
)
from langchain_convsync.stores.base.records import (
    ACKS_KEPT,
    APART,
    DEFAULT_RULES,
    FIRST_CONTACTS,
    FORMAT_VERSION,
    LONGEST_SNAPSHOT,
    LONGEST_WHY,
    MOST_COUNTED,
    REPLIES_KEPT,
    RESTRICTION_KEPT,
    RETENTION,
    SOON,
    Accepted,
    AcceptRules,
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
    DeadLetterPage,
    Done,
    EventState,
    HeldEvent,
    Hint,
    KeptCall,
    Lease,
    Load,
    NewEvent,
    Operation,
    QueuedEvent,
    QueueName,
    QueueView,
    Restriction,
    Upcoming,
)
from langchain_convsync.stores.base.store import EventStore, Listener, StoreLike

__all__ = [
    "ACKS_KEPT",
    "APART",
    "DEFAULT_RULES",
    "DIGITS",
    "FIRST_CONTACTS",
    "FORMAT_VERSION",
    "LONGEST_SNAPSHOT",
    "LONGEST_WHY",
    "MOST_COUNTED",
    "NO_ACCOUNT",
    "REPLIES_KEPT",
    "RESTRICTION_KEPT",
    "RETENTION",
    "SHARDS",
    "SOON",
    "AcceptRules",
    "Accepted",
    "AccountKey",
    "Ack",
    "Acquired",
    "Adopt",
    "Backlog",
    "Commit",
    "Committed",
    "Confirmed",
    "ConversationView",
    "Cursor",
    "DeadLetter",
    "DeadLetterPage",
    "Done",
    "EventState",
    "EventStore",
    "HeldEvent",
    "Hint",
    "KeptCall",
    "Keys",
    "Lease",
    "Listener",
    "Load",
    "NewEvent",
    "Operation",
    "QueueName",
    "QueueView",
    "QueuedEvent",
    "Restriction",
    "StoreLike",
    "Upcoming",
    "crc16",
    "is_claim",
    "new_token",
]
