"""Tests of users' bots hold the clocks still; what waits in this package ends all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import freezegun
import pytest
import time_machine
from langchain_core.runnables import RunnableLambda

from langchain_convsync import (
    TurnRunner,
    aonce,
    once,
)
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from tests.promises import CUSTOMER, said

AT_NIGHT = "2026-01-01 03:00"
Stopped = Callable[[], AbstractContextManager[Any]]
STOPPED: dict[str, Stopped] = {
    "freezegun": lambda: freezegun.freeze_time(AT_NIGHT, real_asyncio=True),
    "time-machine": lambda: time_machine.travel(AT_NIGHT + "Z", tick=False),
}


@pytest.fixture(params=STOPPED)
def stopped(request: pytest.FixtureRequest) -> Stopped:
    return STOPPED[request.param]


@pytest.fixture
def api() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        running.create_conversation(phone_number=CUSTOMER, subdomain="a", bot_id="b")
        yield running


def test_a_wait_for_another_caller_ends(event_store: EventStore, stopped: Stopped) -> None:
    """``wait=`` are real seconds."""
    with stopped(), once(event_store, "evt"), once(event_store, "evt", wait=0.05) as second:
        assert second.status == "in_progress"


async def test_a_wait_for_another_caller_ends_awaited(
    event_store: EventStore, stopped: Stopped
) -> None:
    """Where asyncio's own clock goes on."""
    with stopped():
        async with aonce(event_store, "evt"), aonce(event_store, "evt", wait=0.05) as second:
            assert second.status == "in_progress"


def test_a_claim_is_kept_beyond_its_lease(event_store: EventStore, stopped: Stopped) -> None:
    """Its heartbeat measures real seconds, as does the store."""
    with (
        stopped(),
        once(event_store, "evt", lease=0.3),
        once(event_store, "evt", wait=1.0) as second,
    ):
        assert second.status == "in_progress"


def at_night(_messages: list[Any]) -> str:
    return "open" if datetime.now(UTC).hour > 8 else "closed"


def test_a_bot_is_tested_at_a_fixed_moment(
    api: ReferenceServer, event_store: EventStore, stopped: Stopped
) -> None:
    """Its agent sees that moment; the server beside it stops as ever."""
    with stopped():
        runner = TurnRunner(RunnableLambda(at_night), client=api.client(), store=event_store)
        turn = runner.run(said("Hola"))
        api.stop()

    assert (turn.status, turn.reply) == ("answered", "closed")


async def test_a_bot_is_tested_at_a_fixed_moment_awaited(
    api: ReferenceServer, event_store: EventStore, stopped: Stopped
) -> None:
    """Made before, run inside."""
    runner = TurnRunner(RunnableLambda(at_night), client=api.client(), store=event_store)
    with stopped():
        turn = await runner.arun(said("Hola"))

    assert (turn.status, turn.reply) == ("answered", "closed")


def test_a_block_ends_although_writes_are_left(
    api: ReferenceServer, event_store: EventStore, stopped: Stopped
) -> None:
    """The API server is away; the time to finish is over all the same."""
    settings: dict[str, Any] = {"store": event_store, "shutdown_timeout": 0.3}
    with stopped():
        runner = TurnRunner(
            RunnableLambda(at_night), client=api.client(), on_reply=lambda _: api.stop(), **settings
        )
        with runner:
            assert runner.run(said("Hola")).status == "answered"
