"""On screen: how far it is, and what came out."""

from __future__ import annotations

import math

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from tests.benchmarks.sheet import Sheet


class ShownProgress:
    """A bar per case."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task = bars.add_task("", total=0, visible=False)

    def begin(self, what: str, steps: int) -> None:
        self._task = self._bars.add_task(what, total=steps, doing="")

    def doing(self, what: str) -> None:
        self._bars.update(self._task, doing=what)

    def step(self) -> None:
        self._bars.update(self._task, advance=1, doing="")


def new_bars(console: Console) -> Bars:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[doing]}"),
    )
    return Bars(*columns, console=console)


def show(console: Console, sheet: Sheet) -> None:
    """Medians and ratios, then the targets."""
    table = Table(title=f"({sheet.key}) {sheet.title}", title_justify="left", min_width=72)
    table.add_column("setting")
    table.add_column("who")
    for metric, unit in sheet.units.items():
        table.add_column(f"{metric}, {unit}", justify="right")
    table.add_column(f"{sheet.main}, ×", justify="right")
    before = None
    for setting, who in sheet.ordered:
        if before not in (None, setting):
            table.add_section()
        numbers = [_number(sheet.median(setting, who, metric)) for metric in sheet.units]
        shown = "" if setting == before else setting
        table.add_row(shown, who, *numbers, _number(sheet.ratio(setting, who), 2))
        before = setting
    console.print(table)
    for target in sheet.targets:
        mark = "[green]met   [/]" if target.met else "[red]missed[/]"
        console.print(
            f"  {mark} {target.what}: {target.value:.2f} {target.unit}"
            f" (at most {target.limit:.2f})",
            highlight=False,
            soft_wrap=True,
        )
    for note in sheet.notes:
        console.print(f"  {note}", highlight=False)
    console.print()


def _number(value: float, digits: int | None = None) -> str:
    if math.isnan(value):
        return ""
    if digits is None:
        digits = 0 if value >= 1000 else 1 if value >= 100 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"
