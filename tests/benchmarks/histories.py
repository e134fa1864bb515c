"""(e) Reading and appending to a history, beside the same calls by hand and beside a peer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from typing import Any, Protocol

import httpx
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_convsync import ConvSyncChatMessageHistory, ConvSyncClient
from tests.benchmarks.customers import OtherWorkError, new_customers
from tests.benchmarks.ours import STORES, StoreKind, new_store
from tests.benchmarks.place import Place
from tests.benchmarks.rounds import Clock, Job, Progress, Sample, play
from tests.benchmarks.sheet import Sheet
from tests.benchmarks.sizes import Sizes

LENGTH = 20
READ, APPEND = f"read {LENGTH} messages", "append 2 messages"
BY_HAND = "bare httpx"
PEER = "RedisChatMessageHistory"
MISSING = f"{PEER}: skipped, it is no longer maintained (pip install langchain-community)"


class History(Protocol):
    """What is compared of a chat message history."""

    @property
    def messages(self) -> list[BaseMessage]: ...

    def add_messages(self, messages: list[BaseMessage], /) -> None: ...


Opened = AbstractContextManager[History]


def measure(place: Place, sizes: Sizes, progress: Progress) -> Sheet:
    """Without a store, with one, by hand, and the peer if it is installed."""
    sheet = Sheet("e", "history: read and append", {"time": "ms", "cpu": "ms"}, BY_HAND)
    place.behave(cap=LENGTH, begun=LENGTH)
    histories: dict[str, Callable[[], Opened]] = {"ours": partial(_ours, place, None)}
    histories |= {f"ours, store={kind}": partial(_ours, place, kind) for kind in STORES}
    histories[BY_HAND] = partial(_by_hand, place)
    if (peer := _peer_class()) is None:
        sheet.notes.append(MISSING)
    else:
        histories[PEER] = partial(_peer, place, peer)
    jobs = [Job(who, partial(_cost, new, sizes.operations)) for who, new in histories.items()]
    play(sheet, jobs, sizes.rounds, progress)
    return sheet


def _cost(new: Callable[[], Opened], count: int) -> Mapping[str, Sample]:
    with new() as history:
        clock = Clock()
        lengths = {len(history.messages) for _ in range(count)}
        read = clock.read()
        _require(lengths == {LENGTH})
        clock = Clock()
        for number in range(count):
            history.add_messages(_pair(number))
        appended = clock.read()
        last = [(m.type, m.content) for m in history.messages[-2:]]
        _require(last == [(m.type, m.content) for m in _pair(count - 1)])
    return {
        at: {"time": wall / count * 1000, "cpu": cpu / count * 1000}
        for at, (cpu, wall) in ((READ, read), (APPEND, appended))
    }


def _require(same: bool) -> None:
    if not same:
        message = "a history does not hold what was written to it"
        raise OtherWorkError(message)


def _pair(number: int) -> list[BaseMessage]:
    return [HumanMessage(f"Quiero {number} pizzas"), AIMessage(f"Van {number} pizzas")]


@contextmanager
def _ours(place: Place, kind: StoreKind | None) -> Iterator[History]:
    (customer,) = new_customers(1)
    with ConvSyncClient(place.api_url) as client:
        if kind is None:
            yield ConvSyncChatMessageHistory(customer.phone_number, client=client)
            return
        with closing(new_store(place, kind)) as store:
            yield ConvSyncChatMessageHistory(customer.phone_number, client=client, store=store)


class _ByHand:
    def __init__(self, place: Place, phone_number: str, client: httpx.Client) -> None:
        self._read = f"{place.endpoints}/lookup/conversation/{phone_number}"
        self._session = client.get(self._read).json()["data"]["sessionId"]
        self._add = f"{place.endpoints}/agent/conversations/{self._session}/messages"
        self._client = client

    @property
    def messages(self) -> list[BaseMessage]:
        data = self._client.get(self._read).raise_for_status().json()["data"]
        kinds = {"user": HumanMessage, "bot": AIMessage}
        return [kinds[m["role"]](m["content"]) for m in data["context"]["previousMessages"]]

    def add_messages(self, messages: list[BaseMessage], /) -> None:
        for message in messages:
            role = "user" if message.type == "human" else "bot"
            body = {"role": role, "content": message.content}
            self._client.post(self._add, json=body).raise_for_status()


@contextmanager
def _by_hand(place: Place) -> Iterator[History]:
    (customer,) = new_customers(1)
    with httpx.Client(trust_env=False) as client:
        yield _ByHand(place, customer.phone_number, client)


def _peer_class() -> Any:
    """A history in Redis itself; langchain-redis' own needs a search module that Valkey lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its end
        try:
            from langchain_community.chat_message_histories import (  # type: ignore[import-not-found, unused-ignore]  # optional
                RedisChatMessageHistory,
            )
        except ImportError:
            return None
    return RedisChatMessageHistory


@contextmanager
def _peer(place: Place, peer: Any) -> Iterator[History]:
    (customer,) = new_customers(1)
    history = peer(customer.phone_number, url=place.redis_url)
    with closing(history.redis_client):
        history.add_messages([m for number in range(LENGTH // 2) for m in _pair(number)])
        yield history
