"""(j) What a second process adds to a turn; (k) what a process at rest costs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median, quantiles
from typing import Any, TypeAlias

import psutil
import redis

from langchain_convsync import ConvSyncClient, TurnRunner
from tests.benchmarks.agents import new_agent
from tests.benchmarks.apart_run import THINKING, event_of
from tests.benchmarks.customers import Customer, new_customers, text_of
from tests.benchmarks.ours import STORES, StoreKind, new_store
from tests.benchmarks.place import Place
from tests.benchmarks.rounds import Job, Progress, Sample, play
from tests.benchmarks.sheet import Sheet, Target
from tests.benchmarks.sizes import Sizes

COLOURS = ("async", "sync")
TOGETHER, APART = "one process", "two processes"
ANSWERED, CALLED = "until the reply", "until a caller knows"
#: Milliseconds that a second process may add.
MEDIAN, LATEST = 5.0, 20.0
#: What a process at rest may cost: per cent of a core, calls a second.
CORE, CALLS = 0.2, 4.0
#: Seconds until a process that began is at rest.
BEGUN = 3.0

Tell: TypeAlias = Callable[[], dict[str, Any]]


def measure(place: Place, sizes: Sizes, progress: Progress) -> Sheet:
    """An event accepted here and answered there, beside one that a process accepts and answers."""
    sheet = Sheet("j", "accepted here, answered there", {"median": "ms", "p99": "ms"}, TOGETHER)
    place.behave()
    jobs = [
        Job(who, partial(answers, place, kind, colour, sizes.at_distance, who))
        for kind in STORES
        for colour in COLOURS
        for who in (TOGETHER, APART)
    ]
    play(sheet, jobs, sizes.apart_rounds, progress)
    for kind in STORES:
        for colour in COLOURS:
            for what in (ANSWERED, CALLED):
                at = _setting(kind, colour, what)
                for metric, limit in (("median", MEDIAN), ("p99", LATEST)):
                    more = sheet.median(at, APART, metric)
                    if what == ANSWERED:
                        more -= sheet.median(at, TOGETHER, metric)
                    sheet.targets.append(Target(f"{metric} more: {at}", more, limit, "ms"))
    return sheet


def rest(place: Place, sizes: Sizes, progress: Progress) -> Sheet:
    """A process that waits for work."""
    sheet = Sheet("k", "a process at rest", {"core": "%", "store calls": "1/s"}, "")
    place.behave()
    jobs = [
        Job(f"{kind}, {colour}", partial(_rests, place, kind, colour, sizes.at_rest_for))
        for kind in STORES
        for colour in COLOURS
    ]
    play(sheet, jobs, 1, progress)
    for who in dict.fromkeys(who for _, who in sheet.rows):
        sheet.targets.append(Target(f"core: {who}", sheet.median("idle", who, "core"), CORE, "%"))
        calls = sheet.median("idle", who, "store calls")
        if calls == calls:  # noqa: PLR0124 - NaN where a store does not count them
            sheet.targets.append(Target(f"store calls: {who}", calls, CALLS, "1/s"))
    return sheet


def _setting(kind: str, colour: str, what: str) -> str:
    return f"{kind}, {colour}: {what}"


@contextmanager
def answering(
    place: Place, kind: str, colour: str, *, module: str = "apart_run", at_once: bool = True
) -> Iterator[tuple[int, Any, Tell]]:
    """A process that answers: its id, where it is told of events, and what it tells until it ends.

    It begins at once, or with the first line that it is told.
    """
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", kind, colour, *place.told()]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def told() -> dict[str, Any]:
            assert process.stdout is not None
            said: dict[str, Any] = json.loads(process.stdout.readline().strip() or "{}")
            return said

        try:
            pid = told()["pid"]
            if at_once:
                let_begin(process.stdin)
            yield pid, process.stdin, told
        finally:
            process.stdin.close()
            process.wait(30)


def let_begin(stdin: Any) -> None:
    """Let a process answer from now on."""
    stdin.write("begin\n")
    stdin.flush()


def answers(
    place: Place, kind: StoreKind, colour: str, count: int, who: str
) -> Mapping[str, Sample]:
    """Events one after the other, each when all is at rest."""
    replied, called = [], []
    with ExitStack() as opened:
        own = opened.enter_context(place.apart())
        _, stdin, told = opened.enter_context(answering(own, kind, colour))
        client = opened.enter_context(ConvSyncClient(own.api_url))
        store = new_store(own, kind)
        opened.callback(store.close)
        recorder = TurnRunner(client=client, store=store, record_only=True)
        caller = TurnRunner(new_agent(), client=client, store=store)
        opened.callback(caller.close)
        for number, customer in enumerate(new_customers(count)):
            time.sleep(random.uniform(0.2, 0.5))
            # A first message is answered without thinking; the second is waited for.
            begin = _accepted(recorder, stdin, told, customer, text_of(1), apart=who == APART)
            spent = told()["replied"] - begin
            if number:
                replied.append(spent)
            if who == APART:
                spent = _called(recorder, caller, told, customer)
                if number and spent is not None:
                    called.append(spent)
    samples = {_setting(kind, colour, ANSWERED): _spread(replied)}
    if called:
        samples[_setting(kind, colour, CALLED)] = _spread(called)
    return samples


def _accepted(
    recorder: TurnRunner, stdin: Any, told: Tell, customer: Customer, text: str, *, apart: bool
) -> float:
    if apart:
        recorder.accept(event_of(customer.number, text))
        return time.perf_counter()
    stdin.write(json.dumps([customer.number, text]) + "\n")
    stdin.flush()
    accepted: float = told()["accepted"]
    return accepted


def _called(
    recorder: TurnRunner, caller: TurnRunner, told: Tell, customer: Customer
) -> float | None:
    """Seconds from a turn's end until a call that waits for it, in another process, returns."""
    event = event_of(customer.number, text_of(2))
    recorder.accept(event)
    time.sleep(THINKING / 2)  # the other process has begun
    turn = caller.run(event)
    returned = time.perf_counter()
    if turn.status != "duplicate":  # it has not begun yet, and this one was faster
        return None
    ended: float = told()["replied"]
    return returned - ended


def _spread(seconds: Sequence[float]) -> Sample:
    if len(seconds) < 2:
        return {"median": median(seconds) * 1000, "p99": max(seconds) * 1000}
    return {
        "median": median(seconds) * 1000,
        "p99": quantiles(seconds, n=100, method="inclusive")[98] * 1000,
    }


def _rests(place: Place, kind: StoreKind, colour: str, seconds: float) -> Mapping[str, Sample]:
    with place.apart() as own, answering(own, kind, colour) as (pid, _, _):
        time.sleep(BEGUN)
        cpu, calls = _cpu(pid), _calls(own)
        time.sleep(seconds)
        sample = {"core": (_cpu(pid) - cpu) / seconds * 100}
        if kind == "redis":
            sample["store calls"] = (_calls(own) - calls - 1) / seconds
    return {"idle": sample}


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _calls(place: Place) -> int:
    """Commands that clients sent so far, those within scripts not counted."""
    with redis.Redis.from_url(place.redis_url) as client:
        told: Any = client.info("commandstats")
    sent = {"cmdstat_evalsha", "cmdstat_eval", "cmdstat_ping", "cmdstat_info"}
    return sum(each["calls"] for name, each in told.items() if name in sent)
