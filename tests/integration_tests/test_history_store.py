"""A history with a store: what was added is delivered in order, whatever is away meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync import telemetry
from langchain_convsync._flow import run
from langchain_convsync.chat_history import ConvSyncChatMessageHistory
from langchain_convsync.client import ConvSyncClient, api_of
from langchain_convsync.errors import (
    APIConnectionError,
    AuthenticationError,
    ConfigurationError,
    ConversationMismatchError,
    ConversationNotFoundError,
    StoreUnavailableError,
)
from langchain_convsync.models import ConversationMessage
from langchain_convsync.outbox.journal import Journal
from langchain_convsync.settings import ServerProfile
from langchain_convsync.stores import RedisEventStore, SQLiteEventStore, open_store
from langchain_convsync.stores.base import Acquired, EventStore, new_token
from langchain_convsync.surfaces.context import ConversationRef
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.faulty_server import HANG, FaultyServer, answers, sends
from tests.promises import on_sqlite
from tests.surfaces import PHONE, conversation

pytestmark = pytest.mark.usefixtures("no_pause")

BOT, TENANT = "bot123", "restaurant-abc"
T = TypeVar("T")


class Mode:
    """Calls a history sync or async; async calls share one event loop."""

    def __init__(self, loop: asyncio.Runner | None) -> None:
        self._loop = loop

    def add(self, history: ConvSyncChatMessageHistory, *messages: BaseMessage) -> None:
        self._call(lambda: history.add_messages(messages), lambda: history.aadd_messages(messages))

    def read(self, history: ConvSyncChatMessageHistory) -> list[str]:
        found = self._call(lambda: history.messages, history.aget_messages)
        return [str(message.content) for message in found]

    def clear(self, history: ConvSyncChatMessageHistory) -> None:
        self._call(history.clear, history.aclear)

    def _call(self, block: Callable[[], T], wait: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return block() if self._loop is None else self._loop.run(wait())


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> Iterator[Mode]:
    if request.param == "sync":
        yield Mode(None)
        return
    with asyncio.Runner() as loop:
        yield Mode(loop)


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        running.create_conversation(phone_number=PHONE, subdomain=TENANT, bot_id=BOT)
        yield running


@pytest.fixture
def client(server: ReferenceServer) -> Iterator[ConvSyncClient]:
    with server.client(max_retries=0) as opened:
        yield opened


@pytest.fixture
def store(event_store: EventStore) -> EventStore:
    return event_store


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for an API server that is known to be away."""
    monkeypatch.setattr("langchain_convsync.outbox.journal.INLINE", 0.6)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API server that is up is waited for, however busy this machine is."""
    monkeypatch.setattr("langchain_convsync.outbox.journal.INLINE", 20.0)


def memory(client: ConvSyncClient, store: EventStore, **options: Any) -> ConvSyncChatMessageHistory:
    """As a factory makes them: a new one for every call."""
    return ConvSyncChatMessageHistory(PHONE, client=client, store=store, **options)


def words(server: ReferenceServer, bot_id: str | None = None) -> list[str]:
    return [message.content for message in server.conversation(PHONE, bot_id).messages]


@pytest.mark.usefixtures("patient")
def test_what_was_added_is_delivered_before_the_call_returns(
    server: ReferenceServer, client: ConvSyncClient, store: EventStore, mode: Mode
) -> None:
    """In order, as long as the API server answers; nothing is left in the store."""
    history = memory(client, store)

    mode.add(history, HumanMessage("Hola"), AIMessage("¡Hola!"))
    mode.add(history, HumanMessage("Una pizza"))

    assert words(server) == ["Hola", "¡Hola!", "Una pizza"]
    assert mode.read(history) == ["Hola", "¡Hola!", "Una pizza"]
    left = run(store.backlog())
    assert (left.queued, left.writes, left.dead_letters) == (0, 0, 0)


@pytest.mark.usefixtures("patient")
def test_a_turn_of_a_chain_costs_one_read_and_one_request_for_each_message(
    server: ReferenceServer, client: ConvSyncClient, store: EventStore, mode: Mode
) -> None:
    """What was read before the model tells where to write after it."""
    history = memory(client, store)

    mode.read(history)
    mode.add(history, HumanMessage("Hola"), AIMessage("¡Hola!"))

    assert [request.method for request in server.requests] == ["GET", "POST", "POST"]


@pytest.mark.usefixtures("impatient")
def test_while_the_api_server_is_away_messages_wait_and_are_read_back(
    server: ReferenceServer, client: ConvSyncClient, store: EventStore, mode: Mode
) -> None:
    """By every history of the process; the next write delivers them, in order, once."""
    mode.add(memory(client, store), HumanMessage("sí"))
    server.stop()
    history = memory(client, store)
    mode.add(history, HumanMessage("sí"), AIMessage("¿Seguro?"))
    mode.add(memory(client, store), HumanMessage("sí"))
    meanwhile = mode.read(memory(client, store))
    waiting = run(store.backlog()).writes
    server.start()
    back = mode.read(memory(client, store))

    mode.add(memory(client, store), AIMessage("Listo"))
    delivered_by_a_worker(client, store)  # it may be too early to try again what failed just now

    assert history.last_error is None
    assert meanwhile == back == ["sí", "sí", "¿Seguro?", "sí"]
    assert waiting >= 2
    assert words(server) == ["sí", "sí", "¿Seguro?", "sí", "Listo"]


def delivered_by_a_worker(client: ConvSyncClient, store: EventStore) -> list[str]:
    """What the workers of a block answer meanwhile: nobody asked them anything."""
    answered: list[str] = []

    def answer(_messages: object) -> AIMessage:
        answered.append("?")
        return AIMessage("?")

    runner = TurnRunner(
        RunnableLambda(answer), client=client, store=store, on_reply=lambda _turn: None
    )
    with runner:
        left = run(store.backlog())
        while left.queued or left.writes:
            left = run(store.backlog())
    return answered


@pytest.mark.usefixtures("impatient")
def test_a_worker_delivers_what_is_left(
    server: ReferenceServer, client: ConvSyncClient, store: EventStore, mode: Mode
) -> None:
    """That of a process that has ended, too; and it answers nobody."""
    mode.read(memory(client, store))
    server.stop()
    mode.add(memory(client, store), HumanMessage("Hola"), AIMessage("¡Hola!"))
    server.start()

    answered = delivered_by_a_worker(client, store)

    assert words(server) == ["Hola", "¡Hola!"]
    assert answered == []


@pytest.mark.parametrize("by", ["write", "read", "worker"])
def test_messages_of_whom_nothing_is_known_yet_wait_too(
    by: str, server: ReferenceServer, client: ConvSyncClient, store: EventStore, mode: Mode
) -> None:
    """The API server was away from the start: whose they are is seen when it is back."""
    server.stop()
    history = memory(client, store)
    mode.add(history, HumanMessage("Hola"))
    mode.add(history, AIMessage("¡Hola!"))
    server.start()

    if by == "write":
        mode.add(history, HumanMessage("Una pizza"))
    elif by == "read":
        assert mode.read(history) == ["Hola", "¡Hola!"]
    delivered_by_a_worker(client, store)

    expected = ["Hola", "¡Hola!", "Una pizza"] if by == "write" else ["Hola", "¡Hola!"]
    assert words(server) == expected
    assert run(store.backlog()).dead_letters == 0


def test_a_reading_that_fails_is_raised_where_nothing_is_known(
    server: ReferenceServer, client: ConvSyncClient, store: EventStore, mode: Mode
) -> None:
    """An agent must not take an unreachable history for an empty one."""
    server.stop()

    with pytest.raises(APIConnectionError):
        mode.read(memory(client, store))


@pytest.mark.parametrize("refusal", [404, 401])
def test_a_server_that_refuses_is_told_and_nothing_is_recorded(
    refusal: int, store: EventStore, mode: Mode
) -> None:
    """Waiting helps nobody there; a second try would double what was recorded."""
    errors: list[Exception] = []
    body = {"type": "3", "message": "", "data": None}
    with FaultyServer() as faulty, ConvSyncClient(faulty.url, max_retries=0) as client:
        faulty.plays(answers(body, refusal))
        history = memory(client, store, on_error=errors.append)
        expected = {404: ConversationNotFoundError, 401: AuthenticationError}[refusal]
        with pytest.raises(expected):
            mode.add(history, HumanMessage("Hola"))

    assert [history.last_error] == errors
    left = run(store.backlog())
    assert (left.queued, left.writes) == (0, 0)


def test_an_unavailable_store_is_told_and_nothing_is_written(
    server: ReferenceServer, client: ConvSyncClient, mode: Mode
) -> None:
    """It was to be durable: writing past the store would be something else."""
    errors: list[Exception] = []
    before = telemetry.counted("history_failures", error="StoreUnavailableError")
    away = RedisEventStore("redis://127.0.0.1:9/0")
    history = memory(client, away, on_error=errors.append)

    with pytest.raises(StoreUnavailableError):
        mode.add(history, HumanMessage("Hola"))
    away.close()

    assert [history.last_error] == errors
    assert telemetry.counted("history_failures", error="StoreUnavailableError") == before + 1
    assert words(server) == []


def test_a_message_that_cannot_be_sent_is_refused_before_it_is_recorded(
    client: ConvSyncClient, store: EventStore, mode: Mode
) -> None:
    """In the store it would wait for an operator, and its sender would not know."""
    with pytest.raises(ConfigurationError, match="JSON"):
        mode.add(memory(client, store), HumanMessage("Hola"), AIMessage("\ud800"))

    assert run(store.backlog()).writes == 0


def test_a_server_that_hangs_costs_two_seconds(
    store: EventStore, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was under way then is given up, and looked up by whoever goes on."""
    monkeypatch.setattr("langchain_convsync.outbox.delivery.ATTEMPT", 3600.0)
    monkeypatch.setattr("langchain_convsync.outbox.journal.INLINE", 1.5)
    data = conversation().model_dump(by_alias=True, mode="json")
    with FaultyServer() as faulty, ConvSyncClient(faulty.url, timeout=3600.0) as client:
        faulty.plays(answers({"type": "1", "message": "", "data": data}), sends(HANG))
        history = memory(client, store)

        mode.add(history, HumanMessage("Hola"), AIMessage("¡Hola!"))

        assert [request.method for request in faulty.received] == ["GET", "POST"]
    assert history.last_error is None
    assert run(store.backlog()).writes == 1


@pytest.mark.usefixtures("impatient")
def test_another_tenants_conversation_is_told_nothing(
    server: ReferenceServer, client: ConvSyncClient, store: EventStore, mode: Mode
) -> None:
    """The customer went on with another business while messages of the first one waited."""
    mode.read(memory(client, store))
    server.stop()
    mode.add(memory(client, store), HumanMessage("Una pizza"))
    server.create_conversation(phone_number=PHONE, subdomain="another", bot_id="bot-2")
    server.start()

    assert mode.read(memory(client, store)) == []
    delivered_by_a_worker(client, store)

    assert (words(server, BOT), words(server, "bot-2")) == (["Una pizza"], [])


def test_another_tenants_reference_reads_and_writes_nothing(
    server: ReferenceServer, client: ConvSyncClient, store: EventStore, mode: Mode
) -> None:
    """What is known of the conversation here binds it, too."""
    mode.read(memory(client, store))
    ref = ConversationRef(PHONE, subdomain="another")
    history = ConvSyncChatMessageHistory(ref, client=client, store=store)

    with pytest.raises(ConversationMismatchError):
        mode.add(history, HumanMessage("Una pizza"))
    with pytest.raises(ConversationMismatchError):
        mode.read(history)

    assert words(server) == []
    assert run(store.backlog()).writes == 0


def test_what_many_threads_add_is_written_once_each(
    server: ReferenceServer, client: ConvSyncClient, store: EventStore
) -> None:
    """Each call's messages stay together and in order."""
    together = threading.Barrier(8)

    def add(number: int) -> None:
        together.wait(timeout=20)
        memory(client, store).add_messages([HumanMessage(f"q{number}"), AIMessage(f"a{number}")])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    delivered_by_a_worker(client, store)

    said = words(server)
    assert sorted(said) == sorted(f"{kind}{number}" for kind in "qa" for number in range(8))
    assert all(said[place + 1] == f"a{said[place][1]}" for place in range(0, 16, 2))


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("recorded", [True, False])
def test_what_a_server_has_recorded_of_the_customer_is_not_told_again(
    server: ReferenceServer, store: EventStore, mode: Mode, recorded: bool
) -> None:
    """And what it has not, although its profile says that it does, is written."""
    if recorded:
        with server.client() as their:
            their.add_message(server.conversation(PHONE).session_id, "user", "Hola")
    with server.client(profile=ServerProfile(records_inbound=True)) as client:
        mode.add(memory(client, store), HumanMessage("Hola"), AIMessage("¡Hola!"))

    assert words(server) == ["Hola", "¡Hola!"]


@pytest.mark.usefixtures("impatient")
def test_messages_that_wait_have_to_be_delivered_before_the_history_is_cleared(
    server: ReferenceServer, client: ConvSyncClient, store: EventStore, mode: Mode
) -> None:
    """They would come back into the empty history."""
    history = memory(client, store)
    mode.add(history, HumanMessage("Hola"))
    server.stop()
    mode.add(history, AIMessage("¡Hola!"))
    with pytest.raises(APIConnectionError, match="on their way"):
        mode.clear(history)
    server.start()
    delivered_by_a_worker(client, store)

    mode.clear(history)
    mode.add(history, HumanMessage("De nuevo"))
    delivered_by_a_worker(client, store)

    assert words(server) == ["De nuevo"] == mode.read(history)


@pytest.mark.usefixtures("patient")
def test_messages_of_whom_nothing_was_known_are_cleared_too(
    server: ReferenceServer, client: ConvSyncClient, store: EventStore, mode: Mode
) -> None:
    """They are delivered first, so that nothing of them comes back."""
    server.stop()
    history = memory(client, store)
    mode.add(history, HumanMessage("Hola"))
    server.start()

    mode.clear(history)
    delivered_by_a_worker(client, store)

    assert words(server) == []


def test_messages_that_are_left_are_counted_and_told_of_once(
    server: ReferenceServer,
    client: ConvSyncClient,
    store: EventStore,
    mode: Mode,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing failed, but somebody has to know; without the customer's name."""
    before = telemetry.counted("leftovers")
    server.stop()

    for text in ("Hola", "¿Hola?"):
        mode.add(memory(client, store), HumanMessage(text))

    assert telemetry.counted("leftovers") == before + 2
    assert caplog.text.count("left in the store") == 1
    assert "999999999" not in caplog.text


def waiting(
    server: ReferenceServer, client: ConvSyncClient, store: EventStore, lease: float = 30.0
) -> Acquired:
    """A message that was recorded while the API server was away, taken by a worker."""
    server.stop()
    memory(client, store).add_user_message("Hola")
    acquired = run(store.acquire("inbox", new_token(), lease=lease))
    assert acquired is not None
    return acquired


def test_messages_whose_conversation_has_ended_become_dead_letters(
    server: ReferenceServer,
    client: ConvSyncClient,
    store: EventStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are kept for an operator, and nobody else's conversation is told them."""
    acquired = waiting(server, client, store)
    server.expire(server.conversation(PHONE).session_id)
    server.start()

    answered = run(Journal(api_of(client), store).commit(acquired))

    left = run(store.backlog())
    assert (answered, left.queued, left.writes, left.dead_letters) == (1, 0, 0, 1)
    assert "dead letters" in caplog.text
    assert "999999999" not in caplog.text


def test_messages_whose_conversation_cannot_be_read_yet_are_tried_again(
    server: ReferenceServer, client: ConvSyncClient, store: EventStore
) -> None:
    """A moment later; they stay where they are."""
    acquired = waiting(server, client, store)

    answered = run(Journal(api_of(client), store).commit(acquired))

    assert answered == 0
    assert run(store.backlog()).queued == 1
    assert (run(store.due("inbox", acquired.lease.conversation_key)) or 0.0) > 0.0


def test_messages_that_another_process_has_acquired_are_left_to_it(
    server: ReferenceServer, client: ConvSyncClient, store: EventStore
) -> None:
    """A process that slept beyond its lease queues nothing for the second time."""
    acquired = waiting(server, client, store, lease=0.0)
    follower = run(store.acquire("inbox", new_token()))
    server.start()
    journal = Journal(api_of(client), store)

    assert follower is not None
    assert (run(journal.commit(acquired)), run(journal.commit(follower))) == (0, 1)
    assert run(store.backlog()).writes == 1


@pytest.mark.usefixtures("patient")
def test_a_history_is_not_cleared_while_another_process_is_at_its_messages(
    server: ReferenceServer, client: ConvSyncClient, store: EventStore
) -> None:
    """Whoever it is queues them in a moment, and they would come back into the empty history."""
    acquired = waiting(server, client, store)
    server.start()

    with pytest.raises(APIConnectionError, match="on their way"):
        memory(client, store).clear()
    run(Journal(api_of(client), store).commit(acquired))
    memory(client, store).clear()

    assert (words(server), run(store.backlog()).writes) == ([], 0)


@pytest.mark.usefixtures("patient")
def test_messages_that_were_recorded_late_are_queued_all_the_same(
    client: ConvSyncClient, store: EventStore
) -> None:
    """Their inbox is leased to whoever recorded them: nobody else could queue them for a while."""
    memory(client, store).add_messages([HumanMessage("Hola")])
    now = time.monotonic()
    clock = itertools.chain((now, now), itertools.repeat(now + 1000.0))  # the store took so long
    journal = Journal(api_of(client), store, clock=lambda: next(clock))

    run(journal.write(ConversationRef(PHONE), [ConversationMessage(role="bot", content="¡Hola!")]))

    left = run(store.backlog())
    assert (left.queued, left.writes) == (0, 1)


#: Adds two messages, and hangs where it is told to.
OWNER = """
import sys, time
from langchain_core.messages import AIMessage, HumanMessage
from langchain_convsync import ConvSyncChatMessageHistory, ConvSyncClient
from langchain_convsync._flow import Io
from langchain_convsync.outbox import journal
from langchain_convsync.stores import open_store

journal.LEASE = 0.2
journal.INLINE = 600.0  # a slow machine is no reason to give the API server up
stage, base_url, store_url = sys.argv[1:]

def hang(*args, **kwargs):
    print("here", flush=True)
    time.sleep(600)

store = open_store(store_url)
if stage == "recorded":
    store.commit_turn = lambda *args: Io(hang, hang)
else:
    store.acquire = lambda *args, **kwargs: Io(hang, hang)
history = ConvSyncChatMessageHistory("+51999999999", client=ConvSyncClient(base_url), store=store)
history.add_messages([HumanMessage("Hola"), AIMessage("from the first process")])
"""


@on_sqlite
@pytest.mark.parametrize("by", ["write", "worker"])
@pytest.mark.parametrize("stage", ["recorded", "committed"])
def test_what_a_killed_process_has_added_is_delivered_by_the_next(
    stage: str,
    by: str,
    server: ReferenceServer,
    client: ConvSyncClient,
    durable_store_url: str,
) -> None:
    """``kill -9`` before and after the commit: first what it said, then what is new."""
    command = [sys.executable, "-c", OWNER, stage, server.base_url, durable_store_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "here\n"
        owner.kill()
    store = open_store(durable_store_url)

    if by == "write":
        memory(client, store).add_user_message("from the second")
    delivered_by_a_worker(client, store)
    store.close()

    expected = ["Hola", "from the first process", "from the second"]
    assert words(server) == (expected if by == "write" else expected[:2])


#: Adds numbered messages from one on, and tells each that was taken.
TALKER = """
import sys
from functools import partial
from langchain_convsync import ConvSyncChatMessageHistory, ConvSyncClient, ServerProfile
from langchain_convsync.outbox import delivery, journal, plan
from langchain_convsync.stores import open_store

delivery.ATTEMPT = plan.ATTEMPT = 0.5
journal.LEASE = 0.2
journal.Outbox = partial(delivery.Outbox, lease=0.5)
base_url, store_url, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = ConvSyncClient(base_url, profile=ServerProfile(settle=0.0))
store = open_store(store_url)
for number in range(first, first + 1000):
    history = ConvSyncChatMessageHistory("+51999999999", client=client, store=store)
    history.add_user_message(f"m{number}")
    print(number, flush=True)
"""


@pytest.mark.slow  # five processes, one after the other
@on_sqlite
def test_whenever_its_process_is_killed_what_was_accepted_is_there_once_and_in_order(
    server: ReferenceServer, durable_store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five kills in the middle of writing; a message that was not taken may be there, too."""
    monkeypatch.setattr("langchain_convsync.outbox.plan.ATTEMPT", 0.5)
    accepted: list[int] = []
    for kill in range(5):
        first = accepted[-1] + 2 if accepted else 0  # the one in between was not taken for sure
        command = [sys.executable, "-c", TALKER, server.base_url, durable_store_url, str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as talker:
            assert talker.stdout is not None
            accepted += [int(talker.stdout.readline()) for _ in range(3 + kill)]
            talker.kill()
            accepted += [int(line) for line in talker.stdout if line.endswith("\n")]
    store = open_store(durable_store_url)
    with server.client(profile=ServerProfile(settle=0.0)) as client:
        delivered_by_a_worker(client, store)
    store.close()

    said = [int(text.removeprefix("m")) for text in words(server)]
    assert said == sorted(set(said))
    assert set(accepted) <= set(said)


@pytest.mark.usefixtures("patient")
def test_a_process_remembers_a_bounded_number_of_conversations(
    server: ReferenceServer, client: ConvSyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is forgotten is read from the API server again, and still delivered."""
    monkeypatch.setattr("langchain_convsync.outbox.memory.REMEMBERED", 1)
    store, another = SQLiteEventStore(":memory:"), "+51988888888"
    server.create_conversation(phone_number=another, subdomain=TENANT, bot_id=BOT)
    for customer in (PHONE, another, PHONE):
        history = ConvSyncChatMessageHistory(customer, client=client, store=store)
        history.add_user_message("Hola")
    store.close()

    assert words(server) == ["Hola", "Hola"]
