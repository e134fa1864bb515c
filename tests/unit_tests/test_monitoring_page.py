"""Alerts and metrics of the page on monitoring, and of what it gives away, are those there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from langchain_convsync.telemetry import METRICS, Metric
from tests.pages import DOCS, page, rows

SHOWN, _, ALERTS = page("run/monitor").partition("\n## Alerts\n")


def test_what_the_page_names_is_counted() -> None:
    """And what it says of it are the values of its label, or its kind."""
    named = set(re.findall(r"`(convsync_\w+)`", SHOWN))

    assert len(named) == 3
    assert named <= {metric.prometheus for metric in METRICS.values()}


def series() -> dict[str, Metric]:
    """What Prometheus knows, by its name there."""
    found = {metric.prometheus: metric for metric in METRICS.values() if metric.kind != "histogram"}
    for metric in METRICS.values():
        if metric.kind == "histogram":
            found |= {f"{metric.prometheus}_{part}": metric for part in ("bucket", "sum", "count")}
    return found


def check(query: str) -> None:
    """It is balanced, and asks for what there is, by labels that it has."""
    known, asked = series(), re.findall(r"(convsync_\w+)(\{\w+)?", query)
    assert asked, query
    for opened, closed in ("()", "[]", "{}"):
        assert query.count(opened) == query.count(closed), query
    for name, matcher in asked:
        assert name in known, name
        assert matcher[1:] in {"", *known[name].labels}, (name, matcher)
    for labels in re.findall(r"\bby \(([^)]*)\)", query):
        for label in filter(None, re.split(r",\s*", labels)):
            assert any(label in {"le", *known[name].labels} for name, _ in asked), (label, query)


def rules() -> list[dict[str, Any]]:
    """The rules that are given away."""
    read = yaml.safe_load((DOCS / "assets" / "convsync-alerts.yml").read_text("utf-8"))
    found: list[dict[str, Any]] = read["groups"][0]["rules"]
    return found


def targets() -> Iterator[tuple[str, str]]:
    """What the dashboard's panels ask for, and what they call it."""
    told = json.loads((DOCS / "assets" / "convsync-dashboard.json").read_text("utf-8"))
    for panel in told["panels"]:
        for each in panel.get("panels", [panel]):
            yield from ((target["expr"], target["legendFormat"]) for target in each["targets"])


def test_alerts_ask_for_metrics_and_labels_that_exist() -> None:
    """An alert on a misspelt name never fires."""
    queries = [query.replace("\\|", "|") for query, _ in rows(ALERTS)]

    assert len(queries) >= 6
    for query in queries:
        check(query)


def test_what_is_taken_away_asks_for_metrics_and_labels_that_exist() -> None:
    """Each panel and each rule; a line is named by labels that its metric has."""
    for query, legend in targets():
        check(query)
        named = {name for name in series() if re.search(rf"\b{name}\b", query)}
        labels = {label for name in named for label in series()[name].labels}
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels, legend
    for rule in rules():
        check(rule["expr"])
        assert rule["labels"]["severity"] in {"critical", "warning"}


@pytest.mark.parametrize(
    "wrong", ["convsync_turn_total", "sum by (who) (convsync_turns_total)", "(("]
)
def test_a_misspelt_query_is_found(wrong: str) -> None:
    """The check itself."""
    with pytest.raises(AssertionError):
        check(wrong)


def test_the_dashboard_shows_every_metric() -> None:
    """One that is added to the catalogue has a panel."""
    shown = " ".join(query for query, _ in targets())

    for metric in METRICS.values():
        assert re.search(rf"\b{metric.prometheus}(_bucket)?\b", shown), metric.prometheus


def test_the_rules_hold_the_alerts_of_the_page() -> None:
    """Word for word; and each names a section that tells what to do."""
    queries = {query.replace("\\|", "|").strip("`") for query, _ in rows(ALERTS)}

    assert queries <= {rule["expr"] for rule in rules()}
    for rule in rules():
        name, _, section = rule["annotations"]["runbook_url"].rpartition("/")[2].partition(".md#")
        headings = re.findall(r"^#+ (.+)$", page(f"run/{name}"), re.MULTILINE)
        anchors = {
            re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings
        }
        assert section in anchors, rule["alert"]
