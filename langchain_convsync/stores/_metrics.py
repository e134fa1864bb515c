"""What a store still has to do, as metrics: looked up when somebody asks."""

from __future__ import annotations

from dataclasses import asdict

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow
from langchain_convsync.errors import ClosedError, StoreError
from langchain_convsync.stores.base import EventStore
from langchain_convsync.telemetry import Gauge


def exposition(store: EventStore) -> Flow[str]:
    """All metrics of this process, and those of a store; a store that is away is one, too."""
    try:
        gauges = [Gauge("store_up", 1), *(yield from _gauges(store))]
    except (StoreError, ClosedError):
        gauges = [Gauge("store_up", 0)]
    return telemetry.exposition(gauges)


def _gauges(store: EventStore) -> Flow[list[Gauge]]:
    left = yield from store.backlog()
    loads = yield from store.loads()
    oldest = {"turn": 0.0, "write": 0.0, "say": 0.0}
    for load in loads:
        oldest[load.lane] = max(oldest[load.lane], -load.due_in)
    return [
        *(Gauge("backlog", number, {"what": what}) for what, number in asdict(left).items()),
        *(Gauge("oldest_due_seconds", age, {"lane": lane}) for lane, age in oldest.items()),
    ]
