"""Working through a queue of operations, whatever they deliver: in order, under a lease."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, TypeVar

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, monotonic, sleep
from langchain_convsync.errors import FencedError
from langchain_convsync.stores.base import (
    Acquired,
    Confirmed,
    Cursor,
    EventStore,
    Lease,
    Operation,
    QueueName,
    new_token,
)

logger = logging.getLogger(__name__)

#: Seconds that may pass between noting that something goes on the wire and its going there; the
#: lease outlasts both. Where it took longer, because a disk or the machine stood still, it is noted
#: again: a look for it must not come before it.
SLACK = 1.0
#: Seconds between tries of what surely was not applied: doubled each time, up to the last.
FIRST_DELAY, LAST_DELAY = 0.2, 30.0
#: Seconds that have to be left of a strict drain for another request.
SHORTEST_ATTEMPT = 0.5
#: Seconds beyond its budget for which a call's, or a block's, last request may go on.
GRACE = 2 * SHORTEST_ATTEMPT
#: Seconds between looks whether another call of this process has delivered a conversation's queue.
LOOK = 0.02


class Undeliverable(Exception):  # noqa: N818 - control flow inside this package
    """The operation cannot be delivered: it becomes a dead letter."""


class Held(Exception):  # noqa: N818 - control flow inside this package
    """The operation has to wait for some seconds, and those behind it too."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the work on a queue ended.

    Attributes:
        delay: Seconds after which to come back; 0.0 when it is done.
        confirmed: What is still to be noted as confirmed.
        why: Why the rest of it waits.
        is_all: Whether all that was acquired is delivered.
    """

    delay: float = 0.0
    confirmed: Confirmed | None = None
    why: str | None = None
    is_all: bool = False


@dataclass(slots=True, kw_only=True)
class Head(ABC):
    """The operation at the head of a queue while it is worked on.

    Attributes:
        acquired: The queue as it was acquired.
        operation: The operation as it is stored.
        cursor: How far it has come.
        anchor: JSON that the last confirmed operation noted.
        confirmed: What is confirmed and not noted yet: it is noted along with the next step.
        end_at: When its requests have to end, on the deliverer's clock.
        offset: What the store's clock is ahead of the deliverer's.
        unread: How often in a row it could not be looked up.
        why: Why its step has to wait, without a word or a number of the customer's.
    """

    acquired: Acquired
    operation: Operation
    cursor: Cursor
    anchor: str | None = None
    confirmed: Confirmed | None = None
    end_at: float = math.inf
    offset: float = 0.0
    unread: int = 0
    why: str | None = None

    @property
    def lease(self) -> Lease:
        """The lease of its queue."""
        return self.acquired.lease

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether all of it is confirmed."""


H = TypeVar("H", bound=Head)


class OperationQueue(ABC, Generic[H]):
    """Delivers the operations of one queue: one after the other, each step noted in the store.

    Methods that begin with ``_store_`` write to the store; the others only remember.

    Args:
        store: The store.
        lease: Seconds for which a queue is leased while it is worked on.
        clock: Seconds that only ever grow.
    """

    name: ClassVar[QueueName]

    def __init__(
        self,
        store: EventStore,
        *,
        lease: float = 30.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._store = store
        self._lease = lease
        self._clock = clock
        #: The conversations that calls of this process deliver now: leases that end when they do.
        self._delivering: set[str] = set()

    @abstractmethod
    def _open(
        self, acquired: Acquired, operation: Operation, cursor: Cursor, anchor: str | None
    ) -> H:
        """The operation, ready to be worked on."""

    @abstractmethod
    def _step(self, head: H, now: float) -> Flow[float]:
        """One step towards its delivery, at ``now`` on the store's clock; seconds to wait then.

        Raises:
            FencedError: Another worker is at it by now.
            Held: It has to wait.
            Undeliverable: It cannot be delivered.
        """

    @abstractmethod
    def _report_dead(self, head: H, reason: str) -> None:
        """Count and log that an operation became a dead letter."""

    def _tell_dead(self, head: H, reason: str) -> Flow[None]:
        """Tell whoever wants to know; before it is noted, so that no crash keeps it from them."""
        yield from ()

    def drain(
        self,
        conversation_key: str,
        *,
        budget: float,
        strict: bool = False,
        grace: float = math.inf,
    ) -> Flow[bool]:
        """Deliver what one conversation has in this queue, for at most ``budget`` seconds.

        What is not due within that time, because the other side does not answer or another process
        is at it, stays in the store; what another call of this process delivers is waited for. A
        request that is under way then is waited for, for ``grace`` seconds at most; if ``strict``,
        not at all: it is given up, and looked up by the next delivery.

        Returns:
            Whether everything is delivered.
        """
        until = self._clock() + budget
        end = until if strict else until + grace
        while self._clock() < until:
            left = until - self._clock()
            if (yield from self.attempt(conversation_key, budget=left, end=end)):
                return True  # what came meanwhile, whoever recorded it delivers
            due = yield from self._store.due(self.name, conversation_key)
            if due is None:
                return True
            if conversation_key in self._delivering:
                due = min(due, LOOK)
            if self._clock() + due > until:
                return False
            yield from sleep(due)
        return (yield from self._store.due(self.name, conversation_key)) is None

    def attempt(
        self, conversation_key: str, *, budget: float = 0.0, end: float = math.inf
    ) -> Flow[bool]:
        """Deliver what is due in one conversation now; see :meth:`deliver`."""
        acquired = yield from self._store.acquire(
            self.name, new_token(), conversation_key=conversation_key, lease=self._lease
        )
        if acquired is None:
            return False
        return (yield from self.deliver(acquired, budget=budget, end=end))

    def deliver(self, acquired: Acquired, *, budget: float, end: float = math.inf) -> Flow[bool]:
        """Deliver a queue that was acquired, and give it back; whether all of it is delivered.

        Nothing is waited for beyond ``budget`` seconds, and no request lasts beyond ``end``.
        """
        self._delivering.add(acquired.lease.conversation_key)
        try:
            with telemetry.timed("delivery", queue=self.name) as timing:
                timing.note(conversation=acquired.lease.conversation_key)
                ended = yield from self._work(acquired, self._clock() + budget, end)
            is_ours = yield from self._store.release(
                acquired.lease, delay=ended.delay, done=ended.confirmed, why=ended.why
            )
            return is_ours and ended.is_all
        finally:
            self._delivering.discard(acquired.lease.conversation_key)

    def _work(self, acquired: Acquired, until: float, end: float) -> Flow[Ended]:
        """Deliver the queue in order."""
        anchor, offset, confirmed = acquired.anchor, acquired.now - self._clock(), None
        is_all = True
        for operation in acquired.operations:
            head = yield from self._opened(acquired, operation, anchor, confirmed)
            if head is None:
                confirmed, is_all = None, False
                break
            head.end_at, head.offset, head.confirmed = end, offset, confirmed
            try:
                while not head.done:
                    if self._clock() + SHORTEST_ATTEMPT > end:
                        return Ended(confirmed=head.confirmed)
                    wait = yield from self._step(head, self._clock() + offset)
                    if wait and wait > until - self._clock():
                        return Ended(wait, head.confirmed, head.why)
                    if wait:
                        yield from self._store_confirmed(head)
                        yield from sleep(wait)
            except FencedError:
                return Ended()
            except Held as held:
                return Ended(float(held.args[0]), head.confirmed, head.why)
            except Undeliverable as reason:
                yield from self._store_confirmed(head)
                self._report_dead(head, str(reason))
                yield from self._tell_dead(head, str(reason))
                yield from self._store.set_dead(head.lease, operation.id, reason=str(reason))
                return Ended()
            anchor, confirmed = head.anchor, head.confirmed
        return Ended(confirmed=confirmed, is_all=is_all)

    def _opened(
        self,
        acquired: Acquired,
        operation: Operation,
        anchor: str | None,
        confirmed: Confirmed | None,
    ) -> Flow[H | None]:
        """The operation; None where it became a dead letter, since it cannot be read."""
        cursor = acquired.cursor
        if cursor is None or cursor.operation_id != operation.id:
            cursor = Cursor(operation_id=operation.id)
        try:
            return self._open(acquired, operation, cursor, anchor)
        except ValueError:
            reason, lease = "what is stored of it cannot be read", acquired.lease
        if confirmed is not None:
            last, anchor = confirmed.last, confirmed.anchor
            yield from self._store.confirm(
                lease, confirmed.operation_id, confirmed.pos, last=last, anchor=anchor
            )
        telemetry.count("unreadable", what=self.name)
        told = "operation %s is a dead letter: %s"
        telemetry.log(logger, logging.ERROR, lease.conversation_key, told, operation.id, reason)
        yield from self._store.set_dead(lease, operation.id, reason=reason)
        return None

    def _store_begin(
        self, head: H, *, attempt: int, need: float, note: str | None = None
    ) -> Flow[None]:
        """Store that the next part goes on the wire now, for a request of ``need`` seconds."""
        slack = SLACK
        while True:
            began = self._clock()
            cursor = yield from self._store.begin(
                head.lease,
                head.operation.id,
                head.cursor.pos,
                attempt=attempt,
                need=need + slack,
                note=note,
                done=head.confirmed,
            )
            if cursor is None:
                raise FencedError
            head.confirmed = None
            head.cursor = cursor
            took = self._clock() - began
            if took <= slack:
                return
            attempt, slack = attempt + 1, 2 * took

    def _store_retry(
        self, head: H, *, delay: float, sent_at: float | None, note: str | None = None
    ) -> Flow[None]:
        """Store that the part is to be tried again; no ``sent_at`` takes back that it was sent."""
        done = yield from self._store.retry(
            *(head.lease, head.operation.id, head.cursor.pos),
            delay=delay,
            sent=sent_at is not None,
            note=note,
        )
        if done == "fenced":
            raise FencedError
        note = head.cursor.note if note is None else note
        head.cursor = replace(head.cursor, sent_at=sent_at, note=note)

    def _remember_confirmed(self, head: H, *, end: int, last: bool, anchor: str | None) -> None:
        """Everything before part ``end`` is confirmed; the next step stores that, too."""
        pos = head.cursor.pos
        head.confirmed = Confirmed(
            operation_id=head.operation.id, pos=pos, last=last, anchor=anchor
        )
        head.anchor = anchor or head.anchor
        head.cursor = Cursor(operation_id=head.operation.id, pos=end)

    def _store_confirmed(self, head: H) -> Flow[None]:
        """Store what is confirmed at once, where no next step takes it along soon."""
        part, head.confirmed = head.confirmed, None
        if part is None:
            return
        done = yield from self._store.confirm(
            head.lease, part.operation_id, part.pos, last=part.last, anchor=part.anchor
        )
        if done == "fenced":
            raise FencedError


def backoff(tries: int) -> float:
    """Seconds to wait after so many failures."""
    return min(LAST_DELAY, FIRST_DELAY * 2.0 ** min(tries - 1, 30))


def passing(status: int | None) -> bool:
    """Whether the same request may well succeed later."""
    return status is None or status in {408, 425, 429} or status >= 500
