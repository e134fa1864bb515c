"""Remembered tenants are bounded, and nobody waits for ever for another's look-up."""

from __future__ import annotations

from typing import Any

from langchain_convsync._flow import run
from langchain_convsync.client._tenants import SIZE, Flights, TenantCache
from langchain_convsync.models import TenantInfo
from tests.faulty_server import Perform, sync_and_async

KEY = ("bot123", "+51999999999")


def tenant(session_id: str) -> TenantInfo:
    return TenantInfo(subdomain="restaurant-abc", bot_id="bot123", session_id=session_id)


def test_the_least_recently_used_tenant_goes_first() -> None:
    """The memory is bounded."""
    cache = TenantCache(lambda: 0.0)
    for number in range(SIZE):
        cache.put(("bot", str(number)), tenant(str(number)))
    cache.get(("bot", "0"))

    cache.put(("bot", "one more"), tenant("one more"))

    assert cache.get(("bot", "0")) is not None
    assert cache.get(("bot", "1")) is None
    assert cache.get(("bot", "one more")) is not None


def test_a_session_that_is_gone_is_forgotten_under_every_key() -> None:
    """Others stay."""
    cache = TenantCache(lambda: 0.0)
    cache.put(("bot", "a"), tenant("gone"))
    cache.put(("bot", "b"), tenant("gone"))
    cache.put(("bot", "c"), tenant("there"))

    cache.forget_session("gone")

    assert [cache.get(("bot", key)) is None for key in "abc"] == [True, True, False]


@sync_and_async
def test_a_leader_that_never_lands_is_waited_for_in_vain(perform: Perform[Any]) -> None:
    """For the follower's own time, and no longer."""
    flights = Flights()

    def follow() -> Any:
        leader = yield from flights.board(KEY)
        follower = yield from flights.board(KEY)
        found = yield from follower.landing(0.01)
        leader.land(None)
        return leader.leads, follower.leads, found

    assert perform(follow()) == (True, False, None)


def test_after_a_landing_the_next_one_leads() -> None:
    """And its place is free again."""
    flights = Flights()
    run(flights.board(KEY)).land(None)

    assert run(flights.board(KEY)).leads
