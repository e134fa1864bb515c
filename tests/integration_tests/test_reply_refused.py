"""Every refusal of WAHA's ends: by another id of the customer's, or as a dead letter."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from langchain_convsync import SQLiteEventStore, WAHAReply, telemetry
from langchain_convsync._flow import run
from langchain_convsync.stores.base import DeadLetter, EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner, operators
from tests import promises, waha_chats
from tests.faulty_server import Script, answers
from tests.promises import CUSTOMER, Answer, echo, said, sync_and_async
from tests.store_cases import Clock
from tests.waha_chats import WahaChats, never_came

CHAT, LID = f"{CUSTOMER[1:]}@c.us", "38000000000001@lid"
NO_LID = "2 UNKNOWN: no LID found for {} from server"

server, chats = promises.server, waha_chats.chats


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A send without an answer is surely over at once, and nothing waits between tries."""
    monkeypatch.setattr("langchain_convsync.outbox.reply.SEND_TIME", 0.0)
    monkeypatch.setattr("langchain_convsync.outbox.queue.FIRST_DELAY", 0.0)


def failing(words: str, status: int = 500, engine: str = "GOWS") -> Script:
    """As WAHA fails."""
    body = {
        "statusCode": status,
        "exception": {"message": words, "code": 2},
        "version": {"version": "2026.8.1", "engine": engine},
    }
    return answers(body, status=status)


def runner_of(
    server: ReferenceServer, store: EventStore, chats: WahaChats, **settings: Any
) -> TurnRunner:
    sender = WAHAReply(chats.url, settle=0.0)
    return TurnRunner(echo(), client=server.client(), store=store, reply=sender, **settings)


def dead(store: EventStore) -> list[DeadLetter]:
    return [*run(store.dead_letters())]


@sync_and_async
def test_a_refusal_for_good_is_a_dead_letter_in_wahas_words_and_the_next_reply_goes_on(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    answer: Answer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Status 500 tells nothing: its words do. It is told once, and sent once."""
    before = telemetry.counted("dead_letters", operation="reply")
    runner = runner_of(server, event_store, chats)
    chats.fates = [failing(NO_LID.format(f"{CUSTOMER[1:]}@s.whatsapp.net"))]
    answer(runner, said("Hola", chat_id=CHAT))
    answer(runner, said("¿Sigues ahí?", chat_id=CHAT))

    [letter] = dead(event_store)
    assert (
        "no LID found for …@s.whatsapp.net from server (status 500, engine GOWS)" in letter.reason
    )
    assert letter.sent_at is None
    assert (chats.posts, chats.texts) == ([("sendText", CHAT)] * 2, ["re: ¿Sigues ahí?"])
    assert telemetry.counted("dead_letters", operation="reply") == before + 1
    [line] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert letter.reason in line.getMessage()
    assert CUSTOMER[1:] not in f"{letter.reason} {caplog.text}"


@pytest.mark.parametrize(
    "words",
    [
        "2 UNKNOWN: no LID found for 555400000001@s.whatsapp.net from server",
        "Lid is missing in chat table",
        "No LID for user",
        "the number 555400000001 is not on WhatsApp",
        "invalid jid",
    ],
)
@pytest.mark.parametrize("status", [400, 500])
def test_it_goes_to_the_customers_other_id(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, words: str, status: int
) -> None:
    """The one that their message told; a number, or a LID."""
    chats.refusing = {CHAT: failing(words, status)}
    runner_of(server, event_store, chats).run(said("Hola", chat_id=CHAT, lid=LID))

    assert chats.sent == [("default", LID, "re: Hola")]
    assert not dead(event_store)


@pytest.mark.parametrize(("first", "second"), [(CHAT, LID), (LID, CHAT)])
def test_or_to_the_one_that_waha_knows(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, first: str, second: str
) -> None:
    """It is asked for a number's LID, and for a LID's number."""
    chats.numbers = {LID: CUSTOMER}
    chats.refusing = {first: failing("No LID for user")}
    named = {"lid": LID, "phone_number": None} if first == LID else {}
    runner_of(server, event_store, chats).run(said("Hola", chat_id=first, **named))

    assert chats.sent == [("default", second, "re: Hola")]
    assert not dead(event_store)


def test_an_unclear_failure_ends_after_a_while(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """It is tried by every id before; then the next reply goes on."""
    chats.refusing = dict.fromkeys([CHAT, LID], failing("getMessageModel failed", engine="WEBJS"))
    runner = runner_of(server, event_store, chats, reply_timeout=0.5, shutdown_timeout=30.0)
    runner.run(said("Hola", chat_id=CHAT, lid=LID))
    chats.refusing = {}
    runner.run(said("¿Sigues ahí?", chat_id=CHAT))

    [letter] = dead(event_store)
    assert letter.reason.startswith("WAHA has failed at it for ")
    assert "getMessageModel failed (status 500, engine WEBJS)" in letter.reason
    assert {chat for _, chat in chats.posts} == {CHAT, LID}
    assert chats.texts == ["re: ¿Sigues ahí?"]


def test_what_was_sent_although_waha_failed_is_not_sent_again(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """Not by another id either, and not for the sake of its end."""

    def sent_and_failed(request: Any) -> Any:
        chats.carried_out(request)
        return failing("Evaluation failed: t")(request)

    chats.fates = [sent_and_failed, failing("session", 422), failing("session", 422)]
    runner = runner_of(server, event_store, chats, reply_timeout=0.0)
    runner.run(said("Hola", chat_id=CHAT, lid=LID))
    runner.run(said("Otra", chat_id=CHAT, lid=LID))

    assert chats.texts == ["re: Hola", "re: Otra"]
    assert not dead(event_store)


def test_a_waha_that_is_away_is_no_refusal(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """Its replies wait, whatever the timeout: a proxy says so, or nobody does."""
    page = answers("<html>Bad Gateway</html>", status=502)
    chats.fates = [page, never_came, page]
    runner_of(server, event_store, chats, reply_timeout=900.0).run(said("Hola", chat_id=CHAT))

    assert chats.texts == ["re: Hola"]
    assert not dead(event_store)


def test_a_reply_that_expired_is_not_sent_and_an_operator_may_send_it_after_all(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waited for too long: its customer has asked elsewhere."""
    monkeypatch.setattr("langchain_convsync.outbox.refused.EXPIRES", -1.0)
    runner = runner_of(server, event_store, chats)
    runner.run(said("Hola", chat_id=CHAT))
    [letter] = dead(event_store)
    run(operators.retry(event_store, None))
    runner.run(said("¿Sigues ahí?", chat_id=CHAT))

    assert letter.reason.startswith("it came too late: decided ")
    assert (chats.texts, len(dead(event_store))) == (["re: Hola"], 1)


def test_how_old_the_oldest_unsent_reply_is_counts_from_its_turn(
    server: ReferenceServer, chats: WahaChats
) -> None:
    """However often it was tried since, which makes it due later; until it is sent or dead."""
    clock = Clock()
    store = SQLiteEventStore(":memory:", clock=clock)
    runner = runner_of(server, store, chats, shutdown_timeout=0.0)
    chats.refusing = {CHAT: failing("rate-overlimit", 429)}
    ages = [unsent(store)]
    for text in ("Hola", "¿Sigues ahí?"):
        runner.run(said(text, chat_id=CHAT))
        clock.advance(100.0)
        ages.append(unsent(store))
    chats.refusing = {}
    runner_of(server, store, chats).run(said("Adiós", chat_id=CHAT))

    assert [*ages, unsent(store)] == [0.0, 100.0, 200.0, 0.0]


def unsent(store: EventStore) -> float:
    told = run(operators.exposition(store)).splitlines()
    [line] = [each for each in told if each.startswith("convsync_oldest_unsent_seconds ")]
    return float(line.rpartition(" ")[2])
