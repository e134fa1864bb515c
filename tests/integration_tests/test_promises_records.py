"""What is finished expires and holds nobody's words; what is not finished does neither."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync._flow import run
from langchain_convsync.stores import RedisEventStore, SQLiteEventStore, open_store
from langchain_convsync.stores.base import Backlog, EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.promises import CUSTOMER, Answer, reply_to, said, served, sync_and_async
from tests.redis_server import RedisServer
from tests.store_cases import Clock
from tests.store_checks import check_keys
from tests.stored import redis_records, rows

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


#: What was said, and decided about it.
WORDS = ("quiero-una-pizza", "re: quiero-una-pizza", "sin-cebolla", "pedido-secreto")


def finished_turn(server: ReferenceServer, store: EventStore, answer: Answer) -> TurnRunner:
    """A turn with words everywhere, delivered; a second one that died, given up."""
    client = server.client()
    runner = TurnRunner(
        RunnableLambda(reply_unless_dead),
        client=client,
        store=store,
        max_errors=1,
        extractor=lambda _: {"context": {"pedido": WORDS[2]}, "intent": WORDS[3]},
    )
    assert answer(runner, said(WORDS[0], account="ventas")).reply == WORDS[1]
    assert answer(runner, said("dead", sender_name=WORDS[0])).status == "failed"
    (letter,) = run(store.dead_letters())
    assert run(store.discard(letter, token="mine"))
    assert run(store.backlog()) == Backlog()
    return runner


def spoken_in(data: bytes) -> list[str]:
    return [word for word in WORDS if word.encode() in data]


@sync_and_async
def test_no_column_and_no_byte_of_a_file_holds_words_of_what_is_done(
    answer: Answer, server: ReferenceServer, tmp_path: Path
) -> None:
    """The reply for an hour, the snapshot for a day: then the next idle poll erases them."""
    path, clock = tmp_path / "events.db", Clock()
    store = SQLiteEventStore(path, clock=clock)

    def left() -> tuple[set[tuple[str, str]], int]:
        """Where words stand in the tables, and how many files hold a byte of them."""
        columns = {
            (table, column)
            for table, row in rows(path)
            for column, value in row.items()
            if spoken_in(value if isinstance(value, bytes) else str(value).encode())
        }
        return columns, sum(bool(spoken_in(each.read_bytes())) for each in tmp_path.iterdir())

    runner = finished_turn(server, store, answer)
    columns, files = left()
    assert columns == {("events", "outcome"), ("conversations", "snapshot")}
    assert files > 0
    repeated = [answer(runner, said(WORDS[0], account="ventas")).reply]
    clock.advance(3600.0)
    assert run(store.acquire("inbox", "idle")) is None
    assert left()[0] == {("conversations", "snapshot")}
    repeated.append(answer(runner, said(WORDS[0], account="ventas")).reply)
    clock.advance(23 * 3600.0)
    assert run(store.acquire("replies", "idle")) is None
    assert left() == (set(), 0)
    repeated.append(answer(runner, said(WORDS[0], account="ventas")).status)
    store.close()
    assert repeated == [WORDS[1], None, "duplicate"]


@sync_and_async
def test_redis_keys_with_words_of_what_is_done_expire_by_themselves(
    answer: Answer, server: ReferenceServer, redis_server: RedisServer
) -> None:
    """The reply within an hour, the snapshot within a day; no other key or field holds a word."""
    redis_server.empty()
    store = RedisEventStore(redis_server.url)
    runner = finished_turn(server, store, answer)
    repeated = [answer(runner, said(WORDS[0], account="ventas")).reply]

    found = [key for key, whole in redis_records(redis_server) if spoken_in(whole)]

    with redis_server.client() as client:
        lives = {key.split(":")[2] + key[-5:]: client.pttl(key) / 1000 for key in found}
        snapshots = {name: life for name, life in lives.items() if name == "c:snap"}
        replies = {name: life for name, life in lives.items() if name.startswith("said")}
        assert snapshots
        assert replies
        assert lives == {**snapshots, **replies}
        assert all(0 < life <= 24 * 3600.0 for life in snapshots.values())
        assert all(0 < life <= 3600.0 for life in replies.values())
        client.delete(*found)  # as if that time had passed
    turn = answer(runner, said(WORDS[0], account="ventas"))
    store.close()

    assert repeated == [WORDS[1]]
    assert (turn.status, turn.reply) == ("duplicate", None)
    assert turn.turn_id is not None
