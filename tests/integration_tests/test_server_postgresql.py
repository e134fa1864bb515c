"""The reference server's conversations on PostgreSQL: the same promises, kept by its own locks."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from langchain_convsync.models import InboundEvent
from langchain_convsync.server.answers import KeyReusedError
from langchain_convsync.server.customers import Customer
from langchain_convsync.server.store import UnknownSessionError
from langchain_convsync.server.wire import NewMessage, StateSync
from tests.clocked_store import ABC, PHONE, ClockedStore
from tests.postgres_server import binaries, postgres

pytestmark = pytest.mark.skipif(binaries() is None, reason="no PostgreSQL in a wheel here")


@pytest.fixture(scope="module")
def store() -> Iterator[ClockedStore]:
    with postgres() as server, closing(ClockedStore(server.url)) as opened:
        yield opened


def test_simultaneous_first_messages_begin_one_conversation(store: ClockedStore) -> None:
    """For each of many customers, under the number and the LID; a unique name makes it so."""
    customers = [Customer(f"+5191111{number:04}", f"{number}@lid") for number in range(20)]

    def receive(number: int) -> str:
        customer = customers[number // 4]
        return store.receive(customer if number % 2 else customer._replace(lid=None), ABC)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(receive, range(80)))

    for number in range(20):
        assert len(set(found[number * 4 : number * 4 + 4])) == 1


def test_parallel_writes_lose_nothing(store: ClockedStore) -> None:
    """Every key and every message of simultaneous writes is there, once and in order."""
    session_id = store.begin("+51922222222")

    def write(number: int) -> None:
        store.merge(session_id, context={f"key{number}": number})
        store.say(session_id, str(number))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(40)))
    context = store.seen("+51922222222")["context"]

    said = [entry["content"] for entry in context["previousMessages"]]
    assert {f"key{number}" for number in range(40)} <= context.keys()
    assert sorted(said, key=int) == [str(number) for number in range(40)]


def test_a_key_is_applied_once_however_often_it_comes_at_the_same_time(store: ClockedStore) -> None:
    """The repetitions wait for the first, and are answered alike."""
    session_id, hola = store.begin("+51933333333"), NewMessage(role="user", content="Hola")

    with ThreadPoolExecutor(8) as threads:
        tries = range(16)
        found = list(threads.map(lambda _: store.add_message(session_id, hola, key="k"), tries))

    assert [each.replayed for each in found].count(False) == 1
    assert all(each.data == found[0].data for each in found)
    assert len(store.seen("+51933333333")["context"]["previousMessages"]) == 1
    with pytest.raises(KeyReusedError):
        store.sync(session_id, StateSync(), key="k")


def test_a_long_history_is_told_again_as_it_was(store: ClockedStore) -> None:
    """In order, and also after a sync replaced it."""
    session_id = store.begin("+51944444444")
    messages = [NewMessage(role="bot", content=f"{n} \n ñ") for n in range(30)]
    first = [store.add_message(session_id, each, key=f"m{n}") for n, each in enumerate(messages)]
    store.merge(session_id, context={"previousMessages": [{"role": "user", "content": "x"}]})

    again = [store.add_message(session_id, each, key=f"m{n}") for n, each in enumerate(messages)]

    said = [each["content"] for each in first[-1].data["context"]["previousMessages"]]
    assert said == [each.content for each in messages]
    assert [each.data for each in again] == [each.data for each in first]


def test_text_that_the_database_cannot_hold_names_no_customer(store: ClockedStore) -> None:
    """NUL in an id finds nothing, as elsewhere."""
    assert store.find("\0") is None
    assert store.find(PHONE, "\0") is None
    with pytest.raises(UnknownSessionError):
        store.sync("\0", StateSync())


def test_events_are_forwarded_in_order(store: ClockedStore) -> None:
    """Each is taken by one server."""
    for number in "12":
        event = InboundEvent(event_id=number, text=number, phone_number=PHONE)
        store.receive(Customer.of(PHONE), ABC, forward=event)

    first, meanwhile = store.forwards.acquire(), store.forwards.acquire()

    assert first is not None
    assert '"event_id": "1"' in first.body
    assert meanwhile is None
