"""Turns without end, in a process of its own that tells how much memory it has.

``python -m tests.benchmarks.memory_run KIND COLOUR PLACE FIRST TURNS SAMPLES``
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psutil

from tests.benchmarks.agents import new_agent
from tests.benchmarks.customers import Customer, text_of
from tests.benchmarks.flows import Awaited, Blocking
from tests.benchmarks.ours import STORES, StoreKind, ours, ours_sync
from tests.benchmarks.place import Place

IN_FLIGHT = 50
#: Turns of a conversation; then somebody else writes.
TALK = 10


@dataclass(frozen=True, slots=True)
class Waves:
    """Customers who write at the same time, and then others.

    Args:
        first: The first customer's number.
        turns: How many turns all of them take.
        samples: How often the memory is told.
    """

    first: int
    turns: int
    samples: int

    @property
    def at_once(self) -> int:
        """Customers of a wave."""
        return min(IN_FLIGHT, self.turns // TALK)

    def __iter__(self) -> Iterator[list[Customer]]:
        """The customers of each; its memory is told when the next one is asked for."""
        process, collector = psutil.Process(), _Collector()
        waves = self.turns // (self.at_once * TALK)
        for wave in range(waves):
            begin = self.first + wave * self.at_once
            yield [Customer(number) for number in range(begin, begin + self.at_once)]
            if wave % max(1, waves // self.samples) == 0 or wave == waves - 1:
                told = {
                    "turns": (wave + 1) * self.at_once * TALK,
                    "rss": process.memory_info().rss,
                    "collected": collector.seconds,
                    "cpu": time.process_time(),
                }
                sys.stdout.write(json.dumps(told) + "\n")
                sys.stdout.flush()


class _Collector:
    """Seconds that Python's garbage collector has taken since."""

    def __init__(self) -> None:
        self.seconds = self._began = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, _info: object) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.seconds += time.perf_counter() - self._began


async def arun(place: Place, kind: StoreKind, waves: Waves) -> None:
    """Answer them on an event loop."""

    async def talk(opened: Awaited, customer: Customer) -> None:
        for turn in range(1, TALK + 1):
            await opened.turn(customer, text_of(turn))

    flow = ours(kind, in_block=True, aiohttp=True)
    async with flow.open(place, new_agent()) as opened:
        for customers in waves:
            await asyncio.gather(*(talk(opened, each) for each in customers))
            await opened.settle()


def run(place: Place, kind: StoreKind, waves: Waves) -> None:
    """Answer them on threads."""

    def talk(opened: Blocking, customer: Customer) -> None:
        for turn in range(1, TALK + 1):
            opened.turn(customer, text_of(turn))

    flow = ours_sync(kind, in_block=True)
    with flow.open(place, new_agent()) as opened, ThreadPoolExecutor(waves.at_once) as pool:
        for customers in waves:
            list(pool.map(lambda each: talk(opened, each), customers))
            opened.settle()


if __name__ == "__main__":
    name, colour, *told = sys.argv[1:-3]
    (store,) = [known for known in STORES if known == name]
    asked = Waves(*map(int, sys.argv[-3:]))
    if colour == "async":
        asyncio.run(arun(Place.from_told(*told), store, asked))
    else:
        run(Place.from_told(*told), store, asked)
