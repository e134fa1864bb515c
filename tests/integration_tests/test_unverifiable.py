"""Nobody can tell whether a message was recorded.

Its answer was lost and the history was cut, or it is an error with a status of success.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from langchain_convsync import ConvSyncClient, telemetry
from langchain_convsync._flow import run
from langchain_convsync.outbox import OnUnverifiable
from langchain_convsync.outbox.delivery import PATIENCE
from langchain_convsync.stores.base import Backlog, EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.promises import CUSTOMER, echo, history, said, spoken

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


class Failing(httpx.HTTPTransport):
    """Answers 200 with an error to so many writes, of which it carries out all or none."""

    def __init__(self, writes: float, *, applies: bool) -> None:
        super().__init__()
        self.left, self._applies, self.refused = writes, applies, 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET" or not self.left:
            return super().handle_request(request)
        self.left -= 1
        self.refused += 1
        if self._applies:
            super().handle_request(request).read()
        return httpx.Response(200, json={"type": "3", "message": "Error", "data": None})


@pytest.mark.parametrize("applies", [False, True], ids=["not applied", "applied"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_server_that_answers_200_while_it_fails_costs_no_write(
    server: ReferenceServer,
    event_store: EventStore,
    monkeypatch: pytest.MonkeyPatch,
    times: int,
    applies: bool,
) -> None:
    """Each is looked up and sent again: it is there once."""
    monkeypatch.setattr("langchain_convsync.outbox.plan.ATTEMPT", 0.0)
    failing = Failing(times, applies=applies)
    with httpx.Client(transport=failing) as lent:
        profile = replace(server.profile, settle=0.0)
        client = ConvSyncClient(server.base_url, profile=profile, http_client=lent)
        runner = TurnRunner(
            echo(), client=client, store=event_store, extractor=lambda _: {"intent": "order"}
        )
        runner.run(said("Hola"))

    assert failing.refused == times
    assert history(server) == spoken(["Hola"])
    assert server.conversation(CUSTOMER).current_intent == "order"
    assert run(event_store.backlog()) == Backlog()


def test_one_that_never_answers_otherwise_holds_up_nobody_for_long(
    server: ReferenceServer, event_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it refuses ends as a dead letter, in its words for it, and the next turn goes on."""
    monkeypatch.setattr("langchain_convsync.outbox.plan.ATTEMPT", 0.0)
    failing = Failing(math.inf, applies=False)
    with httpx.Client(transport=failing) as lent:
        profile = replace(server.profile, settle=0.0)
        client = ConvSyncClient(server.base_url, profile=profile, http_client=lent)
        runner = TurnRunner(echo(), client=client, store=event_store)
        runner.run(said("Hola"))
        (letter,) = run(event_store.dead_letters())
        assert letter.reason is not None
        assert "answered with an error (status 200" in letter.reason
        assert failing.refused == PATIENCE
        failing.left = 0
        runner.run(said("dos"))

    assert history(server) == spoken(["dos"])
    assert run(event_store.backlog()).writes == 0
