"""One API server for each store: what works for another one is refused, and told the ways out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from typer.testing import CliRunner

from langchain_convsync._flow import Io, Steps, run
from langchain_convsync.callbacks import ConvSyncCallbackHandler
from langchain_convsync.chat_history import ConvSyncChatMessageHistory
from langchain_convsync.cli import command_line
from langchain_convsync.client import ConvSyncClient
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.models import InboundEvent
from langchain_convsync.settings import ServerProfile
from langchain_convsync.stores import (
    EventStore,
    Keys,
    RedisEventStore,
    SQLiteEventStore,
    open_store,
    served,
)
from langchain_convsync.stores.served import name_of
from langchain_convsync.surfaces.context import in_conversation
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.doctor_runs import doctor
from tests.redis_server import RedisServer
from tests.redis_topologies import RedisCluster, until
from tests.store_cases import Do, event
from tests.surfaces import sync_and_async

pytest_plugins = ("tests.store_fixtures",)

PHONE, BOT, TENANT = "+51999999999", "bot123", "restaurant-abc"
REFUSED = r"serves another API server.*store of its own.*namespace.*convsync adopt http"


@pytest.fixture
def production() -> Iterator[ReferenceServer]:
    with serving() as server:
        yield server


@pytest.fixture
def staging() -> Iterator[ReferenceServer]:
    with serving() as server:
        yield server


def serving() -> ReferenceServer:
    server = ReferenceServer().start()
    server.create_conversation(phone_number=PHONE, subdomain=TENANT, bot_id=BOT)
    return server


def runner_for(server: ReferenceServer, store: EventStore) -> TurnRunner:
    agent: Any = RunnableLambda(lambda _: "Hola")
    return TurnRunner(agent, client=server.client(), store=store, on_reply=lambda _: None)


def hola(number: int = 1) -> InboundEvent:
    return InboundEvent(event_id=f"evt_{number}", phone_number=PHONE, text="Hola")


# Runners


@sync_and_async
async def test_a_runner_for_another_api_server_is_refused(
    mode: str, production: ReferenceServer, staging: ReferenceServer, durable_store_url: str
) -> None:
    """Its calls, what a webhook records, and its block; nothing of the other one's is touched."""
    own, other = open_store(durable_store_url), open_store(durable_store_url)
    first, second = runner_for(production, own), runner_for(staging, other)

    async def used(runner: TurnRunner, number: int) -> None:
        if mode == "sync":
            with runner:
                runner.run(hola(number))
        else:
            async with runner:
                await runner.arun(hola(number))

    await used(first, 1)
    with pytest.raises(ConfigurationError, match=REFUSED):
        await used(second, 2)
    outside = runner_for(staging, other)
    with pytest.raises(ConfigurationError, match=REFUSED):
        await outside.arun(hola(2)) if mode == "async" else outside.run(hola(2))
    with pytest.raises(ConfigurationError, match=REFUSED):
        await outside.aaccept(hola(2)) if mode == "async" else outside.accept(hola(2))
    await used(first, 3)

    assert len(production.conversation(PHONE).messages) == 4
    assert staging.conversation(PHONE).messages == []
    assert (await own.backlog().wait()).queued == 0
    for store in (own, other):
        await store.aclose()


def test_workers_rest_where_a_store_is_given_to_another_api_server(
    production: ReferenceServer,
    staging: ReferenceServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They say why, and leave alone what is due, at the end of their block too."""
    monkeypatch.setattr(served, "PERIOD", 0.0)
    url = f"sqlite:///{tmp_path / 'events.db'}"
    store = open_store(url)
    with runner_for(production, open_store(url)) as first:
        first.run(hola())
        adopt(url, f"{staging.base_url}/api/v1/whatsapp", "--only")
        runner_for(staging, store).accept(hola(2))
        until(lambda: "this store serves another" in caplog.text)
        with pytest.raises(ConfigurationError, match=REFUSED):
            first.accept(hola(3))
    first.store.close()

    assert run(store.backlog()).queued == 1
    assert len(production.conversation(PHONE).messages) == 2
    store.close()


# Surfaces with a store


def test_a_history_for_another_api_server_is_refused(
    production: ReferenceServer, staging: ReferenceServer, tmp_path: Path
) -> None:
    """Reading and writing."""
    store = SQLiteEventStore(tmp_path / "events.db")
    own = ConvSyncChatMessageHistory(PHONE, client=production.client(), store=store)
    own.add_messages([HumanMessage("Hola"), AIMessage("¿Qué deseas?")])
    other = ConvSyncChatMessageHistory(PHONE, client=staging.client(), store=store)

    with pytest.raises(ConfigurationError, match=REFUSED):
        other.add_messages([HumanMessage("Hola")])
    with pytest.raises(ConfigurationError, match=REFUSED):
        _ = other.messages

    assert len(own.messages) == 2
    assert staging.conversation(PHONE).messages == []
    store.close()


def test_a_sync_for_another_api_server_is_refused(
    production: ReferenceServer, staging: ReferenceServer, tmp_path: Path
) -> None:
    """Both count their events alike: what one has done once would be done for the other."""
    store = SQLiteEventStore(tmp_path / "events.db")
    agent: Any = RunnableLambda(lambda _: {"intent": "order"})
    for server in (production, staging):
        handler = ConvSyncCallbackHandler(
            server.client(), store=store, extractor=lambda out: out, raise_error=True
        )
        with in_conversation(PHONE, event_id="evt_1"):
            if server is staging:
                with pytest.raises(ConfigurationError, match=REFUSED):
                    agent.invoke("Hola", {"callbacks": [handler]})
            else:
                agent.invoke("Hola", {"callbacks": [handler]})

    assert production.conversation(PHONE).current_intent == "order"
    store.close()


# The way out


def adopt(url: str, address: str, *options: str) -> str:
    done = CliRunner().invoke(command_line(), ["adopt", address, "--store", url, *options])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_server_that_moved_is_adopted(
    production: ReferenceServer, staging: ReferenceServer, durable_store_url: str
) -> None:
    """By the command that the error names; the old address goes on working beside it."""
    first = runner_for(production, open_store(durable_store_url))
    first.run(hola())
    second = runner_for(staging, open_store(durable_store_url))
    with pytest.raises(ConfigurationError) as refused:
        second.run(hola(2))

    address = str(refused.value).rpartition("convsync adopt ")[2]
    told = adopt(durable_store_url, address)

    assert "one of 2 addresses" in told
    assert second.run(hola(2)).status == "answered"
    assert first.run(hola(3)).status == "answered"
    assert json.loads(adopt(durable_store_url, address, "--only", "--json"))["addresses"] == 1
    for runner in (first, second):
        runner.store.close()


def test_two_names_of_one_deployment_share_a_store(tmp_path: Path) -> None:
    """The inner and the outer one; without a path, the documented prefix is meant."""
    url = f"sqlite:///{tmp_path / 'events.db'}"
    store = open_store(url)
    run(served.require_served(store, "http://api:8000/api/v1/whatsapp"))

    adopt(url, "https://api.example.com")

    run(served.require_served(store, "https://api.example.com/api/v1/whatsapp"))
    store.close()


def test_a_stores_namespace_is_a_way_out(
    production: ReferenceServer, staging: ReferenceServer, server: RedisServer
) -> None:
    """Staging and production on one Redis."""
    one, two = RedisEventStore(server.url), RedisEventStore(server.url, namespace="staging")

    for api, store in ((production, one), (staging, two)):
        assert runner_for(api, store).run(hola()).status == "answered"
        store.close()


# A server of this machine


def test_a_server_with_another_port_each_time_is_the_next_one(tmp_path: Path) -> None:
    """Tests and notebooks keep their file: what was served is gone, and nothing is left to do."""
    store = SQLiteEventStore(tmp_path / "events.db")
    for number in (1, 2):
        with serving() as server:
            assert runner_for(server, store).run(hola(number)).status == "answered"
    store.close()


def test_what_is_left_to_do_for_a_server_that_is_gone_is_told(
    staging: ReferenceServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is answered by the next one: a developer's day goes on."""
    store = SQLiteEventStore(tmp_path / "events.db")
    with serving() as gone:
        runner_for(gone, store).accept(hola())

    assert runner_for(staging, store).run(hola(2)).status == "answered"
    assert "also what is left: 1 event," in caplog.text
    store.close()


@pytest.mark.parametrize("durable", ["sqlite", "redis"])
def test_a_store_that_is_begun_anew_is_not_given_to_another_server(
    production: ReferenceServer,
    staging: ReferenceServer,
    tmp_path: Path,
    durable: str,
    request: pytest.FixtureRequest,
) -> None:
    """Whoever works on it says at once whose it is, though it has said so before."""
    path = tmp_path / "events.db"
    redis: RedisServer | None = None
    if durable == "redis":
        redis = request.getfixturevalue("redis_server")
        redis.empty()
    store = open_store(redis.url if redis else f"sqlite:///{path}")
    own = runner_for(production, store)
    own.run(hola())
    if redis is None:
        path.unlink()
    else:
        redis.empty()
    own.run(hola(2))
    own.run(hola(3))

    other = open_store(redis.url if redis else f"sqlite:///{path}")
    with pytest.raises(ConfigurationError, match=REFUSED):
        runner_for(staging, other).accept(hola(4))
    other.close()
    store.close()


# Addresses


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://api.example.com/api/v1/whatsapp", "https://API.example.com:443/api/v1/whatsapp"),
        ("http://localhost:8000/w", "http://127.0.0.1:8000/w"),
    ],
)
def test_one_address_may_be_written_in_several_ways(one: str, other: str) -> None:
    """Case, the usual port, this machine."""
    assert name_of(Keys(b"k"), one) == name_of(Keys(b"k"), other)


@pytest.mark.parametrize(
    "other",
    [
        "https://staging.example.com/api/v1/whatsapp",
        "https://api.example.com:8443/api/v1/whatsapp",
        "https://api.example.com/staging/api/v1/whatsapp",
        "https://api.example.com/api/v1/whatsapp-providers",
    ],
)
def test_host_port_path_and_prefix_tell_servers_apart(other: str) -> None:
    """Each may be another deployment."""
    keys = Keys(b"k")

    assert name_of(keys, other) != name_of(keys, "https://api.example.com/api/v1/whatsapp")


def test_a_store_keeps_no_address(do: Do, store: EventStore) -> None:
    """A name is made with the store's secret: nobody can guess what it stands for."""
    client = ConvSyncClient("https://api.example.com", profile=ServerProfile())
    do(Steps(lambda: served.require_served(store, client.api.address)))
    (name,) = do(store.serve())

    assert len(name) == 32
    assert name != name_of(Keys(b"k"), client.api.address)


# Stores


def test_the_first_server_is_noted_and_others_only_on_demand(do: Do, store: EventStore) -> None:
    """The same call again answers the same."""
    assert do(store.serve()) == ()
    for _ in range(2):
        assert do(store.serve("b")) == ("b",)
        assert do(store.serve("a")) == ("b",)
    for _ in range(2):
        assert do(store.serve("a", adopt="also")) == ("a", "b")
    for _ in range(2):
        assert do(store.serve("c", adopt="only")) == ("c",)


def test_a_cluster_knows_it_on_each_node(cluster: RedisCluster, do: Do) -> None:
    """Whoever asks, and whatever work lies where."""
    one, two = RedisEventStore(cluster.url), RedisEventStore(cluster.url)
    for account in ("ventas", "cocina", "bar"):
        do(one.accept(event(account=account)))
    assert do(one.serve("a")) == ("a",)
    assert do(two.serve("b")) == ("a",)
    for store in (one, two):
        do(Io(store.close, store.aclose))


# Doctor


def test_doctor_tells_which_api_server_a_store_serves(
    production: ReferenceServer, staging: ReferenceServer, durable_store_url: str
) -> None:
    """None yet, the configured one, or another one and the ways out."""
    store = open_store(durable_store_url)
    run(store.keys())

    def found(server: ReferenceServer) -> dict[str, str]:
        report = doctor("--store", durable_store_url, "--base-url", server.base_url)
        return report.of("store", "API server")

    assert "none yet" in found(production)["message"]
    runner_for(production, store).run(hola())
    assert found(production)["status"] == "ok"
    other = found(staging)
    assert other["status"] == "failed"
    assert f"convsync adopt {staging.base_url}/api/v1/whatsapp" in other["advice"]
    store.close()
