"""A Grafana dashboard and Prometheus' alerts, out of the catalogue that the code counts by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from langchain_convsync.telemetry import METRICS, Metric

PAGE = (
    "https://github.com/langchain-convsync/langchain-convsync/blob/main/docs/run/"
    "{page}.md#{section}"
)


@dataclass(frozen=True)
class Alert:
    """One rule.

    Attributes:
        name: What it is called.
        expr: What is asked for; it fires where that has an answer.
        lasts: For how long it has to, in Prometheus' spelling.
        severity: ``critical`` wakes somebody, ``warning`` can wait until the morning.
        summary: What is the case.
        do: What to do next.
        page: The page that tells more, and the section of it.
    """

    name: str
    expr: str
    lasts: str
    severity: str
    summary: str
    do: str
    page: tuple[str, str] = ("trouble", "dead-letters-and-other-levers")


ALERTS = (
    Alert(
        "ConvsyncForeignTenant",
        "max(convsync_mismatch_total) > 0 or max(convsync_mismatched_answers_total) > 0",
        "0m",
        "critical",
        "An answer of the API server was another customer's or tenant's",
        "Mend the API server first; what was stopped is a dead letter: convsync show",
    ),
    Alert(
        "ConvsyncStoreDown",
        "min(convsync_store_up) < 1",
        "1m",
        "critical",
        "The event store does not answer: nothing can be accepted",
        "convsync doctor, and the log of the store's server",
    ),
    Alert(
        "ConvsyncAbsent",
        "absent(convsync_store_up)",
        "5m",
        "critical",
        "No process tells its metrics",
        "See whether one runs, and whether it is scraped",
        ("monitor", "monitoring"),
    ),
    Alert(
        "ConvsyncStoreChanged",
        "sum(increase(convsync_stores_changed_total[5m])) > 0",
        "0m",
        "critical",
        "The event store was emptied, replaced or deleted under running processes",
        "The log says what happened; for Redis set appendonly yes and maxmemory-policy noeviction",
    ),
    Alert(
        "ConvsyncMachineShort",
        "sum by (what) (increase(convsync_machine_shortages_total[5m])) > 0",
        "2m",
        "critical",
        "A process lacks {{ $labels.what }}: work waits",
        "The log says what to raise; GET /ready too, where the store takes nothing",
        ("trouble", "work-waits-and-goes-on-by-itself-when-this-is-over"),
    ),
    Alert(
        "ConvsyncCustomersWait",
        "max(convsync_oldest_due_seconds) > 60",
        "2m",
        "critical",
        "The oldest work is due for {{ $value | humanizeDuration }}",
        "Too few workers, or something does not answer: convsync status --accounts",
    ),
    Alert(
        "ConvsyncRepliesWait",
        "max(convsync_oldest_unsent_seconds) > 300",
        "1m",
        "critical",
        "The oldest reply waits for {{ $value | humanizeDuration }} since its turn",
        "The log tells what WAHA says, and so does convsync show; convsync doctor",
        ("trouble", "replies-are-missing"),
    ),
    Alert(
        "ConvsyncAccountRestricted",
        'max by (kind) (convsync_account_restricted{kind!="capping"}) > 0',
        "2m",
        "critical",
        "An account sends nothing: {{ $labels.kind }}",
        "A session is to be started, or its QR code scanned; convsync doctor tells which, and why",
        ("trouble", "an-account-sends-nothing"),
    ),
    Alert(
        "ConvsyncNewChatsCapped",
        'max(convsync_account_restricted{kind="capping"}) > 0',
        "2m",
        "warning",
        "An account begins no new chats: WhatsApp caps them",
        "Whoever has had a message of it is answered; the others wait, for three hours at most",
        ("trouble", "an-account-sends-nothing"),
    ),
    Alert(
        "ConvsyncDeadLetters",
        'max(convsync_backlog{what="dead_letters"}) > 0',
        "5m",
        "warning",
        "{{ $value }} dead letters wait for an operator",
        "convsync show, retry, discard",
    ),
    Alert(
        "ConvsyncDeadLettersRise",
        "sum(increase(convsync_turns_failed_total[15m])) > 0"
        " or sum(increase(convsync_dead_letters_total[15m])) > 0",
        "0m",
        "critical",
        "Turns, writes or replies became dead letters within 15 minutes",
        "The log names the reason; convsync show tells it by conversation",
    ),
    Alert(
        "ConvsyncConversationsTooFast",
        "sum(increase(convsync_silences_total[15m])) > 0",
        "0m",
        "warning",
        "A conversation goes so fast that another machine may answer: it was paused",
        "The log tells which; convsync resume ends the pause, max_turns_per_minute= the limit",
        ("trouble", "a-conversation-is-paused-and-no-human-paused-it"),
    ),
    Alert(
        "ConvsyncAgentFails",
        "sum(rate(convsync_agent_failures_total[15m]))"
        " > 0.1 * sum(rate(convsync_turn_seconds_count[15m]))",
        "5m",
        "warning",
        "More than one run of the agent in ten fails",
        "The log names class and place of the error",
        ("trouble", "replies-are-missing"),
    ),
    Alert(
        "ConvsyncApiFails",
        'sum(rate(convsync_api_request_seconds_count{status!~"2xx|4xx"}[5m]))'
        " / sum(rate(convsync_api_request_seconds_count[5m])) > 0.05",
        "5m",
        "warning",
        "The API server fails in one request of twenty",
        "convsync doctor",
        ("trouble", "the-api-server-cannot-be-reached-or-something-else-answers"),
    ),
    Alert(
        "ConvsyncCircuitOpen",
        "sum(increase(convsync_circuits_opened_total[5m])) > 0",
        "5m",
        "warning",
        "The API server does not answer: requests are held back, writes wait",
        "convsync doctor",
        ("trouble", "the-api-server-cannot-be-reached-or-something-else-answers"),
    ),
    Alert(
        "ConvsyncHistoryForgotten",
        "sum(increase(convsync_messages_forgotten_total[1h])) > 0",
        "0m",
        "warning",
        "The API server does not keep what is posted: the bot forgets what was said",
        "convsync doctor --phone PHONE --write, with a test customer",
        ("trouble", "the-bot-forgets-what-was-said"),
    ),
    Alert(
        "ConvsyncAnswersLost",
        "sum(rate(convsync_verifications_total[15m]))"
        " > 0.1 * sum(rate(convsync_writes_total[15m]))",
        "15m",
        "warning",
        "One write of ten has to be looked up, since its answer was lost",
        "Timeouts are too short, or a proxy stands in between",
    ),
    Alert(
        "ConvsyncPhaseSlow",
        "histogram_quantile(0.95, sum by (le, phase)"
        " (rate(convsync_turn_phase_seconds_bucket[5m]))) > 30",
        "10m",
        "warning",
        "The phase {{ $labels.phase }} of a turn is slow",
        "See the dashboard's phases",
        ("monitor", "monitoring"),
    ),
)

_RATE = "[$__rate_interval]"


def _name(metric: str, part: str = "") -> str:
    """The name in Prometheus of what the code calls ``metric``; an unknown one is an error."""
    return METRICS[metric].prometheus + part


def _rates(metric: str, *by: str) -> str:
    part = "_count" if METRICS[metric].kind == "histogram" else ""
    return f"sum by ({', '.join(by)}) (rate({_name(metric, part)}{_RATE}))"


def _slow(metric: str, *by: str, quantile: float = 0.95) -> str:
    labels = ", ".join(("le", *by))
    rate = f"rate({_name(metric, '_bucket')}{_RATE})"
    return f"histogram_quantile({quantile}, sum by ({labels}) ({rate}))"


#: What an operator looks at first: title, unit, query, what a line is called.
GLANCE = (
    ("Store answers", "bool_yes_no", f"min({_name('store_up')})", "store"),
    (
        "Oldest due work",
        "s",
        f"max by (queue) ({_name('oldest_due_seconds')})",
        "{{queue}}",
    ),
    (
        "Accounts that are limited",
        "short",
        f"max by (kind) ({_name('account_restricted')})",
        "{{kind}}",
    ),
    ("Oldest unsent reply", "s", f"max({_name('oldest_unsent_seconds')})", "reply"),
    ("To do", "short", f"max by (what) ({_name('backlog')})", "{{what}}"),
    ("Turns", "ops", _rates("turns", "status"), "{{status}}"),
    ("Phases of a turn, 95 %", "s", _slow("turn_phase", "phase"), "{{phase}}"),
    ("Failures of the agent", "ops", _rates("agent_failures", "error"), "{{error}}"),
    ("What machines lack", "ops", _rates("machine_shortages", "what"), "{{what}}"),
    ("API server, requests", "ops", _rates("api_request", "status"), "{{status}}"),
    ("API server, 95 %", "s", _slow("api_request", "operation"), "{{operation}}"),
    ("WAHA, requests", "ops", _rates("waha_request", "status"), "{{status}}"),
    ("Deliveries to the webhook", "ops", _rates("deliveries", "status"), "{{status}}"),
    (
        "Failures of workers",
        "ops",
        _rates("worker_failures", "queue", "error"),
        "{{queue}} {{error}}",
    ),
)


def _of(metric: Metric) -> tuple[str, str, str, str]:
    """The panel of one metric, whatever it is."""
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels) or metric.name
    if metric.kind == "histogram":
        return metric.meaning, "s", _slow(metric.name, *metric.labels), legend
    if metric.kind == "counter":
        return metric.meaning, "ops", _rates(metric.name, *metric.labels), legend
    by = ", ".join(metric.labels)
    return metric.meaning, "short", f"max by ({by}) ({metric.prometheus})", legend


def _panel(number: int, place: int, top: int, panel: tuple[str, str, str, str]) -> dict[str, Any]:
    title, unit, query, legend = panel
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"h": 7, "w": 8, "x": 8 * (place % 3), "y": top + 7 * (place // 3)},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": "A", "datasource": source, "expr": query, "legendFormat": legend},
        ],
    }


def dashboard() -> str:
    """What Grafana imports: a glance, and below it a panel for each metric of the catalogue."""
    glance = [_panel(n + 1, n, 0, panel) for n, panel in enumerate(GLANCE)]
    top, first = 7 * -(-len(GLANCE) // 3), len(GLANCE) + 2
    every = [_panel(first + n, n, top + 1, _of(m)) for n, m in enumerate(METRICS.values())]
    row = {
        "id": first - 1,
        "type": "row",
        "title": "Every metric",
        "collapsed": True,
        "gridPos": {"h": 1, "w": 24, "x": 0, "y": top},
        "panels": every,
    }
    variable = {"name": "datasource", "type": "datasource", "query": "prometheus"}
    told = {
        "uid": "langchain-convsync",
        "title": "langchain-convsync",
        "description": "Generated from the catalogue of metrics",
        "tags": ["langchain-convsync"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [variable]},
        "panels": [*glance, row],
    }
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def alert_rules() -> str:
    """What Prometheus reads as ``rule_files``; JSON's strings are YAML's."""
    lines = [
        "# Generated from the catalogue of metrics.",
        "groups:",
        "  - name: langchain-convsync",
    ]
    lines.append("    rules:")
    for alert in ALERTS:
        page, section = alert.page
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(alert.expr)}",
            f"        for: {alert.lasts}",
            "        labels:",
            f"          severity: {alert.severity}",
            "        annotations:",
            f"          summary: {json.dumps(alert.summary)}",
            f"          description: {json.dumps(alert.do)}",
            f"          runbook_url: {PAGE.format(page=page, section=section)}",
        ]
    return "\n".join([*lines, ""])
