"""``make simulate``: turns by the thousand, with kills and faults, on one thread and in no time."""

from __future__ import annotations

import argparse
import logging
import sys
import time

from tests.chaos.guards import GUARDS, remove
from tests.simulation.exhaustive import KINDS, run_all
from tests.simulation.hub import StuckError
from tests.simulation.random_runs import plan_of
from tests.simulation.world import World

#: Turns of one run: its customers write at the same time.
TOWN = 50


def main() -> int:
    """Run it; 1 if anything was wrong."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--turns", type=int, default=1000, help="random turns, for each seed")
    given.add_argument("--seed", type=int, default=0, help="the first seed")
    given.add_argument("--seeds", type=int, default=1, help="how many")
    given.add_argument("--without", choices=GUARDS, help="take a guard of the engine out")
    given.add_argument("--exhaustive", action="store_true", help="every schedule instead")
    asked = given.parse_args()
    logging.disable(logging.CRITICAL)  # what goes wrong on purpose fills screens
    if asked.without:
        remove(asked.without)
    if asked.exhaustive:
        return exhaustive()
    towns = -(-asked.turns // TOWN)
    first = asked.seed * towns
    return random_turns(range(first, first + asked.seeds * towns))


def random_turns(seeds: range) -> int:
    """A town for each seed; whatever is wrong with one is told step by step."""
    began, turns, kills, calls = time.process_time(), 0, 0, 0
    for seed in seeds:
        world = World(plan_of(seed, TOWN))
        try:
            report = world.run()
        except StuckError as stuck:
            return told(seed, world, f"{stuck}")
        if report.wrong:
            return told(seed, world, f"{report.verdict}")
        turns, kills = turns + report.verdict.turns, kills + report.kills
        calls += report.calls
    seconds = time.process_time() - began
    print(f"{turns:,} turns, {kills:,} kills, {calls:,} calls of the API: nothing lost, doubled,")
    print(f"out of order, stale or foreign; all of it ended. {seconds:.0f} s of CPU")
    return 0


def told(seed: int, world: World, what: str) -> int:
    """What happened, as a list that a person can read."""
    print("\n".join(world.simulation.log))
    print(f"\nseed {seed}: {what}\nagain: make simulate ARGS='--seed {seed} --turns {TOWN}'")
    return 1


def exhaustive() -> int:
    """Every schedule of every kind of turn."""
    wrong = 0
    for kind in KINDS:
        began, reports = time.process_time(), list(run_all(kind))
        bad = [ran for ran in reports if ran.is_wrong]
        wrong += len(bad)
        print(f"{kind.name:20} {len(reports):6,} schedules, {len(bad)} of them wrong", end="")
        print(f"  {time.process_time() - began:.0f} s", flush=True)
        for ran in bad[:5]:
            print(f"    {ran.schedule}: {ran.what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
