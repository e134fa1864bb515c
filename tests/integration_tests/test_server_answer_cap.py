"""Answers to writes that show the newest messages only: what is stored is whole, and verified."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from langchain_convsync import ConvSyncClient
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.server.wire import NewMessage, StateSync
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.clocked_store import ClockedStore
from tests.postgres_server import binaries, postgres
from tests.promises import CUSTOMER, echo, said

BOT = "67890abcdef0123456789abc"


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param(
            "postgresql",
            marks=pytest.mark.skipif(binaries() is None, reason="no PostgreSQL in a wheel here"),
        ),
    ]
)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'api.db'}"
        return
    with postgres() as server:
        yield server.url


def texts(answer: dict[str, Any]) -> list[str]:
    return [message["content"] for message in answer["context"]["previousMessages"]]


def test_a_write_is_answered_with_the_newest_messages(database_url: str) -> None:
    """In their order, the new one last; look-ups tell the whole history."""
    with closing(ClockedStore(database_url, answer_cap=30)) as store:
        session_id = store.begin(context={"previousMessages": []})
        shown = [
            texts(store.add_message(session_id, NewMessage(role="bot", content=f"{n}")).data)
            for n in range(40)
        ]
        synced = store.sync(session_id, StateSync.model_validate({"step": "a"}))

        whole = [f"{n}" for n in range(40)]
        assert [each[-1] for each in shown] == whole
        assert shown[9] == whole[:10]
        assert shown[39] == texts(synced.data) == whole[10:]
        assert texts(store.seen()) == whole


def test_a_repetition_is_answered_alike(database_url: str) -> None:
    """Also where the cap is another one by then, and the history was replaced since."""
    tries: list[Any] = [(NewMessage(role="bot", content=f"{n}"), f"k{n}") for n in range(70)]
    with closing(ClockedStore(database_url, answer_cap=25)) as before:
        session_id = before.begin()
        first = [before.add_message(session_id, each, key=key).data for each, key in tries]

    with closing(ClockedStore(database_url)) as store:
        again = [store.add_message(session_id, each, key=key) for each, key in tries]
        store.merge(session_id, context={"previousMessages": []})
        later = [store.add_message(session_id, each, key=key) for each, key in tries]

        assert [each.data for each in again] == [each.data for each in later] == first
        assert texts(store.seen()) == []


@pytest.mark.parametrize("cap", [0, -1])
def test_the_newest_message_is_in_every_answer(cap: int) -> None:
    """An answer that does not show what it recorded would be no answer."""
    with pytest.raises(ConfigurationError, match="1 or more"):
        ReferenceServer(answer_cap=cap)


class Losing(httpx.HTTPTransport):
    """Loses the answer to every second write, which was applied."""

    writes = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        self.writes += request.method != "GET"
        if request.method == "GET" or self.writes % 2:
            return response
        response.close()
        raise httpx.ReadError("cut", request=request)


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("quirks", ["keys_ignored", "messages_not_stored", "observed"])
@pytest.mark.parametrize("cap", [1, 2])
def test_what_was_written_is_verified_by_capped_answers(
    quirks: str, cap: int, event_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same words again and again, half of the answers lost: everything is there once."""
    monkeypatch.setattr("langchain_convsync.outbox.plan.ATTEMPT", 0.0)
    with (
        ReferenceServer(quirks=[quirks], answer_cap=cap) as server,
        httpx.Client(transport=Losing()) as lent,
    ):
        server.create_conversation(phone_number=CUSTOMER, subdomain="abc", bot_id=BOT)
        profile = replace(server.profile, settle=0.0, idempotency_keys=False)
        client = ConvSyncClient(server.base_url, profile=profile, http_client=lent)
        with TurnRunner(echo(), client=client, store=event_store) as runner:
            for number in range(6):
                runner.run(said("sí", event_id=f"evt{number}"))

        found = [
            (message.role, message.content) for message in server.conversation(CUSTOMER).messages
        ]
        assert found == [("user", "sí"), ("bot", "re: sí")] * 6
