"""Turns without end, in a process of its own that tells how much memory it has.

``python -m tests.benchmarks.memory_run KIND PLACE FIRST TURNS SAMPLES``
"""

from __future__ import annotations

import asyncio
import json
import sys

import psutil

from tests.benchmarks.agents import new_agent
from tests.benchmarks.customers import Customer, text_of
from tests.benchmarks.flows import Awaited
from tests.benchmarks.ours import STORES, ours
from tests.benchmarks.place import Place

IN_FLIGHT = 50
#: Turns of a conversation; then somebody else writes.
TALK = 10


async def run(place: Place, kind: str, first: int, turns: int, samples: int) -> None:
    """Tell the memory so many times while the turns go by, in bytes."""
    (flow,) = [ours(known, in_block=True, aiohttp=True) for known in STORES if known == kind]
    process = psutil.Process()
    async with flow.open(place, new_agent()) as opened:
        at_once = min(IN_FLIGHT, turns // TALK)
        waves = turns // (at_once * TALK)
        for wave in range(waves):
            begin = first + wave * at_once
            talks = (_talk(opened, Customer(n)) for n in range(begin, begin + at_once))
            await asyncio.gather(*talks)
            await opened.settle()
            if wave % max(1, waves // samples) == 0 or wave == waves - 1:
                told = {"turns": (wave + 1) * at_once * TALK, "rss": process.memory_info().rss}
                sys.stdout.write(json.dumps(told) + "\n")
                sys.stdout.flush()


async def _talk(opened: Awaited, customer: Customer) -> None:
    for turn in range(1, TALK + 1):
        await opened.turn(customer, text_of(turn))


if __name__ == "__main__":
    kind, *told = sys.argv[1:-3]
    first, turns, samples = map(int, sys.argv[-3:])
    asyncio.run(run(Place.from_told(*told), kind, first, turns, samples))
