"""``ReferenceServer``: a real API server inside a test or notebook, which leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from langchain_convsync.errors import (
    ClosedError,
    ConfigurationError,
    ConversationNotFoundError,
    InvalidPhoneNumberError,
)
from langchain_convsync.models import ConversationMessage
from langchain_convsync.server import Tenant
from langchain_convsync.testing import ReferenceServer
from tests.redis_topologies import until

API = "/api/v1/whatsapp"
PHONE = "+51999999999"
ABC: Any = {"subdomain": "restaurant-abc", "bot_id": "bot123"}
EVENT = {
    "event": "message",
    "session": "default",
    "payload": {"id": "false_51999999999@c.us_A", "from": "51999999999@c.us", "body": "Hola"},
}


def tenant_of(server: ReferenceServer) -> httpx.Response:
    return httpx.get(f"{server.base_url}{API}/lookup/tenant/{PHONE}", trust_env=False)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_it_answers_over_http() -> None:
    """The quick start of the documentation."""
    with ReferenceServer() as server:
        created = server.create_conversation(phone_number=PHONE, **ABC)

        answer = tenant_of(server)

    assert answer.json()["data"]["sessionId"] == created.session_id
    assert (created.subdomain, created.bot_id, created.user_id) == (*ABC.values(), PHONE)


def test_a_conversation_can_begin_in_any_state() -> None:
    """Tests start in the middle of an order."""
    with ReferenceServer() as server:
        created = server.create_conversation(
            phone_number="51999999999@c.us",
            **ABC,
            intent="order",
            step="selecting",
            context={"orderTotal": 25, "previousMessages": [{"role": "user", "content": "Hola"}]},
            metadata={"language": "es"},
        )

        assert created == server.conversation(PHONE, "bot123")
    assert (created.current_intent, created.current_step) == ("order", "selecting")
    assert (created.previous_intent, created.previous_step) == (None, None)
    assert created.context["orderTotal"] == 25
    assert [(message.role, message.content) for message in created.messages] == [("user", "Hola")]
    assert created.metadata == {"platform": "whatsapp", "language": "es"}


@pytest.mark.parametrize("name", ["", "hello", "123@newsletter"])
def test_a_conversation_needs_a_customer(name: str) -> None:
    """A typing error in a test is an error, not a conversation that no look-up finds."""
    with pytest.raises(InvalidPhoneNumberError):
        ReferenceServer().create_conversation(phone_number=name, **ABC)


def test_a_conversation_needs_a_well_formed_tenant() -> None:
    """As on the server."""
    with pytest.raises(ConfigurationError, match="subdomain"):
        ReferenceServer().create_conversation(phone_number=PHONE, subdomain="a/b", bot_id="b")


def test_what_is_held_can_be_read_back() -> None:
    """Closed and expired conversations, too: a test wants to see how it ended."""
    with ReferenceServer() as server:
        created = server.create_conversation(phone_number=PHONE, **ABC)
        path = f"{server.base_url}{API}/agent/conversations/{created.session_id}/sync"
        httpx.put(path, json={"isActive": False}, trust_env=False).raise_for_status()

        assert server.conversation(PHONE).is_active is False


def test_what_never_was_cannot_be_read_back() -> None:
    """The error is the client's own, so that tests can expect either."""
    with pytest.raises(ConversationNotFoundError):
        ReferenceServer().conversation(PHONE)


def test_a_conversation_can_expire_now() -> None:
    """Without waiting for 24 hours."""
    with ReferenceServer() as server:
        created = server.create_conversation(phone_number=PHONE, **ABC)

        server.expire(created.session_id)

        assert tenant_of(server).status_code == 404
        assert server.conversation(PHONE).expired(datetime.now(UTC))


def test_the_clock_can_be_the_tests_own() -> None:
    """Timestamps become predictable."""
    noon = datetime(2025, 12, 29, 12, tzinfo=UTC)

    created = ReferenceServer(clock=lambda: noon).create_conversation(
        phone_number=PHONE, **ABC, context={"previousMessages": [{"role": "bot", "content": "x"}]}
    )

    assert created.created_at == noon
    assert created.messages == [ConversationMessage(role="bot", content="x", timestamp=noon)]


@pytest.mark.parametrize("source", ["configuration", "metadata"])
def test_a_waha_event_can_be_delivered(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the server's own webhook, over HTTP, and past any proxy of the machine."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    tenants = {"default": Tenant(**ABC)} if source == "configuration" else {}
    event = EVENT if tenants else {**EVENT, "metadata": {"subdomain": "a", "bot.id": "b"}}
    with ReferenceServer(tenants=tenants) as server:
        done = server.deliver(event)

        assert done["accepted"] is True
        assert server.conversation(PHONE).session_id == done["sessionId"]


def test_it_counts_what_was_asked() -> None:
    """For assertions about round trips; routes, not phone numbers."""
    with ReferenceServer() as server:
        server.create_conversation(phone_number=PHONE, **ABC)
        server.conversation(PHONE)
        tenant_of(server)
        httpx.get(f"{server.base_url}/nowhere", trust_env=False)

        assert server.requests == [
            ("GET", f"{API}/lookup/tenant/{{phoneNumber}}", 200),
            ("GET", "(no route)", 404),
        ]


def test_its_log_holds_no_phone_number(caplog: pytest.LogCaptureFixture) -> None:
    """However talkative the logging of the test run is."""
    caplog.set_level("DEBUG")
    with ReferenceServer() as server:
        tenant_of(server)
        server.deliver(EVENT)

    lines = [line.getMessage() for line in caplog.records if not line.name.startswith("http")]
    assert lines
    assert "51999999999" not in "".join(lines)


def test_its_client_knows_where_it_is_and_what_it_can() -> None:
    """Idempotency keys are honoured, so the client may send them."""
    with ReferenceServer() as server, server.client() as client:
        server.create_conversation(phone_number=PHONE, **ABC)

        assert client.lookup_tenant(PHONE).subdomain == "restaurant-abc"
    assert server.profile.idempotency_keys


async def test_its_async_client_does_too() -> None:
    """Async, beside a running event loop."""
    with ReferenceServer() as server:
        server.create_conversation(phone_number=PHONE, **ABC)
        async with server.async_client() as client:
            tenant = await client.lookup_tenant(PHONE)

    assert tenant.subdomain == "restaurant-abc"


async def test_it_runs_beside_a_running_event_loop() -> None:
    """As in a notebook: the server has a loop of its own."""
    with ReferenceServer() as server:
        async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
            answers = await asyncio.gather(*(client.get(f"{API}/health") for _ in range(5)))

    assert [answer.status_code for answer in answers] == [200] * 5


def test_two_servers_know_nothing_of_each_other() -> None:
    """Each has its own port and its own conversations."""
    with ReferenceServer() as first, ReferenceServer() as second:
        first.create_conversation(phone_number=PHONE, **ABC)

        assert tenant_of(first).status_code == 200
        assert tenant_of(second).status_code == 404


def test_it_starts_again_where_it_was() -> None:
    """The same port and the same conversations: an outage that ends."""
    server = ReferenceServer().start()
    server.create_conversation(phone_number=PHONE, **ABC)
    before = server.base_url
    server.stop()
    with pytest.raises(httpx.ConnectError):
        tenant_of(server)

    with server:
        assert server.base_url == before
        assert tenant_of(server).status_code == 200


def test_starting_and_stopping_twice_is_harmless() -> None:
    """Notebook cells run more than once."""
    server = ReferenceServer().start()
    assert server.start() is server
    server.stop()
    server.stop()


def test_it_has_no_url_before_it_starts() -> None:
    """The error says how to start it."""
    with pytest.raises(ClosedError, match=r"start\(\)"):
        _ = ReferenceServer().base_url


def test_its_conversations_can_be_kept_in_a_file(tmp_path: Path) -> None:
    """For whoever wants to look at them with another tool."""
    url = f"sqlite:///{tmp_path / 'api.db'}"
    with ReferenceServer(url) as server:
        server.create_conversation(phone_number=PHONE, **ABC)

    with ReferenceServer(url) as again:
        assert tenant_of(again).status_code == 200


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
@pytest.mark.parametrize("end", ["stop", "forget"])
def test_it_leaves_nothing_behind(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread, no socket, no file: also where the test does not stop it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gc.collect()
    threads, files = threading.active_count(), open_files()

    server: Any = ReferenceServer().start()
    server.create_conversation(phone_number=PHONE, **ABC)
    tenant_of(server).raise_for_status()
    if end == "stop":
        server.stop()
    del server
    gc.collect()

    until(lambda: threading.active_count() <= threads)
    assert open_files() <= files
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # processes of their own
@pytest.mark.skipif(sys.platform == "win32", reason="kills with a signal")
@pytest.mark.parametrize("death", ["exit", "exception", "kill"])
def test_it_dies_with_its_process(death: str, tmp_path: Path) -> None:
    """However the test ends: the port is free, no file is left, and nothing hangs."""
    code = f"""
import os, signal
from langchain_convsync.testing import ReferenceServer
server = ReferenceServer().start()
server.create_conversation(phone_number="+51999999999", subdomain="a", bot_id="b")
server.deliver({{}})
print(server.base_url, flush=True)
match {death!r}:
    case "exception": raise SystemExit(7)
    case "kill": os.kill(os.getpid(), signal.SIGKILL)
"""

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == {"exit": 0, "exception": 7, "kill": -signal.SIGKILL}[death]
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
    port = int(done.stdout.strip().rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_its_answers_are_not_held_back() -> None:
    """Without TCP_NODELAY every answer on a kept connection takes 40 ms longer."""
    from langchain_convsync.server.serving import listen

    with listen("127.0.0.1", 0) as listener:
        # What asyncio looks at before it switches Nagle's algorithm off.
        assert listener.proto == socket.IPPROTO_TCP
