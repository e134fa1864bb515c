"""The API server is away for ten minutes: customers notice nothing, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_convsync._flow import run
from langchain_convsync.models import StateUpdate
from langchain_convsync.stores import EventStore, RedisEventStore, SQLiteEventStore
from langchain_convsync.stores.served import adopted
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.faulty_server import HANG, FaultyServer, sends
from tests.promises import CUSTOMER, Answer, echo, history, said, served, spoken, sync_and_async
from tests.redis_server import RedisServer
from tests.store_cases import Clock

#: Seconds of store time: the outage, and between two messages of the customer.
OUTAGE, STEP = 600, 20


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with served() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[EventStore]:
    """A durable store on a clock that moves only when told."""
    if request.param == "sqlite":
        opened: EventStore = SQLiteEventStore(tmp_path / "events.db", clock=clock)
    else:
        redis: RedisServer = request.getfixturevalue("redis_server")
        redis.empty()
        opened = RedisEventStore(redis.url, clock=clock)
    yield opened
    opened.close()


def counting(output: object) -> StateUpdate:
    """The state is the last reply, so that the last sync can be told."""
    return StateUpdate(intent="order", step=str(getattr(output, "content", "")))


@sync_and_async
def test_ten_minutes_without_the_api_cost_no_reply_and_no_write(
    answer: Answer, server: ReferenceServer, store: EventStore, clock: Clock
) -> None:
    """Once a conversation was read, its turns go on; all writes arrive later, once and in order."""
    client = server.client(max_retries=0)
    runner = TurnRunner(
        echo(), client=client, store=store, extractor=counting, shutdown_timeout=0.01
    )
    texts = [f"message {n}" for n in range(OUTAGE // STEP)]
    first = answer(runner, said("Hola", account="ventas"))
    kept = history(server)

    server.stop()
    turns = []
    for text in texts:
        clock.advance(STEP)
        turns.append(answer(runner, said(text, account="ventas")))
    waiting = run(store.backlog()).writes
    server.start()
    clock.advance(60.0)
    with TurnRunner(echo(), client=client, store=store):
        while run(store.backlog()).writes:
            pass

    assert (first.status, kept) == ("answered", spoken(["Hola"]))
    assert [(turn.status, turn.reply) for turn in turns] == [
        ("answered", f"re: {text}") for text in texts
    ]
    assert waiting == 2 * len(texts)
    assert history(server) == spoken(["Hola", *texts])
    assert server.conversation(CUSTOMER).current_step == f"re: {texts[-1]}"
    assert server.conversation(CUSTOMER).metadata["convsync"]["n"] == len(texts) + 1
    written = [seen.path.rsplit("/", 1)[-1] for seen in server.requests if seen.method != "GET"]
    assert written == ["messages", "messages", "sync"] * (len(texts) + 1)


def test_a_hung_api_server_is_not_waited_for_by_every_turn(
    server: ReferenceServer, store: EventStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one turn has found out, the next ones know: they answer from what was read before."""
    monkeypatch.setattr("langchain_convsync.turns.reading.SPARE_READ_TIME", 0.2)
    TurnRunner(echo(), client=server.client(), store=store).run(said("Hola", account="ventas"))
    texts = [f"message {n}" for n in range(10)]
    with FaultyServer() as hung:
        hung.plays(sends(HANG))
        client = type(server.client())(hung.url, max_retries=0)
        run(adopted(store, client.api.address))  # as if it was the one that hangs
        runner = TurnRunner(echo(), client=client, store=store, shutdown_timeout=0.0)
        turns = [runner.run(said(text, account="ventas")) for text in texts]
        asked = len(hung.received)

    assert {turn.status for turn in turns} == {"answered"}
    assert asked < len(texts)
