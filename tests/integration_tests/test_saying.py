"""The bot writes first: once, in its place, now or later, and not where it is not wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from langchain_convsync import Reply, WAHAReply, current_conversation, telemetry
from langchain_convsync._flow import run
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.models import StateUpdate
from langchain_convsync.stores.base import Backlog, EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner, operators
from tests import promises, waha_chats
from tests.promises import CUSTOMER, Answer, echo, history, said, sync_and_async
from tests.redis_topologies import until
from tests.waha_chats import WahaChats

server, chats = promises.server, waha_chats.chats
Say = Callable[..., Turn]


def blocking(runner: TurnRunner, what: str | Reply, **options: Any) -> Turn:
    return runner.say(CUSTOMER, what, **options)


def awaited(runner: TurnRunner, what: str | Reply, **options: Any) -> Turn:
    return asyncio.run(runner.asay(CUSTOMER, what, **options))


both = pytest.mark.parametrize("say", [blocking, awaited], ids=["sync", "async"])


def in_(**span: float) -> datetime:
    return datetime.now(UTC) + timedelta(**span)


@pytest.fixture
def runner(server: ReferenceServer, event_store: EventStore, chats: WahaChats) -> TurnRunner:
    sender = WAHAReply(chats.url)
    return TurnRunner(echo(), client=server.client(), store=event_store, reply=sender)


@both
def test_what_is_said_first_is_sent_and_stands_in_the_history_once(
    say: Say, runner: TurnRunner, server: ReferenceServer, chats: WahaChats
) -> None:
    """With its key it is one message, however often it is said, under whichever id."""
    runner.run(said("Hola"))

    first = say(runner, "Tu pedido salió", key="order 7")
    again = say(runner, "Tu pedido salió", key="order 7")
    by_chat = runner.say(f"{CUSTOMER[1:]}@c.us", "Tu pedido salió", key="order 7")

    assert (first.status, first.reply) == ("said", "Tu pedido salió")
    assert (again.status, again.reply, by_chat.status) == ("duplicate", first.reply, "duplicate")
    assert chats.texts == ["re: Hola", "Tu pedido salió"]
    assert history(server) == [
        ("user", "Hola"),
        ("bot", "re: Hola"),
        ("bot", "Tu pedido salió"),
    ]


@both
def test_without_a_key_each_call_is_a_message(
    say: Say, runner: TurnRunner, chats: WahaChats
) -> None:
    """As each reply is."""
    for _ in range(2):
        assert say(runner, Reply(texts=["¡Hola!", "¿Qué tal?"])).status == "said"
    assert chats.texts == ["¡Hola!", "¿Qué tal?"] * 2


def test_a_file_may_be_said_first(
    runner: TurnRunner, server: ReferenceServer, chats: WahaChats, event_store: EventStore
) -> None:
    """Its bytes wait in the store, and stand in the history as its caption and kind."""
    menu = Reply(texts="Hola", file=b"%PDF-1.7", filename="menu.pdf", caption="Nuestro menú")
    runner.say(CUSTOMER, menu, at=in_(seconds=0.2))
    with runner:
        until(lambda: history(server))
        until(lambda: run(event_store.backlog()) == Backlog())
    assert history(server) == [("bot", menu.text)]
    assert [path for path, _ in chats.posts] == ["sendText", "sendFile"]


def test_it_goes_through_the_session_that_the_customer_has_written_through(
    runner: TurnRunner, chats: WahaChats
) -> None:
    """No call has to name it."""
    runner.run(said("Hola", waha_session="ventas"))
    runner.say(CUSTOMER, "Tu pedido salió")
    assert {session for session, _, _ in chats.sent} == {"ventas"}


@both
def test_what_is_for_later_waits_for_its_time_and_holds_up_nothing(
    say: Say,
    runner: TurnRunner,
    server: ReferenceServer,
    event_store: EventStore,
    chats: WahaChats,
) -> None:
    """It survives its process; the customer is answered meanwhile; show tells that it waits."""
    assert say(runner, "Mañana a las 9", at=in_(hours=10), key="1").status == "queued"
    assert say(runner, "En una hora", at=in_(hours=1), key="2").status == "queued"
    assert say(runner, "Mañana a las 9", at=in_(hours=9), key="1").status == "queued"

    assert runner.run(said("Hola")).reply == "re: Hola"

    assert chats.texts == ["re: Hola"]
    key = run(operators.conversation_key_of(event_store, CUSTOMER))
    assert 3500 < (run(event_store.due("inbox", key)) or 0) <= 3600
    [why] = run(operators.inspect_conversation(event_store, key)).reasons()
    assert why.startswith("events: the bot is to say 2 messages later, the first in ")
    assert run(event_store.backlog()) == Backlog(queued=1, interrupts=1)
    assert run(operators.forget(event_store, key))
    assert run(event_store.backlog()) == Backlog()


@both
def test_workers_say_it_when_its_time_has_come(
    say: Say, runner: TurnRunner, server: ReferenceServer, chats: WahaChats
) -> None:
    """Another process of the same store, say; in order of time, not of the calls."""
    say(runner, "después", at=in_(seconds=0.6))
    say(runner, "antes", at=in_(seconds=0.3))
    assert chats.texts == []
    with runner:
        until(lambda: len(chats.texts) == 2)
        until(lambda: len(history(server)) == 2)
    assert chats.texts == ["antes", "después"]
    assert history(server) == [("bot", "antes"), ("bot", "después")]


@sync_and_async
def test_the_customers_words_make_it_needless_if_it_is_so_wished(
    answer: Answer, runner: TurnRunner, server: ReferenceServer, chats: WahaChats
) -> None:
    """A question whether they are still there; what is to be said in any case is."""
    answer(runner, said("Hola"))
    runner.say(CUSTOMER, "¿Sigues ahí?", at=in_(seconds=0.4), unless_heard=True)
    runner.say(CUSTOMER, "Cerramos pronto", at=in_(seconds=0.4))
    answer(runner, said("dos"))
    before = telemetry.counted("said", outcome="heard")
    with runner:
        until(lambda: len(chats.texts) == 3)
        until(lambda: run(runner.store.backlog()) == Backlog())
    assert chats.texts == ["re: Hola", "re: dos", "Cerramos pronto"]
    assert telemetry.counted("said", outcome="heard") == before + 1
    assert history(server)[-1] == ("bot", "Cerramos pronto")


def test_a_customer_who_stays_silent_hears_it(runner: TurnRunner, chats: WahaChats) -> None:
    """Their words of before are none that count."""
    runner.run(said("Hola"))
    runner.say(CUSTOMER, "¿Sigues ahí?", at=in_(seconds=0.2), unless_heard=True)
    with runner:
        until(lambda: len(chats.texts) == 2)
    assert chats.texts == ["re: Hola", "¿Sigues ahí?"]


@both
def test_nothing_is_said_while_a_human_has_the_conversation_or_after_it_was_closed(
    say: Say, runner: TurnRunner, server: ReferenceServer, chats: WahaChats
) -> None:
    """They know better; what was not said is not in the history."""
    runner.run(said("Hola"))
    runner.pause(CUSTOMER, seconds=600)
    assert say(runner, "Tu pedido salió", key="1").status == "paused"
    runner.resume(CUSTOMER)
    closing = StateUpdate(is_active=False)
    with server.client() as client:
        session = client.get_conversation(CUSTOMER).session_id
        client.sync_conversation(session, closing)
    assert say(runner, "Tu pedido salió", key="2").status == "dropped"
    assert chats.texts == ["re: Hola"]
    assert [m.content for m in server.conversation(CUSTOMER).messages] == ["Hola", "re: Hola"]


@both
def test_a_colleagues_words_are_said_while_a_human_has_the_conversation(
    say: Say, runner: TurnRunner, server: ReferenceServer, chats: WahaChats
) -> None:
    """A helpdesk sends them this way; the agent stays out of it."""
    runner.run(said("Hola"))
    runner.pause(CUSTOMER, seconds=600)
    assert say(runner, "Soy Ana", colleague=True).status == "said"
    assert runner.run(said("dos")).status == "paused"
    assert chats.texts == ["re: Hola", "Soy Ana"]
    assert history(server)[2:] == [("bot", "Soy Ana"), ("user", "dos")]


@both
def test_whom_the_api_server_does_not_know_hears_it_unrecorded(
    say: Say, event_store: EventStore, chats: WahaChats
) -> None:
    """A session ends after a day, and a reminder may be for the day after."""
    with ReferenceServer() as server:
        runner = TurnRunner(
            echo(), client=server.client(), store=event_store, reply=WAHAReply(chats.url)
        )
        assert say(runner, "Mañana es tu cita").status == "said"
    assert chats.sent == [("default", f"{CUSTOMER[1:]}@c.us", "Mañana es tu cita")]


def test_it_is_said_while_the_agent_waits_for_an_answer_which_still_reaches_it(
    server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """The run waits on, and its question stands."""

    def ask(_: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"Dijiste {interrupt('¿Seguro?')}")]}

    graph: Any = StateGraph(MessagesState)
    graph.add_node("ask", ask).add_edge(START, "ask")
    runner = TurnRunner(
        graph.compile(checkpointer=InMemorySaver()),
        client=server.client(),
        store=event_store,
        reply=WAHAReply(chats.url),
    )
    assert runner.run(said("Hola")).status == "interrupted"
    assert runner.say(CUSTOMER, "¿Sigues ahí?").status == "said"
    assert runner.run(said("sí")).reply == "Dijiste sí"
    assert chats.texts == ["¿Seguro?", "¿Sigues ahí?", "Dijiste sí"]


@sync_and_async
def test_a_tool_may_say_something_later_and_a_turn_that_is_run_again_says_it_once(
    answer: Answer, server: ReferenceServer, event_store: EventStore, chats: WahaChats
) -> None:
    """It is named by its turn; the turn's own customer is not one who has written since."""
    runs: list[int] = []

    def remind(messages: Any) -> AIMessage:
        mine.say(
            current_conversation().phone_number,
            "¿Sigues ahí?",
            at=in_(seconds=1.0),
            unless_heard=True,
        )
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError
        return AIMessage("Hola")

    mine = TurnRunner(
        RunnableLambda(remind),
        client=server.client(),
        store=event_store,
        reply=WAHAReply(chats.url),
    )
    assert answer(mine, said("Hola")).status == "answered"
    assert len(runs) == 2
    with mine:
        until(lambda: len(chats.texts) == 2)
        until(lambda: run(event_store.backlog()) == Backlog())
    assert chats.texts == ["Hola", "¿Sigues ahí?"]


def test_who_sends_himself_gets_it_as_a_turn(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """With on_reply=, and without a sender at all."""
    told: list[Turn] = []
    client = server.client()
    runner = TurnRunner(echo(), client=client, store=event_store, on_reply=told.append)
    runner.say(CUSTOMER, "Tu pedido salió")
    assert [(each.status, each.reply) for each in told] == [("said", "Tu pedido salió")]
    assert told[0].chat_id == f"{CUSTOMER[1:]}@c.us"


def test_a_webhooks_process_leaves_it_to_the_others(
    server: ReferenceServer, event_store: EventStore, runner: TurnRunner, chats: WahaChats
) -> None:
    """It records, as it records events."""
    recorder = TurnRunner(client=server.client(), store=event_store, record_only=True)
    assert recorder.say(CUSTOMER, "Tu pedido salió").status == "queued"
    with runner:
        until(lambda: chats.texts)


@pytest.mark.parametrize(
    ("what", "options", "told"),
    [
        (" ", {}, "something to say"),
        (Reply.silent, {}, "something to say"),
        ("Hola", {"at": datetime(2030, 1, 1)}, "needs a time zone"),  # noqa: DTZ001 - the mistake
        ("Hola", {"key": " "}, "names the message"),
    ],
)
@both
def test_what_cannot_be_said_is_told_at_once(
    what: Any, options: Any, told: str, say: Say, runner: TurnRunner
) -> None:
    """Before anything is recorded."""
    with pytest.raises(ConfigurationError, match=told):
        say(runner, what, **options)
