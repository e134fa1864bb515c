"""Rounds in turn, A B C A B C, so that what disturbs the machine disturbs everybody."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from tests.benchmarks.agents import Agent
from tests.benchmarks.customers import Customer, new_customers, require_same_work, text_of
from tests.benchmarks.flows import AGENT_ALONE, AsyncFlow, Awaited, Blocking, BlockingFlow, Flow
from tests.benchmarks.place import Place
from tests.benchmarks.sheet import Sheet

#: Metric → number.
Sample = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement of somebody, to be repeated every round: what it finds in each setting."""

    who: str
    measure: Callable[[], Mapping[str, Sample]]


class Progress(Protocol):
    """Somebody who watches."""

    def begin(self, what: str, steps: int) -> None: ...

    def doing(self, what: str) -> None: ...

    def step(self) -> None: ...


def play(sheet: Sheet, jobs: Sequence[Job], rounds: int, progress: Progress) -> None:
    """Every job once a round."""
    progress.begin(f"({sheet.key}) {sheet.title}", rounds * len(jobs))
    for _ in range(rounds):
        for job in jobs:
            gc.collect()
            progress.doing(job.who)
            for setting, sample in job.measure().items():
                sheet.add(setting, job.who, sample)
            progress.step()


@dataclass(frozen=True, slots=True)
class Load:
    """Many conversations at once, each for some turns; the first turn of each is not measured."""

    in_flight: int
    turns: int

    @property
    def measured(self) -> int:
        """How many turns are."""
        return self.in_flight * self.turns


def cost_under(load: Load, flow: Flow, place: Place, agent: Agent) -> Sample:
    """CPU of this process, and time, per synced turn.

    Raises:
        OtherWorkError: The API server did not end up with what it should.
    """
    customers = new_customers(load.in_flight)
    if isinstance(flow, AsyncFlow):
        cpu, wall = asyncio.run(_acost(load, flow, place, agent, customers))
    else:
        cpu, wall = _cost(load, flow, place, agent, customers)
    if flow is not AGENT_ALONE:
        require_same_work(place, customers, load.turns + 1)
    return {"cpu": cpu / load.measured * 1000, "rate": load.measured / wall}


class Clock:
    """CPU of the process and time, since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def read(self) -> tuple[float, float]:
        return time.process_time() - self._cpu, time.perf_counter() - self._wall


async def _acost(
    load: Load, flow: AsyncFlow, place: Place, agent: Agent, customers: Sequence[Customer]
) -> tuple[float, float]:
    async def talk(opened: Awaited, customer: Customer, turns: range) -> None:
        for turn in turns:
            await opened.turn(customer, text_of(turn))

    async with flow.open(place, agent) as opened:
        await asyncio.gather(*(talk(opened, each, range(1, 2)) for each in customers))
        await opened.settle()
        clock, turns = Clock(), range(2, load.turns + 2)
        await asyncio.gather(*(talk(opened, each, turns) for each in customers))
        await opened.settle()
        return clock.read()


def _cost(
    load: Load, flow: BlockingFlow, place: Place, agent: Agent, customers: Sequence[Customer]
) -> tuple[float, float]:
    def talk(opened: Blocking, customer: Customer, turns: range) -> None:
        for turn in turns:
            opened.turn(customer, text_of(turn))

    with flow.open(place, agent) as opened, ThreadPoolExecutor(load.in_flight) as pool:
        list(pool.map(lambda each: talk(opened, each, range(1, 2)), customers))
        opened.settle()
        clock, turns = Clock(), range(2, load.turns + 2)
        list(pool.map(lambda each: talk(opened, each, turns), customers))
        opened.settle()
        return clock.read()
