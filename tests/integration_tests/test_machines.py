"""Machines are not people: the business app's own messages, other programs, other bots."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from langchain_convsync import WAHAReply, create_app, telemetry, waha
from langchain_convsync._flow import run
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores.base import Backlog, EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from langchain_convsync.turns.operators import retry
from tests import promises, waha_chats
from tests.promises import CUSTOMER, Answer, echo, history, said, sync_and_async
from tests.redis_topologies import until
from tests.waha_chats import WahaChats

AWAY = "¡Gracias por escribirnos! En breve te atendemos."
ROBOT = "Soy un asistente virtual. Escriba 1 para menú."
ME = {"id": "5511900000001@c.us", "lid": "135900000000001@lid", "jid": "5511900000001:7@lid"}
NOW = int(time.time())

server, chats = promises.server, waha_chats.chats
Post = Callable[..., str]


@pytest.fixture
def runner(server: ReferenceServer, event_store: EventStore, chats: WahaChats) -> TurnRunner:
    sender = WAHAReply(chats.url)
    return TurnRunner(echo(), client=server.client(), store=event_store, reply=sender)


def delivery(text: str, *, own: bool = False, at: float = 0.0, **payload: Any) -> dict[str, Any]:
    """A message of the customer, or one of the business, sent so many seconds from now."""
    customer = payload.pop("customer", CUSTOMER)
    chat = f"{customer[1:]}@c.us"
    told = {
        "id": f"{str(own).lower()}_{chat}_3A{abs(hash((text, own, at, customer))):X}",
        "timestamp": NOW + at,
        "from": ME["id"] if own else chat,
        "to": chat if own else ME["id"],
        "fromMe": own,
        "source": "app",
        "body": text,
        "hasMedia": False,
    }
    return {"event": "message.any", "session": "loja", "me": ME, "payload": {**told, **payload}}


def by_business(text: str, **fields: Any) -> waha.OperatorMessage:
    """What the business's phone sent."""
    message = waha.parse_event(delivery(text, own=True, **fields))
    assert isinstance(message, waha.OperatorMessage)
    return message


def others(server: ReferenceServer, numbers: int) -> list[str]:
    """Further customers."""
    customers = [f"+5199999900{number}" for number in range(numbers)]
    for customer in customers:
        server.create_conversation(customer, subdomain="restaurant-abc", bot_id="bot123")
    return customers


def event_of(text: str, **fields: Any) -> InboundEvent:
    """What a customer sent."""
    event = waha.parse_event(delivery(text, **fields))
    assert isinstance(event, InboundEvent)
    return event


def answer_of(runner: TurnRunner, text: str, **fields: Any) -> str | None:
    return runner.run(event_of(text, **fields)).reply


@pytest.mark.parametrize("later", [0, 3])
def test_an_away_message_takes_nothing_over(
    runner: TurnRunner, server: ReferenceServer, chats: WahaChats, later: int
) -> None:
    """The app sends it at once; the customer is answered by the agent, then and afterwards."""
    app = create_app(runner, waha_secrets=[])
    before = telemetry.counted("automatic_messages", by="promptness")
    with TestClient(app) as web:
        web.post("/webhook", json=delivery("Hola, ¿hacen delivery?"))
        web.post("/webhook", json=delivery(AWAY, own=True, at=later))
        until(lambda: chats.texts)
        web.post("/webhook", json=delivery("¿Siguen ahí?", at=20))
        until(lambda: len(chats.texts) == 2)
        until(lambda: len(history(server)) == 5)

    assert chats.texts == ["re: Hola, ¿hacen delivery?", "re: ¿Siguen ahí?"]
    assert sorted(history(server)) == sorted(
        [
            ("user", "Hola, ¿hacen delivery?"),
            ("bot", AWAY),
            ("bot", "re: Hola, ¿hacen delivery?"),
            ("user", "¿Siguen ahí?"),
            ("bot", "re: ¿Siguen ahí?"),
        ]
    )
    assert telemetry.counted("automatic_messages", by="promptness") == before + 1


def test_so_does_none_that_comes_after_our_first_reply(
    runner: TurnRunner, server: ReferenceServer
) -> None:
    """The agent was faster than the app; what was answered is known from the store."""
    answer_of(runner, "Hola")

    assert not runner.take_over(by_business(AWAY, at=4), seconds=600.0)
    assert answer_of(runner, "¿Hacen delivery?", at=20) == "re: ¿Hacen delivery?"
    assert history(server)[2] == ("bot", AWAY)


@pytest.mark.parametrize("meanwhile", [True, False])
@sync_and_async
def test_so_does_one_that_is_delivered_before_the_message_that_it_answers(
    runner: TurnRunner,
    server: ReferenceServer,
    event_store: EventStore,
    answer: Answer,
    meanwhile: bool,
) -> None:
    """Deliveries come in any order; whether the pause was recorded before, or in the same turn."""
    assert runner.take_over(by_business(AWAY, at=2), seconds=600.0)
    if meanwhile:
        client = server.client()
        with TurnRunner(echo(), client=client, store=event_store, on_reply=lambda _: None):
            until(lambda: history(server) == [("bot", AWAY)])
    first = answer(runner, event_of("Hola"))
    runner.pause(CUSTOMER, seconds=600.0, account="loja")
    second = answer(runner, event_of("¿Y?", at=20))

    assert (first.status, first.reply) == ("answered", "re: Hola")
    assert second.status == "paused"


def test_a_colleague_of_days_ago_is_not_there_any_more(
    runner: TurnRunner, server: ReferenceServer
) -> None:
    """WhatsApp delivers it after a long time offline: it is recorded, and pauses nothing."""
    assert not runner.take_over(by_business("Le atiendo yo", at=-3 * 86_400), seconds=600.0)
    assert answer_of(runner, "Hola") == "re: Hola"
    assert history(server)[0] == ("bot", "Le atiendo yo")


def test_in_a_group_who_is_fast_is_a_human(runner: TurnRunner) -> None:
    """The business app sends nothing there by itself."""
    group = "120363000000000001@g.us"
    chat: dict[str, Any] = {"from": group, "to": group, "participant": f"{CUSTOMER[1:]}@c.us"}
    asked = waha.parse_event(delivery("¿Hay pizza?", id=f"false_{group}_3A1", **chat), groups="all")
    own = delivery("Le atiendo yo", own=True, at=2, id=f"true_{group}_3A2", **chat)
    human = waha.parse_event(own, groups="all")
    assert isinstance(asked, InboundEvent)
    assert isinstance(human, waha.OperatorMessage)
    runner.accept(asked)

    assert runner.take_over(human, seconds=600.0)


def test_two_messages_are_a_humans_however_prompt(runner: TurnRunner) -> None:
    """Who goes on to write is there."""
    for text in ("¡Hola!", "Le atiendo yo"):
        runner.take_over(by_business(text, at=3), seconds=600.0)

    assert runner.run(event_of("Hola")).status == "paused"


@sync_and_async
def test_a_human_who_takes_a_while_does(runner: TurnRunner, answer: Answer) -> None:
    """To read, and to type."""
    answer(runner, event_of("Hola"))

    assert runner.take_over(by_business("Le atiendo yo", at=40), seconds=600.0)
    assert answer(runner, event_of("Gracias", at=50)).status == "paused"


def test_a_human_who_writes_in_the_middle_of_a_talk_does(runner: TurnRunner) -> None:
    """They had been typing when the customer wrote again."""
    answer_of(runner, "Hola", at=-120)
    answer_of(runner, "¿Hola?", at=-2)

    assert runner.take_over(by_business("Ya le atiendo"), seconds=600.0)


def test_configured_texts_take_nothing_over_whenever_they_come(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """However they are spelled: spaces, cases and forms of letters differ between apps."""
    runner = TurnRunner(
        echo(),
        client=server.client(),
        store=event_store,
        reply=WAHAReply(chats.url),
        automatic_texts=["  Nuestro HORARIO es de 9 a 18 h.  "],
    )
    answer_of(runner, "Hola", at=-60)

    assert not runner.take_over(by_business("Nuestro horario es\nde 9 a 18 h."), seconds=600.0)
    assert answer_of(runner, "Gracias") == "re: Gracias"


def test_the_same_words_to_several_customers_take_nothing_over(
    runner: TurnRunner, server: ReferenceServer
) -> None:
    """Nothing was configured, and the customers wrote a while ago."""
    customers = others(server, 3)
    for customer in customers:
        answer_of(runner, "Hola", customer=customer, at=-60)
    human = [
        runner.take_over(by_business(AWAY, customer=customer), seconds=600.0)
        for customer in customers
    ]

    assert human == [True, False, False]
    assert [answer_of(runner, "¿Y?", customer=customer) for customer in customers] == [
        *(None, "re: ¿Y?", "re: ¿Y?")
    ]


def test_short_words_and_repeated_deliveries_are_a_humans(
    runner: TurnRunner, server: ReferenceServer
) -> None:
    """Everyone says good morning; and a delivery that comes again is the same message."""
    customers = others(server, 2)
    for customer in customers:
        answer_of(runner, "Hola", customer=customer, at=-60)
    greeted = [
        runner.take_over(by_business("¡Buenos días!", customer=customer), seconds=600.0)
        for customer in customers
    ]
    long = by_business("Buenos días, soy Eva, le atiendo yo", customer=customers[0])

    assert greeted == [True, True]
    assert [runner.take_over(long, seconds=600.0) for _ in range(2)] == [True, True]


def test_what_another_program_sends_enters_the_history_and_pauses_nothing(
    runner: TurnRunner, server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """Both of WAHA's events of it are one message; our own echo is none of another program's."""
    app = create_app(runner, waha_secrets=[])
    reminder = delivery("Su pedido salió", own=True, at=30, source="api")
    with TestClient(app) as web:
        web.post("/webhook", json=delivery("Hola"))
        until(lambda: len(history(server)) == 2 and not run(event_store.backlog()).replies)
        web.post("/webhook", json=chats.echo(1))
        for _ in range(2):
            web.post("/webhook", json=reminder)
        until(lambda: len(history(server)) == 3)
        web.post("/webhook", json=delivery("Gracias", at=40))
        until(lambda: len(history(server)) == 5)

    assert history(server) == [
        ("user", "Hola"),
        ("bot", "re: Hola"),
        ("bot", "Su pedido salió"),
        ("user", "Gracias"),
        ("bot", "re: Gracias"),
    ]


def test_it_pauses_where_that_is_wanted(
    runner: TurnRunner, server: ReferenceServer, event_store: EventStore
) -> None:
    """A program may be a help desk, in which humans write."""
    app = create_app(runner, waha_secrets=[], api_takeover=600.0)
    with TestClient(app) as web:
        web.post("/webhook", json=delivery("Hola"))
        until(lambda: len(history(server)) == 2 and not run(event_store.backlog()).replies)
        web.post("/webhook", json=delivery("Le atiendo yo", own=True, at=30, source="api"))
        web.post("/webhook", json=delivery("Gracias", at=40))
        until(lambda: len(history(server)) == 4)

    assert history(server)[2:] == [("bot", "Le atiendo yo"), ("user", "Gracias")]


def test_a_campaign_to_customers_who_never_wrote_leaves_nothing(
    runner: TurnRunner, event_store: EventStore
) -> None:
    """There is no conversation that it could be recorded in."""
    campaign = waha.parse_event(delivery("¡Ofertas!", own=True, source="api", customer="+5491155"))
    assert isinstance(campaign, waha.Ignored)

    assert not runner.record_echo(campaign)
    assert run(event_store.backlog()).queued == 0


def test_what_a_program_writes_after_the_session_is_over_becomes_no_dead_letter(
    runner: TurnRunner, server: ReferenceServer, event_store: EventStore, monkeypatch: Any
) -> None:
    """Nothing waits for a session that only the customer's next message begins."""
    monkeypatch.setattr("langchain_convsync.turns.reading.NOT_FOUND_TIME", 0.0)
    with runner:
        runner.run(event_of("Hola"))
        until(lambda: run(event_store.backlog()) == Backlog())
        server.expire(server.conversation(CUSTOMER).session_id)
        program = waha.parse_event(delivery("Su pedido salió", own=True, at=90, source="api"))
        assert isinstance(program, waha.Ignored)
        runner.record_echo(program)
        until(lambda: run(event_store.backlog()) == Backlog())

    assert len(history(server)) == 2


def test_another_programs_words_are_told_from_replies_only_where_these_are_known(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """Who sends the replies without us has all of them reported as another program's."""
    runner = TurnRunner(echo(), client=server.client(), store=event_store)
    runner.run(said("Hola"))
    own = waha.parse_event(delivery("re: Hola", own=True, at=1, source="api"))
    assert isinstance(own, waha.Ignored)
    runner.record_echo(own)

    assert run(event_store.backlog()).queued == 0


@sync_and_async
def test_two_machines_that_answer_each_other_end(
    server: ReferenceServer,
    event_store: EventStore,
    answer: Answer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whichever process each of their messages comes to; the customer's words are recorded."""
    caplog.set_level(logging.WARNING, "langchain_convsync.turns")
    runners = [TurnRunner(echo(), client=server.client(), store=event_store) for _ in range(2)]
    before = telemetry.counted("silences")
    turns = [answer(runners[n % 2], said(ROBOT, event_id=f"evt_{n}")) for n in range(12)]
    letters = run(event_store.dead_letters())
    lines = [r for r in caplog.records if "max_turns_per_minute" in r.getMessage()]

    assert [turn.status for turn in turns] == ["answered"] * 5 + ["paused"] * 7
    assert [turn.reply for turn in turns[5:]] == [None] * 7
    assert [role for role, _ in history(server)].count("user") == 12
    assert (len(letters), len(lines)) == (1, 1)
    assert "another machine may answer" in letters[0].reason
    assert telemetry.counted("silences") == before + 1


@sync_and_async
def test_so_do_those_that_say_something_new_each_time(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """By the number of their turns."""
    runner = TurnRunner(echo(), client=server.client(), store=event_store, max_turns_per_minute=3)
    turns = [answer(runner, said(f"Ticket {number} received")) for number in range(6)]

    assert [turn.status for turn in turns] == ["answered"] * 3 + ["paused"] * 3


def test_an_operator_ends_a_silence_and_has_answered_what_it_held(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """By the levers that there are for every pause, and every dead letter."""
    runner = TurnRunner(echo(), client=server.client(), store=event_store, max_turns_per_minute=1)
    texts = ("uno", "dos")
    held = [runner.run(said(text)).status for text in texts]
    runner.resume(CUSTOMER)
    free = TurnRunner(echo(), client=server.client(), store=event_store, max_turns_per_minute=None)
    again = run(retry(event_store, None))
    turn = free.run(said("tres"))

    assert held == ["answered", "paused"]
    assert again == 1
    assert (turn.status, turn.reply) == ("answered", "re: tres")
    assert run(event_store.backlog()).dead_letters == 0


def test_other_customers_are_answered_meanwhile(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """It is this conversation that goes too fast."""
    [other] = others(server, 1)
    runner = TurnRunner(echo(), client=server.client(), store=event_store, max_turns_per_minute=1)
    statuses = [
        runner.run(said(text, phone_number=customer)).status
        for customer, text in ((CUSTOMER, "a"), (CUSTOMER, "b"), (other, "c"))
    ]

    assert statuses == ["answered", "paused", "answered"]


def test_any_number_of_turns_is_answered_where_that_is_wanted(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """Of the same words, too."""
    runner = TurnRunner(
        echo(), client=server.client(), store=event_store, max_turns_per_minute=None
    )
    turns = [runner.run(said(ROBOT, event_id=f"evt_{number}")) for number in range(25)]

    assert {turn.status for turn in turns} == {"answered"}
