"""Callback handlers with a store: what is decided for an event is synced once."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, TypedDict

import pytest
from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph
from langgraph.types import Command, interrupt

from langchain_convsync import telemetry
from langchain_convsync._flow import run
from langchain_convsync.callbacks import AsyncConvSyncCallbackHandler, ConvSyncCallbackHandler
from langchain_convsync.callbacks._once import NAMESPACE
from langchain_convsync.errors import (
    APIConnectionError,
    ConfigurationError,
    EventInProgressError,
    InvalidEventError,
    StoreUnavailableError,
)
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores import RedisEventStore, SQLiteEventStore
from langchain_convsync.stores.base import Acquired, EventStore
from langchain_convsync.stores.claims import claim, give_back
from langchain_convsync.stores.heartbeat import Watch
from langchain_convsync.surfaces.context import ConversationRef, event_name, in_conversation
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests import served
from tests.served import THREAD, Client, requests, state
from tests.surfaces import BOT, PHONE, TENANT, every_form, invoke, perform, sync_and_async

pytestmark = pytest.mark.usefixtures("no_pause")

reference, server, client = served.reference, served.server, served.client

Handler = ConvSyncCallbackHandler | AsyncConvSyncCallbackHandler
every_handler = pytest.mark.parametrize(
    "kind", [ConvSyncCallbackHandler, AsyncConvSyncCallbackHandler]
)
OTHER = "+51988888888"


@pytest.fixture
def memory() -> Iterator[EventStore]:
    store = SQLiteEventStore(":memory:")
    yield store
    store.close()


def deciding(**decided: Any) -> Runnable[Any, Any]:
    return RunnableLambda(lambda _: decided or {"intent": "payment"})


def held(store: EventStore) -> Acquired:
    """Another process is in its sync of the event."""
    name = event_name(ConversationRef(PHONE, event_id="evt_1"))
    acquired = run(claim(store, name, namespace=NAMESPACE, lease=0.2)).acquired
    assert acquired is not None
    return acquired


@every_handler
@every_form
async def test_an_event_is_synced_once_whichever_handler_sees_it(
    server: ReferenceServer, client: Client, event_store: EventStore, kind: type[Handler], form: str
) -> None:
    """In every form of a call; the run itself happens each time."""
    for intent in ("payment", "menu", "order"):
        with in_conversation(PHONE, event_id="evt_1"):
            handler = kind(client, store=event_store)
            await perform(form, deciding(intent=intent), "?", {"callbacks": [handler]})

    assert state(server)[0] == "payment"
    assert requests(server) == ["GET", "PUT"]


@every_handler
@sync_and_async
async def test_each_event_is_synced(
    server: ReferenceServer,
    client: Client,
    event_store: EventStore,
    kind: type[Handler],
    mode: str,
) -> None:
    """One handler serves them all; an event is one customer's."""
    server.create_conversation(phone_number=OTHER, subdomain=TENANT, bot_id=BOT)
    handler = kind(client, store=event_store)

    for phone, event_id in ((PHONE, "evt_1"), (PHONE, "evt_2"), (OTHER, "evt_1")):
        with in_conversation(phone, event_id=event_id):
            await invoke(mode, deciding(), "?", {"callbacks": [handler]})

    assert requests(server) == ["GET", "PUT"] * 3


ANSWERING = """
import sys
from langchain_core.runnables import RunnableLambda
from langchain_convsync import ConvSyncCallbackHandler, ConvSyncClient, in_conversation
from langchain_convsync.stores import open_store

url, store, phone, intent = sys.argv[1:]
handler = ConvSyncCallbackHandler(ConvSyncClient(url), store=open_store(store), raise_error=True)
print("ready", flush=True)
sys.stdin.readline()
with in_conversation(phone, event_id="evt_1"):
    RunnableLambda(lambda _: {"intent": intent}).invoke("?", {"callbacks": [handler]})
"""


@pytest.mark.slow  # `test_dedup_races.py` has two processes race
def test_two_processes_that_answer_an_event_sync_it_once(
    server: ReferenceServer, durable_store_url: str
) -> None:
    """Real processes, at the same time: a webhook was delivered to both."""
    command = [sys.executable, "-c", ANSWERING, server.base_url, durable_store_url, PHONE]
    pipe = subprocess.PIPE
    with ExitStack() as running:
        both = [
            running.enter_context(
                subprocess.Popen([*command, intent], stdin=pipe, stdout=pipe, text=True)
            )
            for intent in ("payment", "menu")
        ]
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in both:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.wait(timeout=60) for process in both] == [0, 0]

    assert requests(server) == ["GET", "PUT"]
    assert state(server)[0] in {"payment", "menu"}


@every_handler
@sync_and_async
async def test_a_run_that_decides_nothing_leaves_the_event_to_others(
    server: ReferenceServer, client: Client, memory: EventStore, kind: type[Handler], mode: str
) -> None:
    """So does one that fails."""

    def fail(_: Any) -> None:
        raise TimeoutError

    with in_conversation(PHONE, event_id="evt_1"):
        config: Any = {"callbacks": [kind(client, store=memory)]}
        await invoke(mode, RunnableLambda(lambda _: "Listo"), "?", config)
        with pytest.raises(TimeoutError):
            await invoke(mode, RunnableLambda(fail), "?", config)
        await invoke(mode, deciding(), "?", config)

    assert requests(server) == ["GET", "PUT"]


@every_handler
@sync_and_async
async def test_a_sync_that_fails_gives_its_event_back(
    server: ReferenceServer, client: Client, memory: EventStore, kind: type[Handler], mode: str
) -> None:
    """The next delivery syncs it."""
    errors: list[Exception] = []

    with in_conversation(PHONE, event_id="evt_1"):
        config: Any = {"callbacks": [kind(client, store=memory, on_error=errors.append)]}
        server.stop()
        await invoke(mode, deciding(), "?", config)
        server.start()
        run(give_back(memory, held(memory)))  # it is free at once
        await invoke(mode, deciding(), "?", config)

    assert [type(error) for error in errors] == [APIConnectionError]
    assert state(server)[0] == "payment"


@every_handler
@sync_and_async
async def test_without_its_store_nothing_is_synced(
    server: ReferenceServer, client: Client, kind: type[Handler], mode: str
) -> None:
    """It could be the second time; the answer is there, and the failure is told."""
    errors: list[Exception] = []
    store = RedisEventStore("redis://127.0.0.1:9/0")
    handler = kind(client, store=store, on_error=errors.append)

    with in_conversation(PHONE, event_id="evt_1"):
        answer = await invoke(mode, deciding(), "?", {"callbacks": [handler]})
    await store.aclose()

    assert answer == {"intent": "payment"}
    assert [type(error) for error in errors] == [StoreUnavailableError]
    assert requests(server) == []


@every_handler
@sync_and_async
async def test_without_an_event_the_state_is_synced_and_the_omission_told(
    server: ReferenceServer,
    client: Client,
    memory: EventStore,
    kind: type[Handler],
    mode: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Twice is better than never."""
    before = telemetry.counted("callback_events_unnamed")

    with in_conversation(PHONE), caplog.at_level(logging.WARNING):
        handler = kind(client, store=memory)
        await invoke(mode, deciding(), "?", {"callbacks": [handler]})

    assert state(server)[0] == "payment"
    assert "event_id=" in caplog.text
    assert telemetry.counted("callback_events_unnamed") == before + 1


@every_handler
@sync_and_async
async def test_the_event_of_a_process_that_died_in_its_sync_is_taken_over(
    server: ReferenceServer, client: Client, memory: EventStore, kind: type[Handler], mode: str
) -> None:
    """After its lease, by the next run of the event."""
    held(memory)
    handler = kind(client, store=memory)

    with in_conversation(PHONE, event_id="evt_1"):
        await invoke(mode, deciding(), "?", {"callbacks": [handler]})

    assert state(server)[0] == "payment"


@every_handler
@sync_and_async
async def test_an_event_that_another_process_holds_on_to_is_left_to_it(
    server: ReferenceServer,
    client: Client,
    memory: EventStore,
    kind: type[Handler],
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It lives, and may still come to its end; that it was left is told."""
    monkeypatch.setattr("langchain_convsync.callbacks._once.LEASE", 0.2)
    errors: list[Exception] = []
    handler = kind(client, store=memory, on_error=errors.append)

    with (
        Watch(memory, held(memory).lease, seconds=0.2, deadline=None),
        in_conversation(PHONE, event_id="evt_1"),
    ):
        await invoke(mode, deciding(), "?", {"callbacks": [handler]})

    assert [type(error) for error in errors] == [EventInProgressError]
    assert requests(server) == []


@every_handler
@sync_and_async
async def test_an_interrupted_run_leaves_its_event_to_the_one_that_ends_it(
    server: ReferenceServer, client: Client, memory: EventStore, kind: type[Handler], mode: str
) -> None:
    """While a human is asked nothing is synced; afterwards it is, once."""

    class State(TypedDict, total=False):
        intent: str
        step: str

    built: Any = StateGraph(State)  # its overloads know no node of any state
    built.add_node("first", lambda _: {"intent": "payment"})
    built.add_node("second", lambda _: {"step": interrupt("Really?")})
    built.add_edge("__start__", "first").add_edge("first", "second")
    graph: Runnable[Any, Any] = built.compile(checkpointer=InMemorySaver())
    config: Any = {**THREAD, "callbacks": [kind(client, store=memory)]}

    with in_conversation(PHONE, event_id="evt_1"):
        await invoke(mode, graph, {}, config)
        waiting = requests(server)
        await invoke(mode, graph, Command(resume="paying"), config)

    assert waiting == []
    assert state(server) == ("payment", "paying")
    assert requests(server) == ["GET", "PUT"]


@pytest.mark.parametrize("form", ["batch", "abatch"])
async def test_a_batch_of_events_gives_each_a_handler_of_its_own(
    server: ReferenceServer, client: Client, memory: EventStore, form: str
) -> None:
    """A block names one event; a reference in a config names one for each input."""
    refs = [ConversationRef(PHONE, event_id=f"evt_{number}") for number in (1, 2, 1)]
    configs: Any = [
        {"callbacks": [ConvSyncCallbackHandler(client, conversation=ref, store=memory)]}
        for ref in refs
    ]
    inputs = ["?"] * len(refs)

    if form == "batch":
        deciding().batch(inputs, configs)
    else:
        await deciding().abatch(inputs, configs)

    assert requests(server).count("PUT") == 2


async def test_inside_a_runner_the_turn_is_once_per_event_by_itself(
    server: ReferenceServer, client: Client, memory: EventStore
) -> None:
    """The handler's store is not asked: here it is away."""
    away = RedisEventStore("redis://127.0.0.1:9/0")
    answer: Runnable[Any, Any] = RunnableLambda(lambda _: {"output": "Listo", "step": "paying"})
    handler = AsyncConvSyncCallbackHandler(client, store=away)
    runner = TurnRunner(
        answer.with_config(callbacks=[handler]),
        client=client,
        store=memory,
        extractor=lambda _: {},
    )

    with in_conversation(PHONE, event_id="evt_1"):
        turn = await runner.arun(InboundEvent(event_id="evt_1", phone_number=PHONE, text="Pago"))
    await away.aclose()

    assert turn.state.step == "paying"
    assert requests(server) == ["GET", "POST", "POST", "PUT"]


@pytest.mark.parametrize("event_id", ["", 7])
def test_an_event_without_a_usable_id_is_refused_at_once(event_id: Any) -> None:
    """All of them would be the same event."""
    with (
        pytest.raises((InvalidEventError, ConfigurationError), match="event_id"),
        in_conversation(PHONE, event_id=event_id),
    ):
        pass


async def test_an_event_id_is_told_to_no_tracer(
    server: ReferenceServer, client: Client, memory: EventStore
) -> None:
    """WAHA's ids hold the phone number."""
    tracer = served.Tracer()
    event_id = f"false_{PHONE.removeprefix('+')}@c.us_3EB0"

    with in_conversation(PHONE, event_id=event_id) as ref:
        handler = ConvSyncCallbackHandler(client, store=memory)
        await deciding().ainvoke("Pago", {"callbacks": [tracer, handler]})

    assert "Pago" in "".join(tracer.exported)
    assert "999999999" not in "".join([*tracer.exported, repr(ref)])
    assert state(server)[0] == "payment"
