"""A process that answers events: one JSON line in, one JSON line out, many at a time.

Beside the answers it tells of each reply that it sends, in a line of its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

from langchain_convsync import waha
from langchain_convsync._flow import Flow, monotonic
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores.heartbeat import Watch
from tests.chaos.answering import (
    ATTEMPT,
    LEASE,
    Agent,
    Line,
    Naive,
    Setup,
    echo_of,
    new_runner,
    told,
)
from tests.chaos.faulty import READY
from tests.chaos.guards import put, remove

#: Seconds that a human would have a conversation for: longer than a run.
HUMAN = 3600.0
#: What ``TurnRunner`` and ``ServerProfile`` do not let callers choose, in seconds.
SHORTENED = {
    "outbox.plan:ATTEMPT": ATTEMPT,
    "outbox.delivery:ATTEMPT": ATTEMPT,
    "outbox.delivery:FIRST_DELAY": 0.02,
    "outbox.delivery:LAST_DELAY": 0.3,
    "outbox.queue:SLACK": 0.2,
    "outbox.queue:FIRST_DELAY": 0.02,
    "outbox.queue:LAST_DELAY": 0.3,
    "outbox.reply:SEND_TIME": ATTEMPT,
    "outbox.replies:SEND_TIME": ATTEMPT,
    "turns.reading:READ_TIME": 1.0,
    "turns.reading:SPARE_READ_TIME": 0.8,
    "turns.process:RETRY_LATER": 0.1,
    "_flow:Polling.LAST": 0.1,
    "turns.worker:STORE_PAUSE": 0.2,
    "turns.lookout:STORE_PAUSE": 0.2,
    "turns.lookout:PERIOD": 0.5,
}


def main(link: socket.socket, setup: Setup) -> None:
    """Answer what comes over ``link`` until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends its processes itself
    logging.basicConfig(filename=setup.folder / "workers.log", level=logging.WARNING)
    for place, value in SHORTENED.items():
        put(place, value)
    if setup.without is not None:
        remove(setup.without)
    agent = Agent(setup.folder / "runs.log")
    _note_late_renewals(agent)
    if setup.number == 1 and not setup.naive:
        asyncio.run(_aserve(link, setup, agent))
    else:
        _serve(link, setup, agent)


def _note_late_renewals(agent: Agent) -> None:
    """The notes tell when a lease was renewed so late that another worker may have taken it.

    A third of a lease is left to whoever renews it; less is, where the machine has no time for it.
    """

    def tell(due: float) -> None:
        now = monotonic()
        if due + LEASE / 3 < now:
            agent.note({"pid": os.getpid(), "late": due + LEASE / 3, "until": now})

    def renew(watch: Watch) -> Flow[None]:
        due = watch.next_renewal
        yield from renewed(watch)
        if not watch.released:
            tell(due)

    def leave(watch: Watch, *raised: Any) -> None:
        tell(watch.next_renewal)
        left(watch, *raised)

    renewed, left = Watch.renew, Watch.__exit__
    put("stores.heartbeat:Watch.renew", renew)
    put("stores.heartbeat:Watch.__exit__", leave)


def _serve(link: socket.socket, setup: Setup, agent: Agent) -> None:
    whole = threading.Lock()

    def tell(line: Line) -> None:
        with whole:
            link.sendall(json.dumps(line).encode() + b"\n")

    runner = new_runner(setup, agent, tell)
    naive = Naive(setup, agent, tell)

    def answer(request: Line) -> Line:
        if "echo" in request:
            echo = echo_of(request)
            if isinstance(echo, waha.OperatorMessage):
                return {"human": runner.take_over(echo, seconds=HUMAN)}
            return {"recorded": runner.record_echo(echo)}
        event = InboundEvent.model_validate(request["event"])
        return naive.answer(event) if setup.naive else told(runner.run(event, request["wait"]))

    in_block = setup.number > 0 and not setup.naive
    with runner if in_block else nullcontext(), ThreadPoolExecutor(100) as pool:
        link.sendall(READY)
        for line in link.makefile("rb"):
            pool.submit(_respond, json.loads(line), answer, tell)
        os._exit(0)  # threads may still wait for a conversation; the driver does not


def _respond(request: Line, answer: Callable[[Line], Line], tell: Callable[[Line], None]) -> None:
    try:
        answered = answer(request)
    except Exception as error:  # noqa: BLE001 - the driver judges it
        answered = _failure(error)
    tell({"id": request["id"], **answered})


async def _aserve(link: socket.socket, setup: Setup, agent: Agent) -> None:
    reader, writer = await asyncio.open_connection(sock=link)

    def tell(line: Line) -> None:
        writer.write(json.dumps(line).encode() + b"\n")

    async def answer(request: Line) -> Line:
        if "echo" in request:
            echo = echo_of(request)
            if isinstance(echo, waha.OperatorMessage):
                return {"human": await runner.atake_over(echo, seconds=HUMAN)}
            return {"recorded": await runner.arecord_echo(echo)}
        event = InboundEvent.model_validate(request["event"])
        return told(await runner.arun(event, request["wait"]))

    async def respond(request: Line) -> None:
        try:
            answered = await answer(request)
        except Exception as error:  # noqa: BLE001 - the driver judges it
            answered = _failure(error)
        tell({"id": request["id"], **answered})

    async with new_runner(setup, agent, tell) as runner, asyncio.TaskGroup() as responding:
        writer.write(READY)
        while line := await reader.readline():
            responding.create_task(respond(json.loads(line)))
        os._exit(0)


def _failure(error: Exception) -> Line:
    return {"error": type(error).__name__, "detail": "".join(traceback.format_exception(error))}
