"""Words that are quoted by their id alone are found where they are known."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync import SQLiteEventStore, TurnRunner
from langchain_convsync.contents import Media, Quoted
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores.base import QueuedEvent
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns.turn import Batch, payload_of
from tests.surfaces import PHONE

PIZZA = {"role": "bot", "content": "2. Pizza", "messageId": "true_51999999999@c.us_3EB0B1"}
PASTA = {"role": "bot", "content": "3. Pasta", "messageId": "3EB0B2"}


def batch(*events: InboundEvent) -> Batch:
    return Batch.of(
        tuple(
            QueuedEvent(event_key=str(n), payload=payload_of(event), accepted_at=0.0)
            for n, event in enumerate(events)
        )
    )


def quoting(**quoted: Any) -> InboundEvent:
    return InboundEvent(
        event_id="false_3EB0A2", phone_number=PHONE, text="Esta", quoted=Quoted(**quoted)
    )


@pytest.mark.parametrize(
    ("event", "content"),
    [
        (quoting(id="3EB0B1"), "> 2. Pizza\nEsta"),
        (quoting(id="3EB0A1"), "> Quiero una\nEsta"),
        (quoting(id="3EB0B1", text="Pizza"), "> Pizza\nEsta"),
        (quoting(id="3EB0B1", media=Media(mimetype="image/png")), "> [image]\nEsta"),
        (quoting(id="3EB0FF"), "> [an earlier message]\nEsta"),
        (quoting(), "> [an earlier message]\nEsta"),
    ],
)
def test_quoted_words_are_found_by_their_id(event: InboundEvent, content: str) -> None:
    """In another event of the turn, or in a history whose entries have ids; else nowhere."""
    asked = InboundEvent(event_id="false_3EB0A1", phone_number=PHONE, text="Quiero una")
    found = batch(asked, event).quoting([PIZZA, PASTA, {"role": "user", "content": "3EB0FF"}])
    assert [each.content for _, each in found.events] == ["Quiero una", content]
    assert event.content in found.events[1][1].possible_records


def test_a_customer_may_quote_what_waits_with_it() -> None:
    """Both are one turn: the model reads the words twice, and the history does."""
    said: list[str] = []

    def answer(messages: list[BaseMessage]) -> AIMessage:
        said.extend(str(message.content) for message in messages)
        return AIMessage("Va")

    with ReferenceServer() as server:
        server.create_conversation(phone_number=PHONE, subdomain="abc", bot_id="bot123")
        store = SQLiteEventStore(":memory:")
        runner = TurnRunner(RunnableLambda(answer), client=server.client(), store=store)
        first = InboundEvent(event_id="false_3EB0A1", phone_number=PHONE, text="Quiero una")
        runner.accept(first)
        runner.run(quoting(id="3EB0A1"))
        store.close()
        told = server.conversation(PHONE)

    assert said == ["Quiero una", "> Quiero una\nEsta"]
    assert told is not None
    assert [message.content for message in told.messages] == [*said, "Va"]
