"""What stands in a store as JSON is read by the versions before and after the one that wrote it.

The samples are what the first release writes. They change in no release: stores are full of them.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from langchain_convsync.models import Conversation, InboundEvent
from langchain_convsync.outbox import Anchor, Write
from langchain_convsync.turns.turn import Outcome

EVENT = """{"event_id": "false_3AC22AE73E7976384001", "text": "Quiero una pizza",
 "phone_number": "+51999999999", "chat_id": "51999999999@c.us", "lid": "38000000000010@lid",
 "account": "restaurant", "bot_id": "bot123", "subdomain": "restaurant-abc",
 "waha_session": "restaurant", "delivery_id": "evt_01", "sent_at": "2025-12-29T10:05:00Z",
 "sender_name": "Lucía", "reply_to": "3AC2",
 "media": {"mimetype": "image/jpeg", "url": "https://waha.example.com/1.jpg"},
 "notes": ["[location: Lima]"]}"""
ANCHOR = """{"session_id": "bot123_1", "role": "bot", "digest": "8f434346648f6b96df89dda9",
 "timestamp": "2025-12-29T10:05:00+00:00", "occurrence": 2}"""
UPDATE = """{"intent": "order", "step": "selecting", "context": {"orderTotal": 25.0},
 "metadata": {"channel": "whatsapp"}, "is_active": true}"""
COMMON = """"phone_number": "+51999999999", "session_id": "bot123_1", "bot_id": "bot123",
 "subdomain": "restaurant-abc", "turn": "25.9967d5372915.1c1d7eef92fc05ba9d7e7110dde5046e",
 "number": 3, "decided_at": 1767002700.123"""
APPEND = f"""{{"kind": "append", {COMMON}, "base": {ANCHOR}, "messages": [
 {{"role": "user", "content": "Quiero una pizza"}}, {{"role": "bot", "content": "¿Cuál?"}}]}}"""
SYNC = f"""{{"kind": "sync_state", {COMMON}, "update": {UPDATE}}}"""
OUTCOME = f"""{{"status": "answered", "reply": "¿Cuál?", "state": {UPDATE},
 "turn_id": "25.9967d5372915.1c1d7eef92fc05ba9d7e7110dde5046e", "events": ["false_3AC2"]}}"""
SNAPSHOT = """{"sessionId": "bot123_1", "userId": "+51999999999", "botId": "bot123",
 "subDomain": "restaurant-abc", "currentIntent": "order", "currentStep": "selecting",
 "context": {"previousMessages": [{"role": "user", "content": "Hola",
 "timestamp": "2025-12-29T10:00:00Z"}]}, "metadata": {}, "isActive": true,
 "expiresAt": "2025-12-30T10:05:00Z"}"""

BODIES: list[tuple[type[BaseModel], str]] = [
    (InboundEvent, EVENT),
    (Anchor, ANCHOR),
    (Write, APPEND),
    (Write, SYNC),
    (Outcome, OUTCOME),
    (Conversation, SNAPSHOT),
]
each_body = pytest.mark.parametrize(
    ("model", "body"), BODIES, ids=["event", "anchor", "append", "sync", "outcome", "snapshot"]
)


def grown(value: Any) -> Any:
    """Every object with one more field, as a newer version may write it."""
    if isinstance(value, list):
        return [grown(item) for item in value]
    if isinstance(value, dict):
        return {**{key: grown(item) for key, item in value.items()}, "newer_field": {"a": 1}}
    return value


@each_body
def test_what_the_first_release_wrote_is_read_whole(model: type[BaseModel], body: str) -> None:
    """No field is forgotten, and each keeps its meaning."""
    read = model.model_validate_json(body)
    again = json.loads(read.model_dump_json(by_alias=True))

    assert all(again[name] for name, value in json.loads(body).items() if value)
    assert model.model_validate(again) == read


@each_body
def test_what_a_newer_version_adds_is_no_obstacle(model: type[BaseModel], body: str) -> None:
    """Old and new processes work on one store while they are upgraded one by one."""
    newer = model.model_validate_json(json.dumps(grown(json.loads(body))))

    assert newer.model_dump().keys() >= model.model_validate_json(body).model_dump().keys()
