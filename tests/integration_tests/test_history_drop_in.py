"""A chain that was written for another chat message history runs on ours, changed in one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
from langchain_core.chat_history import BaseChatMessageHistory, InMemoryChatMessageHistory
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_convsync.chat_history import ConvSyncChatMessageHistory
from langchain_convsync.client import ConvSyncClient
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.surfaces.context import ConversationRef
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from tests.surfaces import PHONE, calls, every_form, perform

History: TypeAlias = BaseChatMessageHistory
GetHistory: TypeAlias = Callable[[str], History]
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")


@pytest.fixture
def client() -> Iterator[ConvSyncClient]:
    with ReferenceServer() as server, server.client() as opened:
        server.create_conversation(phone_number=PHONE, subdomain="restaurant-abc", bot_id="bot123")
        yield opened


@pytest.fixture(params=["langchain", "ours", "ours, durable"])
def get_history(request: pytest.FixtureRequest, client: ConvSyncClient) -> Iterator[GetHistory]:
    """LangChain's own history as the measure, and ours: a new object for every call."""
    kept, store = InMemoryChatMessageHistory(), SQLiteEventStore(":memory:")
    yield {
        "langchain": lambda _session_id: kept,
        "ours": lambda session_id: ConvSyncChatMessageHistory(session_id, client=client),
        "ours, durable": lambda session_id: ConvSyncChatMessageHistory(
            session_id, client=client, store=store
        ),
    }[request.param]
    store.close()


def said(messages: list[BaseMessage]) -> list[tuple[str, Any]]:
    # LangChain's own history keeps the chunk that a stream ends in.
    types = {"AIMessageChunk": "ai"}
    return [(types.get(message.type, message.type), message.content) for message in messages]


async def test_everything_that_a_history_is_used_for(get_history: GetHistory) -> None:
    """Adding in every way, reading, printing, trimming and clearing."""
    history = get_history(PHONE)
    history.add_user_message("Hola")
    history.add_ai_message("¡Hola!")
    history.add_message(HumanMessage("Una pizza"))
    await history.aadd_messages([AIMessage("¿Cuál?"), HumanMessage("Margherita")])
    everything = [
        ("human", "Hola"),
        ("ai", "¡Hola!"),
        ("human", "Una pizza"),
        ("ai", "¿Cuál?"),
        ("human", "Margherita"),
    ]
    assert said(history.messages) == said(await history.aget_messages()) == everything
    assert said(get_history(PHONE).messages) == everything
    assert len(history.messages) == 5
    assert str(history).splitlines()[-1] == "Human: Margherita"

    kept = trim_messages(history.messages, max_tokens=2, token_counter=len, strategy="last")
    history.clear()
    assert history.messages == []
    for message in kept:
        history.add_message(message)
    assert said(get_history(PHONE).messages) == everything[-2:]
    await history.aclear()
    assert await get_history(PHONE).aget_messages() == []


def remembering(chain: Runnable[Any, Any], get_history: GetHistory) -> Runnable[Any, Any]:
    return RunnableWithMessageHistory(
        chain, get_history, input_messages_key="question", history_messages_key="history"
    )


@pytest.mark.parametrize("output", ["message", "text"])
@every_form
async def test_a_chain_remembers_in_every_form_of_a_call(
    get_history: GetHistory, form: str, output: str
) -> None:
    """What the model reads, and what is kept, is the same as with LangChain's own history."""
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Vendes pizzas."), MessagesPlaceholder("history"), ("human", "{question}")]
    )
    model = ScriptedChatModel(["¿Cuál?", "Con gusto"])
    chain = prompt | model | StrOutputParser() if output == "text" else prompt | model
    runnable = remembering(chain, get_history)

    for question in ("Una pizza", "Margherita"):
        config = {"configurable": {"session_id": PHONE}}
        await perform(form, runnable, {"question": question}, config)

    expected = [("human", "Una pizza"), ("ai", "¿Cuál?"), ("human", "Margherita")]
    assert said(model.calls[1]) == [("system", "Vendes pizzas."), *expected]
    assert said(get_history(PHONE).messages) == [*expected, ("ai", "Con gusto")]


@every_form
async def test_a_bare_model_remembers_lists_of_messages(get_history: GetHistory, form: str) -> None:
    """Without keys LangChain hands the whole history over again; nothing comes twice."""
    model = ScriptedChatModel(["¿Cuál?", "Con gusto"])
    runnable: Runnable[Any, Any] = RunnableWithMessageHistory(model, get_history)

    for question in ("Una pizza", "Margherita"):
        config = {"configurable": {"session_id": PHONE}}
        await perform(form, runnable, [HumanMessage(question)], config)

    expected = [("human", "Una pizza"), ("ai", "¿Cuál?"), ("human", "Margherita")]
    assert said(model.calls[1]) == expected
    assert said(get_history(PHONE).messages) == [*expected, ("ai", "Con gusto")]


async def test_a_reference_may_stand_in_the_configuration(client: ConvSyncClient) -> None:
    """Where tracers must not be told a phone number."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        runnable = remembering(
            ChatPromptTemplate.from_messages([("human", "{question}")])
            | ScriptedChatModel(["Con gusto"]),
            lambda session_id: ConvSyncChatMessageHistory(session_id, client=client),
        )
    config: Any = {"configurable": {"session_id": ConversationRef(PHONE)}}

    await runnable.ainvoke({"question": "Una pizza"}, config)

    assert len(ConvSyncChatMessageHistory(PHONE, client=client)) == 2


@pytest.mark.parametrize("durable", [False, True])
def test_only_words_become_part_of_the_conversation(client: ConvSyncClient, durable: bool) -> None:
    """Tool calls, their results and instructions are the agent's own business; files are named."""
    store = SQLiteEventStore(":memory:")
    history = ConvSyncChatMessageHistory(PHONE, client=client, store=store if durable else None)
    photo: list[Any] = [
        {"type": "text", "text": "¿Tienen esta?"},
        {"type": "image_url", "image_url": "…"},
    ]
    asking, answer = calls("menu"), AIMessage([{"type": "text", "text": "Sí"}])

    history.add_messages(
        [
            SystemMessage("Vendes pizzas."),
            HumanMessage(photo),
            asking,
            ToolMessage("Margherita", tool_call_id="call-1"),
            answer,
        ]
    )
    kept = said(history.messages)
    store.close()

    assert kept == [("human", "¿Tienen esta?\n[image]"), ("ai", "Sí")]
