"""Claims on single events, outside every conversation: something is done once for each.

A claim is a turn of its own: accept and take in one step, committed without operations.
"""

from __future__ import annotations

import time

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, sleep
from langchain_convsync.errors import ConvSyncError, FencedError, InvalidEventError
from langchain_convsync.stores.base import Accepted, Commit, EventStore, NewEvent, Taken, new_token

#: Seconds between looks at an event that somebody else is at: doubled each time, up to the last.
FIRST_LOOK, LAST_LOOK = 0.01, 0.25


def claim(
    store: EventStore, event_id: str, *, namespace: str, lease: float, wait: float = 0.0
) -> Flow[Accepted]:
    """Claim an event: ``taken`` if it is ours now, state ``done`` if it was done before.

    Args:
        store: Where claims are kept.
        event_id: The event's own id, the same for every delivery.
        namespace: Keeps apart what is done once for different purposes.
        lease: Seconds after which a dead process loses the event.
        wait: Seconds to wait for somebody else who is at the event, or for its lease to end.

    Raises:
        InvalidEventError: The id is empty.
        StoreError: The store cannot tell.
    """
    if not event_id:
        message = "event_id is empty: give the event's own id, the same for every delivery"
        raise InvalidEventError(message)
    handles = yield from store.handles()
    handle = handles.claim(namespace, event_id)
    event = NewEvent(eid=handle, cid=handle)
    until, look = time.monotonic() + wait, FIRST_LOOK
    while True:
        accepted = yield from store.accept(event, token=new_token(), lease=lease)
        left = until - time.monotonic()
        if accepted.taken is not None or accepted.state == "done" or left <= 0:
            return accepted
        yield from sleep(min(look, left))
        look = min(LAST_LOOK, look * 2)


def finish(store: EventStore, taken: Taken, outcome: str) -> Flow[None]:
    """The event is done; later claims are told the outcome.

    Raises:
        FencedError: The lease was lost, the outcome was not stored.
    """
    eid = taken.events[0].eid
    commit = Commit(eids=[eid], outcomes={eid: outcome})
    if (yield from store.commit_turn(taken.lease, commit)) != "done":
        message = "the lease of this event was lost to another process; its result was not stored"
        raise FencedError(message)


def give_back(store: EventStore, taken: Taken) -> Flow[None]:
    """The event is not done; whoever claims it next gets it at once."""
    try:
        yield from store.release(taken.lease)
    except ConvSyncError:
        telemetry.count("release_failures")  # the lease ends by itself; the first error matters
