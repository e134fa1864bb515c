"""The event store on Redis or Valkey: many processes, many machines, one script per operation."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import redis
import redis.asyncio

from langchain_convsync._flow import Flow, Io, Steps
from langchain_convsync.errors import StoreFormatError, StoreUnavailableError
from langchain_convsync.stores._checks import (
    call_handle,
    check_commit,
    check_event,
    check_line,
    check_most,
    check_names,
    check_queue,
    decoded,
    milliseconds,
    renewed_id,
    turn_of,
)
from langchain_convsync.stores._redis_clients import (
    AsyncClient,
    BlockingClient,
    RedisClients,
)
from langchain_convsync.stores._redis_risks import Risk, risks
from langchain_convsync.stores._redis_scripts import Command
from langchain_convsync.stores._redis_wire import (
    META,
    Argument,
    Script,
    as_accepted,
    as_cursor,
    as_load,
    as_set_aside,
    as_taken,
    as_text,
    as_view,
    confirmed,
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
    Confirmed,
    ConversationView,
    Cursor,
    Done,
    Handles,
    Lane,
    Lease,
    Load,
    NewEvent,
    SetAside,
    Taken,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")
#: The scripts that never write.
_READS = frozenset({"due", "backlog", "loads", "view", "aside"})


class RedisEventStore:
    """Events, operations and leases in Redis 6.2 or newer, or Valkey.

    Nothing is lost if Redis keeps an append-only file (``appendonly yes``; with ``appendfsync
    everysec`` a killed server may lose up to two seconds while its disk is slow), never evicts
    (``maxmemory-policy noeviction``) and is the primary; the first use warns where it is otherwise.
    Every key begins with ``cs:``, reveals no phone number, and lies in its account's hash slot.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://`` for one server;
            ``redis+sentinel://host:26379,host:26379/service/0`` for the primary that sentinels know
            (``?sentinel_username=…&sentinel_password=…`` where they have their own);
            ``redis+cluster://host:6379,host:6379`` for a Redis Cluster; with ``rediss`` for TLS.
            ``CONVSYNC_STORE_URL`` when neither it nor ``client`` is given.
        client: A blocking redis-py client to use instead, a ``RedisCluster`` or one made by a
            ``Sentinel`` too; it stays its owner's to close.
        async_client: An asynchronous redis-py client to use instead, beside one of the two: leases
            are renewed in the blocking colour. It stays its owner's to close.
        retention: Seconds that finished events and idle conversations are remembered.
        wait_replicas: So many replicas have to know of a change before it is acknowledged; where
            fewer do within a second, the call raises. This narrows the window in which a failover
            can lose what was acknowledged, and does not close it: the replica that is promoted may
            be another one. 0 waits for none, and costs nothing.
        clock: Store time in seconds, for tests; None takes the server's.

    Raises:
        ConfigurationError: Neither a URL nor a blocking client is given, or it is no Redis URL.
        ValueError: ``wait_replicas`` is negative.

    While a failover goes on, calls raise :class:`StoreUnavailableError`; later ones find the new
    primary by themselves. A call that raised may have taken effect, and is safe to repeat.

    On a Redis Cluster a take without a conversation asks the shards one after the other, beginning
    behind the one that gave work last. A token that holds a lane already may get another one when
    such a take is repeated with it.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: BlockingClient | None = None,
        async_client: AsyncClient | None = None,
        retention: float = RETENTION,
        wait_replicas: int = 0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if wait_replicas < 0:
            message = (
                f"wait_replicas={wait_replicas}: pass the number of replicas to wait for, or 0"
            )
            raise ValueError(message)
        self._clients = RedisClients(url, client, async_client)
        self._retention = milliseconds(retention)
        self._wait_replicas = wait_replicas
        self._clock = clock
        self._next_shard: dict[Lane, int] = {}
        self._handles: Handles | None = None

    def handles(self) -> Io[Handles]:
        """See :meth:`EventStore.handles`."""
        return Steps(self._opened)

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

    def amend(self, eid: str, before: str, after: str) -> Io[str | None]:
        """See :meth:`EventStore.amend`."""
        return self._operation("amend", eid, [eid, before, after], as_text)

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
        if cid is None and self._clients.is_cluster:
            return Steps(lambda: self._take_any(lane, arguments))
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
        done: Confirmed | None = None,
    ) -> Io[Cursor | None]:
        """See :meth:`EventStore.op_begin`."""
        check_queue(lease)
        arguments: list[Argument] = [op_id, pos, attempt, milliseconds(need), optional(note)]
        return self._under(lease, "begin", [*arguments, *confirmed(done)], as_cursor)

    def op_done(
        self, lease: Lease, op_id: str, pos: int, *, last: bool, anchor: str | None = None
    ) -> Io[Done]:
        """See :meth:`EventStore.op_done`."""
        check_queue(lease)
        done = Confirmed(op_id=op_id, pos=pos, last=last, anchor=anchor)
        return self._under(lease, "done", confirmed(done), _as_done)

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

    def release(
        self,
        lease: Lease,
        *,
        delay: float = 0.0,
        failed: bool = False,
        done: Confirmed | None = None,
    ) -> Io[bool]:
        """See :meth:`EventStore.release`."""
        if done is not None:
            check_queue(lease)
        arguments: list[Argument] = [milliseconds(delay), failed]
        return self._under(lease, "release", [*arguments, *confirmed(done)], bool)

    def hear(self, cid: str, note: str) -> Io[bool]:
        """See :meth:`EventStore.hear`."""
        check_line(note)
        return self._operation("hear", cid, [cid, note], bool)

    def pause(self, cid: str, *, seconds: float) -> Io[None]:
        """See :meth:`EventStore.pause`."""
        return self._operation("pause", cid, [cid, milliseconds(seconds)], lambda _: None)

    def link(self, alias: str, cid: str, *, lease: Lease | None = None) -> Io[bool]:
        """See :meth:`EventStore.link`."""
        check_names(alias, cid)
        arguments: list[Argument] = [alias, cid]
        arguments += ["", ""] if lease is None else [lease.token, lease.epoch]
        return self._operation("link", cid, arguments, bool)

    def due(self, lane: Lane, cid: str) -> Io[float | None]:
        """See :meth:`EventStore.due`."""

        def seconds(milliseconds: int | None) -> float | None:
            return None if milliseconds is None else milliseconds / 1000

        return self._operation("due", cid, [cid, lane], seconds)

    def backlog(self) -> Io[Backlog]:
        """See :meth:`EventStore.backlog`."""
        return Steps(self._counted)

    def loads(self) -> Io[tuple[Load, ...]]:
        """See :meth:`EventStore.loads`."""
        return Steps(self._loads)

    def view(self, cid: str, *, most: int = 100) -> Io[ConversationView]:
        """See :meth:`EventStore.view`."""
        check_most(most)
        return self._operation("view", cid, [cid, most], as_view)

    def set_aside(self, cid: str | None = None, *, most: int = 100) -> Io[tuple[SetAside, ...]]:
        """See :meth:`EventStore.set_aside`."""
        check_most(most)
        return Steps(lambda: self._set_aside(cid, most))

    def requeue(self, aside: SetAside, *, token: str, body: str | None = None) -> Io[str | None]:
        """See :meth:`EventStore.requeue`."""
        note, renewed = call_handle(aside, "requeue", token), renewed_id(aside, token)
        arguments: list[Argument] = [aside.cid, aside.lane, aside.id, note, renewed]
        arguments += [optional(body)]
        return self._operation(
            "requeue", aside.cid, arguments, lambda done: renewed if done else None
        )

    def discard(self, aside: SetAside, *, token: str) -> Io[bool]:
        """See :meth:`EventStore.discard`."""
        note = call_handle(aside, "discard", token)
        return self._operation("discard", aside.cid, [aside.cid, aside.lane, aside.id, note], bool)

    def forget(self, cid: str) -> Io[None]:
        """See :meth:`EventStore.forget`."""
        keys = shard_keys(cid)
        return Steps(lambda: self._forget(keys, cid))

    def risks(self) -> Io[list[Risk]]:
        """How the servers behind this store can lose data, as their ``INFO`` tells it.

        Raises:
            StoreUnavailableError: One did not answer, or its ACL refuses ``INFO``.
        """
        return Steps(self._risks)

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
        return Steps(partial(self._answer, name, keys, sent, parse))

    def _answer(
        self, name: str, keys: list[bytes], sent: list[bytes], parse: Callable[[Any], T]
    ) -> Flow[T]:
        yield from self._opened()
        return parse((yield from self._run(name, keys, sent)))

    def _take_any(self, lane: Lane, arguments: list[Argument]) -> Flow[Taken | None]:
        """On a cluster: one shard after the other, since no script can look at two."""
        yield from self._opened()
        keys, sent = shard_keys(None), to_bytes(arguments)
        first = self._next_shard.setdefault(lane, secrets.randbelow(len(keys)))
        failure: StoreUnavailableError | None = None
        for shard in [*range(first, len(keys)), *range(first)]:
            once = failure is not None  # the other nodes' work does not wait for a dead one
            try:
                answer = yield from self._run("take", [keys[shard]], sent, once=once)
            except StoreUnavailableError as error:
                failure = error
                continue
            if answer:
                self._next_shard[lane] = (shard + 1) % len(keys)
                return as_taken(answer, lane)
        if failure is not None:
            raise failure
        return None

    def _counted(self) -> Flow[Backlog]:
        yield from self._opened()
        sums = [0] * 5
        for keys in self._reachable_together():
            counts = yield from self._run("backlog", keys, [])
            sums = [total + more for total, more in zip(sums, counts, strict=True)]
        queued, writes, says, parked, dead = sums
        return Backlog(queued=queued, writes=writes, says=says, parked=parked, dead=dead)

    def _loads(self) -> Flow[tuple[Load, ...]]:
        yield from self._opened()
        found: list[Any] = []
        for keys in self._reachable_together():
            found += yield from self._run("loads", keys, [])
        return tuple(map(as_load, sorted(found)))

    def _set_aside(self, cid: str | None, most: int) -> Flow[tuple[SetAside, ...]]:
        yield from self._opened()
        found: list[Any] = []
        for keys in self._reachable_together() if cid is None else [shard_keys(cid)]:
            found += yield from self._run("aside", keys, to_bytes([cid or "", most]))
        found.sort(key=lambda entry: entry[:4])  # of a cluster's shards, each told its oldest
        return tuple(map(as_set_aside, found[:most]))

    def _forget(self, keys: list[bytes], cid: str) -> Flow[None]:
        yield from self._opened()
        name, now = yield from self._run("forget", keys, to_bytes([cid, 1]))
        names: dict[str, None] = {decoded(name): None}
        known = 0
        while known < len(names):  # a name may have been the target of another one
            known = len(names)
            cursor = b"0"
            while True:
                sent = to_bytes([cursor, now, *names])
                cursor, aliases = yield from self._run("finished", keys, sent)
                names.update(dict.fromkeys(map(decoded, aliases)))
                if cursor == b"0":
                    break
        for alias in list(names)[1:]:
            yield from self._run("forget", keys, to_bytes([alias, 0]))

    def _reachable_together(self) -> list[list[bytes]]:
        """All shards, as one script can look at them: on a cluster one at a time."""
        keys = shard_keys(None)
        return [[key] for key in keys] if self._clients.is_cluster else [keys]

    def _run(
        self, name: str, keys: list[bytes], sent: list[bytes], *, once: bool = False
    ) -> Flow[Any]:
        clock = b"" if self._clock is None else b"%d" % round(self._clock() * 1000)
        arguments = [clock, b"%d" % self._retention, *sent]
        waits = self._wait_replicas > 0 and name not in _READS
        return self._call(script(name), keys, arguments, waits=waits, once=once)

    def _call(
        self,
        source: Script,
        keys: list[bytes],
        arguments: list[bytes],
        *,
        waits: bool,
        once: bool = False,
    ) -> Flow[Any]:
        rest = (len(keys), *keys, *arguments)
        wait = _waiting(keys[0], self._wait_replicas) if waits else []
        batch = self._clients.batch
        try:
            answers = yield from batch(keys[0], ("EVALSHA", source.sha, *rest), *wait, once=once)
        except redis.exceptions.NoScriptError:  # a server that restarted or was never asked
            answers = yield from batch(keys[0], ("EVAL", source.source, *rest), *wait, once=once)
        if waits and answers[-1] < self._wait_replicas:
            message = (
                f"{answers[-1]} replicas know of a change, not {self._wait_replicas} "
                "(wait_replicas): it may survive a failover or not, and is safe to repeat"
            )
            raise StoreUnavailableError(message)
        return answers[0]

    def _opened(self) -> Flow[Handles]:
        if self._handles is None:
            secret, version = secrets.token_bytes(32), b"%d" % FORMAT_VERSION
            opened = script("open", prelude=False)
            waits = self._wait_replicas > 0
            key, found = yield from self._call(opened, [META], [secret, version], waits=waits)
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
            found = yield from self._risks()
        except StoreUnavailableError as error:
            refused = isinstance(error.__cause__, redis.ResponseError)
            if not refused and not self._clients.is_cluster:
                raise  # of a cluster, the other nodes' shards are still there
            logger.info("This store cannot check Redis's persistence: %s", error.__cause__)
            return
        for risk in found:
            logger.warning("Redis can lose acknowledged events: %s", risk)

    def _risks(self) -> Flow[list[Risk]]:
        found: dict[Risk, None] = {}
        for key, *_ in self._reachable_together():  # every primary that holds a shard
            (info,) = yield from self._clients.batch(key, ("INFO",))
            found.update(dict.fromkeys(risks(info)))
        return list(found)


def _waiting(key: bytes, replicas: int) -> list[Command]:
    """Commands behind a script that tell how many replicas know of all it did, within a second.

    WAIT asks for what its own connection wrote last, and a repeated script may have nothing left to
    write; so something is written in between, in the key's slot.
    """
    mark = key + b"waited" if key != META else b"cs:{%s}:waited" % META
    return [("SET", mark, b"", "PX", 1000), ("WAIT", replicas, 1000)]


def _as_committed(answer: bytes) -> Committed:
    committed: Committed = answer.decode()  # type: ignore[assignment]  # as below
    return committed


def _as_done(answer: bytes) -> Done:
    done: Done = answer.decode()  # type: ignore[assignment]  # the scripts answer these words only
    return done
