"""Forwarding: what WAHA brings reaches the agent's webhook, in order, once, whatever fails."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp

from langchain_convsync import InboundEvent, SQLiteEventStore, TurnRunner, WAHAReply, create_app
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.server import Forwarding
from langchain_convsync.server.customers import Customer
from langchain_convsync.server.forwarder import Forwarder
from langchain_convsync.server.forwards import QueueFullError
from langchain_convsync.server.serving import listen, url_of
from langchain_convsync.testing import ReferenceServer
from tests.agent_webhook import SECRET, AgentWebhook, agent_webhook
from tests.clocked_store import ABC, PHONE, XYZ, ClockedStore
from tests.promises import echo
from tests.redis_topologies import until
from tests.waha_chats import WahaChats, waha_server

OTHER = "+51988888888"
PAYLOADS = Path(__file__).parents[1] / "payloads"


@pytest.fixture
def webhook() -> Iterator[AgentWebhook]:
    with agent_webhook() as running:
        yield running


@pytest.fixture
def store() -> Iterator[ClockedStore]:
    with closing(ClockedStore()) as opened:
        yield opened


def to(webhook: AgentWebhook) -> Forwarding:
    return Forwarding(url=webhook.url, secret=SECRET)


def write(store: ClockedStore, text: str, phone_number: str = PHONE, **facts: Any) -> None:
    """A customer's message, as WAHA's webhook notes it."""
    event = InboundEvent(
        **{"event_id": text, "text": text, "phone_number": phone_number, "account": "default"}
        | facts
    )
    store.receive(Customer(event.phone_number, event.lid), ABC, event.content, forward=event)


def send(store: ClockedStore, webhook: AgentWebhook) -> float | None:
    return Forwarder(store.forwards, to(webhook)).send_due()


def test_the_webhook_gets_the_documented_fields_signed(
    store: ClockedStore, webhook: AgentWebhook
) -> None:
    """And which tenant it is for, which WhatsApp itself does not say."""
    write(store, "Hola", chat_id="51999999999@c.us", waha_session="default")

    assert send(store, webhook) is None
    assert webhook.signed == [True]
    assert webhook.got == [
        {
            "event_id": "Hola",
            "phone_number": PHONE,
            "message": "Hola",
            "chat_id": "51999999999@c.us",
            "bot_id": ABC.bot_id,
            "subdomain": ABC.subdomain,
            "account": "default",
            "waha_session": "default",
        }
    ]


def test_a_lid_is_forwarded_with_the_number_that_is_known_of_it(
    store: ClockedStore, webhook: AgentWebhook
) -> None:
    """From an earlier event; without one the LID is the customer's name."""
    write(store, "1", lid="38@lid")
    store.receive(
        Customer(None, "38@lid"), ABC, forward=InboundEvent(event_id="2", lid="38@lid", text="Hola")
    )
    store.receive(
        Customer(None, "39@lid"), ABC, forward=InboundEvent(event_id="3", lid="39@lid", text="Hola")
    )

    send(store, webhook)

    assert [(got["phone_number"], got["lid"]) for got in webhook.got] == [
        (PHONE, "38@lid"),
        (PHONE, "38@lid"),
        (None, "39@lid"),
    ]


def test_a_customers_events_wait_for_each_other_alone(
    store: ClockedStore, webhook: AgentWebhook
) -> None:
    """One that is not taken is sent again before what came after it."""
    webhook.answers = [(503, "")]
    write(store, "1")
    write(store, "2")
    write(store, "3", OTHER)

    pause = send(store, webhook)
    store.clock.advance(seconds=1)
    rest = send(store, webhook)

    assert (pause, rest) == (1.0, None)
    assert webhook.texts == ["1", "3", "1", "2"]


def test_a_customer_of_two_tenants_is_two(store: ClockedStore, webhook: AgentWebhook) -> None:
    """What one agent does not take holds nothing up for the other tenant."""
    webhook.answers = [(500, "")]
    write(store, "1")
    event = InboundEvent(event_id="2", text="2", phone_number=PHONE, account="other")
    store.receive(Customer.of(PHONE), XYZ, forward=event)

    send(store, webhook)

    assert webhook.texts == ["1", "2"]
    assert webhook.got[1]["subdomain"] == XYZ.subdomain


def test_the_pauses_grow_and_the_webhook_may_ask_for_longer_ones(
    store: ClockedStore, webhook: AgentWebhook
) -> None:
    """1, 2, 4 … at most 60 seconds; a `Retry-After` of seconds counts, up to as much."""
    asked = ["", "", "7", "9999", "soon", "", "", ""]
    webhook.answers = [(503, each) for each in asked]
    write(store, "1")

    pauses = []
    for _ in asked:
        pauses.append(pause := send(store, webhook))
        store.clock.advance(seconds=pause or 0)

    assert pauses == [1, 2, 7, 60, 16, 32, 60, 60]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_the_webhook_refuses_is_kept_and_told(
    store: ClockedStore, webhook: AgentWebhook, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds up nothing that came after it; the log names no customer."""
    webhook.answers = [(status, "")]
    write(store, "1")
    write(store, "2")

    with caplog.at_level(logging.WARNING):
        assert send(store, webhook) is None

    assert webhook.texts == ["1", "2"]
    assert "it is kept, and sent again when this server starts anew" in caplog.text
    assert PHONE[1:] not in caplog.text

    store.clock.advance(days=6)
    write(store, "3")  # which forgets what is old
    assert store.forwards.again() == 1
    send(store, webhook)
    assert webhook.texts == ["1", "2", "1", "3"]


def test_what_is_refused_is_sent_again_by_the_next_start(
    webhook: AgentWebhook, tmp_path: Path
) -> None:
    """The agent was mended in between; of what is refused again, the same."""
    url = f"sqlite:///{tmp_path / 'conversations.db'}"
    webhook.answers = [(400, ""), (400, "")]
    for told in (["1"], ["1", "1"], ["1", "1", "1"]):
        store = ClockedStore(url)
        if len(told) == 1:
            write(store, "1")
        forwarder = Forwarder(store.forwards, Forwarding(url=webhook.url, secret=SECRET))
        forwarder.start()
        until(lambda told=told: webhook.texts == told)  # type: ignore[misc]
        forwarder.stop()
        store.close()
        assert webhook.texts == told


@pytest.mark.parametrize("status", [307, 401, 404, 429, 500])
def test_what_an_operator_can_mend_is_sent_again(
    store: ClockedStore, webhook: AgentWebhook, status: int
) -> None:
    """A wrong secret or path loses no message."""
    webhook.answers = [(status, "")]
    write(store, "1")

    assert send(store, webhook) == 1.0
    store.clock.advance(seconds=1)
    assert send(store, webhook) is None
    assert webhook.texts == ["1", "1"]


def test_copies_of_a_message_are_forwarded_once(store: ClockedStore, webhook: AgentWebhook) -> None:
    """While it waits, and after it was taken."""
    write(store, "1")
    write(store, "1")
    send(store, webhook)
    write(store, "1")
    send(store, webhook)

    assert webhook.texts == ["1"]


def test_an_event_is_sent_by_one_server_at_a_time(store: ClockedStore) -> None:
    """Two processes on one database do not send it twice; one that dies leaves it to the other."""
    write(store, "1")

    first = store.forwards.acquire()
    meanwhile = store.forwards.acquire()
    store.clock.advance(seconds=60)
    again = store.forwards.acquire()

    assert first is not None
    assert meanwhile is None
    assert again is not None
    assert (again.id, again.tries) == (first.id, 2)


def test_what_waits_outlives_the_server(tmp_path: Path, webhook: AgentWebhook) -> None:
    """It is in the database, in the transaction that notes the customer."""
    url = f"sqlite:///{tmp_path / 'api.db'}"
    with closing(ClockedStore(url)) as before:
        write(before, "1")

    with closing(ClockedStore(url)) as after:
        send(after, webhook)

    assert webhook.texts == ["1"]


def test_what_is_not_accepted_for_a_day_is_dropped_and_told(
    store: ClockedStore, webhook: AgentWebhook, caplog: pytest.LogCaptureFixture
) -> None:
    """As old as a conversation gets."""
    write(store, "1")
    store.clock.advance(hours=24)

    with caplog.at_level(logging.WARNING):
        write(store, "2")
    send(store, webhook)

    assert webhook.texts == ["2"]
    assert "did not accept 1 event within 24 hours" in caplog.text


def test_a_full_queue_notes_nothing(
    store: ClockedStore, webhook: AgentWebhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither event nor conversation: WAHA delivers it again."""
    monkeypatch.setattr("langchain_convsync.server.forwards.MOST_WAITING", 1)
    write(store, "1")

    with pytest.raises(QueueFullError):
        write(store, "2", OTHER)

    assert store.seen(OTHER) is None
    send(store, webhook)
    write(store, "2", OTHER)


def test_waha_is_told_to_come_again_where_the_queue_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """503, with the seconds to wait."""
    monkeypatch.setattr("langchain_convsync.server.forwards.MOST_WAITING", 0)
    with ReferenceServer(forwarding=Forwarding(url="http://127.0.0.1:9", secret="x")) as server:
        answer = httpx.post(f"{server.base_url}/api/v1/whatsapp/webhook/waha", json=delivery("A"))

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["type"] == "3"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"url": "agent.example/webhook"}, "is not a URL"),
        ({"url": "ftp://agent.example"}, "is not a URL"),
        ({"url": "https://[/webhook"}, "is not a URL"),
        ({"url": "http://agent.example/webhook"}, "must be https"),
        ({"secret": ""}, "secret of the forwarding is empty"),
    ],
)
def test_a_mistaken_webhook_is_a_configuration_error(settings: dict[str, str], told: str) -> None:
    """Before anything is sent in the clear."""
    with pytest.raises(ConfigurationError, match=told):
        Forwarding(**{"url": "https://agent.example/webhook", "secret": "x", **settings})  # type: ignore[arg-type]


def delivery(stanza: str, text: str = "Hola", event: str = "message") -> dict[str, Any]:
    chat = f"{PHONE[1:]}@c.us"
    return {
        "event": event,
        "session": "default",
        "metadata": {"subdomain": "restaurant-abc", "bot.id": "bot123"},
        "payload": {"id": f"false_{chat}_{stanza}", "from": chat, "fromMe": False, "body": text},
    }


@contextmanager
def listening(app: ASGIApp, port: int) -> Iterator[None]:
    """The app over real HTTP, with its lifespan."""
    listener = listen("127.0.0.1", port)
    config = uvicorn.Config(app, loop="asyncio", http="h11", lifespan="on", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def free_port() -> int:
    with closing(listen("127.0.0.1", 0)) as listener:
        return int(url_of(listener).rpartition(":")[2])


def test_from_waha_over_the_server_to_the_agent_and_back() -> None:
    """WAHA's event begins the conversation; the agent answers through WAHA and records both sides.

    Its copies are answered no second time, and what comes while the agent is down is not lost.
    """
    port, chats = free_port(), WahaChats()
    forwarding = Forwarding(url=f"http://127.0.0.1:{port}/webhook", secret=SECRET)
    with (
        ReferenceServer(forwarding=forwarding) as server,
        waha_server(chats) as waha_url,
        server.client() as client,
    ):
        early = server.deliver(delivery("3EB0A1", "Hola"))
        server.deliver(delivery("3EB0A1", "Hola", "message.any"))
        runner = TurnRunner(
            echo(), client=client, store=SQLiteEventStore(":memory:"), reply=WAHAReply(waha_url)
        )
        with listening(create_app(runner, waha_secrets=SECRET), port):
            until(lambda: len(chats.texts) == 1)
            server.deliver(delivery("3EB0A2", "Una pizza"))
            until(lambda: len(chats.texts) == 2)
        found = server.conversation(PHONE)

    assert chats.sent == [
        ("default", f"{PHONE[1:]}@c.us", "re: Hola"),
        ("default", f"{PHONE[1:]}@c.us", "re: Una pizza"),
    ]
    assert found.session_id == early["sessionId"]
    assert [(message.role, message.content) for message in found.messages] == [
        ("user", "Hola"),
        ("bot", "re: Hola"),
        ("user", "Una pizza"),
        ("bot", "re: Una pizza"),
    ]


@pytest.mark.parametrize("path", sorted(PAYLOADS.glob("*message*.json")), ids=lambda p: p.stem)
def test_whatever_waha_sends_is_forwarded_as_json(path: Path, webhook: AgentWebhook) -> None:
    """Every sample that is a customer's message, and none that is not."""
    event = json.loads(path.read_text(encoding="utf-8"))
    metadata = {"subdomain": "restaurant-abc", "bot.id": "bot123"}
    with ReferenceServer(forwarding=to(webhook)) as server:
        accepted = server.deliver({**event, "metadata": metadata})["accepted"]
        if accepted:
            until(lambda: webhook.got)

    assert [got["bot_id"] for got in webhook.got] == ["bot123"] * accepted
