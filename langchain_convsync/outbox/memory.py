"""What a process knows of the conversations that it writes to through a store."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from langchain_convsync import _forks
from langchain_convsync.client import Api
from langchain_convsync.client._breaker import CircuitBreaker
from langchain_convsync.models import Conversation
from langchain_convsync.outbox.compose import begun, readable
from langchain_convsync.outbox.delivery import new_breaker
from langchain_convsync.outbox.plan import Anchor, Write, anchor_for, overlay
from langchain_convsync.stores.base import Acquired, EventStore

#: Conversations that are remembered for each store.
REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Pending:
    """An outbox as one commit left it.

    Attributes:
        writes: In order; some may be delivered by now.
        pos: How many messages of the first one were confirmed then.
        anchor: The last message that was confirmed then.
        epoch: Later commits have higher ones.
    """

    writes: tuple[Write, ...]
    pos: int = 0
    anchor: Anchor | None = None
    epoch: int = 0

    @classmethod
    def of(cls, acquired: Acquired, writes: Sequence[Write]) -> Pending | None:
        """The outbox as it was acquired, with further writes at its end; None while it is empty."""
        everything = [*readable(acquired), *writes]
        if not everything:
            return None
        pos = begun(acquired)
        anchor = anchor_for(everything[0], pos, acquired.anchor)
        return cls(tuple(everything), pos, anchor, acquired.lease.epoch)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a conversation.

    Attributes:
        conversation: As it was read last.
        with_writes: As read, and with everything that this process has written, on its way or not.
        read_at: When it was read.
        settled: Whether nothing was on its way then, nor was written since.
        pending: What is on its way.
    """

    conversation: Conversation
    with_writes: Conversation
    read_at: float
    settled: bool = False
    pending: Pending | None = None

    @classmethod
    def read(cls, found: Conversation, read_at: float, pending: Pending | None = None) -> Known:
        """What a read tells, with what was on its way before it."""
        if pending is None:
            return cls(found, found, read_at, settled=True)
        with_writes = overlay(found, pending.writes, pos=pending.pos, anchor=pending.anchor)
        return cls(found, with_writes, read_at, pending=pending)

    def with_more(self, writes: Sequence[Write], pending: Pending | None) -> Known:
        """The same after these writes."""
        if pending is None or (self.pending and self.pending.epoch > pending.epoch):
            pending = self.pending  # a later write holds it already
        with_writes = overlay(self.with_writes, writes, is_new=True)
        return replace(self, with_writes=with_writes, settled=False, pending=pending)


class Memory:
    """What a process knows of a store's conversations, and of the API server behind them.

    Attributes:
        waiting: Conversations with messages that could not be committed yet.
        warned: Whether it was said that messages are left in the store.
    """

    def __init__(self) -> None:
        self.waiting: set[str] = set()
        self.warned = False
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._breakers: WeakKeyDictionary[Api, CircuitBreaker] = WeakKeyDictionary()
        self._lock = _forks.lock()

    @classmethod
    def of(cls, store: EventStore) -> Memory:
        """The memory that all writers through the store share in this process."""
        return _memories.setdefault(store, cls())

    def get(self, conversation_key: str) -> Known | None:
        """What is known of a conversation."""
        with self._lock:
            return self._known.get(conversation_key)

    def put(self, conversation_key: str, known: Known) -> Known:
        """Remember what was read."""
        with self._lock:
            return self._put(conversation_key, known)

    def wrote(
        self, conversation_key: str, known: Known, writes: Sequence[Write], pending: Pending | None
    ) -> None:
        """Remember what was written, and what is on its way now."""
        with self._lock:
            self._put(
                conversation_key,
                self._known.get(conversation_key, known).with_more(writes, pending),
            )

    def forget(self, conversation_key: str) -> None:
        """Know nothing of a conversation any more."""
        with self._lock:
            self._known.pop(conversation_key, None)

    def breaker(self, api: Api) -> CircuitBreaker:
        """Whether the API server is worth asking."""
        with self._lock:
            return self._breakers.setdefault(api, new_breaker())

    def _put(self, conversation_key: str, known: Known) -> Known:
        self._known[conversation_key] = known
        self._known.move_to_end(conversation_key)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return known


_memories: WeakKeyDictionary[EventStore, Memory] = WeakKeyDictionary()
