"""What happened: counted and timed here, shown by Prometheus and OpenTelemetry; and logged.

Labels are facts about the work (an operation, a status, an error's class), never about people: no
phone number, chat id or session id belongs into a label, and every label has few values.
"""

from langchain_convsync.telemetry._catalogue import BOUNDS, METRICS, Metric
from langchain_convsync.telemetry._exposition import CONTENT_TYPE, exposition
from langchain_convsync.telemetry._log import log
from langchain_convsync.telemetry._record import (
    Gauge,
    Opened,
    Spans,
    conceal,
    connect,
    count,
    counted,
    counts,
    is_listened_to,
    listen,
    look_up,
    observe,
    observed,
    timed,
)

__all__ = [
    "BOUNDS",
    "CONTENT_TYPE",
    "METRICS",
    "Gauge",
    "Metric",
    "Opened",
    "Spans",
    "conceal",
    "connect",
    "count",
    "counted",
    "counts",
    "exposition",
    "is_listened_to",
    "listen",
    "log",
    "look_up",
    "observe",
    "observed",
    "timed",
]
