"""A process that answers: what it accepts itself, or what another one has accepted.

``python -m tests.benchmarks.apart_run KIND COLOUR PLACE``

It begins with the first line of its standard input. Each further one is an event to accept, as a
customer's number and a text; none where another process accepts them. It tells when each was
accepted, and when its reply could be sent, on the machine's clock. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import ExitStack
from typing import Any

from langchain_convsync import AsyncConvSyncClient, ConvSyncClient, InboundEvent, Turn, TurnRunner
from tests.benchmarks.agents import decided, new_agent
from tests.benchmarks.customers import Customer
from tests.benchmarks.ours import STORES, new_store
from tests.benchmarks.place import Place

#: Seconds that the agent takes, so that a caller can wait for its turn.
THINKING = 0.05


def event_of(number: int, text: str, account: str = "default") -> InboundEvent:
    """What a customer writes."""
    customer = Customer(number)
    return InboundEvent(
        event_id=customer.event_id(text),
        phone_number=customer.phone_number,
        text=text,
        account=account,
    )


def tell(**told: Any) -> None:
    """One line for whoever measures, whole also where several threads tell."""
    os.write(sys.stdout.fileno(), json.dumps(told).encode() + b"\n")


def _replied(turn: Turn) -> None:
    tell(replied=time.perf_counter(), event=turn.events[-1])


def _runner(place: Place, kind: str, client: ConvSyncClient | AsyncConvSyncClient) -> TurnRunner:
    (store_kind,) = [known for known in STORES if known == kind]
    return TurnRunner(
        new_agent(THINKING),
        client=client,
        store=new_store(place, store_kind),
        extractor=decided,
        on_reply=_replied,
        max_turns_per_minute=None,  # these customers are machines
    )


def wait_to_begin() -> None:
    """Until whoever measures says so: a process that has only begun is slow."""
    tell(pid=os.getpid())
    sys.stdin.readline()


def serve(place: Place, kind: str) -> None:
    """Answer on threads."""
    with ExitStack() as opened:
        client = opened.enter_context(ConvSyncClient(place.api_url))
        wait_to_begin()
        runner = opened.enter_context(_runner(place, kind, client))
        for line in sys.stdin:
            runner.accept(event_of(*json.loads(line)))
            tell(accepted=time.perf_counter())


async def aserve(place: Place, kind: str) -> None:
    """Answer on an event loop."""
    async with AsyncConvSyncClient(place.api_url, transport="aiohttp") as client:
        wait_to_begin()
        async with _runner(place, kind, client) as runner:
            await _accept_lines(runner)


async def _accept_lines(runner: TurnRunner) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        await runner.aaccept(event_of(*json.loads(line)))
        tell(accepted=time.perf_counter())


if __name__ == "__main__":
    store, colour, *where = sys.argv[1:]
    at = Place.from_told(*where)
    if colour == "async":
        asyncio.run(aserve(at, store))
    else:
        serve(at, store)
