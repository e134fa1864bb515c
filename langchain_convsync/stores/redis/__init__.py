"""The event store on Redis or Valkey: many processes, many machines, one script per operation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import redis
import redis.asyncio

from langchain_convsync import _forks, telemetry
from langchain_convsync import _platform as platform
from langchain_convsync._checked import CountOrZero, Seconds, checked
from langchain_convsync._flow import Flow, Io, Steps
from langchain_convsync.errors import StoreChangedError, StoreUnavailableError
from langchain_convsync.stores.base import (
    ACKS_KEPT,
    DEFAULT_RULES,
    FORMAT_VERSION,
    REPLIES_KEPT,
    RETENTION,
    SHARDS,
    Accepted,
    AcceptRules,
    AccountKey,
    Acquired,
    Adopt,
    Backlog,
    Commit,
    Committed,
    Confirmed,
    ConversationView,
    Cursor,
    DeadLetter,
    DeadLetterPage,
    Done,
    KeptCall,
    Keys,
    Lease,
    Load,
    NewEvent,
    QueueName,
    Restriction,
    Upcoming,
    new_token,
)
from langchain_convsync.stores.changed import check_names_of
from langchain_convsync.stores.checks import (
    SECRET_SIZE,
    call_key,
    check_call,
    check_commit,
    check_event,
    check_id,
    check_line,
    check_meta,
    check_most,
    check_names,
    check_page,
    check_queue,
    check_word,
    decoded,
    in_milliseconds,
    is_key,
    milliseconds,
    renewed_id,
    shard_of,
    snapshot_life,
    turn_of,
    why_line,
)
from langchain_convsync.stores.redis.clients import (
    AsyncClient,
    BlockingClient,
    RedisClients,
    is_another_store,
    is_damage,
)
from langchain_convsync.stores.redis.listening import RedisListener
from langchain_convsync.stores.redis.risks import Risk, risks
from langchain_convsync.stores.redis.scripts import Command
from langchain_convsync.stores.redis.urls import check_namespace
from langchain_convsync.stores.redis.wire import (
    QUEUES,
    Argument,
    Script,
    as_accepted,
    as_account,
    as_accounts,
    as_acquired,
    as_cursor,
    as_dead_letter,
    as_load,
    as_restriction,
    as_servers,
    as_text,
    as_tool_call,
    as_upcoming,
    as_view,
    confirmed,
    optional,
    placed,
    root_of,
    script,
    sha_of,
    shard_keys,
    to_bytes,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")
#: The scripts that never write.
_READS = frozenset(
    {"due", "upcoming", "backlog", "loads", "accounts", "view", "dead_letters", "dead_letter_page"}
)
#: The place before all dead letters of a shard: an index, and what of it was told last.
_FIRST = "dead_operations 0 "
#: What this process has warned of: a server, by its id, and what to change about it.
_warned: set[tuple[str, str]] = set()
_warned_lock = _forks.lock()


class RedisEventStore(_forks.Unpicklable):
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
            are renewed blocking. It stays its owner's to close.
        retention: Seconds that finished events and idle conversations are remembered.
        replies_kept: Seconds that the words of an outcome, the reply, are kept for those who repeat
            its event; later they are told that it is done.
        wait_replicas: So many replicas have to know of a change before it is acknowledged; where
            fewer do within a second, the call raises. This narrows the window in which a failover
            can lose what was acknowledged, and does not close it: the replica that is promoted may
            be another one. 0 waits for none, and costs nothing.
        clock: Store time in seconds, for tests; None takes the server's.
        namespace: Lets several stores share a server: letters, digits, ``-`` and ``_``, behind
            ``cs:`` in every key. ``redis://host/0?namespace=staging`` says the same.

    Raises:
        ConfigurationError: Neither a URL nor a blocking client is given, it is not a Redis URL,
            the namespace is not one that keys can hold, or ``wait_replicas`` is negative.

    While a failover goes on, calls raise :class:`StoreUnavailableError`; later ones find the new
    primary by themselves. A call that raised may have taken effect, and is safe to repeat.

    On a Redis Cluster an acquire without a conversation asks the shards one after the other,
    beginning behind the one that gave work last. A token that holds a queue already may get another
    one when such an acquire is repeated with it.
    """

    @checked
    def __init__(
        self,
        url: str | None = None,
        *,
        client: BlockingClient | None = None,
        async_client: AsyncClient | None = None,
        retention: Seconds = RETENTION,
        replies_kept: Seconds = REPLIES_KEPT,
        wait_replicas: CountOrZero = 0,
        clock: Callable[[], float] | None = None,
        namespace: str | None = None,
    ) -> None:
        self._clients = RedisClients(url, client, async_client)
        namespace = self._clients.namespace if namespace is None else namespace
        self._root = root_of(check_namespace(namespace))
        self._meta_key = self._root + b"meta"
        self._retention = milliseconds(retention)
        self._replies_kept = min(milliseconds(replies_kept), self._retention)
        self._wait_replicas = wait_replicas
        self._clock = clock
        self._next_shard: dict[QueueName, int] = {}
        #: Of a cluster, where due work is said to be while somebody listens; None: anywhere.
        self._places: dict[QueueName, set[int]] | None = None
        #: Tells what this store's own process publishes.
        self._origin = platform.token(8)
        self._keys: Keys | None = None
        #: Of a cluster's shards, the copies of the store's record that this process has met.
        self._met: set[bytes] = set()

    @property
    def retention(self) -> float:
        """See :attr:`EventStore.retention`."""
        return self._retention / 1000

    def keys(self) -> Io[Keys]:
        """See :meth:`EventStore.keys`."""
        return Steps(self._opened)

    def account(self, account_key: AccountKey, facts: str) -> Io[AccountKey]:
        """See :meth:`EventStore.account`."""
        sent = to_bytes([account_key, facts])
        return Steps(partial(self._answer, "account", self._shard_keys(None)[:1], sent, as_account))

    def accounts(self) -> Io[dict[AccountKey, str]]:
        """See :meth:`EventStore.accounts`."""
        return Steps(partial(self._answer, "accounts", self._shard_keys(None)[:1], [], as_accounts))

    def serve(self, server: str = "", *, adopt: Adopt = "first") -> Io[tuple[str, ...]]:
        """See :meth:`EventStore.serve`."""
        sent = to_bytes([server, adopt])
        return Steps(partial(self._answer, "serve", self._shard_keys(None)[:1], sent, as_servers))

    def accept(
        self,
        event: NewEvent,
        rules: AcceptRules = DEFAULT_RULES,
        *,
        token: str | None = None,
    ) -> Io[Accepted]:
        """See :meth:`EventStore.accept`."""
        check_event(event)
        names = " ".join((event.conversation_key, *event.aliases))
        arguments: list[Argument] = [event.event_key, names]
        arguments += [event.digest, event.payload, token or platform.token(8), token or ""]
        arguments += [*in_milliseconds(rules), milliseconds(event.pause)]
        sent = to_bytes([*arguments, event.source, event.facts, self._origin])
        keys = self._comparing(event.conversation_key)

        def accepted() -> Flow[Accepted]:
            check_names_of(event.names, (yield from self._opened()))
            return (yield from self._answer("accept", keys, sent, as_accepted))

        return Steps(accepted)

    def find(self, account_key: AccountKey, source: str, facts: str) -> Io[str | None]:
        """See :meth:`EventStore.find`."""
        keys, sent = self._comparing(account_key), to_bytes([account_key, source, facts])
        return Steps(partial(self._answer, "find", keys, sent, as_text))

    def amend(
        self, event_key: str, before: str, after: str, *, due: bool = False
    ) -> Io[str | None]:
        """See :meth:`EventStore.amend`."""
        return self._operation("amend", event_key, [event_key, before, after, due], as_text)

    def acquire(
        self,
        queue: QueueName,
        token: str,
        *,
        conversation_key: str | None = None,
        lease: float = 30.0,
        account_concurrency: int = 0,
    ) -> Io[Acquired | None]:
        """See :meth:`EventStore.acquire`."""
        arguments: list[Argument] = [queue, token, milliseconds(lease), conversation_key or ""]
        arguments += [account_concurrency]
        if conversation_key is None and self._clients.is_cluster:
            return Steps(lambda: self._acquire_any(queue, arguments))
        return self._operation(
            "acquire", conversation_key, arguments, lambda answer: as_acquired(answer, queue)
        )

    def renew(self, lease: Lease, *, seconds: float = 30.0) -> Io[Lease | None]:
        """See :meth:`EventStore.renew`."""

        def renewed(ends: int | None) -> Lease | None:
            if ends is None:
                return None
            return Lease(
                conversation_key=lease.conversation_key,
                queue=lease.queue,
                token=lease.token,
                epoch=lease.epoch,
                until=ends / 1000,
            )

        return self._under(lease, "renew", [milliseconds(seconds)], renewed)

    def commit_turn(self, lease: Lease, commit: Commit) -> Io[Committed]:
        """See :meth:`EventStore.commit_turn`."""
        check_commit(lease, commit)
        arguments: list[Argument] = [lease.conversation_key, lease.token, lease.epoch, commit.dead]
        arguments += [commit.unless_paused, commit.unless_newer]
        arguments += [optional(commit.snapshot), snapshot_life(commit), commit.reason]
        arguments += [optional(commit.fact), self._replies_kept, optional(commit.tenant)]
        arguments += [optional(commit.note), milliseconds(commit.pause)]
        held = commit.held
        arguments += (
            ["", "", 0]
            if held is None
            else [held.event_key, held.payload, milliseconds(held.seconds)]
        )
        arguments += [milliseconds(commit.kept_for), len(commit.kept)]
        arguments += [len(commit.event_keys), len(commit.operations), len(commit.replies)]
        for event_key in commit.event_keys:
            arguments += [event_key, optional(commit.outcomes.get(event_key))]
        for operation in (*commit.operations, *commit.replies):
            arguments += [operation.id, operation.body]
        arguments += commit.kept
        return self._operation("commit", lease.conversation_key, arguments, _as_committed)

    def begin_call(
        self, lease: Lease, event_keys: Sequence[str], call: str, *, token: str
    ) -> Io[KeptCall | None]:
        """See :meth:`EventStore.begin_call`."""
        check_call(lease, event_keys)
        return self._under(lease, "begin_call", [call, token, *event_keys], as_tool_call)

    def end_call(
        self, lease: Lease, event_key: str, call: str, *, token: str, result: str | None
    ) -> Io[bool]:
        """See :meth:`EventStore.end_call`."""
        check_call(lease, [event_key])
        return self._under(lease, "end_call", [call, token, event_key, optional(result)], bool)

    def begin(
        self,
        lease: Lease,
        operation_id: str,
        pos: int,
        *,
        attempt: int,
        need: float,
        note: str | None = None,
        done: Confirmed | None = None,
    ) -> Io[Cursor | None]:
        """See :meth:`EventStore.begin`."""
        check_queue(lease)
        arguments: list[Argument] = [operation_id, pos, attempt, milliseconds(need), optional(note)]
        return self._under(lease, "begin", [*arguments, *confirmed(done)], as_cursor)

    def confirm(
        self, lease: Lease, operation_id: str, pos: int, *, last: bool, anchor: str | None = None
    ) -> Io[Done]:
        """See :meth:`EventStore.confirm`."""
        check_queue(lease)
        done = Confirmed(operation_id=operation_id, pos=pos, last=last, anchor=anchor)
        return self._under(lease, "confirm", confirmed(done), _as_done)

    def retry(
        self,
        lease: Lease,
        operation_id: str,
        pos: int,
        *,
        delay: float,
        sent: bool,
        note: str | None = None,
    ) -> Io[Done]:
        """See :meth:`EventStore.retry`."""
        check_queue(lease)
        arguments: list[Argument] = [operation_id, pos, milliseconds(delay), sent, optional(note)]
        return self._under(lease, "retry", arguments, _as_done)

    def set_dead(self, lease: Lease, operation_id: str, *, reason: str) -> Io[Done]:
        """See :meth:`EventStore.set_dead`."""
        check_queue(lease)
        return self._under(
            lease, "set_dead", [operation_id, turn_of(operation_id), reason], _as_done
        )

    def release(
        self,
        lease: Lease,
        *,
        delay: float = 0.0,
        failed: bool = False,
        held: int | None = None,
        done: Confirmed | None = None,
        why: str | None = None,
    ) -> Io[bool]:
        """See :meth:`EventStore.release`."""
        if done is not None:
            check_queue(lease)
        arguments: list[Argument] = [milliseconds(delay), failed, "" if held is None else held]
        arguments += [optional(why_line(why))]
        return self._under(lease, "release", [*arguments, *confirmed(done)], bool)

    def record_echo(self, conversation_key: str, note: str) -> Io[bool]:
        """See :meth:`EventStore.record_echo`."""
        check_line(note)
        return self._operation("record_echo", conversation_key, [conversation_key, note], bool)

    def record_ack(self, conversation_key: str, message_id: str, level: int) -> Io[None]:
        """See :meth:`EventStore.record_ack`."""
        check_id(message_id)
        arguments: list[Argument] = [conversation_key, message_id, level, ACKS_KEPT]
        return self._operation("record_ack", conversation_key, arguments, lambda _: None)

    def restrict(self, account_key: AccountKey, *, kind: str, seconds: float, why: str) -> Io[None]:
        """See :meth:`EventStore.restrict`."""
        check_word(kind)
        length, line = milliseconds(seconds), why_line(why) or ""
        arguments: list[Argument] = [account_key, kind, length, line]
        return self._about(account_key, "restrict", arguments)

    def lift(
        self, account_key: AccountKey, *, kind: str | None = None, token: str | None = None
    ) -> Io[None]:
        """See :meth:`EventStore.lift`."""
        arguments: list[Argument] = [account_key, kind or "", token or ""]
        return self._about(account_key, "lift", arguments)

    def restrictions(self) -> Io[tuple[Restriction, ...]]:
        """See :meth:`EventStore.restrictions`."""
        return Steps(self._restrictions)

    def pace(self, lease: Lease, token: str, *, spacing: Mapping[str, float]) -> Io[float | None]:
        """See :meth:`EventStore.pace`."""
        times = {check_word(kind): milliseconds(each) for kind, each in spacing.items()}

        def seconds(wait: int | None) -> float | None:
            return None if wait is None else wait / 1000

        arguments: list[Argument] = [each for named in times.items() for each in named]
        return self._under(lease, "pace", [token, *arguments], seconds)

    def pause(self, conversation_key: str, *, seconds: float) -> Io[None]:
        """See :meth:`EventStore.pause`."""
        return self._operation(
            "pause", conversation_key, [conversation_key, milliseconds(seconds)], lambda _: None
        )

    def alias(
        self, name: str, conversation_key: str, *, lease: Lease | None = None
    ) -> Io[str | None]:
        """See :meth:`EventStore.alias`."""
        check_names(name, conversation_key)
        arguments: list[Argument] = [name, conversation_key]
        arguments += ["", ""] if lease is None else [lease.token, lease.epoch]
        return self._operation("alias", conversation_key, arguments, as_text)

    def due(self, queue: QueueName, conversation_key: str) -> Io[float | None]:
        """See :meth:`EventStore.due`."""

        def seconds(milliseconds: int | None) -> float | None:
            return None if milliseconds is None else milliseconds / 1000

        return self._operation("due", conversation_key, [conversation_key, queue], seconds)

    def upcoming(self, conversation_keys: Sequence[str] = ()) -> Io[Upcoming]:
        """See :meth:`EventStore.upcoming`."""
        return Steps(lambda: self._upcoming(conversation_keys))

    def listen(self) -> RedisListener:
        """See :meth:`EventStore.listen`."""
        places: dict[QueueName, set[int]] = {queue: set() for queue in QUEUES}
        if self._clients.is_cluster:
            self._places = places

        def heard(queue: QueueName, conversation_key: str) -> None:
            if is_key(to_bytes([conversation_key])[0]):
                places[queue].add(shard_of(conversation_key))

        def ended() -> None:
            if self._places is places:
                self._places = None

        return RedisListener(self._clients.blocking, self._channel, self._origin, heard, ended)

    def backlog(self) -> Io[Backlog]:
        """See :meth:`EventStore.backlog`."""
        return Steps(self._counted)

    def loads(self) -> Io[tuple[Load, ...]]:
        """See :meth:`EventStore.loads`."""
        return Steps(self._loads)

    def view(self, conversation_key: str, *, most: int = 100) -> Io[ConversationView]:
        """See :meth:`EventStore.view`."""
        check_most(most)
        return self._operation("view", conversation_key, [conversation_key, most], as_view)

    def dead_letters(
        self, conversation_key: str | None = None, *, most: int = 100
    ) -> Io[tuple[DeadLetter, ...]]:
        """See :meth:`EventStore.dead_letters`."""
        check_most(most)
        return Steps(lambda: self._dead_letters(conversation_key, most))

    def dead_letter_page(
        self, page: str = "", *, account_key: AccountKey | None = None, most: int = 100
    ) -> Io[DeadLetterPage]:
        """See :meth:`EventStore.dead_letter_page`."""
        check_page(page, r"[0-9]{2} (dead_operations|dead) [0-9.e+-]{1,32} [^ ]*")
        check_most(most)
        return Steps(lambda: self._dead_letter_page(page, account_key, most))

    def requeue(self, letter: DeadLetter, *, token: str, body: str | None = None) -> Io[str | None]:
        """See :meth:`EventStore.requeue`."""
        note, renewed = call_key(letter, "requeue", token), renewed_id(letter, token)
        arguments: list[Argument] = [*placed(letter), note, renewed, optional(body)]
        return self._operation(
            "requeue", letter.conversation_key, arguments, lambda done: renewed if done else None
        )

    def discard(self, letter: DeadLetter, *, token: str) -> Io[bool]:
        """See :meth:`EventStore.discard`."""
        note = call_key(letter, "discard", token)
        return self._operation("discard", letter.conversation_key, [*placed(letter), note], bool)

    def forget(self, conversation_key: str) -> Io[bool]:
        """See :meth:`EventStore.forget`."""
        keys = self._shard_keys(conversation_key)
        return Steps(lambda: self._forget(keys, conversation_key))

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

    def reopen(self) -> None:
        """See :meth:`EventStore.reopen`."""
        self._clients.reopen()

    def _under(
        self, lease: Lease, name: str, arguments: list[Argument], parse: Callable[[Any], T]
    ) -> Io[T]:
        held: list[Argument] = [lease.conversation_key, lease.queue, lease.token, lease.epoch]
        return self._operation(name, lease.conversation_key, held + arguments, parse)

    def _about(self, account_key: AccountKey, name: str, arguments: list[Argument]) -> Io[None]:
        keys = [b"%s{s%02d}:" % (self._root, int(account_key[:2]))]
        return Steps(partial(self._answer, name, keys, to_bytes(arguments), lambda _: None))

    def _shard_keys(self, key: str | None) -> list[bytes]:
        return shard_keys(self._root, key)

    def _operation(
        self, name: str, key: str | None, arguments: list[Argument], parse: Callable[[Any], T]
    ) -> Io[T]:
        """A script's answer; without a key the script looks at every shard."""
        keys, sent = self._shard_keys(key), to_bytes(arguments)
        return Steps(partial(self._answer, name, keys, sent, parse))

    def _answer(
        self, name: str, keys: list[bytes], sent: list[bytes], parse: Callable[[Any], T]
    ) -> Flow[T]:
        yield from self._opened()
        return parse((yield from self._run_or_mend(name, keys, sent)))

    def _run_or_mend(self, name: str, keys: list[bytes], sent: list[bytes]) -> Flow[Any]:
        """A script's answer; what it cannot work on is mended first, and counted."""
        try:
            return (yield from self._run(name, keys, sent))
        except StoreUnavailableError as error:
            named = [key for each in sent for key in _keys_in(each)]
            if not named or not is_damage(error.__cause__):
                raise
        yield from self._run("mend", keys, named)
        telemetry.count("records_mended")
        logger.error("A damaged record of %s was mended", ", ".join(map(decoded, named)))
        return (yield from self._run(name, keys, sent))

    def _comparing(self, key: str) -> list[bytes]:
        """The key's shard, and where events are compared: on a cluster, no script sees two."""
        own = b"%s{s%02d}:" % (self._root, int(key[:2]))
        return [own, own if self._clients.is_cluster else self._shard_keys(None)[0]]

    def _acquire_any(self, queue: QueueName, arguments: list[Argument]) -> Flow[Acquired | None]:
        """On a cluster: one shard after the other, since no script can look at two."""
        yield from self._opened()
        keys, sent = self._shard_keys(None), to_bytes(arguments)
        first = self._next_shard.setdefault(queue, int(platform.chance() * len(keys)))
        failure: StoreUnavailableError | None = None
        places = None if self._places is None else self._places[queue]
        for shard in [*range(first, len(keys)), *range(first)]:
            if places is not None and shard not in places:
                continue
            if places is not None:
                places.discard(shard)  # before it is asked: what is heard meanwhile counts
            once = failure is not None  # the other nodes' work does not wait for a dead one
            try:
                answer = yield from self._run("acquire", [keys[shard]], sent, once=once)
            except StoreUnavailableError as error:
                failure = error
                continue
            if answer:
                if places is not None:
                    places.add(shard)  # there may be more
                self._next_shard[queue] = (shard + 1) % len(keys)
                return as_acquired(answer, queue)
        if failure is not None:
            raise failure
        return None

    def _upcoming(self, conversation_keys: Sequence[str]) -> Flow[Upcoming]:
        yield from self._opened()
        shards, answers = self._shard_keys(None), []
        failure: StoreUnavailableError | None = None
        for keys in (yield from self._clients.by_node(shards)):
            try:
                answers += yield from self._upcoming_in(keys, conversation_keys)
            except StoreUnavailableError as error:  # the other nodes' work does not wait for it
                failure = error
        if failure is not None and not answers:
            raise failure
        return as_upcoming(answers)

    def _upcoming_in(self, keys: list[bytes], conversation_keys: Sequence[str]) -> Flow[list[Any]]:
        """What is due in the shards of one node: on a cluster a script for each, sent together."""
        if not self._clients.is_cluster:
            return [(yield from self._run("upcoming", keys, to_bytes(conversation_keys)))]
        asked = []
        for key in keys:
            names = [name for name in conversation_keys if self._shard_keys(name) == [key]]
            asked.append((key, to_bytes(names)))
        answers: list[Any] = yield from self._run_together("upcoming", asked)
        for key, (counts, *_) in zip(keys, answers, strict=True):
            for queue, count in zip(QUEUES, counts, strict=True):
                if count and self._places is not None:
                    self._places[queue].add(int(key[-4:-2]))
        return answers

    def _run_together(self, name: str, asked: Sequence[tuple[bytes, list[bytes]]]) -> Flow[Any]:
        """A script's answers for several shards of one node; one by one where that fails."""
        opened = yield from self._opened()
        known = script(name)
        commands = [
            ("EVALSHA", known.sha, 2, key, key + b"meta", *self._arguments(sent, opened))
            for key, sent in asked
        ]
        try:
            return (yield from self._clients.batch(asked[0][0], *commands, once=True))
        except (redis.exceptions.NoScriptError, StoreUnavailableError):
            answers = []
            for key, sent in asked:
                answers.append((yield from self._run(name, [key], sent, once=True)))
            return answers

    def _channel(self) -> bytes:
        """Where the scripts publish their hints."""
        opened = self._keys
        return b"" if opened is None else self._root + b"hints:" + sha_of(opened.secret)

    def _counted(self) -> Flow[Backlog]:
        yield from self._opened()
        sums = [0] * 5
        for keys in self._reachable_together():
            counts = yield from self._run("backlog", keys, [])
            sums = [total + more for total, more in zip(sums, counts, strict=True)]
        queued, writes, replies, dead_letters, interrupts = sums
        return Backlog(
            queued=queued,
            interrupts=interrupts,
            writes=writes,
            replies=replies,
            dead_letters=dead_letters,
        )

    def _loads(self) -> Flow[tuple[Load, ...]]:
        yield from self._opened()
        found: list[Any] = []
        for keys in self._reachable_together():
            found += yield from self._run("loads", keys, [])
        return tuple(map(as_load, sorted(found, key=lambda load: load[:3])))

    def _restrictions(self) -> Flow[tuple[Restriction, ...]]:
        yield from self._opened()
        found: list[Any] = []
        for keys in self._reachable_together():
            found += yield from self._run("restrictions", keys, [])
        return tuple(map(as_restriction, sorted(found)))

    def _dead_letters(
        self, conversation_key: str | None, most: int
    ) -> Flow[tuple[DeadLetter, ...]]:
        yield from self._opened()
        found: list[Any] = []
        one = conversation_key is not None
        for keys in [self._shard_keys(conversation_key)] if one else self._reachable_together():
            sent = to_bytes([conversation_key or "", most])
            found += yield from self._run_or_mend("dead_letters", keys, sent)
        found.sort(key=lambda entry: entry[:4])  # of a cluster's shards, each told its oldest
        return tuple(map(as_dead_letter, found[:most]))

    def _dead_letter_page(
        self, page: str, account_key: AccountKey | None, most: int
    ) -> Flow[DeadLetterPage]:
        """Shard by shard, since an account has one, and a script of a cluster can look at one."""
        yield from self._opened()
        first, _, behind = page.partition(" ")
        start = int(account_key[:2]) if account_key else 0
        for shard in range(int(first or start), start + 1 if account_key else SHARDS):
            keys = [self._shard_keys(None)[shard]]
            sent = to_bytes([account_key or "", most, *(behind or _FIRST).split(" ")])
            found, place = yield from self._run("dead_letter_page", keys, sent)
            letters, behind = tuple(map(as_dead_letter, found)), ""
            if place:
                rest = " ".join(map(decoded, place))
                return DeadLetterPage(letters=letters, next=f"{shard:02d} {rest}")
            if letters:
                last = account_key is not None or shard == SHARDS - 1
                following = None if last else f"{shard + 1:02d} {_FIRST}"
                return DeadLetterPage(letters=letters, next=following)
        return DeadLetterPage()

    def _forget(self, keys: list[bytes], conversation_key: str) -> Flow[bool]:
        yield from self._opened()
        sent = to_bytes([conversation_key, 1, new_token()])
        name, now, kept = yield from self._run_or_mend("forget", keys, sent)
        names: dict[str, None] = {decoded(name): None}
        known = 0
        while known < len(names):  # a name may have been the target of another one
            known = len(names)
            cursor = b"0"
            while True:
                sent = to_bytes([cursor, now, *names])
                cursor, aliases, erased = yield from self._run("finished", keys, sent)
                kept += erased
                names.update(dict.fromkeys(map(decoded, aliases)))
                if cursor == b"0":
                    break
        for alias in list(names)[1:]:
            yield from self._run("forget", keys, to_bytes([alias, 0, ""]))
        return bool(kept or len(names) > 1)

    def _reachable_together(self) -> list[list[bytes]]:
        """All shards, as one script can look at them: on a cluster one at a time."""
        keys = self._shard_keys(None)
        return [[key] for key in keys] if self._clients.is_cluster else [keys]

    def _run(
        self, name: str, keys: list[bytes], sent: list[bytes], *, once: bool = False
    ) -> Flow[Any]:
        waits = self._wait_replicas > 0 and name not in _READS
        record = keys[0] + b"meta" if self._clients.is_cluster else self._meta_key
        while True:
            opened = yield from self._opened()
            arguments = self._arguments(sent, opened)
            try:
                answer = yield from self._call(
                    script(name), [*keys, record], arguments, waits=waits, once=once
                )
            except StoreUnavailableError as error:
                if not is_another_store(error.__cause__):
                    raise
                yield from self._open_anew(opened, record)
            else:
                self._met.add(record)
                return answer

    def _arguments(self, sent: Sequence[bytes], opened: Keys) -> list[bytes]:
        """A script's own arguments among those of all scripts."""
        clock = b"" if self._clock is None else b"%d" % round(self._clock() * 1000)
        return [clock, b"%d" % self._retention, *sent, sha_of(opened.secret)]

    def _open_anew(self, opened: Keys, record: bytes) -> Flow[None]:
        """Opens the store that is there instead of the one that was opened.

        A record that is gone is written again as it was: what an eviction left keeps its names, and
        the processes that go on agree on them.

        Raises:
            StoreChangedError: Always, but for a shard that this process never met.
        """
        key = yield from self._meta(opened.secret)
        if record != self._meta_key:
            yield from self._clients.batch(record, ("HSET", record, "key", key))
            if key == opened.secret and record not in self._met:
                return
            self._met.discard(record)
        if self._keys is opened:  # else another task was first
            self._keys = Keys(key)
            telemetry.count("stores_changed")
            logger.error(
                "Redis is not the store that was opened: it was emptied, or it evicts keys. What "
                "was not done yet is lost, and messages that are delivered again are new ones. Set "
                "`appendonly yes` and `maxmemory-policy noeviction`"
            )
        message = (
            "Redis was emptied, or its store begun anew, since this one was opened; the same call "
            "again works in what is there now"
        )
        raise StoreChangedError(message)

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
        own = keys[0] if keys[0] != self._meta_key else b"cs:{%s}:" % self._meta_key  # in its slot
        wait = _waiting(own, self._wait_replicas) if waits else []
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

    def _opened(self) -> Flow[Keys]:
        if self._keys is None:
            key = yield from self._meta(platform.token_bytes(SECRET_SIZE))
            yield from self._check_server()
            self._keys = Keys(key)
        return self._keys

    def _meta(self, secret: bytes) -> Flow[bytes]:
        """The store's secret; the given one, where it has none."""
        opened, version = script("open", prelude=False), b"%d" % FORMAT_VERSION
        waits = self._wait_replicas > 0
        try:
            found = yield from self._call(opened, [self._meta_key], [secret, version], waits=waits)
        except StoreUnavailableError as error:
            if "WRONGTYPE" not in str(error.__cause__):
                raise
            found = (None, None)
        return check_meta(*found, place=f"{self._meta_key.decode()} in Redis")

    def _check_server(self) -> Flow[None]:
        try:
            found = yield from self._infos()
        except StoreUnavailableError as error:
            refused = isinstance(error.__cause__, redis.ResponseError)
            if not refused and not self._clients.is_cluster:
                raise  # of a cluster, the other nodes' shards are still there
            logger.info("This store cannot check Redis's persistence: %s", error.__cause__)
            return
        new = [(info.get("run_id"), risk) for info in found for risk in risks(info)]
        for risk in dict.fromkeys(risk for server, risk in new if _is_first(server, risk)):
            logger.warning("Redis can lose acknowledged events: %s", risk)

    def _risks(self) -> Flow[list[Risk]]:
        infos = yield from self._infos()
        return list(dict.fromkeys(risk for info in infos for risk in risks(info)))

    def _infos(self) -> Flow[list[Mapping[str, Any]]]:
        found: list[Mapping[str, Any]] = []
        for key, *_ in self._reachable_together():  # every primary that holds a shard
            found += yield from self._clients.batch(key, ("INFO",))
        return found


def _is_first(server: str | None, risk: Risk) -> bool:
    """Whether this process has not warned of it yet; a server that hides its id is a new one."""
    if server is None:
        return True
    warning = (server, risk.remedy)  # what is wrong may count something that grows
    with _warned_lock:
        is_first = warning not in _warned
        _warned.add(warning)
    return is_first


def _waiting(key: bytes, replicas: int) -> list[Command]:
    """Commands behind a script that tell how many replicas know of all it did, within a second.

    WAIT asks for what its own connection wrote last, and a repeated script may have nothing left to
    write; so something is written in between, in the key's slot.
    """
    return [("SET", key + b"waited", b"", "PX", 1000), ("WAIT", replicas, 1000)]


def _as_committed(answer: bytes) -> Committed:
    committed: Committed = answer.decode()  # type: ignore[assignment]  # as below
    return committed


def _as_done(answer: bytes) -> Done:
    done: Done = answer.decode()  # type: ignore[assignment]  # the scripts answer these words only
    return done


def _keys_in(argument: bytes) -> list[bytes]:
    """The keys that an argument is, one or several; none where it is anything else."""
    found = argument.split(b" ")
    return found if all(map(is_key, found)) else []
