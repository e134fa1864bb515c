"""Event deduplication for a webhook of your own: a claim that survives crashes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import StrEnum
from typing import Any

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, arun, run
from langchain_convsync.errors import ConvSyncError, FencedError, InvalidEventError
from langchain_convsync.stores.base import Accepted, Commit, EventStore, NewEvent, Taken, new_token
from langchain_convsync.stores.heartbeat import Watch


class ClaimStatus(StrEnum):
    """Who may work on an event."""

    ACQUIRED = "acquired"
    IN_PROGRESS = "in_progress"
    DONE = "done"


ACQUIRED, IN_PROGRESS, DONE = ClaimStatus


class Claim:
    """The right to process one event, or the news that somebody has it.

    Attributes:
        status: ``ACQUIRED``: process the event. ``IN_PROGRESS``: somebody is at it. ``DONE``: it
            was processed; ``result`` is what was stored.
        result: The stored result of an event that is done.
    """

    def __init__(self, status: ClaimStatus, result: Any = None) -> None:
        self.status = status
        self.result = result

    @property
    def acquired(self) -> bool:
        """Whether the block is to process the event."""
        return self.status is ACQUIRED

    def complete(self, result: Any) -> None:
        """Store a JSON value for later deliveries; done when the block ends without an exception.

        Raises:
            InvalidEventError: The result is no JSON value, or the event is not this block's.
        """
        if not self.acquired:
            message = f"only an acquired claim can be completed; this one is {self.status}"
            raise InvalidEventError(message)
        try:
            json.dumps(result, allow_nan=False)
        except (TypeError, ValueError) as error:
            message = "the result of a claim must be a JSON value"
            raise InvalidEventError(message) from error
        self.result = result


@contextmanager
def once(
    store: EventStore, event_id: str, *, lease: float = 30.0, namespace: str = "once"
) -> Iterator[Claim]:
    """Process an event in one place only, whoever else receives it.

    ::

        with once(store, event_id) as claim:
            if claim.acquired:
                claim.complete(handle(event))
        return claim.result

    The event is done when the block ends; an exception gives it back. While the block runs its
    lease is renewed. If the process dies, the next delivery after the lease acquires the event.

    Args:
        store: Where claims are kept.
        event_id: The event's own id, the same for every delivery.
        lease: Seconds after which a dead process loses the event.
        namespace: Keeps apart what is done once for different purposes.

    Raises:
        InvalidEventError: The id is empty.
        StoreError: The store cannot tell; the event must not be processed unclaimed.
        FencedError: At the end of the block: the lease was lost, the result was not stored.
    """
    claim, taken = run(_claim(store, event_id, lease, namespace))
    if taken is None:
        yield claim
        return
    with Watch(store, taken.lease, seconds=lease, deadline=None):
        try:
            yield claim
        except Exception:
            run(_give_back(store, taken))
            raise
        run(_finish(store, taken, claim))


@asynccontextmanager
async def aonce(
    store: EventStore, event_id: str, *, lease: float = 30.0, namespace: str = "once"
) -> AsyncIterator[Claim]:
    """:func:`once` on the running event loop."""
    claim, taken = await arun(_claim(store, event_id, lease, namespace))
    if taken is None:
        yield claim
        return
    with Watch(store, taken.lease, seconds=lease, deadline=None):
        try:
            yield claim
        except Exception:
            await arun(_give_back(store, taken))
            raise
        await arun(_finish(store, taken, claim))


def _claim(
    store: EventStore, event_id: str, lease: float, namespace: str
) -> Flow[tuple[Claim, Taken | None]]:
    if not event_id:
        message = "event_id is empty: give the event's own id, the same for every delivery"
        raise InvalidEventError(message)
    handles = yield from store.handles()
    handle = handles.claim(namespace, event_id)
    event = NewEvent(eid=handle, cid=handle)
    accepted = yield from store.accept(event, token=new_token(), lease=lease)
    claim = _as_claim(accepted)
    telemetry.count("claims", status=claim.status)
    return claim, accepted.taken


def _as_claim(accepted: Accepted) -> Claim:
    if accepted.taken is not None:
        return Claim(ACQUIRED)
    if accepted.state == "done":
        return Claim(DONE, json.loads(accepted.outcome or "null"))
    return Claim(IN_PROGRESS)


def _finish(store: EventStore, taken: Taken, claim: Claim) -> Flow[None]:
    eid = taken.events[0].eid
    commit = Commit(eids=[eid], outcomes={eid: json.dumps(claim.result)})
    if (yield from store.commit_turn(taken.lease, commit)) != "done":
        message = "the lease of this event was lost to another process; its result was not stored"
        raise FencedError(message)


def _give_back(store: EventStore, taken: Taken) -> Flow[None]:
    try:
        yield from store.release(taken.lease)
    except ConvSyncError:
        telemetry.count("release_failures")  # the lease ends by itself; the first error matters
