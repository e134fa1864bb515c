"""A forked child never meets its parent's connections, locks and threads."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

import langchain_convsync
from langchain_convsync import _forks
from langchain_convsync._flow import run
from langchain_convsync.client import AsyncConvSyncClient, ConvSyncClient, WAHAClient
from langchain_convsync.errors import ConversationMismatchError
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores import Keys, NewEvent, SQLiteEventStore, open_store
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import FakeWAHA, ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.faulty_server import FaultyServer, answers
from tests.forks import alike, forked
from tests.promises import echo

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

CALLS, FEW = 16, 8
PHONES = [f"+5199999990{number}" for number in range(4)]


@pytest.fixture(scope="module")
def server() -> Iterator[ReferenceServer]:
    """Four customers of four tenants."""
    with ReferenceServer() as running:
        for number, phone in enumerate(PHONES):
            running.create_conversation(phone_number=phone, subdomain=f"tenant{number}", bot_id="b")
        yield running


def at(number: int) -> str:
    return PHONES[number % len(PHONES)]


def own(number: int) -> str:
    return f"tenant{number % len(PHONES)}"


@pytest.mark.parametrize("lent", ["own", "lent", "lent and used"])
@pytest.mark.parametrize("operation", ["lookup_tenant", "get_conversation"])
def test_a_child_gets_its_own_answer(lent: str, operation: str, server: ReferenceServer) -> None:
    """16 calls of as many children at once, behind a connection that the parent opened."""
    http_client = None if lent == "own" else httpx.Client()
    client = ConvSyncClient(server.base_url, max_retries=0, http_client=http_client, timeout=60.0)
    if (
        http_client is not None and lent == "lent and used"
    ):  # by its owner, who opened the connection
        http_client.get(server.base_url)
    else:
        client.health()
    ConvSyncClient(server.base_url).lookup_tenant(PHONES[0])  # imports what children would

    def ask(number: int) -> str:
        return str(getattr(client, operation)(at(number)).subdomain)

    told = forked(*alike(ask, CALLS), meanwhile=lambda: client.lookup_tenant(PHONES[0]))

    assert told == [own(number) for number in range(CALLS)]
    assert client.lookup_tenant(PHONES[0]).subdomain == "tenant0"
    client.close()
    if http_client is not None:
        http_client.close()


@pytest.mark.parametrize("lent", [False, True], ids=["own", "lent"])
def test_an_awaited_call_of_a_child_gets_its_own_answer(
    lent: bool, server: ReferenceServer, transport: str
) -> None:
    """Forked outside of the loop, as gunicorn does; the parent's loop goes on afterwards."""
    if lent and transport == "aiohttp":
        pytest.skip("a lent client is httpx's")
    http_client = httpx.AsyncClient() if lent else None
    client = AsyncConvSyncClient(
        server.base_url, max_retries=0, http_client=http_client, timeout=60.0
    )

    def ask(number: int) -> str:
        return asyncio.run(tenant(number))

    async def tenant(number: int) -> str:
        return (await client.lookup_tenant(at(number))).subdomain

    with asyncio.Runner() as loop:
        loop.run(client.health())
        told = forked(*alike(ask, FEW))
        mine = loop.run(tenant(0))
        loop.run(client.aclose())
        if http_client is not None:
            loop.run(http_client.aclose())

    assert told == [own(number) for number in range(FEW)]
    assert mine == "tenant0"


def test_a_call_forked_from_within_a_running_loop_gets_its_own_answer(
    server: ReferenceServer, transport: str
) -> None:
    """The parent's calls are under way while its children are made."""
    client = AsyncConvSyncClient(server.base_url, max_retries=0, timeout=60.0)

    async def parent() -> tuple[list[str], list[str]]:
        await client.health()
        asking = [asyncio.create_task(tenant(number)) for number in range(8)]
        await asyncio.sleep(0)  # they are sent
        told = forked(*alike(lambda number: asyncio.run(tenant(number)), 8))
        mine = await asyncio.gather(*asking)
        await client.aclose()
        return told, mine

    async def tenant(number: int) -> str:
        return (await client.lookup_tenant(at(number))).subdomain

    told, mine = asyncio.run(parent())
    assert told == mine == [own(number) for number in range(8)]


def test_waha_s_client_gets_its_own_answer() -> None:
    """Whose LID it is, asked for several of them at once."""
    numbers = {f"3811122233{number:04}@lid": f"+5199988{number:04}" for number in range(FEW)}
    lids = list(numbers)
    with FakeWAHA(numbers=numbers) as waha, WAHAClient(waha.base_url) as client:
        client.sessions()

        def ask(number: int) -> str:
            return str(client.phone_number("default", lids[number], timeout=60.0))

        assert forked(*alike(ask, FEW)) == list(numbers.values())
        assert client.phone_number("default", lids[0]) == numbers[lids[0]]


def test_a_look_up_under_way_in_the_parent_is_not_waited_for(server: ReferenceServer) -> None:
    """Equal look-ups share one request; a child has none of the threads that could answer it."""
    client = ConvSyncClient(server.base_url, max_retries=0, timeout=60.0)
    flight = run(client.api._flights.board(("b", PHONES[0])))
    assert forked(lambda: client.lookup_tenant(PHONES[0], "b").subdomain) == ["tenant0"]
    flight.land(None)
    client.close()


@pytest.mark.parametrize(
    "answer",
    [
        {"sessionId": "b_51999999901_1795377170357_x"},
        {"sessionId": "s", "userId": PHONES[1]},
        {"sessionId": "s", "phoneNumber": PHONES[1]},
    ],
    ids=["session", "userId", "phoneNumber"],
)
def test_a_tenant_of_another_customer_is_dropped(answer: dict[str, str]) -> None:
    """A look-up's documented answer names no customer, but its session id does, as may more."""
    data = {"subDomain": "tenant1", "botId": "b", "isActive": True, **answer}
    with FaultyServer() as crossed:
        crossed.plays(answers({"type": "1", "message": "", "data": data}))
        client = ConvSyncClient(crossed.url, max_retries=0)
        with pytest.raises(ConversationMismatchError, match="another customer"):
            client.lookup_tenant(PHONES[0])
        assert client.lookup_tenant(PHONES[1]).subdomain == "tenant1"
        assert client.lookup_tenant("38111222333444@lid").subdomain == "tenant1"
        client.close()


def event(name: str) -> NewEvent:
    keys = Keys(b"key")
    return NewEvent(
        event_key=keys.event("ventas", "", "message", name),
        conversation_key=keys.conversation("ventas", name),
        payload="{}",
    )


def accepted(store: EventStore, name: str) -> str:
    return run(store.accept(event(name))).status


def aaccepted(store: EventStore, name: str) -> str:
    async def accept() -> str:
        return (await store.accept(event(name)).wait()).status

    return asyncio.run(accept())


@pytest.mark.parametrize("accept", [accepted, aaccepted], ids=["sync", "async"])
def test_a_store_serves_parent_and_children(
    accept: Callable[[EventStore, str], str], event_store: EventStore
) -> None:
    """Each has a connection of its own, and what each recorded is there."""
    with asyncio.Runner() as loop:  # the parent's own connection on a loop stays open
        loop.run(_waited(event_store.accept(event("async")).wait()))
        accepted(event_store, "sync")
        told = forked(
            *alike(lambda number: accept(event_store, f"child {number}"), FEW),
            meanwhile=lambda: accepted(event_store, "parent"),
        )
        loop.run(_waited(event_store.accept(event("async again")).wait()))

    assert told == ["new"] * FEW
    assert run(event_store.backlog()).queued == FEW + 4
    asyncio.run(event_store.aclose())


async def _waited(step: Awaitable[Any]) -> Any:
    return await step


def test_a_child_loses_nothing_when_its_parent_closes_the_file(tmp_path: Path) -> None:
    """SQLite removes the log with the last connection: a child's must count as one."""
    path = tmp_path / "events.db"
    store = SQLiteEventStore(path)
    accepted(store, "before")
    closed, tell = os.pipe()

    def child() -> str:
        first = accepted(store, "first")
        os.read(closed, 1)
        return f"{first} {accepted(store, 'second')}"

    def parent() -> None:
        accepted(store, "parent")
        store.close()
        os.write(tell, b"x")

    assert forked(child, meanwhile=parent) == ["new new"]
    other = SQLiteEventStore(path)
    assert run(other.backlog()).queued == 4
    other.close()
    os.close(closed)
    os.close(tell)


def test_a_memory_is_not_worked_on_twice() -> None:
    """What waits in the parent's memory is the parent's; the child's begins empty."""
    store = SQLiteEventStore(":memory:")
    keys = run(store.keys())
    accepted(store, "event")

    def child() -> str:
        return f"{run(store.backlog()).queued} {run(store.keys()) == keys}"

    assert forked(child) == ["0 True"]
    assert run(store.backlog()).queued == 1
    run(store.forget(event("event").conversation_key))
    store.close()


def test_a_runner_s_block_belongs_to_the_parent(
    server: ReferenceServer, durable_store_url: str
) -> None:
    """A child has none of its workers, so its calls deliver by themselves."""
    phone = "+51988877766"
    server.create_conversation(phone_number=phone, subdomain="tenant0", bot_id="b")
    client, store = server.client(timeout=60.0), open_store(durable_store_url)
    runner = TurnRunner(echo(), client=client, store=store)
    runner.run(InboundEvent(event_id="1", phone_number=phone, text="Hola"))
    runner._engine.new_pool()  # a block whose workers find nothing before the child does

    def child() -> str:
        turn = runner.run(InboundEvent(event_id="2", phone_number=phone, text="¿Sigues?"))
        said = client.get_conversation(phone).messages
        return f"{turn.status} {runner.is_at_work} {len(said)}"

    assert forked(child) == ["answered False 4"]
    assert runner.is_at_work
    store.close()
    client.close()


def test_a_lock_that_a_thread_held_is_free_in_the_child() -> None:
    """The thread that would release it is not there."""
    held, go_on = threading.Event(), threading.Event()
    lock, condition = _forks.lock(), _forks.condition()

    def hold() -> None:
        with lock, condition:
            held.set()
            go_on.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def child() -> str:
        return str(lock.acquire(blocking=False) and condition.acquire(blocking=False))

    assert forked(child) == ["True"]
    go_on.set()
    thread.join()


def test_what_cannot_begin_anew_stops_no_other(server: ReferenceServer) -> None:
    """One client's trouble is logged; the next one still has connections of its own."""

    class Broken:
        """Its connections cannot be looked at."""

        def begin_anew(self) -> None:
            raise OSError

    broken = Broken()
    _forks.in_child(broken, Broken.begin_anew)
    client = ConvSyncClient(server.base_url, max_retries=0, timeout=60.0)
    client.health()
    told = forked(*alike(lambda number: client.lookup_tenant(at(number)).subdomain, FEW))
    assert told == [own(number) for number in range(FEW)]
    client.close()


def test_a_dead_proxy_is_passed_by() -> None:
    """What a client is made of may point weakly at what is gone."""
    near, far = socket.socketpair()
    owner = redis.Redis()
    owner.gone = weakref.proxy(redis.Redis())  # type: ignore[attr-defined]
    owner.kept = near  # type: ignore[attr-defined]

    def child() -> str:
        _forks.sever(owner)
        return str(os.fstat(near.fileno()).st_mode == Path(os.devnull).stat().st_mode)

    assert forked(child) == ["True"]
    near.close()
    far.close()


def test_every_lock_is_one_that_survives_a_fork() -> None:
    """The servers, and what is used at a terminal, are programs of their own; all else is not."""
    package = Path(langchain_convsync.__file__).parent
    bare = re.compile(r"threading\.(Lock|RLock|Condition|Semaphore)\(")
    found = {
        path.relative_to(package)
        for path in package.rglob("*.py")
        if bare.search(path.read_text(encoding="utf-8"))
    }
    programs = {"cli", "server", "testing", "workbench"}
    assert {str(path) for path in found if path.parts[0] not in programs} == {"_forks.py"}
