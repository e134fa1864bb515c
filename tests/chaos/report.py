"""What a run is judged by, and how it is shown."""

from __future__ import annotations

from dataclasses import asdict, replace

from rich.console import Console
from rich.table import Table

from tests.chaos.driver import Plan, Report
from tests.chaos.guards import GUARDS
from tests.chaos.oracle import Tally


def small(plan: Plan, turns: int = 150, kills: int = 15) -> Plan:
    """A run that is just large enough for a missing guard to show."""
    return replace(plan, turns=turns, kills=kills, limit=45.0, drain=10.0)


def must_go_red(plan: Plan) -> list[Plan]:
    """The run with the sample flow, and without each guard."""
    return [replace(plan, naive=True), *(replace(plan, without=guard) for guard in GUARDS)]


def breaches(plan: Plan, report: Report) -> list[str]:
    """What a run showed that is promised never to happen; nothing if it is green.

    Agents may run side by side where a heartbeat is late, as it is on a slow machine: a lease is
    short here. Only one of them commits.
    """
    verdict, left = report.verdict, report.left
    counted = {
        "replies": verdict.replies.wrong,
        "sends lost": verdict.sends.lost,
        "another tenant's sends": verdict.sends.foreign,
        "messages lost": verdict.messages.lost,
        "syncs lost": verdict.syncs.lost,
        "another tenant's messages": verdict.messages.foreign,
        "another tenant's syncs": verdict.syncs.foreign,
        "charges doubled": verdict.charges.doubled,
        "dead letters": left.dead_letters,
        "unexpected errors": len(report.strange),
    }
    if plan.manners.keys or plan.profile == "kills":
        counted["messages"] = verdict.messages.wrong
        counted["syncs"] = verdict.syncs.wrong
    if plan.profile == "kills":
        counted["sends"] = verdict.sends.wrong
    found = [f"{name}: {count}" for name, count in counted.items() if count]
    found += sorted({each.strip().splitlines()[-1] for each in report.strange})
    return found if report.finished else [*found, f"not finished: {left}"]


def show(console: Console, plan: Plan, report: Report) -> None:
    """Print a run as a table, with what happened to it below."""
    flow = "the document's sample flow" if plan.naive else "TurnRunner"
    flow += f" without {plan.without}" if plan.without else ""
    manners = [name for name, on in asdict(plan.manners).items() if on]
    manners += [] if plan.naive else [f"WAHA {plan.waha}"]
    title = " · ".join([flow, plan.store, plan.profile, *manners, f"seed {plan.seed}"])
    table = Table(title=title)
    table.add_column("")
    for column in ("kept", "lost", "doubled", "out of order", "stale", "wrong tenant"):
        table.add_column(column, justify="right")
    verdict = report.verdict
    for name, tally in (
        ("messages", verdict.messages),
        ("syncs", verdict.syncs),
        ("returned", verdict.replies),
        ("replies", verdict.sends),
        ("charges", verdict.charges),
    ):
        table.add_row(name, str(tally.kept), *(_cell(count) for count in _counts(tally)))
    console.print(table)
    console.print(_summary(report), highlight=False)
    for line in report.strange[:3]:
        console.print(line, style="red", markup=False, highlight=False)
    found = breaches(plan, report)
    console.print(f"[red]red: {'; '.join(found)}" if found else "[green]green", highlight=False)


def _counts(tally: Tally) -> tuple[int, ...]:
    return tally.lost, tally.doubled, tally.disordered, tally.stale, tally.foreign


def _cell(count: int) -> str:
    return f"[red]{count}" if count else "0"


def _summary(report: Report) -> str:
    verdict, left = report.verdict, report.left
    struck = ", ".join(f"{count} × {part}" for part, count in sorted(report.struck.items()))
    faults = ", ".join(f"{count} × {kind}" for kind, count in report.faults.items())
    errors = ", ".join(f"{count} × {name}" for name, count in report.errors.items())
    return (
        f"{verdict.turns} turns of {report.events} events, {report.deliveries} deliveries, "
        f"{report.seconds:.0f} s, and {report.draining:.0f} s for what was left\n"
        f"struck down: {struck or 'nothing'}\n"
        f"faults of API and WAHA: {faults or 'none'}\n"
        f"deliveries that failed: {errors or 'none'}; "
        f"dead letters: {left.dead_letters}; replies not sent: {verdict.unsent}; "
        f"agents side by side: {verdict.overlaps}"
    )
