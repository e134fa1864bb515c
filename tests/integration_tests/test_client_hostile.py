"""An API server that answers anything at all: an error of the tree, or one's own conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from pydantic_core import from_json

from langchain_convsync import ConvSyncClient, SQLiteEventStore, TurnRunner
from langchain_convsync._flow import Flow
from langchain_convsync.client import Api
from langchain_convsync.errors import ConvSyncError
from langchain_convsync.models import Conversation
from langchain_convsync.settings import CallTarget
from langchain_convsync.surfaces.messages import to_langchain
from langchain_convsync.surfaces.prompts import as_data
from tests.client_calls import CONVERSATION, PHONE, SESSION, assert_says_nothing_private, post, put
from tests.faulty_server import CLOSE, FaultyServer, Perform, awaited, blocking, sends
from tests.hostile import (
    encoded,
    entries,
    escaped,
    lines,
    objects_with,
    phones,
    raw_bodies,
    response,
    responses,
    values,
)
from tests.promises import awaited as awaited_turn
from tests.promises import blocking as blocking_turn
from tests.promises import echo, said

DATA: dict[str, Any] = CONVERSATION["data"]
TARGET = CallTarget(subdomain=DATA["subDomain"], bot_id=DATA["botId"])
#: The documented data with any of its fields replaced: left out, of another type, somebody else's.
conversations = objects_with(
    {
        "sessionId": st.just(SESSION),
        "userId": st.one_of(st.just(PHONE), phones),
        "botId": st.just(DATA["botId"]),
        "subDomain": st.just(DATA["subDomain"]),
        "currentIntent": lines,
        "context": st.fixed_dictionaries({"previousMessages": entries}),
        "metadata": st.dictionaries(lines, values, max_size=2),
        "isActive": st.booleans(),
        "expiresAt": st.sampled_from(["1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]),
    }
).map(lambda fields: {**DATA, **fields})
envelopes = st.fixed_dictionaries(
    {
        "type": st.one_of(st.just("1"), st.sampled_from(["3", 1, True, None, "2", {}]), lines),
        "message": st.one_of(lines, values),
        "data": st.one_of(conversations, values),
    }
)
bodies = st.one_of(envelopes.map(escaped), envelopes.map(encoded), raw_bodies)
documented = st.fixed_dictionaries(
    {"type": st.just("1"), "message": lines, "data": conversations}
).map(escaped)


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture(scope="module")
def api(server: FaultyServer) -> Iterator[Api]:
    built = Api(server.url, api_key="a-key", max_retries=0, timeout=5.0)
    yield built
    built.close()


def asked(api: Api, perform: Perform[Any], call: str) -> Any:
    """The answer, or None for an error of the tree that tells nothing private."""
    flows: dict[str, Callable[[], Flow[Any]]] = {
        "read": lambda: api.get_conversation(PHONE, target=TARGET),
        "tenant": lambda: api.lookup_tenant(PHONE),
        "post": lambda: post(api, target=TARGET),
        "put": lambda: put(api, target=TARGET),
    }
    try:
        return perform(flows[call]())
    except ConvSyncError as error:
        assert_says_nothing_private(error)
        return None


calls = st.sampled_from(["read", "tenant", "post", "put"])
modes = st.sampled_from([blocking, awaited])


@given(answer=responses(bodies), call=calls, perform=modes)
@settings(max_examples=150)
def test_no_answer_is_anything_but_an_error_or_ones_own(
    answer: bytes, call: str, perform: Perform[Any], api: Api, server: FaultyServer
) -> None:
    """Whatever its status, headers, encoding, length and body are."""
    server.plays(sends(answer, CLOSE))

    found = asked(api, perform, call)

    if found is not None and call != "tenant":  # that look-up was not told whose it is to be
        assert found.subdomain in {None, TARGET.subdomain}
        assert found.bot_id in {None, TARGET.bot_id}
        assert call == "read" or found.session_id == SESSION


@given(body=documented, perform=modes)
@settings(max_examples=100)
def test_a_conversation_of_any_content_can_be_read(
    body: bytes, perform: Perform[Any], api: Api, server: FaultyServer
) -> None:
    """Shown, given to a model, told by a tool: a history is a stranger's, too."""
    server.plays(sends(response(200, {}, body)))

    found = asked(api, perform, "read")

    if isinstance(found, Conversation):
        event("a conversation was read")
        messages = to_langchain(found.messages)
        assert {message.type for message in messages} <= {"human", "ai"}
        assert not any(getattr(message, "tool_calls", None) for message in messages)
        assert as_data(found, messages=10)
        assert SESSION not in f"{found!r}{found._repr_html_()}"
        assert Conversation.model_validate_json(found.model_dump_json(by_alias=True)) is not None


histories = st.fixed_dictionaries(
    {"previousMessages": st.one_of(entries, values)}, optional={"order": values, "name": lines}
)


@given(context=histories, metadata=st.dictionaries(lines, values, max_size=2), perform=modes)
@settings(max_examples=40)
def test_a_turn_is_answered_whatever_stands_in_its_conversation(
    context: dict[str, Any], metadata: dict[str, Any], perform: Perform[Any], server: FaultyServer
) -> None:
    """One odd entry must not keep the customer from being answered."""
    data = {**DATA, "context": context, "metadata": metadata}
    body = escaped({"type": "1", "message": "", "data": data})
    assume(is_json(body))
    server.plays(sends(response(200, {}, body)))
    store = SQLiteEventStore(":memory:")
    client = ConvSyncClient(server.url, max_retries=0)
    runner = TurnRunner(echo(), client=client, store=store, shutdown_timeout=0.0, max_errors=1)

    ask = blocking_turn if perform is blocking else awaited_turn
    turn = ask(runner, said("Hola"))

    client.close()
    store.close()
    assert (turn.status, turn.reply) == ("answered", "re: Hola")


def is_json(body: bytes) -> bool:
    """What is none is another test's."""
    try:
        from_json(body, allow_inf_nan=False)
    except ValueError:
        return False
    return True
