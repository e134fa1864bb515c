"""Counting and timing: on the path of every turn, so each is one dictionary update.

Everything else is a view of what is kept here: ``_exposition`` writes it down for Prometheus,
``_otel`` passes it to OpenTelemetry. As long as the application has not set that up, it costs a
``None`` check.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, TypeAlias

from langchain_convsync import _forks
from langchain_convsync._flow import monotonic
from langchain_convsync._lazy import module_on_first_use
from langchain_convsync.telemetry._catalogue import BOUNDS, METRICS

if TYPE_CHECKING:
    from opentelemetry import metrics, trace

    from langchain_convsync.telemetry._otel import Meters
else:
    metrics = module_on_first_use("opentelemetry.metrics")
    trace = module_on_first_use("opentelemetry.trace")

#: A metric and the values of its labels, in the catalogue's order. That they are given in this
#: order is looked after by a test, so that nothing needs to be sorted here.
Key: TypeAlias = tuple[str, ...]
#: A series' labels, by name.
Labels: TypeAlias = dict[str, str]

#: Seconds for which what was looked up is told: a process that looks no more tells nothing.
GAUGES_KEPT = 60.0


class Gauge(NamedTuple):
    """What is the case now, e.g. ``Gauge("backlog", 3, {"what": "queued"})``."""

    name: str
    value: float
    labels: Labels = {}  # noqa: RUF012 - never changed


class Opened(Protocol):
    """A span under way."""

    def note(self, facts: Mapping[str, str | None]) -> None:
        """Attributes; what is None is unknown."""

    def failed(self, error: BaseException) -> None:
        """It came to this error, although its block does not raise it."""

    def close(self, labels: Mapping[str, str], error: BaseException | None) -> None:
        """End it, with the labels as they are now."""


class Spans(Protocol):
    """Who is told of timed blocks: OpenTelemetry, or the workbench."""

    def open(self, name: str, labels: Mapping[str, str]) -> Opened:
        """A block begins, inside the current one."""
        ...


_lock = _forks.lock()
_counts: dict[Key, int] = {}
#: How many fell into each bucket, those beyond the last bound, and the sum of all in seconds.
_seconds: dict[Key, list[float]] = {}

#: What was looked up last, and when.
_gauges: tuple[float, tuple[Gauge, ...]] = (0.0, ())

_spans: Spans | None = None
_meters: Meters | None = None


def count(name: str, amount: int = 1, **labels: str) -> None:
    """Add ``amount`` to a counter, e.g. ``count("turns", status="duplicate")``."""
    key = (name, *labels.values())
    with _lock:
        _counts[key] = _counts.get(key, 0) + amount


def observe(name: str, seconds: float, **labels: str) -> None:
    """Add a duration to a histogram, e.g. ``observe("turn_phase", 0.2, phase="agent")``."""
    _observe(name, seconds, labels)


def _observe(name: str, seconds: float, labels: Labels) -> None:
    key, place = (name, *labels.values()), bisect_left(BOUNDS, seconds)
    with _lock:
        row = _seconds.get(key)
        if row is None:
            row = _seconds[key] = [0.0] * (len(BOUNDS) + 2)
        row[place] += 1
        row[-1] += seconds
    if _meters is not None:
        _meters.record(name, seconds, labels)


class timed:  # noqa: N801 - reads like a word, as contextlib's `suppress` does
    """A block whose duration is observed, and which is a span where OpenTelemetry listens.

    ::

        with telemetry.timed("api_request", operation="sync_conversation", status="none") as timing:
            ...
            timing.labels["status"] = "2xx"

    It stands around ``yield from`` in flows of sync and async: a flow runs in one context.
    """

    __slots__ = ("_began", "_name", "_opened", "labels", "seconds")

    def __init__(self, name: str, **labels: str) -> None:
        self._name = name
        self._opened: Opened | None = None
        self.labels = labels
        self.seconds = 0.0  # once it has ended

    def note(self, **facts: str | None) -> None:
        """Attributes of the span alone: keys, and what else has too many values for a label."""
        if self._opened is not None:
            self._opened.note(facts)

    def failed(self, error: BaseException) -> None:
        """The block came to this error, although it does not raise it."""
        if self._opened is not None:
            self._opened.failed(error)

    def __enter__(self) -> Self:
        if _spans is not None:
            self._opened = _spans.open(self._name, self.labels)
        self._began = perf_counter()
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.seconds = perf_counter() - self._began
        _observe(self._name, self.seconds, self.labels)
        if self._opened is not None:
            self._opened.close(self.labels, error)


def look_up(gauges: Iterable[Gauge]) -> None:
    """Keep what is the case now, for those who must not read a store themselves."""
    global _gauges  # noqa: PLW0603 - one process, one latest look
    _gauges = monotonic(), tuple(gauges)


def looked_up(name: str) -> list[tuple[Labels, float]]:
    """Each series of a gauge as it was looked up last; nothing where that is long ago."""
    at, found = _gauges
    if monotonic() > at + GAUGES_KEPT:
        return []
    return [(gauge.labels, gauge.value) for gauge in found if gauge.name == name]


def is_listened_to() -> bool:
    """Whether somebody gets the gauges who does not ask for them: OpenTelemetry."""
    return _meters is not None


def counts(name: str) -> list[tuple[Labels, int]]:
    """Each series of a counter."""
    with _lock:
        found = [(key, number) for key, number in _counts.items() if key[0] == name]
    return [(_labels(key), number) for key, number in found]


def durations(name: str) -> list[tuple[Labels, list[float]]]:
    """Each series of a histogram: how many fell into each bucket, and the sum of all."""
    with _lock:
        found = [(key, [*row]) for key, row in _seconds.items() if key[0] == name]
    return [(_labels(key), row) for key, row in found]


def _labels(key: Key) -> Labels:
    return dict(zip(METRICS[key[0]].labels, key[1:], strict=True))


def counted(name: str, **labels: str) -> int:
    """The sum of a counter over all its labels that include ``labels``."""
    return sum(number for has, number in counts(name) if labels.items() <= has.items())


def observed(name: str, **labels: str) -> int:
    """How many durations a histogram has over all its labels that include ``labels``."""
    rows = (row for has, row in durations(name) if labels.items() <= has.items())
    return int(sum(sum(row[:-1]) for row in rows))


def conceal(route: str) -> None:
    """Put a route's template in the place of the URLs that a server's own span holds, if any."""
    if "opentelemetry.trace" in sys.modules:
        from langchain_convsync.telemetry._otel import conceal as put

        put(route)


def listen(spans: Spans) -> None:
    """Tell of timed blocks here, in OpenTelemetry's place."""
    global _spans  # noqa: PLW0603 - one process, one listener
    _spans = spans


def connect(
    *,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> None:
    """Let OpenTelemetry see what happens here, where the application has set it up.

    Called whenever a client is made or a runner's block begins; as long as
    OpenTelemetry is not imported it does nothing.

    Args:
        tracer_provider: Gets the spans; the global one when absent.
        meter_provider: Gets counters, histograms and gauges; the global one when absent.
    """
    global _meters, _spans  # noqa: PLW0603 - one process, one listener
    if tracer_provider or (_spans is None and "opentelemetry.trace" in sys.modules):
        from langchain_convsync.telemetry._otel import spans_of

        _spans = spans_of(tracer_provider)
    if meter_provider or (_meters is None and "opentelemetry.metrics" in sys.modules):
        from langchain_convsync.telemetry._otel import meters_of

        _meters = meters_of(meter_provider, counts, looked_up)
