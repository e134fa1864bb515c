"""The pages that are written by the code itself, and compared by a test."""

from __future__ import annotations

from collections.abc import Callable

from tests.site.commands import command_page
from tests.site.metrics import metric_page
from tests.site.monitoring import alert_rules, dashboard
from tests.site.picture import picture

#: Every generated file of the repository, and what makes its text.
GENERATED: dict[str, Callable[[], str]] = {
    "docs/assets/convsync-alerts.yml": alert_rules,
    "docs/assets/convsync-dashboard.json": dashboard,
    "docs/assets/demo.svg": picture,
    "docs/reference/cli.md": command_page,
    "docs/reference/metrics.md": metric_page,
}
