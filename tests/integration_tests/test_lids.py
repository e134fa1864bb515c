"""Customers who write under a LID: WAHA is asked whose it is, and one conversation holds them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from langchain_convsync import WAHAReply, telemetry
from langchain_convsync._flow import run
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests import promises
from tests.faulty_server import answers
from tests.promises import CUSTOMER, Answer, echo, history, said, spoken, sync_and_async
from tests.redis_topologies import until
from tests.waha_chats import WahaChats, waha_server

LID = "38000000000001@lid"
NUMBER = f"{CUSTOMER[1:]}@c.us"


server = promises.server


@pytest.fixture
def chats() -> Iterator[WahaChats]:
    chats = WahaChats()
    chats.numbers = {LID: NUMBER}
    with waha_server(chats) as chats.url:
        yield chats


def runner_of(
    server: ReferenceServer, store: EventStore, chats: WahaChats, **options: Any
) -> TurnRunner:
    sender = WAHAReply(chats.url, settle=0.0)
    return TurnRunner(echo(), client=server.client(), store=store, reply=sender, **options)


def by_lid(text: str, **fields: Any) -> InboundEvent:
    """A message whose delivery told the LID, and no phone number."""
    return said(text, **{"phone_number": None, "lid": LID, "chat_id": LID, **fields})


@sync_and_async
def test_a_customer_known_by_a_lid_is_answered_in_the_conversation_of_their_number(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, answer: Answer
) -> None:
    """In the chat that they wrote in; WAHA is asked once."""
    runner = runner_of(server, event_store, chats)
    turns = [answer(runner, by_lid("Hola")), answer(runner, by_lid("¿Y ahora?"))]

    assert [turn.status for turn in turns] == ["answered"] * 2
    assert history(server) == spoken(["Hola", "¿Y ahora?"])
    assert {(chat, text) for _, chat, text in chats.sent} == {
        (LID, "re: Hola"),
        (LID, "re: ¿Y ahora?"),
    }
    assert chats.lid_reads == [LID]


@sync_and_async
def test_what_happens_under_either_name_happens_to_one_customer_then(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, answer: Answer
) -> None:
    """A takeover, too; and a repeated message stays a duplicate."""
    runner = runner_of(server, event_store, chats)
    answer(runner, by_lid("Hola"))
    runner.pause(CUSTOMER, seconds=600.0)

    assert answer(runner, by_lid("¿Hay alguien?")).status == "paused"
    assert answer(runner, said("Hola")).status == "duplicate"


def test_a_takeover_under_the_lid_goes_along(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """It came before anybody knew whose it is."""
    runner = runner_of(server, event_store, chats)
    runner.pause(LID, seconds=600.0)

    assert runner.run(by_lid("Hola")).status == "paused"
    assert runner.run(said("¿Hay alguien?")).status == "paused"
    assert chats.texts == []


def test_what_waited_under_both_names_is_answered_in_the_order_in_which_it_was_sent(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """Together: nothing is lost, doubled or overtaken. The webhook asks nobody anything."""
    runner = runner_of(server, event_store, chats, workers=1)
    sent = [datetime.now(UTC) - timedelta(minutes=3 - number) for number in range(3)]
    runner.accept(by_lid("Una pizza", sent_at=sent[0]))
    runner.accept(said("con queso", sent_at=sent[1]))
    runner.accept(said("y piña", sent_at=sent[2]))
    asked = list(chats.lid_reads)
    with runner:
        until(lambda: chats.texts)

    assert asked == []
    assert chats.texts == ["re: y piña"]
    assert history(server)[:-1] == [("user", w) for w in ("Una pizza", "con queso", "y piña")]
    assert run(event_store.backlog()).queued == 0


@sync_and_async
@pytest.mark.parametrize("outcome", ["unknown", "failed"])
def test_where_the_number_is_unknown_the_lid_names_the_customer(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, answer: Answer, outcome: str
) -> None:
    """As before; WAHA is not asked again with every message."""
    server.create_conversation(phone_number=LID, subdomain="restaurant-abc", bot_id="bot123")
    chats.numbers = {}
    if outcome == "failed":
        chats.lid_answer = answers({}, status=500)
    before = telemetry.counted("lid_lookups", outcome=outcome)
    runner = runner_of(server, event_store, chats)
    turns = [answer(runner, by_lid("Hola")), answer(runner, by_lid("¿Y ahora?"))]

    assert [turn.status for turn in turns] == ["answered"] * 2
    assert history(server, LID) == spoken(["Hola", "¿Y ahora?"])
    assert telemetry.counted("lid_lookups", outcome=outcome) == before + 1


@sync_and_async
def test_a_server_that_knows_the_customer_by_the_lid_finds_them(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, answer: Answer
) -> None:
    """WAHA knows more than it does."""
    server.create_conversation(phone_number=LID, subdomain="restaurant-abc", bot_id="bot123")
    chats.numbers = {LID: "51911111111@c.us"}

    assert answer(runner_of(server, event_store, chats), by_lid("Hola")).status == "answered"
    assert history(server, LID) == spoken(["Hola"])


def test_replies_under_the_lid_are_not_overtaken(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """While one waits for a WAHA that is not ready, the number leads to the LID's conversation."""
    server.create_conversation(phone_number=LID, subdomain="restaurant-abc", bot_id="bot123")
    chats.numbers, numbers = {}, chats.numbers
    chats.fates = [answers({}, status=429)]
    first = runner_of(server, event_store, chats)
    first._deliveries.budget = 0.0
    first.run(by_lid("Hola"))
    chats.numbers = numbers
    linked = telemetry.counted("lids_linked")
    later = runner_of(server, event_store, chats)
    later.run(by_lid("¿Hay alguien?"))
    later.run(said("¿Y ahora?"))

    assert telemetry.counted("lids_linked") == linked + 1
    assert chats.texts == ["re: Hola", "re: ¿Hay alguien?", "re: ¿Y ahora?"]


def test_without_a_waha_to_ask_the_lid_names_the_customer(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """Whoever sends replies in another way."""
    server.create_conversation(phone_number=LID, subdomain="restaurant-abc", bot_id="bot123")
    runner = TurnRunner(echo(), client=server.client(), store=event_store)

    assert runner.run(by_lid("Hola")).status == "answered"
    assert chats.lid_reads == []
