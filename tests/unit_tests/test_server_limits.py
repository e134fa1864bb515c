"""Rate limits: so many at once, so many a minute, each caller for itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.server import RateLimit
from langchain_convsync.server.limits import Limiter


class Seconds:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_followed_by_the_rate() -> None:
    """Three at once, then one every two seconds; the wait is told exactly."""
    clock = Seconds()
    limiter = Limiter(RateLimit(per_minute=30, burst=3), clock=clock)

    first = [limiter.wait("a") for _ in range(5)]
    clock.now += 1.5
    early = limiter.wait("a")
    clock.now += 0.5
    later = [limiter.wait("a"), limiter.wait("a")]

    assert first == [0, 0, 0, 2, 2]
    assert early == pytest.approx(0.5)
    assert later == [0, pytest.approx(2)]


def test_no_caller_uses_up_what_is_anothers() -> None:
    """Each caller has its own."""
    limiter = Limiter(RateLimit(per_minute=1), clock=Seconds())
    limiter.wait("a")

    assert limiter.wait("a") == pytest.approx(60)
    assert limiter.wait("b") == 0


def test_a_pause_saves_no_more_than_a_burst() -> None:
    """An hour without requests does not permit an hour's requests at once."""
    clock = Seconds()
    limiter = Limiter(RateLimit(per_minute=60, burst=2), clock=clock)
    limiter.wait("a")
    clock.now += 3600

    assert [limiter.wait("a") > 0 for _ in range(3)] == [False, False, True]


def test_what_is_remembered_is_bounded() -> None:
    """A million addresses do not fill the memory; who called last is remembered longest."""
    limiter = Limiter(RateLimit(per_minute=1), clock=Seconds(), callers=3)

    for name in "abcdef":
        limiter.wait(name)

    assert len(limiter) == 3
    assert [limiter.wait(name) > 0 for name in "fed"] == [True, True, True]
    assert limiter.wait("a") == 0


@given(st.lists(st.floats(0, 10), max_size=60), st.integers(1, 120), st.integers(1, 5))
def test_no_pattern_of_calls_gets_more_than_the_limit(
    pauses: list[float], per_minute: int, burst: int
) -> None:
    """At most a burst and what the passed time is worth; and who waits as told gets in."""
    clock = Seconds()
    limiter = Limiter(RateLimit(per_minute=per_minute, burst=burst), clock=clock)
    allowed = 0
    for pause in pauses:
        clock.now += pause
        if wait := limiter.wait("a"):
            clock.now += wait + 1e-6
            assert limiter.wait("a") == 0
        allowed += 1

    assert allowed <= burst + (clock.now - 1000.0) * per_minute / 60 + 1e-6


@pytest.mark.parametrize("settings", [{"per_minute": 0}, {"per_minute": 1, "burst": 0}])
def test_a_limit_lets_something_through(settings: dict[str, Any]) -> None:
    """Zero would be a server that is switched off."""
    with pytest.raises(ConfigurationError, match="from 1"):
        RateLimit(**settings)
