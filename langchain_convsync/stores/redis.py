"""The event store on Redis or Valkey: many processes, many machines, one script per operation."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import redis
import redis.asyncio

from langchain_convsync._flow import Flow, Io, arun, run
from langchain_convsync.errors import StoreFormatError, StoreUnavailableError
from langchain_convsync.stores._checks import (
    check_commit,
    check_event,
    check_names,
    check_queue,
    milliseconds,
    turn_of,
)
from langchain_convsync.stores._redis_clients import RedisClients
from langchain_convsync.stores._redis_wire import (
    META,
    Argument,
    Script,
    as_accepted,
    as_cursor,
    as_taken,
    optional,
    script,
    shard_keys,
    to_bytes,
)
from langchain_convsync.stores.base import (
    FORMAT_VERSION,
    RETENTION,
    Accepted,
    Backlog,
    Commit,
    Committed,
    Cursor,
    Done,
    Handles,
    Lane,
    Lease,
    NewEvent,
    Taken,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")


class RedisEventStore:
    """Events, operations and leases in Redis 6.2 or newer, or Valkey.

    Nothing is lost if Redis keeps an append-only file (``appendonly yes``), never evicts
    (``maxmemory-policy noeviction``) and is the primary; the first use warns where it is otherwise.
    Every key begins with ``cs:``, reveals no phone number, and lies in its account's hash slot.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; ``CONVSYNC_STORE_URL`` when neither it nor
            ``client`` is given.
        client: A blocking redis-py client to use instead; it stays its owner's to close.
        async_client: An asynchronous redis-py client to use instead, beside one of the two: leases
            are renewed in the blocking colour. It stays its owner's to close.
        retention: Seconds that finished events and idle conversations are remembered.
        clock: Store time in seconds, for tests; None takes the server's.

    Raises:
        ConfigurationError: Neither a URL nor a blocking client is given, or it is no Redis URL.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: redis.Redis | None = None,
        async_client: redis.asyncio.Redis | None = None,
        retention: float = RETENTION,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._clients = RedisClients(url, client, async_client)
        self._retention = milliseconds(retention)
        self._clock = clock
        self._handles: Handles | None = None

    def handles(self) -> Io[Handles]:
        """See :meth:`EventStore.handles`."""
        return _step(self._opened)

    def accept(
        self,
        event: NewEvent,
        *,
        token: str | None = None,
        lease: float = 30.0,
        quiet: float = 0.0,
        max_quiet: float = 0.0,
        backlog: int = 1000,
        at_once: int = 0,
    ) -> Io[Accepted]:
        """See :meth:`EventStore.accept`."""
        check_event(event)
        arguments: list[Argument] = [event.eid, event.cid, event.alias or "", event.digest]
        arguments += [event.payload, token or secrets.token_hex(8), token or ""]
        arguments += [milliseconds(lease), milliseconds(quiet), milliseconds(max_quiet)]
        arguments += [backlog, at_once]
        return self._operation("accept", event.cid, arguments, as_accepted)

    def take(
        self,
        lane: Lane,
        token: str,
        *,
        cid: str | None = None,
        lease: float = 30.0,
        at_once: int = 0,
    ) -> Io[Taken | None]:
        """See :meth:`EventStore.take`."""
        arguments: list[Argument] = [lane, token, milliseconds(lease), cid or "", at_once]
        return self._operation("take", cid, arguments, lambda answer: as_taken(answer, lane))

    def beat(self, lease: Lease, *, seconds: float = 30.0) -> Io[Lease | None]:
        """See :meth:`EventStore.beat`."""

        def renewed(ends: int | None) -> Lease | None:
            if ends is None:
                return None
            return Lease(
                cid=lease.cid,
                lane=lease.lane,
                token=lease.token,
                epoch=lease.epoch,
                until=ends / 1000,
            )

        return self._under(lease, "beat", [milliseconds(seconds)], renewed)

    def commit_turn(self, lease: Lease, commit: Commit) -> Io[Committed]:
        """See :meth:`EventStore.commit_turn`."""
        check_commit(lease, commit)
        arguments: list[Argument] = [lease.cid, lease.token, lease.epoch, commit.dead]
        arguments += [commit.unless_paused, commit.unless_newer]
        arguments += [optional(commit.snapshot), milliseconds(commit.snapshot_ttl)]
        arguments += [len(commit.eids), len(commit.ops), len(commit.says)]
        for eid in commit.eids:
            arguments += [eid, optional(commit.outcomes.get(eid))]
        for op in (*commit.ops, *commit.says):
            arguments += [op.id, op.body]
        return self._operation("commit", lease.cid, arguments, _as_committed)

    def op_begin(
        self,
        lease: Lease,
        op_id: str,
        pos: int,
        *,
        attempt: int,
        need: float,
        note: str | None = None,
    ) -> Io[Cursor | None]:
        """See :meth:`EventStore.op_begin`."""
        check_queue(lease)
        arguments: list[Argument] = [op_id, pos, attempt, milliseconds(need), optional(note)]
        return self._under(lease, "begin", arguments, as_cursor)

    def op_done(
        self, lease: Lease, op_id: str, pos: int, *, last: bool, anchor: str | None = None
    ) -> Io[Done]:
        """See :meth:`EventStore.op_done`."""
        check_queue(lease)
        return self._under(lease, "done", [op_id, pos, last, optional(anchor)], _as_done)

    def op_retry(
        self,
        lease: Lease,
        op_id: str,
        pos: int,
        *,
        delay: float,
        sent: bool,
        note: str | None = None,
    ) -> Io[Done]:
        """See :meth:`EventStore.op_retry`."""
        check_queue(lease)
        arguments: list[Argument] = [op_id, pos, milliseconds(delay), sent, optional(note)]
        return self._under(lease, "retry", arguments, _as_done)

    def op_park(self, lease: Lease, op_id: str, *, reason: str) -> Io[Done]:
        """See :meth:`EventStore.op_park`."""
        check_queue(lease)
        return self._under(lease, "park", [op_id, turn_of(op_id), reason], _as_done)

    def release(self, lease: Lease, *, delay: float = 0.0, failed: bool = False) -> Io[bool]:
        """See :meth:`EventStore.release`."""
        return self._under(lease, "release", [milliseconds(delay), failed], bool)

    def pause(self, cid: str, *, seconds: float) -> Io[None]:
        """See :meth:`EventStore.pause`."""
        return self._operation("pause", cid, [cid, milliseconds(seconds)], lambda _: None)

    def link(self, alias: str, cid: str) -> Io[bool]:
        """See :meth:`EventStore.link`."""
        check_names(alias, cid)
        return self._operation("link", cid, [alias, cid], bool)

    def due(self, lane: Lane, cid: str) -> Io[float | None]:
        """See :meth:`EventStore.due`."""

        def seconds(milliseconds: int | None) -> float | None:
            return None if milliseconds is None else milliseconds / 1000

        return self._operation("due", cid, [cid, lane], seconds)

    def backlog(self) -> Io[Backlog]:
        """See :meth:`EventStore.backlog`."""

        def counted(sums: list[int]) -> Backlog:
            queued, writes, says, parked, dead = sums
            return Backlog(queued=queued, writes=writes, says=says, parked=parked, dead=dead)

        return self._operation("backlog", None, [], counted)

    def close(self) -> None:
        """See :meth:`EventStore.close`."""
        self._clients.close()

    async def aclose(self) -> None:
        """See :meth:`EventStore.aclose`."""
        await self._clients.aclose()

    def _under(
        self, lease: Lease, name: str, arguments: list[Argument], parse: Callable[[Any], T]
    ) -> Io[T]:
        held: list[Argument] = [lease.cid, lease.lane, lease.token, lease.epoch]
        return self._operation(name, lease.cid, held + arguments, parse)

    def _operation(
        self, name: str, handle: str | None, arguments: list[Argument], parse: Callable[[Any], T]
    ) -> Io[T]:
        """A script's answer; without a handle the script looks at every shard."""
        keys, sent = shard_keys(handle), to_bytes(arguments)

        def flow() -> Flow[T]:
            yield from self._opened()
            clock = b"" if self._clock is None else b"%d" % round(self._clock() * 1000)
            answer = yield from self._call(
                script(name), keys, [clock, b"%d" % self._retention, *sent]
            )
            return parse(answer)

        return _step(flow)

    def _call(self, source: Script, keys: list[bytes], arguments: list[bytes]) -> Flow[Any]:
        rest = (len(keys), *keys, *arguments)
        try:
            return (
                yield from self._clients.command("EVALSHA", source.sha, *rest, NEVER_DECODE=True)
            )
        except redis.exceptions.NoScriptError:  # a server that restarted or was never asked
            return (
                yield from self._clients.command("EVAL", source.source, *rest, NEVER_DECODE=True)
            )

    def _opened(self) -> Flow[Handles]:
        if self._handles is None:
            secret, version = secrets.token_bytes(32), b"%d" % FORMAT_VERSION
            opened = script("open", prelude=False)
            key, found = yield from self._call(opened, [META], [secret, version])
            if int(found) > FORMAT_VERSION:
                message = (
                    f"this store was written in format {int(found)}, and this version reads up to "
                    f"{FORMAT_VERSION}: upgrade langchain-convsync"
                )
                raise StoreFormatError(message)
            yield from self._check_server()
            self._handles = Handles(key)
        return self._handles

    def _check_server(self) -> Flow[None]:
        try:
            info = yield from self._clients.command("INFO")
        except StoreUnavailableError as error:
            if not isinstance(error.__cause__, redis.ResponseError):
                raise
            logger.info("Redis does not let this store check its persistence: %s", error.__cause__)
            return
        for risk in risks(info):
            logger.warning("Redis can lose acknowledged events: %s", risk)


def risks(info: Mapping[str, Any]) -> list[str]:
    """What a server's ``INFO`` tells about losing data, each with what to do."""
    found = []
    if info.get("role", "master") != "master":
        found.append("this server is a replica; connect to the primary")
    if not info.get("aof_enabled", 1):
        found.append("it keeps no append-only file; set `appendonly yes`")
    if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction":
        found.append(f"it evicts keys ({policy}); set `maxmemory-policy noeviction`")
    return found


def _step(flow: Callable[[], Flow[T]]) -> Io[T]:
    return Io(lambda: run(flow()), lambda: arun(flow()))


def _as_committed(answer: bytes) -> Committed:
    committed: Committed = answer.decode()  # type: ignore[assignment]  # as below
    return committed


def _as_done(answer: bytes) -> Done:
    done: Done = answer.decode()  # type: ignore[assignment]  # the scripts answer these words only
    return done
