"""Every LangChain surface on its own, without a runner: real HTTP, both colours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import BaseTool, tool
from langchain_core.tracers import BaseTracer, Run
from langchain_tests.integration_tests import ToolsIntegrationTests
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from langchain_convsync.callbacks import AsyncConvSyncCallbackHandler, ConvSyncCallbackHandler
from langchain_convsync.chat_history import ConvSyncChatMessageHistory
from langchain_convsync.client import AsyncConvSyncClient, ConvSyncClient
from langchain_convsync.context import ConversationRef, in_conversation
from langchain_convsync.errors import (
    APIConnectionError,
    ConversationMismatchError,
    ConversationNotFoundError,
)
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.models import (
    Conversation,
    InboundEvent,
    PartialConversation,
    StateUpdate,
    TenantInfo,
)
from langchain_convsync.server.store import UnknownSessionError
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.tools import (
    AddMessage,
    ConvSyncToolkit,
    GetConversation,
    LookupTenant,
    SyncState,
)
from langchain_convsync.turns import Turn, TurnRunner
from tests.surfaces import (
    BOT,
    HISTORY,
    PHONE,
    TENANT,
    both_colours,
    calls,
    every_form,
    invoke,
    perform,
)

Client = ConvSyncClient | AsyncConvSyncClient
Handler = ConvSyncCallbackHandler | AsyncConvSyncCallbackHandler
every_handler = pytest.mark.parametrize(
    "kind", [ConvSyncCallbackHandler, AsyncConvSyncCallbackHandler]
)
PIZZA: dict[str, Any] = {"messages": [("user", "Una pizza")]}
THREAD: Any = {"configurable": {"thread_id": "1"}}


@pytest.fixture(scope="module")
def reference() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        yield running


@pytest.fixture
def server(reference: ReferenceServer) -> Iterator[ReferenceServer]:
    """The documented API with the document's conversation in it, the only one of this bot."""
    created = reference.create_conversation(
        phone_number=PHONE,
        subdomain=TENANT,
        bot_id=BOT,
        intent="order",
        step="selecting",
        context={"orderTotal": 25.0, "previousMessages": HISTORY},
    )
    reference.requests.clear()
    yield reference.start()
    with suppress(UnknownSessionError):  # the test let it expire
        reference.expire(created.session_id)


@pytest.fixture
async def client(server: ReferenceServer) -> AsyncIterator[AsyncConvSyncClient]:
    """One client for both colours, closed in the test's own event loop."""
    async with AsyncConvSyncClient(server.base_url, max_retries=0) as opened:
        yield opened


def words(server: ReferenceServer) -> list[tuple[str, str]]:
    """What the server has recorded beyond the history it began with."""
    messages = server.conversation(PHONE).messages[len(HISTORY) :]
    return [(message.role, message.content) for message in messages]


def state(server: ReferenceServer) -> tuple[str | None, str | None]:
    found = server.conversation(PHONE)
    return found.current_intent, found.current_step


def requests(server: ReferenceServer) -> list[str]:
    """What went over the wire."""
    return [request.method for request in server.requests]


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


@both_colours
async def test_the_tools_serve_the_conversation_of_their_run(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """Three questions and a note, each with the typed object behind it."""
    tenant, get, sync, add = ConvSyncToolkit(client).get_tools()

    with in_conversation(PHONE):
        answers: list[ToolMessage] = [
            await invoke(colour, tenant, call(tenant)),
            await invoke(colour, get, call(get)),
            await invoke(colour, sync, call(sync, intent="payment", context={"paid": True})),
            await invoke(colour, add, call(add, content="Un momento")),
        ]

    assert [type(answer.artifact) for answer in answers[:3]] == [
        TenantInfo,
        Conversation,
        PartialConversation,
    ]
    assert state(server) == ("payment", "selecting")
    assert server.conversation(PHONE).context["orderTotal"] == 25.0
    assert words(server) == [("bot", "Un momento")]


@both_colours
async def test_an_agent_uses_the_tools(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """The model names what it decided, and never whom it serves."""
    script: list[Any] = [calls("get_conversation"), calls("sync_state", step="paying"), "Listo"]
    agent: Runnable[Any, Any] = create_agent(
        ScriptedChatModel(script), ConvSyncToolkit(client, conversation=PHONE).get_tools()
    )

    await invoke(colour, agent, PIZZA)

    assert state(server) == ("order", "paying")


@both_colours
async def test_any_conversation_can_be_allowed(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """For notebooks and operations."""
    tool = SyncState(client=client, allow_any_conversation=True)

    await invoke(colour, tool, call(tool, intent="support", phone_number="+51 999 999 999"))

    assert state(server)[0] == "support"


@both_colours
async def test_a_customer_without_a_conversation_is_told_to_the_model(
    client: Client, colour: str
) -> None:
    """It goes on without, instead of trying again."""
    tool = GetConversation(client=client, conversation="+51988888888")

    answer = await invoke(colour, tool, call(tool))

    assert answer.status == "error"
    assert "no open conversation" in answer.content


@both_colours
async def test_a_tool_of_another_tenant_writes_nothing(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """A reference that knows its tenant holds every answer to it."""
    ref = ConversationRef(PHONE, subdomain="another")
    tool = SyncState(client=client, conversation=ref)

    answer = await invoke(colour, tool, call(tool, intent="payment"))

    assert "Refused" in answer.content
    assert requests(server) == ["GET"]


async def add(colour: str, history: ConvSyncChatMessageHistory, *messages: BaseMessage) -> None:
    if colour == "sync":
        history.add_messages(messages)
    else:
        await history.aadd_messages(messages)


async def read(colour: str, history: ConvSyncChatMessageHistory) -> list[BaseMessage]:
    return history.messages if colour == "sync" else await history.aget_messages()


@both_colours
async def test_a_history_is_read_and_written_in_order(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """The same words twice are two messages."""
    history = ConvSyncChatMessageHistory(PHONE, client=client)

    await add(colour, history, HumanMessage("sí"), AIMessage("¿Seguro?"), HumanMessage("sí"))

    assert words(server) == [("user", "sí"), ("bot", "¿Seguro?"), ("user", "sí")]
    assert [message.content for message in await read(colour, history)][2:] == [
        "sí",
        "¿Seguro?",
        "sí",
    ]


@both_colours
async def test_what_was_read_or_written_is_known_by_its_id(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """Whoever hands the whole list over again adds only what is new."""
    history = ConvSyncChatMessageHistory(PHONE, client=client)
    known = await read(colour, history)
    new = HumanMessage("Una pizza", id="1")

    await add(colour, history, *known, new)
    await add(colour, history, *known, new, AIMessage("Claro"))

    assert words(server) == [("user", "Una pizza"), ("bot", "Claro")]


@both_colours
async def test_after_a_failure_no_later_message_is_written(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """Out of order would be worse than missing; a second try goes on where the first stopped."""
    messages = [HumanMessage(text, id=text) for text in ("uno", "dos\ud800", "tres")]
    history = ConvSyncChatMessageHistory(PHONE, client=client)

    with pytest.raises(Exception, match="JSON"):
        await add(colour, history, *messages)
    messages[1].content = "dos"
    await add(colour, history, *messages)

    assert [text for _, text in words(server)] == ["uno", "dos", "tres"]
    assert history.last_error is None


@both_colours
async def test_a_history_may_be_a_window(client: Client, colour: str) -> None:
    """The last messages, not the first; and that is what is counted."""
    history = ConvSyncChatMessageHistory(PHONE, client=client, limit=1)

    assert len(history) == 1
    assert [message.content for message in await read(colour, history)] == ["¡Hola! Bienvenido"]


@both_colours
async def test_a_customer_without_a_conversation_has_no_empty_history(
    client: Client, colour: str
) -> None:
    """The webhook creates conversations; a missing one is a fault to be told."""
    history = ConvSyncChatMessageHistory("+51988888888", client=client)

    with pytest.raises(ConversationNotFoundError):
        await read(colour, history)


async def clear(colour: str, history: ConvSyncChatMessageHistory) -> None:
    if colour == "sync":
        history.clear()
    else:
        await history.aclear()


@both_colours
async def test_a_history_is_cleared_and_the_conversation_goes_on(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """Its state stays; old messages that are added again, as trimming does, are written again."""
    history = ConvSyncChatMessageHistory(PHONE, client=client)
    old = await read(colour, history)

    await clear(colour, history)
    emptied = await read(colour, history)
    await add(colour, history, *old[-1:])

    assert emptied == []
    assert [message.content for message in server.conversation(PHONE).messages] == [
        "¡Hola! Bienvenido"
    ]
    assert state(server) == ("order", "selecting")
    assert server.conversation(PHONE).context["orderTotal"] == 25.0


@pytest.mark.parametrize("quirks", ["observed", "context_replaced", "messages_not_stored"])
@both_colours
async def test_a_history_of_servers_in_the_wild_is_cleared(quirks: str, colour: str) -> None:
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
            await clear(colour, history)

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


async def test_a_classic_chain_that_cannot_write_is_heard(
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


@every_handler
@every_form
async def test_a_handler_syncs_once_per_run(
    server: ReferenceServer, client: Client, kind: type[Handler], form: str
) -> None:
    """One read, one write, whatever the form of the call and the colour of the handler."""
    decide: Runnable[Any, Any] = RunnableLambda(lambda _: {"intent": "payment", "step": "paying"})

    with in_conversation(PHONE):
        await perform(form, decide, "?", {"callbacks": [kind(client)]})

    assert state(server) == ("payment", "paying")
    assert requests(server) == ["GET", "PUT"]


@every_handler
@both_colours
async def test_a_handler_serves_many_runs(
    server: ReferenceServer, client: Client, kind: type[Handler], colour: str
) -> None:
    """An async handler under blocking runs gets a new event loop for each of them."""
    handler = kind(client, conversation=PHONE)
    decide: Runnable[Any, Any] = RunnableLambda(lambda value: {"intent": value})

    for intent in ("menu", "order", "payment"):
        await invoke(colour, decide, intent, {"callbacks": [handler]})

    assert state(server)[0] == "payment"
    assert server.conversation(PHONE).previous_intent == "order"


def test_a_handler_outlives_an_event_loop(server: ReferenceServer) -> None:
    """Scripts and notebooks start one after the other."""
    decide: Runnable[Any, Any] = RunnableLambda(lambda value: {"intent": value})

    with server.client() as client:
        handler = AsyncConvSyncCallbackHandler(client, conversation=PHONE)
        for intent in ("menu", "payment"):
            asyncio.run(decide.ainvoke(intent, {"callbacks": [handler]}))

    assert state(server)[0] == "payment"


@every_handler
async def test_concurrent_runs_of_many_customers_stay_apart(
    server: ReferenceServer, client: Client, kind: type[Handler]
) -> None:
    """One handler, thirty customers at once, each in a conversation of their own."""
    handler = kind(client)
    together = asyncio.Barrier(30)
    phones = [f"+519999900{number:02}" for number in range(30)]
    for phone in phones:
        server.create_conversation(phone_number=phone, subdomain=TENANT, bot_id=BOT)

    async def decide(intent: str) -> dict[str, str]:
        await together.wait()
        return {"intent": intent}

    async def answer(phone: str) -> None:
        with in_conversation(phone):
            await RunnableLambda(decide).ainvoke(phone[-2:], {"callbacks": [handler]})

    await asyncio.gather(*(answer(phone) for phone in phones))

    assert [server.conversation(phone).current_intent for phone in phones] == [
        phone[-2:] for phone in phones
    ]


@every_handler
async def test_a_decision_that_a_tool_has_written_is_not_written_again(
    server: ReferenceServer, client: Client, kind: type[Handler]
) -> None:
    """Toolkit and handler beside each other make one write."""
    model = ScriptedChatModel([calls("sync_state", intent="payment"), "Listo"])
    tools = [SyncState(client=client, conversation=PHONE)]
    agent: Runnable[Any, Any] = create_agent(model, tools)

    await agent.ainvoke(PIZZA, {"callbacks": [kind(client, conversation=PHONE)]})

    assert state(server)[0] == "payment"
    assert requests(server).count("PUT") == 1


def assisted(
    script: list[Any], client: Client, *, checkpointer: Any = None, **options: Any
) -> tuple[ScriptedChatModel, Runnable[Any, Any]]:
    """An agent with the middleware."""
    model = ScriptedChatModel(script)
    agent: Runnable[Any, Any] = create_agent(
        model, [], middleware=[ConvSyncMiddleware(client, **options)], checkpointer=checkpointer
    )
    return model, agent


@pytest.mark.parametrize("memory", ["stateless", "checkpointed"])
@both_colours
async def test_the_middleware_remembers_over_several_turns(
    server: ReferenceServer, client: Client, colour: str, memory: str
) -> None:
    """Each message reaches the model once and the server once, with or without a checkpointer."""
    saver = InMemorySaver() if memory == "checkpointed" else None
    model, agent = assisted(
        [calls("sync_state", intent="payment", step="paying"), "Con gusto", "Sí", "De nada"],
        client,
        checkpointer=saver,
    )

    with in_conversation(PHONE):
        for text in ("Una pizza", "¿Hay postre?", "Gracias"):
            await invoke(colour, agent, {"messages": [("user", text)]}, THREAD)

    assert words(server) == [
        ("user", "Una pizza"),
        ("bot", "Con gusto"),
        ("user", "¿Hay postre?"),
        ("bot", "Sí"),
        ("user", "Gracias"),
        ("bot", "De nada"),
    ]
    spoken = [each for each in model.calls[-1] if each.type in {"human", "ai"} and each.content]
    assert [message.content for message in spoken] == [
        "Hola",
        "¡Hola! Bienvenido",
        "Una pizza",
        "Con gusto",
        "¿Hay postre?",
        "Sí",
        "Gracias",
    ]
    assert state(server) == ("payment", "paying")
    assert requests(server).count("PUT") == 1


@both_colours
async def test_a_thread_that_was_condensed_is_not_told_or_written_again(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """Summaries take messages away; what is left of the old ones stays known."""
    model, agent = assisted(["Con gusto", "De nada"], client, checkpointer=InMemorySaver())

    with in_conversation(PHONE):
        first = await invoke(colour, agent, PIZZA, THREAD)
        gone = RemoveMessage(id=first["messages"][-1].id)
        agent.update_state(THREAD, {"messages": [gone]})  # type: ignore[attr-defined]  # a graph
        await invoke(colour, agent, {"messages": [("user", "Gracias")]}, THREAD)

    assert [text for _, text in words(server)] == ["Una pizza", "Con gusto", "Gracias", "De nada"]
    heard = [message.content for message in model.calls[-1] if message.type != "system"]
    assert heard == ["Hola", "¡Hola! Bienvenido", "Una pizza", "Gracias"]


@both_colours
async def test_the_middleware_pins_the_tenant_it_has_read(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """A customer of two tenants: the other one, newer meanwhile, gets nothing of this one."""
    errors: list[Exception] = []

    def answer(_: Any) -> AIMessage:
        server.create_conversation(phone_number=PHONE, subdomain="another", bot_id="bot-2")
        return calls("sync_state", intent="payment")

    _, agent = assisted([answer, "Con gusto"], client, on_error=errors.append)

    with in_conversation(PHONE):
        await invoke(colour, agent, PIZZA)

    assert server.conversation(PHONE, "bot-2").messages == []
    assert server.conversation(PHONE, "bot-2").current_intent == "idle"
    assert server.conversation(PHONE, BOT).current_intent == "payment"
    assert errors == []


@both_colours
async def test_a_conversation_that_expired_meanwhile_costs_no_answer(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """The customer is answered; the failure is handed on."""
    errors: list[Exception] = []

    def answer(_: Any) -> str:
        server.expire(server.conversation(PHONE).session_id)
        return "Con gusto"

    _, agent = assisted([answer], client, on_error=errors.append)

    with in_conversation(PHONE, bot_id=BOT):
        result = await invoke(colour, agent, PIZZA)

    assert result["messages"][-1].content == "Con gusto"
    assert [type(error) for error in errors] == [ConversationNotFoundError]


@both_colours
async def test_the_words_of_a_failed_run_are_written_by_the_next(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """A model error ends a run before anything is written; the thread keeps what was said."""
    _, agent = assisted([TimeoutError(), "Con gusto"], client, checkpointer=InMemorySaver())

    with in_conversation(PHONE):
        with pytest.raises(TimeoutError):
            await invoke(colour, agent, PIZZA, THREAD)
        await invoke(colour, agent, {"messages": [("user", "¿Hola?")]}, THREAD)

    assert words(server) == [("user", "Una pizza"), ("user", "¿Hola?"), ("bot", "Con gusto")]


@both_colours
async def test_a_message_without_text_is_not_recorded(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """The API refuses it, and with it would go the reply."""
    _, agent = assisted(["¿Qué deseas?"], client)

    with in_conversation(PHONE):
        await invoke(colour, agent, {"messages": [("user", "")]})

    assert words(server) == [("bot", "¿Qué deseas?")]


@both_colours
async def test_a_thread_of_another_tenant_is_refused(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """Its model never reads the first tenant's words."""
    model, agent = assisted(["Con gusto", "?"], client, checkpointer=InMemorySaver())
    server.create_conversation(phone_number=PHONE, subdomain="another", bot_id="bot-2")

    with in_conversation(PHONE, bot_id=BOT):
        await invoke(colour, agent, PIZZA, THREAD)
    with in_conversation(PHONE, bot_id="bot-2"), pytest.raises(ConversationMismatchError):
        await invoke(colour, agent, PIZZA, THREAD)

    assert len(model.calls) == 1


@both_colours
async def test_an_interrupted_run_is_written_when_it_went_on_to_its_end(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """What was decided before a human was asked is not forgotten, and nothing is written twice."""

    @tool
    def confirm() -> str:
        """Ask a human."""
        return str(interrupt("Really?"))

    model = ScriptedChatModel(
        [calls("sync_state", intent="payment"), calls("confirm"), "Confirmado"]
    )
    agent: Runnable[Any, Any] = create_agent(
        model, [confirm], middleware=[ConvSyncMiddleware(client)], checkpointer=InMemorySaver()
    )

    with in_conversation(PHONE):
        await invoke(colour, agent, PIZZA, THREAD)
        waiting = words(server)
        await invoke(colour, agent, Command(resume="yes"), THREAD)

    assert waiting == []
    assert words(server) == [("user", "Una pizza"), ("bot", "Confirmado")]
    assert state(server)[0] == "payment"


class Tracer(BaseTracer):
    """Keeps every run that a tracer would export."""

    def __init__(self) -> None:
        super().__init__()
        self.exported: list[str] = []

    def _persist_run(self, run: Run) -> None:
        self.exported.append(run.model_dump_json(fallback=repr))


@both_colours
async def test_a_tracer_is_told_no_phone_number(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """Neither in metadata, tags, names and threads, nor in what the agent keeps in its state."""
    tracer = Tracer()
    handler = ConvSyncCallbackHandler(client)
    script = [calls("sync_state", intent="payment"), "Con gusto"]
    _, agent = assisted(script, client, checkpointer=InMemorySaver())

    config: Any = {**THREAD, "callbacks": [tracer, handler]}
    with in_conversation(PHONE):
        await invoke(colour, agent, PIZZA, config)

    assert "Con gusto" in "".join(tracer.exported)
    assert "999999999" not in "".join(tracer.exported)


async def answered(colour: str, runner: TurnRunner, number: int, text: str) -> Turn:
    event = InboundEvent(event_id=f"evt-{number}", phone_number=PHONE, text=text)
    return runner.run(event) if colour == "sync" else await runner.arun(event)


@pytest.mark.parametrize("memory", ["stateless", "checkpointed"])
@both_colours
async def test_all_surfaces_together_inside_a_runner_write_once(
    server: ReferenceServer, client: Client, colour: str, memory: str
) -> None:
    """Tools, middleware and handler of one agent: one read, one message each way, one sync."""
    model = ScriptedChatModel(
        [calls("sync_state", intent="payment"), calls("get_conversation"), "Con gusto", "De nada"]
    )
    agent: Runnable[Any, Any] = create_agent(
        model,
        ConvSyncToolkit(client).get_tools(),
        middleware=[ConvSyncMiddleware(client)],
        checkpointer=InMemorySaver() if memory == "checkpointed" else None,
    ).with_config(callbacks=[ConvSyncCallbackHandler(client), AsyncConvSyncCallbackHandler(client)])
    runner = TurnRunner(agent, client=client, store=SQLiteEventStore(":memory:"))

    first = await answered(colour, runner, 1, "Una pizza")
    second = await answered(colour, runner, 2, "Gracias")
    await runner.store.aclose()

    assert (first.reply, first.state) == ("Con gusto", StateUpdate(intent="payment"))
    assert (second.reply, second.state) == ("De nada", StateUpdate())
    assert requests(server) == ["GET", "POST", "POST", "PUT", "GET", "POST", "POST"]
    assert words(server) == [
        ("user", "Una pizza"),
        ("bot", "Con gusto"),
        ("user", "Gracias"),
        ("bot", "De nada"),
    ]


@both_colours
async def test_a_classic_chain_inside_a_runner_reads_the_turns_history(
    server: ReferenceServer, client: Client, colour: str
) -> None:
    """The runner names the conversation to it by a handle, and writes what was said itself."""
    model = ScriptedChatModel(["Con gusto"])
    with pytest.warns(DeprecationWarning, match="RunnableWithMessageHistory"):
        chain = RunnableWithMessageHistory(
            model, lambda session_id: ConvSyncChatMessageHistory(session_id, client=client)
        )
    runner = TurnRunner(chain, client=client, store=SQLiteEventStore(":memory:"))

    await answered(colour, runner, 1, "Una pizza")
    await runner.store.aclose()

    heard = [message.content for message in model.calls[0]]
    assert heard == ["Hola", "¡Hola! Bienvenido", "Una pizza"]
    assert words(server) == [("user", "Una pizza"), ("bot", "Con gusto")]
    assert requests(server) == ["GET", "POST", "POST"]
