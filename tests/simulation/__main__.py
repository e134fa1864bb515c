"""``make simulate``: turns by the thousand, with kills and faults, on one thread and in no time."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

from tests.chaos.guards import GUARDS
from tests.simulation.exhaustive import KINDS
from tests.simulation.many import (
    STORES,
    TOWN,
    Store,
    begin,
    processes,
    run_kind,
    run_town,
    table,
)
from tests.simulation.random_runs import plan_of
from tests.simulation.shrinking import shrunk
from tests.simulation.world import World


def main() -> int:
    """Run it; 1 if anything was wrong."""
    given = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    given.add_argument("--turns", type=int, default=1000, help="random turns, for each seed")
    given.add_argument("--seed", type=int, default=0, help="the first seed")
    given.add_argument("--seeds", type=int, default=1, help="how many")
    given.add_argument("--without", choices=GUARDS, help="take a guard of the engine out")
    given.add_argument("--exhaustive", action="store_true", help="every schedule instead")
    given.add_argument("--guards", action="store_true", help="what misses each guard instead")
    asked = given.parse_args()
    if asked.guards:
        return guards()
    begin(asked.without)  # to tell of a run that was wrong
    with processes(asked.without) as pool:
        if asked.exhaustive:
            return exhaustive(pool)
        towns = -(-asked.turns // TOWN)
        first = asked.seed * towns
        return random_turns(pool, range(first, first + asked.seeds * towns))


def random_turns(pool: ProcessPoolExecutor, seeds: range) -> int:
    """A town for each seed; the first that is wrong is told step by step."""
    turns = kills = stops = faults = 0
    seconds = 0.0
    for ran in pool.map(run_town, seeds):
        if ran.flaw:
            pool.shutdown(cancel_futures=True)
            return told(ran.seed)
        turns, kills, stops = turns + ran.turns, kills + ran.kills, stops + ran.stops
        faults, seconds = faults + ran.faults, seconds + ran.seconds
    print(f"{turns:,} turns, {kills:,} kills, {stops:,} processes that stood still,")
    print(f"{faults:,} calls that went wrong: nothing lost, doubled, out of order, stale or")
    print(f"foreign; all of it ended, and left no words. {seconds:.0f} s of CPU")
    return 0


def told(seed: int) -> int:
    """What happened, as a list that a person can read: less of it, as long as it is wrong."""
    plan, what = plan_of(seed, TOWN)
    World(plan).run()  # by which it is known what goes wrong
    plan, what = shrunk(plan, what)
    report = World(plan).run()
    print("\n".join(line for line in report.log if not line.endswith(" acquire")))
    print(f"\nseed {seed}: {report.wrong}\nwith {what}")
    print(f"again: make simulate ARGS='--seed {seed} --turns {TOWN}'")
    return 1


def exhaustive(pool: ProcessPoolExecutor) -> int:
    """Every schedule of every kind of turn, on each store."""
    return max([_exhausted(pool, store) for store in STORES])


def _exhausted(pool: ProcessPoolExecutor, store: Store) -> int:
    wrong = schedules = 0
    seconds = 0.0
    places = range(len(KINDS))
    for kind, ran in zip(KINDS, pool.map(run_kind, places, repeat(store)), strict=False):
        wrong, schedules = wrong + len(ran.flaws), schedules + ran.schedules
        seconds += ran.seconds
        print(f"{kind.name:28} {ran.schedules:6,} schedules, {len(ran.flaws)} wrong", flush=True)
        for line in ran.flaws[:5]:
            print(f"    {line}")
    print(f"{store}: {schedules:,} schedules, {wrong} of them wrong. {seconds:.0f} s of CPU\n")
    return 1 if wrong else 0


def guards() -> int:
    """The page of what misses each guard."""
    page = table()
    Path("docs/trust/guards.md").write_text(page, encoding="utf-8")
    print(page)
    return 1 if "|  |" in page else 0


if __name__ == "__main__":
    sys.exit(main())
