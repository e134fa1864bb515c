"""Runs that a seed decides: who writes and does what, what goes wrong, who is struck where."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeAlias

from tests.chaos.fake_api import AS_DOCUMENTED, Manners
from tests.chaos.script import Said, Talk, talks
from tests.simulation.agents import CHARGES, FAILS
from tests.simulation.deeds import colleague, edits, sets_clock, waits
from tests.simulation.disks import Memory, NewDisk
from tests.simulation.hub import Point, Simulation
from tests.simulation.servers import Call, Fault
from tests.simulation.waha import ECHOES, Echo
from tests.simulation.whatsapp import moody
from tests.simulation.world import Plan, Strike

#: How often a call goes wrong, and a process is struck at a step.
WRONG, STRUCK = 0.08, 0.03
#: As many strikes for each turn, at most: a town in which everybody dies all the time answers none.
STRIKES = 0.7
#: Seconds for which a process stands still: some longer than a lease, some longer than a request.
STILL = (5.0, 20.0, 45.0, 120.0)

#: A call of a server, or a place between two steps.
Place: TypeAlias = tuple[Any, ...]


@dataclass
class Misfortunes:
    """What goes wrong in a run, each at its place: decided by chance at first, then known.

    Attributes:
        faults: What goes wrong with a call: the how manieth of which server.
        strikes: What a process meets before or after the how manieth step.
    """

    faults: dict[Place, Fault] = field(default_factory=dict)
    strikes: dict[Place, Strike] = field(default_factory=dict)

    def goes_wrong(self, call: Call) -> Fault | None:
        """What is known to go wrong with a call."""
        return self.faults.get((call.server, call.number))

    def strike(self, point: Point) -> Strike | None:
        """What a process is known to meet."""
        return self.strikes.get((point.number, point.before))


@dataclass
class _Chance(Misfortunes):
    """Decides, and notes it."""

    chance: random.Random = field(default_factory=random.Random)
    left: int = 0

    def goes_wrong(self, call: Call) -> Fault | None:
        if self.chance.random() >= WRONG:
            return None
        fault = self.chance.choice(call.faults)
        self.faults[call.server, call.number] = fault
        return fault

    def strike(self, point: Point) -> Strike | None:
        if self.left <= 0 or self.chance.random() >= STRUCK:
            return None
        self.left -= 1
        strike: Strike = "dies" if self.chance.random() < 0.8 else self.chance.choice(STILL)
        self.strikes[point.number, point.before] = strike
        return strike


def plan_of(
    seed: int, turns: int, *, new_disk: NewDisk = Memory, manners: Manners = AS_DOCUMENTED
) -> tuple[Plan, Misfortunes]:
    """What a seed stands for, and what goes wrong, once it has been run."""
    chance = random.Random(f"{seed}/what goes wrong")
    chosen = _Chance(chance=chance, left=round(turns * STRIKES))
    plan = Plan(
        talks=[_lively(talk, chance) for talk in talks(turns, seed)],
        seed=seed,
        processes=chance.choice((1, 2, 3)),
        manners=manners,
        echo=_echoes(seed) if chance.random() < 0.5 else None,
        expires=chance.choice(EXPIRIES),
        shuffled=True,
        new_disk=new_disk,
        runner={
            "debounce": chance.choice((0.0, 0.0, 1.5)),
            "max_debounce": 5.0,
            "lease": chance.choice((30.0, 8.0)),
        },
        days_later=True,
    )
    return with_misfortunes(plan, chosen), chosen


def limited(seed: int, turns: int, *, new_disk: NewDisk = Memory) -> tuple[Plan, Misfortunes]:
    """The same town where all replies go through a WhatsApp that locks, and bans."""
    plan, what = plan_of(seed, turns, new_disk=new_disk)
    return replace(
        plan,
        echo=_echoes(seed),
        whatsapp=lambda simulation: moody(simulation, seed),
        reply={"pace": 20.0},
    ), what


def with_misfortunes(plan: Plan, what: Misfortunes) -> Plan:
    """The same people, to whom this happens."""
    return replace(plan, goes_wrong=what.goes_wrong, strikes=what.strike)


def _echoes(seed: int) -> Callable[[], Echo]:
    chance = random.Random(f"{seed}/echoes")
    return lambda: chance.choice(ECHOES)


def _expiry(*, years: int) -> Callable[[Simulation], str | None]:
    return lambda simulation: (simulation.now() + timedelta(days=365 * years)).isoformat()


EXPIRIES: Sequence[Callable[[Simulation], str | None] | None] = (
    None,  # in a day
    lambda _: None,
    lambda _: "9999-12-31T23:59:59Z",
    _expiry(years=-5),
    _expiry(years=73),
)


def _lively(talk: Talk, chance: random.Random) -> Talk:
    """The same talk, as people talk: with stickers, orders, changes of mind, and a colleague."""
    bursts, is_taken = [], False
    for burst in talk.bursts:
        told: list[Any] = []
        for said in burst:
            told += _livelier(said, chance)
        happens = chance.random()
        if happens < 0.05:
            told.append(waits(300.0))
        elif happens < 0.08:
            told.append(sets_clock(chance.choice((-7200.0, -30.0, 30.0, 7200.0))))
        elif happens < 0.11 and not is_taken:
            is_taken = True
            told.append(colleague("C1", f"{talk.subdomain} C1", seconds=60.0))
        bursts.append(tuple(told))
    taken = (f"{talk.subdomain} C1",) if is_taken else ()
    return replace(talk, bursts=tuple(bursts), colleague=taken)


def _livelier(said: Said, chance: random.Random) -> list[Any]:
    happens = chance.random()
    if happens < 0.04:
        return [replace(said, text="")]
    if said.event_id not in said.text:  # what everybody says
        return [said]
    if happens < 0.08:
        return [replace(said, text=f"{said.text} {CHARGES}")]
    if happens < 0.12:
        return [replace(said, text=f"{said.text} {FAILS}")]
    if happens < 0.16:
        said = replace(said, edited=f"{said.text}!")
        return [said, edits(said.event_id.removeprefix("false_"), said.edited)]
    return [said]
