"""The engine in the simulator: every crash point of a turn, and turns by the hundred."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from langchain_convsync.stores import RedisEventStore, SQLiteEventStore
from langchain_convsync.stores.base import EventStore
from tests.redis_server import RedisServer
from tests.simulation.exhaustive import KINDS, Kind, run_all
from tests.simulation.random_runs import NewStore, plan_of
from tests.simulation.world import World

pytest_plugins = ("tests.store_fixtures",)

SAMPLED = "from tests.simulation.world import *; from tests.simulation.random_runs import *"
TRACE = f"{SAMPLED}; print(World(plan_of(7, 15)).run().trace)"


@pytest.fixture(params=["sqlite", "redis"])
def new_store(request: pytest.FixtureRequest) -> NewStore:
    """Makes an empty store on a given clock."""

    def on_redis(clock: Callable[[], float]) -> EventStore:
        server: RedisServer = request.getfixturevalue("server")
        server.empty()
        return RedisEventStore(server.url, clock=clock)

    def on_sqlite(clock: Callable[[], float]) -> EventStore:
        return SQLiteEventStore(":memory:", clock=clock)

    return on_redis if request.param == "redis" else on_sqlite


@pytest.mark.parametrize("kind", KINDS[:1], ids=lambda kind: kind.name)
def test_wherever_a_turns_process_dies_and_whatever_a_call_comes_to_nothing_is_wrong(
    kind: Kind, new_store: NewStore
) -> None:
    """At every step, before and after it; at every call, in every way."""
    ran = list(run_all(kind, new_store, pairs=False))

    assert len(ran) > 50
    assert [f"{each.schedule}: {each.what}" for each in ran if each.is_wrong] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[1:], ids=lambda kind: kind.name)
def test_no_other_kind_of_turn_is_wrong_either(kind: Kind) -> None:
    """As above; `make simulate ARGS=--exhaustive` adds a death at the steps behind each fault."""
    ran = list(run_all(kind, pairs=False))

    assert len(ran) > 50
    assert [f"{each.schedule}: {each.what}" for each in ran if each.is_wrong] == []


@pytest.mark.parametrize("seed", range(4))
def test_a_town_is_answered_whoever_dies(seed: int, new_store: NewStore) -> None:
    """Once each, in order, for the right tenant, in the end; by the seed."""
    report = World(plan_of(seed, 25, new_store=new_store)).run()

    assert (report.wrong, report.kills > 0) == (0, True)


def test_the_same_seed_is_the_same_story_in_another_process() -> None:
    """Step by step, whatever the order of its sets is."""
    traces = {
        subprocess.run(
            [sys.executable, "-c", TRACE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(traces) == 1
    assert len(traces.pop().strip()) == 64
