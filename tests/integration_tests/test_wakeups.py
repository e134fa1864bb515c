"""What one process leaves is begun by another at once; nobody relies on being told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync._flow import Polling
from langchain_convsync.stores import RedisEventStore, SQLiteEventStore, open_store
from langchain_convsync.stores.base import AcceptRules, EventStore, Hint, Listener
from langchain_convsync.stores.sqlite import listening
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner, lookout
from tests.forks import forked
from tests.promises import echo, said, server
from tests.redis_acl import permit
from tests.redis_server import RedisServer
from tests.redis_topologies import RedisCluster, until
from tests.store_cases import commit_of, event

__all__ = ["server"]

#: Longer than any test: what is only looked for is not found in one.
NEVER = 3600.0
#: Seconds for what should take milliseconds: a failure, not a hang.
PATIENCE = 30.0


@pytest.fixture
def only_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker and no call looks by itself."""
    monkeypatch.setattr(lookout, "PERIOD", NEVER)
    monkeypatch.setattr(lookout, "LONGEST", NEVER)
    monkeypatch.setattr(Polling, "FIRST", NEVER)
    monkeypatch.setattr(Polling, "LAST", NEVER)


class Sent:
    """What a process's replies are."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self._changed = threading.Event()

    def __call__(self, turn: Turn) -> None:
        self.turns.append(turn)
        self._changed.set()

    def next(self) -> str | None:
        assert self._changed.wait(PATIENCE)
        self._changed.clear()
        return self.turns[-1].reply


@contextmanager
def answering(
    store: EventStore, server: ReferenceServer, colour: str, **more: Any
) -> Iterator[Sent]:
    """A block of workers, on threads or on an event loop of its own."""
    sent = Sent()
    runner = TurnRunner(
        more.pop("agent", echo()), client=server.client(), store=store, on_reply=sent, **more
    )
    if colour == "sync":
        with runner:
            until(lambda: rests(runner))
            yield sent
        return
    ready, calls = threading.Event(), SimpleQueue[Callable[[], object]]()

    async def serve() -> None:
        async with runner:
            may_end, loop = asyncio.Event(), asyncio.get_running_loop()
            calls.put(lambda: loop.call_soon_threadsafe(may_end.set))
            ready.set()
            await may_end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(PATIENCE)
    until(lambda: rests(runner))
    yield sent
    calls.get()()
    thread.join(PATIENCE)


def rests(runner: TurnRunner) -> bool:
    """Whether its lookout listens, has looked, and every worker waits."""
    found = runner._engine.lookout
    listener, pool = found._listener, runner._engine.pool
    assert pool is not None
    return listener is not None and listener.is_sure and found._looked_at > 0


@pytest.fixture
def two_stores(durable_store_url: str) -> Iterator[tuple[EventStore, EventStore]]:
    """The store as two processes have it."""
    stores = open_store(durable_store_url), open_store(durable_store_url)
    yield stores
    for store in stores:
        store.close()


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_what_one_process_accepts_another_answers_at_once(
    two_stores: tuple[EventStore, EventStore],
    server: ReferenceServer,
    only_hints: None,
    colour: str,
) -> None:
    """However long it would be until it looks for work."""
    theirs, ours = two_stores
    recorder = TurnRunner(client=server.client(), store=ours, record_only=True)
    with answering(theirs, server, colour) as sent:
        for text in ("Hola", "¿Hay pizza?"):
            recorder.accept(said(text))
            assert sent.next() == f"re: {text}"


def test_several_are_answered_by_as_many_workers(
    two_stores: tuple[EventStore, EventStore], server: ReferenceServer, only_hints: None
) -> None:
    """None waits for the end of another one's turn."""
    theirs, ours = two_stores
    together = threading.Barrier(3, timeout=PATIENCE)

    def answer(messages: list[BaseMessage]) -> AIMessage:
        together.wait()
        return AIMessage("Sí")

    recorder = TurnRunner(client=server.client(), store=ours, record_only=True)
    customers = [f"+5199999000{number}" for number in range(3)]
    for customer in customers:
        server.create_conversation(phone_number=customer, subdomain="restaurant-abc", bot_id="b1")
    with answering(theirs, server, "sync", agent=RunnableLambda(answer), workers=3) as sent:
        for customer in customers:
            recorder.accept(said("Hola", phone_number=customer, event_id=customer))
        until(lambda: len(sent.turns) == len(customers))


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_burst_is_answered_when_its_window_ends(
    two_stores: tuple[EventStore, EventStore],
    server: ReferenceServer,
    only_hints: None,
    colour: str,
) -> None:
    """By a look at that time."""
    theirs, ours = two_stores
    recorder = TurnRunner(
        client=server.client(), store=ours, record_only=True, debounce=0.2, max_debounce=0.2
    )
    with answering(theirs, server, colour) as sent:
        recorder.accept(said("Hola"))
        assert sent.next() == "re: Hola"


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_call_learns_at_once_that_another_process_has_answered(
    two_stores: tuple[EventStore, EventStore],
    server: ReferenceServer,
    only_hints: None,
    colour: str,
) -> None:
    """It waits for its event, not for the next look."""
    theirs, ours = two_stores
    began, may_end = threading.Event(), threading.Event()

    def answer(messages: list[BaseMessage]) -> AIMessage:
        began.set()
        assert may_end.wait(PATIENCE)
        return AIMessage("Sí")

    caller = TurnRunner(echo(), client=server.client(), store=ours)
    with answering(theirs, server, "sync", agent=RunnableLambda(answer)):
        caller.accept(said("Hola"))
        assert began.wait(PATIENCE)
        told: list[Turn] = []

        def call() -> None:
            run = caller.run if colour == "sync" else lambda event: asyncio.run(caller.arun(event))
            told.append(run(said("Hola")))

        calling = threading.Thread(target=call)
        calling.start()
        until(lambda: waits(caller))
        may_end.set()
        calling.join(PATIENCE)
        assert [(turn.status, turn.reply) for turn in told] == [("duplicate", "Sí")]
    caller.close()


def waits(caller: TurnRunner) -> bool:
    """Whether a call waits, and would be told."""
    found = caller._engine.lookout
    listener = found._listener
    return bool(found._calls) and listener is not None and listener.is_sure and found._looked_at > 0


def test_what_nobody_tells_is_found_by_looking(
    redis_server: RedisServer, server: ReferenceServer
) -> None:
    """A user of Redis that may neither publish nor subscribe: its hints are lost."""
    redis_server.empty()
    url = permit(redis_server, "deaf", "-publish", "-subscribe", "resetchannels")
    theirs, ours = RedisEventStore(url), RedisEventStore(url)
    recorder = TurnRunner(client=server.client(), store=ours, record_only=True)
    sent = Sent()
    with TurnRunner(echo(), client=server.client(), store=theirs, on_reply=sent):
        recorder.accept(said("Hola"))
        assert sent.next() == "re: Hola"
    ours.close()
    theirs.close()


def test_where_the_system_tells_nothing_the_log_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows and macOS, or a machine that has no watches left."""

    def refused() -> None:
        raise OSError

    monkeypatch.setattr(listening, "_Signs", refused)
    theirs, ours = (SQLiteEventStore(tmp_path / "events.db") for _ in range(2))
    assert hears(theirs, ours)
    for each in (theirs, ours):
        each.close()


def hears(theirs: EventStore, ours: EventStore) -> bool:
    """Whether one process hears of what another one leaves."""
    theirs.keys().block()
    listener = theirs.listen()
    with suppress(AssertionError):
        until(lambda: bool(listener.wait(0.0).block()) or listener.is_sure)
    ours.accept(event()).block()
    heard = any(listener.wait(0.5).block() for _ in range(20))
    listener.close()
    return heard


def test_an_acquired_event_is_not_told(two_stores: tuple[EventStore, EventStore]) -> None:
    """A call answers its event itself; but the end of its turn is told."""
    theirs, ours = two_stores
    assert hears(theirs, ours)
    turn = ours.acquire("inbox", "mine").block()
    assert turn is not None
    ours.commit_turn(turn.lease, commit_of(turn)).block()
    listener = begun(theirs)
    acquired = ours.accept(event("2"), AcceptRules(lease=60.0), token="mine").block().acquired
    assert acquired is not None
    assert not listener.wait(0.2).block()
    ours.commit_turn(acquired.lease, commit_of(acquired)).block()
    assert heard(listener)
    listener.close()


def begun(store: EventStore) -> Listener:
    """A listener that has heard of everything so far."""
    store.keys().block()
    listener = store.listen()
    while not listener.is_sure or listener.wait(0.1).block():
        listener.wait(0.1).block()
    return listener


def heard(listener: Listener) -> Sequence[Hint]:
    """What it hears next."""
    for _ in range(round(PATIENCE / 0.5)):
        if hints := listener.wait(0.5).block():
            return hints
    return ()


def test_a_connection_that_breaks_is_made_anew(redis_server: RedisServer) -> None:
    """What was published meanwhile is looked for, and later hints are heard."""
    redis_server.empty()
    theirs, ours = RedisEventStore(redis_server.url), RedisEventStore(redis_server.url)
    listener = begun(theirs)
    with redis_server.client() as admin:
        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    assert heard(listener)  # which leads to a look
    until(lambda: bool(listener.wait(0.1).block()) and listener.is_sure)
    ours.accept(event()).block()
    assert heard(listener)
    for each in (listener, theirs, ours):
        each.close()


def test_on_a_cluster_one_connection_hears_all_nodes(cluster: RedisCluster) -> None:
    """And a worker goes to where the work is."""
    theirs, ours = RedisEventStore(cluster.url), RedisEventStore(cluster.url)
    listener = begun(theirs)
    for number in range(12):
        new = event(account=f"account {number}")
        ours.accept(new).block()
        assert [hint.conversation_key for hint in heard(listener)] == [new.conversation_key]
        acquired = theirs.acquire("inbox", f"{number}").block()
        assert acquired is not None
        assert acquired.lease.conversation_key == new.conversation_key
        assert theirs.acquire("inbox", f"again {number}").block() is None
    for each in (listener, theirs, ours):
        each.close()


def test_a_block_leaves_no_thread_behind(event_store: EventStore, server: ReferenceServer) -> None:
    """Nor does an event loop's."""
    others = {*threading.enumerate()}  # a call of another test's is waited for a while longer
    for colour in ("sync", "async"):
        with answering(event_store, server, colour):
            pass
        event_store.reopen()
    assert [each.name for each in {*threading.enumerate()} - others if "lookout" in each.name] == []


def test_a_forked_child_listens_by_itself(
    two_stores: tuple[EventStore, EventStore], server: ReferenceServer
) -> None:
    """Its parent's connection and thread are its parent's."""
    theirs, ours = two_stores
    runner = TurnRunner(echo(), client=server.client(), store=theirs, on_reply=lambda _: None)
    with runner:
        until(lambda: rests(runner))

        def child() -> str:
            assert runner._engine.lookout._listener is None
            assert theirs.accept(event("2", customer="eva")).block().status == "new"
            return f"{hears(theirs, open_again(ours))}"

        def open_again(store: EventStore) -> EventStore:
            store.reopen()
            return store

        assert forked(child) == ["True"]
        recorder = TurnRunner(client=server.client(), store=ours, record_only=True)
        assert recorder.accept(said("Hola")).status == "queued"
        until(lambda: runner.run(said("Hola")).status == "duplicate")


def test_a_caller_that_waits_for_another_process_never_waits_for_the_file(
    server: ReferenceServer, tmp_path: Path
) -> None:
    """It only looks: however often the other process commits, no look waits for its turn."""
    with closing(SQLiteEventStore(tmp_path / "events.db")) as theirs:
        TurnRunner(record_only=True, client=server.client(), store=theirs).accept(said("Hola"))
        acquired = theirs.acquire("inbox", "theirs").block()
        assert acquired is not None
        with closing(SQLiteEventStore(tmp_path / "events.db")) as ours:
            caller = TurnRunner(echo(), client=server.client(), store=ours)
            ours.keys().block()
            assert ours._sql is not None
            statements: list[str] = []
            ours._sql.set_trace_callback(statements.append)
            with ThreadPoolExecutor() as pool:
                turn = pool.submit(caller.run, said("Hola"))
                until(lambda: bool(caller._engine.lookout._calls))
                theirs.commit_turn(acquired.lease, commit_of(acquired)).block()
                assert turn.result(PATIENCE).status == "duplicate"
            begun = [each for each in statements if each.startswith("BEGIN")]
            caller.close()

    assert len(begun) > 3
    assert {*begun} == {"BEGIN"}
