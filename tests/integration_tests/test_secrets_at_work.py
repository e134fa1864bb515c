"""Every secret in use, over real HTTP and Redis, and everything logged: none is found anywhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from starlette.testclient import TestClient

from langchain_convsync import (
    ConvSyncClient,
    ConvSyncError,
    InboundEvent,
    RedisEventStore,
    TurnRunner,
    WAHAReply,
    create_app,
    telemetry,
)
from langchain_convsync.server import ApiKey, Forwarding, JwtRules, Tenant
from langchain_convsync.testing import ReferenceServer
from tests.agent_webhook import agent_webhook
from tests.canary import CANARY, told_by
from tests.faulty_server import Deed, FaultyServer, Received, answers
from tests.forgeries import signed
from tests.promises import CUSTOMER, echo, said
from tests.redis_acl import permit
from tests.redis_server import RedisServer
from tests.redis_topologies import until
from tests.served import Tracer
from tests.tokens import token
from tests.waha_chats import WahaChats, waha_server

API_KEY, JWT_SECRET, WAHA_KEY, HMAC_KEY, NEXT_KEY, FORWARD_KEY, REDIS_PASSWORD = (
    f"{CANARY}-{name}" for name in ("api", "jwt", "waha", "hmac", "next", "forward", "redis")
)
CHAT = f"{CUSTOMER[1:]}@c.us"
DELIVERY = {
    "event": "message",
    "session": "default",
    "payload": {"id": f"false_{CHAT}_3EB0A1", "from": CHAT, "fromMe": False, "body": "Hola"},
}


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Everything, of every library."""
    caplog.set_level(logging.DEBUG)
    return caplog


class World:
    """The whole way of a message, with a secret at every step."""

    def __init__(self, stack: ExitStack, redis: RedisServer) -> None:
        self.webhook = stack.enter_context(agent_webhook())
        self.server = stack.enter_context(
            ReferenceServer(
                tenants={"default": Tenant("restaurant-abc", "bot123")},
                api_keys=[ApiKey.of(API_KEY, name="abc", tenants="*")],
                jwt=JwtRules(key=JWT_SECRET),
                forwarding=Forwarding(url=self.webhook.url, secret=FORWARD_KEY),
            )
        )
        self.chats = WahaChats()
        self.waha_url = stack.enter_context(waha_server(self.chats))
        user = permit(redis, "canary", f">{REDIS_PASSWORD}")
        self.store_url = f"redis://canary:{REDIS_PASSWORD}@{user.rpartition('@')[2]}"
        self.store = RedisEventStore(self.store_url)
        self.tracer = Tracer()
        self.runner = TurnRunner(
            echo().with_config(callbacks=[self.tracer]),
            client=self.server.client(api_key=API_KEY),
            store=self.store,
            reply=WAHAReply(self.waha_url, api_key=WAHA_KEY),
        )
        stack.callback(self.store.close)


@pytest.fixture
def world(redis_server: RedisServer) -> Iterator[World]:
    redis_server.empty()
    with ExitStack() as stack:
        yield World(stack, redis_server)


def refusals(world: World) -> dict[str, Callable[[], object]]:
    """What goes wrong with a secret at hand: each raises, or tells a failed turn."""
    wrong = f"{CANARY}-wrong"
    url = world.server.base_url
    return {
        "a wrong key": lambda: ConvSyncClient(url, api_key=wrong).get_conversation(CUSTOMER),
        "a forged token": lambda: ConvSyncClient(
            url, api_key=token(f"{CANARY}-{CANARY}")
        ).get_conversation(CUSTOMER),
        "a key that no header carries": lambda: ConvSyncClient(url, api_key=f"{CANARY}\n{CANARY}"),
        "a callable's": lambda: ConvSyncClient(
            url, api_key=lambda _: f"{CANARY}\n{CANARY}"
        ).get_conversation(CUSTOMER),
        "a wrong password": lambda: (
            RedisEventStore(world.store_url.replace(REDIS_PASSWORD, wrong)).backlog().block()
        ),
        "a wrong user": lambda: (
            RedisEventStore(world.store_url.replace("canary:", "nobody:")).backlog().block()
        ),
        "an empty secret": lambda: create_app(world.runner, waha_secrets=[HMAC_KEY, ""]),
        "half a character": lambda: create_app(world.runner, waha_secrets=[f"{CANARY}\ud800"]),
    }


def test_no_secret_is_logged_traced_or_told(
    world: World, logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all goes well, where a secret is wrong, and where the other side says it back."""
    monkeypatch.setattr("langchain_convsync.stores.redis.clients.RETRIES", ())
    told: dict[str, str] = {}
    world.webhook.answers.append((500, ""))
    world.server.deliver(DELIVERY)
    app = create_app(world.runner, waha_secrets=[HMAC_KEY, NEXT_KEY])
    with TestClient(app) as web:
        raw = b'{"event_id": "evt_1", "phone_number": "+51999999999", "message": "Hola"}'
        statuses = [
            web.post("/webhook", content=raw, headers={"X-Webhook-Hmac": signature}).status_code
            for signature in (signed(raw, NEXT_KEY), HMAC_KEY, signed(raw, f"{CANARY}-wrong"))
        ]
        until(lambda: world.chats.texts)
    until(lambda: world.webhook.texts)
    for name, refused in refusals(world).items():
        with pytest.raises(ConvSyncError) as error:
            refused()
        told[name] = told_by(error.value)
    told |= gossip(world)
    told["metrics"] = telemetry.exposition()
    told["traces"] = "".join(world.tracer.exported)
    told["log"] = logged.text + repr([record.__dict__ for record in logged.records])

    assert statuses == [200, 401, 401]
    assert world.chats.keys == {WAHA_KEY}  # every secret was used
    assert "Hola" in told["traces"]
    assert "langchain_convsync" in told["log"]
    assert {name for name, text in told.items() if CANARY in text} == set()


def gossip(world: World) -> dict[str, str]:
    """An API server and a WAHA that answer with the headers that they were sent."""
    told = {}
    for status in (401, 422):
        with FaultyServer() as faulty, world.server.client(api_key=API_KEY) as working:
            faulty.plays(partial(_repeated, status=status))
            client = ConvSyncClient(faulty.url, api_key=API_KEY, max_retries=0)
            sender = WAHAReply(faulty.url, api_key=WAHA_KEY, settle=0.0)
            runners = {
                "API": TurnRunner(echo(), client=client, store=world.store, shutdown_timeout=0.01),
                "WAHA": TurnRunner(
                    echo(), client=working, store=world.store, reply=sender, shutdown_timeout=0.01
                ),
            }
            for name, runner in runners.items():
                event = said(f"{name} {status}", account=f"{name} {status}")
                told[event.text] = outcome(runner, event)
            client.close()
    return told


def outcome(runner: TurnRunner, event: InboundEvent) -> str:
    """What a caller can print of a call."""
    try:
        turn = runner.run(event, 0.0)
    except ConvSyncError as error:
        return told_by(error)
    return f"{turn!r} {'' if turn.error is None else told_by(turn.error)}"


def _repeated(request: Received, *, status: int) -> Iterable[bytes | float | Deed]:
    said_back = {"type": "3", "message": str(request.headers), "data": request.headers}
    return answers(said_back, status)(request)
