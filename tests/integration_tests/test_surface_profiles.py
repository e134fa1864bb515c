"""One contract for every surface on every kind of server: what was said stands there, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync import telemetry
from langchain_convsync.chat_history import ConvSyncChatMessageHistory
from langchain_convsync.client import AsyncConvSyncClient
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.models import InboundEvent, StateUpdate
from langchain_convsync.settings import ServerProfile
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.telemetry import _log
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.tools import AddMessage, SyncState
from langchain_convsync.turns import TurnRunner
from tests.surfaces import invoke, sync_and_async

PHONE, JID = "+51999999999", "51999999999@c.us"
BOT, TENANT = "67890abcdef0123456789abc", "restaurant-abc"

SERVERS: dict[str, tuple[str, ...]] = {
    "documented": (),
    "by_sync": ("messages_not_stored",),
    "recording": ("records_inbound",),
    "recording_the_first": ("records_inbound", "messages_not_stored"),
    "replacing": ("messages_not_stored", "context_replaced"),
    "observed": ("observed",),
}
Said = list[tuple[str, str]]


@dataclass
class World:
    """A server whose customer writes through WAHA, and what a surface needs to answer."""

    server: ReferenceServer
    store: SQLiteEventStore
    mode: str
    number: int = 0

    def __post_init__(self) -> None:
        self.client = self.server.client()

    def writes(self, text: str) -> str:
        """WAHA tells the server what the customer writes; the event's id."""
        self.number += 1
        name = f"evt{self.number}"
        payload = {"id": f"false_{JID}_{name}", "from": JID, "fromMe": False, "body": text}
        metadata = {"subdomain": TENANT, "bot.id": BOT}
        event = {"event": "message", "session": "s", "metadata": metadata}
        assert self.server.deliver({**event, "payload": {**payload, "timestamp": 1}})["accepted"]
        return name

    @property
    def history(self) -> Said:
        customer = JID if self.server.profile.phone_format == "jid" else PHONE
        kept = self.server.conversation(customer)
        return [(message.role, message.content) for message in kept.messages]


@pytest.fixture
def world(request: pytest.FixtureRequest, mode: str) -> Iterator[World]:
    with ReferenceServer(quirks=SERVERS[request.param]) as server:
        store = SQLiteEventStore(":memory:")
        with in_conversation(PHONE):
            yield World(server, store, mode)
        store.close()
        asyncio.run(store.aclose())


on_every_server = pytest.mark.parametrize("world", SERVERS, indirect=True)


async def by_middleware(world: World, text: str, reply: str) -> None:
    world.writes(text)
    model = ScriptedChatModel([reply])
    agent = create_agent(model, middleware=[ConvSyncMiddleware(world.client, on_error="raise")])
    await invoke(world.mode, agent, {"messages": [("user", text)]})


async def by_history(world: World, text: str, reply: str) -> None:
    world.writes(text)
    await _added(world, ConvSyncChatMessageHistory(PHONE, client=world.client), text, reply)


async def by_history_with_store(world: World, text: str, reply: str) -> None:
    world.writes(text)
    history = ConvSyncChatMessageHistory(PHONE, client=world.client, store=world.store)
    await _added(world, history, text, reply)


async def _added(world: World, history: ConvSyncChatMessageHistory, text: str, reply: str) -> None:
    messages = [HumanMessage(text), AIMessage(reply)]
    if world.mode == "sync":
        _ = history.messages
        history.add_messages(messages)
    else:
        await history.aget_messages()
        await history.aadd_messages(messages)


async def by_tool(world: World, text: str, reply: str) -> None:
    world.writes(text)
    tool = AddMessage(client=world.client)
    for role, content in (("user", text), ("bot", reply)):
        await invoke(world.mode, tool, {"role": role, "content": content})


async def by_runner(world: World, text: str, reply: str) -> None:
    event = InboundEvent(event_id=world.writes(text), phone_number=PHONE, bot_id=BOT, text=text)
    agent: Any = RunnableLambda(lambda _: reply)
    runner = TurnRunner(agent, client=world.client, store=world.store)
    turn = runner.run(event) if world.mode == "sync" else await runner.arun(event)
    assert turn.status == "answered"


SURFACES: list[Callable[[World, str, str], Any]] = [
    by_middleware,
    by_history,
    by_history_with_store,
    by_tool,
    by_runner,
]
with_every_surface = pytest.mark.parametrize(
    "surface", SURFACES, ids=lambda surface: surface.__name__
)


@with_every_surface
@on_every_server
@sync_and_async
async def test_what_was_said_stands_there_once(
    world: World, surface: Callable[[World, str, str], Any]
) -> None:
    """Whoever records the customer's words, and whatever persists what is written."""
    said = [("Hola", "¡Hola!"), ("sí", "uno"), ("sí", "dos"), ("Pago", "Gracias")]

    for text, reply in said:
        await surface(world, text, reply)

    assert world.history == [line for u, b in said for line in (("user", u), ("bot", b))]


@on_every_server
@sync_and_async
async def test_what_was_said_elsewhere_is_added_wherever_it_is_missing(world: World) -> None:
    """A server cannot have recorded what it never heard."""
    world.writes("Hola")
    world.client.sync_conversation(
        world.client.get_conversation(PHONE).session_id, StateUpdate(step="begun")
    )
    before = world.history

    tool = AddMessage(client=world.client)
    await invoke(world.mode, tool, {"role": "user", "content": "Por teléfono: sin cebolla"})

    assert world.history == [*before, ("user", "Por teléfono: sin cebolla")]


@on_every_server
@sync_and_async
async def test_messages_at_once_do_not_undo_each_other(world: World) -> None:
    """A model calls its tool eight times in one breath."""
    world.writes("Hola")
    tool, texts = AddMessage(client=world.client), [f"nota {number}" for number in range(8)]
    given: list[Any] = [{"role": "bot", "content": text} for text in texts]

    if world.mode == "sync":
        tool.batch(given)
    else:
        await tool.abatch(given)

    assert sorted(text for role, text in world.history if role == "bot") == texts


@pytest.mark.parametrize("world", ["by_sync", "replacing", "observed"], indirect=True)
@sync_and_async
async def test_a_client_does_not_post_what_would_be_forgotten(world: World) -> None:
    """The server would answer as if it was stored; the error names the profile and the way out."""
    world.writes("Hola")
    session, before = world.client.get_conversation(PHONE).session_id, world.history

    async def post() -> None:
        if world.mode == "sync":
            world.client.add_message(session, "bot", "¡Hola!")
            return
        profile = world.server.profile
        async with AsyncConvSyncClient(world.server.base_url, profile=profile) as client:
            await client.add_message(session, "bot", "¡Hola!")

    with pytest.raises(ConfigurationError, match=r"history=\"sync\".*ChatMessageHistory"):
        await post()

    assert world.history == before


@pytest.mark.in_turn
@with_every_surface
@pytest.mark.parametrize("world", ["by_sync"], indirect=True)
@sync_and_async
async def test_a_server_that_forgets_what_is_posted_is_told_of(
    world: World,
    surface: Callable[[World, str, str], Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where no profile says so: it answers 200 and repeats the message, and the bot forgets."""
    monkeypatch.setattr(_log, "_causes", _log.Causes())
    before = telemetry.counted("messages_forgotten")
    world.client = world.server.client(profile=ServerProfile())
    world.writes("Hola")
    world.client.sync_conversation(
        world.client.get_conversation(PHONE).session_id, StateUpdate(context={"mesa": 4})
    )

    for text, reply in [("Hola", "¡Hola!"), ("Pago", "Gracias")]:
        await surface(world, text, reply)
    world.client.get_conversation(PHONE)

    assert telemetry.counted("messages_forgotten") > before
    [told] = {each.message for each in caplog.records if "took a message" in each.message}
    assert 'ServerProfile(history="sync")' in told
    assert "convsync doctor --phone PHONE --write" in told


@with_every_surface
@pytest.mark.parametrize("world", ["documented", "recording"], indirect=True)
@sync_and_async
async def test_a_server_that_keeps_what_is_posted_is_not_accused(
    world: World, surface: Callable[[World, str, str], Any]
) -> None:
    """The same words again are no loss, nor are spaces that it trims."""
    before = telemetry.counted("messages_forgotten")
    for text, reply in [("Hola", "¡Hola!"), ("Hola", "¡Hola!"), ("Pago  ", "Gracias")]:
        await surface(world, text, reply)
    world.client.get_conversation(PHONE)

    assert telemetry.counted("messages_forgotten") == before


@pytest.mark.parametrize("world", ["replacing"], indirect=True)
@sync_and_async
async def test_a_decision_keeps_what_it_would_replace(world: World) -> None:
    """History and the tenant's own keys go along."""
    await by_tool(world, "Hola", "¡Hola!")
    tool = SyncState(client=world.client)

    for context in ({"pizza": "grande"}, {"pago": "Yape"}):
        await invoke(world.mode, tool, {"intent": "order", "context": context})

    assert world.history == [("user", "Hola"), ("bot", "¡Hola!")]
    kept = world.server.conversation(PHONE).context
    assert (kept["pizza"], kept["pago"]) == ("grande", "Yape")
