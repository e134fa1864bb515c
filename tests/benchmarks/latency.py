"""(a) What is added to a turn before the customer can get the reply."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import httpx
import redis

from tests.benchmarks.agents import Agent, new_agent
from tests.benchmarks.customers import Customer, new_customers, require_same_work, text_of
from tests.benchmarks.flows import ASYNC_HTTPX, DOCUMENT, AsyncFlow, BlockingFlow, Flow
from tests.benchmarks.ours import STORES, ours, ours_sync
from tests.benchmarks.place import Place
from tests.benchmarks.rounds import Job, Progress, Sample, play
from tests.benchmarks.sheet import Sheet, Target
from tests.benchmarks.sizes import Sizes

FLOWS: tuple[Flow, ...] = (
    *(ours(kind, in_block=True, aiohttp=True) for kind in STORES),
    *(ours_sync(kind, in_block=True) for kind in STORES),
    DOCUMENT,
    ASYNC_HTTPX,
)
REPLIED, WRITTEN = "until the reply", "until all is written"
API_TRIP, STORE_TRIP = "API round trip", "store round trip"
#: Milliseconds beyond the round trips.
ALLOWED = 3.0


def measure(place: Place, sizes: Sizes, progress: Progress) -> Sheet:
    """Every flow at every distance of the API server, with a quick and a slow agent."""
    sheet = Sheet(
        "a",
        "latency added to a turn",
        {REPLIED: "ms", WRITTEN: "ms"},
        ASYNC_HTTPX.name,
    )
    jobs = []
    for delay in sizes.delays:
        jobs.append(Job(API_TRIP, partial(_api_trip, place, delay)))
        for thinking in sizes.thinking:
            turns = 1 if thinking else sizes.at_rest
            jobs += [Job(flow.name, _job(place, flow, delay, thinking, turns)) for flow in FLOWS]
    jobs += [Job(STORE_TRIP, partial(_redis_trip, place))]
    jobs += [Job(STORE_TRIP, partial(_sqlite_trip, place))]
    play(sheet, jobs, sizes.rounds, progress)
    _judge(sheet, sizes)
    return sheet


def _setting(delay: float, thinking: float) -> str:
    return f"{delay * 1000:g} ms, agent {thinking:g} s"


def _job(
    place: Place, flow: Flow, delay: float, thinking: float, turns: int
) -> Callable[[], Mapping[str, Sample]]:
    def measured() -> Mapping[str, Sample]:
        place.behave(delay=delay)
        took: list[float] = []
        agent, (customer,) = new_agent(thinking, took), new_customers(1)
        if isinstance(flow, AsyncFlow):
            spent = asyncio.run(_aturns(flow, place, agent, customer, turns))
        else:
            spent = _turns(flow, place, agent, customer, turns)
        require_same_work(place, [customer], turns + 1)
        added = [
            (replied - agents, written - agents)
            for (replied, written), agents in zip(spent, took[1:], strict=True)
        ]
        replied, written = (statistics.median(each) * 1000 for each in zip(*added, strict=True))
        return {_setting(delay, thinking): {REPLIED: replied, WRITTEN: written}}

    return measured


async def _aturns(
    flow: AsyncFlow, place: Place, agent: Agent, customer: Customer, turns: int
) -> list[tuple[float, float]]:
    """Seconds of each turn, one after the other, each at rest; the first is not measured."""
    spent = []
    async with flow.open(place, agent) as opened:
        for turn in range(1, turns + 2):
            begin = time.perf_counter()
            replied = await opened.turn(customer, text_of(turn))
            await opened.settle()
            spent.append((replied - begin, time.perf_counter() - begin))
    return spent[1:]


def _turns(
    flow: BlockingFlow, place: Place, agent: Agent, customer: Customer, turns: int
) -> list[tuple[float, float]]:
    spent = []
    with flow.open(place, agent) as opened:
        for turn in range(1, turns + 2):
            begin = time.perf_counter()
            replied = opened.turn(customer, text_of(turn))
            opened.settle()
            spent.append((replied - begin, time.perf_counter() - begin))
    return spent[1:]


def _api_trip(place: Place, delay: float) -> Mapping[str, Sample]:
    """One bare read of a conversation."""
    place.behave(delay=delay)
    (customer,) = new_customers(1)
    url = f"{place.endpoints}/lookup/conversation/{customer.phone_number}"
    with httpx.Client(trust_env=False) as client:
        trip = _median_ms(lambda: client.get(url).raise_for_status(), 5)
    return {_setting(delay, 0.0): {REPLIED: trip}}


def _redis_trip(place: Place) -> Mapping[str, Sample]:
    """One script that does nothing."""
    with redis.Redis.from_url(place.redis_url) as client:
        script = client.register_script("return 1")
        return {"redis": {REPLIED: _median_ms(script, 50)}}


def _sqlite_trip(place: Place) -> Mapping[str, Sample]:
    """One small transaction, as durable as the store's own."""
    sql = sqlite3.connect(place.folder / "trip.db", isolation_level=None)
    sql.execute("PRAGMA journal_mode = WAL")
    sql.execute("PRAGMA synchronous = FULL")
    sql.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, text TEXT)")
    try:
        insert = partial(sql.execute, "INSERT INTO t (text) VALUES ('x')")
        return {"sqlite": {REPLIED: _median_ms(insert, 50)}}
    finally:
        sql.close()


def _median_ms(act: Callable[[], object], times: int) -> float:
    act()  # connects
    spent = []
    for _ in range(times):
        begin = time.perf_counter()
        act()
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent) * 1000


def _judge(sheet: Sheet, sizes: Sizes) -> None:
    for delay in sizes.delays:
        api = sheet.median(_setting(delay, 0.0), API_TRIP)
        for thinking in sizes.thinking:
            at = _setting(delay, thinking)
            for kind in STORES:
                limit = api + 3 * sheet.median(kind, STORE_TRIP) + ALLOWED
                for flow in (
                    ours(kind, in_block=True, aiohttp=True),
                    ours_sync(kind, in_block=True),
                ):
                    spent = sheet.median(at, flow.name)
                    sheet.targets.append(Target(f"{at}: {flow.name}", spent, limit, "ms"))
