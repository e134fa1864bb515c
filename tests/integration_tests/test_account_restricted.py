"""A number survives: while WhatsApp limits an account, or WAHA has lost it, it sends nothing."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from langchain_convsync import SQLiteEventStore, WAHAReply, create_app, telemetry, waha
from langchain_convsync._flow import run
from langchain_convsync._platform import now
from langchain_convsync.cli import command_line
from langchain_convsync.outbox.account import JITTER
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner, operators
from tests import promises, waha_chats
from tests.faulty_server import Script, answers
from tests.promises import CUSTOMER, Answer, echo, said, sync_and_async
from tests.store_cases import Clock
from tests.waha_chats import WahaChats

OTHER = "+51988888888"
CHAT, OTHER_CHAT = f"{CUSTOMER[1:]}@c.us", f"{OTHER[1:]}@c.us"

server, chats = promises.server, waha_chats.chats


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Iterator[EventStore]:
    opened = SQLiteEventStore(":memory:", clock=clock)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def customers(server: ReferenceServer) -> None:
    server.create_conversation(phone_number=OTHER, subdomain="restaurant-abc", bot_id="bot123")


def failing(words: str, status: int = 500) -> Script:
    return answers({"statusCode": status, "exception": {"message": words}}, status=status)


LOCKED = failing("2 UNKNOWN: server returned error 463")
CAPPED = failing("new chat message capping reached")


def runner_of(
    server: ReferenceServer, store: EventStore, chats: WahaChats, **settings: Any
) -> TurnRunner:
    """A process that waits for nothing."""
    sender = WAHAReply(chats.url, settle=0.0, **settings)
    return TurnRunner(
        echo(), client=server.client(), store=store, reply=sender, shutdown_timeout=0.0
    )


def both_write(runner: TurnRunner, text: str = "Hola") -> None:
    runner.run(said(text, event_id=f"{text} 1", chat_id=CHAT))
    runner.run(said(text, event_id=f"{text} 2", phone_number=OTHER, chat_id=OTHER_CHAT))


def deliver(runner: TurnRunner) -> None:
    """As its workers would, until nothing is due."""
    replies = runner._deliveries._replies
    assert replies is not None
    while acquired := run(runner.store.acquire("replies", f"{runner.store.backlog}")):
        run(replies.deliver(acquired, budget=0.0))


def restricted(store: EventStore) -> list[str]:
    lines = run(operators.exposition(store)).splitlines()
    told = [line for line in lines if line.startswith("convsync_account_restricted{")]
    return [line.split('"')[1] for line in told if not line.endswith(" 0")]


def test_one_refusal_of_whatsapps_lock_holds_every_reply_of_the_account(
    server: ReferenceServer,
    store: EventStore,
    chats: WahaChats,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Until one of them shows that it is over, in all processes together."""
    chats.fates = [LOCKED]
    first, second = runner_of(server, store, chats), runner_of(server, store, chats)
    both_write(first)
    both_write(second, "¿Sigues ahí?")
    deliver(second)

    assert chats.posts == [("sendText", CHAT)]
    assert restricted(store) == ["timelock"]
    assert [each.levelno for each in caplog.records if "sends nothing" in each.message] == [
        logging.ERROR
    ]
    clock.advance(900.0)
    deliver(first)
    assert sorted(chats.texts) == ["re: Hola"] * 2 + ["re: ¿Sigues ahí?"] * 2
    assert (restricted(store), run(store.backlog()).dead_letters) == ([], 0)


def test_a_cap_of_new_chats_holds_first_contacts_alone(
    server: ReferenceServer,
    store: EventStore,
    chats: WahaChats,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever has had a message before goes on being answered; the others are when it ends."""
    runner = runner_of(server, store, chats)
    runner.run(said("Hola", chat_id=CHAT))
    chats.fates = [CAPPED]
    runner.run(said("Hola", event_id="2", phone_number=OTHER, chat_id=OTHER_CHAT))
    runner.run(said("¿Y?", event_id="3", chat_id=CHAT))
    runner.run(said("¿Y?", event_id="4", phone_number=OTHER, chat_id=OTHER_CHAT))
    meanwhile, why = [*chats.posts], restricted(store)
    clock.advance(300.0)
    deliver(runner)

    assert [chat for _, chat in meanwhile] == [CHAT, OTHER_CHAT, CHAT]
    assert why == ["capping"]
    assert [chat for _, chat in chats.posts[3:]] == [OTHER_CHAT, OTHER_CHAT]
    assert (restricted(store), run(store.backlog()).dead_letters) == ([], 0)
    assert "its account begins no new chats for now" in caplog.text


def test_whom_whatsapp_takes_for_a_first_contact_is_tried_seldom(
    server: ReferenceServer, store: EventStore, chats: WahaChats, clock: Clock
) -> None:
    """The store knows them and its account is capped all the same: that goes on for long."""
    runner = runner_of(server, store, chats)
    runner.run(said("Hola", chat_id=CHAT))
    chats.refusing[CHAT] = CAPPED
    runner.run(said("¿Y?", event_id="2", chat_id=CHAT))
    for _ in range(360):
        clock.advance(10.0)
        deliver(runner)

    assert len(chats.posts) == 1 + 4  # at once, and after 5, 15 and 35 minutes


@pytest.mark.parametrize("looks", [0, 503], ids=["told", "not to be asked"])
def test_a_lock_is_looked_at_before_it_is_tried(
    server: ReferenceServer, store: EventStore, chats: WahaChats, clock: Clock, looks: int
) -> None:
    """Now and then, whenever it was to end: one of two clocks may be wrong, WhatsApp prolong it."""
    ends = (now() + timedelta(seconds=7200)).isoformat()
    locked = answers({"isActive": True, "timeEnforcementEnds": ends})
    chats.limits = answers({}, status=looks) if looks else locked
    chats.fates = [LOCKED]
    runner = runner_of(server, store, chats)
    both_write(runner)
    for _ in range(4):
        clock.advance(900.0)
        deliver(runner)
    tried = len(chats.posts)
    chats.limits = answers({"isActive": False})
    clock.advance(4 * 900.0)
    deliver(runner)

    assert (tried, len(chats.sent)) == (1, 2)


@pytest.mark.parametrize("status", ["STOPPED", "SCAN_QR_CODE", "FAILED", "STARTING"])
def test_a_session_that_does_not_work_sends_nothing_until_it_does(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, status: str
) -> None:
    """By its own word, at once, in both directions; nothing of that is a dead letter."""
    sender = WAHAReply(chats.url)
    runner = TurnRunner(echo(), client=server.client(), store=event_store, reply=sender)
    account = {"session": "ventas", "me": {"id": "51911111111@c.us"}}

    def told(status: str) -> dict[str, Any]:
        return {"event": "session.status", "payload": {"status": status}, **account}

    message = {"id": f"false_{CHAT}_3A01", "from": CHAT, "body": "Hola", "timestamp": 1}
    message["timestamp"] = int(now().timestamp())
    with TestClient(create_app(runner, waha_secrets=[])) as web:
        web.post("/webhook", json=told(status))
        web.post("/webhook", json={"event": "message", "payload": message, **account})
        while not run(event_store.backlog()).replies:
            pass
        posts, why = [*chats.posts], restricted(event_store)
        web.post("/webhook", json=told("WORKING"))
        while run(event_store.backlog()).replies:
            pass

    assert (posts, why) == ([], ["session"])
    assert (chats.texts, restricted(event_store)) == (["re: Hola"], [])


FREE = {"isActive": False}
NOT_CAPPED = {"cappingStatus": "NONE"}


@sync_and_async
@pytest.mark.parametrize(
    ("refusal", "me", "known", "sent"),
    [
        (LOCKED, {"reachoutTimelock": FREE}, FREE, 2),
        (LOCKED, {"messageCapping": NOT_CAPPED}, FREE, 0),
        (LOCKED, {"reachoutTimelock": None}, FREE, 0),
        (LOCKED, {"reachoutTimelock": FREE}, {"isActive": True}, 0),
        (CAPPED, {"messageCapping": NOT_CAPPED}, FREE, 2),
        (CAPPED, {"reachoutTimelock": FREE}, FREE, 0),
    ],
    ids=["over", "another one", "unknown", "over by WAHA's clock alone", "a cap", "a lock"],
)
def test_a_limit_that_waha_tells_to_be_over_is_tried_at_once(
    server: ReferenceServer,
    store: EventStore,
    chats: WahaChats,
    answer: Answer,
    refusal: Script,
    me: dict[str, Any],
    known: dict[str, Any],
    sent: int,
) -> None:
    """By one reply, which looks before it is sent; the others follow when it was taken."""
    chats.fates = [refusal]
    runner = runner_of(server, store, chats)
    both_write(runner)
    chats.limits = answers(known)
    told = waha.parse_event({"event": "session.status", "me": me, "payload": {"status": "WORKING"}})
    assert isinstance(told, waha.Ignored)
    record = runner.record_status if answer is promises.blocking else recorded(runner)
    assert record(told) is False
    deliver(runner)

    assert (len(chats.posts), len(chats.sent)) == (1 + sent, sent)


def recorded(runner: TurnRunner) -> Callable[[waha.Ignored], bool]:
    """As an app does."""
    return lambda told: asyncio.run(runner.arecord_status(told))


def test_what_waha_tells_of_a_lock_is_told_with_its_end(
    server: ReferenceServer, store: EventStore, chats: WahaChats
) -> None:
    """It is looked at now and then until that; a session that is down comes first."""
    runner = runner_of(server, store, chats)
    lock = {"isActive": True, "timeEnforcementEnds": 1893456000}  # as seconds, in 2030

    def told(status: str) -> waha.Ignored:
        payload = {"status": status, "data": {"reachoutTimelock": lock}}
        event = waha.parse_event({"event": "session.status", "payload": payload})
        assert isinstance(event, waha.Ignored)
        return event

    assert runner.record_status(told("FAILED")) is True
    [down] = run(store.restrictions())
    assert runner.record_status(told("WORKING")) is True
    [locked] = run(store.restrictions())
    both_write(runner)

    assert (down.kind, down.why) == ("session", "WAHA's session is FAILED")
    assert locked.kind == "timelock"
    assert locked.why == "WhatsApp limits the account: timelock, until 2030-01-01 00:00 UTC"
    assert chats.posts == []


def test_answers_that_are_old_when_it_is_over_are_not_sent_any_more(
    server: ReferenceServer, store: EventStore, chats: WahaChats, clock: Clock
) -> None:
    """The customer asked yesterday; an operator is told."""
    chats.fates = [failing("Session status is not as expected", 422)]
    runner = runner_of(server, store, chats)
    both_write(runner)
    clock.advance(8 * 3600.0)
    deliver(runner)
    both_write(runner, "¿Sigues ahí?")
    deliver(runner)

    reasons = [each.reason for each in run(store.dead_letters())]
    assert [reason.partition(":")[0] for reason in reasons] == ["it came too late"] * 2
    assert chats.texts == ["re: ¿Sigues ahí?"] * 2


def test_show_says_that_the_account_sends_nothing(
    server: ReferenceServer, durable_store_url: str, chats: WahaChats
) -> None:
    """And since when, in WAHA's words."""
    chats.fates = [LOCKED]
    sender = WAHAReply(chats.url)
    TurnRunner(
        echo(), client=server.client(), store=durable_store_url, reply=sender, shutdown_timeout=0.0
    ).run(said("Hola", chat_id=CHAT))
    arguments = ["show", CUSTOMER, "--store", durable_store_url, "--json"]
    told = json.loads(CliRunner().invoke(command_line(), arguments).stdout)["why"]
    [why] = [line for line in told if line.startswith("replies")]

    assert why.startswith("replies, for ")
    assert "the account sends nothing: WhatsApp locks the account" in why
    assert "server returned error 463 (status 500)" in why
    assert "; again in 15 min" in why


def test_an_accounts_messages_are_spaced_in_all_processes_together(
    server: ReferenceServer, store: EventStore, chats: WahaChats, clock: Clock
) -> None:
    """Each by the least that is told, and a little more, at random; the first one goes at once."""
    runners = [runner_of(server, store, chats, pace=12.0) for _ in range(2)]
    for number, runner in enumerate(runners):
        both_write(runner, f"{number}")
    sent_at = [clock.now] * len(chats.sent)
    while len(sent_at) < 4:
        clock.advance(0.1)
        for runner in runners:
            deliver(runner)
        sent_at += [clock.now] * (len(chats.sent) - len(sent_at))

    gaps = [b - a for a, b in pairwise(sent_at)]
    assert len(gaps) == 3
    assert all(5.0 <= gap <= 5.0 * (1 + JITTER) + 0.2 for gap in gaps), gaps


def test_first_contacts_are_counted_apart(
    server: ReferenceServer, store: EventStore, chats: WahaChats, clock: Clock
) -> None:
    """Those whom the account has sent nothing before; an old acquaintance does not wait."""
    runner = runner_of(server, store, chats, first_contacts=60.0)
    runner.run(said("Hola", chat_id=CHAT))
    runner.run(said("Hola", event_id="2", phone_number=OTHER, chat_id=OTHER_CHAT))
    runner.run(said("¿Y?", chat_id=CHAT))
    before = [*chats.sent]
    clock.advance(60.0 * (1 + JITTER))
    deliver(runner)

    assert [chat for _, chat, _ in before] == [CHAT, CHAT]
    assert [chat for _, chat, _ in chats.sent[2:]] == [OTHER_CHAT]


def test_each_restriction_is_counted(
    server: ReferenceServer, store: EventStore, chats: WahaChats
) -> None:
    """By what it is."""
    before = telemetry.counted("account_restrictions", kind="capping")
    chats.fates = [CAPPED]
    runner_of(server, store, chats).run(said("Hola", chat_id=CHAT))

    assert telemetry.counted("account_restrictions", kind="capping") == before + 1
