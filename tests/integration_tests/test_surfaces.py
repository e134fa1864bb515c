"""Tools and history on their own, without a runner: real HTTP, sync and async."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests

from langchain_convsync.chat_history import ConvSyncChatMessageHistory
from langchain_convsync.client import AsyncConvSyncClient
from langchain_convsync.errors import (
    APIConnectionError,
    ConfigurationError,
    ConversationNotFoundError,
)
from langchain_convsync.models import (
    Conversation,
    PartialConversation,
    TenantInfo,
)
from langchain_convsync.surfaces.context import ConversationRef, in_conversation
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.tools import (
    AddMessage,
    ConvSyncToolkit,
    GetConversation,
    LookupTenant,
    SyncState,
)
from tests import served
from tests.served import PIZZA, Client, requests, state, words
from tests.surfaces import (
    BOT,
    HISTORY,
    PHONE,
    TENANT,
    calls,
    every_form,
    invoke,
    perform,
    sync_and_async,
)

reference, server, client = served.reference, served.server, served.client


def call(tool: BaseTool, **args: Any) -> dict[str, Any]:
    return {"name": tool.name, "args": args, "id": "call-1", "type": "tool_call"}


class _Standards(ToolsIntegrationTests):
    kind: type[BaseTool]
    example: dict[str, Any] = {}  # noqa: RUF012 - LangChain's tests are configured by attributes

    @pytest.fixture(autouse=True)
    def _served(self, client: AsyncConvSyncClient) -> None:
        self.client = client

    @property
    def tool_constructor(self) -> type[BaseTool]:
        return self.kind

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"client": self.client, "conversation": ConversationRef(PHONE, bot_id=BOT)}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return self.example


class TestLookupTenant(_Standards):
    kind = LookupTenant


class TestGetConversation(_Standards):
    kind = GetConversation


class TestSyncState(_Standards):
    kind = SyncState
    example = {"intent": "payment", "step": "confirming"}  # noqa: RUF012 - as above


class TestAddMessage(_Standards):
    kind = AddMessage
    example = {"content": "Su pedido salió"}  # noqa: RUF012 - as above


@sync_and_async
async def test_the_tools_serve_the_conversation_of_their_run(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """Three questions and a note, each with the typed object behind it."""
    tenant, get, sync, add = ConvSyncToolkit(client).get_tools()

    with in_conversation(PHONE):
        answers: list[ToolMessage] = [
            await invoke(mode, tenant, call(tenant)),
            await invoke(mode, get, call(get)),
            await invoke(mode, sync, call(sync, intent="payment", context={"paid": True})),
            await invoke(mode, add, call(add, content="Un momento")),
        ]

    assert [type(answer.artifact) for answer in answers[:3]] == [
        TenantInfo,
        Conversation,
        PartialConversation,
    ]
    assert state(server) == ("payment", "selecting")
    assert server.conversation(PHONE).context["orderTotal"] == 25.0
    assert words(server) == [("bot", "Un momento")]


@sync_and_async
async def test_an_agent_uses_the_tools(server: ReferenceServer, client: Client, mode: str) -> None:
    """The model names what it decided, and never whom it serves."""
    script: list[Any] = [calls("get_conversation"), calls("sync_state", step="paying"), "Listo"]
    agent: Runnable[Any, Any] = create_agent(
        ScriptedChatModel(script), ConvSyncToolkit(client, conversation=PHONE).get_tools()
    )

    await invoke(mode, agent, PIZZA)

    assert state(server) == ("order", "paying")


@sync_and_async
async def test_any_conversation_can_be_allowed(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """For notebooks and operations."""
    tool = SyncState(client=client, allow_any_conversation=True)

    await invoke(mode, tool, call(tool, intent="support", phone_number="+51 999 999 999"))

    assert state(server)[0] == "support"


@sync_and_async
async def test_a_customer_without_a_conversation_is_told_to_the_model(
    client: Client, mode: str
) -> None:
    """It goes on without, instead of trying again."""
    tool = GetConversation(client=client, conversation="+51988888888")

    answer = await invoke(mode, tool, call(tool))

    assert answer.status == "error"
    assert "no open conversation" in answer.content


@sync_and_async
async def test_a_tool_of_another_tenant_writes_nothing(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """A reference that knows its tenant holds every answer to it."""
    ref = ConversationRef(PHONE, subdomain="another")
    tool = SyncState(client=client, conversation=ref)

    answer = await invoke(mode, tool, call(tool, intent="payment"))

    assert "Refused" in answer.content
    assert requests(server) == ["GET"]


async def add(mode: str, history: ConvSyncChatMessageHistory, *messages: BaseMessage) -> None:
    if mode == "sync":
        history.add_messages(messages)
    else:
        await history.aadd_messages(messages)


async def read(mode: str, history: ConvSyncChatMessageHistory) -> list[BaseMessage]:
    return history.messages if mode == "sync" else await history.aget_messages()


@sync_and_async
async def test_a_history_is_read_and_written_in_order(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """The same words twice are two messages."""
    history = ConvSyncChatMessageHistory(PHONE, client=client)

    await add(mode, history, HumanMessage("sí"), AIMessage("¿Seguro?"), HumanMessage("sí"))

    assert words(server) == [("user", "sí"), ("bot", "¿Seguro?"), ("user", "sí")]
    assert [message.content for message in await read(mode, history)][2:] == [
        "sí",
        "¿Seguro?",
        "sí",
    ]


@sync_and_async
async def test_what_was_read_or_written_is_known_by_its_id(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """A caller that passes the whole list again adds only what is new."""
    history = ConvSyncChatMessageHistory(PHONE, client=client)
    known = await read(mode, history)
    new = HumanMessage("Una pizza", id="1")

    await add(mode, history, *known, new)
    await add(mode, history, *known, new, AIMessage("Claro"))

    assert words(server) == [("user", "Una pizza"), ("bot", "Claro")]


@sync_and_async
async def test_after_a_failure_no_later_message_is_written(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """Out of order would be worse than missing; a second try goes on where the first stopped."""
    messages = [HumanMessage(text, id=text) for text in ("uno", "dos\ud800", "tres")]
    history = ConvSyncChatMessageHistory(PHONE, client=client)

    with pytest.raises(ConfigurationError, match="JSON"):
        await add(mode, history, *messages)
    messages[1].content = "dos"
    await add(mode, history, *messages)

    assert [text for _, text in words(server)] == ["uno", "dos", "tres"]
    assert history.last_error is None


@sync_and_async
async def test_a_history_may_be_a_window(client: Client, mode: str) -> None:
    """The last messages, not the first; and that is what is counted."""
    history = ConvSyncChatMessageHistory(PHONE, client=client, limit=1)

    assert len(history) == 1
    assert [message.content for message in await read(mode, history)] == ["¡Hola! Bienvenido"]


@sync_and_async
async def test_a_customer_without_a_conversation_has_no_empty_history(
    client: Client, mode: str
) -> None:
    """The webhook creates conversations; a missing one is a fault to be told."""
    history = ConvSyncChatMessageHistory("+51988888888", client=client)

    with pytest.raises(ConversationNotFoundError):
        await read(mode, history)


async def clear(mode: str, history: ConvSyncChatMessageHistory) -> None:
    if mode == "sync":
        history.clear()
    else:
        await history.aclear()


@sync_and_async
async def test_a_history_is_cleared_and_the_conversation_goes_on(
    server: ReferenceServer, client: Client, mode: str
) -> None:
    """Its state stays; old messages that are added again, as trimming does, are written again."""
    history = ConvSyncChatMessageHistory(PHONE, client=client)
    old = await read(mode, history)

    await clear(mode, history)
    emptied = await read(mode, history)
    await add(mode, history, *old[-1:])

    assert emptied == []
    assert [message.content for message in server.conversation(PHONE).messages] == [
        "¡Hola! Bienvenido"
    ]
    assert state(server) == ("order", "selecting")
    assert server.conversation(PHONE).context["orderTotal"] == 25.0


@pytest.mark.parametrize("quirks", ["observed", "context_replaced", "messages_not_stored"])
@sync_and_async
async def test_a_history_of_servers_in_the_wild_is_cleared(quirks: str, mode: str) -> None:
    """Where only a sync persists it, and where a sync replaces the whole context."""
    bot = "67890abcdef0123456789abc"
    with ReferenceServer(quirks=[quirks]) as quirky:
        customer = "51999999999@c.us" if quirks == "observed" else PHONE
        context = {"orderTotal": 25.0, "previousMessages": HISTORY}
        quirky.create_conversation(
            phone_number=customer, subdomain=TENANT, bot_id=bot, context=context
        )
        async with AsyncConvSyncClient(quirky.base_url, profile=quirky.profile) as client:
            history = ConvSyncChatMessageHistory(PHONE, bot_id=bot, client=client)
            await clear(mode, history)

        found = quirky.conversation(customer)
        assert found.messages == []
        assert found.context["orderTotal"] == 25.0


def remembering(
    script: list[Any], factory: Callable[..., ConvSyncChatMessageHistory], **options: Any
) -> tuple[ScriptedChatModel, Runnable[Any, Any]]:
    """A classic chain with memory."""
    model = ScriptedChatModel(script)
    prompt = ChatPromptTemplate.from_messages(
        [MessagesPlaceholder("history"), ("human", "{question}")]
    )
    with pytest.warns(DeprecationWarning, match="RunnableWithMessageHistory"):
        chain = RunnableWithMessageHistory(
            prompt | model,
            factory,
            input_messages_key="question",
            history_messages_key="history",
            **options,
        )
    return model, chain


@every_form
async def test_a_classic_chain_remembers(
    server: ReferenceServer, client: AsyncConvSyncClient, form: str
) -> None:
    """RunnableWithMessageHistory in every form of a call; streams end in a chunk."""
    model, chain = remembering(
        ["Con gusto", "De nada"], lambda phone: ConvSyncChatMessageHistory(phone, client=client)
    )

    for question in ("Una pizza", "Gracias"):
        config = {"configurable": {"session_id": PHONE}}
        await perform(form, chain, {"question": question}, config)

    assert words(server) == [
        ("user", "Una pizza"),
        ("bot", "Con gusto"),
        ("user", "Gracias"),
        ("bot", "De nada"),
    ]
    assert [message.content for message in model.calls[1]] == [
        "Hola",
        "¡Hola! Bienvenido",
        "Una pizza",
        "Con gusto",
        "Gracias",
    ]


LIMIT = "Agent stopped due to max iterations."
WORDS = [{"type": "web_search_call", "id": "1"}, {"type": "text", "text": "Claro."}]


@pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory")
@pytest.mark.parametrize(("output", "recorded"), [(WORDS, ["Claro."]), (LIMIT, [])])
@sync_and_async
async def test_a_classic_agents_output_is_recorded_as_words(
    server: ReferenceServer, client: Client, mode: str, output: object, recorded: list[str]
) -> None:
    """``AgentExecutor`` returns blocks as they are, and LangChain's words at a limit."""
    executor: Runnable[Any, Any] = RunnableLambda(lambda given: {**given, "output": output})
    chain = RunnableWithMessageHistory(
        executor,
        lambda session_id: ConvSyncChatMessageHistory(session_id, client=client),
        input_messages_key="input",
    )

    await invoke(mode, chain, {"input": "Hola"}, {"configurable": {"session_id": PHONE}})

    assert [text for _, text in words(server)] == ["Hola", *recorded]


@every_form
async def test_a_classic_chain_takes_two_keys(
    server: ReferenceServer, client: AsyncConvSyncClient, form: str
) -> None:
    """The customer and the bot."""
    keys = [
        ConfigurableFieldSpec(id=name, annotation=str, name=name, default="", is_shared=True)
        for name in ("phone", "bot")
    ]
    _, chain = remembering(
        ["Con gusto"],
        lambda phone, bot: ConvSyncChatMessageHistory(phone, bot_id=bot, client=client),
        history_factory_config=keys,
    )

    config: Any = {"configurable": {"phone": PHONE, "bot": BOT}}
    await perform(form, chain, {"question": "Una pizza"}, config)

    assert words(server) == [("user", "Una pizza"), ("bot", "Con gusto")]


async def test_a_classic_chain_that_cannot_write_is_noticed(
    server: ReferenceServer, client: AsyncConvSyncClient
) -> None:
    """LangChain swallows the error; ``on_error`` does not."""
    errors: list[Exception] = []

    def answer(_: Any) -> str:
        server.stop()
        return "Con gusto"

    _, chain = remembering(
        [answer],
        lambda phone: ConvSyncChatMessageHistory(phone, client=client, on_error=errors.append),
    )

    config: Any = {"configurable": {"session_id": PHONE}}
    reply = await chain.ainvoke({"question": "Una pizza"}, config)

    assert reply.content == "Con gusto"
    assert len(errors) == 1
    assert isinstance(errors[0], APIConnectionError)
