"""A model that passes anything to its tools: a message back, and no other conversation touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import ToolCall, ToolMessage

from langchain_convsync import (
    ConvSyncToolkit,
    in_conversation,
)
from langchain_convsync.models import Conversation
from langchain_convsync.testing import ReferenceServer
from tests.hostile import lines, phones, values, words
from tests.surfaces import conversation, in_turn, invoke, unreachable

CUSTOMER, OTHER = "+51999999999", "+51988888888"
names = st.sampled_from(["lookup_tenant", "get_conversation", "sync_state", "add_message"])
INJECTED = [
    *("phone_number", "session_id", "subdomain", "bot_id", "runtime", "config", "store", "self"),
    *("args", "kwargs", "callbacks", "run_manager", "identity", "conversation", "tool_call_id"),
]
#: Identities and injected values that no tool has, beside arguments that some have.
forged = st.dictionaries(
    st.one_of(
        st.sampled_from(INJECTED),
        lines,
    ),
    st.one_of(st.just(OTHER), phones, values),
    max_size=2,
)
arguments = st.fixed_dictionaries(
    {},
    optional={
        "intent": st.one_of(lines, values),
        "step": st.one_of(lines, values),
        "context": st.one_of(st.dictionaries(lines, values, max_size=3), values),
        "content": st.one_of(words, values),
        "role": st.one_of(st.sampled_from(["user", "bot", "system"]), values),
        "last_messages": st.one_of(st.integers(-1, 60), values),
    },
)
FITTING = {
    "lookup_tenant": set[str](),
    "get_conversation": {"last_messages"},
    "sync_state": {"intent", "step", "context"},
    "add_message": {"content", "role"},
}
calls = st.tuples(names, arguments, st.booleans(), forged).map(
    lambda c: (c[0], {**{k: v for k, v in c[1].items() if k in FITTING[c[0]] or c[2]}, **c[3]})
)


@pytest.fixture(scope="module")
def server() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        for customer, tenant in ((CUSTOMER, "restaurant-abc"), (OTHER, "restaurant-xyz")):
            running.create_conversation(
                phone_number=customer, subdomain=tenant, bot_id=f"bot-{tenant[-3:]}"
            )
        yield running


@given(calls, st.sampled_from(["sync", "async"]))
@settings(max_examples=150)
async def test_any_arguments_are_answered_and_reach_no_other_customer(
    server: ReferenceServer, call: tuple[str, dict[str, Any]], mode: str
) -> None:
    """On the direct path, where no agent filters what the model made up."""
    before = server.conversation(OTHER)
    name, args = call
    async with server.async_client(max_retries=0) as client:
        tools = {tool.name: tool for tool in ConvSyncToolkit(client).get_tools()}
        with in_conversation(CUSTOMER):
            answer = await invoke(
                mode, tools[name], ToolCall(name=name, args=args, id="1", type="tool_call")
            )

    assert isinstance(answer, ToolMessage)
    assert answer.status == "error" or set(args) <= FITTING[name]
    assert "Traceback" not in str(answer.content)
    assert OTHER not in str(answer.content)
    assert server.conversation(OTHER) == before


@given(calls)
@settings(max_examples=150)
def test_whatever_is_recorded_in_a_turn_can_be_written(call: tuple[str, dict[str, Any]]) -> None:
    """A decision that no JSON can carry would fail the commit of the whole turn."""
    name, args = call
    tools = {tool.name: tool for tool in ConvSyncToolkit(unreachable()).get_tools()}

    with in_turn(conversation()) as record:
        answer = tools[name].invoke(ToolCall(name=name, args=args, id="1", type="tool_call"))
        seen = record.present()

    assert isinstance(answer, ToolMessage)
    assert answer.status == "error" or set(args) <= FITTING[name]
    assert Conversation.model_validate_json(seen.model_dump_json(by_alias=True)) is not None
    assert record.update.model_dump_json().encode()
    for message in record.added:
        assert message.model_dump_json().encode()
