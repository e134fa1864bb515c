"""Alerts and the three metrics of the page on monitoring are those that there are."""

from __future__ import annotations

import re

from langchain_convsync.telemetry import METRICS
from tests.pages import page, rows

SHOWN, _, ALERTS = page("run/monitor").partition("\n## Alerts\n")


def test_what_the_page_names_is_counted() -> None:
    """And what it says of it are the values of its label, or its kind."""
    named = set(re.findall(r"`(convsync_\w+)`", SHOWN))

    assert len(named) == 3
    assert named <= {metric.prometheus for metric in METRICS.values()}


def test_alerts_ask_for_metrics_and_labels_that_exist() -> None:
    """An alert on a misspelt name never fires."""
    series = {
        metric.prometheus: metric for metric in METRICS.values() if metric.kind != "histogram"
    }
    for metric in METRICS.values():
        if metric.kind == "histogram":
            series |= {f"{metric.prometheus}_{part}": metric for part in ("bucket", "sum", "count")}
    queries = [query for query, _ in rows(ALERTS)]
    asked = [found for query in queries for found in re.findall(r"(convsync_\w+)(\{\w+)?", query)]

    assert len(queries) >= 6
    for name, matcher in asked:
        assert name in series, name
        assert matcher[1:] in {"", *series[name].labels}, (name, matcher)
