"""Nobody can tell whether a message was recorded: its answer was lost, and the history was cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from langchain_convsync import ConvSyncClient, telemetry
from langchain_convsync._flow import run
from langchain_convsync.outbox import OnUnverifiable
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.promises import CUSTOMER, echo, history, said

pytestmark = pytest.mark.usefixtures("no_pause")


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with ReferenceServer(quirks={"last_20", "keys_ignored"}) as running:
        running.create_conversation(
            phone_number=CUSTOMER, subdomain="restaurant-abc", bot_id="bot123"
        )
        yield running


class Cutting(httpx.HTTPTransport):
    """Loses the answer to one message; somebody else writes so much that the history forgets."""

    def __init__(self, server: ReferenceServer) -> None:
        super().__init__()
        self.cuts = 1
        self.others, self.session_id = server.client(), server.conversation(CUSTOMER).session_id

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if b'"lost"' not in request.content or not self.cuts:
            return response
        self.cuts -= 1
        response.read()
        for number in range(25):
            self.others.add_message(self.session_id, "bot", f"campaign {number}")
        raise httpx.ReadError("cut", request=request)


@pytest.mark.parametrize(
    ("policy", "times", "dead_letters"), [("dead_letter", 0, 1), ("skip", 0, 0), ("resend", 1, 0)]
)
def test_the_policy_decides_what_becomes_of_it(
    server: ReferenceServer,
    event_store: EventStore,
    monkeypatch: pytest.MonkeyPatch,
    policy: OnUnverifiable,
    times: int,
    dead_letters: int,
) -> None:
    """Set aside for an operator, given up, or sent again; the rest of its turn accordingly."""
    monkeypatch.setattr("langchain_convsync.outbox.plan.ATTEMPT", 0.0)
    unverified = telemetry.counted("unverified", policy=policy)
    profile = replace(server.profile, settle=0.0)
    with httpx.Client(transport=Cutting(server)) as lent:
        lossy = ConvSyncClient(server.base_url, profile=profile, http_client=lent)
        first = TurnRunner(echo(), client=server.client(), store=event_store)
        first.run(said("Hola"))
        runner = TurnRunner(echo(), client=lossy, store=event_store, on_unverifiable=policy)
        turn = runner.run(said("lost"))

    kept = Counter(text for _, text in history(server))
    assert turn.reply == "re: lost"
    assert kept["lost"] == times
    assert kept["re: lost"] == (policy != "dead_letter")
    assert run(event_store.backlog()).dead_letters == dead_letters
    assert run(event_store.backlog()).writes == 0
    assert telemetry.counted("unverified", policy=policy) - unverified == (policy != "dead_letter")
