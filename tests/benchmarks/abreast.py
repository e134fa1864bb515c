"""(m) Processes side by side: what they do in a second, and a tenant that floods them.

Beside them what people would pick instead: a task of Celery's or docket's for each message, which
answers by hand, with no guarantee.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median, quantiles
from threading import Thread
from typing import TypeAlias

from langchain_convsync import ConvSyncClient, TurnRunner
from tests.benchmarks.abreast_run import CELERY, DOCKET, new_celery, new_docket
from tests.benchmarks.apart import Tell, answering, let_begin
from tests.benchmarks.apart_run import event_of
from tests.benchmarks.customers import (
    Customer,
    OtherWorkError,
    new_customers,
    require_same_work,
    text_of,
)
from tests.benchmarks.ours import STORES, new_store
from tests.benchmarks.place import Place
from tests.benchmarks.rounds import Job, Progress, Sample, play
from tests.benchmarks.sheet import Sheet, Target
from tests.benchmarks.sizes import Sizes

WHO = (CELERY, DOCKET, *STORES)
#: How many processes answer.
PROCESSES = (1, 2, 4)
#: Tenants; one of them floods.
TENANTS = 50
#: Seconds between two messages of the quiet ones together.
APART = 0.1
ALONE, FLOODED = "a quiet tenant, alone", "a quiet tenant, beside a flood"
#: Seconds at most until all is answered.
PATIENCE = 120.0
#: How much longer a quiet tenant may wait beside a flood, at p99.
LONGER = 2.0

#: Hands over a customer's text that came through an account.
Accept: TypeAlias = Callable[[Customer, str, str], None]


def measure(place: Place, sizes: Sizes, progress: Progress) -> Sheet:
    """Messages that lie there when the processes begin; then such as come one by one."""
    units = {"turns": "1/s", "median": "ms", "p99": "ms"}
    sheet = Sheet("m", "processes side by side", units, CELERY)
    place.behave()
    jobs = [
        Job(who, partial(working, place, who, sizes.waiting, processes))
        for processes in PROCESSES
        for who in WHO
    ]
    jobs += [
        Job(who, partial(quiet, place, who, sizes, flooded=flooded))
        for flooded in (False, True)
        for who in WHO
    ]
    play(sheet, jobs, sizes.apart_rounds, progress)
    for kind in STORES:
        longer = sheet.median(FLOODED, kind, "p99") / sheet.median(ALONE, kind, "p99")
        sheet.targets.append(Target(f"p99 beside a flood: {kind}", longer, LONGER))
    return sheet


def working(place: Place, who: str, count: int, processes: int) -> Mapping[str, Sample]:
    """Turns a second, from the first reply to the last."""
    customers = new_customers(count)
    with _abreast(place, who, processes) as (accept, replies, begin):
        for number, customer in enumerate(customers):
            accept(customer, f"account {number % TENANTS}", text_of(1))
        begin()
        _wait_for(replies, count)
    require_same_work(place, customers, 1)
    seconds = max(replies.values()) - min(replies.values())
    return {_setting(processes): {"turns": (count - 1) / seconds}}


def quiet(place: Place, who: str, sizes: Sizes, *, flooded: bool) -> Mapping[str, Sample]:
    """How long a quiet tenant's message waits for its reply, with as many processes as cores."""
    flood = new_customers(sizes.flood if flooded else 0)
    first, *customers = new_customers(1 + sizes.at_distance)
    accepted: list[float] = []
    with _abreast(place, who, 2) as (accept, replies, begin):
        begin()
        accept(first, "account 0", text_of(2))
        _wait_for(replies, 1)
        for customer in flood:
            accept(customer, "account 0", text_of(2))
        for number, customer in enumerate(customers):
            time.sleep(APART)
            accept(customer, f"account {1 + number % (TENANTS - 1)}", text_of(2))
            accepted.append(time.perf_counter())
        _wait_for(replies, 1 + len(customers) + len(flood))
    waited = [
        (replies[customer.event_id(text_of(2))] - at) * 1000
        for customer, at in zip(customers, accepted, strict=True)
    ]
    p99 = quantiles(waited, n=100, method="inclusive")[98]
    return {FLOODED if flooded else ALONE: {"median": median(waited), "p99": p99}}


def _setting(processes: int) -> str:
    return f"{processes} process{'es' * (processes > 1)}"


@contextmanager
def _abreast(
    place: Place, who: str, processes: int
) -> Iterator[tuple[Accept, dict[str, float], Callable[[], None]]]:
    """Processes that answer: how they get messages, when they replied, and how they begin."""
    replies: dict[str, float] = {}
    module = "apart_run" if who in STORES else "abreast_run"
    with ExitStack() as opened:
        own = opened.enter_context(place.apart())
        accept = opened.enter_context(_accepting(own, who))
        told = [
            opened.enter_context(answering(own, who, "async", module=module, at_once=False))
            for _ in range(processes)
        ]
        listening = [Thread(target=_listen, args=(each, replies)) for _, _, each in told]
        for thread in listening:
            thread.start()

        def begin() -> None:
            for _, stdin, _ in told:
                let_begin(stdin)

        try:
            yield accept, replies, begin
        finally:
            for _, stdin, _ in told:
                stdin.close()
            for thread in listening:
                thread.join()


def _listen(told: Tell, replies: dict[str, float]) -> None:
    """Until the process has ended."""
    while reply := told():
        replies[reply["event"]] = reply["replied"]


def _wait_for(replies: Mapping[str, float], count: int) -> None:
    until = time.monotonic() + PATIENCE
    while len(replies) < count:
        if time.monotonic() > until:
            message = f"{len(replies)} of {count} replies"
            raise OtherWorkError(message)
        time.sleep(0.01)


@contextmanager
def _accepting(place: Place, who: str) -> Iterator[Accept]:
    if who == CELERY:
        with new_celery(place) as app:
            yield lambda customer, _, text: app.send_task("answer", [customer.number, text])
    elif who == DOCKET:
        with asyncio.Runner() as loop:
            docket = new_docket(place)
            loop.run(docket.__aenter__())

            async def answer(_number: int, _text: str) -> None:
                """Which the processes have."""

            docket.register(answer)

            def add(customer: Customer, _account: str, text: str) -> None:
                loop.run(docket.add(answer)(customer.number, text))

            yield add
            loop.run(docket.__aexit__(None, None, None))
    else:
        (kind,) = [known for known in STORES if known == who]
        with ConvSyncClient(place.api_url) as client:
            store = new_store(place, kind)
            recorder = TurnRunner(client=client, store=store, record_only=True)

            def accept(customer: Customer, account: str, text: str) -> None:
                recorder.accept(event_of(customer.number, text, account))

            yield accept
            store.close()
