"""(d) ``once`` beside a bare ``SET NX`` with a stored result."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import redis
import redis.asyncio

from langchain_convsync import aonce, once
from langchain_convsync.stores import EventStore
from tests.benchmarks.ours import STORES, StoreKind, new_store
from tests.benchmarks.place import Place
from tests.benchmarks.rounds import Clock, Job, Progress, Sample, play
from tests.benchmarks.sheet import Sheet
from tests.benchmarks.sizes import Sizes

RESULT = {"reply": "Con gusto", "intent": "order"}
FIRST, AGAIN = "first delivery", "repeated delivery"
BARE = "SET NX"
#: Seconds of a claim, and of a result.
LEASE, KEPT = 30, 86400

_runs = itertools.count()


def measure(place: Place, sizes: Sizes, progress: Progress) -> Sheet:
    """Claim, complete and look up again, sync and async."""
    sheet = Sheet("d", "once() beside a bare SET NX", {"time": "ms", "cpu": "ms"}, BARE)
    count = sizes.operations
    jobs = [Job(f"once, {kind}", partial(_once, place, kind, count)) for kind in STORES]
    jobs.append(Job(BARE, partial(_set_nx, place, count)))
    jobs += [Job(f"aonce, {kind}", partial(_aonce, place, kind, count)) for kind in STORES]
    jobs.append(Job(f"{BARE}, async", partial(_aset_nx, place, count)))
    play(sheet, jobs, sizes.rounds, progress)
    return sheet


def _once(place: Place, kind: StoreKind, count: int) -> Mapping[str, Sample]:
    def handle(store: EventStore, event_id: str) -> Any:
        with once(store, event_id) as claim:
            if claim.acquired:
                claim.complete(RESULT)
        return claim.result

    store = new_store(place, kind)
    try:
        return _both(partial(handle, store), count)
    finally:
        store.close()


def _set_nx(place: Place, count: int) -> Mapping[str, Sample]:
    """What people write: no owner, no renewal, no fencing."""

    def handle(client: redis.Redis, event_id: str) -> Any:
        if client.set(f"event:{event_id}", "taken", nx=True, ex=LEASE):
            client.set(f"event:{event_id}", json.dumps(RESULT), ex=KEPT)
            return RESULT
        return json.loads(str(client.get(f"event:{event_id}")))

    with redis.Redis.from_url(place.redis_url, decode_responses=True) as client:
        return _both(partial(handle, client), count)


def _both(handle: Callable[[str], Any], count: int) -> Mapping[str, Sample]:
    run = next(_runs)
    handle(f"{run}/warm")
    return {each: _timed(handle, run, count) for each in (FIRST, AGAIN)}


def _timed(handle: Callable[[str], Any], run: int, count: int) -> Sample:
    clock = Clock()
    for number in range(count):
        assert handle(f"{run}/{number}") == RESULT
    cpu, wall = clock.read()
    return {"time": wall / count * 1000, "cpu": cpu / count * 1000}


def _aonce(place: Place, kind: StoreKind, count: int) -> Mapping[str, Sample]:
    async def handle(store: EventStore, event_id: str) -> Any:
        async with aonce(store, event_id) as claim:
            if claim.acquired:
                claim.complete(RESULT)
        return claim.result

    async def run() -> Mapping[str, Sample]:
        store = new_store(place, kind)
        try:
            return await _aboth(partial(handle, store), count)
        finally:
            await store.aclose()

    return asyncio.run(run())


def _aset_nx(place: Place, count: int) -> Mapping[str, Sample]:
    async def handle(client: redis.asyncio.Redis, event_id: str) -> Any:
        if await client.set(f"event:{event_id}", "taken", nx=True, ex=LEASE):
            await client.set(f"event:{event_id}", json.dumps(RESULT), ex=KEPT)
            return RESULT
        return json.loads(str(await client.get(f"event:{event_id}")))

    async def run() -> Mapping[str, Sample]:
        url = place.redis_url
        async with redis.asyncio.Redis.from_url(url, decode_responses=True) as client:
            return await _aboth(partial(handle, client), count)

    return asyncio.run(run())


async def _aboth(handle: Callable[[str], Awaitable[Any]], count: int) -> Mapping[str, Sample]:
    run = next(_runs)
    await handle(f"{run}/warm")
    return {each: await _atimed(handle, run, count) for each in (FIRST, AGAIN)}


async def _atimed(handle: Callable[[str], Awaitable[Any]], run: int, count: int) -> Sample:
    clock = Clock()
    for number in range(count):
        assert await handle(f"{run}/{number}") == RESULT
    cpu, wall = clock.read()
    return {"time": wall / count * 1000, "cpu": cpu / count * 1000}
