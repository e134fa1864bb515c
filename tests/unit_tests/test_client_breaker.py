"""Leaving an API server alone that does not answer: tenant by tenant, on a clock that we move."""

from __future__ import annotations

import pytest

from langchain_convsync._flow import Flow, Io, run
from langchain_convsync.client._breaker import FAILURES_TO_OPEN, CircuitBreaker
from langchain_convsync.errors import (
    APIConnectionError,
    APIError,
    BadRequestError,
    RateLimitError,
    ServerError,
)
from langchain_convsync.settings import CallTarget
from tests.store_cases import Clock

ABC, XYZ = (CallTarget(subdomain=name, bot_id="bot") for name in ("abc", "xyz"))
AWAY = APIConnectionError("away")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(first=1.0, longest=10.0, clock=clock)


def ask(breaker: CircuitBreaker, outcome: APIError | str, target: CallTarget = ABC) -> str | None:
    """One request, with what comes of it."""

    def answer() -> str:
        if isinstance(outcome, APIError):
            raise outcome
        return outcome

    async def wait() -> str:
        return answer()

    def request() -> Flow[str]:
        return (yield from Io(answer, wait))

    try:
        return run(breaker.guarded(lambda: target, request()))
    except APIError:
        return None


def opened(breaker: CircuitBreaker, target: CallTarget = ABC) -> None:
    for _ in range(FAILURES_TO_OPEN):
        ask(breaker, AWAY, target)


@pytest.mark.parametrize("error", [AWAY, ServerError("500", status_code=500)])
def test_after_some_failures_the_server_is_left_alone(
    breaker: CircuitBreaker, error: APIError
) -> None:
    """One or two may be chance."""
    waits = []
    for _ in range(FAILURES_TO_OPEN):
        waits.append(breaker.wait(lambda: ABC))
        ask(breaker, error)

    assert waits == [0.0] * FAILURES_TO_OPEN
    assert breaker.wait(lambda: ABC) == 1.0


@pytest.mark.parametrize(
    "error", [BadRequestError("400", status_code=400), RateLimitError("429", status_code=429)]
)
def test_a_server_that_refuses_answers(breaker: CircuitBreaker, error: APIError) -> None:
    """It is there; what it refuses is another matter."""
    for _ in range(FAILURES_TO_OPEN):
        ask(breaker, AWAY)
        ask(breaker, error)

    assert breaker.wait(lambda: ABC) == 0.0


def test_one_tenants_open_circuit_is_not_anothers(breaker: CircuitBreaker) -> None:
    """They may be served by different machines behind one address."""
    opened(breaker)

    assert (breaker.wait(lambda: ABC), breaker.wait(lambda: XYZ)) == (1.0, 0.0)


def test_after_a_while_one_request_goes_and_the_others_wait(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """It finds out for all of them."""
    opened(breaker)
    clock.advance(1.0)

    assert [breaker.wait(lambda: ABC) for _ in range(3)] == [0.0, 1.0, 1.0]


def test_an_answer_closes_the_circuit(breaker: CircuitBreaker, clock: Clock) -> None:
    """For everybody, at once."""
    opened(breaker)
    clock.advance(1.0)
    breaker.wait(lambda: ABC)

    assert ask(breaker, "fine") == "fine"
    assert [breaker.wait(lambda: ABC) for _ in range(3)] == [0.0] * 3


def test_each_failure_doubles_the_wait_up_to_the_longest(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """A server that comes back is found within that time."""
    opened(breaker)
    waits = []
    for _ in range(6):
        waits.append(breaker.wait(lambda: ABC))
        clock.advance(waits[-1])
        breaker.wait(lambda: ABC)
        ask(breaker, AWAY)

    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_requests_that_were_on_their_way_do_not_lengthen_the_wait(
    breaker: CircuitBreaker,
) -> None:
    """A hundred that fail together are one failure."""
    for _ in range(100):
        ask(breaker, AWAY)

    assert breaker.wait(lambda: ABC) == 1.0


def test_a_request_that_never_ends_does_not_keep_the_circuit_open(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """Its process may be cancelled or fenced meanwhile."""
    opened(breaker)
    clock.advance(1.0)
    breaker.wait(lambda: ABC)
    clock.advance(1.0)

    assert breaker.wait(lambda: ABC) == 0.0
