"""What others reported of bots on WhatsApp, delivered as they saw it: what becomes of it."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from langchain_convsync import WAHAReply, create_app
from langchain_convsync._flow import run
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests import waha_chats
from tests.faulty_server import Deed, Received, answers
from tests.promises import echo, history
from tests.redis_topologies import until
from tests.waha_chats import WahaChats

REPORTED = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parents[1] / "whatsapp" / "turns").glob("*.json"))
}
CUSTOMER = "+555400000001"

chats = waha_chats.chats


def fate(chats: WahaChats, named: str) -> Any:
    """What WAHA does with a send: refuses it, or sends it and answers something else."""

    def script(request: Received) -> Iterable[bytes | float | Deed]:
        delivered, _, status = named.rpartition(", ")
        if delivered:
            chats.carried_out(request)
        return answers({}, status=int(status))(request)

    return script


def sent_now(delivery: dict[str, Any], sent_ago: float) -> dict[str, Any]:
    """The delivery as it would come today."""
    told = copy.deepcopy(delivery)
    told["payload"]["timestamp"] = int(time.time() - sent_ago)
    return told


@pytest.mark.parametrize("case", REPORTED.values(), ids=REPORTED)
def test_what_was_reported_ends_as_it_should(
    case: dict[str, Any],
    event_store: EventStore,
    chats: WahaChats,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What customers read, what the history holds, and what an operator is told."""
    monkeypatch.setattr("langchain_convsync.outbox.reply.SEND_TIME", 0.0)
    chats.fates = [fate(chats, named) for named in case.get("waha", ())]

    def is_idle() -> bool:
        left = run(event_store.backlog())
        return not (left.queued or left.writes or left.replies)

    with ReferenceServer() as server:
        server.create_conversation(CUSTOMER, subdomain="restaurant-abc", bot_id="bot123")
        client, sender = server.client(), WAHAReply(chats.url, settle=0.0)
        runner = TurnRunner(echo(), client=client, store=event_store, reply=sender)
        app = create_app(runner, waha_secrets=[], groups=case.get("groups", False))
        with TestClient(app) as web:
            for delivery in case["deliveries"]:
                web.post("/webhook", json=sent_now(delivery, case.get("sent_ago", 0)))
                until(is_idle)
        told = {
            "sent": chats.texts,
            "history": [list(entry) for entry in history(server, CUSTOMER)],
            "dead_letters": run(event_store.backlog()).dead_letters,
        }

    assert told == case["expected"]
