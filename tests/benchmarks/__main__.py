"""The command line: ``python -m tests.benchmarks --only a,b --rounds 5 --json bench.json``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tests.benchmarks import (
    abreast,
    apart,
    apis,
    claims,
    growth,
    histories,
    imports,
    latency,
    machine,
    memory,
    millions,
    throughput,
    webhook,
)
from tests.benchmarks.place import Place, new_place
from tests.benchmarks.plot import plot
from tests.benchmarks.rounds import Progress
from tests.benchmarks.sheet import Sheet
from tests.benchmarks.show import ShownProgress, new_bars, show
from tests.benchmarks.sizes import QUICK, WHOLE, Sizes

Case = Callable[[Place, Sizes, Progress], Sheet]

CASES: dict[str, Case] = {
    "a": latency.measure,
    "b": throughput.measure,
    "c": growth.measure,
    "d": claims.measure,
    "e": histories.measure,
    "f": lambda _place, sizes, progress: imports.measure(sizes, progress),
    "g": webhook.measure,
    "h": memory.measure,
    "i": apis.measure,
    "j": apart.measure,
    "k": apart.rest,
    "l": millions.measure,
    "m": abreast.measure,
}
#: Turns of (h) where nothing else is asked for.
STEADY = 100_000


def main() -> None:
    """Measure what was asked for, and show it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops us, Redis ends too
    os.environ["LANGSMITH_TRACING"] = "false"
    given = _parser().parse_args()
    sizes = _sizes(given)
    console = Console()
    before = machine.facts()
    sheets = measure(given.only, sizes, console)
    facts = {**before, "load afterwards": machine.load()}
    console.print(", ".join(f"{name}: {fact}" for name, fact in facts.items()), highlight=False)
    if given.plot is not None and (missing := plot(sheets, given.plot)):
        console.print(missing, highlight=False)
    if given.json is not None:
        told = {"machine": facts, "cases": {sheet.key: sheet.told() for sheet in sheets}}
        given.json.write_text(json.dumps(told, indent=1), encoding="utf-8")


def measure(cases: Sequence[str], sizes: Sizes, console: Console) -> list[Sheet]:
    """The sheets of the cases, each shown as soon as it is there."""
    sheets = []
    with new_place() as place, new_bars(console) as bars:
        progress = ShownProgress(bars)
        for case in cases:
            sheets.append(CASES[case](place, sizes, progress))
            show(console, sheets[-1])
    return sheets


def _sizes(given: argparse.Namespace) -> Sizes:
    sizes = QUICK if given.quick else WHOLE
    if given.only == ["h"] and not given.quick:
        sizes = replace(sizes, steady=STEADY)
    if given.turns is not None:
        sizes = replace(sizes, steady=given.turns)
    if given.conversations is not None:
        sizes = replace(sizes, conversations=given.conversations)
    if given.rounds is not None:
        sizes = replace(
            sizes,
            rounds=given.rounds,
            imports=given.rounds,
            long_rounds=given.rounds,
            webhook_rounds=given.rounds,
        )
    return sizes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.benchmarks")
    add = parser.add_argument
    add("--only", type=_cases, default=[*CASES], help=f"of {','.join(CASES)} (default: all)")
    add("--rounds", type=int, help=f"default: {WHOLE.rounds}")
    add("--turns", type=int, help=f"of (h) (default: {WHOLE.steady}, alone {STEADY})")
    add("--conversations", type=int, help=f"of (l) (default: {WHOLE.conversations})")
    add("--quick", action="store_true", help="small amounts, in less than a minute")
    add("--json", type=Path, metavar="FILE", help="every sample")
    add("--plot", type=Path, metavar="FILE", help="a PNG, if matplotlib is there")
    return parser


def _cases(given: str) -> list[str]:
    found = given.split(",")
    if unknown := set(found) - set(CASES):
        message = f"no such case: {', '.join(sorted(unknown))}"
        raise argparse.ArgumentTypeError(message)
    return sorted(found)  # the webhook's runs leave work behind, so they come late


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
