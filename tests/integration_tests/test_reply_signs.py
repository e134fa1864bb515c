"""Before a reply is sent the chat may look as if somebody read and typed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from langchain_convsync import SQLiteEventStore, WAHAReply, telemetry
from langchain_convsync._flow import run
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.outbox import PendingReply, Replies
from langchain_convsync.stores.base import EventStore, Operation
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests import promises, waha_chats
from tests.faulty_server import CLOSE, HANG, Script, answers, sends
from tests.promises import CUSTOMER, Answer, echo, said, sync_and_async
from tests.store_cases import Clock, blocking, commit_of, event, queue_of, turn_of
from tests.waha_chats import WahaChats

pytestmark = pytest.mark.usefixtures("no_pause")

CHAT = f"{CUSTOMER[1:]}@c.us"


server, chats = promises.server, waha_chats.chats


def answered(
    answer: Answer, server: ReferenceServer, store: EventStore, chats: WahaChats, **options: Any
) -> list[str]:
    """What WAHA was asked to do for a message's answer."""
    sender = WAHAReply(chats.url, settle=0.0, **options)
    runner = TurnRunner(echo(), client=server.client(), store=store, reply=sender)
    answer(runner, said("Hola", chat_id=CHAT))
    assert chats.texts == ["re: Hola"]
    assert {chat for _, chat in chats.posts} == {CHAT}
    return [what for what, _ in chats.posts]


@sync_and_async
@pytest.mark.parametrize(
    ("options", "signs"),
    [
        ({}, []),
        ({"seen": True}, ["sendSeen"]),
        ({"typing": 0.001}, ["startTyping", "startTyping", "stopTyping"]),
        (
            {"seen": True, "typing": 0.001},
            ["sendSeen", "startTyping", "startTyping", "stopTyping"],
        ),
    ],
    ids=["by default", "seen", "typing", "both"],
)
def test_a_reply_follows_the_signs_of_life(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    answer: Answer,
    options: dict[str, Any],
    signs: list[str],
) -> None:
    """Only those that were asked for, in the chat that the customer wrote in.

    It is typed from before the agent runs, and right before the reply is sent.
    """
    assert answered(answer, server, event_store, chats, **options) == [*signs, "sendText"]


@sync_and_async
@pytest.mark.parametrize(
    "script", [answers({}, status=500), sends(CLOSE), sends(HANG)], ids=["500", "close", "hang"]
)
def test_signs_that_fail_do_not_hold_up_a_reply(
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
    answer: Answer,
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first that fails is the last, at the turn's begin and at the sending; it is counted."""
    monkeypatch.setattr("langchain_convsync.outbox.replies.SIGN_TIME", 0.2)
    chats.signs = script
    before = telemetry.counted("signs_failed")

    assert answered(answer, server, event_store, chats, seen=True, typing=20.0) == [
        *("sendSeen", "startTyping", "sendText")
    ]
    assert telemetry.counted("signs_failed") == before + 2


def test_a_reply_that_is_sent_again_is_not_typed_again(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """The customer has waited long enough."""
    chats.fates = [answers({}, status=429)]

    assert answered(TurnRunner.run, server, event_store, chats, seen=True) == [
        *("sendSeen", "sendText", "sendText")
    ]


def test_a_worker_that_lost_the_reply_shows_nothing(chats: WahaChats) -> None:
    """Another process is at it: the customer sees one of them type."""
    clock = Clock()
    store = SQLiteEventStore(":memory:", clock=clock)
    acquired = turn_of(store, blocking, event())
    body = PendingReply(turn="1", chat_id=CHAT, text="re: Hola").model_dump_json()
    replies = [Operation(id=f"{acquired.events[0].event_key}/0", body=body)]
    blocking(store.commit_turn(acquired.lease, replace(commit_of(acquired), replies=replies)))
    slow = queue_of(store, blocking, "replies", "slow")
    clock.advance(60.0)
    queue_of(store, blocking, "replies", "another")

    run(Replies(WAHAReply(chats.url, seen=True), store).deliver(slow, budget=0.0))

    assert chats.posts == []


@pytest.mark.parametrize("typing", [-1.0, 21.0, float("nan")])
def test_a_pause_is_bounded(typing: float) -> None:
    """WhatsApp stops showing it, and a queue waits."""
    with pytest.raises(ConfigurationError, match="typing"):
        WAHAReply("https://waha.example.com", typing=typing)
