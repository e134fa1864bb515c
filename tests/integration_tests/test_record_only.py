"""A webhook's process that records, and leaves the answers to the workers of others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from langchain_convsync import (
    ConfigurationError,
    InboundEvent,
    SQLiteEventStore,
    Turn,
    TurnRunner,
    create_app,
)
from langchain_convsync.stores import EventStore
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from tests.surfaces import PHONE

EVENT = InboundEvent(event_id="1", phone_number=PHONE, text="Hola")


@pytest.fixture
def store() -> Iterator[EventStore]:
    opened = SQLiteEventStore(":memory:")
    yield opened
    opened.close()


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        running.create_conversation(phone_number=PHONE, subdomain="a", bot_id="b")
        yield running


def test_what_is_recorded_is_answered_elsewhere(store: EventStore, server: ReferenceServer) -> None:
    """The webhook takes it, says that it is ready, and runs nothing."""
    webhook = TurnRunner(client=server.client(), store=store, record_only=True)
    sent: list[Turn] = []
    answering = TurnRunner(
        lambda _: ScriptedChatModel(["Claro."]),
        client=server.client(),
        store=store,
        on_reply=sent.append,
    )

    with TestClient(create_app(webhook, waha_secrets=[])) as web:
        body = {"event_id": "1", "phone_number": PHONE, "message": "Hola"}
        assert web.post("/webhook", json=body).status_code == 200
        assert web.get("/ready").status_code == 200
        assert store.backlog().block().queued == 1
    assert store.backlog().block().queued == 1  # leaving delivers nothing either

    turn = answering.run(EVENT)
    assert (turn.status, sent) == ("answered", [turn])


@pytest.mark.parametrize("awaited", [False, True])
async def test_a_block_that_cannot_answer_says_so_once(
    store: EventStore,
    server: ReferenceServer,
    awaited: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it accepts would wait for ever, without a word."""
    runner = TurnRunner(
        lambda _: ScriptedChatModel(["Claro."]), client=server.client(), store=store
    )
    second = EVENT.model_copy(update={"event_id": "2"})

    if awaited:
        async with runner:
            turns = [await runner.aaccept(EVENT), await runner.aaccept(second)]
    else:
        with runner:
            turns = [runner.accept(EVENT), runner.accept(second)]

    assert [turn.status for turn in turns] == ["queued", "queued"]
    assert caplog.text.count("answers nothing that accept() records: give it reply=WAHAReply") == 1


def test_a_block_that_sends_or_only_records_says_nothing(
    store: EventStore, server: ReferenceServer, caplog: pytest.LogCaptureFixture
) -> None:
    """There the events are answered: here, or elsewhere."""
    agent = ScriptedChatModel(["Claro."])
    with TurnRunner(client=server.client(), store=store, record_only=True) as webhook:
        webhook.accept(EVENT)
    with TurnRunner(
        lambda _: agent, client=server.client(), store=store, on_reply=lambda _: None
    ) as answering:
        answering.accept(EVENT)

    assert "answers nothing" not in caplog.text


async def test_a_runner_that_only_records_answers_nothing(
    store: EventStore, server: ReferenceServer
) -> None:
    """The error names the call, and whose work it is."""
    runner = TurnRunner(client=server.client(), store=store, record_only=True)

    with pytest.raises(ConfigurationError, match=r"accept\(\).*without record_only=True"):
        runner.run(EVENT)
    with pytest.raises(ConfigurationError, match=r"aaccept\(\).*without record_only=True"):
        await runner.arun(EVENT)
    async with runner:
        assert (await runner.aaccept(EVENT)).status == "queued"
        assert runner.is_at_work


def test_no_workers_and_no_agent_are_told_the_way_out(server: ReferenceServer) -> None:
    """Both are mistakes, unless others answer."""
    with pytest.raises(ConfigurationError, match="record_only=True"):
        TurnRunner(lambda _: ScriptedChatModel([]), client=server.client(), workers=0)
    with pytest.raises(ConfigurationError, match=r"agent= is None.*record_only=True"):
        TurnRunner(client=server.client(), store=":memory:")
