"""Hostile deliveries that are signed all the same: taken or refused, never a 500, and answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from starlette.testclient import TestClient

from langchain_convsync import InboundEvent, SQLiteEventStore, TurnRunner, create_app, waha
from langchain_convsync.models import StateUpdate
from langchain_convsync.testing import ReferenceServer
from tests.forgeries import signed
from tests.hostile import deliveries, encoded, escaped, lines, phones, raw_bodies, values, words
from tests.promises import CUSTOMER, recording, served

SECRET = "the session's hmac.key"
forwarded = st.fixed_dictionaries(
    {"event_id": st.one_of(lines, values), "phone_number": st.one_of(phones, values)},
    optional={
        "message": st.one_of(words, values),
        "lid": st.one_of(phones, values),
        "chat_id": st.one_of(phones, values),
        "account": st.one_of(lines, values),
        "bot_id": st.one_of(lines, values),
        "sent_at": values,
        "media": values,
        "notes": values,
    },
)


@pytest.fixture(scope="module")
def web() -> Iterator[TestClient]:
    """An app that records; nothing is due within the test."""
    with (
        recording(max_queued=10**6) as runner,
        TestClient(create_app(runner, waha_secrets=SECRET)) as web,
    ):
        yield web


def post(web: TestClient, raw: bytes) -> int:
    """The status; an exception of the app's would be raised here."""
    headers = {"X-Webhook-Hmac": signed(raw, SECRET)}
    return web.post("/webhook", content=raw, headers=headers).status_code


@given(st.one_of(raw_bodies, deliveries.map(escaped), deliveries.map(encoded)))
@settings(max_examples=200)
def test_a_signed_delivery_may_be_anything(web: TestClient, raw: bytes) -> None:
    """Recorded or ignored, or refused as no JSON; never an error of the server's."""
    assert post(web, raw) in {200, 400, 413}


@given(st.one_of(forwarded.map(escaped), forwarded.map(encoded)))
@settings(max_examples=100)
def test_a_forwarded_event_may_be_anything(web: TestClient, raw: bytes) -> None:
    """The same for what comes from the API server."""
    assert post(web, raw) in {200, 400, 413}


@pytest.fixture(scope="module")
def server() -> Iterator[ReferenceServer]:
    running = served()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def runner(server: ReferenceServer) -> Iterator[TurnRunner]:
    store = SQLiteEventStore(":memory:")
    yield TurnRunner(
        RunnableLambda(lambda messages: AIMessage(f"re: {messages[-1].content}"[:100])),
        client=server.client(),
        store=store,
        extractor=lambda reply: StateUpdate(step=reply.content),
        max_errors=1,
        max_age=None,
        max_turns_per_minute=None,  # one customer writes all of it
    )
    store.close()


@given(delivery=deliveries, number=st.integers(min_value=0), awaited=st.booleans())
@settings(max_examples=60)
def test_whatever_a_customer_writes_is_answered(
    runner: TurnRunner, delivery: dict[str, Any], number: int, *, awaited: bool
) -> None:
    """Or its repetition is told; nothing that stands in a delivery fails a turn."""
    known = {"id": f"false_x@c.us_3EB{number:X}", "from": CUSTOMER, "fromMe": False}
    payload = {"body": "Hola", **delivery["payload"], **known, "participant": None, "to": None}
    body = {"event": "message", "session": "default", "payload": payload}
    event = waha.parse_event(body)
    if not isinstance(event, InboundEvent):  # a message without content, a status
        return

    event = event.model_copy(update={"bot_id": None, "subdomain": None})
    turn = asyncio.run(runner.arun(event)) if awaited else runner.run(event)

    assert turn.status in {"answered", "duplicate"}, turn.error
    assert turn.reply
