"""One sync per event, whichever runs and processes decide something for it."""

from __future__ import annotations

import logging

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow
from langchain_convsync.errors import EventInProgressError
from langchain_convsync.stores.base import EventStore
from langchain_convsync.stores.claims import claim, finish, give_back
from langchain_convsync.stores.heartbeat import Watch
from langchain_convsync.surfaces.context import ConversationRef, event_name

logger = logging.getLogger(__name__)

#: Seconds after which a process that died in a sync loses its event to the next one.
LEASE = 10.0
#: Keeps syncs apart from what ``once`` does for the same event.
NAMESPACE = "sync"


def sync_once(store: EventStore, ref: ConversationRef, syncing: Flow[object]) -> Flow[None]:
    """Perform a sync unless one was performed for the event of ``ref``.

    Without an event it is performed anyway: twice is better than never.

    Raises:
        EventInProgressError: Another caller has been at it for longer than a lease.
        StoreError: The store cannot tell; nothing was synced.
        FencedError: It was synced, and perhaps by another process, too.
    """
    if ref.event_id is None:
        telemetry.count("callback_events_unnamed")
        logger.warning(
            "A sync has a store but no event to be done once for: run inside "
            "in_conversation(…, event_id=…)"
        )
        yield from syncing
        return
    name = event_name(ref)
    accepted = yield from claim(store, name, namespace=NAMESPACE, lease=LEASE, wait=2 * LEASE)
    if accepted.state == "done":
        telemetry.count("callback_duplicates")
        return
    if (acquired := accepted.acquired) is None:
        message = "another process has been syncing this event for too long; it was left to that"
        raise EventInProgressError(message)
    with Watch(store, acquired.lease, seconds=LEASE, deadline=None):
        try:
            yield from syncing
        except Exception:
            yield from give_back(store, acquired)
            raise
        yield from finish(store, acquired, "null")
