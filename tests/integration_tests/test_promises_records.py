"""What is finished expires and holds nobody's words; what is not finished does neither."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync._flow import run
from langchain_convsync.stores import open_store
from langchain_convsync.stores.base import Backlog
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.promises import CUSTOMER, Answer, reply_to, said, served, sync_and_async
from tests.redis_server import RedisServer
from tests.store_checks import check_keys
from tests.stored import rows

OTHERS = {name: f"+5199988877{n}" for n, name in enumerate(["dead", "refused", "queued", "paused"])}


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with served() as running:
        for customer in OTHERS.values():
            running.create_conversation(phone_number=customer, subdomain="tenant", bot_id="bot")
        yield running


class Refusing:
    """ASGI middleware: the API server accepts no message of one session."""

    def __init__(self, app: Any, session: str) -> None:
        self._app, self._session = app, session

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope.get("method") == "POST" and self._session in scope["path"]:
            await send({"type": "http.response.start", "status": 422, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})
        else:
            await self._app(scope, receive, send)


def reply_unless_dead(messages: list[BaseMessage]) -> AIMessage:
    if messages[-1].content == "dead":
        raise RuntimeError
    return reply_to(messages)


def mixed_run(server: ReferenceServer, store_url: str, answer: Answer) -> Backlog:
    """One turn of every kind."""
    store, client = open_store(store_url), server.client()
    refused = server.conversation(OTHERS["refused"]).session_id
    server._app = Refusing(server._app, refused)  # type: ignore[assignment]  # names the middleware
    server.stop()
    server.start()
    agent: RunnableLambda[Any, Any] = RunnableLambda(reply_unless_dead)
    runner = TurnRunner(agent, client=client, store=store, max_errors=1)
    runner.pause(OTHERS["paused"], seconds=60.0)
    statuses = [
        answer(runner, said(name, phone_number=OTHERS.get(name, CUSTOMER))).status
        for name in ("answered", "dead", "refused", "paused")
    ]
    waiting = TurnRunner(agent, client=client, store=store, debounce=60.0, max_debounce=60.0)
    statuses.append(answer(waiting, said("queued", phone_number=OTHERS["queued"]), 0.0).status)
    backlog = run(store.backlog())
    store.close()
    assert statuses == ["answered", "failed", "answered", "paused", "queued"]
    return backlog


@sync_and_async
def test_redis_keys_expire_when_they_are_finished_and_only_then(
    answer: Answer, server: ReferenceServer, redis_server: RedisServer
) -> None:
    """Answered, dead, refused, paused and queued, after whole turns."""
    redis_server.empty()

    backlog = mixed_run(server, redis_server.url, answer)

    assert (backlog.queued, backlog.dead_letters) == (1, 2)
    with redis_server.client() as client:
        check_keys(client)


@sync_and_async
def test_sqlite_rows_expire_when_they_are_finished_and_only_then(
    answer: Answer, server: ReferenceServer, tmp_path: Path
) -> None:
    """The same in a file."""
    path = tmp_path / "events.db"

    backlog = mixed_run(server, f"sqlite:///{path}", answer)

    assert (backlog.queued, backlog.dead_letters) == (1, 2)
    found = list(rows(path))
    events = [row for table, row in found if table == "events"]
    assert sorted(row["state"] for row in events) == ["dead", "done", "done", "done", "queued"]
    for row in events:
        finished = row["state"] == "done"
        assert (row["expires"] is not None) == finished == (row["payload"] is None)
    busy = {row["conversation"] for table, row in found if table == "operations"}
    busy |= {row["conversation"] for row in events if row["state"] == "queued"}
    for table, row in found:
        if table == "conversations":
            assert (row["expires"] is None) == (row["conversation"] in busy)
