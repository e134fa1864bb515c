"""The tools: what a model can name, what it cannot, and what a turn makes of a call."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_tests.unit_tests import ToolsUnitTests
from langgraph.graph import MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from langchain_convsync import telemetry
from langchain_convsync.client import ConvSyncClient
from langchain_convsync.errors import ConfigurationError, InvalidPhoneNumberError
from langchain_convsync.models import (
    Conversation,
    ConversationMessage,
    StateUpdate,
    TenantInfo,
)
from langchain_convsync.settings import ServerProfile
from langchain_convsync.surfaces.context import ConversationRef, in_conversation
from langchain_convsync.testing import ScriptedChatModel
from langchain_convsync.tools import (
    AddMessage,
    ConvSyncToolkit,
    GetConversation,
    LookupTenant,
    SyncState,
)
from tests.surfaces import (
    BOT,
    PHONE,
    TENANT,
    calls,
    conversation,
    every_form,
    in_turn,
    invoke,
    perform,
    sync_and_async,
    unreachable,
)

OTHER = "+51988888888"
KINDS: list[type[BaseTool]] = [LookupTenant, GetConversation, SyncState, AddMessage]
EXAMPLES: dict[type[BaseTool], dict[str, Any]] = {
    LookupTenant: {},
    GetConversation: {"last_messages": 5},
    SyncState: {"intent": "payment", "step": "confirming", "context": {"total": 50.0}},
    AddMessage: {"content": "Su pedido salió"},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


class _Standards(ToolsUnitTests):
    kind: type[BaseTool]

    @property
    def tool_constructor(self) -> type[BaseTool]:
        return self.kind

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"client": unreachable()}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return EXAMPLES[self.kind]

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"CONVSYNC_BASE_URL": "http://127.0.0.1:9"}, {}, {"handle_tool_error": True}


class TestLookupTenant(_Standards):
    kind = LookupTenant


class TestGetConversation(_Standards):
    kind = GetConversation


class TestSyncState(_Standards):
    kind = SyncState


class TestAddMessage(_Standards):
    kind = AddMessage


def tool_call(tool: BaseTool, **args: Any) -> ToolCall:
    return ToolCall(name=tool.name, args=args, id="call-1", type="tool_call")


async def ask(mode: str, kind: type[BaseTool], **args: Any) -> ToolMessage:
    """What the model gets back from a tool that nobody told its conversation."""
    tool = kind(client=unreachable())
    answer = await invoke(mode, tool, tool_call(tool, **args))
    assert isinstance(answer, ToolMessage)
    return answer


def test_the_toolkit_brings_the_tools_under_their_names() -> None:
    """Models, prompts and logs rely on the names."""
    tools = ConvSyncToolkit(unreachable()).get_tools()

    assert [tool.name for tool in tools] == [
        "lookup_tenant",
        "get_conversation",
        "sync_state",
        "add_message",
    ]


def test_a_toolkit_without_configuration_says_what_to_set() -> None:
    """The error names the argument and the variable, before any call."""
    with pytest.raises(ConfigurationError, match="CONVSYNC_BASE_URL"):
        ConvSyncToolkit()


@every_kind
def test_a_model_is_offered_no_identity(kind: type[BaseTool]) -> None:
    """No phone number, session, tenant, bot or injected value is in any schema."""
    offered = convert_to_openai_tool(kind(client=unreachable()))

    properties = offered["function"]["parameters"]["properties"]
    assert set(properties) <= {"last_messages", "intent", "step", "context", "content", "role"}


@every_kind
@pytest.mark.parametrize(
    "forged",
    [
        {"phone_number": OTHER},
        {"session_id": "bot_51988888888"},
        {"subdomain": "another"},
        {"tenant": "another"},
        {"bot_id": "another"},
        {"runtime": {"context": {"phone_number": OTHER}}},
        {"identity": OTHER},
        {"config": {"configurable": {"phone_number": OTHER}}},
        {"conversation": OTHER},
    ],
)
@sync_and_async
async def test_a_forged_argument_is_refused(
    kind: type[BaseTool], forged: dict[str, Any], mode: str
) -> None:
    """On the direct path too, where no agent filters what the model made up."""
    with in_turn() as record:
        answer = await ask(mode, kind, **EXAMPLES[kind], **forged)

    assert answer.status == "error"
    assert next(iter(forged)) in str(answer.content)
    assert OTHER not in str(answer.content)
    assert (record.update, record.added) == (StateUpdate(), [])


@every_kind
async def test_an_agent_passes_no_forged_argument(kind: type[BaseTool]) -> None:
    """Through the agent's own tool node the same values are refused as well."""
    tool = kind(client=unreachable())
    forged = {**EXAMPLES[kind], "phone_number": OTHER, "runtime": {"context": OTHER}}
    model = ScriptedChatModel([calls(tool.name, **forged), "Listo"])
    agent: Runnable[Any, Any] = create_agent(model, [tool])

    with in_turn() as record:
        result = await agent.ainvoke({"messages": [("user", "?")]})

    assert result["messages"][2].status == "error"
    assert (record.update, record.added) == (StateUpdate(), [])


@sync_and_async
async def test_inside_a_turn_the_tenant_is_known(mode: str) -> None:
    """The turn has read the conversation: no request is made."""
    with in_turn():
        answer = await ask(mode, LookupTenant)

    assert TENANT in str(answer.content)
    assert answer.artifact == TenantInfo(subdomain=TENANT, bot_id=BOT, session_id="")


@sync_and_async
async def test_inside_a_turn_the_conversation_is_told_with_what_was_decided(mode: str) -> None:
    """Reads see the conversation plus the record."""
    with in_turn() as record:
        record.decide(StateUpdate(intent="payment"))
        answer = await ask(mode, GetConversation, last_messages=1)

    told = json.loads(str(answer.content))
    assert told["intent"] == "payment"
    assert told["last_messages"] == [{"bot": "¡Hola! Bienvenido"}]
    assert isinstance(answer.artifact, Conversation)


@sync_and_async
async def test_a_model_is_told_no_phone_number(mode: str) -> None:
    """What it does not know it cannot repeat."""
    with in_turn():
        answer = await ask(mode, GetConversation)

    assert "999999999" not in str(answer.content)


@pytest.mark.parametrize("kind", [LookupTenant, GetConversation])
def test_an_artifact_names_no_customer(kind: type[BaseTool]) -> None:
    """Tracers export what a tool returns, and an agent's memory keeps it."""
    tool = kind(client=unreachable())
    with in_turn(conversation(whatsappName=f"Ana {PHONE}")):
        artifact = tool.invoke(tool_call(tool)).artifact

    told = artifact.model_dump_json()
    assert TENANT in told
    assert "999999999" not in told


@sync_and_async
async def test_inside_a_turn_a_state_is_recorded(mode: str) -> None:
    """The turn writes it once, when it commits."""
    with in_turn() as record:
        answer = await ask(mode, SyncState, **EXAMPLES[SyncState])

    decided = StateUpdate(intent="payment", step="confirming", context={"total": 50.0})
    assert record.update == answer.artifact == decided
    assert answer.content == "Noted: intent payment; step confirming; context total."


@sync_and_async
async def test_inside_a_turn_a_message_is_recorded(mode: str) -> None:
    """Besides the customer's own message and the reply."""
    with in_turn() as record:
        await ask(mode, AddMessage, content="Su pedido salió")

    assert record.added == [ConversationMessage(role="bot", content="Su pedido salió")]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({}, "at least one"),
        ({"context": {}}, "at least one"),
        ({"context": {"previousMessages": []}}, "previousMessages"),
        ({"context": {"lastUserMessage": "Hola"}}, "lastUserMessage"),
        ({"intent": ""}, "intent"),
        ({"step": 7}, "step"),
        ({"context": "total=50"}, "context"),
        ({"intent": "order", "is_active": False}, "is_active"),
    ],
)
def test_a_state_that_makes_no_sense_is_refused_in_words(args: dict[str, Any], told: str) -> None:
    """The model reads what to change; the history and the conversation's end are not its to set."""
    tool = SyncState(client=unreachable())

    with in_turn() as record:
        answer = tool.invoke(tool_call(tool, **args))

    assert answer.status == "error"
    assert told in answer.content
    assert not record.update


def test_a_model_chooses_among_the_intents_that_the_server_accepts() -> None:
    """It reads them in the schema, and in the refusal."""
    profile = ServerProfile(intents=frozenset({"menu", "order"}))
    tool = SyncState(client=ConvSyncClient("http://127.0.0.1:9", profile=profile))

    with in_turn() as record:
        answer = tool.invoke(tool_call(tool, intent="dance"))

    assert "'menu'" in answer.content
    assert not record.update


def offered(tool: BaseTool, argument: str) -> list[str] | None:
    """The names among which a model chooses, as a provider reads them; None where it is free."""
    schema = convert_to_openai_tool(tool)["function"]["parameters"]["properties"][argument]
    choices: list[dict[str, Any]] = schema.get("anyOf", [schema])
    return next((choice["enum"] for choice in choices if "enum" in choice), None)


def test_a_model_is_free_unless_it_is_given_a_choice() -> None:
    """Intents and steps are the tenant's own words."""
    tool = SyncState(client=unreachable())

    assert (offered(tool, "intent"), offered(tool, "step")) == (None, None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, ["menu", "order"]), ([], ["menu", "order"]), (["order"], ["order"])],
)
def test_the_profiles_intents_are_offered_unless_others_are_given(
    given: list[str] | None, expected: list[str]
) -> None:
    """A subset narrows the choice; an empty list gives none of its own."""
    client = ConvSyncClient(
        "http://127.0.0.1:9", profile=ServerProfile(intents=frozenset({"menu", "order"}))
    )

    tool = SyncState(client=client, intents=given)

    assert offered(tool, "intent") == expected


@pytest.mark.parametrize("argument", ["intent", "step"])
def test_a_choice_is_kept_to(argument: str) -> None:
    """What is not offered is refused, with what is."""
    tool = SyncState(client=unreachable(), intents=["order"], steps=["paying"])

    with in_turn() as record:
        refused = tool.invoke(tool_call(tool, **{argument: "dance"}))
        acquired = tool.invoke(tool_call(tool, intent="order", step="paying"))

    assert refused.status == "error"
    assert {"intent": "'order'", "step": "'paying'"}[argument] in refused.content
    assert acquired.status == "success"
    assert record.update == StateUpdate(intent="order", step="paying")


@pytest.mark.parametrize("argument", ["intent", "step", "context"])
def test_every_argument_is_described_to_the_model(argument: str) -> None:
    """With a choice and without."""
    for tool in (
        SyncState(client=unreachable()),
        SyncState(client=unreachable(), intents=["order"], steps=["paying"]),
    ):
        schema = convert_to_openai_tool(tool)["function"]["parameters"]["properties"][argument]
        assert len(schema["description"]) > 10


def test_an_intent_that_the_server_refuses_is_not_offered() -> None:
    """The model would choose it, and the write would fail."""
    client = ConvSyncClient(
        "http://127.0.0.1:9", profile=ServerProfile(intents=frozenset({"menu", "order"}))
    )

    with pytest.raises(ConfigurationError, match="dance would be refused"):
        ConvSyncToolkit(client, intents=["menu", "dance"])


@every_kind
@sync_and_async
async def test_a_run_of_no_conversation_is_told_to_the_model(
    kind: type[BaseTool], mode: str
) -> None:
    """The agent goes on, and the failure is counted."""
    before = telemetry.counted("tool_failures", error="UnknownConversationError")

    answer = await ask(mode, kind, **EXAMPLES[kind])

    assert answer.status == "error"
    assert "no conversation" in str(answer.content)
    assert telemetry.counted("tool_failures", error="UnknownConversationError") == before + 1


@every_kind
@sync_and_async
async def test_a_server_that_is_down_is_told_to_the_model(kind: type[BaseTool], mode: str) -> None:
    """In words it can act on: no address, no traceback, no phone number."""
    with in_conversation(PHONE):
        answer = await ask(mode, kind, **EXAMPLES[kind])

    assert (answer.status, answer.artifact) == ("error", None)
    assert answer.content == (
        "The server cannot be reached right now. Go on without; you may try once more later."
    )


def answering(status: int) -> ConvSyncClient:
    """A client of a server that tells the conversation, and answers writes with one status."""

    def serve(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            data = conversation().model_dump(by_alias=True, mode="json")
            return httpx.Response(200, json={"type": "1", "message": "", "data": data})
        return httpx.Response(status, json={"type": "3", "message": PHONE, "data": None})

    transport = httpx.MockTransport(serve)
    return ConvSyncClient(
        "http://127.0.0.1:9", http_client=httpx.Client(transport=transport), max_retries=0
    )


@pytest.mark.parametrize(
    ("status", "context", "told"),
    [
        (400, {"total": 50}, "Change them"),
        (403, {"total": 50}, "Do not try again"),
        (404, {"total": 50}, "no open conversation"),
        (429, {"total": 50}, "once more later"),
        (500, {"total": 50}, "once more later"),
        (200, {"total": float("nan")}, "cannot be sent"),
    ],
)
@sync_and_async
async def test_a_write_that_fails_is_told_in_words_to_act_on(
    status: int, context: dict[str, Any], told: str, mode: str
) -> None:
    """Whether to change something, to try again, or to go on without."""
    tool = SyncState(client=answering(status), conversation=PHONE)

    answer = await invoke(mode, tool, tool_call(tool, context=context))

    assert answer.status == "error"
    assert told in answer.content
    assert "999999999" not in answer.content


@sync_and_async
async def test_a_tool_of_another_conversation_is_refused_inside_a_turn(mode: str) -> None:
    """The turn's customer is the only one."""
    tool = SyncState(client=unreachable(), conversation=OTHER)

    with in_turn() as record:
        answer = await invoke(mode, tool, tool_call(tool, intent="order"))

    assert answer.status == "error"
    assert not record.update


@sync_and_async
async def test_a_graphs_context_names_the_conversation(mode: str) -> None:
    """``context=`` reaches the tools of agents and of graphs of one's own."""
    tool = GetConversation(client=unreachable())
    graph = StateGraph(MessagesState, context_schema=ConversationRef)
    graph.add_node("tools", ToolNode([tool]))
    graph.set_entry_point("tools")
    compiled: Runnable[Any, Any] = graph.compile()

    state, context = {"messages": [calls(tool.name)]}, ConversationRef(PHONE)
    if mode == "sync":
        result = compiled.invoke(state, context=context)
    else:
        result = await compiled.ainvoke(state, context=context)

    assert "cannot be reached" in result["messages"][-1].content  # so it knew whom to ask about


@dataclass
class Shop:
    """A context schema of the user's own."""

    customer: str


@every_kind
@every_form
async def test_an_agents_own_context_can_name_the_conversation(
    kind: type[BaseTool], form: str
) -> None:
    """``identity=`` makes a conversation of it, in every form of a call."""
    tool = kind(client=unreachable(), identity=lambda shop: shop.customer)
    model = ScriptedChatModel([calls(tool.name, **EXAMPLES[kind]), "Listo"])
    agent: Runnable[Any, Any] = create_agent(model, [tool], context_schema=Shop)

    await perform(form, agent, {"messages": [("user", "?")]}, {}, context=Shop(PHONE))

    told = next(message for message in model.calls[1] if isinstance(message, ToolMessage))
    assert "cannot be reached" in str(told.content)  # so it knew whom to ask about


@sync_and_async
async def test_an_agents_own_context_and_its_block_must_agree(mode: str) -> None:
    """Two sources that disagree are refused, and nothing is read or written."""
    tool = GetConversation(client=unreachable(), identity=lambda shop: shop.customer)
    model = ScriptedChatModel([calls(tool.name), "Listo"])
    agent: Runnable[Any, Any] = create_agent(model, [tool], context_schema=Shop)

    with in_conversation(OTHER):
        form = "invoke" if mode == "sync" else "ainvoke"
        await perform(form, agent, {"messages": [("user", "?")]}, {}, context=Shop(PHONE))

    told = next(message for message in model.calls[1] if isinstance(message, ToolMessage))
    assert "Refused" in str(told.content)


def test_a_toolkit_hands_its_settings_to_its_tools() -> None:
    """Identity to all, intents and steps to the one that takes them."""

    def identity(_context: object) -> str:
        return PHONE

    toolkit = ConvSyncToolkit(
        unreachable(), identity=identity, intents=["menu", "order"], steps=["paying"]
    )
    tools = {tool.name: tool for tool in toolkit.get_tools()}

    assert all(tool.identity is identity for tool in tools.values())  # type: ignore[attr-defined]  # ours
    assert offered(tools["sync_state"], "intent") == ["menu", "order"]
    assert offered(tools["sync_state"], "step") == ["paying"]


@pytest.mark.parametrize("make", [ConvSyncToolkit, LookupTenant, SyncState])
def test_a_conversation_that_names_no_customer_is_refused_at_once(
    make: Callable[..., object],
) -> None:
    """Not at the first run, and not to a model that can do nothing about it."""
    with pytest.raises(InvalidPhoneNumberError):
        make(client=unreachable(), conversation="abc123")


def test_any_conversation_has_to_be_allowed() -> None:
    """Only then a phone number is in the schemas."""
    tools = ConvSyncToolkit(unreachable(), allow_any_conversation=True).get_tools()

    assert all("phone_number" in tool.args for tool in tools)


@sync_and_async
async def test_an_allowed_phone_number_never_leaves_the_turn(mode: str) -> None:
    """What a run is pinned to wins, even in a notebook."""
    tool = SyncState(client=unreachable(), allow_any_conversation=True)

    with in_turn() as record:
        other = await invoke(mode, tool, tool_call(tool, intent="order", phone_number=OTHER))
        same = await invoke(mode, tool, tool_call(tool, intent="menu", phone_number=PHONE))

    assert (other.status, same.status) == ("error", "success")
    assert record.update == StateUpdate(intent="menu")


def test_an_allowed_phone_number_must_be_one() -> None:
    """The model learns the form."""
    tool = GetConversation(client=unreachable(), allow_any_conversation=True)

    answer = tool.invoke(tool_call(tool, phone_number="../tenant"))

    assert answer.status == "error"
    assert "country code" in answer.content


def test_a_context_that_is_too_large_is_told_by_its_keys() -> None:
    """A model's window is not filled with stored data."""
    with in_turn(conversation(context={"menu": "x" * 10_000})):
        answer = GetConversation(client=unreachable()).invoke({})

    assert json.loads(answer)["context_keys"] == ["menu"]


@every_kind
def test_a_tool_shows_no_customer(kind: type[BaseTool]) -> None:
    """Reprs and dumps end up in logs and traces."""
    tool = kind(client=unreachable(), conversation=PHONE)

    assert "999999999" not in f"{tool!r} {tool.model_dump()}"
