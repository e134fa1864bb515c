"""Every endpoint of the reference server, asked while its database is there and while it is not."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from langchain_convsync.server import Tenant
from langchain_convsync.testing import ReferenceServer

PHONE = "+51999999999"
ABC: Any = {"subdomain": "restaurant-abc", "bot_id": "bot123"}
EVENT = {
    "event": "message",
    "session": "default",
    "payload": {"id": "false_51999999999@c.us_A", "from": "51999999999@c.us", "body": "Hola"},
}
MESSAGE = {"role": "bot", "content": "Hola " * 300}
ALL = slice(None)
Ask = Callable[..., list[httpx.Response]]
AWAY = {
    "type": "3",
    "message": "The server's database does not answer: send the request again",
    "data": None,
}


@contextmanager
def served(database_url: str) -> Iterator[tuple[ReferenceServer, Ask]]:
    """A server with one conversation, and a function that asks every endpoint of it."""
    with (
        ReferenceServer(database_url, tenants={"default": Tenant(**ABC)}) as server,
        httpx.Client(base_url=server.base_url, trust_env=False, timeout=60) as client,
    ):
        session_id = server.create_conversation(phone_number=PHONE, **ABC).session_id
        api, agent = "/api/v1/whatsapp", f"/api/v1/whatsapp/agent/conversations/{session_id}"

        def ask(which: slice = ALL) -> list[httpx.Response]:
            keyed = {"Idempotency-Key": secrets.token_hex()}
            every: list[tuple[str, str, dict[str, Any]]] = [
                ("GET", f"{api}/health", {}),
                ("GET", f"{api}/lookup/tenant/{PHONE}", {}),
                ("GET", f"{api}/lookup/conversation/{PHONE}", {}),
                ("PUT", f"{agent}/sync", {"json": {"step": "a"}}),
                ("POST", f"{agent}/messages", {"json": MESSAGE}),
                ("POST", f"{agent}/messages", {"json": MESSAGE, "headers": keyed}),
                ("POST", f"{api}/webhook/waha", {"json": EVENT}),
            ]
            return [client.request(method, path, **more) for method, path, more in every[which]]

        assert statuses(ask()) == {200}
        yield server, ask


def statuses(answers: list[httpx.Response]) -> set[int]:
    return {answer.status_code for answer in answers}


def require_away(answers: list[httpx.Response], caplog: pytest.LogCaptureFixture) -> None:
    """Each is a 503 in the envelope that says when to come again, and one line of the log."""
    for answer in answers:
        assert (answer.status_code, answer.json()) == (503, AWAY)
        assert answer.headers["Retry-After"] == "1"
    lines = [each for each in caplog.records if each.name.startswith("langchain_convsync.server")]
    assert len(lines) == len(answers)
    for line, answer in zip(lines, answers, strict=True):
        assert answer.headers["X-Request-Id"] in line.getMessage()
        assert (line.levelname, line.exc_info) == ("ERROR", None)
        assert "\n" not in line.getMessage()
        assert PHONE[1:] not in line.getMessage()
