"""The benchmarks measure what they say; how fast anything is, no test asks."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks import abreast, apart, api_app, apis, imports, memory, plot, webhook
from tests.benchmarks.__main__ import CASES
from tests.benchmarks.agents import new_agent
from tests.benchmarks.customers import (
    Customer,
    OtherWorkError,
    new_customers,
    require_same_work,
    text_of,
)
from tests.benchmarks.filled import TALK, fill_redis, fill_sqlite
from tests.benchmarks.flows import AGENT_ALONE, AsyncFlow, Flow
from tests.benchmarks.latency import FLOWS as WAITED_FOR
from tests.benchmarks.ours import STORES, StoreKind, new_store
from tests.benchmarks.place import Place, new_place
from tests.benchmarks.sheet import Sheet
from tests.benchmarks.sizes import TINY
from tests.benchmarks.throughput import FLOWS as UNDER_LOAD
from tests.store_cases import event

#: Cases that start a process for every sample; one sample of each is enough here.
SLOW = {"f", "g", "h", "i", "j", "k", "l", "m"}


class NoWatcher:
    """Watches no progress."""

    def begin(self, what: str, steps: int) -> None: ...

    def doing(self, what: str) -> None: ...

    def step(self) -> None: ...


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with new_place() as opened:
        yield opened


def answer(flow: Flow, place: Place, customer: Customer, turns: int) -> None:
    """Some messages of a customer, one after the other, until everything is written."""

    async def wait(flow: AsyncFlow) -> None:
        async with flow.open(place, new_agent()) as opened:
            for turn in range(1, turns + 1):
                await opened.turn(customer, text_of(turn))
            await opened.settle()

    if isinstance(flow, AsyncFlow):
        asyncio.run(wait(flow))
        return
    with flow.open(place, new_agent()) as opened:
        for turn in range(1, turns + 1):
            opened.turn(customer, text_of(turn))
        opened.settle()


@pytest.mark.parametrize(
    "flow",
    [
        flow
        for flow in {f.name: f for f in (*WAITED_FOR, *UNDER_LOAD)}.values()
        if flow is not AGENT_ALONE
    ],
    ids=lambda flow: flow.name,
)
def test_every_flow_that_is_compared_does_the_same_work(flow: Flow, place: Place) -> None:
    """The same messages, once and in order, and the same state: else numbers compare nothing."""
    place.behave()
    (customer,) = new_customers(1)

    answer(flow, place, customer, 2)

    require_same_work(place, [customer], 2)


def test_a_flow_that_does_less_work_is_found_out(place: Place) -> None:
    """Or more: what a measurement requires can fail."""
    place.behave()
    (customer,) = new_customers(1)
    answer(UNDER_LOAD[0], place, customer, 2)

    for turns in (1, 3):
        with pytest.raises(OtherWorkError, match="4 of"):
            require_same_work(place, [customer], turns)


@pytest.mark.parametrize("kind", STORES)
def test_a_store_is_filled_with_what_the_engine_leaves(place: Place, kind: StoreKind) -> None:
    """A copied conversation had its turns, its events are known, and its customer is answered."""
    with place.apart() as own:
        if kind == "redis":
            filled = fill_redis(own, own.redis_url, 2, 3)
        else:
            filled = fill_sqlite(own, own.sqlite_file, 2, 3)
        with closing(new_store(own, kind)) as store:
            original, copy = (
                store.view(name).block() for name in (filled.talks[1], filled.conversation(5))
            )
            event_key = json.loads(copy.note or "")["turn"]
            known = replace(event("1"), event_key=event_key, conversation_key=copy.conversation_key)
            again = store.accept(known).block()
            new = replace(known, event_key=event_key[:-8] + "0" * 8)
            acquired = store.accept(new, token="turn").block().acquired

    assert filled.conversations == 6
    assert copy.conversation_key != original.conversation_key
    assert copy.turns == original.turns == TALK
    assert (again.status, again.outcome) == ("duplicate", f"answered {event_key}")
    assert acquired is not None
    assert acquired.turns == TALK
    assert acquired.tenant is not None


@pytest.mark.slow  # that what is measured is the same work is seen above
@pytest.mark.parametrize("case", sorted(set(CASES) - SLOW))
def test_every_case_measures_something_for_every_flow(case: str, place: Place) -> None:
    """No row of the table is empty."""
    sheet = CASES[case](place, TINY, NoWatcher())

    assert sheet.rows
    assert [row for row in sheet.rows if not sheet.median(*row) > 0] == []


def test_what_an_import_costs_is_measured_in_a_process_of_its_own() -> None:
    """Its peak is not that of the process that asks."""
    cost = imports.cost_of("import json")

    assert 0 < cost["peak"] < 40
    assert cost["time"] > 0


@pytest.mark.slow  # a process of its own
def test_deliveries_are_offered_at_their_rate_and_recorded(place: Place) -> None:
    """A delivery that was refused, or taken for another one, would be no measurement."""
    found = webhook.accepting(place, "sqlite", TINY, webhook.NOT_YET, "here")["here"]

    assert found["offered"] == TINY.offered
    assert 0 < found["p50"] <= found["p99"]


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize("kind", [api_app.BARE, api_app.OURS])
def test_each_kind_of_request_is_answered_by_both_servers(place: Place, kind: str) -> None:
    """A request that was refused would be no measurement."""
    found = apis.asking(place, kind, 3, TINY.requests)

    assert len(found) == 5
    assert all(sample["time"] > 0 for sample in found.values())


@pytest.mark.slow  # a process of its own
@pytest.mark.parametrize("colour", apart.COLOURS)
def test_a_second_process_answers_and_tells_when(place: Place, colour: str) -> None:
    """And a call that waits for it learns of that."""
    found = apart.answers(place, "redis", colour, TINY.at_distance, apart.APART)

    assert len(found) == 2
    assert all(sample["median"] > 0 for sample in found.values())


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize("who", ["celery", "sqlite"])
def test_what_two_processes_do_is_counted_and_is_the_same_work(place: Place, who: str) -> None:
    """And how long a quiet tenant waits for them."""
    place.behave()

    worked = abreast.working(place, who, TINY.waiting, 2)
    waited = abreast.quiet(place, who, TINY, flooded=True)

    assert worked["2 processes"]["turns"] > 0
    assert 0 < waited[abreast.FLOODED]["median"] <= waited[abreast.FLOODED]["p99"]


@pytest.mark.slow  # a process of its own
@pytest.mark.parametrize("colour", apart.COLOURS)
def test_memory_is_watched_in_a_process_that_does_nothing_else(place: Place, colour: str) -> None:
    """And does the work of every turn."""
    sheet = Sheet("h", "memory", {"at the end": "MB"}, "")

    found = memory.watched(place, "redis", colour, TINY.steady, sheet)

    (points,) = sheet.curves.values()
    assert [turns for turns, _ in points] == [TINY.steady]
    assert found[memory.SETTING]["at the end"] == points[-1][1] > 10


def test_a_leak_is_the_slope_of_the_second_half() -> None:
    """What a process takes while it warms up is none."""
    points = [(float(turns), 90.0 + min(turns, 500) / 10) for turns in range(0, 1001, 100)]
    leaking = [(turns, mb + turns / 1000) for turns, mb in points]

    assert memory.slope(points) == pytest.approx(0)
    assert memory.slope(leaking) == pytest.approx(1000)  # a kB per turn


def test_a_plot_needs_matplotlib_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything else works without it."""
    sheet = Sheet("x", "nothing", {"cpu": "ms"}, "a peer")
    sheet.add("here", "a peer", {"cpu": 1.0})
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    assert plot.plot([sheet], tmp_path / "x.png") == plot.MISSING


def test_a_ratio_is_that_of_the_medians_in_one_setting() -> None:
    """One round that was disturbed does not decide."""
    sheet = Sheet("x", "something", {"cpu": "ms"}, "a peer")
    for mine, theirs in ((2.0, 4.0), (200.0, 4.0), (3.0, 6.0)):
        sheet.add("here", "we", {"cpu": mine})
        sheet.add("here", "a peer", {"cpu": theirs})
    sheet.add("there", "we", {"cpu": 1.0})

    assert sheet.ratio("here", "we") == 0.75
    assert math.isnan(sheet.ratio("there", "we"))
