"""When something goes on the wire, and how long it is left alone there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from langchain_convsync import ConvSyncClient, ServerProfile
from langchain_convsync._flow import Flow, Io, run
from langchain_convsync.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    ServerError,
)
from langchain_convsync.models import ConversationMessage
from langchain_convsync.outbox import Outbox, Write
from langchain_convsync.outbox.delivery import may_pass
from langchain_convsync.outbox.plan import ATTEMPT
from langchain_convsync.outbox.queue import SLACK
from langchain_convsync.stores import Commit, Operation, SQLiteEventStore
from langchain_convsync.stores.base import Lease
from langchain_convsync.testing import ReferenceServer
from tests.faulty_server import CLOSE, FaultyServer, sends
from tests.store_cases import Clock, conversation, event

TURN = event().event_key


class Slow(SQLiteEventStore):
    """A store that takes its time to note that something goes on the wire."""

    def __init__(self, clock: Clock, *took: float) -> None:
        super().__init__(":memory:", clock=clock)
        self.time, self.took = clock, [*took]
        self.noted: list[tuple[float, int, float]] = []

    def begin(self, lease: Lease, *given: Any, attempt: int, need: float, **named: Any) -> Any:
        real = super().begin(lease, *given, attempt=attempt, need=need, **named)

        def block() -> Any:
            self.noted.append((self.time.now, attempt, need))
            cursor = real.block()
            self.time.advance(self.took.pop(0) if self.took else 0.0)
            return cursor

        return Io(block, real.wait)


def with_a_message(store: SQLiteEventStore, session_id: str = "s1") -> SQLiteEventStore:
    """One message is to be written."""
    acquired = run(store.accept(event(), token="t")).acquired
    assert acquired is not None
    write = Write(
        kind="append",
        phone_number="+51999999999",
        session_id=session_id,
        bot_id="bot123",
        subdomain="restaurant-abc",
        turn=TURN,
        number=1,
        decided_at=acquired.now,
        messages=(ConversationMessage(role="bot", content="Hola"),),
    )
    operation = Operation(id=f"{TURN}/0", body=write.model_dump_json())
    run(
        store.commit_turn(
            acquired.lease, Commit(event_keys=[TURN], outcomes={}, operations=[operation])
        )
    )
    return store


@pytest.fixture
def breaking() -> Iterator[FaultyServer]:
    """An API server that breaks every connection."""
    with FaultyServer() as server:
        server.plays(sends(CLOSE))
        yield server


def attempted(store: Slow, server: FaultyServer, *, keys: bool = False) -> float | None:
    """Try to deliver; the seconds until the queue is due again."""
    profile = ServerProfile(settle=60.0, idempotency_keys=keys)
    client = ConvSyncClient(server.url, profile=profile)
    outbox = Outbox(client.api, with_a_message(store), lease=1.0, clock=store.time)
    run(outbox.attempt(conversation()))
    client.close()
    due: float | None = run(store.due("outbox", conversation()))
    store.close()
    return due


def test_what_stood_still_is_noted_again_before_it_is_sent(breaking: FaultyServer) -> None:
    """Else it could go out when somebody looks for it already; the lease lasts for it."""
    store = Slow(Clock(), 5.0, 7.0)
    begun = store.time.now
    attempted(store, breaking)

    assert [at - begun for at, _, _ in store.noted] == [0.0, 5.0]
    assert [attempt for _, attempt, _ in store.noted] == [1, 2]
    assert [need for _, _, need in store.noted] == [ATTEMPT + SLACK, ATTEMPT + 10.0]
    assert len(breaking.received) == 1


@pytest.mark.parametrize("keys", [False, True])
def test_what_ended_without_an_answer_is_left_alone_from_its_end_on(
    breaking: FaultyServer, keys: bool
) -> None:
    """However long before that it was begun; a key makes it safe to repeat at once."""
    due = attempted(Slow(Clock(), SLACK), breaking, keys=keys)

    assert due is not None
    assert due < 1.0 if keys else due == 60.0


def going_on(flow: Flow[object], step: Io[Any]) -> Flow[None]:
    """The rest of a flow that has yielded this step."""
    while True:
        value = yield from step
        try:
            step = flow.send(value)
        except StopIteration:
            return


def test_what_another_call_of_the_process_delivers_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not left over: its lease ends when that call is done, not after its 30 seconds."""
    with ReferenceServer() as server, server.client() as client:
        there = server.create_conversation(
            phone_number="+51999999999", subdomain="restaurant-abc", bot_id="bot123"
        )
        store = with_a_message(SQLiteEventStore(":memory:"), there.session_id)
        outbox = Outbox(client.api, store)
        other = outbox.attempt(conversation())
        step = other.send(next(other).block())  # it has the queue by now

        async def later() -> None:
            raise AssertionError

        def meanwhile() -> None:
            run(going_on(other, step))

        monkeypatch.setattr("langchain_convsync.outbox.queue.sleep", lambda _: Io(meanwhile, later))

        assert run(outbox.drain(conversation(), budget=10.0))
        assert [message.content for message in server.conversation("+51999999999").messages] == [
            "Hola"
        ]
        store.close()


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (APITimeoutError("the body did not end", status_code=200), True),
        (APIConnectionError("cut off", status_code=200), True),
        (APIStatusError("refused", status_code=422), False),
        (ServerError("failed", status_code=503), True),
    ],
    ids=["trickled", "cut off", "refused", "failed"],
)
def test_an_answer_that_breaks_off_is_asked_for_again(error: APIError, passes: bool) -> None:
    """Its status came, and says nothing of what it was to tell."""
    assert may_pass(error) == passes
