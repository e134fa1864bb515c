"""(b) CPU and throughput of a synced turn, with many conversations in flight."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from langchain.agents import create_agent
from langchain_core.runnables import Runnable

from langchain_convsync.testing import ScriptedChatModel
from tests.benchmarks.agents import Agent, new_agent
from tests.benchmarks.customers import text_of
from tests.benchmarks.flows import (
    AGENT_ALONE,
    AIOHTTP,
    ASYNC_HTTPX,
    ASYNC_HTTPX_KEEPING,
    HTTPX,
    Flow,
)
from tests.benchmarks.ours import STORES, ours, ours_sync
from tests.benchmarks.place import Place
from tests.benchmarks.rounds import Clock, Job, Load, Progress, Sample, cost_under, play
from tests.benchmarks.sheet import Sheet, Target
from tests.benchmarks.sizes import Sizes

FLOWS: tuple[Flow, ...] = (
    *(ours(kind) for kind in STORES),
    *(ours(kind, aiohttp=True) for kind in STORES),
    *(ours(kind, aiohttp=True, in_block=True) for kind in STORES),
    ASYNC_HTTPX,
    ASYNC_HTTPX_KEEPING,
    AIOHTTP,
    *(ours_sync(kind) for kind in STORES),
    HTTPX,
    AGENT_ALONE,
)
CREATE_AGENT = "create_agent alone"
#: In flight where the targets hold.
JUDGED = 50


def measure(place: Place, sizes: Sizes, progress: Progress) -> Sheet:
    """Every flow, with one, some and many conversations at a time."""
    sheet = Sheet(
        "b",
        "CPU and throughput per synced turn",
        {"cpu": "ms", "rate": "turns/s"},
        ASYNC_HTTPX.name,
    )
    place.behave()
    agent = new_agent()
    jobs = []
    for in_flight in sizes.in_flight:
        load = Load(in_flight, min(50, max(1, sizes.turns // in_flight)))
        jobs += [Job(flow.name, partial(_measured, load, flow, place, agent)) for flow in FLOWS]
        jobs.append(Job(CREATE_AGENT, partial(_create_agent, load)))
    play(sheet, jobs, sizes.rounds, progress)
    _judge(sheet)
    return sheet


def setting(in_flight: int) -> str:
    return f"{in_flight} in flight"


def _measured(load: Load, flow: Flow, place: Place, agent: Agent) -> Mapping[str, Sample]:
    return {setting(load.in_flight): cost_under(load, flow, place, agent)}


def _create_agent(load: Load) -> Mapping[str, Sample]:
    """A run of LangChain's own agent, with nothing around it, for scale."""
    agent: Runnable[Any, Any] = create_agent(
        ScriptedChatModel(responses=["Con gusto."] * (load.measured + 1))
    )
    agent.invoke({"messages": [("user", text_of(1))]})
    clock = Clock()
    for turn in range(load.measured):
        agent.invoke({"messages": [("user", text_of(turn))]})
    cpu, wall = clock.read()
    sample = {"cpu": cpu / load.measured * 1000, "rate": load.measured / wall}
    return {setting(load.in_flight): sample}


def _judge(sheet: Sheet) -> None:
    at = setting(JUDGED)
    if (at, ASYNC_HTTPX.name) not in sheet.rows:
        return
    for who in (
        ours(kind, aiohttp=True, in_block=b).name for kind in STORES for b in (False, True)
    ):
        cpu = sheet.median(at, who)
        for other, limit in ((ASYNC_HTTPX.name, 0.5), (AIOHTTP.name, 4.0)):
            ratio = cpu / sheet.median(at, other)
            sheet.targets.append(Target(f"CPU, {at}: {who} to {other}", ratio, limit))
