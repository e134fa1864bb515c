"""Whatever a source tells of the receiving side, and however deliveries interleave: tenants apart.

``HYPOTHESIS_PROFILE=long`` makes 2,000 runs on each store.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from langchain_convsync import (
    ConvSyncClient,
    InboundEvent,
    RedisEventStore,
    SQLiteEventStore,
    Turn,
    TurnRunner,
    waha,
)
from langchain_convsync._flow import run
from langchain_convsync.stores import EventStore
from langchain_convsync.surfaces.context import ConversationRef
from langchain_convsync.turns import operators
from tests.redis_server import RedisServer
from tests.store_cases import Clock

pytest_plugins = ("tests.store_fixtures",)

EXAMPLES = 2000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 60
TENANTS, CUSTOMERS = range(3), ("+51999999990", "+51999999991")
MARK = re.compile(r"of-tenant-([0-9])")

#: What sources tell of tenant ``t``'s side. The last one tells nothing: the API server knows.
TELLING: dict[str, Callable[[int], dict[str, Any]]] = {
    "everything": lambda t: {**number(t), **tenant(t), "waha_session": f"session-{t}"},
    "forwarded": lambda t: {**tenant(t), "waha_session": "default"},
    "bot": lambda t: {"bot_id": f"bot-{t}"},
    "subdomain": lambda t: {"subdomain": f"sub-{t}"},
    "WAHA Core": lambda t: {**number(t), "waha_session": "default"},
    "one name": lambda t: {"account": "Restaurant", "waha_session": f"session-{t}"},
    "nothing": lambda _: {},
}


def number(tenant: int) -> dict[str, Any]:
    return {"business_number": f"+5188888888{tenant}"}


def tenant(tenant: int) -> dict[str, Any]:
    return {"subdomain": f"sub-{tenant}", "bot_id": f"bot-{tenant}"}


@dataclass
class Api:
    """The documented server, in memory: a lookup without a bot finds the newest conversation."""

    away: bool = False
    newest: dict[str, int] = field(default_factory=dict)
    said: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    written: list[tuple[int, str]] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            message = "away"
            raise httpx.ConnectError(message)
        path = unquote(request.url.path).split("/")
        if "lookup" in path:
            bot = request.url.params.get("botId")
            told = self.newest.get(path[-1], 0) if bot is None else int(bot[-1])
            return self._answer(f"session {told} {path[-1]}")
        session = path[path.index("conversations") + 1]
        body = json.loads(request.content)
        self.written.append((int(session.split()[1]), request.content.decode()))
        if path[-1] == "messages":
            self.said.setdefault(session, []).append(body)
        return self._answer(session)

    def _answer(self, session: str) -> httpx.Response:
        _, told, customer = session.split()
        data = {
            "sessionId": session,
            "userId": customer,
            "botId": f"bot-{told}",
            "subDomain": f"sub-{told}",
            "isActive": True,
            "context": {"previousMessages": self.said.get(session, [])},
            "expiresAt": "2099-01-01T00:00:00Z",
        }
        return httpx.Response(200, json={"type": "1", "message": "ok", "data": data})


class World:
    """One store and one runner, which every tenant's deliveries reach."""

    def __init__(self, store: EventStore, clock: Clock, *, remembers: bool) -> None:
        self.api, self.clock = Api(), clock
        self.read: list[tuple[str, str]] = []
        self.replies: list[tuple[int, str]] = []
        self._saver, self._remembers = InMemorySaver(), remembers
        http = httpx.Client(transport=httpx.MockTransport(self.api))
        self.client = ConvSyncClient("http://localhost", http_client=http, max_retries=0)
        self.runner = TurnRunner(self.agent, client=self.client, store=store, shutdown_timeout=0.0)

    def agent(self, ref: ConversationRef) -> Runnable[Any, Any]:
        """Repeats everything that it was told, and remembers it."""

        def repeat(messages: list[Any]) -> AIMessage:
            words = " ".join(str(message.content) for message in messages)
            self.read.append((ref.subdomain or "", words))
            return AIMessage(f"reply {' '.join(dict.fromkeys(words.split()))}")

        if not self._remembers:
            return RunnableLambda(repeat)
        graph = StateGraph(MessagesState)
        graph.add_node("model", lambda state: {"messages": [repeat(state["messages"])]})
        graph.add_edge(START, "model")
        return graph.compile(checkpointer=self._saver)

    def deliver(self, event: InboundEvent, to: int) -> Turn:
        """A message that the customer wrote to a tenant, which the API server was told of, too."""
        self.api.newest[str(event.phone_number)] = to
        turn = self.runner.run(event, wait=0.0)
        if turn.reply:
            self.replies.append((to, turn.reply))
        return turn

    def settle(self) -> None:
        """The API server is there again, and all that waits is due."""
        self.api.away = False
        self.clock.advance(60.0)

    def assert_apart(self) -> None:
        """Agents read, API requests hold and replies tell their own tenant's words only."""
        for subdomain, words in self.read:
            assert set(MARK.findall(words)) <= {subdomain[-1]}
        for told, body in self.api.written:
            assert set(MARK.findall(body)) <= {str(told)}
        for to, reply in self.replies:
            assert set(MARK.findall(reply)) <= {str(to)}


def message(customer: int, to: int, how: str, *, number: int, whatsapp: bool) -> InboundEvent:
    """The ids are those of every other tenant's and customer's messages, too."""
    return InboundEvent(
        event_id=f"false_3EB{number}" if whatsapp else f"evt_{number}",
        phone_number=CUSTOMERS[customer],
        text=f"words-{number} of-tenant-{to} of-customer-{customer}",
        **TELLING[how](to),
    )


DELIVERY = st.fixed_dictionaries(
    {
        "customer": st.integers(0, 1),
        "to": st.integers(0, 2),
        "how": st.sampled_from(tuple(TELLING)),
        "number": st.integers(0, 3),
        "whatsapp": st.booleans(),
    }
)
STEPS = st.lists(st.one_of(DELIVERY, DELIVERY, DELIVERY, st.booleans()), min_size=2, max_size=10)


@pytest.fixture(params=["sqlite", "redis"])
def new_world(request: pytest.FixtureRequest) -> Iterator[Callable[..., World]]:
    """Begins anew, on an empty store; the world before it ends."""
    worlds: list[World] = []

    def end() -> None:
        while worlds:
            ended = worlds.pop()
            ended.client.close()
            ended.runner.store.close()

    def begin(*, remembers: bool = False) -> World:
        end()
        clock = Clock()
        if request.param == "sqlite":
            store: EventStore = SQLiteEventStore(":memory:", clock=clock)
        else:
            server: RedisServer = request.getfixturevalue("redis_server")
            server.empty()
            store = RedisEventStore(server.url, clock=clock)
        worlds.append(World(store, clock, remembers=remembers))
        return worlds[0]

    yield begin
    end()


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, remembers=st.booleans())
def test_no_word_of_one_tenant_reaches_another_by_any_account(
    new_world: Callable[..., World], steps: list[Any], remembers: bool
) -> None:
    """Not what an agent reads or remembers, nor a request, a reply, or a repeated event's answer.

    What tells nothing, or a number alone, is whose the API server says; so while that is away the
    first words to a side of whose tenant nothing is known yet are not for several tenants.
    """
    world = new_world(remembers=remembers)
    known: dict[tuple[int, str], int] = {}
    for step in steps:
        if isinstance(step, bool):
            world.api.away = step
            world.clock.advance(60.0)
            continue
        place = (step["customer"], "" if step["how"] == "nothing" else f"{step['to']}")
        is_told = step["how"] not in {"nothing", "WAHA Core", "one name"}
        if world.api.away and not is_told and known.get(place) != step["to"]:
            continue
        turn = world.deliver(message(**step), step["to"])
        if turn.status == "answered":
            known.setdefault(place, step["to"])
    world.settle()
    for step in steps:
        if not isinstance(step, bool):
            world.deliver(message(**step), step["to"])

    world.assert_apart()


def test_a_source_that_tells_less_meets_what_another_has_told(
    new_world: Callable[..., World],
) -> None:
    """The API server's forward, WAHA's own delivery and its copy under a LID are one message."""
    for first, then in itertools.permutations(TELLING, 2):
        world = new_world()
        same: dict[str, Any] = {"customer": 0, "to": 1, "number": 7, "whatsapp": True}
        turns = [world.deliver(message(how=how, **same), 1) for how in (first, then)]
        lid = message(how=then, **same).model_copy(update={"phone_number": None, "lid": "38@lid"})
        turns.append(world.deliver(lid, 1))

        assert [turn.status for turn in turns] == ["answered", "duplicate", "duplicate"]
        assert len(world.read) == 1


@pytest.mark.parametrize("how", ["subdomain", "WAHA Core"])
def test_a_side_whose_bot_is_not_told_finds_its_conversation_again(
    new_world: Callable[..., World], how: str
) -> None:
    """Although the API server takes the newest one of the customer's, which is another tenant's."""
    world = new_world()
    for to in (0, 1):
        world.deliver(message(0, to, how, number=to, whatsapp=True), to)
    turn = world.runner.run(message(0, 0, how, number=2, whatsapp=True))

    assert turn.status == "answered"
    assert world.read[-1][0] == "sub-0"
    world.assert_apart()


def test_a_tenant_that_pauses_its_customer_silences_no_other(
    new_world: Callable[..., World],
) -> None:
    """Two containers of WAHA Core, both of whose sessions are called ``default``."""
    world = new_world()
    for to in (0, 1):
        world.deliver(message(0, to, "WAHA Core", number=to, whatsapp=True), to)
    human = waha.OperatorMessage(
        event_id="true_3EBF", phone_number=CUSTOMERS[0], text="Soy Eva", **TELLING["WAHA Core"](0)
    )
    world.runner.take_over(human, seconds=60.0)

    statuses = [
        world.deliver(message(0, to, "WAHA Core", number=2 + to, whatsapp=True), to).status
        for to in (0, 1)
    ]

    assert statuses == ["paused", "answered"]


def colleague(to: int, how: str, stanza: str = "3EBF") -> waha.OperatorMessage:
    return waha.OperatorMessage(
        event_id=f"true_{stanza}",
        message_id=stanza,
        phone_number=CUSTOMERS[0],
        text=f"colleague of-tenant-{to}",
        **TELLING[how](to),
    )


@pytest.mark.parametrize("how", ["nothing", "session"])
def test_a_colleagues_words_enter_no_other_tenants_conversation(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Who tells a number of its own is no other side's, though that tells nothing, or a session."""
    monkeypatch.setitem(TELLING, "session", lambda t: {**tenant(t), "waha_session": "main"})
    monkeypatch.setitem(TELLING, "container", lambda t: {**number(t), "waha_session": "main"})
    world = new_world()
    world.deliver(message(0, 0, how, number=1, whatsapp=False), 0)
    world.api.newest[CUSTOMERS[0]] = 1
    world.runner.take_over(colleague(1, "container"), seconds=60.0)

    turn = world.deliver(message(0, 0, how, number=2, whatsapp=False), 0)

    assert turn.status == "answered"
    world.assert_apart()


def test_a_takeover_is_found_although_it_was_asked_for_before(
    new_world: Callable[..., World],
) -> None:
    """That an account is not known yet is not remembered."""
    world = new_world()
    own = colleague(0, "one name", "3EB0")
    echo = waha.Ignored(
        reason="own echo", message_id="3EB0", phone_number=CUSTOMERS[0], waha_session="session-0"
    )
    world.runner.record_echo(echo)
    world.deliver(message(0, 0, "everything", number=1, whatsapp=True), 0)
    human = replace(own, account="default", waha_session="session-0")
    world.runner.take_over(human, seconds=60.0)

    turn = world.deliver(message(0, 0, "everything", number=2, whatsapp=True), 0)

    assert turn.status == "paused"


def test_what_an_agent_remembers_is_its_tenants_although_the_store_forgot(
    new_world: Callable[..., World],
) -> None:
    """A checkpointer keeps threads for ever."""
    world = new_world(remembers=True)
    store = world.runner.store
    world.deliver(message(0, 0, "nothing", number=1, whatsapp=False), 0)
    run(operators.forget(store, run(operators.conversation_key_of(store, CUSTOMERS[0]))))
    world.deliver(message(0, 1, "nothing", number=2, whatsapp=False), 1)

    assert [tenant for tenant, _ in world.read] == ["sub-0", "sub-1"]
    world.assert_apart()


def test_one_id_at_two_tenants_joins_nothing_but_that_message(
    new_world: Callable[..., World],
) -> None:
    """Two sources that tell nothing alike; what a customer forged is at most that message."""
    world = new_world()
    for to, how in ((0, "forwarded"), (1, "WAHA Core")):
        same = message(0, to, how, number=1, whatsapp=True).model_copy(update={"text": "hola"})
        world.deliver(same, to)
    turn = world.deliver(message(0, 1, "WAHA Core", number=2, whatsapp=True), 1)
    change = waha.Ignored(
        reason="edited",
        text="secret of-tenant-0",
        target_id="3EB3",
        from_me=False,
        **TELLING["WAHA Core"](0),
    )
    waiting = TurnRunner(world.agent, client=world.client, store=world.runner.store, debounce=60.0)
    waiting.accept(message(0, 1, "forwarded", number=3, whatsapp=True))

    assert turn.status == "answered"
    assert not world.runner.amend(change)
    world.assert_apart()


#: What keeps tenants apart, and the deliveries that tell whether it is there: (customer's tenant,
#: what the source tells), or whether the API server is away from now on.
GUARDS: dict[str, tuple[str, Any, list[Any]]] = {
    "accounts of all that is told": (
        "turns.naming.account_facts",
        lambda source: {"a": source.account},
        [(0, "one name"), (1, "one name")],
    ),
    "a conversation's tenant": (
        "turns.reading.require_tenant",
        lambda *_: None,
        [(0, "nothing"), (1, "nothing")],
    ),
    "no snapshot without an account": (
        "turns.result.is_named",
        lambda _: True,
        [(0, "nothing"), True, (1, "nothing")],
    ),
    "words in the ids of unnamed accounts": (
        "turns.naming.is_named",
        lambda _: True,
        [(0, "nothing"), (1, "nothing")],
    ),
}


@pytest.mark.parametrize(("guard", "broken", "steps"), GUARDS.values(), ids=GUARDS)
def test_without_any_of_its_guards_the_promise_breaks(
    new_world: Callable[..., World],
    monkeypatch: pytest.MonkeyPatch,
    guard: str,
    broken: Any,
    steps: list[Any],
) -> None:
    """So each is needed, and its loss would be noticed."""
    kept = told(new_world(remembers=True), steps)
    monkeypatch.setattr(f"langchain_convsync.{guard}", broken)

    assert told(new_world(remembers=True), steps) != kept


def told(world: World, steps: list[Any]) -> list[str]:
    """What becomes of deliveries, and whether words crossed over."""
    statuses: list[str] = []
    for step in steps:
        if isinstance(step, bool):
            world.api.away = step
            continue
        event = message(0, *step, number=7, whatsapp=False)
        statuses.append(world.deliver(event, step[0]).status)
    with suppress(AssertionError):
        world.assert_apart()
        return statuses
    return [*statuses, "words crossed over"]
