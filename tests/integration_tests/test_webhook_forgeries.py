"""Whoever does not know the secret is refused: ten thousand forged deliveries, none taken."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.datastructures import Headers

from langchain_convsync import TurnRunner, create_app, waha
from langchain_convsync._flow import run
from langchain_convsync.stores import Backlog
from tests.forgeries import Forgery, forgeries, signed
from tests.promises import CUSTOMER, recording

SECRET, NEXT_SECRET = "the session's hmac.key", "the one that replaces it"
CHAT = f"{CUSTOMER[1:]}@c.us"
PAYLOAD = {"id": f"false_{CHAT}_3EB0A1", "from": CHAT, "fromMe": False, "body": "Hola 🍕"}
DELIVERY = {"event": "message", "session": "default", "payload": PAYLOAD}
#: As WAHA posts it, and as the API server forwards it.
BODIES = [
    json.dumps(DELIVERY, ensure_ascii=False).encode(),
    json.dumps({"event_id": "evt_1", "phone_number": CUSTOMER, "message": "Hola"}).encode(),
]
FORGED = [each for raw in BODIES for each in forgeries(raw, SECRET)]


def test_there_are_ten_thousand_forgeries_of_every_kind() -> None:
    """And the deliveries that they are made of would be taken."""
    kinds = Counter(forgery.kind for forgery in FORGED)

    assert len(FORGED) >= 10_000
    assert len(kinds) >= 25
    for raw in BODIES:
        assert waha.verify(raw, {"X-Webhook-Hmac": signed(raw, SECRET)}, SECRET)


def test_no_forgery_is_verified() -> None:
    """Whichever way a framework presents the headers: one by one, or the last of each name."""
    accepted: Counter[str] = Counter()
    for forgery in FORGED:
        headers = Headers(raw=forgery.headers)
        accepted[forgery.kind] += waha.verify(forgery.raw, headers, [SECRET, NEXT_SECRET])
        if len(dict(headers)) == len(headers.raw):
            accepted[forgery.kind] += waha.verify(forgery.raw, dict(headers), SECRET)

    assert +accepted == Counter()


class Asgi:
    """Posts to an app as a server would, without one."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def post(self, forgery: Forgery) -> int:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "https",
            "path": "/webhook",
            "raw_path": b"/webhook",
            "query_string": b"",
            "root_path": "",
            "headers": forgery.headers,
            "server": ("bot.example", 443),
            "client": ("127.0.0.1", 1),
        }
        status = 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": forgery.raw, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)

        await self._app(scope, receive, send)
        return status


@pytest.fixture
def runner() -> Iterator[TurnRunner]:
    with recording() as runner:
        yield runner


async def test_no_forgery_reaches_the_store(runner: TurnRunner) -> None:
    """Each is a 401, none an exception, and nothing is recorded: then the true one is."""
    app = create_app(runner, waha_secrets=[SECRET, NEXT_SECRET])
    web = Asgi(app)
    refused: Counter[int] = Counter()
    async with runner:
        for forgery in FORGED:
            refused[await web.post(forgery)] += 1
        recorded = run(runner.store.backlog())
        true = [
            Forgery("", raw, [(b"x-webhook-hmac", signed(raw, SECRET).encode())]) for raw in BODIES
        ]
        accepted = [await web.post(each) for each in true]
        afterwards = run(runner.store.backlog())

    assert refused == Counter({401: len(FORGED)})
    assert recorded == Backlog()
    assert accepted == [200, 200]
    assert afterwards == Backlog(queued=2)
