"""How often a caller may call: token buckets in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from langchain_convsync._checked import Count, checked
from langchain_convsync._flow import monotonic

MOST_CALLERS = 10_000


@checked
@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """So many requests, each caller for itself.

    Args:
        per_minute: Requests in the long run.
        burst: Requests at once, after a pause; as many as in a minute by default.

    Raises:
        ConfigurationError: One of them is less than 1.
    """

    per_minute: Count
    burst: Count | None = None

    @property
    def capacity(self) -> int:
        """Requests at once."""
        return self.per_minute if self.burst is None else self.burst


class Limiter:
    """Counts the requests of every caller.

    Args:
        limit: What each of them may.
        clock: Seconds that only grow.
        callers: How many are remembered; the one that called longest ago is forgotten first.
    """

    def __init__(
        self,
        limit: RateLimit,
        *,
        clock: Callable[[], float] = monotonic,
        callers: int = MOST_CALLERS,
    ) -> None:
        self._capacity = float(limit.capacity)
        self._per_second = limit.per_minute / 60
        self._clock = clock
        self._callers = callers
        #: Per caller the requests left, and when that was so.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, caller: str) -> float:
        """0 if the caller may go on, which counts; else the seconds until it may."""
        now = self._clock()
        left, then = self._buckets.pop(caller, (self._capacity, now))
        left = min(self._capacity, left + (now - then) * self._per_second)
        allowed = left >= 1
        self._buckets[caller] = (left - 1 if allowed else left, now)
        if len(self._buckets) > self._callers:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._per_second
