"""Retries within one deadline, on a clock that the tests turn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from langchain_convsync._flow import Io
from langchain_convsync.client import Api
from langchain_convsync.client._caller import Pace
from langchain_convsync.errors import (
    APIConnectionError,
    ConversationNotFoundError,
    InvalidResponseError,
    RateLimitError,
    ServerError,
)
from langchain_convsync.settings import ServerProfile
from langchain_convsync.telemetry import counted
from tests.client_calls import CONVERSATION, every_call, post, put, read
from tests.faulty_server import (
    CLOSE,
    RESET,
    FaultyServer,
    Perform,
    answers,
    head,
    sends,
    sync_and_async,
)

FINE = answers(CONVERSATION)
BUSY = answers({"type": "3", "message": "busy", "data": None}, 503)
SLOW_DOWN = answers({"type": "3", "message": "slow", "data": None}, 429, retry_after=3)
GONE = answers({"type": "3", "message": "Conversation not found", "data": None}, 404)
CUT = sends(CLOSE)
PAGE = answers("<html>We will be back</html>", content_type="text/html")
HALF = sends(head(200, content_length=99) + b'{"type"', RESET)
ELSEWHERE = answers({"message": "no Route matched"}, 404)


class Time:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> Io[None]:
        def block() -> None:
            self.pauses.append(seconds)
            self.now += seconds

        async def wait() -> None:
            block()

        return Io(block, wait)

    @property
    def pace(self) -> Pace:
        return Pace(clock=lambda: self.now, sleep=self.sleep, randomness=lambda: 0.5)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture
def passing() -> Time:
    return Time()


@pytest.fixture
def api(server: FaultyServer, passing: Time) -> Iterator[Api]:
    built = Api(server.url, pace=passing.pace)
    yield built
    built.close()


@sync_and_async
@pytest.mark.parametrize(
    "trouble",
    [BUSY, CUT, PAGE, HALF, ELSEWHERE],
    ids=["503", "cut off", "a page", "half of it", "another router"],
)
@pytest.mark.parametrize("call", [read, put])
def test_a_read_and_a_sync_survive_a_hiccup(
    *, call: Any, trouble: Any, api: Api, server: FaultyServer, passing: Time, perform: Perform[Any]
) -> None:
    """Twice in trouble, then answered; the pauses grow, and every repetition is counted."""
    server.plays(trouble, trouble, FINE)
    before = counted("api_retries")

    assert perform(call(api)).bot_id == "bot123"

    assert len(server.received) == 3
    assert passing.pauses == [0.25, 0.5]
    assert counted("api_retries") == before + 2


@sync_and_async
@pytest.mark.parametrize(
    "trouble", [BUSY, CUT, PAGE, HALF], ids=["503", "cut off", "a page", "half of it"]
)
def test_a_message_is_not_posted_twice_on_suspicion(
    *, trouble: Any, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """It may be recorded already: the caller learns that, and decides."""
    server.plays(trouble)

    with pytest.raises((ServerError, APIConnectionError, InvalidResponseError)) as told:
        perform(post(api))

    assert told.value.ambiguous
    assert len(server.received) == 1


@sync_and_async
def test_a_message_is_posted_again_after_a_429(
    api: Api, server: FaultyServer, passing: Time, perform: Perform[Any]
) -> None:
    """It surely was not recorded; the server's ``Retry-After`` is granted."""
    server.plays(SLOW_DOWN, FINE)

    perform(post(api))

    assert len(server.received) == 2
    assert passing.pauses == [3.0]


@sync_and_async
def test_honoured_idempotency_keys_let_a_message_be_posted_again(
    server: FaultyServer, passing: Time, perform: Perform[Any]
) -> None:
    """The profile says that the server recognises the repetition."""
    server.plays(CUT, BUSY, FINE)
    profile = ServerProfile(idempotency_keys=True)
    api = Api(server.url, profile=profile, pace=passing.pace)

    perform(post(api))

    assert len(server.received) == 3
    assert len({request.headers["idempotency-key"] for request in server.received}) == 1
    api.close()


@sync_and_async
def test_each_call_has_its_own_idempotency_key(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Repetitions share it, and the caller's own is sent as it is."""
    server.plays(BUSY, FINE, FINE, FINE)

    perform(put(api))
    perform(post(api))
    perform(post(api, idempotency_key="op-7/0"))

    first, again, second, own = (r.headers["idempotency-key"] for r in server.received)
    assert first == again != second
    assert own == "op-7/0"


@sync_and_async
def test_a_wait_beyond_the_deadline_is_the_caller_s(
    api: Api, server: FaultyServer, passing: Time, perform: Perform[Any]
) -> None:
    """The error comes at once, with the seconds that the server asked for."""
    server.plays(answers({"type": "3", "data": None}, 429, retry_after=3600))

    with pytest.raises(RateLimitError) as told:
        perform(read(api))

    assert told.value.retry_after == 3600.0
    assert passing.pauses == []


@sync_and_async
def test_pauses_count_towards_the_deadline(
    api: Api, server: FaultyServer, passing: Time, perform: Perform[Any]
) -> None:
    """One timeout for all attempts: three pauses of 3 s fit into 10 s, a fourth does not."""
    server.plays(SLOW_DOWN)

    with pytest.raises(RateLimitError):
        perform(read(api, timeout=10.0, attempts=99))

    assert passing.pauses == [3.0, 3.0, 3.0]


@sync_and_async
@every_call
def test_the_caller_can_ask_for_a_single_attempt(
    call: Any, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """The outbox does: it is a retry layer itself."""
    server.plays(BUSY)

    with pytest.raises(ServerError):
        perform(call(api, attempts=1))

    assert len(server.received) == 1


@sync_and_async
def test_a_clear_last_answer_does_not_clear_an_earlier_doubt(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Whether the first, cut-off PUT was applied is still unknown after the 404 of the second."""
    server.plays(CUT, GONE)

    with pytest.raises(ConversationNotFoundError) as told:
        perform(put(api))

    assert told.value.ambiguous


@sync_and_async
def test_the_last_error_is_raised_without_the_earlier_ones(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """One story per error: no chain of attempts."""
    server.plays(CUT, BUSY, BUSY)

    with pytest.raises(ServerError) as told:
        perform(read(api))

    assert told.value.__context__ is None
    assert told.value.__cause__ is None


@sync_and_async
def test_waiting_really_waits(server: FaultyServer, perform: Perform[Any]) -> None:
    """The real clock and the real sleep, for a moment."""
    server.plays(answers({"type": "3", "data": None}, 429, retry_after="0.05"), FINE)
    api = Api(server.url, pace=Pace(randomness=lambda: 0.0))
    started = time.monotonic()

    perform(read(api))

    assert time.monotonic() - started >= 0.05
    api.close()
