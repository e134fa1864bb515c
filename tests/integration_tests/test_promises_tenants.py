"""Many tenants with the same customers, the same event ids and one store: no word crosses over."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync._flow import run
from langchain_convsync.models import InboundEvent, StateUpdate
from langchain_convsync.settings import CallTarget
from langchain_convsync.stores import open_store
from langchain_convsync.surfaces.context import ConversationRef
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner
from langchain_convsync.turns.naming import Naming
from tests.promises import Answer, sync_and_async
from tests.redis_server import RedisServer
from tests.stored import ACCOUNT, redis_records, sqlite_records

PHONES, TURNS = 20, 2
MARK = re.compile(r"tenant-[0-9]{2}")
#: (tenant, customer)
Pairs: TypeAlias = list[tuple[int, int]]


@pytest.fixture(params=[24, pytest.param(50, marks=pytest.mark.slow)])
def tenants(request: pytest.FixtureRequest) -> int:
    """How many there are."""
    count: int = request.param
    return count


@pytest.fixture
def pairs(tenants: int) -> Pairs:
    """Customers have several tenants, and tenants alternate."""
    return sorted(
        {(tenant, tenant % PHONES) for tenant in range(tenants)}
        | {(tenant, tenant * 3 % PHONES) for tenant in range(0, tenants, 3)},
        key=lambda pair: (pair[1], pair[0]),
    )


def mark(tenant: int) -> str:
    """The word that everything of a tenant holds, and nothing of another."""
    return f"tenant-{tenant:02d}"


def customer(phone: int) -> str:
    return f"+51999999{phone:03d}"


def message(tenant: int, phone: int, turn: int) -> InboundEvent:
    """The same event id in every tenant."""
    return InboundEvent(
        event_id=f"evt-{phone}-{turn}",
        phone_number=customer(phone),
        text=f"message {turn} to {mark(tenant)}",
        account=f"account of {mark(tenant)}",
        bot_id=f"bot-of-{mark(tenant)}",
        subdomain=mark(tenant),
    )


class World:
    """One server, one runner, and everything that any tenant's agent or request was told."""

    def __init__(
        self, server: ReferenceServer, store_url: str, answer: Answer, pairs: Pairs
    ) -> None:
        self.server, self._answer, self._pairs = server, answer, pairs
        self.store = open_store(store_url)
        self.agents: Counter[str] = Counter()
        self.told: defaultdict[str, list[str]] = defaultdict(list)
        self.runner = TurnRunner(
            self.agent_of,
            client=server.client(api_key=key_of),
            store=self.store,
            extractor=lambda reply: StateUpdate(step=reply.content, context={"of": reply.content}),
        )

    def agent_of(self, ref: ConversationRef) -> RunnableLambda[Any, Any]:
        tenant = ref.subdomain or ""
        self.agents[tenant] += 1

        def reply(messages: list[BaseMessage]) -> AIMessage:
            self.told[tenant].append(" ".join(str(each.content) for each in messages))
            return AIMessage(f"{tenant} says {len(messages)}")

        return RunnableLambda(reply)

    def converse(self) -> dict[tuple[int, int], list[Turn]]:
        """Every pair's turns, all pairs at once."""
        turns: defaultdict[tuple[int, int], list[Turn]] = defaultdict(list)
        for number in range(TURNS):
            with ThreadPoolExecutor(4) as pool:
                events = [message(*pair, number) for pair in self._pairs]
                for pair, turn in zip(
                    self._pairs,
                    pool.map(lambda e: self._answer(self.runner, e), events),
                    strict=True,
                ):
                    turns[pair].append(turn)
        return turns

    def leave_queued(self) -> None:
        """One more message of every pair, which nobody answers."""
        waiting = TurnRunner(
            self.agent_of,
            client=self.server.client(),
            store=self.store,
            debounce=60.0,
            max_debounce=60.0,
        )
        for pair in self._pairs:
            waiting.run(message(*pair, TURNS), wait=0.0)


def key_of(target: CallTarget) -> str:
    """The API key of a tenant, which says whose it is."""
    return f"key-of-{target.subdomain}"


class Eavesdropper:
    """ASGI middleware that keeps every request whole, with the key it came with."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.requests: list[tuple[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = [scope["raw_path"], scope["query_string"]]

        async def listening() -> Any:
            message = await receive()
            seen.append(message.get("body", b""))
            return message

        await self._app(scope, listening, send)
        key = dict(scope["headers"])[b"authorization"].decode()
        self.requests.append((key, b" ".join(seen).decode()))


@pytest.fixture
def eavesdropper(server: ReferenceServer) -> Eavesdropper:
    """Hears everything that is said to the server."""
    listening = Eavesdropper(server._app)
    server.stop()
    server._app = listening  # type: ignore[assignment]  # its type names the middleware
    server.start()
    return listening


@pytest.fixture
def server(pairs: Pairs) -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        for tenant, phone in pairs:
            running.create_conversation(
                phone_number=customer(phone),
                subdomain=mark(tenant),
                bot_id=f"bot-of-{mark(tenant)}",
            )
        yield running


def records(request: pytest.FixtureRequest, store_url: str) -> list[tuple[str, bytes]]:
    """Everything in the store."""
    if store_url.startswith("sqlite:///"):
        return list(sqlite_records(Path(store_url.removeprefix("sqlite:///"))))
    server: RedisServer = request.getfixturevalue("redis_server")
    return list(redis_records(server))


@sync_and_async
def test_no_word_of_one_tenant_reaches_another(
    answer: Answer,
    tenants: int,
    pairs: Pairs,
    server: ReferenceServer,
    eavesdropper: Eavesdropper,
    durable_store_url: str,
    request: pytest.FixtureRequest,
) -> None:
    """Not its history, state, reply, stored records, agent, nor a request under its key."""
    world = World(server, durable_store_url, answer, pairs)
    naming = Naming(world.store)
    accounts = {run(naming.account(message(n, 0, 0))): mark(n) for n in range(tenants)}

    turns = world.converse()
    world.leave_queued()

    for (tenant, phone), (first, second) in turns.items():
        own = mark(tenant)
        assert (first.status, second.status) == ("answered", "answered")
        assert (first.reply, second.reply) == (f"{own} says 1", f"{own} says 3")
        kept = server.conversation(customer(phone), f"bot-of-{own}")
        assert len(kept.messages) == 2 * TURNS
        assert set(MARK.findall(kept.model_dump_json())) == {own}
        assert kept.current_step == f"{own} says 3"
    for tenant_mark, inputs in world.told.items():
        assert set(MARK.findall(" ".join(inputs))) == {tenant_mark}
    assert world.agents == Counter(mark(n) for n in range(tenants))
    for key, whole in eavesdropper.requests:
        assert set(MARK.findall(whole)) <= set(MARK.findall(key)), whole
    bearers = {f"Bearer key-of-{mark(n)}" for n in range(tenants)}
    assert {key for key, _ in eavesdropper.requests} == bearers
    stored = records(request, durable_store_url)
    telling = 0
    for name, record in stored:
        owners = {accounts.get(found.decode()) for found in ACCOUNT.findall(record)}
        marks = set(MARK.findall(record.decode(errors="replace")))
        assert not marks or marks == owners, name
        telling += bool(marks)
    assert telling >= 3 * len(pairs)  # finished and queued events, and what is known without an API
    world.store.close()
