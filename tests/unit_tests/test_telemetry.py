"""What is counted and timed: declared, cheap to read, and written as Prometheus expects it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.runnables import RunnableLambda

import langchain_convsync
from langchain_convsync import InboundEvent, TurnRunner, telemetry
from langchain_convsync.telemetry import METRICS, Gauge
from tests.surfaces import unreachable

SOURCES = Path(langchain_convsync.__file__).parent
KINDS = {"count": "counter", "observe": "histogram", "timed": "histogram", "Gauge": "gauge"}
#: Parameters of `count` that are no labels.
OTHERS = {"amount"}

LABEL = r'[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf"(convsync_[a-z_]+)(?:\{{({LABEL}(?:,{LABEL})*)\}})? (-?[0-9.e+-]+)")


def uses() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Each call in the sources that names a metric: its kind, its name, its labels as given."""
    for path in SOURCES.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            called = getattr(call.func, "attr", getattr(call.func, "id", ""))
            name = (
                call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
            )
            if called not in KINDS or not isinstance(name, str):
                continue
            labels = tuple(str(each.arg) for each in call.keywords if each.arg not in OTHERS)
            if called == "Gauge" and isinstance(call.args[-1], ast.Dict):
                labels = tuple(key.value for key in call.args[-1].keys)  # type: ignore[union-attr]  # constants
            yield KINDS[called], name, labels


def test_every_metric_is_declared_as_it_is_used() -> None:
    """The same kind and labels, in the same order, everywhere; and none is declared in vain."""
    declared = {(metric.kind, metric.name, metric.labels) for metric in METRICS.values()}

    assert set(uses()) == declared


def test_no_label_could_tell_who_the_customer_is() -> None:
    """Labels have few values, each a fact about the work."""
    labels = {label for metric in METRICS.values() for label in metric.labels}

    assert labels == {
        *("by", "doing", "error", "field", "queue", "method", "operation", "phase", "policy"),
        *("outcome", "status", "tool", "what", "direction", "kind", "model", "state"),
    }


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("hologramMessage", "hologramMessage"),
        ("native_flow", "native_flow"),
        *(("+51999999999", "other"), ("kind51999999999", "other"), ("two words", "other")),
        ("k" * 65, "other"),
    ],
)
def test_a_kind_that_a_source_names_is_a_label_only_if_it_is_a_name(kind: str, label: str) -> None:
    """Whatever stands in a payload, no series tells of a person, and there are not too many."""
    event = InboundEvent(event_id="1", phone_number="+51999999999", unread_kind=kind)
    runner = TurnRunner(RunnableLambda(str), client=unreachable(), store=":memory:")
    before = telemetry.counted("unread_kinds", what=label)
    runner.accept(event)
    runner.close()
    assert telemetry.counted("unread_kinds", what=label) == before + 1


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some numbers, and none from elsewhere."""
    monkeypatch.setattr(telemetry._record, "_counts", {})
    monkeypatch.setattr(telemetry._record, "_seconds", {})
    telemetry.count("turns", status="answered")
    telemetry.count("turns", 2, status="duplicate")
    telemetry.observe("turn_phase", 0.005, phase="read")
    telemetry.observe("turn_phase", 0.006, phase="read")
    telemetry.observe("turn_phase", 900.0, phase="read")


@pytest.mark.usefixtures("counted")
def test_the_exposition_says_what_was_counted() -> None:
    """Each series on its line, below what it means; an unlabelled counter begins with zero."""
    text = telemetry.exposition([Gauge("backlog", 3, {"what": "queued"})])

    assert 'convsync_turns_total{status="answered"} 1\n' in text
    assert 'convsync_turns_total{status="duplicate"} 2\n' in text
    assert 'convsync_backlog{what="queued"} 3\n' in text
    assert "convsync_turns_failed_total 0\n" in text
    assert "# TYPE convsync_turns_total counter\n" in text
    assert "# TYPE convsync_turn_phase_seconds histogram\n" in text
    assert "# TYPE convsync_backlog gauge\n" in text
    assert "agent_failures" not in text  # no series, no head


@pytest.mark.usefixtures("counted")
def test_a_histograms_buckets_hold_what_is_at_most_their_bound() -> None:
    """Cumulative, up to +Inf, which is the count."""
    lines = [line for line in telemetry.exposition().splitlines() if "turn_phase_seconds" in line]
    read = 'phase="read"'

    assert f'convsync_turn_phase_seconds_bucket{{{read},le="0.005"}} 1' in lines
    assert f'convsync_turn_phase_seconds_bucket{{{read},le="0.01"}} 2' in lines
    assert f'convsync_turn_phase_seconds_bucket{{{read},le="300.0"}} 2' in lines
    assert f'convsync_turn_phase_seconds_bucket{{{read},le="+Inf"}} 3' in lines
    assert f"convsync_turn_phase_seconds_count{{{read}}} 3" in lines
    assert f"convsync_turn_phase_seconds_sum{{{read}}} 900.011" in lines


@pytest.mark.usefixtures("counted")
def test_every_line_is_one_that_prometheus_reads() -> None:
    """Whatever stands in a label: an error's class comes from elsewhere."""
    telemetry.count("agent_failures", error='"a\\b\nc"')
    lines = telemetry.exposition([Gauge("store_up", 1)]).splitlines()
    samples = [line for line in lines if not line.startswith("# ")]

    assert [line for line in samples if SAMPLE.fullmatch(line) is None] == []
    assert r'convsync_agent_failures_total{error="\"a\\b\nc\""} 1' in samples


def test_a_block_is_timed_however_it_ends() -> None:
    """With the labels that it had at its end."""
    before = telemetry.observed("api_request", operation="health", status="2xx")
    with telemetry.timed("api_request", operation="health", status="none") as timing:
        timing.labels["status"] = "2xx"
    failures = telemetry.observed("turn_phase", phase="agent")
    with pytest.raises(FileNotFoundError), telemetry.timed("turn_phase", phase="agent"):
        (SOURCES / "nowhere").stat()

    assert telemetry.observed("api_request", operation="health", status="2xx") == before + 1
    assert telemetry.observed("turn_phase", phase="agent") == failures + 1
