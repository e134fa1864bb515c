"""Claims on single events, outside every conversation: something is done once for each.

A claim is a turn of its own: accept and acquire in one step, committed without operations.
"""

from __future__ import annotations

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, Polling, monotonic, sleep
from langchain_convsync.errors import (
    ConvSyncError,
    FencedError,
    InvalidEventError,
    StoreUnavailableError,
)
from langchain_convsync.stores.base import (
    Accepted,
    AcceptRules,
    Acquired,
    Commit,
    EventStore,
    NewEvent,
    new_token,
)
from langchain_convsync.stores.changed import with_new_names


def claim(
    store: EventStore, event_id: str, *, namespace: str, lease: float, wait: float = 0.0
) -> Flow[Accepted]:
    """Claim an event: ``acquired`` if it is ours now, state ``done`` if it was done before.

    Args:
        store: Where claims are kept.
        event_id: The event's own id, the same for every delivery.
        namespace: Keeps apart what is done once for different purposes.
        lease: Seconds after which a dead process loses the event.
        wait: Seconds to wait for another claimer of the event, or for its lease to end.

    Raises:
        InvalidEventError: The id is empty.
        StoreError: The store cannot tell.
    """
    if not event_id:
        message = "event_id is empty: give the event's own id, the same for every delivery"
        raise InvalidEventError(message)
    until, polling, rules = monotonic() + wait, Polling(), AcceptRules(lease=lease)

    def offered() -> Flow[Accepted]:
        keys = yield from store.keys()
        key = keys.claim(namespace, event_id)
        event = NewEvent(event_key=key, conversation_key=key, names=keys)
        return (yield from store.accept(event, rules, token=new_token()))

    while True:
        accepted = yield from with_new_names(offered)
        left = until - monotonic()
        if accepted.acquired is not None or accepted.state == "done" or left <= 0:
            return accepted
        yield from sleep(polling.pause(left))


def finish(
    store: EventStore, acquired: Acquired, outcome: str, *, patience: float = 0.0
) -> Flow[None]:
    """The event is done; later claims are told the outcome.

    Args:
        store: Where claims are kept.
        acquired: The claim.
        outcome: What later claims are told.
        patience: Seconds to try for while the store is away: the work would be done again.

    Raises:
        FencedError: The lease was lost, the outcome was not stored.
        StoreUnavailableError: The store is away, and nothing was stored.
    """
    event_key = acquired.events[0].event_key
    commit = Commit(event_keys=[event_key], outcomes={event_key: outcome})
    until, polling = monotonic() + patience, Polling()
    while True:
        try:
            committed = yield from store.commit_turn(acquired.lease, commit)
        except StoreUnavailableError:
            if monotonic() >= until:
                raise
            yield from sleep(polling.pause())
            continue
        if committed == "done":
            return
        message = "the lease of this event was lost to another process; its result was not stored"
        raise FencedError(message)


def give_back(store: EventStore, acquired: Acquired) -> Flow[None]:
    """The event is not done; its next claimer gets it at once."""
    try:
        yield from store.release(acquired.lease)
    except ConvSyncError:
        telemetry.count("release_failures")  # the lease ends by itself; the first error matters
