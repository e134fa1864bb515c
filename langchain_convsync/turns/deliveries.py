"""What follows a commit: the API writes, and the replies where we send them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, Polling, monotonic, sleep
from langchain_convsync._lines import count_of
from langchain_convsync.errors import StoreError
from langchain_convsync.outbox import Outbox, Replies
from langchain_convsync.outbox.queue import GRACE, OperationQueue
from langchain_convsync.stores.base import EventStore, QueueName, new_token
from langchain_convsync.turns.worker import Work

logger = logging.getLogger(__name__)

#: Seconds without due work after which the last delivery does not wait for retries any more.
LAST_CHANCE = 1.0


class Deliveries:
    """The queues behind a store's turns.

    Args:
        store: The store.
        outbox: Delivers the writes.
        replies: Sends the replies; None where the caller does.
        lease: Seconds for which a queue is leased while it is worked on.
        budget: Seconds that finishing may take.
    """

    def __init__(
        self,
        store: EventStore,
        outbox: Outbox,
        replies: Replies | None,
        *,
        lease: float,
        budget: float,
    ) -> None:
        self.budget = budget
        self._store = store
        self._replies = replies
        self._queues: list[OperationQueue[Any]] = [outbox, *([] if replies is None else [replies])]
        self._lease = lease
        self._warned = False

    @property
    def work(self) -> Mapping[QueueName, Work]:
        """What a worker does with each queue; what has to wait is given back at once."""
        return {queue.name: partial(queue.deliver, budget=0.0) for queue in self._queues}

    def drain(self, conversation_key: str) -> Flow[None]:
        """Deliver what one conversation has left, as far as the time allows."""
        until = monotonic() + self.budget
        if self._replies is not None:  # once, before anything else: the customer waits
            yield from self._replies.attempt(conversation_key, end=until + GRACE)
        for queue in self._queues:
            left = until - monotonic()
            delivered = yield from queue.drain(conversation_key, budget=left, grace=GRACE)
            if not delivered:
                self._warn_of_leftovers("writes" if queue.name == "outbox" else "replies")

    def finish(self) -> Flow[None]:
        """Deliver what is due anywhere, or due within a moment, as far as the time allows.

        A store that does not answer at the end is no error of the block: what is left waits there.
        """
        try:
            yield from self._finish()
        except StoreError as error:
            telemetry.count("leftovers")
            logger.warning("The block ends without its store, where the rest waits: %s", error)

    def _finish(self) -> Flow[None]:
        now = monotonic()
        until, worked = now + self.budget, now
        left = yield from self._left()
        while left and monotonic() < min(until, worked + LAST_CHANCE):
            found = False
            for queue in self._queues:
                acquired = yield from self._store.acquire(
                    queue.name, new_token(), lease=self._lease
                )
                if acquired is not None:
                    left_time = until - monotonic()
                    yield from queue.deliver(acquired, budget=left_time, end=until + GRACE)
                    found, worked = True, monotonic()
            left = yield from self._left()
            if left and not found:
                yield from sleep(Polling.FIRST)
        if left:
            self._warn_of_leftovers(left)

    def _left(self) -> Flow[str]:
        """How much of what is left, in words; empty where nothing is."""
        left = yield from self._store.backlog()
        replies = 0 if self._replies is None else left.replies
        counts = (left.writes, "write", "writes"), (replies, "reply", "replies")
        return " and ".join(count_of(*each) for each in counts if each[0])

    def _warn_of_leftovers(self, left: str) -> None:
        telemetry.count("leftovers")
        if not self._warned:  # once: while an API server is away it would be said with every turn
            self._warned = True
            logger.warning(
                "Left in the store: %s. The next worker delivers them (convsync worker "
                "MODULE:RUNNER), or the next turns of their conversations. "
                "How many there are tells: convsync status",
                left,
            )
