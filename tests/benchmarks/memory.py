"""(h) Whether memory stays flat over many turns of many conversations."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from tests.benchmarks.customers import Customer, require_same_work
from tests.benchmarks.memory_run import IN_FLIGHT, TALK
from tests.benchmarks.ours import STORES, StoreKind
from tests.benchmarks.place import Place
from tests.benchmarks.rounds import Job, Progress, Sample, play
from tests.benchmarks.sheet import Sheet, Target
from tests.benchmarks.sizes import Sizes

SAMPLES = 200
SETTING = "second half"
#: Turns below which a slope says more about the allocator than about us.
ENOUGH = 50_000
#: kB per 1,000 turns.
LIMIT = 10.0
#: Customers of these runs begin here: their processes count for themselves.
FIRST = {"redis": 40_000_000, "sqlite": 60_000_000}

Points = list[tuple[float, float]]


def measure(place: Place, sizes: Sizes, progress: Progress) -> Sheet:
    """The runner in its block, 50 conversations at a time, ten turns each, then the next ones."""
    sheet = Sheet(
        "h",
        f"memory over {sizes.steady:,} turns",
        {"at the end": "MB", "growth": "kB per 1,000 turns"},
        "",
    )
    place.behave()
    jobs = [Job(kind, partial(watched, place, kind, sizes.steady, sheet)) for kind in STORES]
    play(sheet, jobs, 1, progress)
    for kind in STORES:
        growth = sheet.median(SETTING, kind, "growth")
        if sizes.steady >= ENOUGH:
            what = f"growth over the second half: {kind}"
            sheet.targets.append(Target(what, growth, LIMIT, "kB per 1,000 turns"))
    if sizes.steady < ENOUGH:
        sheet.notes.append(f"growth is judged from {ENOUGH:,} turns on: --only h")
    return sheet


def watched(place: Place, kind: StoreKind, turns: int, sheet: Sheet) -> Mapping[str, Sample]:
    """Run the turns; their curve goes into the sheet."""
    first = FIRST[kind]
    arguments = (kind, *place.told(), str(first), str(turns), str(SAMPLES))
    command = [sys.executable, "-m", "tests.benchmarks.memory_run", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            told = [json.loads(line) for line in process.stdout]
        finally:
            process.terminate()
    if process.returncode:
        message = f"the run ended with {process.returncode}"
        raise RuntimeError(message)
    FIRST[kind] += turns  # new customers next time
    at_once = min(IN_FLIGHT, turns // TALK)
    require_same_work(place, [Customer(first), Customer(first + at_once - 1)], TALK)
    points = [(line["turns"], line["rss"] / 1e6) for line in told]
    sheet.curves[f"ours, {kind}"] = points
    return {SETTING: {"at the end": points[-1][1], "growth": slope(points)}}


def slope(points: Sequence[tuple[float, float]]) -> float:
    """KB per 1,000 turns of a line through the second half of (turns, MB)."""
    half = points[len(points) // 2 :]
    if len(half) < 2:
        return float("nan")
    turns, sizes = zip(*half, strict=True)
    return statistics.linear_regression(turns, sizes).slope * 1000 * 1000
