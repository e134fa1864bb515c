"""Connections to one Redis, sync and async, and what to tell when they fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.cluster import PipelineCommand

from langchain_convsync import _forks, _machine
from langchain_convsync._flow import Flow, Io, running_loop, sleep
from langchain_convsync.errors import ClosedError, ConfigurationError, StoreUnavailableError
from langchain_convsync.settings import required_setting
from langchain_convsync.stores.redis.scripts import Command, Scripts
from langchain_convsync.stores.redis.urls import (
    ASYNCHRONOUS,
    BLOCKING,
    Address,
    address_of,
    opened,
)

#: Seconds before each further try of a command that got no answer; every command is safe to repeat.
RETRIES = (0.05, 0.25)
BlockingClient: TypeAlias = redis.Redis | redis.RedisCluster
AsyncClient: TypeAlias = redis.asyncio.Redis | redis.asyncio.RedisCluster

#: What a client gives back as it came.
_SCRIPTS = frozenset({"EVALSHA", "EVAL"})

_ClusterError = redis.exceptions.RedisClusterException  # no RedisError
_ERRORS = (redis.RedisError, _ClusterError)
#: What a failover, a restart or a move of slots ends by itself.
_PASSING = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.ReadOnlyError,
    redis.exceptions.ClusterError,
    redis.exceptions.AskError,  # MOVED too
    redis.exceptions.TryAgainError,
    _ClusterError,
)
_HINTS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((redis.AuthenticationError,), "check user and password in the URL"),
    ((redis.BusyLoadingError,), "it is still loading its data; try again when it is done"),
    (
        (redis.TimeoutError,),
        "check that it is not overloaded, the network between, and whether it speaks TLS (rediss://)",
    ),
    (
        (redis.sentinel.MasterNotFoundError, redis.asyncio.sentinel.MasterNotFoundError),
        "try again when the failover is done; else check the sentinels and the service's name",
    ),
    ((redis.ConnectionError,), "check that it runs, and host, port and TLS (rediss://) of the URL"),
    ((redis.ReadOnlyError,), "it is a replica; connect to the primary"),
    (
        (redis.exceptions.NoPermissionError,),
        "its ACL must allow the keys cs:* and the scripts' commands",
    ),
    (
        (
            redis.exceptions.ClusterError,
            redis.exceptions.AskError,
            redis.exceptions.TryAgainError,
        ),
        "try again when the failover, or the move of the slot, is done",
    ),
    ((_ClusterError,), "check that the nodes run and make up one cluster"),
)


class RedisClients:
    """One blocking client, and one asynchronous client per running event loop.

    Args:
        url: Where Redis is; ``CONVSYNC_STORE_URL`` when no blocking client is given either.
        client: A blocking client to use instead; it stays its owner's to close.
        async_client: An asynchronous client to use instead; it stays its owner's to close.

    Raises:
        ConfigurationError: No URL, or one that is not a Redis URL.
    """

    def __init__(
        self,
        url: str | None,
        client: BlockingClient | None,
        async_client: AsyncClient | None,
    ) -> None:
        self._address = None
        if url is not None or client is None:  # leases are renewed blocking
            url = required_setting(url, argument="url", variable="CONVSYNC_STORE_URL")
            self._address = address_of(url)
        #: What the URL says of the keys.
        self.namespace = self._address.namespace if self._address else ""
        self._injected: tuple[Any, Any] = (client, async_client)
        #: Whether one script can reach the keys of one slot only.
        self.is_cluster = any(map(_is_cluster, self._injected)) or (
            self._address is not None and self._address.is_cluster
        )
        self._blocking: Sequence[Any] = ()
        self._by_loop: dict[asyncio.AbstractEventLoop, tuple[Any, AsyncGenerator[None]]] = {}
        self._scripts = Scripts()
        self._lock = _forks.lock()
        self._closed = False
        _forks.in_child(self, RedisClients._begin_anew)

    def batch(self, key: bytes, *commands: Command, once: bool = False) -> Flow[list[Any]]:
        """The answers of commands, sent together to the primary that holds a key.

        All go over one connection. Tried again where no answer arrived, unless ``once`` is set.

        Raises:
            StoreUnavailableError: Redis did not answer, or refused.
            redis.exceptions.NoScriptError: It does not know the script.
            ClosedError: The clients are closed.
        """
        for delay in (*(() if once else RETRIES), None):
            try:
                return (yield from Io(self._send, self._asend, key, commands))
            except redis.exceptions.NoScriptError:
                raise
            except _ERRORS as error:
                if isinstance(error, _PASSING) and self.is_cluster:
                    yield self._nodes_located()
                if delay is None or not isinstance(error, _PASSING):
                    raise _unavailable(error) from error
                yield sleep(delay)
        raise AssertionError  # pragma: no cover - the last try returns or raises

    def by_node(self, keys: Sequence[bytes]) -> Flow[list[list[bytes]]]:
        """Keys in groups that one node holds."""
        if not self.is_cluster:
            return [list(keys)]
        return (yield from Io(self._grouped, self._agrouped, keys))

    def _grouped(self, keys: Sequence[bytes]) -> list[list[bytes]]:
        return _by_node(self._client(), keys)

    async def _agrouped(self, keys: Sequence[bytes]) -> list[list[bytes]]:
        client = await self._client_here()
        await client.initialize()
        return _by_node(client, keys)

    def blocking(self) -> Any:
        """The blocking client of redis-py."""
        return self._client()

    def close(self) -> None:
        """Close the blocking client, unless it was given."""
        self._closed = True
        with self._lock:
            clients, self._blocking = self._blocking, ()
        for client in clients:
            client.close()

    async def aclose(self) -> None:
        """Close every client that was not given."""
        here = running_loop()
        self.close()
        with self._lock:  # one at rest closes its clients when it ends
            running = [loop for loop in self._by_loop if loop is here or loop.is_running()]
            closers = [(loop, self._by_loop.pop(loop)[1]) for loop in running]
        for loop, closer in closers:
            if loop is here:
                await closer.aclose()
            else:
                asyncio.run_coroutine_threadsafe(closer.aclose(), loop)

    def reopen(self) -> None:
        """Open clients anew when they are needed, after their end as well."""
        with self._lock:
            if self._closed:
                self._scripts = Scripts()  # its connections are those of clients that were closed
            self._closed = False

    def _begin_anew(self) -> None:
        """In a forked child: what the parent opened is the parent's."""
        mine = (self._blocking, dict(self._by_loop), self._scripts)
        _forks.sever(*mine, self._injected)
        _forks.abandon(*mine)
        self._blocking, self._scripts = (), Scripts()
        self._by_loop.clear()

    def _send(self, key: bytes, commands: Sequence[Command]) -> list[Any]:
        return _blocked(self._client(), key, commands)

    async def _asend(self, key: bytes, commands: Sequence[Command]) -> list[Any]:
        if len(commands) == 1 and commands[0][0] in _SCRIPTS and not self.is_cluster:
            return [await self._scripts.ask(commands[0], self._client_here)]
        return await _awaited(await self._client_here(), key, commands)

    def _nodes_located(self) -> Io[None]:
        """Asks the cluster which node holds what; the next try tells if no node knows."""

        def block() -> None:
            with suppress(*_ERRORS):
                self._client().nodes_manager.initialize()

        async def wait() -> None:
            with suppress(*_ERRORS):
                await (await self._client_here()).nodes_manager.initialize()

        return Io(block, wait)

    def _client(self) -> Any:
        self._check_open()
        if self._injected[0] is not None:
            return self._injected[0]
        with self._lock:
            if not self._blocking:
                self._blocking = opened(self._reachable(), BLOCKING)
            return self._blocking[0]

    async def _client_here(self) -> Any:
        self._check_open()
        if self._injected[1] is not None:
            return self._injected[1]
        loop = asyncio.get_running_loop()
        if known := self._by_loop.get(loop):
            return known[0]
        clients = opened(self._reachable(), ASYNCHRONOUS)
        closer = self._close_with_loop(clients)
        with self._lock:
            for ended in [other for other in self._by_loop if other.is_closed()]:
                del self._by_loop[ended]
            self._by_loop[loop] = clients[0], closer
        await anext(closer)
        return clients[0]

    async def _close_with_loop(self, clients: Sequence[Any]) -> AsyncGenerator[None]:
        """Closes the client when the loop ends: asyncio.run closes pending async generators."""
        try:
            yield
        finally:
            for client in clients:
                await client.aclose()

    def _reachable(self) -> Address:
        if self._address is None:
            message = "this store has a blocking client only: pass async_client=… or url=… as well"
            raise ConfigurationError(message)
        return self._address

    def _check_open(self) -> None:
        if self._closed:
            message = "this store is closed"
            raise ClosedError(message)


def _blocked(client: Any, key: bytes, commands: Sequence[Command]) -> list[Any]:
    if _is_cluster(client):
        # The node's own client: it takes EVALSHA in a pipeline, repeats nothing, and does not
        # follow ASK, which would split a shard whose keys are just moving from node to node.
        client = client.get_redis_connection(client.get_node_from_key(key))
    if len(commands) == 1:
        return [client.execute_command(*commands[0], NEVER_DECODE=True)]
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command, NEVER_DECODE=True)
    return _successful(pipeline.execute(raise_on_error=False))


async def _awaited(client: Any, key: bytes, commands: Sequence[Command]) -> list[Any]:
    if _is_cluster(client):
        await client.initialize()
        batch = [
            PipelineCommand(n, *command, NEVER_DECODE=True) for n, command in enumerate(commands)
        ]
        await client.get_node_from_key(key).execute_pipeline(batch)  # as above
        return _successful([command.result for command in batch])
    if len(commands) == 1:
        return [await client.execute_command(*commands[0], NEVER_DECODE=True)]
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command, NEVER_DECODE=True)
    return _successful(await pipeline.execute(raise_on_error=False))


def _by_node(client: Any, keys: Sequence[bytes]) -> list[list[bytes]]:
    groups: dict[str, list[bytes]] = {}
    for key in keys:
        groups.setdefault(client.get_node_from_key(key).name, []).append(key)
    return list(groups.values())


def _is_cluster(client: Any) -> bool:
    return isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster)


def _successful(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def is_another_store(error: BaseException | None) -> bool:
    """Whether a script met another store than the one that was opened, see ``lua/_prelude.lua``."""
    return isinstance(error, redis.ResponseError) and str(error).startswith("ANOTHERSTORE")


def is_damage(error: BaseException | None) -> bool:
    """Whether a script failed on what it read: a key of another type, words for a number."""
    # Refusals (no memory, a replica, no permission) are classes of their own, the script's are not.
    return type(error) is redis.ResponseError and "user_script" in str(error)


def _unavailable(error: Exception) -> StoreUnavailableError:
    hint = _machine.noticed(error) or next(
        (hint for kinds, hint in _HINTS if isinstance(error, kinds)), "see the cause"
    )
    return StoreUnavailableError(f"Redis did not do its work ({error}): {hint}")
