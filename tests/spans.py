"""OpenTelemetry as an application sets it up, but in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langchain_convsync import telemetry


@dataclass
class Exported:
    """What was exported."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)

    @property
    def spans(self) -> list[ReadableSpan]:
        """All finished spans, those that ended first in front."""
        return list(self.exporter.get_finished_spans())

    def tree(self) -> list[tuple[str, str | None]]:
        """Each span's name and its parent's, in the order in which they began."""
        spans = sorted(self.spans, key=lambda span: span.start_time or 0)
        names = {span.context.span_id: span.name for span in spans if span.context}
        return [(span.name, names[span.parent.span_id] if span.parent else None) for span in spans]

    def named(self, name: str) -> ReadableSpan:
        """The one span of this name."""
        (found,) = (span for span in self.spans if span.name == name)
        return found

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Each series: the value of a counter, the count of a histogram."""
        data = self.reader.get_metrics_data()
        return {
            (metric.name, frozenset((name, str(fact)) for name, fact in labels.items())): number
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for labels, number in map(_told, metric.data.data_points)
        }

    def everything(self) -> str:
        """All of it as text."""
        data = self.reader.get_metrics_data()
        return "".join([*(span.to_json() for span in self.spans), data.to_json() if data else ""])


def _told(point: Any) -> tuple[dict[str, Any], float]:
    return dict(point.attributes), point.value if hasattr(point, "value") else point.count


@contextmanager
def exported() -> Iterator[Exported]:
    """OpenTelemetry listens to this block."""
    found = Exported()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(found.exporter))
    meters = MeterProvider([found.reader], shutdown_on_exit=False)
    telemetry.connect(tracer_provider=tracers, meter_provider=meters)
    try:
        yield found
    finally:
        telemetry._record._spans = telemetry._record._meters = None
        tracers.shutdown()
        meters.shutdown()
