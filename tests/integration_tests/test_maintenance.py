"""Something else answers in the server's place for a minute: that costs a minute, and nothing else.

A proxy's page with any status, half an answer, another router's JSON, a key that is not accepted:
whatever is asked, what comes back tells nothing of it. So it is asked again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import count

import httpx
import pytest

from langchain_convsync import ConvSyncClient, SQLiteEventStore, WAHAReply
from langchain_convsync._flow import Io, run
from langchain_convsync.outbox import Outbox, Replies
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.faulty_server import (
    CLOSE,
    RESET,
    Deed,
    FaultyServer,
    Perform,
    Received,
    Script,
    answers,
    head,
    sends,
    sync_and_async,
)
from tests.promises import echo, history, said, spoken
from tests.store_cases import Clock
from tests.waha_chats import WahaChats, waha_server

#: Seconds that it lasts, and those that pass at most until the next look at the server.
MINUTE, LOOK = 60.0, 31.0
HTML = "<html><body>We will be back soon</body></html>"
HALF = json.dumps({"type": "1", "data": {"sessionId": "s"}}).encode()[:-9]


def page(status: int, **headers: object) -> Script:
    return answers(HTML, status, content_type="text/html", **headers)


PAGES: dict[str, Script] = {
    "a page with 200": page(200),
    "a page behind a redirect": page(302, location="https://status.example.com"),
    "a page with 400": page(400),
    "a page with 401": page(401),
    "a page with 403": page(403),
    "a page with 404": page(404),
    "a page with 407": page(407),
    "a page with 503": page(503),
    "its own 401": answers({"type": "3", "message": "Token expired", "data": None}, 401),
    "another router's 401": answers({"message": "Unauthorized"}, 401),
    "another router's 403": answers({"message": "Forbidden"}, 403),
    "another router's 404": answers({"message": "no Route matched with those values"}, 404),
    "another router's 200": answers({"status": "ok"}),
    "truncated JSON": answers(HALF),
    "nothing": answers(b""),
    "another shape": answers({"type": "1", "data": {"sessionId": 7}}),
    "cut off behind the headers": sends(head(200, content_length=99), CLOSE),
    "reset in the body": sends(head(200, content_length=99) + HALF, RESET),
    "a refusal that is cut off": sends(head(400, content_length=99) + b'{"type"', CLOSE),
    "a 404 that is reset": sends(head(404, transfer_encoding="chunked"), RESET),
}
#: Some servers fail like this; to a write, it is a refusal.
READ_ONLY = {"its own error with 200": answers({"type": "3", "message": "down", "data": None})}
#: Every page on the documented server, and one of each kind on those that are written to otherwise.
CASES = [
    *(("", name) for name in PAGES),
    *(
        (quirk, name)
        for quirk in ("keys_ignored", "messages_not_stored", "context_replaced")
        for name in ("a page with 200", "another router's 401", "reset in the body")
    ),
]


class Front:
    """What stands in front of a server: it lets everything pass but for a while.

    Attributes:
        asked: How often something else answered.
    """

    def __init__(self, url: str, clock: Clock, instead: Script, method: str = "") -> None:
        self._client = httpx.Client(base_url=url, verify=False)
        self._clock, self._instead, self._method = clock, instead, method
        self._until = 0.0
        self.asked = 0

    def begins(self) -> None:
        """From now on, for a minute."""
        self._until = self._clock.now + MINUTE

    def close(self) -> None:
        self._client.close()

    def __call__(self, request: Received) -> Iterable[bytes | float | Deed]:
        if self._clock.now < self._until and request.method.startswith(self._method):
            self.asked += 1
            return self._instead(request)
        headers = {"content-type": "application/json"} if request.body else {}
        for name in ("authorization", "idempotency-key"):
            headers |= {name: request.headers[name]} if name in request.headers else {}
        answer = self._client.request(
            request.method, request.target, content=request.body, headers=headers
        )
        return answers(answer.content, answer.status_code)(request)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Pauses between tries move the clock, and take no time."""

    async def wait(seconds: float) -> None:
        clock.advance(seconds)

    monkeypatch.setattr(
        "langchain_convsync.outbox.queue.sleep", lambda seconds: Io(clock.advance, wait, seconds)
    )


@pytest.fixture
def store(clock: Clock) -> Iterator[SQLiteEventStore]:
    opened = SQLiteEventStore(":memory:", clock=clock)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, ReferenceServer]]:
    """A server for each quirk, each of which serves many customers."""
    started: dict[str, ReferenceServer] = {}
    yield started
    for server in started.values():
        server.stop()


_numbers = count(51_900_000_000)


class World:
    """A turn was answered whose writes wait, at a server behind a front."""

    def __init__(
        self, server: ReferenceServer, store: SQLiteEventStore, clock: Clock, faulty: FaultyServer
    ) -> None:
        self.server, self.store, self.clock = server, store, clock
        self.customer = f"+{next(_numbers)}"
        server.create_conversation(
            phone_number=self.customer,
            subdomain="restaurant-abc",
            bot_id="bot123",
            context={"table": "7"},
        )
        self.client = ConvSyncClient(faulty.url, profile=server.profile)
        event = said("Hola", account="ventas", phone_number=self.customer)
        TurnRunner(
            echo(),
            client=self.client,
            store=store,
            extractor=lambda _: {"intent": "order"},
            shutdown_timeout=0.0,
        ).run(event)
        clock.advance(60.0)

    def delivered(self, perform: Perform[bool]) -> float:
        """Deliver what waits; the seconds that it took."""
        acquired = run(self.store.acquire("outbox", "t"))
        assert acquired is not None
        run(self.store.release(acquired.lease, delay=0.0))
        begun = self.clock.now
        outbox = Outbox(self.client.api, self.store, clock=self.clock)
        assert perform(outbox.drain(acquired.lease.conversation_key, budget=600.0))
        self.client.close()
        return self.clock.now - begun

    def assert_complete(self) -> None:
        """Once, in order, and nothing is left for an operator."""
        found = self.server.conversation(self.customer)
        assert history(self.server, self.customer) == spoken(["Hola"])
        assert (found.current_intent, found.context["table"]) == ("order", "7")
        assert run(self.store.backlog()).dead_letters == 0


@sync_and_async
@pytest.mark.parametrize(("quirk", "name"), CASES)
def test_a_minute_costs_the_writes_a_minute(
    *,
    quirk: str,
    name: str,
    perform: Perform[bool],
    servers: dict[str, ReferenceServer],
    store: SQLiteEventStore,
    clock: Clock,
) -> None:
    """Reads that verify and writes alike, on every profile: once, in order, no dead letter."""
    quirks = [quirk] if quirk else []
    server = servers.get(quirk) or servers.setdefault(quirk, ReferenceServer(quirks=quirks).start())
    with FaultyServer() as faulty, closing(Front(server.base_url, clock, PAGES[name])) as front:
        faulty.plays(front)
        world = World(server, store, clock, faulty)
        front.begins()
        took = world.delivered(perform)

    assert front.asked > 3
    assert took <= MINUTE + LOOK + server.profile.settle
    world.assert_complete()


@sync_and_async
@pytest.mark.parametrize("name", [*PAGES, *READ_ONLY])
def test_a_minute_in_the_reads_that_verify_costs_a_minute(
    *,
    name: str,
    perform: Perform[bool],
    servers: dict[str, ReferenceServer],
    store: SQLiteEventStore,
    clock: Clock,
) -> None:
    """A message was recorded and the answer lost; something else answers the looks for it."""
    quirk = "keys_ignored"
    server = servers.get(quirk) or servers.setdefault(
        quirk, ReferenceServer(quirks=[quirk]).start()
    )
    reading = Front(server.base_url, clock, {**PAGES, **READ_ONLY}[name], "GET")
    with FaultyServer() as faulty, closing(reading) as front:
        faulty.plays(front)
        world = World(server, store, clock, faulty)
        lost: list[Received] = []

        def losing(request: Received) -> Iterable[bytes | float | Deed]:
            answer = front(request)
            if request.method == "GET" or lost:
                return answer
            lost.append(request)
            front.begins()
            return sends(CLOSE)(request)

        faulty.plays(losing)
        world.delivered(perform)

    assert front.asked > 1
    world.assert_complete()


#: WAHA's own refusals are JSON; a 2xx is its success in whatever JSON, or without a body.
OWN = {name for name in PAGES if "router" in name} | {"nothing", "another shape", "its own 401"}
UNREADABLE = [
    name for name in PAGES if name not in {"another router's 403", "another router's 404"}
]


class WahaWorld:
    """A turn was answered whose reply was tried once, at a WAHA behind a front."""

    def __init__(
        self, server: ReferenceServer, store: SQLiteEventStore, clock: Clock, url: str
    ) -> None:
        customer = f"+{next(_numbers)}"
        server.create_conversation(
            phone_number=customer, subdomain="restaurant-abc", bot_id="bot123"
        )
        sender = WAHAReply(url, on_unverifiable="resend")
        client = server.client()
        runner = TurnRunner(echo(), client=client, store=store, reply=sender, shutdown_timeout=0.0)
        self._begun = clock.now
        runner.run(said("Hola", account="ventas", phone_number=customer))
        client.close()
        self._store, self._clock, self._sender = store, clock, sender

    def sent(self, perform: Perform[bool]) -> float:
        """Send what waits; the seconds that it took."""
        acquired = run(self._store.acquire("outbox", "t"))
        assert acquired is not None
        replies = Replies(self._sender, self._store, clock=self._clock)
        assert perform(replies.drain(acquired.lease.conversation_key, budget=600.0))
        self._sender.close()
        return self._clock.now - self._begun


@sync_and_async
@pytest.mark.parametrize("name", [name for name in PAGES if name not in OWN])
def test_a_minute_costs_a_reply_a_minute(
    *,
    name: str,
    perform: Perform[bool],
    servers: dict[str, ReferenceServer],
    store: SQLiteEventStore,
    clock: Clock,
) -> None:
    """A page is neither a reply that was sent, nor one that WAHA refuses for good."""
    server = servers.get("") or servers.setdefault("", ReferenceServer().start())
    chats = WahaChats()
    with (
        waha_server(chats) as url,
        FaultyServer() as faulty,
        closing(Front(url, clock, PAGES[name])) as front,
    ):
        faulty.plays(front)
        front.begins()
        took = WahaWorld(server, store, clock, faulty.url).sent(perform)

    assert front.asked > 1
    assert took <= MINUTE + LOOK + 20.0  # what may have been sent is left alone so long
    assert chats.texts == ["re: Hola"]
    assert run(store.backlog()).dead_letters == 0


@sync_and_async
@pytest.mark.parametrize("name", UNREADABLE)
def test_a_minute_in_the_reads_of_a_chat_costs_a_minute(
    *,
    name: str,
    perform: Perform[bool],
    servers: dict[str, ReferenceServer],
    store: SQLiteEventStore,
    clock: Clock,
) -> None:
    """The reply was sent and the answer lost: no page tells that it does not stand there."""
    server = servers.get("") or servers.setdefault("", ReferenceServer().start())
    chats = WahaChats()
    with (
        waha_server(chats) as url,
        FaultyServer() as faulty,
        closing(Front(url, clock, PAGES[name], "GET")) as front,
    ):

        def losing(request: Received) -> Iterable[bytes | float | Deed]:
            if request.method == "GET":
                return front(request)
            front.begins()
            return chats.lost(request)

        faulty.plays(losing)
        WahaWorld(server, store, clock, faulty.url).sent(perform)

    assert front.asked > 1
    assert chats.texts == ["re: Hola"]
    assert run(store.backlog()).replies == 0
