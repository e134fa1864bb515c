"""(f) What importing costs: time, CPU and memory of fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial

from tests.benchmarks.rounds import Job, Progress, Sample, play
from tests.benchmarks.sheet import Sheet, Target
from tests.benchmarks.sizes import Sizes

BASE = "import langchain_core.tools, httpx, redis"
OURS = "import langchain_convsync"
ONE = tuple(
    f"from langchain_convsync import {name}"
    for name in ("TurnRunner", "RedisEventStore", "SQLiteEventStore", "ConvSyncClient", "once")
)
NAMES = "from langchain_convsync import TurnRunner, RedisEventStore, ConvSyncClient"
STATEMENTS = (BASE, OURS, *ONE, NAMES)

# The peak is that of the memory itself: a child's `ru_maxrss` begins with its parent's.
_MEASURE = """
import json, time
cpu, wall = time.process_time(), time.perf_counter()
{statement}
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
try:
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
except OSError:
    import resource, sys
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak /= 1024 if sys.platform == "darwin" else 1
print(json.dumps({{"time": wall * 1000, "cpu": cpu * 1000, "peak": peak / 1024}}))
"""


def measure(sizes: Sizes, progress: Progress) -> Sheet:
    """Our package, our main names, and what they are built on."""
    units = {"time": "ms", "cpu": "ms", "peak": "MB"}
    sheet = Sheet("f", "import time and peak memory", units, BASE)
    for statement in STATEMENTS:
        cost_of(statement)  # into the page cache, and compiled
    jobs = [Job(each, partial(_measured, each)) for each in STATEMENTS]
    play(sheet, jobs, sizes.imports, progress)
    for metric in ("time", "peak"):
        for statement in (OURS, *ONE, NAMES):
            base = sheet.median("import", BASE, metric)
            ratio = sheet.median("import", statement, metric) / base
            sheet.targets.append(Target(f"{metric}: {statement}", ratio, 1.15))
    return sheet


def _measured(statement: str) -> Mapping[str, Sample]:
    return {"import": cost_of(statement)}


def cost_of(statement: str) -> Sample:
    """What a statement costs a new process: milliseconds, megabytes at its peak."""
    command = [sys.executable, "-c", _MEASURE.format(statement=statement)]
    # What is installed is compiled; a checkout that keeps no bytecode would compile every time.
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout
    found: dict[str, float] = json.loads(told)
    return found
