"""One turn, effectively once: real HTTP, sync and async, every store."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from langchain_convsync import WAHAReply, telemetry
from langchain_convsync._flow import Io, run
from langchain_convsync.client import AsyncConvSyncClient, ConvSyncClient
from langchain_convsync.errors import (
    ConversationMismatchError,
    InvalidEventError,
    StoreUnavailableError,
)
from langchain_convsync.models import InboundEvent, StateUpdate
from langchain_convsync.settings import ServerProfile
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.stores.base import EventStore
from langchain_convsync.stores.heartbeat import Watch
from langchain_convsync.surfaces.context import TurnRecord
from langchain_convsync.testing import FakeWAHA, ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner
from langchain_convsync.turns.stopping import Stopper

pytestmark = pytest.mark.usefixtures("no_pause")

CUSTOMER = "+51999999999"
Answer = Callable[[TurnRunner, InboundEvent], Turn]


def blocking(runner: TurnRunner, event: InboundEvent) -> Turn:
    return runner.run(event)


def awaited(runner: TurnRunner, event: InboundEvent) -> Turn:
    return asyncio.run(runner.arun(event))


@pytest.fixture(params=[blocking, awaited], ids=["sync", "async"])
def answer(request: pytest.FixtureRequest) -> Answer:
    chosen: Answer = request.param
    return chosen


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        running.create_conversation(
            phone_number=CUSTOMER, subdomain="restaurant-abc", bot_id="bot123"
        )
        yield running


def event(number: int, text: str, **fields: Any) -> InboundEvent:
    fields = {"phone_number": CUSTOMER, **fields}
    return InboundEvent(event_id=f"evt_{number}", text=text, **fields)


class Agent:
    """Answers "re: <what was said last>", notes what it saw, and fails when told to."""

    def __init__(self, *failures: BaseException | str) -> None:
        self.seen: list[list[tuple[str, str]]] = []
        self.script = list(failures)
        self.runnable = RunnableLambda(self.reply)

    def reply(self, messages: list[BaseMessage]) -> AIMessage:
        self.seen.append([(message.type, str(message.content)) for message in messages])
        if self.script:
            planned = self.script.pop(0)
            if isinstance(planned, BaseException):
                raise planned
            return AIMessage(planned)
        return AIMessage(f"re: {messages[-1].content}")


def order(_output: object) -> StateUpdate:
    return StateUpdate(intent="order", step="selecting", context={"orderTotal": 25})


def history(server: ReferenceServer) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in server.conversation(CUSTOMER).messages]


def calls(server: ReferenceServer) -> list[str]:
    return [f"{seen.method} {seen.path.rsplit('/', 1)[-1]}" for seen in server.requests]


def test_an_event_is_answered_remembered_and_synced(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """The main job: one read, then the customer's words, the reply and the state.

    Before it begins a history, it looks whether the server has: behind the reply.
    """
    runner = TurnRunner(
        Agent().runnable, client=server.client(), store=event_store, extractor=order
    )

    turn = answer(runner, event(1, "Quiero una pizza"))

    assert (turn.status, turn.reply) == ("answered", "re: Quiero una pizza")
    assert turn.state == order(None)
    assert turn.events == ("evt_1",)
    kept = server.conversation(CUSTOMER)
    assert history(server) == [("user", "Quiero una pizza"), ("bot", "re: Quiero una pizza")]
    assert (kept.current_intent, kept.current_step) == ("order", "selecting")
    assert kept.context["orderTotal"] == 25
    assert kept.metadata["convsync"] == {"turn": turn.turn_id, "n": 1}
    reads, writes = ["GET {phoneNumber}"] * 2, ["POST messages", "POST messages", "PUT sync"]
    assert calls(server) == [*reads, *writes]


def test_the_agent_sees_what_was_said_before(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """The API's history is the agent's memory."""
    agent = Agent()
    runner = TurnRunner(agent.runnable, client=server.client(), store=event_store)
    answer(runner, event(1, "Hola"))

    answer(runner, event(2, "¿Qué hay?"))

    assert agent.seen[1] == [("human", "Hola"), ("ai", "re: Hola"), ("human", "¿Qué hay?")]


def test_a_repeated_event_gets_the_stored_reply_and_no_second_run(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """WAHA repeats itself; the customer gets one answer."""
    agent = Agent()
    runner = TurnRunner(agent.runnable, client=server.client(), store=event_store)
    first = answer(runner, event(1, "Hola"))

    again = answer(runner, event(1, "Hola"))

    assert (again.status, again.reply, again.turn_id) == ("duplicate", "re: Hola", first.turn_id)
    assert len(agent.seen) == 1
    assert len(history(server)) == 2


def test_the_same_message_under_a_lid_is_a_duplicate(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """One message can arrive as ``…@c.us`` and as ``…@lid``."""
    runner = TurnRunner(Agent().runnable, client=server.client(), store=event_store)
    answer(runner, event(1, "Hola", lid="38000000000010@lid"))

    twin = answer(runner, event(1, "Hola", phone_number=None, lid="38000000000010@lid"))

    assert twin.status == "duplicate"


def test_a_lid_and_its_phone_number_are_one_conversation(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """Once an event told both, messages under either keep their order."""
    runner = TurnRunner(
        Agent().runnable, client=server.client(), store=event_store, debounce=0.2, max_debounce=0.2
    )
    runner.run(event(1, "Hola", lid="38000000000010@lid"), wait=0)

    turn = answer(runner, event(2, "¿Hola?", phone_number=None, lid="38000000000010@lid"))

    assert (turn.status, turn.events) == ("answered", ("evt_1", "evt_2"))


def test_one_customer_of_two_accounts_is_two_conversations(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """An event id is only unique within its account: never another tenant's reply."""
    agent = Agent()
    runner = TurnRunner(agent.runnable, client=server.client(), store=event_store)
    answer(runner, event(1, "Hola", account="a"))

    other = answer(runner, event(1, "Hola", account="b"))

    assert other.status == "answered"
    assert len(agent.seen) == 2


def test_events_that_wait_together_are_answered_together(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """A burst gets one reply: one call commits it, the others learn that they were merged."""
    entered, proceed = threading.Event(), threading.Event()
    agent = Agent()

    def slow(messages: list[BaseMessage]) -> AIMessage:
        entered.set()
        assert proceed.wait(10)
        return agent.reply(messages)

    runner = TurnRunner(RunnableLambda(slow), client=server.client(), store=event_store)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(runner.run, event(1, "Hola"))
        assert entered.wait(10)
        burst = [pool.submit(runner.run, event(n, f"msg {n}")) for n in (2, 3)]
        while run(event_store.backlog()).queued < 3:
            pass
        proceed.set()
        turns = [future.result(timeout=20) for future in (first, *burst)]

    assert sorted(turn.status for turn in turns) == ["answered", "answered", "merged"]
    assert len(agent.seen) == 2
    assert [role for role, _ in history(server)] == ["user", "bot", "user", "user", "bot"]


def test_without_time_to_wait_an_event_stays_queued_and_the_next_turn_takes_it(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """``wait=0`` records and returns; nothing is lost."""
    agent = Agent()
    runner = TurnRunner(
        agent.runnable, client=server.client(), store=event_store, debounce=0.2, max_debounce=0.2
    )

    queued = runner.run(event(1, "Hola"), wait=0)
    turn = answer(runner, event(2, "¿Hay alguien?"))

    assert queued.status == "queued"
    assert (turn.status, turn.events) == ("answered", ("evt_1", "evt_2"))


def test_an_agent_that_keeps_failing_ends_in_the_fallback(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """One ending: fallback, the customer's words kept, a dead letter; the next event proceeds."""
    agent = Agent(ValueError("1"), ValueError("2"), ValueError("3"))
    runner = TurnRunner(
        agent.runnable, client=server.client(), store=event_store, fallback_reply="Un momento"
    )

    failed = answer(runner, event(1, "Hola"))
    following = answer(runner, event(2, "¿Hola?"))

    assert (failed.status, failed.reply) == ("failed", "Un momento")
    assert isinstance(failed.error, ValueError)
    assert following.status == "answered"
    assert run(event_store.backlog()).dead_letters == 1
    assert history(server)[:2] == [("user", "Hola"), ("bot", "Un momento")]


def test_an_extractor_that_fails_costs_no_reply(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """The state stays as it was, and that is counted."""

    def fail(_output: object) -> StateUpdate:
        raise ValueError

    failures = telemetry.counted("extraction_failures")
    runner = TurnRunner(Agent().runnable, client=server.client(), store=event_store, extractor=fail)

    assert answer(runner, event(1, "Hola")).status == "answered"
    assert telemetry.counted("extraction_failures") == failures + 1


def test_a_store_that_fails_is_no_failure_of_the_turn(
    server: ReferenceServer,
    event_store: EventStore,
    answer: Answer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However often it was away, the customer gets an answer, not the fallback."""
    monkeypatch.setattr("langchain_convsync.turns.process.RETRY_LATER", 0.0)
    runner = TurnRunner(
        Agent().runnable, client=server.client(), store=event_store, max_errors=1, max_starts=1
    )

    def away(*_: object) -> Io[Any]:
        raise StoreUnavailableError

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(event_store, "commit_turn", away)
            with pytest.raises(StoreUnavailableError):
                answer(runner, event(1, "Hola"))

    assert answer(runner, event(1, "Hola")).reply == "re: Hola"


def test_an_agent_that_fails_once_answers_in_the_next_run(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """A passing failure is nobody's business."""
    runner = TurnRunner(
        Agent(ValueError("once")).runnable, client=server.client(), store=event_store
    )

    assert answer(runner, event(1, "Hola")).status == "answered"


async def test_an_agent_that_exceeds_its_deadline_is_cancelled(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """It ends as every failure does."""

    async def endless(_messages: list[BaseMessage]) -> AIMessage:
        await asyncio.Event().wait()
        raise AssertionError

    agent: RunnableLambda[Any, Any] = RunnableLambda(endless)
    runner = TurnRunner(
        agent, client=server.client(), store=event_store, agent_timeout=0.05, max_errors=1
    )

    turn = await runner.arun(event(1, "Hola"))

    assert turn.status == "failed"
    assert isinstance(turn.error, TimeoutError)


def test_an_event_that_keeps_killing_its_process_ends_in_the_fallback(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """Starts without an end are counted: one event cannot stop its conversation for ever."""
    agent = Agent()
    settings: Any = {"client": server.client(), "store": event_store, "max_starts": 1}
    queueing = TurnRunner(agent.runnable, debounce=0.05, max_debounce=0.05, **settings)
    queueing.run(event(1, "Hola"), wait=0)
    while run(event_store.acquire("inbox", "of a process that dies", lease=0.05)) is None:
        pass

    turn = answer(TurnRunner(agent.runnable, **settings), event(1, "Hola"))

    assert turn.status == "failed"
    assert agent.seen == []


def test_an_interrupted_agent_is_resumed_by_the_next_event(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """The graph asks, the customer answers: the answer goes where the graph waits."""

    def ask(_state: MessagesState) -> dict[str, Any]:
        city = interrupt("¿A qué ciudad?")
        return {"messages": [AIMessage(f"Enviamos a {city}")]}

    graph: Any = StateGraph(MessagesState)  # its overloads know no node like this one
    agent = graph.add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=InMemorySaver())
    runner = TurnRunner(agent, client=server.client(), store=event_store)

    asked = answer(runner, event(1, "Quiero una pizza"))
    told = answer(runner, event(2, "Lima"))

    assert (asked.status, asked.reply) == ("interrupted", "¿A qué ciudad?")
    assert (told.status, told.reply) == ("answered", "Enviamos a Lima")
    assert [text for _, text in history(server)] == ["Quiero una pizza", "Lima", "Enviamos a Lima"]


def test_a_checkpointed_agent_gets_only_what_is_new(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """It remembers the rest itself; its thread is named by a hash, never by a phone number."""
    seen: list[list[str]] = []

    def reply(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        seen.append([str(message.content) for message in state["messages"]])
        assert "999999999" not in config["configurable"]["thread_id"]
        return {"messages": [AIMessage("re")]}

    graph: Any = StateGraph(MessagesState)
    agent = (
        graph.add_node("reply", reply)
        .add_edge(START, "reply")
        .compile(checkpointer=InMemorySaver())
    )
    runner = TurnRunner(agent, client=server.client(), store=event_store)
    answer(runner, event(1, "Hola"))

    answer(runner, event(2, "¿Qué hay?"))

    assert seen == [["Hola"], ["Hola", "re", "¿Qué hay?"]]


def test_an_empty_reply_is_a_failure(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """A customer never gets nothing."""
    runner = TurnRunner(
        Agent("  ", "").runnable,
        client=server.client(),
        store=event_store,
        max_errors=2,
        fallback_reply="Un momento",
    )

    assert answer(runner, event(1, "Hola")).reply == "Un momento"


def test_failed_writes_never_delay_the_reply_and_are_delivered_in_order_later(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """The API server goes away after the read: the reply is there, the writes wait."""
    agent = Agent()

    def unplugged(messages: list[BaseMessage]) -> AIMessage:
        server.stop()
        return agent.reply(messages)

    client = server.client()
    cut_off = TurnRunner(
        RunnableLambda(unplugged), client=client, store=event_store, shutdown_timeout=0.05
    )
    turn = answer(cut_off, event(1, "Hola"))
    server.start()
    runner = TurnRunner(agent.runnable, client=client, store=event_store)

    following = answer(runner, event(2, "¿Sigues ahí?"))

    assert (turn.status, following.status) == ("answered", "answered")
    assert agent.seen[1] == [("human", "Hola"), ("ai", "re: Hola"), ("human", "¿Sigues ahí?")]
    assert [text for _, text in history(server)] == [
        "Hola",
        "re: Hola",
        "¿Sigues ahí?",
        "re: ¿Sigues ahí?",
    ]


def test_an_event_waits_for_an_api_server_that_is_down(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """Nothing is lost and nobody gets a wrong answer; the next event answers both."""
    runner = TurnRunner(Agent().runnable, client=server.client(), store=event_store)
    server.stop()
    waiting = answer(runner, event(1, "Hola"))
    server.start()

    turn = answer(runner, event(2, "¿Hola?"))

    assert waiting.status == "queued"
    assert turn.events == ("evt_1", "evt_2")


def test_who_waited_for_the_api_server_too_long_gets_the_fallback(
    server: ReferenceServer, answer: Answer
) -> None:
    """After a quarter of an hour; an operator finds the event, and later ones are answered."""
    now = [1_000_000.0]
    store = SQLiteEventStore(":memory:", clock=lambda: now[0])
    runner = TurnRunner(
        Agent().runnable, client=server.client(), store=store, fallback_reply="Un momento"
    )
    server.stop()
    first = answer(runner, event(1, "Hola"))
    now[0] += 899
    patient = answer(runner, event(1, "Hola"))
    now[0] += 2

    turn = answer(runner, event(1, "Hola"))

    assert (first.status, patient.status) == ("queued", "queued")
    assert (turn.status, turn.reply) == ("failed", "Un momento")
    assert run(store.backlog()).dead_letters == 1
    server.start()
    assert answer(runner, event(2, "¿Hola?")).reply == "re: ¿Hola?"
    store.close()


def test_with_a_snapshot_a_turn_needs_no_api_server(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """The last turn left the conversation behind; its session still lives.

    Not where an event names no account: it may be for another tenant.
    """
    agent = Agent()
    runner = TurnRunner(
        agent.runnable, client=server.client(), store=event_store, shutdown_timeout=0.05
    )
    answer(runner, event(1, "Hola", account="ventas"))
    server.stop()

    turn = answer(runner, event(2, "¿Qué hay?", account="ventas"))
    unnamed = runner.run(event(2, "¿Qué hay?"), wait=0.0)

    assert (turn.status, unnamed.status) == ("answered", "queued")
    assert agent.seen[1] == [("human", "Hola"), ("ai", "re: Hola"), ("human", "¿Qué hay?")]


def test_an_unknown_customer_waits_for_the_servers_own_webhook(
    server: ReferenceServer,
    event_store: EventStore,
    answer: Answer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``no_conversation`` keeps the event; once there is a conversation both are answered."""
    monkeypatch.setattr("langchain_convsync.turns.reading.NOT_FOUND_TIME", 0.0)
    runner = TurnRunner(Agent().runnable, client=server.client(), store=event_store)
    stranger = "+51911111111"
    waiting = answer(runner, event(1, "Hola", phone_number=stranger))
    server.create_conversation(phone_number=stranger, subdomain="restaurant-abc", bot_id="bot123")

    turn = answer(runner, event(2, "¿Hola?", phone_number=stranger))

    assert waiting.status == "no_conversation"
    assert turn.events == ("evt_1", "evt_2")


def test_another_tenants_conversation_is_never_answered(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """The event says which tenant it is for; an answer of another one ends the turn."""
    agent = Agent()
    runner = TurnRunner(
        agent.runnable, client=server.client(), store=event_store, fallback_reply="Un momento"
    )

    turn = answer(runner, event(1, "Hola", subdomain="restaurant-xyz"))

    assert (turn.status, turn.reply) == ("failed", "Un momento")
    assert isinstance(turn.error, ConversationMismatchError)
    assert (agent.seen, history(server)) == ([], [])
    [letter] = run(event_store.dead_letters())
    assert (letter.id, "Hola" in letter.body) == (turn.turn_id, True)


def test_a_closed_conversation_is_recorded_and_not_answered(
    event_store: EventStore, answer: Answer
) -> None:
    """Some servers still find it; somebody has closed it, so nobody answers."""
    agent, posted = Agent(), []
    closed = {
        "sessionId": "s1",
        "userId": CUSTOMER,
        "botId": "bot123",
        "subDomain": "restaurant-abc",
        "isActive": False,
    }

    def serve(request: httpx.Request) -> httpx.Response:
        if request.method != "GET":
            posted.append(json.loads(request.content)["content"])
        return httpx.Response(200, json={"type": "1", "message": "ok", "data": closed})

    transport = httpx.MockTransport(serve)
    for_async = answer is awaited
    client: Any = (
        AsyncConvSyncClient("https://api", http_client=httpx.AsyncClient(transport=transport))
        if for_async
        else ConvSyncClient("https://api", http_client=httpx.Client(transport=transport))
    )
    runner = TurnRunner(agent.runnable, client=client, store=event_store)

    turn = answer(runner, event(1, "Hola"))

    assert (turn.status, turn.reply) == ("dropped", None)
    assert (agent.seen, posted) == ([], ["Hola"])


def test_messages_follow_the_customer_to_a_new_session_and_the_state_does_not(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """The conversation expires between read and write, and a new one begins."""
    old = server.conversation(CUSTOMER)

    def renewing(messages: list[BaseMessage]) -> AIMessage:
        server.expire(old.session_id)
        server.create_conversation(
            phone_number=CUSTOMER, subdomain="restaurant-abc", bot_id="bot123"
        )
        return AIMessage("re")

    runner = TurnRunner(
        RunnableLambda(renewing), client=server.client(), store=event_store, extractor=order
    )

    turn = answer(runner, event(1, "Hola"))

    assert turn.status == "answered"
    assert history(server) == [("user", "Hola"), ("bot", "re")]
    assert server.conversation(CUSTOMER).current_intent == "idle"
    assert run(event_store.backlog()).dead_letters == 0


def test_a_message_that_the_server_refuses_although_it_finds_the_session_is_a_dead_letter(
    event_store: EventStore,
) -> None:
    """With the rest of its turn, the state too; asking for ever would hold up every later write."""
    found = {
        "sessionId": "s1",
        "userId": CUSTOMER,
        "botId": "bot123",
        "subDomain": "restaurant-abc",
    }

    def serve(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"type": "1", "message": "ok", "data": found})
        posted.append((request.method, str(json.loads(request.content).get("content"))))
        if "Adiós" in posted[-1][1]:
            return httpx.Response(200, json={"type": "1", "message": "ok", "data": found})
        return httpx.Response(404, json={"type": "3", "message": "no", "data": None})

    posted: list[tuple[str, str]] = []
    lent = httpx.Client(transport=httpx.MockTransport(serve))
    client = ConvSyncClient("https://api", http_client=lent)
    agent = Agent()
    decisions = iter([StateUpdate(step="ordering"), None])
    runner = TurnRunner(
        agent.runnable, client=client, store=event_store, extractor=lambda _: next(decisions)
    )

    runner.run(event(1, "Hola"))
    tried = [*posted]
    runner.run(event(2, "Adiós"))

    letters = run(event_store.dead_letters())
    kinds = sorted(json.loads(letter.body)["kind"] for letter in letters)
    assert kinds == ["append", "sync_state"]
    assert {content for _, content in tried} == {"Hola"}
    assert [content for _, content in posted[len(tried) :]] == ["Adiós", "re: Adiós"]


def test_a_session_that_is_gone_for_good_makes_dead_letters_of_the_messages(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """Nothing is lost: an operator finds them."""
    old = server.conversation(CUSTOMER)

    def expiring(_messages: list[BaseMessage]) -> AIMessage:
        server.expire(old.session_id)
        return AIMessage("re")

    runner = TurnRunner(RunnableLambda(expiring), client=server.client(), store=event_store)

    turn = answer(runner, event(1, "Hola"))

    assert turn.status == "answered"
    assert run(event_store.backlog()).dead_letters == 1


def test_inside_a_block_the_next_turn_does_not_wait_for_the_writes_of_the_last(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """It sees them all the same; leaving the block delivers them."""
    agent = Agent()
    with TurnRunner(agent.runnable, client=server.client(), store=event_store) as runner:
        runner.run(event(1, "Hola"))
        runner.run(event(2, "¿Qué hay?"))

    assert agent.seen[1] == [("human", "Hola"), ("ai", "re: Hola"), ("human", "¿Qué hay?")]
    assert [text for _, text in history(server)] == [
        "Hola",
        "re: Hola",
        "¿Qué hay?",
        "re: ¿Qué hay?",
    ]


async def test_an_async_block_delivers_when_it_is_left(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """A task left behind would be cancelled with its loop."""
    runner = TurnRunner(Agent().runnable, client=server.client(), store=event_store)
    async with runner:
        await runner.arun(event(1, "Hola"))

    assert len(history(server)) == 2


def test_a_block_delivers_what_a_dead_process_left(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """Nobody has to write to that customer first."""
    client = server.client()
    server.stop()
    server.start()

    def unplugged(_messages: list[BaseMessage]) -> AIMessage:
        server.stop()
        return AIMessage("re")

    TurnRunner(
        RunnableLambda(unplugged), client=client, store=event_store, shutdown_timeout=0.01
    ).run(event(1, "Hola"))
    server.start()

    with TurnRunner(Agent().runnable, client=client, store=event_store):
        pass

    assert history(server) == [("user", "Hola"), ("bot", "re")]


def test_a_block_with_on_reply_answers_events_that_no_call_waits_for(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """A webhook records and returns at once; a worker answers."""
    told: SimpleQueue[Turn] = SimpleQueue()
    runner = TurnRunner(
        Agent().runnable,
        client=server.client(),
        store=event_store,
        debounce=0.05,
        max_debounce=0.05,
        on_reply=told.put,
    )
    with runner:
        queued = runner.run(event(1, "Hola"), wait=0)
        turn = told.get(timeout=20)

    assert queued.status == "queued"
    assert (turn.status, turn.reply) == ("answered", "re: Hola")
    assert told.empty()


@pytest.mark.parametrize(
    ("told", "chat_id"),
    [
        ({}, "51999999999@c.us"),
        ({"chat_id": "38000000000010@lid"}, "38000000000010@lid"),
        ({"chat_id": "no chat at all"}, "51999999999@c.us"),
    ],
)
def test_on_reply_is_told_where_the_reply_goes(
    told: dict[str, str], chat_id: str, server: ReferenceServer, event_store: EventStore
) -> None:
    """A sender needs nothing but the turn; who repeats the event is told nobody's address."""
    turns: list[Turn] = []
    runner = TurnRunner(
        Agent().runnable, client=server.client(), store=event_store, on_reply=turns.append
    )
    said = event(1, "Hola", waha_session="restaurant", **told)
    runner.run(said)
    repeated = runner.run(said)

    assert [(turn.chat_id, turn.waha_session) for turn in turns] == [(chat_id, "restaurant")]
    assert (repeated.status, repeated.chat_id) == ("duplicate", None)
    assert chat_id not in f"{turns[0]!r} {turns[0]._repr_html_()}"


def test_on_reply_is_told_before_anything_is_written(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """The customer's reply comes first."""
    told: list[tuple[str | None, int]] = []
    runner = TurnRunner(
        Agent().runnable,
        client=server.client(),
        store=event_store,
        on_reply=lambda turn: told.append((turn.reply, len(server.requests))),
    )

    answer(runner, event(1, "Hola"))

    assert told == [("re: Hola", 1)]


def test_a_failing_on_reply_is_counted_and_undoes_nothing(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """The turn is committed before."""
    told: list[Turn] = []

    def broken(turn: Turn) -> None:
        told.append(turn)
        raise RuntimeError

    before = telemetry.counted("on_reply_failures")
    runner = TurnRunner(
        Agent().runnable, client=server.client(), store=event_store, on_reply=broken
    )

    assert answer(runner, event(1, "Hola")).status == "answered"
    again = answer(runner, event(1, "Hola"))

    assert (again.status, again.reply) == ("duplicate", "re: Hola")
    assert [turn.status for turn in told] == ["answered"]
    assert telemetry.counted("on_reply_failures") == before + 1
    assert len(history(server)) == 2


def test_a_full_backlog_refuses_and_records_nothing(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """The sender is told to come back."""
    runner = TurnRunner(
        Agent().runnable,
        client=server.client(),
        store=event_store,
        max_queued=1,
        debounce=60,
        max_debounce=60,
    )
    runner.run(event(1, "Hola"), wait=0)

    assert runner.run(event(2, "¿Hola?"), wait=0).status == "busy"
    assert run(event_store.backlog()).queued == 1


def test_a_factory_makes_one_agent_per_tenant(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """Each tenant has an agent of its own; it is made once."""
    made: list[str | None] = []

    def make(ref: Any) -> RunnableLambda[Any, Any]:
        made.append(ref.subdomain)
        return RunnableLambda(lambda _: AIMessage(f"de {ref.subdomain}"))

    runner = TurnRunner(make, client=server.client(), store=event_store)
    answer(runner, event(1, "Hola"))

    assert answer(runner, event(2, "¿Quién eres?")).reply == "de restaurant-abc"
    assert made == ["restaurant-abc"]


@pytest.mark.parametrize(("recorded", "reads"), [("before", 1), ("meanwhile", 2), ("never", 2)])
def test_what_a_server_may_record_of_the_customer_stands_there_once(
    server: ReferenceServer, event_store: EventStore, answer: Answer, recorded: str, reads: int
) -> None:
    """Looked for behind the reply, and only where the turn's own read did not show it."""
    client = server.client(profile=ServerProfile(records_inbound=True))
    reads_before_reply: list[int] = []

    def record() -> None:
        with server.client() as their:
            their.add_message(server.conversation(CUSTOMER).session_id, "user", "Hola")

    def agent(messages: list[BaseMessage]) -> AIMessage:
        reads_before_reply.append(asked(server))
        if recorded == "meanwhile":
            record()
        return AIMessage(f"re: {messages[-1].content}")

    if recorded == "before":
        record()
    runner = TurnRunner(RunnableLambda(agent), client=client, store=event_store)

    answer(runner, event(1, "Hola"))

    assert history(server) == [("user", "Hola"), ("bot", "re: Hola")]
    assert (reads_before_reply, asked(server)) == ([1], reads)


def asked(server: ReferenceServer) -> int:
    """How often the conversation was read."""
    return sum("/lookup/conversation/" in request.path for request in server.requests)


def test_an_intent_that_the_server_refuses_does_not_cost_the_rest(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """Step and context are synced all the same."""
    client = server.client(profile=ServerProfile(intents=frozenset({"menu"})))
    runner = TurnRunner(Agent().runnable, client=client, store=event_store, extractor=order)

    answer(runner, event(1, "Hola"))

    kept = server.conversation(CUSTOMER)
    assert (kept.current_intent, kept.current_step) == ("idle", "selecting")


def test_an_event_without_a_customer_is_refused_clearly(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """Nobody could ever answer it."""
    runner = TurnRunner(Agent().runnable, client=server.client(), store=event_store)

    with pytest.raises(InvalidEventError, match="phone_number"):
        answer(runner, event(1, "Hola", phone_number=None))


def test_leaving_a_block_with_writes_to_do_is_loud(
    server: ReferenceServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the command that delivers them; a store in memory says what is lost."""
    store = SQLiteEventStore(":memory:")

    def unplugged(_messages: list[BaseMessage]) -> AIMessage:
        server.stop()
        return AIMessage("re")

    client, agent = server.client(), RunnableLambda(unplugged)
    with TurnRunner(agent, client=client, store=store, shutdown_timeout=0.05) as runner:
        runner.run(event(1, "Hola"))
    store.close()

    assert "convsync worker MODULE:RUNNER" in caplog.text
    assert "lost" in caplog.text


def test_writes_that_no_worker_delivers_are_told_of_once(
    server: ReferenceServer,
    event_store: EventStore,
    answer: Answer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not with every turn while the API server is away."""
    leftovers = telemetry.counted("leftovers")
    client = server.client(max_retries=0)
    TurnRunner(Agent().runnable, client=client, store=event_store).run(
        event(1, "Hola", account="ventas")
    )
    server.stop()
    runner = TurnRunner(Agent().runnable, client=client, store=event_store, shutdown_timeout=0.05)

    for number in (2, 3, 4):
        turn = answer(runner, event(number, f"{number}", account="ventas"))
        assert turn.status == "answered"

    told = [record for record in caplog.records if "convsync worker" in record.getMessage()]
    assert [record.levelname for record in told] == ["WARNING"]
    assert "Left in the store: writes." in told[0].getMessage()
    assert telemetry.counted("leftovers") == leftovers + 3


def test_replies_that_are_left_are_no_writes(
    server: ReferenceServer, event_store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A block ends while WAHA is away."""
    with FakeWAHA() as away:
        url = away.base_url
    with TurnRunner(
        Agent().runnable,
        client=server.client(),
        store=event_store,
        reply=WAHAReply(url),
        shutdown_timeout=0.5,
    ) as runner:
        runner.run(event(1, "Hola"))

    (told,) = [each.getMessage() for each in caplog.records if "Left in the" in each.getMessage()]
    assert "1 reply. The next worker delivers" in told


def test_what_a_turn_has_delivered_is_not_asked_for_again(
    answer: Answer,
    server: ReferenceServer,
    event_store: EventStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A turn that writes two messages asks its store six times: each waits for an answer."""
    asked: list[str] = []
    steps = ["accept", "find", "view", "acquire", "begin", "confirm", "commit_turn", "release"]

    def counted(name: str) -> Callable[..., Any]:
        step = getattr(event_store, name)

        def ask(*args: Any, **options: Any) -> Any:
            asked.append(name)
            return step(*args, **options)

        return ask

    for name in [*steps, "due", "backlog", "upcoming"]:
        monkeypatch.setattr(event_store, name, counted(name))
    runner = TurnRunner(
        RunnableLambda(lambda _: AIMessage("Hola")), client=server.client(), store=event_store
    )
    answer(runner, event(1, "uno"))
    asked.clear()

    assert answer(runner, event(2, "dos")).status == "answered"
    assert asked == ["accept", "commit_turn", "acquire", "begin", "begin", "release"]


def test_a_turn_is_gone_once_it_is_over(server: ReferenceServer, event_store: EventStore) -> None:
    """What holds itself waits for Python's collector, which looks through all there is besides."""
    events = [event(number, f"Hola {number}") for number in range(10)]

    def answered() -> None:
        with server.client() as client:
            runner = TurnRunner(Agent().runnable, client=client, store=event_store)
            for each in events[:5]:
                runner.run(each)

    async def awaited() -> None:
        async with AsyncConvSyncClient(server.base_url, profile=server.profile) as client:
            runner = TurnRunner(Agent().runnable, client=client, store=event_store)
            for each in events[5:]:
                await runner.arun(each)

    gc.disable()
    try:
        before = turns_in_memory()
        answered()
        asyncio.run(awaited())
        assert turns_in_memory() <= before
    finally:
        gc.enable()


def turns_in_memory() -> int:
    return sum(type(each) in {Watch, Stopper, TurnRecord} for each in gc.get_objects())
