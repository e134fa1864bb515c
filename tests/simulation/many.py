"""Many runs, on all cores; and those that miss a guard of the engine."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context

from tests.chaos.guards import remove
from tests.simulation.exhaustive import KINDS, Kind, run_all
from tests.simulation.random_runs import plan_of
from tests.simulation.shrinking import flaw_of
from tests.simulation.world import World

#: Turns of one run: its customers write at the same time.
TOWN = 50
#: Seeds within which a guard must be missed.
SEEDS = 50


def processes(without: str | None = None, *, number: int | None = None) -> ProcessPoolExecutor:
    """Processes to run in, all of them without a guard of the engine."""
    return ProcessPoolExecutor(
        number or os.cpu_count(), get_context("spawn"), initializer=begin, initargs=(without,)
    )


def begin(without: str | None) -> None:
    """Prepare a process."""
    logging.disable(logging.CRITICAL)  # what goes wrong on purpose fills screens
    if without:
        remove(without)


@dataclass(frozen=True, kw_only=True)
class Town:
    """What came of the town of a seed, in so many seconds of CPU."""

    seed: int
    flaw: str = ""
    turns: int = 0
    kills: int = 0
    stops: int = 0
    faults: int = 0
    seconds: float = 0.0


def run_town(seed: int) -> Town:
    """Run it."""
    began = time.process_time()
    plan, what = plan_of(seed, TOWN)
    try:
        report = World(plan).run()
    except Exception as error:  # noqa: BLE001 - whatever a seed comes to is told
        return Town(seed=seed, flaw=f"{type(error).__name__}: {error}")
    return Town(
        seed=seed,
        flaw=report.wrong or (f"{report.dead} dead letters" if report.dead else ""),
        turns=report.verdict.turns,
        kills=report.kills,
        stops=len(what.strikes) - report.kills,
        faults=len(what.faults),
        seconds=time.process_time() - began,
    )


@dataclass(frozen=True, kw_only=True)
class Schedules:
    """What came of all schedules of a kind of turn, in so many seconds of CPU."""

    schedules: int
    flaws: list[str]
    seconds: float


def run_kind(place: int) -> Schedules:
    """Run all of one of the kinds."""
    began = time.process_time()
    ran = list(run_all(KINDS[place]))
    return Schedules(
        schedules=len(ran),
        flaws=[f"{each.schedule}: {each.what}" for each in ran if each.is_wrong],
        seconds=time.process_time() - began,
    )


def missed(guard: str) -> tuple[str, str]:
    """The first run that goes wrong without a guard, and what is wrong; nothing where none does."""
    with processes(guard, number=1) as pool:
        return pool.submit(_missed).result()


def _missed() -> tuple[str, str]:
    """Short runs first."""
    found = chain(
        _schedules(KINDS[:1]), _towns(range(10)), _schedules(KINDS[1:]), _towns(range(10, SEEDS))
    )
    return next(((where, flaw) for where, flaw in found if flaw), ("", ""))


def _schedules(kinds: Sequence[Kind]) -> Iterator[tuple[str, str]]:
    return ((f"{ran.schedule}", ran.what) for kind in kinds for ran in run_all(kind))


def _towns(seeds: range) -> Iterator[tuple[str, str]]:
    return ((f"seed {seed}", flaw_of(plan_of(seed, TOWN)[0])) for seed in seeds)
