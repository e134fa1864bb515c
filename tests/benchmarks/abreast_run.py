"""A process that answers as people do it by hand: each message is a task of Celery's or docket's.

``python -m tests.benchmarks.abreast_run WHOSE COLOUR PLACE``

It begins with the first line of its standard input, tells of each reply as ``apart_run`` does, and
ends with its standard input.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import warnings
from contextlib import ExitStack
from functools import cache
from threading import Thread
from typing import Any

from celery import Celery  # type: ignore[import-untyped]

from tests.benchmarks.agents import new_agent
from tests.benchmarks.apart_run import THINKING, tell, wait_to_begin
from tests.benchmarks.customers import Customer
from tests.benchmarks.flows import AIOHTTP, HTTPX, Blocking
from tests.benchmarks.place import Place

#: How many tasks a process has at a time: as many as a ``TurnRunner`` has workers.
WORKERS = 8
CELERY, DOCKET = "celery", "docket"


def new_celery(place: Place) -> Any:
    """An app without results, which nobody reads; the broker is the place's Redis."""
    app = Celery(broker=place.redis_url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        broker_connection_retry_on_startup=True,
        worker_redirect_stdouts=False,  # it is read by whoever measures
    )
    return app


def new_docket(place: Place) -> Any:
    """A docket on the place's Redis."""
    from docket import Docket

    return Docket(name="turns", url=place.redis_url)


def _told(number: int, text: str, replied: float) -> None:
    tell(replied=replied, event=Customer(number).event_id(text))


def serve_celery(place: Place) -> None:
    """Answer in forked processes, as Celery does by default, over httpx."""
    app, opened = new_celery(place), ExitStack()

    @cache  # in the process that answers
    def flow() -> Blocking:
        return opened.enter_context(HTTPX.open(place, new_agent(THINKING)))

    @app.task(name="answer")  # type: ignore[untyped-decorator]
    def answer(number: int, text: str) -> None:
        _told(number, text, flow().turn(Customer(number), text))

    warnings.filterwarnings("ignore", module="celery.platforms")  # where root measures
    wait_to_begin()
    Thread(target=_end_with_input, daemon=True).start()
    app.Worker(concurrency=WORKERS, loglevel="ERROR", quiet=True).start()


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1):  # no lock of Python's, which a fork would find taken
        pass
    os.kill(os.getpid(), signal.SIGTERM)


async def serve_docket(place: Place) -> None:
    """Answer on an event loop, over aiohttp."""
    from docket import Worker

    async with AIOHTTP.open(place, new_agent(THINKING)) as flow, new_docket(place) as docket:

        async def answer(number: int, text: str) -> None:
            _told(number, text, await flow.turn(Customer(number), text))

        docket.register(answer)
        wait_to_begin()
        async with Worker(docket, concurrency=WORKERS) as worker:
            working = asyncio.create_task(worker.run_forever())
            await asyncio.to_thread(sys.stdin.read)
            working.cancel()


if __name__ == "__main__":
    whose, _, *where = sys.argv[1:]
    at = Place.from_told(*where)
    if whose == CELERY:
        serve_celery(at)
    else:
        asyncio.run(serve_docket(at))
