"""A tenant that is slow, or has a lot to do, does not keep the others waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync._flow import run
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner
from tests.promises import echo, reply_to

#: Conversations of the one that has a lot to do, and how many have little.
MANY, OTHERS = 12, 6


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        yield running


def phone(number: int) -> str:
    return f"+5199999{number:04d}"


BUSY = ["busy"] * MANY
QUIET = [f"other {n}" for n in range(OTHERS)]


def arrives(server: ReferenceServer, store: EventStore, account: str, number: int) -> None:
    """One more event, which a worker may answer as soon as its debounce window is over."""
    server.create_conversation(phone_number=phone(number), subdomain="tenant", bot_id="bot")
    event = InboundEvent(
        event_id=f"{number}", phone_number=phone(number), text=account, account=account
    )
    waiting = TurnRunner(
        echo(), client=server.client(), store=store, debounce=0.01, max_debounce=0.01
    )
    waiting.run(event, wait=0.0)


def queue(server: ReferenceServer, store: EventStore, accounts: list[str]) -> None:
    """One event of a customer of their own for each of these accounts, all of them due."""
    keys = run(store.keys())
    for number, account in enumerate(accounts):
        arrives(server, store, account, number)
    for number, account in enumerate(accounts):
        while run(store.due("inbox", keys.conversation(account, phone(number)))):
            pass  # the debounce window


def test_those_with_little_to_do_do_not_wait_for_those_with_a_lot(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """One worker goes round the accounts: each is served before the busy one's second turn."""
    queue(server, event_store, BUSY + QUIET)
    sent: list[Turn] = []

    with TurnRunner(
        echo(), client=server.client(), store=event_store, on_reply=sent.append, workers=1
    ):
        while run(event_store.backlog()).queued:
            pass

    others = {f"re: other {n}" for n in range(OTHERS)}
    assert {turn.reply for turn in sent[: OTHERS + 1]} == {*others, "re: busy"}
    assert [turn.reply for turn in sent[OTHERS + 1 :]] == ["re: busy"] * (MANY - 1)


def test_an_account_whose_agent_hangs_leaves_workers_to_the_others(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """With ``account_concurrency`` below the number of workers, however long its agent takes."""
    queue(server, event_store, BUSY)
    sent: SimpleQueue[Turn] = SimpleQueue()
    released = threading.Event()

    def stuck(messages: list[BaseMessage]) -> AIMessage:
        if messages[-1].content == "busy":
            released.wait(20)
        return reply_to(messages)

    replies = []
    with TurnRunner(
        RunnableLambda(stuck),
        client=server.client(),
        store=event_store,
        on_reply=sent.put,
        workers=2,
        account_concurrency=1,
    ):
        for number, account in enumerate(QUIET, MANY):
            arrives(server, event_store, account, number)
            replies.append(sent.get(timeout=15).reply)
        released.set()
        replies += [sent.get(timeout=15).reply for _ in BUSY]

    assert replies == [f"re: {account}" for account in QUIET + BUSY]


class Gate:
    """ASGI middleware that keeps one session's writes waiting until others have been answered."""

    def __init__(self, app: Any, slow: str, others: int) -> None:
        self._app, self._slow, self._others = app, slow, others
        self.opened = threading.Event()
        self.written: list[bool] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        writes = scope["type"] == "http" and scope["method"] != "GET"
        slow = writes and self._slow in scope["path"]
        if slow:
            assert await asyncio.to_thread(self.opened.wait, 20), "the others starve"
        await self._app(scope, receive, send)
        if writes:
            self.written.append(slow)
            if len(self.written) == self._others:
                self.opened.set()


def test_an_account_whose_writes_hang_leaves_the_others_theirs(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """One worker waits for that server; replies and writes of all the others go on."""
    for number in range(OTHERS + 1):
        server.create_conversation(phone_number=phone(number), subdomain="tenant", bot_id="bot")
    gate = Gate(server._app, server.conversation(phone(0)).session_id, 2 * OTHERS)
    server.stop()
    server._app = gate  # type: ignore[assignment]  # its type names the middleware
    server.start()

    with TurnRunner(echo(), client=server.client(), store=event_store, workers=2) as runner:
        turns = [
            runner.run(
                InboundEvent(
                    event_id="1", phone_number=phone(n), text=f"{n}", account=f"account {n}"
                )
            )
            for n in range(OTHERS + 1)
        ]
        assert gate.opened.wait(20)

    assert {turn.status for turn in turns} == {"answered"}
    assert gate.written == [False] * 2 * OTHERS + [True] * 2
