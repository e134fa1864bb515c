"""Redis is away for a while: nobody is told that a message was taken that was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync import telemetry
from langchain_convsync._flow import run
from langchain_convsync.errors import StoreError
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores import RedisEventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner
from tests.promises import Answer, echo, history, reply_to, said, served, spoken, sync_and_async
from tests.redis_server import RedisServer

pytest_plugins = ("tests.store_fixtures",)

#: Deliveries that are tried while it is away, from so many threads at once.
OFFERS, THREADS = 60, 6


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with served() as running:
        yield running


@pytest.fixture
def mortal() -> Iterator[RedisServer]:
    """A Redis of the test's own, to kill."""
    with RedisServer() as running:
        yield running


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, no_pause: None) -> None:
    """Nothing waits long for what cannot come."""
    monkeypatch.setattr("langchain_convsync.outbox.plan.ATTEMPT", 0.1)
    monkeypatch.setattr("langchain_convsync.outbox.delivery.ATTEMPT", 0.1)
    monkeypatch.setattr("langchain_convsync.turns.process.RETRY_LATER", 0.05)
    monkeypatch.setattr("langchain_convsync.turns.worker.STORE_PAUSE", 0.05)


@sync_and_async
def test_while_redis_is_away_no_event_is_accepted_and_afterwards_each_is_answered_once(
    answer: Answer, server: ReferenceServer, mortal: RedisServer, hasty: None
) -> None:
    """Every delivery meanwhile fails, so its sender repeats it; what was accepted is there."""
    client, store = server.client(), RedisEventStore(mortal.url)
    waiting = TurnRunner(echo(), client=client, store=store, debounce=0.1, max_debounce=0.1)
    early = answer(waiting, said("before"), 0.0)
    runner = TurnRunner(echo(), client=client, store=store)
    refused = [said(f"while it is away {n % 4}") for n in range(OFFERS)]

    mortal.kill9()
    with ThreadPoolExecutor(THREADS) as pool:
        outcomes = list(pool.map(lambda event: _offered(answer, runner, event), refused))
    mortal.start()
    turns = [answer(runner, event) for event in refused[:4] for _ in range(2)]
    backlog = run(store.backlog())
    store.close()

    assert early.status == "queued"
    assert set(outcomes) == {"StoreUnavailableError"}
    assert [turn.status for turn in turns] == ["answered", "duplicate"] * 4
    assert turns[0].events == ("before", "while it is away 0")
    texts = [event.text for event in refused[:4]]
    assert history(server) == [("user", "before"), *spoken(texts)]
    assert (backlog.queued, backlog.writes) == (0, 0)


def _offered(answer: Answer, runner: TurnRunner, event: InboundEvent) -> str:
    try:
        return answer(runner, event).status
    except StoreError as error:
        return type(error).__name__


@sync_and_async
def test_a_turn_whose_redis_dies_is_answered_by_the_next_delivery(
    answer: Answer, server: ReferenceServer, mortal: RedisServer, hasty: None
) -> None:
    """The agent has run, and nobody was told what it said: the event is still queued."""
    runs: list[str] = []

    def unplugged(messages: list[BaseMessage]) -> AIMessage:
        runs.append(str(messages[-1].content))
        if len(runs) == 1:
            mortal.kill9()
        return reply_to(messages)

    store = RedisEventStore(mortal.url)
    runner = TurnRunner(RunnableLambda(unplugged), client=server.client(), store=store, lease=1.0)

    outcome = _offered(answer, runner, said("Hola"))
    mortal.start()
    turn = answer(runner, said("Hola"))
    store.close()

    assert outcome == "StoreUnavailableError"
    assert (turn.status, turn.reply) == ("answered", "re: Hola")
    assert runs == ["Hola", "Hola"]
    assert history(server) == spoken(["Hola"])


def test_the_workers_of_a_block_outlive_an_outage(
    server: ReferenceServer, mortal: RedisServer, hasty: None
) -> None:
    """Nobody restarts them: what was accepted before is answered when Redis is back."""
    sent: list[Turn] = []
    client, store = server.client(), RedisEventStore(mortal.url)
    waiting = TurnRunner(echo(), client=client, store=store, debounce=0.05, max_debounce=0.05)
    customers = {f"+5199999{n:04d}": f"message {n}" for n in range(20)}
    for customer, text in customers.items():
        server.create_conversation(phone_number=customer, subdomain="restaurant", bot_id="bot")
        waiting.run(said(text, phone_number=customer), wait=0.0)
    mortal.kill9()
    failures = telemetry.counted("worker_failures") + 10
    with TurnRunner(echo(), client=client, store=store, on_reply=sent.append):
        while telemetry.counted("worker_failures") < failures:
            pass
        mortal.start()
        while run(store.backlog()).queued:
            pass
    backlog = run(store.backlog())
    store.close()

    assert Counter(turn.reply for turn in sent) == Counter(f"re: {t}" for t in customers.values())
    assert all(history(server, each) == spoken([text]) for each, text in customers.items())
    assert backlog.writes == 0
