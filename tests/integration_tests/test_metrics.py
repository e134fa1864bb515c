"""What operators watch: how long everything takes, what fails, what waits."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from langchain_convsync import ConvSyncClient, SQLiteEventStore, WAHAReply, create_app, telemetry
from langchain_convsync.cli._metrics import measured
from langchain_convsync.errors import APIError, ConfigurationError
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests import promises
from tests.faulty_server import CLOSE, HANG, FaultyServer, Script, answers, sends
from tests.promises import CUSTOMER, Answer, echo, said, sync_and_async
from tests.waha_chats import WahaChats, waha_server

PHASES = ("wait", "read", "agent", "commit")
OPERATIONS = ("get_conversation", "add_message")


server = promises.server


def seen(text: str, series: str) -> float:
    """The value of a series; 0 where there is none."""
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return 0.0 if found is None else float(found[1])


@sync_and_async
def test_a_turn_is_timed_phase_by_phase(answer: Answer, server: ReferenceServer) -> None:
    """And each request to the API server by its operation and status."""
    runner = TurnRunner(echo(), client=server.client(), store=SQLiteEventStore(":memory:"))
    phases = [f'convsync_turn_phase_seconds_count{{phase="{phase}"}}' for phase in PHASES]
    requests = [
        f'convsync_api_request_seconds_count{{operation="{name}",status="2xx"}}'
        for name in OPERATIONS
    ]
    before = runner.metrics()
    answer(runner, said("Hola"))
    after = runner.metrics()

    assert [seen(after, each) - seen(before, each) for each in phases] == [1] * len(PHASES)
    # The second look is for what a server may record by itself, where a history begins.
    assert [seen(after, each) - seen(before, each) for each in requests] == [2, 2]
    assert seen(after, 'convsync_delivery_seconds_count{queue="outbox"}') > seen(
        before, 'convsync_delivery_seconds_count{queue="outbox"}'
    )


@sync_and_async
def test_a_reply_is_timed_from_its_commit_until_it_is_sent(
    answer: Answer, server: ReferenceServer
) -> None:
    """By WAHA, or by on_reply."""
    chats, reply = WahaChats(), {"phase": "reply"}
    with waha_server(chats) as url:
        store, sender = SQLiteEventStore(":memory:"), WAHAReply(url)
        runner = TurnRunner(echo(), client=server.client(), store=store, reply=sender)
        before = telemetry.observed("turn_phase", **reply)
        answer(runner, said("Hola", chat_id=f"{CUSTOMER[1:]}@c.us"))
        by_waha = telemetry.observed("turn_phase", **reply) - before
    told = TurnRunner(
        echo(), client=server.client(), store=SQLiteEventStore(":memory:"), on_reply=lambda _: None
    )
    answer(told, said("Hola"))

    assert by_waha == 1
    assert telemetry.observed("turn_phase", **reply) - before == 2


FAULTS: dict[str, tuple[str, Script]] = {
    "refused": ("4xx", answers({"type": "3", "message": "no"}, 401)),
    "failed": ("5xx", answers({"type": "3", "message": "no"}, 500)),
    "html": ("invalid", answers("<p>Hola</p>", content_type="text/html")),
    "an error with 200": ("invalid", answers({"type": "3", "message": "no", "data": None})),
    "cut": ("connection", sends(b"HTTP/1.1 200 OK\r\n", CLOSE)),
    "half": ("connection", sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", CLOSE)),
    "silent": ("timeout", sends(HANG)),
}


@pytest.mark.parametrize(("status", "script"), FAULTS.values(), ids=FAULTS)
def test_what_fails_at_the_api_server_is_counted_by_its_class(status: str, script: Script) -> None:
    """So that an error rate tells a wrong key from a server that is down."""
    labels = {"operation": "get_conversation", "status": status}
    before = telemetry.observed("api_request", **labels)
    with FaultyServer() as faulty:
        faulty.plays(script)
        client = ConvSyncClient(faulty.url, max_retries=0, timeout=0.2)
        with pytest.raises(APIError):
            client.get_conversation(CUSTOMER)
        client.close()

    assert telemetry.observed("api_request", **labels) == before + 1


def test_a_tenants_look_up_is_timed(server: ReferenceServer) -> None:
    """Those that the cache answers, too."""
    before = telemetry.observed("tenant_lookup")
    with server.client() as client:
        client.lookup_tenant(CUSTOMER, "bot123")
        client.lookup_tenant(CUSTOMER, "bot123")

    assert telemetry.observed("tenant_lookup") == before + 2


def test_the_app_tells_what_waits_in_its_store(
    event_store: EventStore, server: ReferenceServer
) -> None:
    """How much, and for how long it is due: nobody answers here, for the app is not started."""
    runner = TurnRunner(
        echo(), client=server.client(), store=event_store, on_reply=lambda _: None, debounce=0.0
    )
    runner.accept(said("Hola"))
    web = TestClient(create_app(runner, waha_secrets="secret"))
    answer = web.get("/metrics")

    assert answer.headers["Content-Type"] == telemetry.CONTENT_TYPE
    assert seen(answer.text, "convsync_store_up") == 1
    assert seen(answer.text, 'convsync_backlog{what="queued"}') == 1
    assert seen(answer.text, 'convsync_backlog{what="dead_letters"}') == 0
    assert seen(answer.text, 'convsync_oldest_due_seconds{queue="inbox"}') > 0
    assert seen(answer.text, 'convsync_oldest_due_seconds{queue="replies"}') == 0


def test_a_store_that_is_away_is_a_metric_too(
    event_store: EventStore, server: ReferenceServer
) -> None:
    """What was counted is told all the same."""
    runner = TurnRunner(echo(), client=server.client(), store=event_store)
    event_store.close()

    for text in (runner.metrics(), asyncio.run(runner.ametrics())):
        assert "\nconvsync_store_up 0\n" in text
        assert "convsync_backlog" not in text
        assert "convsync_turns_failed_total" in text


@pytest.mark.parametrize("quirks", [(), ("prefix",)], ids=["documented", "elsewhere"])
def test_the_reference_server_tells_how_it_answered(quirks: tuple[str, ...]) -> None:
    """By operation and status, wherever it is mounted, and without a key."""
    with ReferenceServer(quirks=quirks) as server:
        with server.client() as client, pytest.raises(APIError):
            client.get_conversation(CUSTOMER)
        with urllib.request.urlopen(f"{server.base_url}/metrics") as answer:
            kind, text = answer.headers["Content-Type"], answer.read().decode()

    asked = 'convsync_server_request_seconds_count{operation="lookup_conversation",status="4xx"}'
    assert kind == telemetry.CONTENT_TYPE
    assert seen(text, asked) >= 1


BOT = """
from langchain_core.runnables import RunnableLambda
from langchain_convsync import TurnRunner

def runner():
    return TurnRunner(RunnableLambda(str), on_reply=print)
"""


def test_a_worker_serves_its_metrics_on_a_port(server: ReferenceServer, tmp_path: Path) -> None:
    """Those, and nothing else."""
    (tmp_path / "bot.py").write_text(BOT)
    store_url = f"sqlite:///{tmp_path / 'events.db'}"
    settings = {"CONVSYNC_BASE_URL": server.base_url, "CONVSYNC_STORE_URL": store_url}
    command = [sys.executable, "-m", "langchain_convsync.cli", "worker", "bot:runner"]
    with subprocess.Popen(
        [*command, "--metrics-port", "0"],
        cwd=tmp_path,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("metrics at ").strip()
        with urllib.request.urlopen(url) as answer:
            kind, text = answer.headers["Content-Type"], answer.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="404") as refusal:
            urllib.request.urlopen(f"{url}/else")
        refusal.value.close()
        process.kill()

    assert kind == telemetry.CONTENT_TYPE
    assert seen(text, "convsync_store_up") == 1


def test_a_worker_whose_port_is_taken_does_not_begin(server: ReferenceServer) -> None:
    """It would work without being watched."""
    runner = TurnRunner(echo(), client=server.client(), store=SQLiteEventStore(":memory:"))
    host, _, port = server.base_url.removeprefix("http://").rpartition(":")

    with (
        pytest.raises(ConfigurationError, match=f"port {port}"),
        measured(runner, (host, int(port))),
    ):
        pass
