"""Finishing takes as long as it may, however slow the API server is; what is left is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_convsync import (
    AsyncConvSyncClient,
    ConversationNotFoundError,
    ConversationRef,
    ConvSyncClient,
    InboundEvent,
    TurnRunner,
)
from langchain_convsync._flow import Io, run
from langchain_convsync.outbox.queue import GRACE
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import deliveries, reading

CUSTOMER = "+51999999999"
EVENT = InboundEvent(event_id="evt_1", text="Hola", phone_number=CUSTOMER)


class Slow:
    """A clock that each write to the API server moves by a second; no time passes else."""

    def __init__(self) -> None:
        self.now = 100.0
        self.given: list[float] = []

    def __call__(self) -> float:
        return self.now

    def write(self, request: httpx.Request) -> None:
        if request.method != "GET":
            self.given.append(request.extensions["timeout"]["read"])
            self.now += 1.0

    async def awrite(self, request: httpx.Request) -> None:
        self.write(request)


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        running.create_conversation(phone_number=CUSTOMER, subdomain="a", bot_id="b")
        yield running


def runner_of(client: Any, store: EventStore, clock: Slow, seconds: float) -> TurnRunner:
    agent: Runnable[Any, Any] = RunnableLambda(lambda _: "re: Hola")
    runner = TurnRunner(agent, client=client, store=store, shutdown_timeout=seconds)
    for queue in runner._deliveries._queues:
        queue._clock = clock
    return runner


def blocking(base_url: str, store: EventStore, clock: Slow, seconds: float) -> None:
    with httpx.Client(event_hooks={"request": [clock.write]}) as wire:
        runner_of(ConvSyncClient(base_url, http_client=wire), store, clock, seconds).run(EVENT)


def awaited(base_url: str, store: EventStore, clock: Slow, seconds: float) -> None:
    async def call() -> None:
        async with httpx.AsyncClient(event_hooks={"request": [clock.awrite]}) as wire:
            client = AsyncConvSyncClient(base_url, http_client=wire)
            await runner_of(client, store, clock, seconds).arun(EVENT)

    asyncio.run(call())


def in_block(base_url: str, store: EventStore, clock: Slow, seconds: float) -> None:
    """The block has no worker that would deliver before it is left."""
    with httpx.Client(event_hooks={"request": [clock.write]}) as wire:
        runner = runner_of(ConvSyncClient(base_url, http_client=wire), store, clock, seconds)
        runner._deliveries.budget = 0.0
        runner.run(EVENT)
        runner._deliveries.budget = seconds
        run(runner._deliveries.finish())


Call = Callable[[str, EventStore, Slow, float], None]
every_call = pytest.mark.parametrize("call", [blocking, awaited, in_block])


@every_call
def test_no_request_begins_after_the_time_to_finish(
    call: Call,
    server: ReferenceServer,
    event_store: EventStore,
    slow: Slow,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call outside a block, and leaving one; what was not written is written by the next."""
    monkeypatch.setattr(deliveries, "monotonic", slow)

    call(server.base_url, event_store, slow, 0.4)

    assert len(slow.given) == 1
    assert event_store.backlog().block().writes > 0

    slow.now += 60.0
    blocking(server.base_url, event_store, slow, 60.0)
    said = [message.content for message in server.conversation(CUSTOMER).messages]
    assert said == ["Hola", "re: Hola"]


@every_call
def test_the_last_request_is_cut(
    call: Call,
    server: ReferenceServer,
    event_store: EventStore,
    slow: Slow,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It gets what is left, and a second more: an API server that hangs holds nobody up."""
    monkeypatch.setattr(deliveries, "monotonic", slow)

    call(server.base_url, event_store, slow, 1.5)

    first, second = slow.given
    assert first <= 1.5 + GRACE
    assert second <= 0.5 + GRACE
    assert GRACE == 1.0


def test_a_missing_conversation_is_asked_for_again_for_three_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first message may beat the server's own webhook; the last look is at the end."""
    now, asked = [0.0], []

    def sleep(seconds: float) -> Io[None]:
        now[0] += seconds
        return Io(lambda: None, lambda: asyncio.sleep(0))

    def get_conversation(*_: Any, **__: Any) -> Io[Any]:
        def look() -> None:
            asked.append(now[0])
            raise ConversationNotFoundError("none", status_code=404)

        return Io(look, lambda: asyncio.sleep(0))

    monkeypatch.setattr(reading, "monotonic", lambda: now[0])
    monkeypatch.setattr(reading, "sleep", sleep)
    api: Any = SimpleNamespace(get_conversation=get_conversation)
    acquired = SimpleNamespace(snapshot=None)
    attempt: Any = SimpleNamespace(ref=ConversationRef(CUSTOMER), others=(), acquired=acquired)
    unused: Any = None

    with pytest.raises(ConversationNotFoundError):
        run(reading.Reader(api, unused, unused)._find(attempt, 10.0))

    assert asked == pytest.approx([0.0, 0.1, 0.3, 0.7, 1.5, 3.0])
