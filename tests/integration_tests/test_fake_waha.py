"""``FakeWAHA``: what a bot sends is seen, what fails is the test's choice, and nothing is left."""

from __future__ import annotations

import asyncio
import socket
import threading

import httpx
import pytest
from starlette.testclient import TestClient

from langchain_convsync import SQLiteEventStore, TurnRunner, WAHAReply, create_app
from langchain_convsync import waha as webhook
from langchain_convsync._flow import run
from langchain_convsync.client import AsyncWAHAClient, WAHAClient
from langchain_convsync.errors import ClosedError, InvalidPhoneNumberError, WAHAError
from langchain_convsync.models import InboundEvent
from langchain_convsync.testing import FakeWAHA, ReferenceServer, SentText
from langchain_convsync.testing.pytest_plugin import convsync_server, convsync_waha
from langchain_convsync.waha.limits import LimitKind, limit_in
from tests.promises import echo

__all__ = ["convsync_server", "convsync_waha"]

PHONE, CHAT, LID = "+51999999999", "51999999999@c.us", "38000000000001@lid"
OTHER = "51988888888@c.us"
#: WhatsApp's own.
LIMITS: tuple[LimitKind, ...] = ("timelock", "capping")


def test_a_text_is_kept_and_stands_in_its_chat(convsync_waha: FakeWAHA) -> None:
    """With the id that the caller was told."""
    with WAHAClient(convsync_waha.base_url) as client:
        told = client.send_text("ventas", CHAT, "Hola")
        (message,) = client.messages("ventas", CHAT)
        others = client.messages("default", CHAT)

    assert convsync_waha.sent == [SentText("ventas", CHAT, "Hola", told or "")]
    assert (message.id, message.text, message.own) == (told, "Hola", True)
    assert others == []


async def test_every_call_of_the_clients_is_known(convsync_waha: FakeWAHA) -> None:
    """So a bot meets no route that is missing here."""
    async with AsyncWAHAClient(convsync_waha.base_url) as client:
        await client.send_text("default", CHAT, "Hola")
        await client.seen("default", CHAT)
        await client.typing("default", CHAT, on=True)
        await client.typing("default", CHAT, on=False)
        chats = await client.chats("default")
        sessions = [(each.name, each.status) for each in await client.sessions()]

    assert convsync_waha.signs == [("sendSeen", CHAT), ("startTyping", CHAT), ("stopTyping", CHAT)]
    assert (chats, sessions) == ([CHAT], [("default", "WORKING")])


def test_it_knows_the_numbers_that_it_was_told() -> None:
    """And no other."""
    with FakeWAHA(numbers={LID: PHONE}) as waha, WAHAClient(waha.base_url) as client:
        assert client.phone_number("default", LID) == PHONE
        assert client.phone_number("default", "38000000000002@lid") is None


def test_what_is_refused_is_not_sent(convsync_waha: FakeWAHA) -> None:
    """With the status that the test chose, as often as it chose."""
    convsync_waha.refuse(422, times=2)
    with WAHAClient(convsync_waha.base_url) as client:
        for _ in range(2):
            with pytest.raises(WAHAError) as told:
                client.send_text("default", CHAT, "Hola")
            assert told.value.status_code == 422
        client.send_text("default", CHAT, "Hola otra vez")

    assert [sent.text for sent in convsync_waha.sent] == ["Hola otra vez"]


@pytest.mark.parametrize(
    ("kind", "status"), [("timelock", 500), ("capping", 500), ("session", 422)]
)
def test_an_account_is_limited_as_whatsapp_does(
    kind: LimitKind, status: int, convsync_waha: FakeWAHA
) -> None:
    """Refusals, routes, sessions and deliveries tell the same; all of it ends."""

    def seen() -> tuple[str | None, str | None, str | None, str | None]:
        routes = [f"{convsync_waha.base_url}/api/sessions/default/{what}" for what in LIMITS]
        found = limit_in(*(httpx.get(route).json() for route in routes))
        event = webhook.parse_event(webhook.parse_json(convsync_waha.status()["content"]))
        assert isinstance(event, webhook.Ignored)
        [session] = client.sessions()
        return found.kind if found else None, event.limit, event.status, session.status

    with WAHAClient(convsync_waha.base_url) as client:
        client.send_text("default", CHAT, "Hola")
        convsync_waha.limit(kind)
        limited = seen()
        with pytest.raises(WAHAError) as told:
            client.send_text("default", OTHER, "Hola")
        convsync_waha.limit(None)
        free = seen()
        client.send_text("default", OTHER, "Hola otra vez")

    by_whatsapp, state = (None, "SCAN_QR_CODE") if kind == "session" else (kind, "WORKING")
    assert (told.value.kind, told.value.status_code) == (kind, status)
    assert limited == (by_whatsapp, by_whatsapp, state, state)
    assert free == (None, None, "WORKING", "WORKING")
    assert [sent.text for sent in convsync_waha.sent] == ["Hola", "Hola otra vez"]


def test_a_cap_lets_known_chats_go_on(convsync_waha: FakeWAHA) -> None:
    """It is for new chats."""
    with WAHAClient(convsync_waha.base_url) as client:
        client.send_text("default", CHAT, "Hola")
        convsync_waha.limit("capping")
        client.send_text("default", CHAT, "¿Algo más?")

    assert len(convsync_waha.sent) == 2


def test_whoever_goes_on_is_banned(convsync_waha: FakeWAHA) -> None:
    """For ever: nothing is sent any more, and the session has failed."""
    convsync_waha.limit("timelock")
    banned = []
    with WAHAClient(convsync_waha.base_url) as client:
        for _ in range(4):
            banned.append(convsync_waha.banned)
            with pytest.raises(WAHAError):
                client.send_text("default", CHAT, "Hola")
        convsync_waha.limit(None)
        with pytest.raises(WAHAError) as told:
            client.send_text("default", CHAT, "Hola")
        [session] = client.sessions()

    assert (banned, convsync_waha.banned) == ([False] * 4, True)
    assert (told.value.kind, session.status) == ("session", "FAILED")


@pytest.mark.parametrize("kind", ["timelock", "capping", "session"])
def test_a_bot_on_a_limited_account_is_not_banned(
    kind: LimitKind, convsync_waha: FakeWAHA, convsync_server: ReferenceServer
) -> None:
    """Its answers wait, and the customers are answered when that is over."""
    runner = TurnRunner(
        echo(),
        client=convsync_server.client(),
        store=SQLiteEventStore(":memory:"),
        reply=WAHAReply(convsync_waha.base_url),
    )
    customers = [f"+5199999999{number}" for number in range(5)]
    for customer in customers:
        convsync_server.create_conversation(phone_number=customer, subdomain="a", bot_id="b")
    with TestClient(create_app(runner, waha_secrets=[])) as web:
        convsync_waha.limit(kind)
        web.post("/webhook", **convsync_waha.status())
        for customer in customers:
            web.post("/webhook", **convsync_waha.delivery(customer, "Hola"))
        while run(runner.store.backlog()).replies < len(customers):
            pass
        sent = [*convsync_waha.sent]
        convsync_waha.limit(None)
        web.post("/webhook", **convsync_waha.status())
        convsync_waha.wait_for_sent(len(customers), timeout=60.0)

    assert (sent, convsync_waha.banned) == ([], False)


def test_a_lost_answer_leaves_the_text_sent(convsync_waha: FakeWAHA) -> None:
    """And its caller in doubt."""
    convsync_waha.lose_answers()
    with WAHAClient(convsync_waha.base_url) as client, pytest.raises(WAHAError) as told:
        client.send_text("default", CHAT, "Hola")

    assert told.value.ambiguous
    assert [sent.text for sent in convsync_waha.sent] == ["Hola"]


@pytest.mark.parametrize("key", [None, "another"])
def test_a_wrong_key_is_refused(key: str | None) -> None:
    """As WAHA does."""
    with FakeWAHA(api_key="k") as waha:
        with WAHAClient(waha.base_url, api_key=key) as client, pytest.raises(WAHAError) as told:
            client.send_text("default", CHAT, "Hola")
        with WAHAClient(waha.base_url, api_key="k") as client:
            client.send_text("default", CHAT, "Hola")

    assert told.value.status_code == 401
    assert len(waha.sent) == 1


@pytest.mark.parametrize("path", ["/api/sendImage", "/api/sendText", "/nowhere"])
def test_what_it_does_not_understand_it_says(path: str, convsync_waha: FakeWAHA) -> None:
    """A bug in a test is no hang and no traceback of a thread."""
    with httpx.Client(base_url=convsync_waha.base_url) as client:
        assert client.post(path, content=b"[not JSON").status_code == 400
        assert client.get(path).status_code == 404


def test_a_delivery_is_a_customers_message_and_signed(convsync_waha: FakeWAHA) -> None:
    """The package's own parser and check take it."""
    made = convsync_waha.delivery(PHONE, "Hola", secret="k", metadata={"bot.id": "bot123"})

    event = webhook.parse_event(webhook.parse_json(made["content"]))
    assert webhook.verify(made["content"], made["headers"], "k")
    assert not webhook.verify(made["content"], made["headers"], "another")
    assert isinstance(event, InboundEvent)
    assert (event.phone_number, event.text, event.bot_id) == (PHONE, "Hola", "bot123")


def test_each_delivery_is_a_message_of_its_own_unless_told(convsync_waha: FakeWAHA) -> None:
    """Duplicates are made on purpose."""

    def event_id(message_id: str | None = None) -> str:
        made = convsync_waha.delivery(PHONE, "Hola", message_id=message_id)
        event = webhook.parse_event(webhook.parse_json(made["content"]))
        assert isinstance(event, InboundEvent)
        return event.event_id

    assert event_id() != event_id()
    assert event_id("3A01") == event_id("3A01")


def test_an_echo_is_one_of_our_own_messages(convsync_waha: FakeWAHA) -> None:
    """Not a customer's."""
    with WAHAClient(convsync_waha.base_url) as client:
        client.send_text("default", CHAT, "Hola")

    made = convsync_waha.echo(convsync_waha.sent[0], secret="k")
    event = webhook.parse_event(webhook.parse_json(made["content"]))
    assert isinstance(event, webhook.Ignored)
    assert webhook.verify(made["content"], made["headers"], "k")


def test_a_sender_that_is_no_customer_is_refused(convsync_waha: FakeWAHA) -> None:
    """Where the mistake is made."""
    with pytest.raises(InvalidPhoneNumberError):
        convsync_waha.delivery("nobody", "Hola")


async def test_a_test_waits_until_a_text_was_sent(convsync_waha: FakeWAHA) -> None:
    """Or is told how many were."""
    waiting = asyncio.create_task(asyncio.to_thread(convsync_waha.wait_for_sent, 1))
    async with AsyncWAHAClient(convsync_waha.base_url) as client:
        await client.send_text("default", CHAT, "Hola")

    assert [sent.text for sent in await waiting] == ["Hola"]
    with pytest.raises(TimeoutError, match="1 of 2 texts"):
        convsync_waha.wait_for_sent(2, timeout=0.0)


def test_it_stops_and_starts_on_its_port_and_leaves_nothing() -> None:
    """Connections that callers keep open do not keep it."""
    threads = set(threading.enumerate())
    waha = FakeWAHA()
    with pytest.raises(ClosedError, match="start"):
        _ = waha.base_url
    with WAHAClient(waha.start().start().base_url) as client:
        client.send_text("default", CHAT, "Hola")
        waha.stop()
        waha.stop()
        with pytest.raises(WAHAError):
            client.send_text("default", CHAT, "Hola")
        waha.start()
        client.send_text("default", CHAT, "Hola")
        waha.stop()

    assert len(waha.sent) == 2
    assert set(threading.enumerate()) - threads == set()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(waha.base_url.rpartition(":")[2])))


def test_what_was_sent_is_answered_although_it_stops() -> None:
    """Or the sender would not know, and send it again."""
    statuses: list[int] = []

    def send(url: str) -> None:
        text = {"session": "default", "chatId": "51999999999@c.us", "text": "Hola"}
        statuses.append(httpx.post(f"{url}/api/sendText", json=text).status_code)

    for _ in range(20):
        with FakeWAHA() as waha:
            sender = threading.Thread(target=send, args=(waha.base_url,))
            sender.start()
            waha.wait_for_sent(timeout=60)
        sender.join()

    assert statuses == [201] * 20


def test_a_file_is_served_under_the_url_that_waha_would_tell(convsync_waha: FakeWAHA) -> None:
    """Which is one of localhost:3000, wherever it is."""
    sent = convsync_waha.delivery(PHONE, "Menú", file=b"%PDF-1", mimetype="application/pdf")
    event = webhook.parse_event(webhook.parse_json(sent["content"]))

    assert isinstance(event, InboundEvent)
    assert event.media is not None
    assert (event.media.url or "").startswith("http://localhost:3000/api/files/default/")
    path = (event.media.url or "").removeprefix("http://localhost:3000")
    assert httpx.get(f"{convsync_waha.base_url}{path}").content == b"%PDF-1"
    assert httpx.get(f"{convsync_waha.base_url}{path}x").status_code == 404
