"""The README's section on monitoring tells of every metric, and of no other."""

from __future__ import annotations

import re
from pathlib import Path

from langchain_convsync.telemetry import METRICS

SECTION = (
    (Path(__file__).parents[2] / "README.md")
    .read_text(encoding="utf-8")
    .split("\n## Monitoring\n")[1]
    .split("\n## ")[0]
)
METRIC_ROWS, ALERT_ROWS = re.findall(r"^\| --- .*\n((?:\| .*\n)+)", SECTION, re.MULTILINE)


def cells(rows: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows.splitlines()]


def test_every_metric_is_told_as_it_is() -> None:
    """Name, kind and labels; each once."""
    told = [
        (name, kind, tuple(re.findall(r"\w+", labels)))
        for names, kind, labels, _ in cells(METRIC_ROWS)
        for name in re.findall(r"`(\w+)`", names)
    ]
    there = [(metric.prometheus, metric.kind, metric.labels) for metric in METRICS.values()]

    assert sorted(told) == sorted(there)


def test_alerts_ask_for_metrics_and_labels_that_exist() -> None:
    """An alert on a misspelt name never fires."""
    series = {
        metric.prometheus: metric for metric in METRICS.values() if metric.kind != "histogram"
    }
    for metric in METRICS.values():
        if metric.kind == "histogram":
            series |= {f"{metric.prometheus}_{part}": metric for part in ("bucket", "sum", "count")}
    queries = [row.replace(r"\|", "/").split("|")[1] for row in ALERT_ROWS.splitlines()]
    asked = [found for query in queries for found in re.findall(r"(convsync_\w+)(\{\w+)?", query)]

    assert len(queries) >= 6
    for name, matcher in asked:
        assert name in series, name
        assert matcher[1:] in {"", *series[name].labels}, (name, matcher)
