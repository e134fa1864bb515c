"""What becomes of a reply after WAHA has taken it, and who is told that it did not arrive."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from langchain_convsync import Undelivered, WAHAReply, create_app, telemetry, waha
from langchain_convsync._flow import run
from langchain_convsync.cli import command_line
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests import promises, waha_chats
from tests.faulty_server import answers
from tests.promises import CUSTOMER, Answer, awaited, echo, said, sync_and_async
from tests.waha_chats import WahaChats

CHAT = f"{CUSTOMER[1:]}@c.us"
server, chats = promises.server, waha_chats.chats


def runner_of(server: ReferenceServer, store: Any, chats: WahaChats, **settings: Any) -> TurnRunner:
    sender = WAHAReply(chats.url, settle=0.0)
    return TurnRunner(echo(), client=server.client(), store=store, reply=sender, **settings)


def ack(chats: WahaChats, number: int, level: int, **payload: Any) -> dict[str, Any]:
    """As WAHA's webhook tells it of the message that was sent as the so-manyth."""
    told = {"id": chats.message(number)["id"], "from": CHAT, "fromMe": True, "ack": level}
    return {"event": "message.ack", "session": "default", "payload": {**told, **payload}}


def told(chats: WahaChats, number: int, level: int, **payload: Any) -> waha.Ignored:
    event = waha.parse_event(ack(chats, number, level, **payload))
    assert isinstance(event, waha.Ignored)
    return event


def test_how_far_a_reply_got_is_told_once_for_each_step(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """Deliveries come twice and in any order; what is no reply of ours is nothing."""
    runner = runner_of(server, event_store, chats)
    runner.run(said("Hola", chat_id=CHAT))
    before = telemetry.counted("replies_arrived", state="read")
    steps = [runner.record_ack(told(chats, 1, level)) for level in (1, 1, 3, 2, 4, -1)]
    foreign = runner.record_ack(told(chats, 1, 3, id=f"true_{CHAT}_3EBOTHER"))

    assert steps == ["sent", None, "read", None, "read", None]
    assert foreign is None
    assert telemetry.counted("replies_arrived", state="read") == before + 2


@sync_and_async
def test_a_reply_that_whatsapp_reports_as_failed_is_told(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, answer: Answer
) -> None:
    """Once, by a function that may be async; its failure changes nothing."""
    heard: list[Undelivered] = []

    async def hears(reply: Undelivered) -> None:
        heard.append(reply)
        raise RuntimeError

    runner = runner_of(
        server,
        event_store,
        chats,
        on_undelivered=hears if answer is awaited else heard.append,
    )
    answer(runner, said("Hola", chat_id=CHAT))
    failed = told(chats, 1, -1)
    states = [_recorded(runner, failed, answer) for _ in range(2)]

    assert states == ["failed", None]
    [one] = heard
    assert (one.message_id, one.chat_id) == (failed.target_id, CHAT)
    assert one.key == failed.target_id


def _recorded(runner: TurnRunner, event: waha.Ignored, answer: Answer) -> str | None:
    if answer is not awaited:
        return runner.record_ack(event)
    return asyncio.run(runner.arecord_ack(event))


@sync_and_async
def test_a_reply_that_becomes_a_dead_letter_is_told_with_its_words(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, answer: Answer
) -> None:
    """And with WAHA's, so that a colleague can write instead."""
    heard: list[Undelivered] = []
    chats.fates = [answers({"message": "No LID for user"}, status=500)]
    runner = runner_of(server, event_store, chats, on_undelivered=heard.append)
    turn = answer(runner, said("Hola", chat_id=CHAT))

    [one] = heard
    assert (one.text, one.chat_id, one.turn_id) == ("re: Hola", CHAT, turn.turn_id)
    assert "No LID for user (status 500)" in one.reason
    assert CUSTOMER[1:] not in repr(one)


def test_the_webhook_takes_it_and_show_tells_it(
    server: ReferenceServer, durable_store_url: str, chats: WahaChats
) -> None:
    """For people in one line, for programs by message."""
    runner = runner_of(server, durable_store_url, chats)
    with TestClient(create_app(runner, waha_secrets=[])) as web:
        runner.accept(said("Hola", chat_id=CHAT))
        while not chats.sent or run(runner.store.backlog()).replies:
            pass
        for level in (2, 3):
            assert web.post("/webhook", json=ack(chats, 1, level)).status_code == 200
    shown = ["show", CUSTOMER, "--store", durable_store_url]
    [one] = json.loads(CliRunner().invoke(command_line(), [*shown, "--json"]).stdout)["arrivals"]

    assert one["state"] == "read"
    assert (
        "arrival       the last reply: read, " in CliRunner().invoke(command_line(), shown).stdout
    )


def test_what_only_waha_has_is_not_called_sent(
    server: ReferenceServer, durable_store_url: str, chats: WahaChats
) -> None:
    """WhatsApp has told nothing of it, although it has of others: none of them is left out."""
    runner = runner_of(server, durable_store_url, chats)
    shown = ["show", CUSTOMER, "--store", durable_store_url]

    def arrivals() -> list[str]:
        found = json.loads(CliRunner().invoke(command_line(), [*shown, "--json"]).stdout)
        return [each["state"] for each in found["arrivals"]]

    seen = []
    for number in range(1, 5):
        runner.run(said(f"{number}", chat_id=CHAT))
        if number == 2:
            runner.record_ack(told(chats, 2, 1))
        seen.append(arrivals())

    assert seen == [["taken"], ["sent"], ["sent", "taken"], ["sent", "taken", "taken"]]
    line = CliRunner().invoke(command_line(), shown).stdout
    assert "the last reply: taken by WAHA, and WhatsApp has told nothing of it" in line


@pytest.mark.parametrize("payload", [{"ack": None}, {"ack": 0}, {"ack": "READ"}, {"id": None}])
def test_an_ack_that_tells_nothing_is_nothing(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats, payload: dict[str, Any]
) -> None:
    """Whatever it holds."""
    runner = runner_of(server, event_store, chats)
    runner.run(said("Hola", chat_id=CHAT))

    assert runner.record_ack(told(chats, 1, 1, **payload)) is None
