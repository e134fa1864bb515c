"""Where the benchmarks run: an API server, a Redis and a folder, all of our own."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import redis

from tests.benchmarks.fake_api import PREFIX, Manners
from tests.redis_server import RedisServer


@dataclass(frozen=True, slots=True)
class Place:
    """The parts around what is measured; each is a process of its own.

    Attributes:
        api_port: Where the API server listens.
        redis_url: A Redis with an append-only file.
        folder: Where SQLite files go.
    """

    api_port: int
    redis_url: str
    folder: Path

    def told(self) -> tuple[str, str, str]:
        """For another process; see :meth:`from_told`."""
        return str(self.api_port), self.redis_url, str(self.folder)

    @classmethod
    def from_told(cls, api_port: str, redis_url: str, folder: str) -> Place:
        """What :meth:`told` says."""
        return cls(int(api_port), redis_url, Path(folder))

    @property
    def api_url(self) -> str:
        """The API server, without its prefix."""
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def endpoints(self) -> str:
        """The API server, with its prefix."""
        return self.api_url + PREFIX

    @property
    def sqlite_file(self) -> Path:
        """The file of the embedded store."""
        return self.folder / "events.db"

    @contextmanager
    def apart(self) -> Iterator[Place]:
        """The same place with stores of its own: what is left in them is gone afterwards."""
        url = f"{self.redis_url.rpartition('/')[0]}/1"
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as folder,
            redis.Redis.from_url(url) as db,
        ):
            yield replace(self, redis_url=url, folder=Path(folder))
            db.flushdb()

    def behave(self, **manners: Any) -> None:
        """Choose how the API server behaves from now on; see :class:`Manners`."""
        self._control("PUT", asdict(replace(Manners(), **manners)))

    def ledger(self, phone_numbers: Sequence[str]) -> list[Any]:
        """What was written for each customer, the state, and how often it was synced."""
        told: list[Any] = self._control("POST", list(phone_numbers))["data"]
        return told

    def _control(self, method: str, body: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=30)
        try:
            connection.request(method, "/control", json.dumps(body))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def module_process(module: str, *arguments: str) -> Iterator[str]:
    """A module as a process of its own: the line that it prints when it is ready.

    It is to end when its standard input does, so that it never outlives us.
    """
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            ready = process.stdout.readline()
            if not ready:
                message = f"{module} ended before it was ready"
                raise RuntimeError(message)
            yield ready.strip()
        finally:
            process.stdin.close()
            process.terminate()


@contextmanager
def new_place() -> Iterator[Place]:
    """Everything, started; gone at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="convsync-bench-") as folder,
        RedisServer(appendfsync="everysec") as store,
        module_process("tests.benchmarks.fake_api") as port,
    ):
        yield Place(int(port), store.url, Path(folder))
