"""What Prometheus reads: https://prometheus.io/docs/instrumenting/exposition_formats/."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from langchain_convsync.telemetry._catalogue import BOUNDS, METRICS, Metric
from langchain_convsync.telemetry._record import Gauge, Labels, counts, durations

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(gauges: Iterable[Gauge] = ()) -> str:
    """Every metric as text, in the order of the catalogue.

    Args:
        gauges: What was just looked up.
    """
    looked_up = list(gauges)
    lines: list[str] = []
    for metric in METRICS.values():
        if samples := [*_samples(metric, looked_up)]:
            lines += [f"# HELP {metric.prometheus} {metric.meaning}"]
            lines += [f"# TYPE {metric.prometheus} {metric.kind}", *samples]
    return "\n".join([*lines, ""])


def _samples(metric: Metric, gauges: list[Gauge]) -> Iterator[str]:
    match metric.kind:
        case "counter":
            found = counts(metric.name)
            if not (found or metric.labels):
                found = [({}, 0)]  # so that the first one is an increase
            for labels, number in found:
                yield _line(metric.prometheus, labels, number)
        case "histogram":
            for labels, row in durations(metric.name):
                yield from _histogram(metric.prometheus, labels, row)
        case "gauge":
            for gauge in gauges:
                if gauge.name == metric.name:
                    yield _line(metric.prometheus, gauge.labels, gauge.value)


def _histogram(name: str, labels: Labels, row: list[float]) -> Iterator[str]:
    *buckets, total = row
    for bound, number in zip([*BOUNDS, "+Inf"], accumulate(buckets), strict=True):
        yield _line(f"{name}_bucket", {**labels, "le": str(bound)}, number)
    yield _line(f"{name}_sum", labels, total)
    yield _line(f"{name}_count", labels, sum(buckets))


def _line(name: str, labels: Labels, value: float) -> str:
    pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{pairs}}} {value:.15g}" if pairs else f"{name} {value:.15g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
