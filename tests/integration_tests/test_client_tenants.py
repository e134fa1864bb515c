"""Tenants are looked up once: remembered for an hour, and asked for by one of many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from langchain_convsync.client import Api
from langchain_convsync.client._caller import Pace
from langchain_convsync.errors import ConversationNotFoundError, ServerError
from langchain_convsync.models import TenantInfo
from tests.client_calls import CONVERSATION, PHONE, conversation, put, read
from tests.faulty_server import (
    FaultyServer,
    Perform,
    answers,
    sync_and_async,
)

BOT = "bot123"
NOT_FOUND = answers({"type": "3", "message": "No active conversation found", "data": None}, 404)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        running.plays(answers(CONVERSATION))
        yield running


@pytest.fixture
def api(server: FaultyServer) -> Iterator[Api]:
    built = Api(server.url, timeout=5.0, max_retries=0)
    yield built
    built.close()


@sync_and_async
def test_a_tenant_is_remembered_per_bot_and_customer(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """In any spelling; another bot or another customer is another question."""
    found = perform(api.lookup_tenant(PHONE, BOT))

    assert perform(api.lookup_tenant("51999999999@c.us", BOT)) == found
    assert len(server.received) == 1
    server.plays(answers(conversation(botId="bot999")), answers(conversation(userId="+5191111111")))
    perform(api.lookup_tenant(PHONE, "bot999"))
    perform(api.lookup_tenant("+5191111111", BOT))
    assert len(server.received) == 3


@sync_and_async
def test_a_bot_s_tenant_is_found_where_bots_are_told_apart(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """The documented tenant look-up takes no bot, so the conversation look-up is asked."""
    found = perform(api.lookup_tenant(PHONE, BOT))

    assert found == TenantInfo(
        subdomain="restaurant-abc",
        bot_id=BOT,
        session_id=CONVERSATION["data"]["sessionId"],
        is_active=True,
    )
    assert server.received[0].target == (
        "/api/v1/whatsapp/lookup/conversation/%2B51999999999?botId=bot123"
    )


@sync_and_async
def test_without_a_bot_nothing_is_remembered(
    api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """One number may talk to two tenants: remembering by number alone would mix them up."""
    for _ in range(2):
        perform(api.lookup_tenant(PHONE))

    assert len(server.received) == 2


@sync_and_async
def test_a_tenant_is_asked_for_again_after_an_hour(
    server: FaultyServer, perform: Perform[Any]
) -> None:
    """The document's own recommendation."""
    now = [0.0]
    api = Api(server.url, pace=Pace(clock=lambda: now[0]))

    for moment in (0.0, 3599.0, 3600.0):
        now[0] = moment
        perform(api.lookup_tenant(PHONE, BOT))

    assert len(server.received) == 2
    api.close()


@sync_and_async
def test_an_error_is_not_remembered(api: Api, server: FaultyServer, perform: Perform[Any]) -> None:
    """The next call asks again."""
    server.plays(NOT_FOUND, answers({}, 500), answers(CONVERSATION))

    with pytest.raises(ConversationNotFoundError):
        perform(api.lookup_tenant(PHONE, BOT))
    with pytest.raises(ServerError):
        perform(api.lookup_tenant(PHONE, BOT))

    assert perform(api.lookup_tenant(PHONE, BOT)).subdomain == "restaurant-abc"


@sync_and_async
@pytest.mark.parametrize(
    "later",
    [lambda api: read(api, bot_id=BOT), put],
    ids=["the conversation is gone", "the session is gone"],
)
def test_a_404_forgets_the_tenant(
    later: Any, api: Api, server: FaultyServer, perform: Perform[Any]
) -> None:
    """Whatever call learns it, by customer or by session."""
    perform(api.lookup_tenant(PHONE, BOT))
    server.plays(NOT_FOUND, answers(CONVERSATION))

    with pytest.raises(ConversationNotFoundError):
        perform(later(api))
    perform(api.lookup_tenant(PHONE, BOT))

    assert len(server.received) == 3


@sync_and_async
def test_a_tenant_can_be_forgotten(api: Api, server: FaultyServer, perform: Perform[Any]) -> None:
    """In any spelling of the number."""
    perform(api.lookup_tenant(PHONE, BOT))

    api.forget_tenant("51999999999@c.us", BOT)
    perform(api.lookup_tenant(PHONE, BOT))

    assert len(server.received) == 2
