"""What OpenTelemetry gets; needs the ``otel`` extra, and is imported where that is set up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextvars import Token
from typing import Any, TypeAlias

from opentelemetry import context, metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from langchain_convsync.telemetry._catalogue import BOUNDS, METRICS

logger = logging.getLogger(__name__)

SCOPE = "langchain_convsync"

#: Each series of a counter or a gauge, by its name: its labels, and the number.
Series: TypeAlias = Callable[[str], Iterable[tuple[Mapping[str, str], float]]]

#: Spans of requests to other services.
_OUTWARD = {"api_request", "waha_request"}


#: Tells instrumented HTTP clients that this request has a span already: theirs would hold its URL,
#: and with it the phone number. The same name as ``opentelemetry.instrumentation.utils`` asks for.
_ALONE: str = getattr(
    context, "_SUPPRESS_HTTP_INSTRUMENTATION_KEY", "suppress_http_instrumentation"
)
#: What instrumented servers call a request's URL, in the conventions of old and new.
_URLS = ("http.target", "http.url", "url.full", "url.path", "url.query")


def conceal(route: str) -> None:
    """Put a route's template in the place of the URLs that the current span holds."""
    span = trace.get_current_span()
    held: Mapping[str, Any] = getattr(span, "attributes", None) or {}
    for name in _URLS:
        if name in held:
            span.set_attribute(name, route)


class Opened:
    """A span under way; it is the current one until it is closed."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span, *, outward: bool = False) -> None:
        self._span = span
        within = trace.set_span_in_context(span)
        if outward:
            within = context.set_value(_ALONE, True, within)
        self._token: Token[Any] = context.attach(within)

    def note(self, facts: Mapping[str, str | None]) -> None:
        """Attributes; what is None is unknown."""
        for name, fact in facts.items():
            if fact is not None:
                self._span.set_attribute(f"convsync.{name}", fact)

    def failed(self, error: BaseException) -> None:
        """The class of an error; its text may quote the customer."""
        self._span.set_attribute("error.type", type(error).__name__)
        self._span.set_status(Status(StatusCode.ERROR))

    def close(self, labels: Mapping[str, str], error: BaseException | None) -> None:
        """End it, with the labels as they are now."""
        context.detach(self._token)
        self.note(labels)
        if error is not None:
            self.failed(error)
        self._span.end()


class Spans:
    """Begins spans, named after the metric that the same block is observed as."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def open(self, name: str, labels: Mapping[str, str]) -> Opened:
        """A span of its own inside the current one."""
        about = labels.get("phase") or labels.get("operation") or labels.get("queue")
        title = " ".join(filter(None, ("convsync", METRICS[name].span, about)))
        outward = name in _OUTWARD
        kind = SpanKind.CLIENT if outward else SpanKind.INTERNAL
        return Opened(self._tracer.start_span(title, kind=kind), outward=outward)


class Meters:
    """Counters as they are read, histograms as they are observed, gauges as last looked up."""

    def __init__(self, provider: MeterProvider, counts: Series, looked_up: Series) -> None:
        meter = provider.get_meter(SCOPE)
        self._histograms = {}
        for metric in METRICS.values():
            name = f"convsync.{metric.name}"
            if metric.kind == "counter":
                meter.create_observable_counter(
                    name, [_reader(metric.name, counts)], description=metric.meaning
                )
            elif metric.kind == "gauge":
                meter.create_observable_gauge(
                    name, [_reader(metric.name, looked_up)], description=metric.meaning
                )
            else:
                self._histograms[metric.name] = meter.create_histogram(
                    name,
                    "s",
                    metric.meaning,
                    explicit_bucket_boundaries_advisory=BOUNDS,
                )

    def record(self, name: str, seconds: float, labels: Mapping[str, str]) -> None:
        """One duration."""
        self._histograms[name].record(seconds, {**labels})


def _reader(name: str, series: Series) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _: [Observation(number, labels) for labels, number in series(name)]


def spans_of(provider: TracerProvider | None) -> Spans | None:
    """Spans for a provider; None as long as no provider is set."""
    found = provider or trace.get_tracer_provider()
    return Spans(found.get_tracer(SCOPE)) if provider or _is_set_up(found) else None


def meters_of(provider: MeterProvider | None, counts: Series, looked_up: Series) -> Meters | None:
    """Counters, histograms and gauges for a provider; None as long as no provider is set."""
    found = provider or metrics.get_meter_provider()
    if not (provider or _is_set_up(found)):
        return None
    try:
        return Meters(found, counts, looked_up)
    except TypeError:  # the application's own version need not be the extra's
        logger.warning(
            "This OpenTelemetry API is too old for histograms of seconds, no metrics are exported: "
            "pip install 'langchain-convsync[otel]'"
        )
        return None


def _is_set_up(provider: object) -> bool:
    """Whether it is an application's: the API's own ones are placeholders."""
    home = type(provider).__module__
    return not home.startswith(("opentelemetry.trace", "opentelemetry.metrics"))
