"""Many runs, on all cores; and those that miss a guard of the engine."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import chain
from multiprocessing import get_context
from typing import Literal, TypeAlias, get_args

from tests.chaos.guards import GUARDS, remove
from tests.redis_server import RedisServer
from tests.simulation.disks import Memory, NewDisk, on_redis
from tests.simulation.exhaustive import KINDS, run_all
from tests.simulation.random_runs import plan_of
from tests.simulation.world import World

#: Turns of one run: its customers write at the same time.
TOWN = 50
#: Seeds within which a guard must be missed.
SEEDS = 50
#: The kind of turn that misses a guard soonest, where it is not a plain one.
SOONEST = {
    "settle": "taken over soon",
    "reply verify": "through WAHA",
    "reply settle": "through WAHA",
    "anchor": "repeated words",
    "overlay": "repeated words",
    "dedup": "delivered twice",
    "order": "a burst",
    "account": "a town",
    "lease": "taken over soon",
    "heartbeat": "slow",
    "fence": "taken over soon",
    "own": "echoed as a colleague's",
    "limit": "while WhatsApp locks",
    "pace": "paced",
    "once": "a tool call",
}
Store: TypeAlias = Literal["sqlite", "redis"]
STORES: tuple[Store, ...] = get_args(Store)

#: How the page of the guards begins.
HEAD = (
    "# Guards",
    "",
    "What keeps a message from being lost or doubled, and what happens without it. Each guard was",
    "taken out of the engine, one at a time. The simulator then ran until it found a schedule that",
    "went wrong, which stands here. `make simulate ARGS=--guards` writes this page, and a test",
    "compares it.",
    "",
    "| guard | without it | the first run that goes wrong |",
    "| --- | --- | --- |",
)


def processes(without: str | None = None, *, number: int | None = None) -> ProcessPoolExecutor:
    """Processes to run in, all of them without a guard of the engine."""
    return ProcessPoolExecutor(
        number or os.cpu_count(), get_context("spawn"), initializer=begin, initargs=(without,)
    )


def begin(without: str | None) -> None:
    """Prepare a process."""
    logging.disable(logging.CRITICAL)  # what goes wrong on purpose fills screens
    gc.freeze()  # all that was imported: a run leaves little else to look through
    gc.set_threshold(50_000)
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
    report = World(plan).run()
    return Town(
        seed=seed,
        flaw=report.wrong,
        turns=report.turns,
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


def run_kind(place: int, store: Store) -> Schedules:
    """Run all of one of the kinds on a store."""
    began = time.process_time()
    new_disk = Memory if store == "sqlite" else _on_a_redis()
    ran = list(run_all(KINDS[place], new_disk, pairs=store == "sqlite"))
    return Schedules(
        schedules=len(ran),
        flaws=[f"{each.schedule}: {each.wrong}" for each in ran if each.wrong],
        seconds=time.process_time() - began,
    )


@cache
def _on_a_redis() -> NewDisk:
    """The server of this process."""
    server = RedisServer(aof=False)  # which no schedule kills
    server.start()
    atexit.register(server.__exit__)
    return on_redis(server)


def missed(guard: str) -> str:
    """The first run that goes wrong without a guard; nothing where none does."""
    with processes(guard, number=1) as pool:
        return pool.submit(_missed, SOONEST.get(guard, "plain")).result()


def _missed(soonest: str) -> str:
    runs = [_schedules(soonest), _towns()]
    return next(chain.from_iterable(runs[:: -1 if soonest == "a town" else 1]), "")


def _schedules(soonest: str) -> Iterator[str]:
    """Those that are wrong, of one kind of turn first."""
    kinds = sorted(KINDS, key=lambda kind: kind.name != soonest)
    return (f"{ran.schedule}" for kind in kinds for ran in run_all(kind) if ran.wrong)


def _towns() -> Iterator[str]:
    return (f"the town of seed {n}" for n in range(SEEDS) if run_town(n).flaw)


def table() -> str:
    """All guards, what becomes of the engine without them, and the run that misses each."""
    rows = [
        f"| {guard} | {(GUARDS[guard].__doc__ or '').strip()} | {missed(guard)} |"
        for guard in GUARDS
    ]
    return "\n".join([*HEAD, *rows, ""])
