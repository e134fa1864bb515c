"""What WAHA takes for a human's message, and is one of our own replies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from langchain_convsync import WAHAReply, telemetry, waha
from langchain_convsync._flow import run
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests import promises, waha_chats
from tests.faulty_server import Deed, Received, answers
from tests.promises import CUSTOMER, Answer, awaited, blocking, echo, history, said
from tests.waha_chats import WahaChats

CHAT = f"{CUSTOMER[1:]}@c.us"
LID = "38000000000001@lid"
TakeOver = Callable[[TurnRunner, waha.OperatorMessage], bool]


def take_over(runner: TurnRunner, message: waha.OperatorMessage) -> bool:
    return runner.take_over(message, seconds=600.0)


def awaited_take_over(runner: TurnRunner, message: waha.OperatorMessage) -> bool:
    return asyncio.run(runner.atake_over(message, seconds=600.0))


sync_and_async = pytest.mark.parametrize(
    ("answer", "taken_over"),
    [(blocking, take_over), (awaited, awaited_take_over)],
    ids=["sync", "async"],
)


server, chats = promises.server, waha_chats.chats


@pytest.fixture
def runner(server: ReferenceServer, event_store: EventStore, chats: WahaChats) -> TurnRunner:
    sender = WAHAReply(chats.url, settle=0.0)
    return TurnRunner(echo(), client=server.client(), store=event_store, reply=sender)


def from_app(chats: WahaChats, number: int, **payload: Any) -> waha.OperatorMessage:
    """The webhook's word of the so-manyth send, as if somebody had typed it."""
    told = chats.echo(number)
    told["payload"] |= {"source": "app", **payload}
    parsed = waha.parse_event(told)
    assert isinstance(parsed, waha.OperatorMessage)
    return parsed


def in_a_minute() -> int:
    """As soon as a human answers; the app's own messages come at once."""
    return int(time.time()) + 60


@sync_and_async
def test_our_own_reply_takes_nothing_over_although_it_came_from_the_app(
    runner: TurnRunner,
    server: ReferenceServer,
    chats: WahaChats,
    answer: Answer,
    taken_over: TakeOver,
) -> None:
    """Else the agent would pause itself, and repeat its words in the history."""
    answer(runner, said("Hola", chat_id=CHAT))
    before = telemetry.counted("own_echoes_from_app")
    human = [taken_over(runner, from_app(chats, 1)) for _ in range(2)]
    turn = answer(runner, said("¿Algo más?", chat_id=CHAT))

    assert human == [False, False]
    assert turn.status == "answered"
    assert [text for _, text in history(server)] == [
        *("Hola", "re: Hola", "¿Algo más?", "re: ¿Algo más?")
    ]
    assert telemetry.counted("own_echoes_from_app") == before + 2


@sync_and_async
def test_so_does_one_whose_echo_comes_before_the_answer(
    runner: TurnRunner,
    event_store: EventStore,
    chats: WahaChats,
    answer: Answer,
    taken_over: TakeOver,
) -> None:
    """Nobody has told its id yet: the words of the send that is on the wire tell."""
    human: list[bool] = []

    def echoed_first(request: Received) -> Iterable[bytes | float | Deed]:
        answered = chats.carried_out(request)
        human.append(taken_over(runner, from_app(chats, 1)))
        return answered

    chats.fates = [echoed_first]
    answer(runner, said("Hola", chat_id=CHAT))

    assert human == [False]
    assert answer(runner, said("¿Algo más?", chat_id=CHAT)).status == "answered"
    assert run(event_store.backlog()).replies == 0


@sync_and_async
def test_so_does_one_whose_answer_told_no_id(
    runner: TurnRunner, chats: WahaChats, answer: Answer, taken_over: TakeOver
) -> None:
    """Its words stand for it, for some minutes."""

    def without_id(request: Received) -> Iterable[bytes | float | Deed]:
        chats.carried_out(request)
        return answers({}, status=201)(request)

    chats.fates = [without_id]
    answer(runner, said("Hola", chat_id=CHAT))

    assert not taken_over(runner, from_app(chats, 1))
    assert taken_over(runner, from_app(chats, 1, body="Le atiendo yo", timestamp=in_a_minute()))


@sync_and_async
def test_an_echo_from_the_app_proves_a_send_whose_answer_was_lost(
    runner: TurnRunner,
    event_store: EventStore,
    chats: WahaChats,
    answer: Answer,
    taken_over: TakeOver,
) -> None:
    """The chat need not be read; a restarted process knows it as well, from the store."""
    chats.fates = [chats.lost]
    runner._deliveries.budget = 0.0
    answer(runner, said("Hola", chat_id=CHAT))
    waiting = run(event_store.backlog()).replies
    human = taken_over(runner, from_app(chats, 1))
    runner._deliveries.budget = 10.0
    answer(runner, said("¿Algo más?", chat_id=CHAT))

    assert (waiting, human) == (1, False)
    assert (chats.texts, chats.reads) == (["re: Hola", "re: ¿Algo más?"], 0)


@sync_and_async
def test_a_human_who_says_the_same_is_a_human(
    runner: TurnRunner, chats: WahaChats, answer: Answer, taken_over: TakeOver
) -> None:
    """The ids of all our sends are known, and this is none of them."""
    answer(runner, said("Hola", chat_id=CHAT))

    own = {"id": f"true_{CHAT}_3EB0FF", "timestamp": in_a_minute()}
    assert taken_over(runner, from_app(chats, 1, **own))
    assert answer(runner, said("Gracias", chat_id=CHAT)).status == "paused"


@sync_and_async
def test_a_reply_is_recognised_under_the_lid(
    runner: TurnRunner, chats: WahaChats, answer: Answer, taken_over: TakeOver
) -> None:
    """The conversation is that of the phone number, and its echo names the LID only."""
    answer(runner, said("Hola", chat_id=LID, lid=LID))

    assert not taken_over(runner, from_app(chats, 1))


def test_a_reply_to_a_lid_is_recognised_although_its_echo_tells_the_phone_number(
    runner: TurnRunner, server: ReferenceServer, chats: WahaChats
) -> None:
    """Nobody knew before that both are one customer."""
    server.create_conversation(phone_number=LID, subdomain="restaurant-abc", bot_id="bot123")
    runner.run(said("Hola", phone_number=None, chat_id=LID, lid=LID))
    both = {"Info": {"Chat": LID, "RecipientAlt": f"{CUSTOMER[1:]}@s.whatsapp.net"}}
    message = from_app(chats, 1, _data=both)

    assert (message.phone_number, message.lid) == (CUSTOMER, LID)
    assert not runner.take_over(message, seconds=600.0)
