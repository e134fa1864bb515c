"""What OpenTelemetry is told of a turn, and that it costs nothing where nobody listens."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from opentelemetry import trace
from opentelemetry.metrics import Histogram, MeterProvider, NoOpHistogram, NoOpMeter
from opentelemetry.trace import SpanKind, StatusCode

from langchain_convsync import ConvSyncClient, SQLiteEventStore, WAHAReply, telemetry
from langchain_convsync.errors import APIError
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests import promises
from tests.faulty_server import FaultyServer, answers
from tests.promises import CUSTOMER, Answer, echo, said, sync_and_async
from tests.spans import Exported, exported
from tests.waha_chats import WahaChats, waha_server

server = promises.server


@pytest.fixture
def otel() -> Iterator[Exported]:
    with exported() as found:
        yield found


def runner_on(server: ReferenceServer, **settings: object) -> TurnRunner:
    """A runner with a store of its own."""
    given = {"agent": echo(), **settings}
    return TurnRunner(client=server.client(), store=SQLiteEventStore(":memory:"), **given)  # type: ignore[arg-type]  # settings


@sync_and_async
def test_a_turn_is_a_tree_of_spans(answer: Answer, server: ReferenceServer, otel: Exported) -> None:
    """Read, agent and commit inside the turn; requests inside what makes them."""
    answer(runner_on(server), said("Hola"))

    assert otel.tree() == [
        ("convsync turn", None),
        ("convsync turn read", "convsync turn"),
        ("convsync api get_conversation", "convsync turn read"),
        ("convsync turn agent", "convsync turn"),
        ("convsync turn commit", "convsync turn"),
        ("convsync delivery outbox", None),
        ("convsync api get_conversation", "convsync delivery outbox"),  # where a history begins
        ("convsync api add_message", "convsync delivery outbox"),
        ("convsync api add_message", "convsync delivery outbox"),
    ]
    request, turn = otel.spans[0], otel.named("convsync turn")
    assert (request.name, request.kind) == ("convsync api get_conversation", SpanKind.CLIENT)
    assert dict(request.attributes or {}) == {
        "convsync.operation": "get_conversation",
        "convsync.status": "2xx",
    }
    assert set(turn.attributes or {}) == {"convsync.turn", "convsync.conversation"}


@sync_and_async
def test_a_reply_through_waha_has_its_spans(
    answer: Answer, server: ReferenceServer, otel: Exported
) -> None:
    """The customer's wait ends with it."""
    with waha_server(WahaChats()) as url:
        runner = runner_on(server, reply=WAHAReply(url))
        answer(runner, said("Hola", chat_id=f"{CUSTOMER[1:]}@c.us"))

    assert ("convsync waha send_text", "convsync delivery replies") in otel.tree()


@sync_and_async
def test_what_an_agent_traces_itself_stands_inside_the_turn(
    answer: Answer, server: ReferenceServer, otel: Exported
) -> None:
    """The instrumentation of a model, say; and the turn inside what the application traces."""
    tracer = telemetry._record._spans._tracer  # type: ignore[union-attr]  # it listens

    def reply(_: object) -> AIMessage:
        with tracer.start_as_current_span("the model"):
            return AIMessage("Con gusto")

    with tracer.start_as_current_span("the webhook"):
        answer(runner_on(server, agent=RunnableLambda(reply)), said("Hola"))

    assert ("the model", "convsync turn agent") in otel.tree()
    assert ("convsync turn", "the webhook") in otel.tree()
    assert not trace.get_current_span().get_span_context().is_valid


async def test_turns_at_once_do_not_mix_their_spans(
    server: ReferenceServer, otel: Exported
) -> None:
    """Each read belongs to its own turn, though all run on one loop."""
    numbers = [f"+5199999990{number}" for number in range(5)]
    for number in numbers:
        server.create_conversation(phone_number=number, subdomain="restaurant", bot_id="bot123")
    runner = runner_on(server)
    await asyncio.gather(*(runner.arun(said(n, phone_number=n)) for n in numbers))

    turns = {span.context.span_id for span in otel.spans if span.name == "convsync turn"}
    for phase in ("read", "agent", "commit"):
        found = [span for span in otel.spans if span.name == f"convsync turn {phase}"]
        assert {span.parent.span_id for span in found if span.parent} == turns


@sync_and_async
def test_a_failure_is_told_by_its_class_alone(
    answer: Answer, server: ReferenceServer, otel: Exported
) -> None:
    """Its text may quote the customer, and so may its traceback."""

    def fails(_: object) -> AIMessage:
        message = f"no answer for {CUSTOMER}"
        raise LookupError(message)

    answer(runner_on(server, agent=RunnableLambda(fails), max_errors=1), said("Hola"))
    agent = otel.named("convsync turn agent")

    assert agent.status.status_code is StatusCode.ERROR
    assert agent.status.description is None
    assert (agent.attributes or {})["error.type"] == "LookupError"
    assert agent.events == ()
    assert otel.named("convsync turn").status.status_code is StatusCode.UNSET  # it was ended well


def test_a_request_that_fails_is_a_failed_span(otel: Exported) -> None:
    """Each attempt has its own."""
    with FaultyServer() as faulty:
        faulty.plays(answers({"type": "3", "message": CUSTOMER}, 503))
        client = ConvSyncClient(faulty.url, max_retries=1)
        with pytest.raises(APIError):
            client.get_conversation(CUSTOMER)
        client.close()

    told = [(span.status.status_code, dict(span.attributes or {})) for span in otel.spans]
    failed = {"operation": "get_conversation", "status": "5xx"}
    attributes = {f"convsync.{name}": fact for name, fact in failed.items()}
    assert told == [(StatusCode.ERROR, {**attributes, "error.type": "ServerError"})] * 2


def test_counters_and_histograms_are_exported(server: ReferenceServer, otel: Exported) -> None:
    """The same numbers that Prometheus reads, under the names of OpenTelemetry's conventions."""
    runner_on(server).run(said("Hola"))
    metrics = otel.metrics()
    answered, agent = {("status", "answered")}, {("phase", "agent")}

    assert metrics["convsync.turns", frozenset(answered)] == telemetry.counted(
        "turns", status="answered"
    )
    assert metrics["convsync.turn_phase", frozenset(agent)] == 1


ASKS = """
import json, sys
from langchain_convsync import ConvSyncClient, telemetry
SETUP
client = ConvSyncClient("http://127.0.0.1:9", max_retries=0)
try:
    client.get_conversation("+51999999999")
except Exception as error:
    pass
"""
SETS_UP = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
"""


def printed(code: str) -> object:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return json.loads(done.stdout)


ENTERS_A_BLOCK = """
from langchain_core.runnables import RunnableLambda
from langchain_convsync import SQLiteEventStore, TurnRunner
client = ConvSyncClient("http://127.0.0.1:9", max_retries=0)
SETUP
TurnRunner(
    RunnableLambda(str), client=client, store=SQLiteEventStore(":memory:"), on_reply=print
).__enter__()
try:
    client.get_conversation("+51999999999")
except Exception:
    pass
"""


@pytest.mark.parametrize(
    "code",
    [
        ASKS,
        "from langchain_convsync import ConvSyncClient, telemetry\nimport json" + ENTERS_A_BLOCK,
    ],
    ids=["before the client", "before the block"],
)
def test_it_listens_by_itself_once_the_application_set_it_up(code: str) -> None:
    """Nothing is to be switched on."""
    tell = """
names = [span.name for span in exporter.get_finished_spans()]
print(json.dumps([names, "convsync.api_request" in reader.get_metrics_data().to_json()]))
"""
    assert printed(code.replace("SETUP", SETS_UP) + tell) == [
        ["convsync api get_conversation"],
        True,
    ]


class OldMeter(NoOpMeter):
    """A meter of OpenTelemetry 1.29."""

    def create_histogram(self, name: str, unit: str = "", description: str = "") -> Histogram:  # type: ignore[override]  # as it was
        return NoOpHistogram(name, unit, description)


class OldProvider(MeterProvider):
    def get_meter(self, name: str, *_: object, **__: object) -> OldMeter:
        return OldMeter(name)


def test_an_older_opentelemetry_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An application may bring one of its own."""
    telemetry.connect(meter_provider=OldProvider())

    assert telemetry._record._meters is None
    assert "langchain-convsync[otel]" in caplog.text


@pytest.mark.parametrize(
    "setup", ["", "from opentelemetry import metrics, trace"], ids=["absent", "imported only"]
)
def test_nothing_is_recorded_where_the_application_did_not_ask(setup: str) -> None:
    """Neither is OpenTelemetry imported, nor does one that is there, unused, get a span."""
    tell = """
listens = [telemetry._record._spans, telemetry._record._meters] != [None, None]
print(json.dumps([listens, "opentelemetry" in sys.modules]))
"""
    assert printed(ASKS.replace("SETUP", setup) + tell) == [False, bool(setup)]


async def test_what_waits_is_told_without_a_read_of_the_store(
    server: ReferenceServer, otel: Exported
) -> None:
    """A worker of the block looks now and then; an export reads what it found."""
    store = SQLiteEventStore(":memory:")
    runner = TurnRunner(
        echo(),
        client=server.client(),
        store=store,
        on_reply=lambda _: None,
        debounce=3600.0,
        max_debounce=3600.0,
    )
    await runner.aaccept(said("Hola"))
    async with runner:
        while ("convsync.store_up", frozenset()) not in otel.metrics():  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)
        with store._lock:  # whoever reads it now would wait for ever
            told = otel.metrics()
    store.close()

    assert told["convsync.store_up", frozenset()] == 1
    assert told["convsync.backlog", frozenset({("what", "queued")})] == 1
    assert told["convsync.backlog", frozenset({("what", "dead_letters")})] == 0
    assert ("convsync.oldest_due_seconds", frozenset({("queue", "inbox")})) in told


def test_what_was_looked_up_long_ago_is_not_told(
    otel: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process whose block has ended tells nothing of a store that others work on."""
    now = [1000.0]
    monkeypatch.setattr("langchain_convsync.telemetry._record.monotonic", lambda: now[0])
    telemetry.look_up([telemetry.Gauge("store_up", 1)])
    now[0] += 59
    assert otel.metrics()["convsync.store_up", frozenset()] == 1

    now[0] += 2

    assert ("convsync.store_up", frozenset()) not in otel.metrics()
