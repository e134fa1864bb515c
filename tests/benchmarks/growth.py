"""(c) What a turn costs late in a long conversation, compared with an early one."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from functools import partial

from tests.benchmarks.agents import new_agent
from tests.benchmarks.customers import new_customers, require_same_work, text_of
from tests.benchmarks.flows import ASYNC_HTTPX, AsyncFlow
from tests.benchmarks.ours import STORES, ours
from tests.benchmarks.place import Place
from tests.benchmarks.rounds import Clock, Job, Progress, Sample, play
from tests.benchmarks.sheet import Sheet, Target
from tests.benchmarks.sizes import Sizes

OURS = tuple(ours(kind, aiohttp=True) for kind in STORES)
FLOWS = (*OURS, ASYNC_HTTPX)
#: Turns whose median stands for the last of them.
WINDOW = 10
#: Messages that the server shows; of a whole history it shows all.
CAP = 20
CAPPED = str(CAP)


def measure(place: Place, sizes: Sizes, progress: Progress) -> Sheet:
    """A conversation from its first turn to its last, and one whose whole history is shown."""
    sheet = Sheet("c", "cost of a late turn", {"cpu": "ms", "time": "ms"}, ASYNC_HTTPX.name)
    marks = sorted({max(3, sizes.long // 100), max(3, sizes.long // 10), sizes.long})
    jobs = [Job(flow.name, partial(_capped, flow, place, marks)) for flow in FLOWS]
    jobs += [Job(flow.name, partial(_whole, flow, place, mark)) for mark in marks for flow in FLOWS]
    play(sheet, jobs, sizes.long_rounds, progress)
    early, late = marks[0], marks[-1]
    for flow in OURS:
        ratio = sheet.median(_at(late, CAPPED), flow.name) / sheet.median(
            _at(early, CAPPED), flow.name
        )
        what = f"CPU, {CAP} messages shown: {flow.name}, turn {late} to turn {early}"
        sheet.targets.append(Target(what, ratio, 1.2))
    return sheet


def _at(mark: int, shown: str) -> str:
    return f"turn {mark:,}, {shown} messages shown"


def _capped(flow: AsyncFlow, place: Place, marks: Sequence[int]) -> Mapping[str, Sample]:
    """The whole conversation, as stores and runners see it."""
    place.behave(cap=CAP, begun=CAP)
    spent = asyncio.run(_talk(flow, place, marks[-1]))
    return {_at(mark, CAPPED): _median(spent[max(1, mark - WINDOW) : mark]) for mark in marks}


def _whole(flow: AsyncFlow, place: Place, mark: int) -> Mapping[str, Sample]:
    """Only the turns that count, on a history of that length: what differs comes from the API."""
    turns = min(mark, WINDOW)
    begun = 2 * (mark - turns)
    place.behave(cap=0, begun=begun)
    spent = asyncio.run(_talk(flow, place, turns))
    place.behave()
    return {_at(mark, f"all {2 * mark:,}"): _median(spent[1:])}


async def _talk(flow: AsyncFlow, place: Place, turns: int) -> list[tuple[float, float]]:
    """CPU and time of each turn, all its writes included."""
    customers = new_customers(1)
    spent = []
    async with flow.open(place, new_agent()) as opened:
        for turn in range(1, turns + 1):
            clock = Clock()
            await opened.turn(customers[0], text_of(turn))
            spent.append(clock.read())
    require_same_work(place, customers, turns)
    return spent


def _median(spent: Sequence[tuple[float, float]]) -> Sample:
    cpu, wall = (statistics.median(each) * 1000 for each in zip(*spent, strict=True))
    return {"cpu": cpu, "time": wall}
