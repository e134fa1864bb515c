"""Keys that change: tokens expire, in the middle of a turn too, and that costs nothing."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from langchain_convsync import AsyncConvSyncClient, ConvSyncClient, telemetry
from langchain_convsync._flow import Io, arun, run
from langchain_convsync.client import Api
from langchain_convsync.client._caller import Pace
from langchain_convsync.errors import (
    AuthenticationError,
    ConfigurationError,
    PermissionDeniedError,
)
from langchain_convsync.settings import CallTarget
from langchain_convsync.stores.base import EventStore
from langchain_convsync.turns import TurnRunner
from tests.client_calls import CONVERSATION, PHONE, every_call, put, read
from tests.faulty_server import (
    CLOSE,
    Deed,
    FaultyServer,
    Perform,
    Received,
    answers,
    awaited,
    awaited_over_aiohttp,
    sends,
    sync_and_async,
)
from tests.promises import Answer, echo, history, said, served, spoken
from tests.promises import sync_and_async as either_answer

FINE = answers(CONVERSATION)
EXPIRED = answers({"type": "3", "message": "Token expired", "data": None}, 401)
BUSY = answers({"type": "3", "message": "busy", "data": None}, 503)


class Tokens:
    """A provider of tokens: each call makes a new one."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self) -> str:
        self.given += 1
        return f"token-{self.given}"

    async def awaited(self) -> str:
        await asyncio.sleep(0)
        return self()


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


PACE = Pace(sleep=lambda _: Io(lambda: None, functools.partial(asyncio.sleep, 0)))


def tokens_of(server: FaultyServer) -> list[str]:
    return [r.headers["authorization"].removeprefix("Bearer ") for r in server.received]


@sync_and_async
@every_call
def test_a_401_asks_for_a_new_key_and_repeats_the_call_once(
    call: Any, server: FaultyServer, perform: Perform[Any]
) -> None:
    """A write was not applied; a single attempt is enough, as the outbox asks for."""
    server.plays(EXPIRED, FINE)
    api = Api(server.url, api_key=Tokens())

    assert perform(call(api, attempts=1)).bot_id == "bot123"
    assert tokens_of(server) == ["token-1", "token-2"]
    assert server.received[0].body == server.received[1].body
    api.close()


@sync_and_async
@every_call
def test_a_second_401_is_the_error(call: Any, server: FaultyServer, perform: Perform[Any]) -> None:
    """It is no loop; whatever was not applied is not ambiguous."""
    server.plays(EXPIRED)
    api = Api(server.url, api_key=Tokens())

    with pytest.raises(AuthenticationError) as told:
        perform(call(api))

    assert len(server.received) == 2
    assert not told.value.ambiguous
    api.close()


@sync_and_async
@pytest.mark.parametrize("refusal", [401, 403])
def test_a_key_that_cannot_change_and_a_403_are_not_asked_for_again(
    refusal: int, server: FaultyServer, perform: Perform[Any]
) -> None:
    """A fixed key is the same the second time; a 403 is about the tenant."""
    server.plays(answers({"type": "3", "message": "", "data": None}, refusal))
    api = Api(server.url, api_key="fixed" if refusal == 401 else Tokens())

    with pytest.raises((AuthenticationError, PermissionDeniedError)):
        perform(read(api))

    assert len(server.received) == 1
    api.close()


@sync_and_async
def test_each_attempt_has_a_fresh_key(server: FaultyServer, perform: Perform[Any]) -> None:
    """Also after a pause, in which one may have expired."""
    server.plays(BUSY, sends(CLOSE), FINE)
    api = Api(server.url, api_key=Tokens(), pace=PACE)

    perform(read(api))

    assert tokens_of(server) == ["token-1", "token-2", "token-3"]
    api.close()


@sync_and_async
def test_a_401_does_not_clear_an_earlier_doubt(server: FaultyServer, perform: Perform[Any]) -> None:
    """Whether the first PUT was applied is still unknown."""
    server.plays(sends(CLOSE), EXPIRED)
    api = Api(server.url, api_key=Tokens(), pace=PACE)

    with pytest.raises(AuthenticationError) as told:
        perform(put(api))

    assert told.value.ambiguous
    api.close()


@pytest.mark.parametrize("perform", [awaited, awaited_over_aiohttp])
@pytest.mark.parametrize(
    "provider", [lambda: Tokens().awaited, lambda: functools.partial(Tokens().awaited)]
)
def test_an_async_provider_is_awaited(
    provider: Any, server: FaultyServer, perform: Perform[Any]
) -> None:
    """As the async credentials of cloud libraries are; and once more after a 401."""
    server.plays(EXPIRED, FINE)
    api = Api(server.url, api_key=provider())

    perform(read(api))

    assert tokens_of(server) == ["token-1", "token-2"]
    api.close()


async def of_a_target(target: CallTarget) -> SecretStr:
    return SecretStr(f"key-of-{target.subdomain}")


class Credentials:
    """An object that is called, and awaited."""

    async def __call__(self) -> str:
        return "t"


@pytest.mark.parametrize(
    "provider",
    [Tokens().awaited, functools.partial(of_a_target), of_a_target, Credentials()],
    ids=["method", "partial", "function", "object"],
)
def test_a_blocking_client_refuses_an_async_provider_when_it_is_made(provider: Any) -> None:
    """With what to use instead."""
    with pytest.raises(ConfigurationError, match=r"api_key= is an async callable.*AsyncConvSync"):
        ConvSyncClient("https://api.example.com", api_key=provider)

    AsyncConvSyncClient("https://api.example.com", api_key=provider)


def test_what_has_to_be_awaited_is_told_at_a_blocking_call(server: FaultyServer) -> None:
    """A plain function does not show what it returns; nothing is sent without the key."""
    client = ConvSyncClient(server.url, api_key=lambda: Tokens().awaited())

    with pytest.raises(AuthenticationError, match="blocking calls cannot await"):
        client.get_conversation(PHONE)

    assert server.received == []
    client.close()


KNOWN = CallTarget(subdomain="restaurant-abc", bot_id="bot123")


def by_tenant(target: CallTarget) -> str:
    return f"key-of-{target.subdomain}"


def by_tenant_if_told(target: CallTarget | None = None) -> str:
    return "nobody" if target is None else by_tenant(target)


def of_anything(*given: CallTarget) -> str:
    return by_tenant(*given)


def cached(refresh: bool = False) -> str:
    return "refreshed" if refresh else "from-the-cache"


@sync_and_async
@pytest.mark.parametrize(
    ("provider", "key"),
    [
        (by_tenant, "key-of-restaurant-abc"),
        (by_tenant_if_told, "key-of-restaurant-abc"),
        (of_anything, "key-of-restaurant-abc"),
        (functools.partial(by_tenant), "key-of-restaurant-abc"),
        (lambda: SecretStr("alone"), "alone"),
        (cached, "from-the-cache"),
    ],
)
def test_a_provider_takes_the_target_or_nothing(
    provider: Any, key: str, server: FaultyServer, perform: Perform[Any]
) -> None:
    """What is not meant for a target gets none: an option of its own is left as it is."""
    server.plays(FINE)
    api = Api(server.url, api_key=provider)

    perform(read(api, target=KNOWN))

    assert tokens_of(server) == [key]
    api.close()


@pytest.mark.parametrize("provider", [lambda one, two: one, lambda *, scope: scope])
def test_a_provider_that_wants_more_is_refused_when_the_client_is_made(provider: Any) -> None:
    """Not at the first call."""
    with pytest.raises(ConfigurationError, match="a callable of a CallTarget, or of nothing"):
        ConvSyncClient("https://api.example.com", api_key=provider)


async def test_a_provider_that_hangs_does_not_outlast_the_call(server: FaultyServer) -> None:
    """The timeout is for all of it."""

    async def hangs() -> str:
        await asyncio.Event().wait()
        return ""

    api = Api(server.url, api_key=hangs)

    with pytest.raises(AuthenticationError, match="TimeoutError"):
        await arun(read(api, timeout=0.05))

    assert server.received == []
    await api.aclose()


# In a turn


class Expiring:
    """A server whose token expires at the first request of one kind, and its provider.

    The provider's cache gives the old token for as often as it is told; or it fails as often.
    """

    def __init__(self, url: str, method: str, stale: int = 0, failing: int = 0) -> None:
        self._client = httpx.Client(base_url=url, verify=False)
        self._method, self._stale, self._expired = method, stale, False
        self._failing = failing
        self.refused = 0

    def close(self) -> None:
        self._client.close()

    def provider(self) -> str:
        if self._expired and self._failing:
            self._failing -= 1
            raise TimeoutError
        if self._expired and self._stale:
            self._stale -= 1
            return "old"
        return "new" if self._expired else "old"

    def __call__(self, request: Received) -> Iterable[bytes | float | Deed]:
        self._expired = self._expired or request.method == self._method
        if request.headers["authorization"] != f"Bearer {'new' if self._expired else 'old'}":
            self.refused += 1
            return EXPIRED(request)
        headers = {"content-type": "application/json"} if request.body else {}
        answer = self._client.request(
            request.method, request.target, content=request.body, headers=headers
        )
        return answers(answer.content, answer.status_code)(request)


@either_answer
@pytest.mark.parametrize(
    "provider",
    [{}, {"stale": 3}, {"failing": 3}],
    ids=["new at once", "old for a while", "none for a while"],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_token_that_expires_in_a_turn_costs_nothing(
    method: str,
    provider: dict[str, int],
    answer: Answer,
    event_store: EventStore,
    no_pause: None,
) -> None:
    """Both messages and the state are written, once, and no operator is called."""
    before = telemetry.counted("dead_letters")
    with served() as server, FaultyServer() as faulty:
        expiring = Expiring(server.base_url, method, **provider)
        faulty.plays(expiring)
        client = ConvSyncClient(faulty.url, api_key=expiring.provider)
        runner = TurnRunner(
            echo(), client=client, store=event_store, extractor=lambda _: {"intent": "order"}
        )
        turn = answer(runner, said("Hola"))
        client.close()
        expiring.close()

        assert turn.status == "answered"
        assert expiring.refused == 1 + provider.get("stale", 0)
        assert history(server) == spoken(["Hola"])
        assert server.conversation(said("Hola").phone_number or "").current_intent == "order"
    assert run(event_store.backlog()).dead_letters == 0
    assert telemetry.counted("dead_letters") == before
