"""The command line: ``python -m tests.chaos --turns 1000 --kills 80 --seed 1 --store both``."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

from rich.console import Console

from tests.chaos.driver import Plan, Store, play
from tests.chaos.fake_api import Manners
from tests.chaos.guards import GUARDS
from tests.chaos.report import breaches, must_go_red, show, small


def main() -> None:
    """Run what was asked for; exit with 1 unless everything is as it must be."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops us, Redis ends too
    given = vars(_parser().parse_args())
    store, red, keep = given.pop("store"), given.pop("red"), given.pop("keep")
    manners = {field.name: given.pop(field.name, False) for field in fields(Manners)}
    stores: list[Store] = ["sqlite", "redis"] if store == "both" else [store]
    console = Console()
    good = True
    for store in stores:
        plan = Plan(folder=Path(), store=store, manners=Manners(**manners), **given)
        for one in must_go_red(replace(small(plan), **given)) if red else [plan]:
            good &= _ran(console, one, keep=keep) != red
    sys.exit(not good)


def _ran(console: Console, plan: Plan, *, keep: bool) -> bool:
    """Whether the run was green."""
    with _folder(keep=keep) as folder:
        plan = replace(plan, folder=Path(folder))
        report = asyncio.run(play(plan))
    show(console, plan, report)
    return not breaches(plan, report)


@contextmanager
def _folder(*, keep: bool) -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="convsync-chaos-")
    try:
        yield folder
    finally:
        if keep:
            sys.stderr.write(f"kept: {folder}\n")
        else:
            shutil.rmtree(folder)


def _parser() -> argparse.ArgumentParser:
    # What is not given is not there: the defaults are the plan's.
    parser = argparse.ArgumentParser("python -m tests.chaos", argument_default=argparse.SUPPRESS)
    add = parser.add_argument
    add("--turns", type=int, help="turns at least (default: 1000)")
    add("--kills", type=int, help="how often something is killed or paused (default: 80)")
    add("--drain", type=float, help="seconds for what is left when all is answered (default: 60)")
    add("--seed", type=int, help="of the script, the faults and the kills (default: 1)")
    add("--store", choices=["sqlite", "redis", "both"], default="both")
    add("--profile", choices=["kills", "pauses"], help="default: kills")
    add(
        "--waha",
        choices=["none", "silent", "echoing"],
        help="whether replies are sent through WAHA, and whether it echoes them (default: echoing)",
    )
    add("--keys", action="store_true", help="the API server honours Idempotency-Key")
    add("--replace", action="store_true", help="a sync replaces the whole context")
    add("--by-sync", action="store_true", help="only a sync that carries it persists the history")
    add("--naive", action="store_true", help="the document's sample flow instead of the engine")
    add("--without", choices=[*GUARDS], metavar="GUARD", help=f"one of: {', '.join(GUARDS)}")
    add("--keep", action="store_true", default=False, help="keep the files of the run, to look at")
    add(
        "--red",
        action="store_true",
        default=False,
        help="small runs of the naive flow and without each guard: each must go red",
    )
    return parser


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
