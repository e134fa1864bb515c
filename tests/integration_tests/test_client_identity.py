"""Whose data an answer is: another tenant's never gets through, and no text climbs in a URL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from langchain_convsync.client import Api
from langchain_convsync.errors import (
    ConfigurationError,
    ConversationMismatchError,
    InvalidPhoneNumberError,
)
from langchain_convsync.settings import CallTarget, ServerProfile
from langchain_convsync.telemetry import counted
from tests.client_calls import (
    CONVERSATION,
    PHONE,
    SESSION,
    assert_says_nothing_private,
    conversation,
    every_call,
    post,
    put,
    read,
)
from tests.faulty_server import FaultyServer, Perform, answers, sync_and_async

KNOWN = CallTarget(subdomain="restaurant-abc", bot_id="bot123")


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        running.plays(answers(CONVERSATION))
        yield running


@pytest.fixture
def api(server: FaultyServer) -> Iterator[Api]:
    built = Api(server.url, max_retries=0)
    yield built
    built.close()


@sync_and_async
@every_call
@pytest.mark.parametrize(
    ("fields", "what"),
    [({"subDomain": "restaurant-xyz"}, "tenant"), ({"botId": "bot999"}, "bot")],
)
def test_another_tenant_s_answer_is_dropped(
    *,
    fields: dict[str, str],
    what: str,
    call: Any,
    api: Api,
    server: FaultyServer,
    perform: Perform[Any],
) -> None:
    """The caller knows tenant and bot; an answer of others is an alarm, and is counted."""
    server.plays(answers(conversation(**fields)))
    before = counted("mismatched_answers", field=what)

    with pytest.raises(ConversationMismatchError, match=what) as told:
        perform(call(api, target=KNOWN))

    assert_says_nothing_private(told.value)
    assert counted("mismatched_answers", field=what) == before + 1


@sync_and_async
@pytest.mark.parametrize(
    "user_id", ["+51999999990", "51999999990@c.us", "user_1", "", "51999999999@lid"]
)
def test_another_customer_s_conversation_is_dropped(
    user_id: str, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """``userId`` must be the subscriber who was asked for."""
    server.plays(answers(conversation(userId=user_id)))

    with pytest.raises(ConversationMismatchError, match="customer") as told:
        perform(read(api))

    assert_says_nothing_private(told.value)


@sync_and_async
@pytest.mark.parametrize("user_id", [PHONE, "51999999999", "51999999999@c.us", "+51 999 999 999"])
def test_a_customer_may_be_spelt_in_any_way(
    user_id: str, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Subscribers are compared, not texts."""
    server.plays(answers(conversation(userId=user_id)))

    assert perform(read(api)).user_id == user_id


@sync_and_async
@pytest.mark.parametrize("user_id", [PHONE, "38000000000010@lid"])
def test_a_customer_asked_for_by_lid_may_be_answered_with_the_linked_number(
    user_id: str, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Once a server knows both, it may answer with either; another LID is somebody else."""
    server.plays(answers(conversation(userId=user_id)))

    assert perform(api.get_conversation("38000000000010@lid")).user_id == user_id
    server.plays(answers(conversation(userId="38000000000011@lid")))
    with pytest.raises(ConversationMismatchError, match="customer"):
        perform(api.get_conversation("38000000000010@lid"))


@sync_and_async
@pytest.mark.parametrize("call", [post, put])
def test_another_session_s_answer_to_a_write_is_dropped(
    call: Any, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Without a target, the session that was written to is still compared."""
    server.plays(answers(conversation(sessionId="bot123_51999999990_1_x")))

    with pytest.raises(ConversationMismatchError, match="session") as told:
        perform(call(api))

    assert_says_nothing_private(told.value)


@sync_and_async
def test_the_bot_that_was_asked_for_must_answer(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """A server that ignores ``botId`` answers with the newest conversation of any bot."""
    server.plays(answers(conversation(botId="bot999")))

    for flow in (api.get_conversation(PHONE, "bot123"), api.lookup_tenant(PHONE, "bot123")):
        with pytest.raises(ConversationMismatchError, match="bot"):
            perform(flow)


@sync_and_async
def test_hexadecimal_ids_are_the_same_in_either_case(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Databases spell their ids in lower case; other ids are compared as they are."""
    server.plays(answers(conversation(botId="67890abcdef0")), answers(conversation(botId="bota")))

    perform(api.get_conversation(PHONE, "67890ABCDEF0"))
    with pytest.raises(ConversationMismatchError):
        perform(api.get_conversation(PHONE, "BOTA"))


@sync_and_async
def test_a_bot_and_a_target_that_disagree_are_refused(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Before anything is sent."""
    with pytest.raises(ConversationMismatchError, match="different bots"):
        perform(api.get_conversation(PHONE, "bot999", target=KNOWN))

    assert server.received == []


@sync_and_async
def test_a_known_bot_is_asked_for(api: Api, server: FaultyServer, perform: Perform[Any]) -> None:
    """The target narrows the look-up, too."""
    perform(read(api, target=KNOWN))

    assert server.received[0].target.endswith("?botId=bot123")


@sync_and_async
@pytest.mark.parametrize(
    ("session_id", "segment"),
    [
        ("a/b", "a%2Fb"),
        ("a?botId=x#y", "a%3FbotId%3Dx%23y"),
        ("%2e%2e", "%252e%252e"),
        ("a b&c=d;e", "a%20b%26c%3Dd%3Be"),
        ("...", "..."),
        ("sesión", "sesi%C3%B3n"),
    ],
)
def test_an_odd_session_id_stays_one_segment(
    session_id: str, segment: str, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """It cannot climb, end the path or add to it."""
    server.plays(answers(conversation(sessionId=session_id)))

    perform(api.add_message(session_id, "user", "Hola"))

    (request,) = server.received
    assert request.target == f"/api/v1/whatsapp/agent/conversations/{segment}/messages"


@sync_and_async
@pytest.mark.parametrize("session_id", ["", ".", "..", "a\r\nX-Evil: 1", "a\0b", "\ud800"])
def test_a_session_id_that_no_encoding_saves_is_refused(
    session_id: str, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Before anything is sent."""
    for flow in (
        api.add_message(session_id, "user", "Hola"),
        api.sync_conversation(session_id, {"step": "x"}),
    ):
        with pytest.raises(ConfigurationError):
            perform(flow)

    assert server.received == []


@sync_and_async
@pytest.mark.parametrize("phone_number", ["", "..", "a/b", "?x#y", "%2B51999999999", "+51 9\r\n"])
def test_what_is_no_phone_number_is_never_asked_for(
    phone_number: str, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Before anything is sent."""
    for flow in (api.lookup_tenant(phone_number), api.get_conversation(phone_number)):
        with pytest.raises(InvalidPhoneNumberError):
            perform(flow)

    assert server.received == []


@sync_and_async
@pytest.mark.parametrize(
    ("bot_id", "query"),
    [("bot 1&x=y#z", "?botId=bot%201%26x%3Dy%23z"), ("a+b/é", "?botId=a%2Bb%2F%C3%A9"), ("", "")],
)
def test_a_bot_id_stays_one_parameter(
    bot_id: str, query: str, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """It cannot add a parameter; an empty one is none."""
    server.plays(answers(conversation(botId=bot_id)))

    perform(api.get_conversation(PHONE, bot_id))

    assert server.received[0].target.partition("51999999999")[2] == query


@sync_and_async
@pytest.mark.parametrize(
    ("style", "segment"),
    [("e164", "%2B51999999999"), ("digits", "51999999999"), ("jid", "51999999999%40c.us")],
)
def test_a_phone_number_is_sent_as_the_server_stores_it(
    style: Any, segment: str, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Whatever way the caller spells it."""
    api = Api(server.url, profile=ServerProfile(phone_format=style, prefix="v2/whatsapp/"))

    for spelling in (PHONE, "0051 999-999-999", "51999999999:12@s.whatsapp.net"):
        perform(api.get_conversation(spelling))

    assert {request.target for request in server.received} == {
        f"/v2/whatsapp/lookup/conversation/{segment}"
    }
    api.close()


@sync_and_async
def test_a_key_is_picked_by_the_target(server: FaultyServer, perform: Perform[Any]) -> None:
    """One key per tenant: the callable sees what the caller knows."""
    asked: list[CallTarget] = []

    def key_for(target: CallTarget) -> str:
        asked.append(target)
        return f"key-of-{target.subdomain or 'anyone'}"

    api = Api(server.url, api_key=key_for)
    perform(read(api))
    perform(put(api, target=KNOWN))
    perform(post(api, target=KNOWN))

    assert [request.headers["authorization"] for request in server.received] == [
        "Bearer key-of-anyone",
        "Bearer key-of-restaurant-abc",
        "Bearer key-of-restaurant-abc",
    ]
    assert asked == [CallTarget(), KNOWN, KNOWN]
    api.close()


@sync_and_async
def test_no_key_means_no_header(api: Api, server: FaultyServer, perform: Perform[Any]) -> None:
    """Not an empty one."""
    perform(api.get_conversation(PHONE))

    assert "authorization" not in server.received[0].headers
    assert SESSION not in server.received[0].target
