"""One contract for the runner on every kind of server: the documented one, and each quirk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync._flow import run
from langchain_convsync.client import AsyncConvSyncClient, ConvSyncClient
from langchain_convsync.models import InboundEvent, StateUpdate
from langchain_convsync.server import QUIRKS
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner

pytestmark = pytest.mark.usefixtures("no_pause")

CUSTOMER, JID = "+51999999999", "51999999999@c.us"
BOT = "67890abcdef0123456789abc"

SERVERS: dict[str, frozenset[str]] = {
    "documented": frozenset(),
    **{quirk: frozenset({quirk}) for quirk in QUIRKS},
    "observed": frozenset({"observed"}),
    "synced_and_replaced": frozenset({"messages_not_stored", "context_replaced", "keys_ignored"}),
    "observed_and_replaced": frozenset({"observed", "context_replaced"}),
}
#: Servers where a write that got no answer has to be looked up.
REPEATABLE_ONLY_BY_LOOKING = [
    "keys_ignored",
    "messages_not_stored",
    "synced_and_replaced",
    "observed",
    "observed_and_replaced",
]
INTENTS = ["menu", "order", "payment", "delivery"]


@dataclass
class World:
    """A quirky server, WAHA that tells it what the customer writes, and a runner with an agent."""

    server: ReferenceServer
    loop: asyncio.Runner | None
    store: SQLiteEventStore
    seen: list[list[tuple[str, str]]] = field(default_factory=list)
    before_reply: Callable[[], None] = lambda: None
    turns: int = 0

    @property
    def customer(self) -> str:
        """How the server stores the customer."""
        return JID if self.server.profile.phone_format == "jid" else CUSTOMER

    def reply(self, messages: list[BaseMessage]) -> AIMessage:
        self.before_reply()
        self.seen.append([(message.type, str(message.content)) for message in messages])
        return AIMessage(f"re: {messages[-1].content}")

    def decide(self, _output: object) -> StateUpdate:
        number = len(self.seen)
        return StateUpdate(
            intent=INTENTS[(number - 1) % 4],
            step=f"step {number}",
            context={f"key{number}": number},
        )

    def runner(self, client: Any = None, **settings: Any) -> TurnRunner:
        return TurnRunner(
            RunnableLambda(self.reply),
            client=client or self.server.client(),
            store=self.store,
            extractor=self.decide,
            **settings,
        )

    def deliver(self, text: str) -> InboundEvent:
        """The customer writes: WAHA tells the server, then us."""
        self.turns += 1
        name = f"evt{self.turns}"
        payload = {"id": f"false_{JID}_{name}", "from": JID, "fromMe": False, "body": text}
        metadata = {"subdomain": "restaurant-abc", "bot.id": BOT}
        event = {"event": "message", "session": "s", "metadata": metadata}
        assert self.server.deliver({**event, "payload": {**payload, "timestamp": 1}})["accepted"]
        return InboundEvent(event_id=name, phone_number=CUSTOMER, bot_id=BOT, text=text)

    def answer(self, runner: TurnRunner, event: InboundEvent) -> Turn:
        if self.loop is None:
            return runner.run(event)
        return self.loop.run(runner.arun(event))

    def say(self, runner: TurnRunner, text: str) -> Turn:
        return self.answer(runner, self.deliver(text))

    @property
    def history(self) -> list[tuple[str, str]]:
        kept = self.server.conversation(self.customer).messages
        return [(message.role, message.content) for message in kept]

    def require_nothing_left(self) -> None:
        left = run(self.store.backlog())
        assert (left.queued, left.writes, left.dead_letters) == (0, 0, 0)


@pytest.fixture
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner | None]:
    """Where awaited turns run; None for blocking ones."""
    if request.param == "sync":
        yield None
        return
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def world(request: pytest.FixtureRequest, loop: asyncio.Runner | None) -> Iterator[World]:
    """The server named by the test's parameter."""
    with ReferenceServer(quirks=SERVERS[request.param]) as server:
        store = SQLiteEventStore(":memory:")
        yield World(server, loop, store)
        store.close()
        if loop is not None:
            loop.run(store.aclose())


def on(names: Collection[str], *, fast: Collection[str] | None = None) -> pytest.MarkDecorator:
    """On these servers, sync and async on the two that matter most.

    Colours differ in their I/O and servers in what is asked of them, so one is enough elsewhere.

    Args:
        names: The servers.
        fast: Those that `make test` includes, where they are not all of them.
    """
    cases = []
    for number, name in enumerate(names):
        for mode in ("sync", "async"):
            needed = name in {"documented", "observed"} or mode == ("sync", "async")[number % 2]
            needed = needed and (fast is None or name in fast)
            marks = () if needed else (pytest.mark.slow,)
            cases.append(pytest.param(mode, name, marks=marks, id=f"{mode}-{name}"))
    return pytest.mark.parametrize(("loop", "world"), cases, indirect=True)


#: Those with ways of their own with messages and contexts; on the others, one of these tests runs.
TELLING = ["records_inbound", "last_20", "context_replaced", *REPEATABLE_ONLY_BY_LOOKING]
on_every_server = on(SERVERS, fast=["documented", *TELLING])
where_writes_are_looked_up = on(REPEATABLE_ONLY_BY_LOOKING)


def exchanged(*texts: str) -> list[tuple[str, str]]:
    return [line for text in texts for line in (("user", text), ("bot", f"re: {text}"))]


def read_by_agent(*texts: str) -> list[tuple[str, str]]:
    """What the agent reads: everything before, and the last text as new."""
    lines = [("human" if role == "user" else "ai", text) for role, text in exchanged(*texts)]
    return lines[:-1]


@on(SERVERS)
def test_several_turns_keep_history_and_state(world: World) -> None:
    """Nothing lost, nothing doubled; what an earlier turn put into the context is still there."""
    runner = world.runner()

    turns = [world.say(runner, text) for text in ("Hola", "Una pizza", "Pago con Yape")]

    assert [turn.status for turn in turns] == ["answered"] * 3
    assert world.history == exchanged("Hola", "Una pizza", "Pago con Yape")
    assert world.seen[2] == read_by_agent("Hola", "Una pizza", "Pago con Yape")
    kept = world.server.conversation(world.customer)
    assert (kept.current_intent, kept.current_step) == ("payment", "step 3")
    assert (kept.previous_intent, kept.previous_step) == ("order", "step 2")
    assert [kept.context[f"key{number}"] for number in (1, 2, 3)] == [1, 2, 3]
    assert kept.context["lastUserMessage"] == "Pago con Yape"
    assert kept.metadata["convsync"] == {"turn": turns[2].turn_id, "n": 3}
    world.require_nothing_left()


@on_every_server
def test_the_same_words_in_two_turns_are_two_messages(world: World) -> None:
    """A customer says sí twice: the agent reads each once, and both are kept."""
    runner = world.runner()
    world.say(runner, "sí")

    world.say(runner, "sí")

    assert world.history == exchanged("sí", "sí")
    assert world.seen[1] == read_by_agent("sí", "sí")


@on_every_server
def test_a_repeated_event_changes_nothing(world: World) -> None:
    """WAHA delivers twice; nothing is written for the second time."""
    runner, event = world.runner(), world.deliver("Hola")
    world.answer(runner, event)
    before = len(world.server.requests)

    again = world.answer(runner, event)

    assert (again.status, again.reply) == ("duplicate", "re: Hola")
    assert len(world.server.requests) == before
    assert world.history == exchanged("Hola")


@on_every_server
def test_long_conversations_keep_what_the_server_keeps(world: World) -> None:
    """Where it caps the history, the newest stay; turns go on past the cap."""
    runner, texts = world.runner(), [f"m{number}" for number in range(12)]

    for text in texts:
        world.say(runner, text)

    cap = world.server.profile.history_cap
    assert world.history == exchanged(*texts)[-(cap or 100) :]
    read = world.seen[-1]
    assert read == read_by_agent(*texts)[-len(read) :]
    assert len(read) >= (cap or 23)
    world.require_nothing_left()


@on_every_server
def test_the_next_turn_sees_writes_that_are_still_on_their_way(world: World) -> None:
    """The API goes away after the read; both turns are kept in order once it is back."""
    events = [world.deliver("Hola")]
    world.before_reply = world.server.stop
    world.answer(world.runner(shutdown_timeout=0.01), events[0])
    world.before_reply = lambda: None
    world.server.start()

    world.say(world.runner(), "¿Sigues ahí?")

    assert world.seen[1] == read_by_agent("Hola", "¿Sigues ahí?")
    kept = world.server.conversation(world.customer)
    assert sorted(world.history) == sorted(exchanged("Hola", "¿Sigues ahí?"))
    assert [line for line in world.history if line[0] == "bot"] == [
        ("bot", "re: Hola"),
        ("bot", "re: ¿Sigues ahí?"),
    ]
    assert (kept.current_intent, kept.context["key1"], kept.context["key2"]) == ("order", 1, 2)
    world.require_nothing_left()


@on(["documented", "records_inbound", "observed"])
def test_without_the_api_the_last_turn_is_remembered_whole(world: World) -> None:
    """With the customer's words, whoever recorded them."""
    runner = world.runner(shutdown_timeout=0.01)
    world.say(runner, "Hola")
    world.server.stop()

    world.answer(
        runner, InboundEvent(event_id="evt", phone_number=CUSTOMER, text="¿Y?", bot_id=BOT)
    )

    assert world.seen[1] == read_by_agent("Hola", "¿Y?")


@pytest.mark.parametrize("second", ["sí", "no"])
@on(["documented", "records_inbound", "observed"])
def test_words_that_came_while_the_agent_was_thinking_are_read_once(
    world: World, second: str
) -> None:
    """The server recorded them before the reply to the first ones."""
    runner, events = world.runner(), [world.deliver("sí")]
    world.before_reply = lambda: events.append(world.deliver(second))
    world.answer(runner, events[0])
    world.before_reply = lambda: None

    world.answer(runner, events[1])

    assert world.seen[1] == read_by_agent("sí", second)
    assert sorted(world.history) == sorted(exchanged("sí", second))


class Losing:
    """Breaks off at one write: after the server applied it, or before it got there."""

    def __init__(self, number: int, *, applied: bool) -> None:
        self.left, self.applied = number, applied

    def breaks(self, request: httpx.Request) -> bool:
        if request.method == "GET":
            return False
        self.left -= 1
        return self.left == -1


class LosingTransport(httpx.HTTPTransport):
    def __init__(self, losing: Losing) -> None:
        super().__init__(verify=False)  # nothing is encrypted, and certificates take long
        self.losing = losing

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        broken = self.losing.breaks(request)
        if broken and not self.losing.applied:
            raise httpx.ReadError("cut", request=request)
        response = super().handle_request(request)
        if broken:
            response.read()
            raise httpx.ReadError("cut", request=request)
        return response


class AsyncLosingTransport(httpx.AsyncHTTPTransport):
    def __init__(self, losing: Losing) -> None:
        super().__init__(verify=False)  # nothing is encrypted, and certificates take long
        self.losing = losing

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        broken = self.losing.breaks(request)
        if broken and not self.losing.applied:
            raise httpx.ReadError("cut", request=request)
        response = await super().handle_async_request(request)
        if broken:
            await response.aread()
            raise httpx.ReadError("cut", request=request)
        return response


@pytest.fixture
def lossy(loop: asyncio.Runner | None) -> Iterator[Callable[[World, Losing], Any]]:
    """Clients over a connection that breaks off, which wait for nothing before they look."""
    close: list[Callable[[], Coroutine[Any, Any, None] | None]] = []

    def make(world: World, losing: Losing) -> Any:
        profile, url = replace(world.server.profile, settle=0.0), world.server.base_url
        if loop is None:
            lent = httpx.Client(transport=LosingTransport(losing))
            close.append(lent.close)
            return ConvSyncClient(url, profile=profile, http_client=lent)
        awaited = httpx.AsyncClient(transport=AsyncLosingTransport(losing))
        close.append(awaited.aclose)
        return AsyncConvSyncClient(url, profile=profile, http_client=awaited)

    yield make
    for each in close:
        done = each()
        if loop is not None and done is not None:
            loop.run(done)


@where_writes_are_looked_up
@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not_applied"])
@pytest.mark.parametrize("number", range(4))
def test_a_write_whose_answer_was_lost_is_verified(
    world: World,
    lossy: Callable[[World, Losing], Any],
    number: int,
    applied: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever write it was, and whether the server got it or not: each is there once."""
    monkeypatch.setattr("langchain_convsync.outbox.plan.ATTEMPT", 0.0)
    losing = Losing(number, applied=applied)
    runner = world.runner(lossy(world, losing))

    for text in ("sí", "sí"):
        world.say(runner, text)

    assert world.history == exchanged("sí", "sí")
    kept = world.server.conversation(world.customer)
    assert (kept.current_intent, kept.current_step) == ("order", "step 2")
    assert (kept.context["key1"], kept.context["key2"]) == (1, 2)
    world.require_nothing_left()
