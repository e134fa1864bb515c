"""Working through a queue of operations, whatever they deliver: in order, under a lease."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, TypeVar

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, sleep
from langchain_convsync.errors import FencedError
from langchain_convsync.stores.base import (
    Confirmed,
    Cursor,
    EventStore,
    Lane,
    Lease,
    Op,
    Taken,
    new_token,
)

#: Seconds that may pass between noting that something goes on the wire and its going there; the
#: lease outlasts both. Where it took longer, because a disk or the machine stood still, it is noted
#: again: a look for it must not come before it.
SLACK = 1.0
#: Seconds between tries of what surely was not applied: doubled each time, up to the last.
FIRST_DELAY, LAST_DELAY = 0.2, 30.0
#: Seconds that have to be left of a strict drain for another request.
SHORTEST_ATTEMPT = 0.5


class Parked(Exception):  # noqa: N818 - control flow inside this package
    """The operation cannot be delivered; an operator has to look at it."""


class Held(Exception):  # noqa: N818 - control flow inside this package
    """The operation has to wait for some seconds, and those behind it too."""


@dataclass(slots=True, kw_only=True)
class Head(ABC):
    """The operation at the head of a queue while it is worked on.

    Attributes:
        taken: The queue as it was taken.
        op: The operation as it is stored.
        cursor: How far it has come.
        anchor: JSON that the last confirmed operation noted.
        confirmed: What is confirmed and not noted yet: it is noted along with the next step.
        end_at: When its requests have to end, on the deliverer's clock.
        offset: What the store's clock is ahead of the deliverer's.
        unread: How often in a row it could not be looked up.
    """

    taken: Taken
    op: Op
    cursor: Cursor
    anchor: str | None = None
    confirmed: Confirmed | None = None
    end_at: float = math.inf
    offset: float = 0.0
    unread: int = 0

    @property
    def lease(self) -> Lease:
        """The lease of its queue."""
        return self.taken.lease

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether all of it is confirmed."""


H = TypeVar("H", bound=Head)


class Queue(ABC, Generic[H]):
    """Delivers the operations of one lane: one after the other, each step noted in the store.

    Args:
        store: The store.
        lease: Seconds for which a queue is leased while it is worked on.
        clock: Seconds that only ever grow.
    """

    lane: ClassVar[Lane]

    def __init__(
        self,
        store: EventStore,
        *,
        lease: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._lease = lease
        self._clock = clock

    @abstractmethod
    def _open(self, taken: Taken, op: Op, cursor: Cursor, anchor: str | None) -> H:
        """The operation, ready to be worked on."""

    @abstractmethod
    def _step(self, head: H, now: float) -> Flow[float]:
        """One step towards its delivery, at ``now`` on the store's clock; seconds to wait then.

        Raises:
            FencedError: Somebody else is at it by now.
            Held: It has to wait.
            Parked: It cannot be delivered.
        """

    @abstractmethod
    def _told(self, head: H, reason: str) -> None:
        """Count and log that an operation is set aside."""

    def drain(self, cid: str, *, budget: float, strict: bool = False) -> Flow[bool]:
        """Deliver what one conversation has in this queue, for at most ``budget`` seconds.

        What is not due within that time, because the other side does not answer or another process
        is at it, stays in the store. A request that is under way then is waited for, unless
        ``strict``: then it is given up, and looked up by whoever goes on.

        Returns:
            Whether everything is delivered.
        """
        until = self._clock() + budget
        while self._clock() < until:
            end = until if strict else math.inf
            yield from self.attempt(cid, budget=until - self._clock(), end=end)
            due = yield from self._store.due(self.lane, cid)
            if due is None:
                return True
            if self._clock() + due > until:
                return False
            yield from sleep(due)
        return (yield from self._store.due(self.lane, cid)) is None

    def attempt(self, cid: str, *, budget: float = 0.0, end: float = math.inf) -> Flow[None]:
        """Deliver what is due in one conversation now; see :meth:`deliver`."""
        taken = yield from self._store.take(self.lane, new_token(), cid=cid, lease=self._lease)
        if taken is not None:
            yield from self.deliver(taken, budget=budget, end=end)

    def deliver(self, taken: Taken, *, budget: float, end: float = math.inf) -> Flow[None]:
        """Deliver a queue that was taken, and give it back.

        Nothing is waited for beyond ``budget`` seconds, and no request lasts beyond ``end``.
        """
        with telemetry.timed("delivery", lane=self.lane) as timing:
            timing.note(conversation=taken.lease.cid)
            delay, confirmed = yield from self._work(taken, self._clock() + budget, end)
        yield from self._store.release(taken.lease, delay=delay, done=confirmed)

    def _work(self, taken: Taken, until: float, end: float) -> Flow[tuple[float, Confirmed | None]]:
        """Deliver the queue in order.

        Returns:
            The seconds after which to come back, 0.0 when it is done; and what is still to be
            noted as confirmed.
        """
        anchor, offset, confirmed = taken.anchor, taken.now - self._clock(), None
        for op in taken.ops:
            cursor = taken.cursor if taken.cursor and taken.cursor.op_id == op.id else None
            head = self._open(taken, op, cursor or Cursor(op_id=op.id), anchor)
            head.end_at, head.offset, head.confirmed = end, offset, confirmed
            try:
                while not head.done:
                    if self._clock() + SHORTEST_ATTEMPT > end:
                        return 0.0, head.confirmed
                    wait = yield from self._step(head, self._clock() + offset)
                    if wait and wait > until - self._clock():
                        return wait, head.confirmed
                    if wait:
                        yield from self._noted(head)
                        yield from sleep(wait)
            except FencedError:
                return 0.0, None
            except Held as held:
                return float(held.args[0]), head.confirmed
            except Parked as reason:
                yield from self._noted(head)
                self._told(head, str(reason))
                yield from self._store.op_park(head.lease, op.id, reason=str(reason))
                return 0.0, None
            anchor, confirmed = head.anchor, head.confirmed
        return 0.0, confirmed

    def _begun(self, head: H, *, attempt: int, need: float, note: str | None = None) -> Flow[None]:
        """Note that the next part goes on the wire now, for a request of ``need`` seconds."""
        slack = SLACK
        while True:
            began = self._clock()
            cursor = yield from self._store.op_begin(
                head.lease,
                head.op.id,
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

    def _again(self, head: H, *, delay: float, sent_at: float | None) -> Flow[None]:
        """Note that the part is to be tried again; ``sent_at`` None takes back that it was sent."""
        done = yield from self._store.op_retry(
            head.lease, head.op.id, head.cursor.pos, delay=delay, sent=sent_at is not None
        )
        if done == "fenced":
            raise FencedError
        head.cursor = replace(head.cursor, sent_at=sent_at)

    def _done(self, head: H, *, end: int, last: bool, anchor: str | None) -> None:
        """Everything before part ``end`` is confirmed."""
        pos = head.cursor.pos
        head.confirmed = Confirmed(op_id=head.op.id, pos=pos, last=last, anchor=anchor)
        head.anchor = anchor or head.anchor
        head.cursor = Cursor(op_id=head.op.id, pos=end)

    def _noted(self, head: H) -> Flow[None]:
        """Note what is confirmed at once, where no next step takes it along soon."""
        part, head.confirmed = head.confirmed, None
        if part is None:
            return
        done = yield from self._store.op_done(
            head.lease, part.op_id, part.pos, last=part.last, anchor=part.anchor
        )
        if done == "fenced":
            raise FencedError


def backoff(tries: int) -> float:
    """Seconds to wait after so many failures."""
    return min(LAST_DELAY, FIRST_DELAY * 2.0 ** min(tries - 1, 30))


def passing(status: int | None) -> bool:
    """Whether the same request may well succeed later."""
    return status is None or status in {408, 425, 429} or status >= 500
