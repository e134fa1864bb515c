"""Runs that a seed decides: who writes what, what goes wrong, who dies where."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.stores.base import EventStore
from tests.chaos.fake_api import AS_DOCUMENTED, Manners
from tests.chaos.script import talks
from tests.simulation.hub import Point
from tests.simulation.servers import Call, Fault
from tests.simulation.world import Plan

#: How often a call goes wrong, and a step is its process's last.
WRONG, DEADLY = 0.08, 0.03
#: As many kills for each turn, at most: a town in which everybody dies all the time answers nobody.
KILLS = 0.7

NewStore = Callable[[Callable[[], float]], EventStore]


def in_memory(clock: Callable[[], float]) -> EventStore:
    """A store that its processes share."""
    return SQLiteEventStore(":memory:", clock=clock)


def plan_of(
    seed: int,
    turns: int,
    *,
    new_store: NewStore = in_memory,
    manners: Manners = AS_DOCUMENTED,
) -> Plan:
    """What a seed stands for."""
    chance = random.Random(f"{seed}/what goes wrong")
    left = round(turns * KILLS)

    def dies(_: Point) -> bool:
        nonlocal left
        deadly = left > 0 and chance.random() < DEADLY
        left -= deadly
        return deadly

    def goes_wrong(call: Call) -> Fault | None:
        return chance.choice(call.faults) if chance.random() < WRONG else None

    plan = Plan(
        talks=talks(turns, seed),
        seed=seed,
        processes=chance.choice((1, 2, 3)),
        manners=manners,
        goes_wrong=goes_wrong,
        dies=dies,
        shuffled=True,
        new_store=new_store,
    )
    debounce = chance.choice((0.0, 0.0, 1.5))
    return replace(plan, runner={"debounce": debounce, "max_debounce": 5.0})
