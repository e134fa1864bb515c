"""What LangSmith is told of each surface, in each form of a call: never who the customer is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tracers import LangChainTracer
from langsmith import Client

from langchain_convsync.callbacks import AsyncConvSyncCallbackHandler, ConvSyncCallbackHandler
from langchain_convsync.chat_history import ConvSyncChatMessageHistory
from langchain_convsync.client import ConvSyncClient
from langchain_convsync.dedup import deduplicated
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.surfaces.context import ConversationRef, in_conversation
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.tools import ConvSyncToolkit
from langchain_convsync.turns import TurnRunner
from tests.surfaces import calls, every_form, perform, sync_and_async

PHONE, KEY = "+51944333222", "canary-key-5d1c"
CANARIES = ("944333222", KEY)
ASKED: dict[str, Any] = {"messages": [HumanMessage("Una pizza")]}


class LangSmith(Client):
    """Keeps what a tracer would send."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9", api_key="none", auto_batch_tracing=False)
        self.told: list[str] = []

    def create_run(self, *args: Any, **kwargs: Any) -> None:
        self.told.append(repr((args, kwargs)))

    def update_run(self, *args: Any, **kwargs: Any) -> None:
        self.told.append(repr((args, kwargs)))


@dataclass
class Shop:
    """A context schema of the user's own."""

    customer: str


def everything(model_says: str = "Con gusto") -> list[str | AIMessage]:
    """A model that calls each of the tools."""
    return [
        calls("lookup_tenant"),
        calls("get_conversation"),
        calls("sync_state", intent="order"),
        calls("add_message", content="Su pedido salió"),
        model_says,
    ]


Run: TypeAlias = Callable[[str, ConvSyncClient, dict[str, Any]], Any]


async def tools(form: str, client: ConvSyncClient, config: dict[str, Any]) -> None:
    """The conversation comes from the block."""
    toolkit = ConvSyncToolkit(client)
    agent: Runnable[Any, Any] = create_agent(ScriptedChatModel(everything()), toolkit.get_tools())
    with in_conversation(PHONE):
        await perform(form, agent, ASKED, config)


async def tools_by_context(form: str, client: ConvSyncClient, config: dict[str, Any]) -> None:
    """The conversation comes from the agent's own context."""
    toolkit = ConvSyncToolkit(client, identity=lambda shop: shop.customer)
    agent: Runnable[Any, Any] = create_agent(
        ScriptedChatModel(everything()), toolkit.get_tools(), context_schema=Shop
    )
    await perform(form, agent, ASKED, config, context=Shop(PHONE))


async def middleware(form: str, client: ConvSyncClient, config: dict[str, Any]) -> None:
    """With its tool, by the agent's own context."""
    brought = ConvSyncMiddleware(client, identity=lambda shop: shop.customer, on_error="raise")
    script: list[str | AIMessage] = [calls("sync_state", intent="order"), "Con gusto"]
    agent: Runnable[Any, Any] = create_agent(
        ScriptedChatModel(script), [], middleware=[brought], context_schema=Shop
    )
    await perform(form, agent, ASKED, config, context=Shop(PHONE))


async def handlers(form: str, client: ConvSyncClient, config: dict[str, Any]) -> None:
    """Sync and async, the handler at once."""
    chain: Runnable[Any, Any] = RunnableLambda(lambda _: {"output": "Con gusto", "intent": "order"})
    both = [ConvSyncCallbackHandler(client), AsyncConvSyncCallbackHandler(client)]
    with in_conversation(PHONE):
        await perform(form, chain, "?", {**config, "callbacks": [*config["callbacks"], *both]})


async def history(form: str, client: ConvSyncClient, config: dict[str, Any]) -> None:
    """A chain whose configuration names the conversation by a reference."""
    prompt = ChatPromptTemplate.from_messages(
        [MessagesPlaceholder("history"), ("human", "{question}")]
    )
    store = SQLiteEventStore(":memory:")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        chain = RunnableWithMessageHistory(
            prompt | ScriptedChatModel(["Con gusto"]),
            lambda ref: ConvSyncChatMessageHistory(ref, client=client, store=store),
            input_messages_key="question",
            history_messages_key="history",
        )
    named = {**config, "configurable": {"session_id": ConversationRef(PHONE)}}
    await perform(form, chain, {"question": "Una pizza"}, named)
    await store.aclose()


async def claims(form: str, client: ConvSyncClient, config: dict[str, Any]) -> None:
    """A tool behind a claim; the event's id never leaves the store."""
    store = SQLiteEventStore(":memory:")
    tool = next(tool for tool in ConvSyncToolkit(client).get_tools() if tool.name == "sync_state")
    once = deduplicated(tool, store, event_id=lambda *_: f"false_{PHONE}@c.us_AAA")
    with in_conversation(PHONE):
        await perform(form, once, {"intent": "order"}, config)
        await perform(form, once, {"intent": "order"}, config)
    await store.aclose()


SURFACES: list[Run] = [tools, tools_by_context, middleware, handlers, history, claims]


@pytest.fixture(scope="module")
def reference() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        yield running


@pytest.fixture
def server(reference: ReferenceServer) -> ReferenceServer:
    reference.create_conversation(phone_number=PHONE, subdomain="restaurant", bot_id="bot123")
    reference.requests.clear()
    return reference


def assert_no_canary(told: list[str]) -> None:
    """Something was told, and in all of it neither customer nor key."""
    assert told
    assert [text for text in told if any(canary in text for canary in CANARIES)] == []


@every_form
@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.__name__)
async def test_no_surface_tells_langsmith_the_customer(
    surface: Run, form: str, server: ReferenceServer
) -> None:
    """Inputs, outputs, artifacts, metadata, tags and names of every run; and it did its work."""
    langsmith = LangSmith()
    with server.client(api_key=KEY) as client:
        await surface(form, client, {"callbacks": [LangChainTracer(client=langsmith)]})

    assert {"PUT", "POST"} & {request.method for request in server.requests}
    assert_no_canary(langsmith.told)


@sync_and_async
async def test_no_turn_tells_langsmith_the_customer(mode: str, server: ReferenceServer) -> None:
    """With all surfaces of an agent inside a runner."""
    langsmith, store = LangSmith(), SQLiteEventStore(":memory:")
    event = InboundEvent(event_id=f"false_{PHONE}@c.us_A", phone_number=PHONE, text="Una pizza")
    with server.client(api_key=KEY) as client:
        agent: Runnable[Any, Any] = create_agent(
            ScriptedChatModel(everything()),
            ConvSyncToolkit(client).get_tools(),
            middleware=[ConvSyncMiddleware(client, sync_tool=False)],
        ).with_config(
            callbacks=[LangChainTracer(client=langsmith), ConvSyncCallbackHandler(client)]
        )
        runner = TurnRunner(agent, client=client, store=store)
        turn = runner.run(event) if mode == "sync" else await runner.arun(event)
    await store.aclose()

    assert turn.status == "answered"
    assert_no_canary(langsmith.told)


async def test_a_phone_number_in_the_configuration_would_be_told(server: ReferenceServer) -> None:
    """LangChain copies its texts: why a reference, a block or a context names the conversation."""
    langsmith = LangSmith()
    config: Any = {
        "callbacks": [LangChainTracer(client=langsmith)],
        "configurable": {"phone_number": PHONE},
    }
    chain: Runnable[Any, Any] = RunnableLambda(lambda _: "Con gusto")
    await chain.ainvoke("?", config)

    assert any("944333222" in text for text in langsmith.told)
