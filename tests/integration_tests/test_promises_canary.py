"""No customer id, WAHA session and API key is found anywhere it does not belong."""

from __future__ import annotations

import asyncio
import logging
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tracers import BaseTracer, Run
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from langchain_convsync import telemetry, waha
from langchain_convsync._flow import run
from langchain_convsync.callbacks import ConvSyncCallbackHandler
from langchain_convsync.chat_history import ConvSyncChatMessageHistory
from langchain_convsync.client import AsyncConvSyncClient, ConvSyncClient
from langchain_convsync.errors import ConvSyncError
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.models import InboundEvent
from langchain_convsync.outbox import PendingReply, WAHAReply
from langchain_convsync.server.api import create_reference_api
from langchain_convsync.settings import ServerProfile
from langchain_convsync.stores import open_store
from langchain_convsync.stores.base import EventStore
from langchain_convsync.stores.served import adopted
from langchain_convsync.surfaces.context import ConversationRef, in_conversation
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.tools import ConvSyncToolkit
from langchain_convsync.turns import Turn, TurnRunner
from tests.faulty_server import CLOSE, FaultyServer, Script, answers, sends
from tests.promises import Answer, echo, sync_and_async
from tests.redis_server import RedisServer
from tests.spans import Exported, exported
from tests.stored import rows
from tests.surfaces import calls

PHONE, LID = "+51944333222", "38111222333444@lid"
BSUID, OWN = "PE.canaryBSUID0001z", "canary-customer-0001"
KEY, WAHA_SESSION = "canary-key-5d1c", "canary-session-77"
WORDS, SAID = "canary-words-of-the-customer", "canary-words-of-the-bot"
BESIDE = "canary-beside-the-words"
IDS = ("944333222", "38111222333444", "canaryBSUID0001z", OWN)
CANARIES = (*IDS, KEY, WAHA_SESSION, WORDS, SAID, BESIDE)
#: All that may come along with a text.
PARTS: dict[str, Any] = {
    "quoted": {"text": BESIDE, "id": BESIDE, "sender": PHONE, "media": {"filename": BESIDE}},
    "choice": {"id": BESIDE, "title": BESIDE, "kind": "flow", "params": {BESIDE: BESIDE}},
    "referral": {"source_id": BESIDE, "title": BESIDE, "body": BESIDE, "source_url": BESIDE},
    "mentions": (PHONE, LID),
    "poll_votes": (BESIDE,),
    "location": {"name": BESIDE, "address": BESIDE, "latitude": 1.0, "longitude": 2.0},
    "contacts": ({"name": BESIDE, "phone_numbers": (PHONE,), "organization": BESIDE},),
    "media": {"url": BESIDE, "filename": BESIDE, "error": BESIDE},
    "notes": (BESIDE,),
    "reply_to": BESIDE,
    "unread_kind": BESIDE,
}
#: WAHA's own ids of messages hold the chat.
WAHA_ID = "false_51944333222@c.us_3EB0C0FFEE"

#: What a faulty API server says: everything it knows about the customer.
GOSSIP = {"type": "3", "message": f"{PHONE} {LID} {BSUID} {OWN} {KEY}", "data": {"userId": PHONE}}
FAULTS: dict[str, Script] = {
    "401": answers(GOSSIP, 401),
    "404": answers(GOSSIP, 404),
    "422": answers(GOSSIP, 422),
    "500": answers(GOSSIP, 500),
    "html": answers(f"<p>{PHONE}</p>", 502, content_type="text/html"),
    "another customer": answers({"type": "1", "message": "", "data": GOSSIP["data"]}),
    "cut": sends(b"HTTP/1.1 200 OK\r\n", CLOSE),
}


def message(number: int, **fields: Any) -> InboundEvent:
    """A message as WAHA's webhook tells it, with all ids that a source may know."""
    told: dict[str, Any] = {"chat_id": "51944333222@c.us", "lid": LID, "aliases": (BSUID, OWN)}
    told["waha_session"] = WAHA_SESSION
    return InboundEvent(
        **{
            "event_id": f"{WAHA_ID}{number}",
            "phone_number": PHONE,
            "text": WORDS,
            **told,
            **({} if "text" in fields else PARTS),
            **fields,
        }
    )


class Tracer(BaseTracer):
    """Keeps every run, inputs, outputs, metadata and all, as LangSmith would export it."""

    def __init__(self) -> None:
        super().__init__()
        self.exported: list[str] = []

    def _persist_run(self, run: Run) -> None:
        self.exported += [run.model_dump_json(fallback=repr), repr(run.model_dump())]


def told_by(error: BaseException | None) -> str:
    """All that a log would show of an error."""
    return "" if error is None else "".join(traceback.format_exception(error))


def outcome(answer: Answer, runner: TurnRunner, event: InboundEvent) -> str:
    """What a caller can print of a call."""
    try:
        turn = answer(runner, event, 0.0)
    except ConvSyncError as error:
        return told_by(error)
    return f"{turn!r} {told_by(turn.error)}"


def assert_no_canary(texts: dict[str, str]) -> None:
    """None of them names the customer, the session or the key."""
    found = {where: c for where, text in texts.items() for c in CANARIES if c in text}
    assert not found, {where: texts[where] for where in found}


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        running.create_conversation(phone_number=PHONE, subdomain="restaurant", bot_id="bot123")
        yield running


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Of every logger that there is, as an operator who looks for a fault sets it."""
    caplog.set_level(logging.DEBUG)
    for name in ("langchain_convsync", "httpx", "httpcore.http11", "hpack.hpack", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


@pytest.fixture
def otel() -> Iterator[Exported]:
    with exported() as found:
        yield found


@sync_and_async
def test_logs_errors_metrics_and_keys_never_name_the_customer(
    answer: Answer,
    server: ReferenceServer,
    durable_store_url: str,
    everything_logged: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    otel: Exported,
) -> None:
    """Whatever becomes of an event: answered, repeated, failed, a dead letter, waiting, refused."""
    monkeypatch.setattr("langchain_convsync.turns.reading.NOT_FOUND_TIME", 0.0)
    store = open_store(durable_store_url)
    client = server.client(api_key=KEY)
    runner = TurnRunner(echo(), client=client, store=store, shutdown_timeout=0.01)
    broken = TurnRunner(RunnableLambda(_fails), client=client, store=store, max_errors=1)
    texts = {
        "answered": outcome(answer, runner, message(1)),
        "duplicate": outcome(answer, runner, message(1)),
        "failed": outcome(answer, broken, message(2)),
        "mismatch": outcome(answer, runner, message(3, subdomain="another")),
        "no customer": outcome(
            answer, runner, message(4, phone_number=None, chat_id=None, lid=None, aliases=())
        ),
    }
    for number, (name, script) in enumerate(FAULTS.items()):
        texts[name] = outcome_of_fault(answer, store, script, number)
        texts[f"dead letter by {name}"] = outcome_of_fault(
            answer, store, script, number, reads=server
        )
        texts[f"WAHA {name}"] = outcome_of_sending(answer, store, script, number, client)
    store.close()
    texts["closed store"] = outcome(answer, runner, message(99))
    texts["log"] = everything_logged.text + repr([r.__dict__ for r in everything_logged.records])
    texts["metrics"] = runner.metrics() + telemetry.exposition()
    texts["spans and meters"] = otel.everything()
    texts["keys"] = keys(request, durable_store_url)

    spans = ("convsync turn agent", "convsync api add_message", "convsync waha send_text")
    assert all(f'"{name}"' in texts["spans and meters"] for name in spans)
    assert all(f"{what} of turn" in texts["log"] for what in ("a write", "the reply"))
    assert_no_canary(texts)


@sync_and_async
@pytest.mark.parametrize("customer", [BSUID, OWN, LID])
def test_a_customer_without_a_number_is_named_nowhere(
    answer: Answer,
    customer: str,
    server: ReferenceServer,
    durable_store_url: str,
    everything_logged: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    otel: Exported,
) -> None:
    """Known to the API server or not, linked to a number, out of WAHA's reach, mistyped."""
    monkeypatch.setattr("langchain_convsync.turns.reading.NOT_FOUND_TIME", 0.0)
    store, client = open_store(durable_store_url), server.client(api_key=KEY)
    sender = WAHAReply("http://localhost:1", api_key=KEY, settle=0.0)
    runner = TurnRunner(echo(), client=client, store=store, shutdown_timeout=0.01, reply=sender)
    named = {"phone_number": customer, "chat_id": None, "lid": None, "aliases": ()}
    texts = {"unknown": outcome(answer, runner, message(1, **named))}
    server.create_conversation(phone_number=customer, subdomain="restaurant", bot_id="bot123")
    texts["known"] = outcome(answer, runner, message(2, **named))
    runner.link(customer, PHONE)
    runner.pause(customer, seconds=60.0)
    with pytest.raises(ConvSyncError) as refused:
        client.get_conversation(f"{customer} and more")
    texts["refused"] = told_by(refused.value)
    store.close()
    texts["log"] = everything_logged.text + repr([r.__dict__ for r in everything_logged.records])
    texts["metrics"] = runner.metrics() + telemetry.exposition()
    texts["spans and meters"] = otel.everything()
    texts["keys"] = keys(request, durable_store_url)

    assert_no_canary(texts)


def _fails(_messages: object) -> AIMessage:
    message = "the model is gone"
    raise ValueError(message)


def outcome_of_fault(
    answer: Answer,
    store: EventStore,
    script: Script,
    number: int,
    *,
    reads: ReferenceServer | None = None,
) -> str:
    """A turn whose API server fails: all of it, or only the writes."""
    with FaultyServer() as faulty:
        conversation = None if reads is None else reads.conversation(PHONE)
        if conversation is None:
            faulty.plays(script)
        else:
            data = conversation.model_dump(by_alias=True, mode="json")
            faulty.plays(answers({"type": "1", "message": "", "data": data}), script)
        client = ConvSyncClient(faulty.url, api_key=KEY, max_retries=0)
        account = f"account {number} {reads is None}"
        run(adopted(store, client.api.address))  # as if it was the one that fails
        runner = TurnRunner(echo(), client=client, store=store, shutdown_timeout=0.05)
        told = outcome(answer, runner, message(number, account=account))
        client.close()
    return told


def outcome_of_sending(
    answer: Answer, store: EventStore, script: Script, number: int, client: ConvSyncClient
) -> str:
    """A turn whose reply WAHA does not send."""
    with FaultyServer() as faulty:
        faulty.plays(script)
        sender = WAHAReply(faulty.url, api_key=KEY, settle=0.0)
        runner = TurnRunner(echo(), client=client, store=store, shutdown_timeout=0.05, reply=sender)
        told = outcome(answer, runner, message(number, account=f"WAHA {number}"))
        sender.close()
    return told


def keys(request: pytest.FixtureRequest, store_url: str) -> str:
    """All names under which a store keeps something."""
    if store_url.startswith("sqlite:///"):
        found = rows(Path(store_url.removeprefix("sqlite:///")))
        return repr([[v for v in row.values() if isinstance(v, str)] for _, row in found])
    server: RedisServer = request.getfixturevalue("redis_server")
    with server.client() as client:
        return repr(list(client.scan_iter(count=1000)))


SCRIPT: list[str | AIMessage] = [
    calls("lookup_tenant"),
    calls("get_conversation"),
    calls("sync_state", intent="order"),
    calls("add_message", content="Su pedido salió"),
    "Con gusto",
]


def agent_with_everything(client: ConvSyncClient, tracer: Tracer) -> Runnable[Any, Any]:
    """Tools, middleware and callback handler at once, traced."""
    middleware = ConvSyncMiddleware(client, sync_tool=False)
    agent: Runnable[Any, Any] = create_agent(
        ScriptedChatModel(SCRIPT), ConvSyncToolkit(client).get_tools(), middleware=[middleware]
    )
    return agent.with_config(callbacks=[tracer, ConvSyncCallbackHandler(client)])


@pytest.mark.parametrize("inside", [True, False], ids=["in a turn", "alone"])
def test_a_trace_never_names_the_customer(
    inside: bool, server: ReferenceServer, everything_logged: pytest.LogCaptureFixture
) -> None:
    """Inputs, outputs, artifacts, metadata, tags and names of every run of every surface."""
    tracer, client = Tracer(), server.client(api_key=KEY)
    agent = agent_with_everything(client, tracer)
    history = ConvSyncChatMessageHistory(PHONE, client=client)

    if inside:
        store = open_store(":memory:")
        turn = TurnRunner(agent, client=client, store=store).run(message(1, text="Hola"))
        assert turn.status == "answered"
        store.close()
    else:
        with in_conversation(ConversationRef(PHONE)):
            agent.invoke({"messages": [("user", "Hola")]})
        history.add_user_message("Hola")

    traced = "".join(tracer.exported)
    assert all(tool in traced for tool in ("lookup_tenant", "get_conversation", "Con gusto"))
    texts = {"trace": traced, "log": everything_logged.text, "history": repr(history)}
    assert_no_canary(texts)


@sync_and_async
def test_a_callback_that_fails_is_logged_without_what_it_was_given(
    answer: Answer,
    server: ReferenceServer,
    durable_store_url: str,
    everything_logged: pytest.LogCaptureFixture,
) -> None:
    """Class and place are told; its text quotes the turn, and so does its traceback."""
    store, client = open_store(durable_store_url), server.client(api_key=KEY)

    def send(turn: Turn) -> None:
        message = f"{turn.chat_id} does not take {turn.reply}"
        raise ConnectionError(message)

    runner = TurnRunner(RunnableLambda(lambda _: SAID), client=client, store=store, on_reply=send)
    told = outcome(answer, runner, message(1))
    store.close()

    log = everything_logged.text + repr([r.__dict__ for r in everything_logged.records])
    assert "on_reply= failed with ConnectionError at integration_tests/test_promises_can" in log
    assert_no_canary({"log": log, "turn": told})


@sync_and_async
def test_an_intent_that_is_refused_is_not_quoted(
    answer: Answer, server: ReferenceServer, everything_logged: pytest.LogCaptureFixture
) -> None:
    """A model may have put the customer's words there."""
    store = open_store(":memory:")
    client = server.client(profile=ServerProfile(intents=frozenset({"order"})))
    runner = TurnRunner(
        RunnableLambda(lambda _: SAID),
        client=client,
        store=store,
        extractor=lambda _: {"intent": WORDS},
    )
    told = outcome(answer, runner, message(1))
    store.close()

    assert "is none of ServerProfile.intents (order)" in everything_logged.text
    assert_no_canary({"log": everything_logged.text, "turn": told})


def _leaky(phone: str) -> Script:
    """An answer whose headers name the customer."""
    head = f"HTTP/1.1 302 Found\r\nLocation: /users/{phone}\r\nContent-Length: 0\r\n\r\n"
    return sends(head.encode(), CLOSE)


@pytest.mark.parametrize("lent", [False, True], ids=["own", "lent"])
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("script", [_leaky(PHONE), sends(f"{PHONE}\r\n\r\n".encode(), CLOSE)])
def test_no_other_logger_names_the_customer(
    lent: bool, mode: str, script: Script, everything_logged: pytest.LogCaptureFixture
) -> None:
    """Those of httpx and of what it is made of, at DEBUG, for a request of ours."""

    async def ask(url: str) -> None:
        async with httpx.AsyncClient() as theirs:
            client = AsyncConvSyncClient(
                url, api_key=KEY, max_retries=0, http_client=theirs if lent else None
            )
            with pytest.raises(ConvSyncError):
                await client.get_conversation(PHONE)
            await client.aclose()

    with FaultyServer() as faulty:
        faulty.plays(script)
        if mode == "async":
            asyncio.run(ask(faulty.url))
        else:
            with httpx.Client() as theirs:
                client = ConvSyncClient(
                    faulty.url, api_key=KEY, max_retries=0, http_client=theirs if lent else None
                )
                with pytest.raises(ConvSyncError):
                    client.get_conversation(PHONE)
                client.close()

    assert "httpcore" in everything_logged.text
    assert_no_canary({"log": everything_logged.text})


def test_what_an_owner_asks_by_themselves_is_logged_as_ever(
    server: ReferenceServer, everything_logged: pytest.LogCaptureFixture
) -> None:
    """Ours are the requests that hold a number; theirs are theirs."""
    with httpx.Client() as theirs:
        theirs.get(f"{server.base_url}/theirs")
    assert "/theirs" in everything_logged.text
    assert "Content-Length" in everything_logged.text or "content-length" in everything_logged.text


def _provider(exported: Exported) -> TracerProvider:
    """One of the application's, for spans of other libraries."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exported.exporter))
    return provider


def test_an_instrumented_httpx_makes_no_span_of_our_requests(
    server: ReferenceServer, otel: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours holds keys; one of theirs would hold the URL. It asks as OpenTelemetry's own do."""
    tracer = trace.get_tracer("httpx", tracer_provider=_provider(otel))
    plain = httpx.HTTPTransport.handle_request

    def instrumented(self: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        if context.get_value(context._SUPPRESS_HTTP_INSTRUMENTATION_KEY):
            return plain(self, request)
        with tracer.start_as_current_span("GET", attributes={"url.full": str(request.url)}):
            return plain(self, request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", instrumented)
    with httpx.Client() as lent:
        lent.get(f"{server.base_url}/theirs")
        client = ConvSyncClient(server.base_url, http_client=lent)
        client.get_conversation(PHONE)
    server.client().get_conversation(PHONE)

    told = otel.everything()
    assert "/theirs" in told
    assert told.count('"convsync api get_conversation"') == 2
    assert_no_canary({"spans": told})


def test_the_server_s_own_spans_hold_a_route(server: ReferenceServer, otel: Exported) -> None:
    """An instrumentation puts the URL on its span when a request begins; the number goes again."""
    tracer = trace.get_tracer("asgi", tracer_provider=_provider(otel))
    app = create_reference_api("sqlite:///:memory:")

    async def instrumented(scope: Any, receive: Any, send: Any) -> None:
        facts = {"http.target": scope["path"], "url.path": scope["path"], "http.method": "GET"}
        with tracer.start_as_current_span("GET", attributes=facts):
            await app(scope, receive, send)

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(instrumented)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            paths = (f"/api/v1/whatsapp/lookup/tenant/{PHONE}", f"/nowhere/{PHONE}")
            return [(await client.get(path)).status_code for path in paths]

    assert asyncio.run(ask()) == [404, 404]
    told = otel.everything()
    assert "/lookup/tenant/{" in told
    assert_no_canary({"spans": told})


def test_nothing_that_can_be_printed_names_the_customer(server: ReferenceServer) -> None:
    """Clients, stores, runners, references, events, turns: crash reports show them."""
    client, store = server.client(api_key=KEY), open_store(":memory:")
    runner = TurnRunner(echo(), client=client, store=store)
    things: list[Any] = [
        client,
        server.async_client(api_key=KEY),
        store,
        runner,
        ConversationRef(PHONE, session_id=f"bot_{PHONE}"),
        *map(ConversationRef, (BSUID, OWN, LID)),
        message(1, reply_to=WAHA_ID),
        runner.run(message(1, text="Hola")),  # a notebook shows its words
        runner.accept(message(2)),
        *map(waha.parse_event, deliveries()),
        client.get_conversation(PHONE),
        client.lookup_tenant(PHONE),
        ConvSyncToolkit(client, conversation=PHONE),
        *ConvSyncToolkit(client, conversation=PHONE).get_tools(),
        ConvSyncChatMessageHistory(PHONE, client=client),
        ConvSyncCallbackHandler(client, conversation=PHONE),
        ConvSyncMiddleware(client, conversation=PHONE),
        WAHAReply("https://waha.example.com", api_key=KEY),
        PendingReply(turn="t1", waha_session=WAHA_SESSION, chat_id=LID, text="Hola"),
        run(store.keys()),
    ]
    store.close()

    assert_no_canary({type(thing).__name__: printed(thing) for thing in things})


def deliveries() -> list[dict[str, Any]]:
    """What WAHA reports: a message, a colleague's, an edit, a revocation, a reaction, an ack."""
    chat = "51944333222@c.us"
    said = {"id": WAHA_ID, "from": chat, "to": chat, "body": WORDS, "timestamp": 1}
    said |= {"replyTo": {"id": BESIDE, "body": BESIDE, "participant": chat}, "_data": _data()}
    own = {**said, "id": WAHA_ID.replace("false", "true"), "fromMe": True, "source": "app"}
    about = {**said, "editedMessageId": WAHA_ID, "revokedMessageId": WAHA_ID, "after": said}
    reaction = {**said, "reaction": {"text": WORDS, "messageId": WAHA_ID}}
    payloads = {
        "message": said,
        "message.any": own,
        "message.edited": about,
        "message.revoked": {**about, "before": said},
        "message.reaction": reaction,
        "message.ack": {**own, "ack": 3},
    }
    return [
        {"event": event, "session": WAHA_SESSION, "payload": payload}
        for event, payload in payloads.items()
    ]


def _data() -> dict[str, Any]:
    """What an engine tells of a message that has everything."""
    context = {"externalAdReply": {"title": BESIDE}, "mentionedJid": [LID, PHONE]}
    chosen = {"selectedButtonId": BESIDE, "contextInfo": context}
    return {"message": {"buttonsResponseMessage": chosen, "locationMessage": {"name": BESIDE}}}


def printed(thing: Any) -> str:
    """All that logs, terminals and notebooks show of a thing."""
    in_a_notebook = getattr(thing, "_repr_html_", str)()
    return f"{thing!r} {thing!s} {in_a_notebook}"


@pytest.mark.parametrize("thing", ["client", "store", "runner", "sender"])
def test_a_key_is_never_pickled(thing: str, server: ReferenceServer) -> None:
    """A process pool or a cache would write it down."""
    client, store = server.client(api_key=KEY), open_store(":memory:")
    runner = TurnRunner(echo(), client=client, store=store)
    sender = WAHAReply("https://waha.example.com", api_key=KEY)
    things = {"client": client, "store": store, "runner": runner, "sender": sender}
    holder: object = things[thing]
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)) as refusal:
        pickle.dumps(holder)
    store.close()

    assert_no_canary({"refusal": told_by(refusal.value)})
