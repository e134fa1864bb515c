"""What the reference server and an agent's app make of the same deliveries: the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from starlette.testclient import TestClient

from langchain_convsync import SQLiteEventStore, TurnRunner, create_app, waha
from langchain_convsync.app._webhook import _forwarded
from langchain_convsync.models import InboundEvent
from langchain_convsync.server import create_reference_api
from langchain_convsync.server.forwards import _body
from langchain_convsync.server.tables import ConversationRow
from tests.integration_tests.test_app import SECRET, signed
from tests.surfaces import unreachable
from tests.whatsapp_shapes import MESSAGES, WEB, data_of, delivery

TESTS = Path(__file__).parents[1]
METADATA = {"subdomain": "restaurant-abc", "bot.id": "bot123"}


def deliveries() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every delivery that there is in the tests' data, and one of each kind and engine."""
    for path in sorted((TESTS / "payloads").glob("*.json")):
        yield path.stem, json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((TESTS / "whatsapp").glob("*.json")):
        cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
        yield from ((f"{path.stem} {n}", case["delivery"]) for n, case in enumerate(cases))
    for name in MESSAGES:
        yield f"{name} of NOWEB", delivery(data_of(name, "NOWEB", contexts=("quote", "ad")))
        yield f"{name} of GOWS", delivery(data_of(name, "GOWS", contexts=("forward", "mention")))
    for name in WEB:
        yield f"{name} of WEBJS", delivery(data_of(name, "WEBJS"))


DELIVERIES = {name: {**body, "metadata": METADATA} for name, body in deliveries()}


@pytest.fixture(scope="module")
def api() -> Iterator[TestClient]:
    with TestClient(create_reference_api()) as server:
        yield server


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    store = SQLiteEventStore(tmp_path_factory.mktemp("store") / "events.db")
    agent: RunnableLambda[Any, str] = RunnableLambda(lambda _: "")
    runner = TurnRunner(agent, client=unreachable(), store=store, record_only=True)
    with TestClient(create_app(runner, waha_secrets=SECRET)) as web:
        yield web


@pytest.mark.parametrize("body", DELIVERIES.values(), ids=DELIVERIES)
def test_server_and_app_take_the_same_deliveries(
    body: dict[str, Any], api: TestClient, app: TestClient
) -> None:
    """What begins a conversation there is what is recorded here, and the other way round."""
    body = json.loads(re.sub(r'"timestamp": [0-9.]+', '"timestamp": null', json.dumps(body)))
    kept = api.post("/api/v1/whatsapp/webhook/waha", json=body).json()["data"]["accepted"]
    told = app.post("/webhook", **signed(body)).json()["status"]
    assert kept == (told in {"queued", "duplicate"})


@pytest.mark.parametrize("body", DELIVERIES.values(), ids=DELIVERIES)
def test_what_is_forwarded_is_what_was_delivered(body: dict[str, Any]) -> None:
    """Every field arrives, through JSON; the readable message is there for other agents."""
    event = waha.parse_event(body)
    if not isinstance(event, InboundEvent):
        return
    at = datetime(2026, 11, 30, tzinfo=UTC)
    row = ConversationRow(subdomain="restaurant-abc", bot_id="bot123", phone_number=None)
    forwarded = json.loads(json.dumps(_body(row, event)))
    again = _forwarded({**forwarded, "of a later version": str(at)})

    assert forwarded["message"] == event.content
    assert again == event.model_copy(update={"delivery_id": None})
