"""What a flow is to the benchmarks, and the flows that people write by hand.

Each does the same work: the API server ends up with the customer's message, the reply and the
state.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import aiohttp
import httpx
import requests

from tests.benchmarks.agents import Agent, asked, decided
from tests.benchmarks.customers import Customer
from tests.benchmarks.place import Place

#: Seconds. More conversations in flight than connections: a flow by hand waits for its pool.
PATIENCE = 60.0
#: As many connections as there may be conversations in flight.
CONNECTIONS = httpx.Limits(max_connections=250, max_keepalive_connections=250)
_AS_IT_COMES = httpx.Limits(max_connections=100, max_keepalive_connections=20)


class Blocking(Protocol):
    """A flow at work."""

    def turn(self, customer: Customer, text: str) -> float:
        """Answer a message; when its reply could be sent (``time.perf_counter``)."""

    def settle(self) -> None:
        """Wait until every write is confirmed."""


class Awaited(Protocol):
    """A flow at work on an event loop; see :class:`Blocking`."""

    async def turn(self, customer: Customer, text: str) -> float: ...

    async def settle(self) -> None: ...


@dataclass(frozen=True, slots=True)
class BlockingFlow:
    """A way to answer messages on threads."""

    name: str
    open: Callable[[Place, Agent], AbstractContextManager[Blocking]]


@dataclass(frozen=True, slots=True)
class AsyncFlow:
    """A way to answer messages on an event loop."""

    name: str
    open: Callable[[Place, Agent], AbstractAsyncContextManager[Awaited]]


Flow = BlockingFlow | AsyncFlow


class _Calls:
    """The URLs and bodies of the four calls; what a flow by hand cannot do without."""

    def __init__(self, place: Place) -> None:
        self._url = place.endpoints

    def tenant(self, customer: Customer) -> str:
        return f"{self._url}/lookup/tenant/{customer.phone_number}"

    def read(self, customer: Customer) -> str:
        return f"{self._url}/lookup/conversation/{customer.phone_number}"

    def add(self, session: str) -> str:
        return f"{self._url}/agent/conversations/{session}/messages"

    def sync(self, session: str) -> str:
        return f"{self._url}/agent/conversations/{session}/sync"


def said(role: str, content: Any) -> dict[str, Any]:
    """The body that adds a message."""
    return {"role": role, "content": content}


class _ByHand:
    """A flow that is done when a turn is."""

    def settle(self) -> None:
        """Nothing is left."""


class _AwaitedByHand:
    async def settle(self) -> None:
        """Nothing is left."""


class _Document(_ByHand):
    """The document's sample: look up, read, agent, two messages, sync; a connection for each."""

    def __init__(self, place: Place, agent: Agent) -> None:
        self._calls, self._agent = _Calls(place), agent

    def turn(self, customer: Customer, text: str) -> float:
        session = _data(requests.get(self._calls.tenant(customer), timeout=PATIENCE))["sessionId"]
        _data(requests.get(self._calls.read(customer), timeout=PATIENCE))
        reply = self._agent.invoke(asked(text))
        for message in (said("user", text), said("bot", reply.content)):
            _data(requests.post(self._calls.add(session), json=message, timeout=PATIENCE))
        _data(requests.put(self._calls.sync(session), json=decided(reply), timeout=PATIENCE))
        return time.perf_counter()


def _data(response: requests.Response | httpx.Response) -> dict[str, Any]:
    response.raise_for_status()
    found: dict[str, Any] = response.json()["data"]
    return found


class _Httpx(_ByHand):
    """The four calls on one ``httpx.Client``."""

    def __init__(self, place: Place, agent: Agent, client: httpx.Client) -> None:
        self._calls, self._agent, self._client = _Calls(place), agent, client

    def turn(self, customer: Customer, text: str) -> float:
        session = _data(self._client.get(self._calls.read(customer)))["sessionId"]
        reply = self._agent.invoke(asked(text))
        _data(self._client.post(self._calls.add(session), json=said("user", text)))
        _data(self._client.post(self._calls.add(session), json=said("bot", reply.content)))
        _data(self._client.put(self._calls.sync(session), json=decided(reply)))
        return time.perf_counter()


class _AsyncHttpx(_AwaitedByHand):
    """The four calls on one ``httpx.AsyncClient``."""

    def __init__(self, place: Place, agent: Agent, client: httpx.AsyncClient) -> None:
        self._calls, self._agent, self._client = _Calls(place), agent, client

    async def turn(self, customer: Customer, text: str) -> float:
        session = _data(await self._client.get(self._calls.read(customer)))["sessionId"]
        reply = await self._agent.ainvoke(asked(text))
        _data(await self._client.post(self._calls.add(session), json=said("user", text)))
        _data(await self._client.post(self._calls.add(session), json=said("bot", reply.content)))
        _data(await self._client.put(self._calls.sync(session), json=decided(reply)))
        return time.perf_counter()


class _Aiohttp(_AwaitedByHand):
    """The four calls on one aiohttp session."""

    def __init__(self, place: Place, agent: Agent, client: aiohttp.ClientSession) -> None:
        self._calls, self._agent, self._client = _Calls(place), agent, client

    async def turn(self, customer: Customer, text: str) -> float:
        session = (await self._call("GET", self._calls.read(customer)))["sessionId"]
        reply = await self._agent.ainvoke(asked(text))
        await self._call("POST", self._calls.add(session), said("user", text))
        await self._call("POST", self._calls.add(session), said("bot", reply.content))
        await self._call("PUT", self._calls.sync(session), decided(reply))
        return time.perf_counter()

    async def _call(self, method: str, url: str, body: Any = None) -> dict[str, Any]:
        async with self._client.request(method, url, json=body) as response:
            response.raise_for_status()
            found: dict[str, Any] = (await response.json())["data"]
            return found


class _AgentAlone(_AwaitedByHand):
    """No API server at all: what the agent costs in each of the flows."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def turn(self, customer: Customer, text: str) -> float:
        decided(await self._agent.ainvoke(asked(text)))
        return time.perf_counter()


@contextmanager
def _document(place: Place, agent: Agent) -> Iterator[Blocking]:
    yield _Document(place, agent)


@contextmanager
def _httpx(place: Place, agent: Agent) -> Iterator[Blocking]:
    with httpx.Client(timeout=PATIENCE, trust_env=False) as client:
        yield _Httpx(place, agent, client)


@asynccontextmanager
async def _async_httpx(
    place: Place, agent: Agent, *, limits: httpx.Limits = _AS_IT_COMES
) -> AsyncIterator[Awaited]:
    async with httpx.AsyncClient(limits=limits, timeout=PATIENCE, trust_env=False) as client:
        yield _AsyncHttpx(place, agent, client)


@asynccontextmanager
async def _aiohttp(place: Place, agent: Agent) -> AsyncIterator[Awaited]:
    connector = aiohttp.TCPConnector(limit=250)
    async with aiohttp.ClientSession(connector=connector) as client:
        yield _Aiohttp(place, agent, client)


@asynccontextmanager
async def _agent_alone(_place: Place, agent: Agent) -> AsyncIterator[Awaited]:
    yield _AgentAlone(agent)


DOCUMENT = BlockingFlow("the document's sample", _document)
HTTPX = BlockingFlow("bare httpx, sync", _httpx)
ASYNC_HTTPX = AsyncFlow("bare httpx", _async_httpx)
#: No connection is closed between two calls, and httpcore looks at all of them for each.
ASYNC_HTTPX_KEEPING = AsyncFlow(
    "bare httpx, all kept alive", partial(_async_httpx, limits=CONNECTIONS)
)
AIOHTTP = AsyncFlow("hand-written aiohttp", _aiohttp)
AGENT_ALONE = AsyncFlow("the agent alone", _agent_alone)
