"""``once`` raced for real: processes, stopped and killed ones, lost answers, a Redis that dies."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from langchain_core.runnables import RunnableLambda

from langchain_convsync.dedup import ACQUIRED, DONE, IN_PROGRESS, Claim, aonce, deduplicated, once
from langchain_convsync.errors import StoreUnavailableError
from langchain_convsync.stores import RedisEventStore, open_store
from langchain_convsync.stores.base import EventStore
from tests.dropping_proxy import DroppingProxy
from tests.redis_server import RedisServer

Handler: TypeAlias = Callable[[Claim], None]
Deliver: TypeAlias = Callable[..., Claim]


def blocking(store: EventStore, event_id: str, handle: Handler, **settings: Any) -> Claim:
    with once(store, event_id, **settings) as claim:
        handle(claim)
    return claim


def awaited(store: EventStore, event_id: str, handle: Handler, **settings: Any) -> Claim:
    async def deliver() -> Claim:
        try:
            async with aonce(store, event_id, **settings) as claim:
                handle(claim)
            return claim
        finally:
            await store.aclose()  # its connections end with this event loop

    return asyncio.run(deliver())


@pytest.fixture(params=[blocking, awaited], ids=["sync", "async"])
def deliver(request: pytest.FixtureRequest) -> Deliver:
    chosen: Deliver = request.param
    return chosen


class Handling:
    """Counts how often it may work, and completes."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, claim: Claim) -> None:
        if claim.acquired:
            self.runs += 1
            claim.complete(f"run {self.runs}")


# Processes

RACER = """
import sys
from langchain_convsync.dedup import once
from langchain_convsync.stores import open_store

store_url, log, events = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = open_store(store_url)
print("ready", flush=True)
sys.stdin.readline()
for number in range(events):
    with once(store, f"evt_{number}") as claim:
        if claim.acquired:
            with open(log, "a") as done:
                done.write(f"{number}\\n")
            claim.complete(number)
"""


def test_two_processes_race_for_each_of_many_events(durable_store_url: str, tmp_path: Path) -> None:
    """Each event is processed exactly once, by whoever came first."""
    log, events = tmp_path / "log", 60
    command = [sys.executable, "-c", RACER, durable_store_url, str(log), str(events)]
    pipe = subprocess.PIPE
    racers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    ends = [racer.wait(timeout=600) for racer in racers]
    for racer in racers:
        racer.communicate()

    assert ends == [0, 0]
    processed = Counter(int(line) for line in log.read_text().split())
    assert processed == Counter(range(events))


ZOMBIE = """
import sys
from langchain_convsync.dedup import once
from langchain_convsync.errors import FencedError
from langchain_convsync.stores import open_store

ending = sys.argv[2]
try:
    with once(open_store(sys.argv[1]), "evt_1", lease=0.3) as claim:
        claim.complete("zombie")
        print(claim.status, flush=True)
        sys.stdin.readline()
        if ending == "fails":
            raise RuntimeError
except (FencedError, RuntimeError) as error:
    print(type(error).__name__, flush=True)
"""


@contextmanager
def no_writer(store_url: str) -> Iterator[None]:
    """Who is stopped in the middle of a transaction keeps SQLite's file locked for all others."""
    if not store_url.startswith("sqlite:"):
        yield
        return
    path = store_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        sql.execute("BEGIN IMMEDIATE")
        yield


def taken_over(store: EventStore, handle: Callable[[], None]) -> None:
    """Process the event as soon as it can be had."""
    while True:
        with once(store, "evt_1") as claim:
            if claim.acquired:
                handle()
                claim.complete("winner")
                return


@pytest.mark.skipif(sys.platform == "win32", reason="Windows stops no processes")
@pytest.mark.parametrize(("ending", "told"), [("ends", "FencedError"), ("fails", "RuntimeError")])
def test_a_process_that_was_stopped_beyond_its_lease_changes_nothing(
    ending: str, told: str, durable_store_url: str
) -> None:
    """It wakes up while the winner is at work, and can neither complete nor release the event."""
    store, others = open_store(durable_store_url), []
    command = [sys.executable, "-c", ZOMBIE, durable_store_url, ending]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as zombie,
        ExitStack() as end,
    ):
        end.callback(zombie.kill)  # whatever happens here: a stopped process does not end
        assert zombie.stdin is not None
        assert zombie.stdout is not None
        assert zombie.stdout.readline() == "acquired\n"
        with no_writer(durable_store_url):
            zombie.send_signal(signal.SIGSTOP)
            os.waitpid(zombie.pid, os.WUNTRACED)

        def wake_it() -> None:
            assert zombie.stdin is not None
            assert zombie.stdout is not None
            zombie.send_signal(signal.SIGCONT)
            zombie.stdin.write("end\n")
            zombie.stdin.flush()
            assert zombie.stdout.readline() == f"{told}\n"
            with once(store, "evt_1") as other:
                others.append(other.status)

        taken_over(store, wake_it)

    with once(store, "evt_1") as later:
        assert (later.status, later.result) == (DONE, "winner")
    store.close()
    assert others == [IN_PROGRESS]


# Redis


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[DroppingProxy]:
    redis_server.empty()
    passing = DroppingProxy(redis_server.port)
    yield passing
    passing.close()


@pytest.mark.usefixtures("no_pause")
def test_who_acquired_an_event_is_told_so_although_answers_are_lost(
    proxy: DroppingProxy, deliver: Deliver
) -> None:
    """A client that repeats the question must not take its own claim for somebody else's."""
    store, handling = RedisEventStore(proxy.url), Handling()
    deliver(store, "another", handling)  # the scripts are known, so answers are all that is lost
    store = RedisEventStore(proxy.url)
    proxy.drops = 2
    claim = deliver(store, "evt_1", handling)
    store.close()

    assert proxy.drops == 0
    assert (claim.status, claim.result) == (ACQUIRED, "run 2")


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.usefixtures("no_pause")
def test_a_result_is_stored_although_the_answers_are_lost(
    proxy: DroppingProxy, deliver: Deliver, lost: int
) -> None:
    """The claim ends done, its owner is not told that it lost it."""
    store, handling = RedisEventStore(proxy.url), Handling()

    def losing(claim: Claim) -> None:
        handling(claim)
        proxy.drops = lost

    deliver(store, "evt_1", losing)
    proxy.drops = 0
    again = deliver(RedisEventStore(proxy.url), "evt_1", handling)
    store.close()

    assert (again.status, again.result, handling.runs) == (DONE, "run 1", 1)


def failing(claim: Claim) -> None:
    raise RuntimeError


@pytest.mark.usefixtures("no_pause")
def test_an_event_is_given_back_although_the_answer_is_lost(
    proxy: DroppingProxy, deliver: Deliver
) -> None:
    """The first error is what the caller sees."""
    store = RedisEventStore(proxy.url)

    def fail(claim: Claim) -> None:
        proxy.drops = 1
        failing(claim)

    with pytest.raises(RuntimeError):
        deliver(store, "evt_1", fail)
    proxy.drops = 0
    store.close()
    store = RedisEventStore(proxy.url)
    assert deliver(store, "evt_1", Handling()).status is ACQUIRED
    store.close()


@pytest.mark.usefixtures("no_pause")
def test_a_claim_outlives_a_restart_of_redis(deliver: Deliver) -> None:
    """Of one that is done, and of one that is being worked on."""
    handling = Handling()
    with RedisServer() as server:
        store = RedisEventStore(server.url)

        def restarting(claim: Claim) -> None:
            handling(claim)
            server.restart()

        deliver(store, "evt_1", restarting)
        server.restart()
        again = deliver(RedisEventStore(server.url), "evt_1", handling)
        store.close()

    assert (again.status, again.result, handling.runs) == (DONE, "run 1", 1)


@pytest.mark.usefixtures("no_pause")
def test_an_event_is_never_processed_unclaimed(deliver: Deliver) -> None:
    """Redis is away: the delivery fails, so its sender repeats it; then it is processed."""
    handling = Handling()
    with RedisServer() as server:
        server.kill9()
        with pytest.raises(StoreUnavailableError):
            deliver(RedisEventStore(server.url), "evt_1", handling)
        refused = handling.runs
        server.start()
        claim = deliver(RedisEventStore(server.url), "evt_1", handling)

    assert (refused, claim.status, handling.runs) == (0, ACQUIRED, 1)


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("form", ["invoke", "ainvoke", "stream", "batch"])
def test_a_runnable_is_never_run_unclaimed(form: str) -> None:
    """Without its store ``deduplicated`` fails before it runs anything."""
    runs: list[object] = []
    store = RedisEventStore("redis://127.0.0.1:9/0")
    runnable = deduplicated(RunnableLambda(runs.append), store, event_id=lambda *_: "evt_1")
    calls: dict[str, Callable[[], object]] = {
        "invoke": lambda: runnable.invoke({}),
        "ainvoke": lambda: asyncio.run(runnable.ainvoke({})),
        "stream": lambda: list(runnable.stream({})),
        "batch": lambda: runnable.batch([{}]),
    }

    with pytest.raises(StoreUnavailableError):
        calls[form]()
    store.close()

    assert runs == []


@pytest.mark.usefixtures("no_pause")
def test_a_store_that_is_away_at_the_end_is_waited_for(deliver: Deliver) -> None:
    """The work is done; a restart of Redis is no reason to do it again."""
    handling = Handling()
    with RedisServer() as server, ThreadPoolExecutor(1) as elsewhere:
        restarted: list[Future[Any]] = []

        def dying(claim: Claim) -> None:
            handling(claim)
            server.kill9()
            restarted.append(elsewhere.submit(server.start))

        deliver(RedisEventStore(server.url), "evt_1", dying)
        restarted[0].result()
        again = deliver(RedisEventStore(server.url), "evt_1", handling)

    assert (again.status, again.result, handling.runs) == (DONE, "run 1", 1)


@pytest.mark.usefixtures("no_pause")
def test_a_store_that_dies_in_the_middle_is_told_and_the_event_is_processed_again(
    deliver: Deliver,
) -> None:
    """The result could not be stored, so nobody may believe that it was."""
    handling = Handling()
    with RedisServer() as server:

        def dying(claim: Claim) -> None:
            handling(claim)
            server.kill9()

        with pytest.raises(StoreUnavailableError):
            deliver(RedisEventStore(server.url), "evt_1", dying, lease=0.2)
        server.start()
        store = RedisEventStore(server.url)
        claim = deliver(store, "evt_1", handling, wait=20.0)
        store.close()

    assert (claim.status, claim.result) == (ACQUIRED, "run 2")
