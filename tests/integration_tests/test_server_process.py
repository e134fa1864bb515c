"""``convsync serve``: starts, stops and dies like a server one can rely on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.serve_process import COMMAND, Serving, serving

API = "/api/v1/whatsapp"
WRITERS = 4
EVENT = {
    "event": "message",
    "session": "default",
    "metadata": {"subdomain": "restaurant-abc", "bot.id": "bot123"},
    "payload": {"id": "false_51999999999@c.us_A", "from": "51999999999@c.us", "body": "Hola"},
}


def client_of(server: Serving) -> httpx.Client:
    return httpx.Client(base_url=f"{server.base_url}{API}", trust_env=False)


def test_it_says_where_it_answers_and_logs_no_customer() -> None:
    """One line; what it logs of requests holds no phone number, whatever is asked."""
    with serving() as server, client_of(server) as client:
        client.post("/webhook/waha", json=EVENT).raise_for_status()
        client.get("/lookup/tenant/+51999999999").raise_for_status()
        client.get("/lookup/tenant/+51000000000")
        server.process.terminate()
        out, err = server.process.communicate(timeout=30)

    assert out == ""  # the one line was read already
    assert "GET /api/v1/whatsapp/lookup/tenant/{phoneNumber}: 404 in " in err
    assert "51999999999" not in err
    assert "51000000000" not in err


def test_it_says_so_in_a_sentence() -> None:
    """With the URL to paste, and whether conversations are kept."""
    command = [*COMMAND, "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()

    assert line.startswith("The API server answers at http://127.0.0.1:")
    assert "in memory" in line


CONFIGURATION = """
port = 0

[sessions."51900000000"]
subdomain = "restaurant-abc"
bot_id = "bot123"

[waha]
secret_env = "WAHA_SECRET"

[[keys]]
name = "agent-abc"
env = "AGENT_KEY"
tenants = ["restaurant-abc"]

[limits]
per_minute = 600
burst = 60

[forward]
url = "https://agent.example.com/webhook"
secret_env = "WAHA_SECRET"
"""


def test_it_tells_what_it_serves_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By names; WAHA's sessions, which are named after phone numbers, are not told."""
    monkeypatch.setenv("WAHA_SECRET", "waha-s3cret")
    monkeypatch.setenv("AGENT_KEY", "agent-key-0123456789")
    file = tmp_path / "server.toml"
    file.write_text(CONFIGURATION, encoding="utf-8")

    with serving("--config", str(file)) as server, client_of(server) as client:
        key = {"Authorization": "Bearer agent-key-0123456789"}
        absent = client.get("/lookup/tenant/+51999999999", headers=key).status_code
        refused = client.get("/lookup/tenant/+51999999999").status_code
        unsigned = client.post("/webhook/waha", json=EVENT).status_code

    assert (absent, refused, unsigned) == (404, 401, 401)
    assert server.serves == {
        "keys": "agent-abc (restaurant-abc)",
        "limit": "600 requests a minute, 60 at once",
        "tenants": "restaurant-abc:bot123, and what WAHA's metadata says",
        "WAHA's events": "signed",
        "forwarded to": "agent.example.com",
    }


@pytest.mark.slow  # servers, one after the other
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to stop politely")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(number: signal.Signals) -> None:
    """Also while a client keeps its connection open; the exit status says that all is well."""
    with serving() as server, client_of(server) as client:
        client.get("/health").raise_for_status()

        server.process.send_signal(number)

        assert server.process.wait(timeout=30) == 0


@pytest.mark.slow  # servers, one after the other
def test_every_acknowledged_write_survives_kill_9(tmp_path: Path) -> None:
    """A write is either answered and kept, or can be repeated with its key and is applied once."""
    options = ["--database-url", f"sqlite:///{tmp_path / 'api.db'}"]
    acknowledged: list[str] = []
    unanswered: list[str] = []
    enough = threading.Event()

    def write(server: Serving, session_id: str, writer: int) -> None:
        path = f"/agent/conversations/{session_id}/messages"
        with client_of(server) as client:
            for number in range(10_000):
                key = f"{writer}-{number}"
                body = {"role": "user", "content": key}
                try:
                    answer = client.post(path, json=body, headers={"Idempotency-Key": key})
                except httpx.TransportError:
                    unanswered.append(key)
                    return
                answer.raise_for_status()
                acknowledged.append(key)
                if len(acknowledged) >= 100:
                    enough.set()

    with serving(*options) as server, ThreadPoolExecutor(WRITERS) as threads:
        with client_of(server) as client:
            session_id = client.post("/webhook/waha", json=EVENT).json()["data"]["sessionId"]
        for writer in range(WRITERS):
            threads.submit(write, server, session_id, writer)
        assert enough.wait(timeout=60)
        server.process.kill()

    with serving(*options) as server, client_of(server) as client:
        for key in unanswered:
            client.post(
                f"/agent/conversations/{session_id}/messages",
                json={"role": "user", "content": key},
                headers={"Idempotency-Key": key},
            ).raise_for_status()
        answer = client.get("/lookup/conversation/+51999999999").json()
    history = [entry["content"] for entry in answer["data"]["context"]["previousMessages"]]

    assert len(unanswered) == WRITERS
    assert sorted(history) == sorted([*acknowledged, *unanswered])


def test_parallel_syncs_of_several_clients_lose_nothing() -> None:
    """Every key of 8 clients that write at the same time, over real connections."""
    with serving() as server:
        with client_of(server) as client:
            session_id = client.post("/webhook/waha", json=EVENT).json()["data"]["sessionId"]

        def write(writer: int) -> None:
            with client_of(server) as client:
                for number in range(10):
                    body = {"context": {f"{writer}-{number}": True}, "metadata": {f"m{writer}": 1}}
                    path = f"/agent/conversations/{session_id}/sync"
                    client.put(path, json=body).raise_for_status()

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(write, range(8)))
        with client_of(server) as client:
            found = client.get("/lookup/conversation/+51999999999").json()["data"]

    assert {key for key, value in found["context"].items() if value is True} == {
        f"{writer}-{number}" for writer in range(8) for number in range(10)
    }
    assert {f"m{writer}" for writer in range(8)} <= found["metadata"].keys()


@pytest.mark.slow  # servers, one after the other
def test_a_repeated_key_is_answered_with_the_same_bytes_after_a_restart(tmp_path: Path) -> None:
    """Whatever was written in between; numbers and their order are those of the first answer."""
    options = ["--database-url", f"sqlite:///{tmp_path / 'api.db'}"]
    key = {"Idempotency-Key": "turn-1"}
    body = {"context": {"z": 2**53 + 1, "a": 1e-7, "ñ": "😀\u0000"}, "intent": "order"}

    with serving(*options) as server, client_of(server) as client:
        session_id = client.post("/webhook/waha", json=EVENT).json()["data"]["sessionId"]
        path = f"/agent/conversations/{session_id}/sync"
        first = client.put(path, json=body, headers=key)
        client.put(path, json={"context": {"a": 2}}).raise_for_status()
        server.process.kill()

    with serving(*options) as server, client_of(server) as client:
        again = client.put(path, json=body, headers=key)
        other = client.put(path, json={**body, "intent": "menu"}, headers=key)

    assert first.status_code == 200
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert other.status_code == 422


def test_two_first_messages_at_the_same_time_begin_one_conversation() -> None:
    """WAHA delivers in parallel."""
    with serving() as server:

        def deliver(number: int) -> str:
            payload = {**EVENT["payload"], "id": f"false_51999999999@c.us_{number}"}  # type: ignore[dict-item]
            with client_of(server) as client:
                answer = client.post("/webhook/waha", json={**EVENT, "payload": payload})
            return str(answer.json()["data"]["sessionId"])

        with ThreadPoolExecutor(8) as threads:
            found = set(threads.map(deliver, range(16)))

    assert len(found) == 1
