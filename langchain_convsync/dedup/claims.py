"""A claim on an event that survives crashes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import StrEnum
from typing import Any

from langchain_convsync import telemetry
from langchain_convsync._checked import PositiveSeconds, Seconds, checked
from langchain_convsync._flow import Flow, arun, run
from langchain_convsync.errors import InvalidEventError
from langchain_convsync.stores import claims, store_of
from langchain_convsync.stores.base import Accepted, Acquired, EventStore, StoreLike
from langchain_convsync.stores.heartbeat import Watch


class ClaimStatus(StrEnum):
    """Who may work on an event."""

    ACQUIRED = "acquired"
    IN_PROGRESS = "in_progress"
    DONE = "done"


ACQUIRED, IN_PROGRESS, DONE = ClaimStatus


class Claim:
    """The right to process one event, or the news that another caller has it.

    Attributes:
        status: ``ACQUIRED``: process the event. ``IN_PROGRESS``: another caller is at it.
            ``DONE``: it was processed; ``result`` is what was stored.
        result: The stored result of an event that is done; None once the store keeps it no longer
            (``replies_kept=``, an hour by default).
        stored: The result as text.
        unstorable: Whether the work is done with a result that cannot be stored.
    """

    def __init__(self, status: ClaimStatus, result: Any = None) -> None:
        self.status = status
        self.result = result
        self.stored = "null"
        self.unstorable = False

    @property
    def acquired(self) -> bool:
        """Whether the block is to process the event."""
        return self.status is ACQUIRED

    def complete(self, result: Any) -> None:
        """Store a result for later deliveries; done when the block ends without an exception.

        A result that cannot be stored costs the result, not a second run: the event is done, this
        caller gets the error, and later deliveries get None.

        Args:
            result: JSON values, LangChain messages, pydantic models, dataclasses, named tuples,
                enumerations, dates and times, UUIDs, decimals, paths, bytes, sets, in any nesting.
                A model or dataclass is restored without its constructor, in a process that has
                loaded its class; elsewhere it comes back as a dict.

        Raises:
            InvalidEventError: The result holds something else, or the event is not this block's.
        """
        if not self.acquired:
            message = f"only an acquired claim can be completed; this one is {self.status}"
            raise InvalidEventError(message)
        from langchain_convsync.surfaces.results import encode  # LangChain's messages take a while

        self.result, self.stored, self.unstorable = result, "null", True
        try:
            self.stored = encode(result)
        except InvalidEventError as error:
            message = f"the event is done and will not be repeated, but {error}"
            raise InvalidEventError(message) from error
        self.unstorable = False


@checked
@contextmanager
def once(
    store: StoreLike,
    event_id: str,
    *,
    lease: PositiveSeconds = 30.0,
    namespace: str = "once",
    wait: Seconds = 0.0,
) -> Iterator[Claim]:
    """Process an event in one place only, wherever else it is delivered.

    ::

        with once(store, event_id) as claim:
            if claim.acquired:
                claim.complete(handle(event))
        return claim.result

    The event is done when the block ends; an exception gives it back, unless the result could not
    be stored: then the work is done. While the block runs its lease is renewed, and at its end a
    store that is away is waited for, for as long as a lease. If the process dies, the next delivery
    after the lease acquires the event.

    Args:
        store: Where claims are kept.
        event_id: The event's own id, the same for every delivery.
        lease: Seconds after which a dead process loses the event.
        namespace: Keeps apart what is done once for different purposes.
        wait: Seconds to wait for another caller that is at the event, or for its lease to end.

    Raises:
        InvalidEventError: The id is empty.
        StoreError: The store cannot tell; the event must not be processed unclaimed.
        FencedError: At the end of the block: the lease was lost, the result was not stored.
    """
    opened = store_of(store)
    claim, acquired = run(_claim(opened, event_id, lease, namespace, wait))
    if acquired is None:
        yield claim
        return
    with Watch(opened, acquired.lease, seconds=lease, deadline=None):
        try:
            yield claim
        except Exception:
            run(_ended_by_error(opened, acquired, claim, lease))
            raise
        run(claims.finish(opened, acquired, claim.stored, patience=lease))


@checked
@asynccontextmanager
async def aonce(
    store: StoreLike,
    event_id: str,
    *,
    lease: PositiveSeconds = 30.0,
    namespace: str = "once",
    wait: Seconds = 0.0,
) -> AsyncIterator[Claim]:
    """:func:`once` on the running event loop."""
    opened = store_of(store)
    claim, acquired = await arun(_claim(opened, event_id, lease, namespace, wait))
    if acquired is None:
        yield claim
        return
    with Watch(opened, acquired.lease, seconds=lease, deadline=None):
        try:
            yield claim
        except Exception:
            await arun(_ended_by_error(opened, acquired, claim, lease))
            raise
        await arun(claims.finish(opened, acquired, claim.stored, patience=lease))


def _claim(
    store: EventStore, event_id: str, lease: float, namespace: str, wait: float
) -> Flow[tuple[Claim, Acquired | None]]:
    accepted = yield from claims.claim(store, event_id, namespace=namespace, lease=lease, wait=wait)
    found = _as_claim(accepted)
    telemetry.count("claims", status=found.status)
    return found, accepted.acquired


def _ended_by_error(
    store: EventStore, acquired: Acquired, claim: Claim, lease: float
) -> Flow[None]:
    if claim.unstorable:  # else the next delivery would do the work once more
        yield from claims.finish(store, acquired, claim.stored, patience=lease)
    else:
        yield from claims.give_back(store, acquired)


def _as_claim(accepted: Accepted) -> Claim:
    if accepted.acquired is not None:
        return Claim(ACQUIRED)
    if accepted.state == "done":
        from langchain_convsync.surfaces.results import decode

        try:
            return Claim(DONE, decode(accepted.outcome or "null"))
        except Exception:  # noqa: BLE001 - a message may be of a kind that only others know
            telemetry.count("unreadable", what="outcome")
            return Claim(DONE)
    return Claim(IN_PROGRESS)
