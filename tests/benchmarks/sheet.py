"""What was measured: samples of every round, their medians, ratios, and how targets were met."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """A number that we want to stay below, and what it is."""

    what: str
    value: float
    limit: float
    unit: str = "×"

    @property
    def met(self) -> bool:
        return self.value <= self.limit


@dataclass(slots=True)
class Sheet:
    """The samples of one case.

    Attributes:
        key: The case's letter.
        title: What was compared.
        units: Metric → unit, in the order of the table; the first one is compared.
        baseline: Who is 1.00 in its setting.
        rows: (setting, who) → metric → samples.
        curves: Who → points, where the way says more than the end.
        notes: What a reader has to know beside the numbers.
    """

    key: str
    title: str
    units: Mapping[str, str]
    baseline: str
    rows: dict[tuple[str, str], dict[str, list[float]]] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @property
    def main(self) -> str:
        """The metric that is compared."""
        return next(iter(self.units))

    @property
    def ordered(self) -> list[tuple[str, str]]:
        """The rows, those of a setting together."""
        settings = list(dict.fromkeys(setting for setting, _ in self.rows))
        return sorted(self.rows, key=lambda row: settings.index(row[0]))

    def add(self, setting: str, who: str, sample: Mapping[str, float]) -> None:
        """One round's numbers."""
        row = self.rows.setdefault((setting, who), {})
        for metric, value in sample.items():
            row.setdefault(metric, []).append(value)

    def median(self, setting: str, who: str, metric: str | None = None) -> float:
        """The median of the rounds; NaN where nothing was measured."""
        samples = self.rows.get((setting, who), {}).get(metric or self.main)
        return statistics.median(samples) if samples else float("nan")

    def ratio(self, setting: str, who: str) -> float:
        """How it compares with the baseline; NaN where there is none in this setting."""
        return self.median(setting, who) / self.median(setting, self.baseline)

    def told(self) -> dict[str, Any]:
        """For JSON: every sample, every median."""
        rows = [
            {
                "setting": setting,
                "who": who,
                "median": {metric: self.median(setting, who, metric) for metric in samples},
                "samples": samples,
            }
            for (setting, who), samples in ((row, self.rows[row]) for row in self.ordered)
        ]
        targets = [
            {"what": t.what, "value": t.value, "limit": t.limit, "unit": t.unit, "met": t.met}
            for t in self.targets
        ]
        return {
            "title": self.title,
            "units": dict(self.units),
            "baseline": self.baseline,
            "rows": rows,
            "targets": targets,
            "notes": self.notes,
            "curves": self.curves,
        }
