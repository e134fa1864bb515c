"""How the reference API server ends: requests are finished, nothing is waited for in vain."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from langchain_convsync.server.serving import PromptServer, listen, server_for, url_of

#: Only a test that fails waits as long.
PATIENCE = 30


class Gate:
    """An application whose only route answers when it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.cancelled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/gate":
            self.entered.set()
            try:
                await asyncio.get_running_loop().run_in_executor(None, self.opened.wait, PATIENCE)
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@contextmanager
def running(app: Any, *, grace: int) -> Iterator[tuple[PromptServer, str, Callable[[], bool]]]:
    """A server in a thread, its URL, and whether it has ended."""
    listener, server = listen("127.0.0.1", 0), server_for(app, grace=grace)
    url = url_of(listener)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()

    def ended() -> bool:
        thread.join(PATIENCE)
        return not thread.is_alive()

    yield server, url, ended
    server.stop()
    assert ended()


@pytest.fixture(params=["running clock", "held clock"])
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop's clock, also as a test leaves it that holds every clock still."""
    if request.param == "held clock":
        monkeypatch.setattr(asyncio.BaseEventLoop, "time", lambda _: 1000.0)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("connections", [0, 1, 3])
def test_it_ends_with_idle_connections(connections: int) -> None:
    """Clients that keep their connections keep no server from ending, whatever the time."""
    clients = [httpx.Client(trust_env=False) for _ in range(connections)]
    with running(Gate(), grace=PATIENCE) as (server, url, ended):
        for client in clients:
            assert client.get(url).status_code == 204

        server.stop()

        assert ended()
        for client in clients:
            with pytest.raises(httpx.ConnectError):
                client.get(url)
            client.close()


@pytest.mark.usefixtures("clock")
def test_a_running_request_is_finished() -> None:
    """Who was already being served gets the answer, who comes now gets no connection."""
    gate = Gate()
    with running(gate, grace=PATIENCE) as (server, url, ended), ThreadPoolExecutor() as callers:
        answer = callers.submit(httpx.get, f"{url}/gate", timeout=PATIENCE, trust_env=False)
        assert gate.entered.wait(PATIENCE)
        server.stop()
        refused(url)
        gate.opened.set()

        assert answer.result().status_code == 204
        assert ended()


@pytest.mark.usefixtures("clock")
def test_a_request_that_does_not_end_is_cancelled() -> None:
    """After the grace, also where the loop's clock does not reach its end."""
    gate = Gate()
    with running(gate, grace=0) as (server, url, ended), ThreadPoolExecutor() as callers:
        answer = callers.submit(httpx.get, f"{url}/gate", timeout=PATIENCE, trust_env=False)
        assert gate.entered.wait(PATIENCE)
        server.stop()
        with pytest.raises(httpx.RemoteProtocolError):
            answer.result()
        gate.opened.set()

        assert ended()
        assert gate.cancelled


def test_a_second_interrupt_ends_it_at_once() -> None:
    """Ctrl+C twice, as uvicorn has it."""
    gate = Gate()
    with running(gate, grace=PATIENCE) as (server, url, ended), ThreadPoolExecutor() as callers:
        answer = callers.submit(httpx.get, f"{url}/gate", timeout=PATIENCE, trust_env=False)
        assert gate.entered.wait(PATIENCE)
        server.handle_exit(signal.SIGINT, None)
        refused(url)
        server.handle_exit(signal.SIGINT, None)
        with pytest.raises(httpx.RemoteProtocolError):
            answer.result()
        gate.opened.set()

        assert ended()


def test_it_need_not_have_begun() -> None:
    """Stopped before its thread runs, it ends instead of serving."""
    listener, server = listen("127.0.0.1", 0), server_for(Gate(), grace=PATIENCE)
    server.stop()
    server.run([listener])

    assert listener.fileno() == -1


def refused(url: str) -> None:
    """Wait until nothing listens there."""
    address = httpx.URL(url)
    while True:
        try:
            socket.create_connection((address.host, address.port or 0)).close()
        except (ConnectionRefusedError, ConnectionResetError):  # reset: it closed meanwhile
            return
