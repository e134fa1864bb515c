"""More than one Redis: a primary watched by sentinels, and a cluster. All on loopback."""

from __future__ import annotations

import random
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import redis

from tests.redis_server import RedisServer, server_binary

#: Seconds that several servers may take to agree on something.
AGREEMENT = 60.0
SLOTS = 16384


class WatchedRedis:
    """A primary with two replicas, and a sentinel that promotes one of them soon."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._port = 0

    @property
    def url(self) -> str:
        """Where its sentinel is, and what it calls the primary."""
        return f"redis+sentinel://127.0.0.1:{self._port}/orders"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.primary = stack.enter_context(RedisServer())
            follows = f"127.0.0.1 {self.primary.port}"
            replicas = [stack.enter_context(RedisServer(replicaof=follows)) for _ in range(2)]
            until(lambda: all(_info(one)["master_link_status"] == "up" for one in replicas))
            self._start_sentinel(stack)
            with redis.Redis(port=self._port) as client:
                until(lambda: len(client.sentinel_slaves("orders")) == 2)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start_sentinel(self, stack: ExitStack) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="convsync-sentinel-"))
        self._port = free_port()
        settings = Path(folder, "sentinel.conf")
        # With less than a second, a primary that was just promoted is soon taken for dead.
        settings.write_text(
            f"port {self._port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor orders 127.0.0.1 {self.primary.port} 1\n"
            "sentinel down-after-milliseconds orders 1500\n"
            "sentinel failover-timeout orders 2000\n"
        )
        process = subprocess.Popen(
            [server_binary(), str(settings), "--sentinel"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        with redis.Redis(port=self._port) as client:
            until(client.ping)


class RedisCluster:
    """Three primaries that share the slots; what one holds is away while it is."""

    def __init__(self) -> None:
        self.nodes: list[RedisServer] = []
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """Where its nodes are."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for number in range(3):
                node = RedisServer(
                    cluster_enabled="yes",
                    cluster_require_full_coverage="no",
                )
                node.port = free_port()
                self.nodes.append(stack.enter_context(node))
                self._give_slots(number)
            self.settle()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _give_slots(self, number: int) -> None:
        first, end = number * SLOTS // 3, (number + 1) * SLOTS // 3
        with self.nodes[number].client() as client:
            command: Any = client.execute_command
            command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for other in self.nodes[:number]:
                command("CLUSTER", "MEET", "127.0.0.1", other.port)

    def settle(self) -> None:
        """Wait until all nodes know of each other; one that starts refuses for some seconds."""
        until(lambda: all(_is_ready(node) for node in self.nodes))

    def empty(self) -> None:
        """Forget every key."""
        for node in self.nodes:
            node.empty()


def until(true: Callable[[], object], seconds: float = AGREEMENT) -> None:
    """Wait for servers of other processes; they tell nobody when they are ready."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(redis.RedisError, KeyError):
            if true():
                return
        time.sleep(0.02)
    message = f"not within {seconds:.0f} s"
    raise TimeoutError(message)


def free_port() -> int:
    """A port whose ten-thousandth neighbour exists too: the nodes of a cluster talk there."""
    while True:
        port = random.SystemRandom().randrange(20000, 30000)
        here, there = ("127.0.0.1", port), ("127.0.0.1", port + 10000)
        with suppress(OSError), socket.create_server(here), socket.create_server(there):
            return port


def _info(server: RedisServer) -> dict[str, Any]:
    with server.client() as client:
        found: Any = client.info()
        return dict(found)


def _is_ready(node: RedisServer) -> bool:
    with node.client() as client:
        told = str(client.execute_command("CLUSTER", "INFO"))
    return "cluster_state:ok" in told and f"cluster_slots_ok:{SLOTS}" in told
