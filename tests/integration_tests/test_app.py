"""The webhook behind WAHA: acknowledged when it is recorded, answered by the app's own workers."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI
from langchain_core.messages import HumanMessage
from starlette.testclient import TestClient

from langchain_convsync import WAHAReply, create_app, telemetry
from langchain_convsync._bodies import LARGEST
from langchain_convsync._flow import run
from langchain_convsync.app import create_router
from langchain_convsync.contents import Media
from langchain_convsync.errors import ConfigurationError, StoreUnavailableError
from langchain_convsync.models import Conversation, InboundEvent
from langchain_convsync.stores.base import EventStore
from langchain_convsync.telemetry import _log
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests import promises, waha_chats
from tests.promises import CUSTOMER, echo, history
from tests.redis_topologies import until
from tests.waha_chats import WahaChats

SECRET = "one of two"
CHAT = f"{CUSTOMER[1:]}@c.us"


def message(stanza: str, text: str, **payload: Any) -> dict[str, Any]:
    """A delivery of WAHA's."""
    told = {"id": f"false_{CHAT}_{stanza}", "from": CHAT, "fromMe": False, "body": text}
    return {"event": "message", "session": "default", "payload": {**told, **payload}}


def by_hand(stanza: str, text: str) -> dict[str, Any]:
    """What a colleague typed on the business's phone."""
    own = {"id": f"true_{CHAT}_{stanza}", "fromMe": True, "source": "app", "to": CHAT}
    return {**message(stanza, text, **own), "event": "message.any"}


def signed(body: object, secret: str = SECRET) -> dict[str, Any]:
    """The delivery as WAHA posts it."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    signature = hmac.new(secret.encode(), raw, hashlib.sha512).hexdigest()
    return {"content": raw, "headers": {"X-Webhook-Hmac": signature}}


server, chats = promises.server, waha_chats.chats


@pytest.fixture
def runner(server: ReferenceServer, event_store: EventStore, chats: WahaChats) -> TurnRunner:
    return TurnRunner(
        echo(), client=server.client(), store=event_store, reply=WAHAReply(chats.url), max_queued=2
    )


def test_a_message_is_answered_through_waha(
    runner: TurnRunner, server: ReferenceServer, chats: WahaChats
) -> None:
    """Recorded, acknowledged, answered, sent and remembered; its copies change nothing."""
    with TestClient(create_app(runner, waha_secrets=["an old one", SECRET])) as web:
        first = web.post("/webhook", **signed(message("3EB0A1", "Hola")))
        until(lambda: chats.texts)
        lid = message("3EB0A1", "Hola", id="false_381@lid_3EB0A1", **{"from": "381@lid"})
        copies = [web.post("/webhook", **signed(body)).json() for body in (lid, lid)]

    assert (first.status_code, first.json()) == (200, {"status": "queued"})
    assert copies == [{"status": "duplicate"}] * 2
    assert chats.sent == [("default", CHAT, "re: Hola")]
    assert history(server) == [("user", "Hola"), ("bot", "re: Hola")]


def test_what_the_api_server_forwards_is_answered_too(runner: TurnRunner, chats: WahaChats) -> None:
    """Signed in the same way."""
    forwarded = {"event_id": "evt_1", "phone_number": CUSTOMER, "message": "Hola"}
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        web.post("/webhook", **signed(forwarded))
        until(lambda: chats.texts)

    assert chats.texts == ["re: Hola"]


def test_a_humans_words_silence_the_agent_and_enter_the_history(
    runner: TurnRunner, server: ReferenceServer, chats: WahaChats, event_store: EventStore
) -> None:
    """The customer's next words are recorded and left to the human, until that is over."""
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        told = web.post("/webhook", **signed(by_hand("3EB0B1", "Le atiendo yo"))).json()
        web.post("/webhook", **signed(message("3EB0A2", "Gracias")))
        until(lambda: len(history(server)) == 2)
        runner.resume(CUSTOMER)
        web.post("/webhook", **signed(message("3EB0A3", "¿Sigue ahí?")))
        until(lambda: chats.texts)

    assert told == {"status": "taken over"}
    assert history(server) == [
        ("bot", "Le atiendo yo"),
        ("user", "Gracias"),
        ("user", "¿Sigue ahí?"),
        ("bot", "re: ¿Sigue ahí?"),
    ]
    assert chats.texts == ["re: ¿Sigue ahí?"]
    assert run(event_store.backlog()).dead_letters == 0


def test_a_human_who_writes_first_is_recorded_when_the_conversation_begins(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, monkeypatch: Any
) -> None:
    """There is nothing to answer, so no fallback is sent, however long it takes."""
    monkeypatch.setattr("langchain_convsync.turns.reading.NOT_FOUND_TIME", 0.0)
    stranger = "51911111111@c.us"
    runner = TurnRunner(
        echo(),
        client=server.client(),
        store=event_store,
        reply=WAHAReply(chats.url),
        conversation_timeout=0.0,
        fallback_reply="Un momento…",
    )
    words = by_hand("3EB0C1", "Buenos días")
    words["payload"] |= {"id": f"true_{stranger}_3EB0C1", "to": stranger}
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        web.post("/webhook", **signed(words))
        until(lambda: not run(event_store.backlog()).queued)

    assert chats.texts == []


def test_our_own_echo_is_noted_and_answers_nothing(
    runner: TurnRunner, chats: WahaChats, event_store: EventStore
) -> None:
    """Else the agent would talk to itself, or take itself for a human, whatever the source says."""
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        web.post("/webhook", **signed(message("3EB0A1", "Hola")))
        until(lambda: chats.texts)
        by_app = chats.echo(1)
        by_app["payload"]["source"] = "app"
        told = [web.post("/webhook", **signed(body)).json() for body in (chats.echo(1), by_app)]

    assert told == [{"status": "ignored"}] * 2
    assert chats.texts == ["re: Hola"]
    assert run(event_store.backlog()).queued == 0


def test_a_file_is_a_line_for_the_model_and_its_url_is_there_to_prepare(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """Nothing is downloaded: whoever wants the file asks WAHA for it, with its key."""
    seen: list[tuple[str, Media | None]] = []

    def prepare(_: Conversation, events: Sequence[InboundEvent]) -> list[HumanMessage]:
        seen.extend((event.content, event.media) for event in events)
        return [HumanMessage(event.content) for event in events]

    sender = WAHAReply(chats.url)
    runner = TurnRunner(
        echo(), client=server.client(), store=event_store, reply=sender, prepare=prepare
    )
    file = {"url": f"{chats.url}/api/files/1.jpg", "mimetype": "image/jpeg", "filename": None}
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        body = message("3EB0A1", "¿Tienen esta?", hasMedia=True, media=file)
        web.post("/webhook", **signed(body))
        until(lambda: chats.texts)

    line = "¿Tienen esta?\n[image]"
    assert seen == [(line, Media(url=str(file["url"]), mimetype="image/jpeg"))]
    assert history(server) == [("user", line), ("bot", f"re: {line}")]
    assert chats.reads == 0


def test_what_is_edited_or_taken_back_while_it_waits_is_answered_as_it_is_then(
    runner: TurnRunner, server: ReferenceServer, chats: WahaChats
) -> None:
    """WAHA tells with events of their own."""
    runner._inbox.rules = replace(
        runner._inbox.rules, debounce=60.0, max_debounce=60.0
    )  # the customer is still writing
    runner._inbox.rules = replace(runner._inbox.rules, max_queued=3)
    changed = {"id": f"false_{CHAT}_3EB0E1", "from": CHAT, "fromMe": False}
    bodies = [
        message("3EB0A1", "Una piza"),
        message("3EB0A2", "¡Rápido!"),
        {"event": "message.edited", "session": "default"}
        | {"payload": {**changed, "editedMessageId": "3EB0A1", "body": "Una pizza"}},
        {"event": "message.revoked", "session": "default"}
        | {"payload": {"after": changed, "before": None, "revokedMessageId": "3EB0A2"}},
        {"event": "message.revoked", "session": "default"}
        | {"payload": {"after": changed, "before": None, "revokedMessageId": "3EB0FF"}},
    ]
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        told = [web.post("/webhook", **signed(body)).json()["status"] for body in bodies]
        runner._inbox.rules = replace(runner._inbox.rules, debounce=0.0)
        web.post("/webhook", **signed(message("3EB0A3", "con queso")))
        until(lambda: chats.texts)

    assert told == ["queued", "queued", "amended", "amended", "ignored"]
    words = [("user", "Una pizza"), ("user", "con queso"), ("bot", "re: con queso")]
    assert history(server) == words


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (signed(message("1", "Hola"), "another"), 401),
        ({"content": b"{}"}, 401),
        (signed(b"{"), 400),
        (signed(b"NaN"), 400),
        (signed({"event_id": "1"}), 400),
        (signed({"event_id": 1, "phone_number": CUSTOMER}), 400),
        (signed({"event_id": "1", "phone_number": "nobody", "message": "x"}), 400),
        (signed(b" " * (LARGEST + 1)), 413),
        (signed({"event_id": "1", "phone_number": CUSTOMER, "body": "Hola"}), 400),
        (signed([]), 200),
        (signed("Hola"), 200),
        (signed(b"null"), 200),
        (signed({"event": "session.status", "payload": {"status": "WORKING"}}), 200),
    ],
    ids=[
        *("forged", "unsigned", "broken", "not JSON", "no customer", "id of another type"),
        *("no phone", "too large", "no words", "no object", "a text", "null", "no message"),
    ],
)
def test_a_sender_is_told_what_is_wrong(
    runner: TurnRunner, event_store: EventStore, body: dict[str, Any], status: int
) -> None:
    """Never with a 500, and nothing is recorded."""
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        answer = web.post("/webhook", **body)

    assert answer.status_code == status
    assert run(event_store.backlog()).queued == 0


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"phone_number": CUSTOMER, "message": "Hola"}, "event_id"),
        ({"event_id": "1", "message": "Hola"}, "phone_number"),
        ({"event_id": "1", "phone_number": CUSTOMER, "body": "Hola"}, "message"),
        ({"event_id": "1", "phone_number": CUSTOMER}, "message"),
        ({"event_id": "1", "phone_number": CUSTOMER, "message": None}, "message"),
        ({"event_id": None, "phone_number": CUSTOMER, "message": "Hola"}, "event_id"),
        (
            {"eventId": "1", "phoneNumber": CUSTOMER, "message": "Hola"},
            "eventId: it is event_id, phoneNumber: it is phone_number",
        ),
        (
            {"event_id": 17, "phone_number": CUSTOMER, "message": "Hola"},
            "event_id (Input should be a valid string)",
        ),
        (
            {"event_id": "1", "phone_number": CUSTOMER, "message": {"body": "Hola"}},
            "message (Input should be a valid string)",
        ),
    ],
)
def test_what_a_forwarded_event_lacks_is_named(
    runner: TurnRunner, given: dict[str, Any], missing: str
) -> None:
    """An event without words would be answered all the same, and one without an id ignored."""
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        answer = web.post("/webhook", **signed(given))

    assert answer.status_code == 400
    assert answer.json()["detail"].endswith(f"and message; see {missing}")


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ({"notes": ["[image]"]}, "[image]"),
        ({"text": "Este", "media": {"mimetype": "image/jpeg"}}, "Este\n[image]"),
        ({"choice": {"id": "b1", "title": "Diavola"}}, "Diavola"),
        ({"location": {"name": "Casa"}}, "[location: Casa]"),
        ({"message": " \n"}, "[a message of a kind this bot cannot read: unknown]"),
        ({"text": "Hola"}, "Hola"),
        ({"content": "Hola"}, "Hola"),
        ({"text": "", "message": "Hola"}, "Hola"),
        ({"message": "Hola", "quoted": None, "notes": None, "contacts": None}, "Hola"),
        ({"message": None, "choice": {"id": None, "title": "Diavola"}}, "Diavola"),
        ({"message": "", "contacts": [{"name": "Ana", "emails": None}]}, "[contact: Ana]"),
        ({"message": "Rico \ud83c"}, "Rico \ufffd"),
    ],
    ids=[
        *("a note", "a caption", "a choice", "a place", "nothing", "words of their own"),
        *("as the field is called here", "no words of their own", "nulls for what is not there"),
        *("nulls inside", "nulls in a list", "an emoji cut in half"),
    ],
)
def test_a_forwarded_message_needs_no_words(
    runner: TurnRunner, chats: WahaChats, said: dict[str, Any], heard: str
) -> None:
    """What it says instead is what the model reads."""
    forwarded = {"event_id": "1", "phone_number": CUSTOMER, **said}
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        web.post("/webhook", **signed(forwarded))
        until(lambda: chats.texts)

    assert chats.texts == [f"re: {heard}"]


def test_a_kind_that_cannot_be_read_is_recorded_answered_and_counted(
    runner: TurnRunner, server: ReferenceServer, chats: WahaChats
) -> None:
    """The model says that it could not read it; an operator sees what to ask for here."""
    before = telemetry.counted("unread_kinds", what="hologramMessage")
    sent = message("3EB0A1", "", _data={"message": {"hologramMessage": {"seconds": 3}}})
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        web.post("/webhook", **signed(sent))
        until(lambda: len(history(server)) == 2)

    told = "[a message of a kind this bot cannot read: hologramMessage]"
    assert history(server) == [("user", told), ("bot", f"re: {told}")]
    assert telemetry.counted("unread_kinds", what="hologramMessage") == before + 1


def test_a_quote_reaches_the_model_and_the_history(
    runner: TurnRunner, server: ReferenceServer, chats: WahaChats
) -> None:
    """Quoted words, then the customer's own."""
    quoted = {"id": "3EB0B1", "body": "2. Pizza\nS/ 30", "participant": CHAT}
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        web.post("/webhook", **signed(message("3EB0A1", "Quiero esta", replyTo=quoted)))
        until(lambda: len(history(server)) == 2)

    assert history(server)[0] == ("user", "> 2. Pizza\n> S/ 30\nQuiero esta")
    assert chats.texts == ["re: > 2. Pizza\n> S/ 30\nQuiero esta"]


def test_a_secret_that_fits_nothing_is_logged_once_in_a_while(
    runner: TurnRunner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WAHA keeps the answer to itself; no line names a session, which may be a phone number."""
    monkeypatch.setattr(_log, "_causes", _log.Causes())
    sent = {**message("3EB0A1", "Hola"), "session": CUSTOMER[1:]}
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        answers = [web.post("/webhook", **signed(sent, "another")) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [401] * 3
    told = [record.getMessage() for record in caplog.records]
    (line,) = [each for each in told if "are refused (401)" in each]
    assert "the signature fits no secret in waha_secrets" in line
    assert "CONVSYNC_WAHA_SECRETS" in line
    assert CUSTOMER[1:] not in caplog.text


class Away:
    """A store that is away as soon as it is told so."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self.gone = False

    def __getattr__(self, name: str) -> Any:
        if self.gone and name in {"accept", "backlog"}:
            message = "away"
            raise StoreUnavailableError(message)
        return getattr(self._store, name)


def test_nothing_is_acknowledged_that_is_not_recorded(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """The sender is asked to deliver it again; readiness tells it, health does not."""
    store: Any = Away(event_store)
    runner = TurnRunner(echo(), client=server.client(), store=store, reply=WAHAReply(chats.url))
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        before = web.get("/ready")
        store.gone = True
        answer = web.post("/webhook", **signed(message("3EB0A1", "Hola")))
        during, alive = web.get("/ready"), web.get("/health")
        store.gone = False

    assert (before.status_code, before.json()["status"]) == (200, "ready")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert (during.status_code, alive.status_code) == (503, 200)


def test_a_customer_who_never_stops_is_slowed_down(runner: TurnRunner) -> None:
    """A full backlog records nothing more; the sender comes again."""
    runner._inbox.rules = replace(
        runner._inbox.rules, debounce=60.0, max_debounce=60.0
    )  # nobody answers meanwhile
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        answers = [
            web.post("/webhook", **signed(message(f"3EB0A{n}", "Hola"))).status_code
            for n in range(3)
        ]

    assert answers == [200, 200, 503]


def test_an_app_that_was_not_started_says_so(runner: TurnRunner) -> None:
    """A mounted app's lifespan never runs, so its workers do not."""
    outer = FastAPI()
    outer.mount("/bot", create_app(runner, waha_secrets=SECRET))
    with TestClient(outer) as web:
        answer = web.post("/bot/webhook", **signed(message("3EB0A1", "Hola")))
        ready = web.get("/bot/ready")

    assert (answer.status_code, ready.status_code) == (503, 503)
    assert "create_router" in answer.json()["detail"]


def test_the_router_of_an_existing_app_brings_the_workers(
    runner: TurnRunner, chats: WahaChats
) -> None:
    """Its lifespan runs with that of the app."""
    app = FastAPI()
    app.include_router(create_router(runner, waha_secrets=SECRET, path="/hooks/waha"))
    with TestClient(app) as web:
        web.post("/hooks/waha", **signed(message("3EB0A1", "Hola")))
        until(lambda: chats.texts)

    assert chats.texts == ["re: Hola"]


def test_secrets_are_needed(
    runner: TurnRunner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An argument, else the environment, else an error that names both; an empty list is loud."""
    with pytest.raises(ConfigurationError, match="CONVSYNC_WAHA_SECRETS"):
        create_app(runner)
    with pytest.raises(ConfigurationError, match="empty"):
        create_app(runner, waha_secrets=[""])
    create_app(runner, waha_secrets=[])
    monkeypatch.setenv("CONVSYNC_WAHA_SECRETS", f"old, {SECRET}")
    before = telemetry.counted("deliveries", status="ignored")
    with TestClient(create_app(runner)) as web:
        status = web.post("/webhook", **signed({})).status_code

    assert "unsigned" in caplog.text
    assert status == 200
    assert telemetry.counted("deliveries", status="ignored") == before + 1


@pytest.mark.parametrize("listed", [",", f"{SECRET},", f"{SECRET}, ,old"])
def test_an_empty_secret_in_the_environment_is_told_at_the_start(
    listed: str, runner: TurnRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comma too many would refuse every delivery with a 500."""
    monkeypatch.setenv("CONVSYNC_WAHA_SECRETS", listed)

    with pytest.raises(ConfigurationError, match="empty"):
        create_app(runner)


def test_a_runner_that_cannot_send_is_refused(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """Its workers would leave every event unanswered."""
    runner = TurnRunner(echo(), client=server.client(), store=event_store)
    with pytest.raises(ConfigurationError, match="WAHAReply"):
        create_app(runner, waha_secrets=SECRET)
