"""Writes to an API server that does not answer: held back, not lost, not in disorder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from langchain_convsync._flow import run
from langchain_convsync.client._breaker import FAILURES_TO_OPEN, CircuitBreaker
from langchain_convsync.outbox import Outbox
from langchain_convsync.stores.base import EventStore
from langchain_convsync.stores.served import adopted
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.faulty_server import HANG, FaultyServer, sends
from tests.promises import echo, history, said, served, spoken
from tests.redis_topologies import until


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with served() as running:
        yield running


def test_writes_are_held_back_while_the_circuit_is_open(
    server: ReferenceServer, event_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not tried one by one; afterwards they arrive once and in order."""
    for name in ("outbox.plan.ATTEMPT", "outbox.delivery.ATTEMPT", "turns.reading.SPARE_READ_TIME"):
        monkeypatch.setattr(f"langchain_convsync.{name}", 0.1)
    client = server.client(max_retries=0)
    TurnRunner(echo(), client=client, store=event_store).run(said("Hola", account="ventas"))
    texts = [f"message {n}" for n in range(12)]
    with FaultyServer() as hung:
        hung.plays(sends(HANG))
        away = type(client)(hung.url, max_retries=0)
        run(adopted(event_store, away.api.address))  # as if it was the one that hangs
        runner = TurnRunner(echo(), client=away, store=event_store, shutdown_timeout=0.0)
        replies = [runner.run(said(text, account="ventas")).reply for text in texts]
        asked = len(hung.received)
    TurnRunner(echo(), client=client, store=event_store, shutdown_timeout=60.0).run(
        said("¿Sigues ahí?", account="ventas")
    )

    assert replies == [f"re: {text}" for text in texts]
    assert FAILURES_TO_OPEN <= asked < len(texts)
    assert run(event_store.backlog()).writes == 0
    assert history(server) == spoken(["Hola", *texts, "¿Sigues ahí?"])


def test_an_open_circuit_holds_the_tenants_other_conversations_too(
    server: ReferenceServer, event_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to find out again what is known; nothing is begun, and nothing counts as a try."""
    for module in ("plan", "delivery"):
        monkeypatch.setattr(f"langchain_convsync.outbox.{module}.ATTEMPT", 0.1)
    profile = replace(server.profile, settle=0.0)  # what hung was not applied
    client, customers = server.client(profile=profile), [f"+5198888888{n}" for n in range(8)]
    undelivered = TurnRunner(echo(), client=client, store=event_store, shutdown_timeout=0.0)
    for customer in customers:
        server.create_conversation(
            phone_number=customer, subdomain="restaurant-abc", bot_id="bot123"
        )
        undelivered.run(said("Hola", phone_number=customer, event_id=customer))
    with FaultyServer() as hung:
        hung.plays(sends(HANG))
        away = type(client)(hung.url, profile=profile, max_retries=0)
        outbox = Outbox(away.api, event_store)
        outbox.breaker = CircuitBreaker(first=0.2, longest=0.2, clock=lambda: 0.0)
        for number in customers:
            acquired = run(event_store.acquire("outbox", number))
            assert acquired is not None
            run(outbox.deliver(acquired, budget=0.0))
        asked = len(hung.received)
    with TurnRunner(echo(), client=client, store=event_store, shutdown_timeout=60.0):
        until(lambda: run(event_store.backlog()).writes == 0)

    assert asked == FAILURES_TO_OPEN
    assert all(history(server, customer) == spoken(["Hola"]) for customer in customers)
