"""A picture of what was measured; needs matplotlib, which only the ``bench`` group brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.ours import STORES
from tests.benchmarks.sheet import Sheet

MISSING = "no plot: matplotlib is missing (pip install --group bench, or make bench)"
#: Inches of a bar.
BAR = 0.22


def plot(sheets: Sequence[Sheet], file: Path) -> str | None:
    """Write a PNG: a panel per case, a bar per row. None, or why there is none."""
    try:
        import matplotlib as mpl
    except ImportError:
        return MISSING
    mpl.use("agg")
    from matplotlib import pyplot

    heights = [BAR * len(sheet.rows) + (3 if sheet.curves else 1) for sheet in sheets]
    figure, panels = pyplot.subplots(
        len(sheets),
        figsize=(11, sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for sheet, panel in zip(sheets, panels[:, 0], strict=True):
        (_draw_curves if sheet.curves else _draw)(sheet, panel)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return None


def _draw(sheet: Sheet, panel: Any) -> None:
    rows = [row for row in sheet.ordered if sheet.median(*row) > 0]
    values = [sheet.median(*row) for row in rows]
    colours = ["tab:blue" if _is_ours(who) else "tab:gray" for _, who in rows]
    panel.barh(range(len(rows)), values, color=colours)
    panel.set_yticks(range(len(rows)), [f"{setting}: {who}" for setting, who in rows], fontsize=7)
    panel.bar_label(panel.containers[0], fmt="%.3g", fontsize=7, padding=2)
    panel.invert_yaxis()
    if values and max(values) > 30 * min(values):
        panel.set_xscale("log")
    unit = sheet.units[sheet.main]
    panel.set_title(f"({sheet.key}) {sheet.title}: {sheet.main}, {unit}", loc="left", fontsize=9)


def _draw_curves(sheet: Sheet, panel: Any) -> None:
    for who, points in sheet.curves.items():
        panel.plot(*zip(*points, strict=True), label=who)
    panel.set_ylim(bottom=0)
    panel.legend(fontsize=7)
    panel.set_title(
        f"({sheet.key}) {sheet.title}: {sheet.units[sheet.main]}", loc="left", fontsize=9
    )


def _is_ours(who: str) -> bool:
    return who.startswith(("ours", "once", "aonce")) or "convsync" in who or who in STORES
