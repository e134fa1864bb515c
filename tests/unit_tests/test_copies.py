"""Every public object can be copied; what is data is pickled, what is alive says what to do."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool

import langchain_convsync as c
from langchain_convsync import middleware
from langchain_convsync.contents import Media
from langchain_convsync.testing import ScriptedChatModel
from tests.surfaces import PHONE, conversation

SECRET = "sk-canary"
URL = "http://127.0.0.1:9"


def same(given: Any) -> Any:
    return given


def client() -> c.ConvSyncClient:
    return c.ConvSyncClient(URL, api_key=SECRET)


def store() -> c.SQLiteEventStore:
    return c.SQLiteEventStore(":memory:")


def runner() -> c.TurnRunner:
    return c.TurnRunner(RunnableLambda(same), client=client(), store=store())


EVENT = c.InboundEvent(
    event_id="evt_1",
    phone_number=PHONE,
    text="Hola",
    sent_at=datetime(2025, 12, 29, tzinfo=UTC),
    media=Media(url="https://example.com/1.png"),
    notes=("[location: Lima]",),
)
#: Values: they travel to another process as they are.
DATA: dict[str, Callable[[], Any]] = {
    "Conversation": conversation,
    "ConversationMessage": lambda: c.ConversationMessage(role="user", content="Hola"),
    "ConversationRef": lambda: c.ConversationRef(PHONE, turn_id="1", event_id="2").at(
        conversation()
    ),
    "HandedOver": lambda: c.HandedOver(
        reason="r", summary="s", key="1", conversation=c.ConversationRef(PHONE), chat_id="1@c.us"
    ),
    "Handoff": lambda: c.Handoff(reason="complaint", summary="Two pizzas"),
    "InboundEvent": lambda: EVENT,
    "Reply": lambda: c.Reply(texts=["Hola"], file=b"OggS", voice=True),
    "Interrupt": lambda: c.Interrupt("1", {"action_requests": [{"name": "pay"}]}),
    "Undelivered": lambda: c.Undelivered(conversation_key="1", reason="r", text="Hola"),
    "ServerProfile": lambda: c.ServerProfile(intents=frozenset({"menu"})),
    "StateUpdate": lambda: c.StateUpdate(intent="order", context={"total": 1}),
    "Tenant": lambda: c.Tenant("restaurant-abc", "bot1"),
    "TenantInfo": lambda: c.TenantInfo(subdomain="abc", bot_id="bot1", session_id="1"),
    "Turn": lambda: c.Turn(
        status="failed", reply="Perdona.", turn_id="1", events=("evt_1",), state=c.StateUpdate()
    ),
    "waha": lambda: c.waha.Ignored("edited"),
}
#: What holds connections, locks and secrets.
ALIVE: dict[str, Callable[[], Any]] = {
    "AddMessage": lambda: c.AddMessage(client=client()),
    "AsyncConvSyncCallbackHandler": lambda: c.AsyncConvSyncCallbackHandler(client()),
    "AsyncConvSyncClient": lambda: c.AsyncConvSyncClient(URL, api_key=SECRET),
    "AsyncWAHAClient": lambda: c.AsyncWAHAClient(URL, api_key=SECRET),
    "ConvSyncCallbackHandler": lambda: c.ConvSyncCallbackHandler(client(), store=store()),
    "ConvSyncChatMessageHistory": lambda: c.ConvSyncChatMessageHistory(
        PHONE, client=client(), store=store()
    ),
    "ConvSyncClient": client,
    "ConvSyncMiddleware": lambda: middleware.ConvSyncMiddleware(client()),
    "ConvSyncToolkit": lambda: c.ConvSyncToolkit(client(), intents=["menu"]),
    "GetConversation": lambda: c.GetConversation(client=client(), conversation=PHONE),
    "HandOver": lambda: c.HandOver(client=client(), reasons=["complaint"]),
    "LookupTenant": lambda: c.LookupTenant(client=client(), allow_any_conversation=True),
    "OnceToolsMiddleware": lambda: middleware.OnceToolsMiddleware(store()),
    "RedisEventStore": lambda: c.RedisEventStore(f"redis://:{SECRET}@127.0.0.1:9/0"),
    "SQLiteEventStore": store,
    "SyncState": lambda: c.SyncState(client=client(), intents=["menu"]),
    "TurnRunner": runner,
    "WAHAClient": lambda: c.WAHAClient(URL, api_key=SECRET),
    "WAHAReply": lambda: c.WAHAReply(URL, api_key=SECRET),
    "deduplicated": lambda: c.deduplicated(
        RunnableLambda(same), store(), event_id=lambda given, _: given
    ),
}
ERRORS = [
    found
    for name in c.__all__
    if isinstance(found := getattr(c, name), type) and issubclass(found, c.ConvSyncError)
]
#: Functions, which every process finds under their names; apps are FastAPI's.
NAMES = {"aonce", "create_app", "current_conversation", "in_conversation", "llm_extractor", "once"}


def error_of(kind: type[c.ConvSyncError]) -> c.ConvSyncError:
    if issubclass(kind, c.MissingExtraError):
        return kind("ConvSyncMiddleware", "agents")
    facts: dict[str, Any] = {"retry_after": 1.5, "ambiguous": True, "status_code": 503}
    if issubclass(kind, c.APIError):
        return kind("It failed", request_id="7", **facts)
    if issubclass(kind, c.WAHAError):
        return kind("It failed", **facts)
    return kind("It failed", is_newer=True) if issubclass(kind, c.StoreFormatError) else kind("It")


def test_every_public_name_is_looked_at() -> None:
    """A new one belongs in one of the tables."""
    errors = {kind.__name__ for kind in ERRORS}
    known = {*DATA, *ALIVE, *NAMES, *errors, "__version__"}

    assert known == {*c.__all__, *middleware.__all__}


@pytest.mark.parametrize("make", DATA.values(), ids=DATA)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_value_is_pickled(make: Callable[[], Any], protocol: int) -> None:
    """Celery, process pools and caches do it to arguments and results."""
    value = make()

    assert pickle.loads(pickle.dumps(value, protocol)) == value
    assert copy.deepcopy(value) == copy.copy(value) == value


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize(
    "copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy]
)
def test_an_error_arrives_whole(
    kind: type[c.ConvSyncError], copied: Callable[[Exception], Exception]
) -> None:
    """A pool raises in the parent what its worker raised; the facts are there, too."""
    error = error_of(kind)

    there = copied(error)

    assert type(there) is kind
    assert (str(there), vars(there), there.args) == (str(error), vars(error), error.args)


@pytest.mark.parametrize("make", ALIVE.values(), ids=ALIVE)
def test_what_is_alive_is_not_pickled_and_says_what_to_do(make: Callable[[], Any]) -> None:
    """One error of its own, whatever it is made of; no secret is written down."""
    thing = make()

    with pytest.raises(TypeError, match="make it anew in the process that uses it") as error:
        pickle.dumps(thing)

    name = type(thing).__name__.lstrip("_")
    assert str(error.value).startswith(f"{name} holds secrets or connections")
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("make", ALIVE.values(), ids=ALIVE)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_what_is_alive_can_be_copied(make: Callable[[], Any], copied: Callable[[Any], Any]) -> None:
    """Frameworks copy what they are given; the copy has the same connections."""
    thing = make()

    other = copied(thing)

    assert type(other) is type(thing)
    if not isinstance(thing, BaseTool | c.ConvSyncToolkit):
        assert other is thing
        return
    assert other is not thing
    assert vars(other)["client"] is vars(thing)["client"]


@pytest.mark.parametrize("kind", [c.LookupTenant, c.SyncState])
def test_a_copy_of_a_tool_may_be_changed(kind: Any) -> None:
    """The original keeps its name, and both have their schema."""
    tool = kind(client=client())

    other = tool.model_copy(update={"name": "another"})

    assert (tool.name, other.name) != (other.name, tool.name)
    assert other.args_schema is tool.args_schema
    assert copy.deepcopy(tool).args_schema is tool.args_schema


def test_an_extractor_can_be_copied() -> None:
    """It is a runnable of LangChain's."""
    extractor = c.llm_extractor(ScriptedChatModel(["{}"]), intents=["menu"])

    assert type(copy.deepcopy(extractor)) is type(extractor)


def answer(event: c.InboundEvent, ref: c.ConversationRef) -> c.Turn:
    if event.text == "Adiós":
        raise c.ServerError("It failed", status_code=503, retry_after=1.5)
    return c.Turn(status="answered", reply=event.text, turn_id=ref.tool_key("order"))


def test_a_process_pool_takes_events_and_returns_turns_and_errors() -> None:
    """The way in which tasks are given to other processes."""
    ref, spawned = c.ConversationRef(PHONE, turn_id="1"), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawned) as pool:
        turn = pool.submit(answer, EVENT, ref).result()
        with pytest.raises(c.ServerError) as error:
            pool.submit(answer, c.InboundEvent(event_id="2", text="Adiós"), ref).result()

    assert (turn.reply, turn.turn_id) == ("Hola", ref.tool_key("order"))
    assert (error.value.status_code, error.value.retry_after) == (503, 1.5)
