"""(h) Whether memory stays flat over many turns of many conversations."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count

from tests.benchmarks.apart import COLOURS
from tests.benchmarks.customers import Customer, require_same_work
from tests.benchmarks.memory_run import TALK, Waves
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
FIRST = 40_000_000
_numbers = count(FIRST, 10_000_000)

Points = list[tuple[float, float]]


def measure(place: Place, sizes: Sizes, progress: Progress) -> Sheet:
    """The runner in its block, 50 conversations at a time, ten turns each, then the next ones."""
    sheet = Sheet(
        "h",
        f"memory over {sizes.steady:,} turns",
        {"at the end": "MB", "growth": "kB per 1,000 turns", "collector": "% of the CPU"},
        "",
    )
    place.behave()
    jobs = [
        Job(f"{kind}, {colour}", partial(watched, place, kind, colour, sizes.steady, sheet))
        for kind in STORES
        for colour in COLOURS
    ]
    play(sheet, jobs, 1, progress)
    for job in jobs:
        growth = sheet.median(SETTING, job.who, "growth")
        if sizes.steady >= ENOUGH:
            what = f"growth over the second half: {job.who}"
            sheet.targets.append(Target(what, growth, LIMIT, "kB per 1,000 turns"))
    if sizes.steady < ENOUGH:
        sheet.notes.append(f"growth is judged from {ENOUGH:,} turns on: --only h")
    return sheet


def watched(
    place: Place, kind: StoreKind, colour: str, turns: int, sheet: Sheet
) -> Mapping[str, Sample]:
    """Run the turns; their curve goes into the sheet."""
    first = next(_numbers)
    arguments = (kind, colour, *place.told(), str(first), str(turns), str(SAMPLES))
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
    last = first + Waves(first, turns, SAMPLES).at_once - 1
    require_same_work(place, [Customer(first), Customer(last)], TALK)
    points = [(line["turns"], line["rss"] / 1e6) for line in told]
    sheet.curves[f"ours, {kind}, {colour}"] = points
    middle, end = told[(len(told) - 1) // 2], told[-1]
    spent = {each: end[each] - middle[each] for each in ("collected", "cpu")}
    return {
        SETTING: {
            "at the end": points[-1][1],
            "growth": slope(points),
            "collector": spent["collected"] / spent["cpu"] * 100 if spent["cpu"] else float("nan"),
        }
    }


def slope(points: Sequence[tuple[float, float]]) -> float:
    """KB per 1,000 turns of a line through the second half of (turns, MB)."""
    half = points[len(points) // 2 :]
    if len(half) < 2:
        return float("nan")
    turns, sizes = zip(*half, strict=True)
    return statistics.linear_regression(turns, sizes).slope * 1000 * 1000
