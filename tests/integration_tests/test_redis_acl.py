"""A Redis user with the page's permissions: enough for everything, and none too many."""

from __future__ import annotations

import asyncio
import logging

import pytest
import redis

from langchain_convsync import RedisEventStore, TurnRunner, WAHAReply, once
from langchain_convsync.stores.base import AcceptRules
from tests.promises import CUSTOMER, echo, history, said, served, spoken
from tests.redis_acl import COMMANDS, permit
from tests.redis_server import RedisServer
from tests.store_cases import CALLS, conversation, event, ready
from tests.waha_chats import WahaChats, waha_server

pytest_plugins = ("tests.store_fixtures",)

#: What every user may do.
ALWAYS = {"auth", "hello"}
#: What the test itself asks for.
OURS = {"config|resetstat"}


def commands_of(server: RedisServer) -> set[str]:
    with server.client() as admin:
        told = admin.execute_command("INFO", "commandstats")
    return {name.removeprefix("cmdstat_").lower() for name in told} - ALWAYS - OURS


def use_everything(url: str) -> None:
    """Every operation of a store, and a runner that answers, sends, pauses and forgets."""
    store = RedisEventStore(url)
    has = ready(store)
    for call in CALLS.values():
        call(store, has).block()
    store.accept(event("9", customer="zoe"), AcceptRules(account_concurrency=1), token="9").block()
    store.forget(conversation()).block()
    listener = store.listen()
    while not listener.is_sure:
        listener.wait(5.0).block()
    listener.wait(0.01).block()  # and as nothing is heard, it asks whether the server is there
    listener.close()
    with once(store, "evt_1") as claim:
        claim.complete("handled")

    chats, server = WahaChats(), served()
    with waha_server(chats) as waha_url:
        runner = TurnRunner(echo(), client=server.client(), store=store, reply=WAHAReply(waha_url))
        assert runner.run(said("Hola")).status == "answered"
        assert asyncio.run(runner.arun(said("¿Hay pizza?"))).status == "answered"
        runner.pause(CUSTOMER, seconds=1.0)
        runner.resume(CUSTOMER)
    assert history(server) == spoken(["Hola", "¿Hay pizza?"])
    assert chats.texts == ["re: Hola", "re: ¿Hay pizza?"]
    server.stop()
    store.close()


def test_the_documented_permissions_suffice_and_all_of_them_are_used(server: RedisServer) -> None:
    """The whole engine under them; what nothing uses any more is to leave the page."""
    url = permit(server, "full")
    with server.client() as admin:
        admin.script_flush()  # or it may know them all from other tests
        admin.config_resetstat()

    use_everything(url)

    assert commands_of(server) == COMMANDS


def test_without_info_only_the_check_of_the_server_is_skipped(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """With a word in the log."""
    store = RedisEventStore(permit(server, "blind", without="info"))
    with caplog.at_level(logging.INFO):
        store.backlog().block()
    store.close()

    assert [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.parametrize(
    "command",
    ["GET other", "SET other 1", "EVAL return 1 other", "KEYS *", "FLUSHALL", "CONFIG GET *"],
)
def test_the_documented_permissions_reach_nothing_else(server: RedisServer, command: str) -> None:
    """Neither another application's keys, nor what administers the server."""
    with server.client() as admin:
        admin.execute_command(*command.split(" "))  # it is a command
    url = permit(server, "narrow")

    with redis.Redis.from_url(url) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split(" "))


def test_a_database_of_its_own_needs_select(server: RedisServer) -> None:
    """As the page says."""
    url = permit(server, "numbered", "+select")
    store = RedisEventStore(f"{url.removesuffix('/0')}/1")
    store.accept(event()).block()
    store.close()


def test_waiting_for_replicas_needs_wait(server: RedisServer) -> None:
    """As the page says."""
    url = permit(server, "waiting", "+wait")
    with RedisServer(replicaof=f"127.0.0.1 {server.port}") as replica, replica.client() as admin:
        while admin.info("replication")["master_link_status"] != "up":
            pass
        store = RedisEventStore(url, wait_replicas=1)
        store.accept(event()).block()
        store.close()
