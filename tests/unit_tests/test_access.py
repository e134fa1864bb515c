"""The one way in which every surface reads and writes outside a turn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from langchain_convsync._flow import Flow, arun, run
from langchain_convsync.client import ConvSyncClient, api_of
from langchain_convsync.errors import APIError, ConversationMismatchError
from langchain_convsync.models import ConversationMessage, StateUpdate
from langchain_convsync.settings import ServerProfile
from langchain_convsync.surfaces.access import Access
from langchain_convsync.surfaces.context import ConversationRef, in_conversation
from tests.surfaces import BOT, HISTORY, PHONE, TENANT, conversation, sync_and_async

CUSTOMER = ConversationMessage(role="user", content="Una pizza")


class FakeServer:
    """Answers look-ups with one conversation and writes with success, and keeps the bodies."""

    def __init__(self, **fields: Any) -> None:
        self.found = conversation(**fields).model_dump(by_alias=True, mode="json")
        self.requests: list[tuple[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        self.requests.append((request.method, body))
        data = self.found if body is None else {"sessionId": self.found["sessionId"]}
        return httpx.Response(200, json={"type": "1", "message": "", "data": data})

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.requests]


@pytest.fixture(autouse=True)
def _customer() -> Iterator[None]:
    with in_conversation(PHONE):
        yield


def access(server: FakeServer, ref: ConversationRef | None = None, **profile: Any) -> Access:
    http = httpx.Client(transport=httpx.MockTransport(server))
    client = ConvSyncClient(
        "http://127.0.0.1:9", http_client=http, profile=ServerProfile(**profile)
    )
    return Access.to(api_of(client), ref)


async def perform(mode: str, flow: Flow[Any]) -> Any:
    return run(flow) if mode == "sync" else await arun(flow)


@pytest.mark.parametrize("active", [True, False])
@sync_and_async
async def test_a_conversation_stays_as_open_as_it_was(mode: str, active: bool) -> None:
    """Servers take a sync that does not say so for an order to reopen."""
    server = FakeServer(isActive=active)

    await perform(mode, access(server).decide(StateUpdate(intent="payment")))

    assert server.requests[1] == ("PUT", {"isActive": active, "intent": "payment"})


@sync_and_async
async def test_a_decision_may_open_or_close_a_conversation(mode: str) -> None:
    """Whoever says so means it."""
    server = FakeServer(isActive=False)

    await perform(mode, access(server).decide(StateUpdate(is_active=True)))

    assert server.requests[1] == ("PUT", {"isActive": True})


@sync_and_async
async def test_a_sync_never_carries_the_history(mode: str) -> None:
    """It is the server's, and a stale copy would undo what others wrote."""
    server = FakeServer()
    update = StateUpdate(context={"total": 50, "previousMessages": [], "lastUserMessage": "x"})

    await perform(mode, access(server).decide(update))

    assert server.requests[1] == ("PUT", {"isActive": True, "context": {"total": 50}})


@sync_and_async
async def test_one_operation_reads_once(mode: str) -> None:
    """Messages and state of one run share the read before them."""
    server = FakeServer()
    one = access(server)

    await perform(mode, one.append(CUSTOMER))
    await perform(mode, one.decide(StateUpdate(intent="payment")))

    assert server.methods == ["GET", "POST", "PUT"]


@sync_and_async
async def test_a_known_session_is_not_looked_up(mode: str) -> None:
    """A message goes straight to it."""
    server = FakeServer()
    ref = ConversationRef(PHONE, session_id=conversation().session_id)

    await perform(mode, access(server, ref).append(CUSTOMER))

    assert server.methods == ["POST"]


@sync_and_async
async def test_a_server_that_has_recorded_what_arrived_is_not_told_again(mode: str) -> None:
    """It would have the customer say everything twice; what is not there is written."""
    server = FakeServer(context={"previousMessages": [CUSTOMER.model_dump()]})
    one = access(server, records_inbound=True)

    await perform(mode, one.append(CUSTOMER))
    await perform(mode, one.append(ConversationMessage(role="bot", content="Claro")))
    await perform(mode, one.append(CUSTOMER))  # once more, and it stands there once

    posted = [{"role": "bot", "content": "Claro"}, {"role": "user", "content": "Una pizza"}]
    assert [body for method, body in server.requests if method == "POST"] == posted


@pytest.mark.parametrize("profile", [{"history": "sync"}, {"context_sync": "replace"}])
@sync_and_async
async def test_what_replaces_carries_what_a_read_just_showed(
    mode: str, profile: dict[str, Any]
) -> None:
    """One read before each, however many there are in an operation; it stays closed."""
    server = FakeServer(isActive=False)
    one = access(server, **profile)
    by_sync = profile == {"history": "sync"}
    for number in range(2):
        if by_sync:
            await perform(mode, one.append(CUSTOMER))
        else:
            await perform(mode, one.decide(StateUpdate(context={"number": number})))

    assert server.methods == ["GET", "PUT", "GET", "PUT"]
    body = server.requests[1][1]
    assert body["isActive"] is False
    assert len(body["context"]["previousMessages"]) == len(HISTORY) + by_sync
    assert body["context"].get("orderTotal") == (None if by_sync else 25.0)


@pytest.mark.parametrize(
    "ref",
    [
        ConversationRef(PHONE, bot_id="another"),
        ConversationRef(PHONE, subdomain="another"),
        ConversationRef(PHONE, session_id="another"),
    ],
)
@sync_and_async
async def test_nothing_is_written_to_another_conversation(mode: str, ref: ConversationRef) -> None:
    """What is known about the conversation binds every answer."""
    server = FakeServer()

    with pytest.raises(ConversationMismatchError):
        await perform(mode, access(server, ref).decide(StateUpdate(intent="payment")))

    assert "PUT" not in server.methods


@sync_and_async
async def test_the_tenant_seen_before_binds_what_follows(mode: str) -> None:
    """The same customer may have a newer conversation with another tenant by then."""
    server = FakeServer()

    held = access(server).within(bot_id=BOT, subdomain=TENANT)
    await perform(mode, held.read())
    with pytest.raises(ConversationMismatchError):
        held.within(bot_id=BOT, subdomain="another")


class ClearableServer(FakeServer):
    """Keeps the history that it is told to keep, or ignores what a sync says about it."""

    def __init__(self, *, obeys: bool = True, **fields: Any) -> None:
        super().__init__(**fields)
        self.obeys = obeys

    def __call__(self, request: httpx.Request) -> httpx.Response:
        answer = super().__call__(request)
        method, body = self.requests[-1]
        if method == "PUT" and self.obeys:
            self.found["context"] |= body["context"]
        return answer


@pytest.mark.parametrize("active", [True, False])
@sync_and_async
async def test_a_history_is_cleared_by_one_sync_and_looked_at(mode: str, active: bool) -> None:
    """A conversation stays as open as it was."""
    server = ClearableServer(isActive=active)

    await perform(mode, access(server).clear())

    emptied = {"previousMessages": [], "lastUserMessage": ""}
    assert server.requests[1] == ("PUT", {"isActive": active, "context": emptied})
    assert server.methods == ["GET", "PUT", "GET"]


@sync_and_async
async def test_where_a_sync_replaces_the_context_clearing_carries_the_rest(mode: str) -> None:
    """Only the history is to go."""
    server = ClearableServer()

    await perform(mode, access(server, context_sync="replace").clear())

    assert server.requests[1][1]["context"]["orderTotal"] == 25.0


@sync_and_async
async def test_a_server_that_keeps_its_history_is_told(mode: str) -> None:
    """Who clears it must not believe that it is gone."""
    server = ClearableServer(obeys=False)

    with pytest.raises(APIError, match="keeps its history"):
        await perform(mode, access(server).clear())


@sync_and_async
async def test_an_empty_history_needs_no_clearing(mode: str) -> None:
    """One look is enough."""
    server = ClearableServer(context={})

    await perform(mode, access(server).clear())

    assert server.methods == ["GET"]
