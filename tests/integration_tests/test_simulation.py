"""The engine in the simulator: every crash point of a turn, and turns by the thousand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.guards import GUARDS
from tests.redis_server import RedisServer
from tests.simulation.disks import File, NewDisk, on_redis
from tests.simulation.exhaustive import KINDS, Kind, run_all
from tests.simulation.many import TOWN, missed, run_town
from tests.simulation.random_runs import limited, plan_of
from tests.simulation.world import World

pytest_plugins = ("tests.store_fixtures",)
pytestmark = pytest.mark.no_cover  # which takes three times as long, and other tests tell as much

SAMPLED = "from tests.simulation.world import *; from tests.simulation.random_runs import *"
TRACE = f"{SAMPLED}; print(World(plan_of(7, 15)[0]).run().trace)"
#: Towns of one test.
STREET = 5


@pytest.fixture(params=["sqlite", "redis"])
def new_disk(request: pytest.FixtureRequest, tmp_path: Path) -> NewDisk:
    """An empty store, of which each process has a connection of its own."""
    if request.param == "redis":
        return on_redis(request.getfixturevalue("server"))
    files = (tmp_path / f"{number}.db" for number in range(10_000))
    return lambda _: File(next(files))


@pytest.mark.parametrize("kind", KINDS[:1], ids=lambda kind: kind.name)
def test_wherever_a_turns_process_dies_and_whatever_a_call_comes_to_nothing_is_wrong(
    kind: Kind, new_disk: NewDisk
) -> None:
    """At every step, before and after it; at every call, in every way."""
    ran = list(run_all(kind, new_disk, pairs=False))

    assert len(ran) > 100
    assert [f"{each.schedule}: {each.wrong}" for each in ran if each.wrong] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_kind_of_turn_is_ever_wrong(kind: Kind) -> None:
    """`make simulate ARGS=--exhaustive` adds a death behind each fault, in the short ones."""
    ran = list(run_all(kind, pairs=False))

    assert len(ran) > 50
    assert [f"{each.schedule}: {each.wrong}" for each in ran if each.wrong] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[1:], ids=lambda kind: kind.name)
def test_nor_is_it_on_redis(kind: Kind, server: RedisServer) -> None:
    """By the store's own Lua, on a real server."""
    ran = run_all(kind, on_redis(server), pairs=False)

    assert [f"{each.schedule}: {each.wrong}" for each in ran if each.wrong] == []


@pytest.mark.parametrize("first", range(0, 5000 // TOWN, STREET))
def test_a_town_is_answered_whoever_dies_or_stands_still(first: int) -> None:
    """Once each, in order, for the right tenant, in the end; by the seed."""
    towns = [run_town(seed) for seed in range(first, first + STREET)]

    assert [(town.seed, town.flaw) for town in towns if town.flaw] == []
    assert sum(town.kills for town in towns) > TOWN


@pytest.mark.parametrize("seed", range(2))
def test_so_is_one_whose_processes_have_connections_of_their_own(
    seed: int, new_disk: NewDisk
) -> None:
    """To the same file, or to the same Redis."""
    report = World(plan_of(seed, 25, new_disk=new_disk)[0]).run()

    assert (report.wrong, report.kills > 0) == ("", True)


@pytest.mark.parametrize("seed", range(2))
def test_no_number_is_banned_whoever_dies(seed: int, new_disk: NewDisk) -> None:
    """WhatsApp locks it now and then, WAHA loses its session: it obeys, and each reply arrives."""
    report = World(limited(seed, 25, new_disk=new_disk)[0]).run()

    assert (report.wrong, report.kills > 0) == ("", True)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 10_000 // TOWN, 4 * STREET))
def test_no_number_is_banned_in_ten_thousand_replies(first: int) -> None:
    """By the seed."""
    plans = [limited(seed, TOWN)[0] for seed in range(first, first + 4 * STREET)]
    reports = [World(plan).run() for plan in plans]

    assert [report.wrong for report in reports if report.wrong] == []
    assert sum(report.turns for report in reports) >= 4 * STREET * TOWN


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


@pytest.mark.slow
@pytest.mark.parametrize("guard", GUARDS)
def test_every_guard_of_the_engine_is_missed(guard: str) -> None:
    """By the run that the page names: what no run misses guards nothing, or is not tried."""
    page = Path("docs/trust/guards.md").read_text(encoding="utf-8")
    found_by = missed(guard)

    assert found_by
    assert f"| {guard} | {GUARDS[guard].__doc__} | {found_by} |" in page


@pytest.mark.slow
def test_what_is_wrong_is_told_in_a_few_steps() -> None:
    """Fewer people, fewer misfortunes, and the command that shows it again."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--turns", "50", "--without", "verify"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 1, ran.stderr
    assert "again: make simulate ARGS='--seed 0 --turns 50'" in ran.stdout
    assert ran.stdout.count("dies") <= 3
