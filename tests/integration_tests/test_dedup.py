"""``once``: a claim on an event that survives crashes, sync and async, on every store."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from langchain_convsync.dedup import ACQUIRED, DONE, IN_PROGRESS, Claim, aonce, once
from langchain_convsync.errors import FencedError, InvalidEventError, StoreUnavailableError
from langchain_convsync.stores import RedisEventStore, open_store
from langchain_convsync.stores.base import EventStore

pytestmark = pytest.mark.usefixtures("no_pause")

Handler = Callable[[Claim], None]
Deliver = Callable[..., Claim]


def blocking(store: EventStore, event_id: str, handle: Handler, **settings: Any) -> Claim:
    with once(store, event_id, **settings) as claim:
        handle(claim)
    return claim


def awaited(store: EventStore, event_id: str, handle: Handler, **settings: Any) -> Claim:
    async def deliver() -> Claim:
        async with aonce(store, event_id, **settings) as claim:
            handle(claim)
        return claim

    return asyncio.run(deliver())


@pytest.fixture(params=[blocking, awaited], ids=["sync", "async"])
def deliver(request: pytest.FixtureRequest) -> Deliver:
    chosen: Deliver = request.param
    return chosen


def completing(result: Any) -> Handler:
    def handle(claim: Claim) -> None:
        if claim.acquired:
            claim.complete(result)

    return handle


def nothing(_claim: Claim) -> None:
    return


def test_the_first_delivery_acquires_the_event(event_store: EventStore, deliver: Deliver) -> None:
    """It is processed there."""
    assert deliver(event_store, "evt_1", nothing).status is ACQUIRED


def test_a_later_delivery_gets_the_stored_result(event_store: EventStore, deliver: Deliver) -> None:
    """It is not processed again."""
    deliver(event_store, "evt_1", completing({"reply": "¡Hola!"}))

    again = deliver(event_store, "evt_1", nothing)

    assert (again.status, again.result) == (DONE, {"reply": "¡Hola!"})


def test_a_block_that_ends_without_a_result_is_done_all_the_same(
    event_store: EventStore, deliver: Deliver
) -> None:
    """Completing is for those who have something to store."""
    deliver(event_store, "evt_1", nothing)

    again = deliver(event_store, "evt_1", nothing)

    assert (again.status, again.result) == (DONE, None)


def test_a_delivery_during_the_first_one_sees_it_in_progress(
    event_store: EventStore, deliver: Deliver
) -> None:
    """Exactly one may process."""
    with once(event_store, "evt_1") as claim:
        other = deliver(event_store, "evt_1", nothing)

    assert claim.acquired
    assert other.status is IN_PROGRESS


def test_an_exception_gives_the_event_back(event_store: EventStore, deliver: Deliver) -> None:
    """The next delivery tries again, at once."""

    def failing(_claim: Claim) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        deliver(event_store, "evt_1", failing)

    assert deliver(event_store, "evt_1", nothing).status is ACQUIRED


async def test_a_cancelled_block_gives_the_event_back(event_store: EventStore) -> None:
    """In the background: whoever is cancelled does not wait."""
    entered = asyncio.Event()

    async def forever() -> None:
        async with aonce(event_store, "evt_1", lease=3600):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(forever())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with asyncio.timeout(20):
        while True:
            async with aonce(event_store, "evt_1") as claim:
                if claim.acquired:
                    break


def test_namespaces_are_apart(event_store: EventStore, deliver: Deliver) -> None:
    """One event can be done once for each of several purposes."""
    deliver(event_store, "evt_1", nothing, namespace="billing")

    assert deliver(event_store, "evt_1", nothing, namespace="mail").status is ACQUIRED


def test_an_event_without_an_id_is_refused(event_store: EventStore, deliver: Deliver) -> None:
    """All of them would be the same event."""
    with pytest.raises(InvalidEventError, match="event_id is empty"):
        deliver(event_store, "", nothing)


def test_a_result_that_cannot_be_stored_is_told_once_and_the_event_is_done(
    event_store: EventStore, deliver: Deliver
) -> None:
    """The work was done: it costs the result, not a second payment."""
    with pytest.raises(InvalidEventError, match=r"is done and will not be repeated.* of object;"):
        deliver(event_store, "evt_1", completing(object()))

    again = deliver(event_store, "evt_1", nothing)

    assert (again.status, again.result) == (DONE, None)


def test_an_error_about_such_a_result_may_be_wrapped(
    event_store: EventStore, deliver: Deliver
) -> None:
    """Whatever the block makes of it, the work is done."""

    def wrapping(claim: Claim) -> None:
        try:
            claim.complete(object())
        except InvalidEventError as error:
            raise RuntimeError from error

    with pytest.raises(RuntimeError):
        deliver(event_store, "evt_1", wrapping)

    assert deliver(event_store, "evt_1", nothing).status is DONE


def test_an_event_whose_second_result_can_be_stored_is_as_any_other(
    event_store: EventStore, deliver: Deliver
) -> None:
    """A later failure gives it back."""

    def failing_later(claim: Claim) -> None:
        with pytest.raises(InvalidEventError):
            claim.complete(object())
        claim.complete("a text instead")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        deliver(event_store, "evt_1", failing_later)

    assert deliver(event_store, "evt_1", nothing).status is ACQUIRED


def test_without_its_store_nothing_is_processed(deliver: Deliver) -> None:
    """An unclaimed run could be the second one."""
    store = RedisEventStore("redis://127.0.0.1:9/0")

    with pytest.raises(StoreUnavailableError):
        deliver(store, "evt_1", nothing)
    store.close()


OWNER = """
import sys, time
from langchain_convsync.dedup import once
from langchain_convsync.stores import open_store

with once(open_store(sys.argv[1]), "evt_1", lease=0.5) as claim:
    print(claim.status, flush=True)
    sys.stdin.readline()
print("finished", flush=True)
"""


@contextmanager
def owner(store_url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has acquired the event."""
    command = [sys.executable, "-c", OWNER, store_url]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "acquired\n"
        yield process
        process.kill()


def acquired_at_last(store: EventStore) -> Claim:
    while True:
        with once(store, "evt_1") as claim:
            if claim.status is not IN_PROGRESS:
                return claim


def test_the_event_of_a_killed_process_is_taken_over(durable_store_url: str) -> None:
    """``kill -9`` of the owner; its lease ends, nothing has to clean up."""
    store = open_store(durable_store_url)
    with owner(durable_store_url) as process:
        process.kill()

        assert acquired_at_last(store).status is ACQUIRED
    store.close()


def test_a_block_longer_than_its_lease_keeps_the_event(event_store: EventStore) -> None:
    """The heartbeat renews the lease while the process lives."""
    until = time.monotonic() + 1.5
    seen = set()
    with once(event_store, "evt_1", lease=1.0):
        while time.monotonic() < until:
            with once(event_store, "evt_1") as other:
                seen.add(other.status)

    assert seen == {IN_PROGRESS}


def test_a_zombie_cannot_complete_what_another_process_took_over(
    event_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that slept through its lease learns that its result was not stored."""
    monkeypatch.setattr("langchain_convsync.stores.heartbeat.Watch.renew", lambda _self: iter(()))

    winners: list[Claim] = []

    def oversleep() -> None:
        with once(event_store, "evt_1", lease=0.05) as zombie:
            zombie.complete("zombie")
            winners.append(acquired_at_last(event_store))

    with pytest.raises(FencedError):
        oversleep()

    assert winners[0].status is ACQUIRED
    with once(event_store, "evt_1") as later:
        assert (later.status, later.result) == (DONE, None)
