"""Hearing, over Redis' publish and subscribe, of what other processes leave to do."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, get_args

import redis

from langchain_convsync import _forks
from langchain_convsync._flow import Wait, monotonic
from langchain_convsync.errors import StoreError
from langchain_convsync.stores.base import Hint, QueueName

#: Seconds before we try to subscribe again, and after a refusal.
AGAIN, REFUSED = 1.0, 60.0
_QUEUES: dict[str, QueueName] = {queue: queue for queue in get_args(QueueName)}
#: What a client raises where its server is away, refuses, or the connection was closed meanwhile.
_ERRORS = (redis.RedisError, redis.exceptions.RedisClusterException, OSError, ValueError)


class RedisListener:
    """Hears what the scripts publish, over a connection of its own.

    On a cluster, a published message reaches every node, so one connection hears all of it.

    Args:
        client: Finds the blocking client.
        channel: What to listen to; it changes where the store is begun anew.
        origin: What tells this process's own messages that it need not hear.
        heard: Called with the conversation key of each hint of work that is due.
        ended: Called at the end.
    """

    def __init__(
        self,
        client: Callable[[], Any],
        channel: Callable[[], bytes],
        origin: str,
        heard: Callable[[QueueName, str], None],
        ended: Callable[[], None],
    ) -> None:
        self._client, self._channel, self._origin = client, channel, origin
        self._heard, self._at_end = heard, ended
        self._ended = threading.Event()
        self._heard_on: bytes | None = None
        self._pubsub: Any = None
        self._is_sure = self._asked = False
        self._tries_at = 0.0
        _forks.in_child(self, RedisListener._begin_anew)

    @property
    def is_sure(self) -> bool:
        """See :attr:`Listener.is_sure`."""
        return self._is_sure

    def wait(self, seconds: float) -> Wait[Sequence[Hint]]:
        """See :meth:`Listener.wait`."""
        return Wait(seconds, self._ended.is_set, self._block, self._wait)

    def end(self) -> None:
        """See :meth:`Listener.end`."""
        if not self._ended.is_set():
            self._at_end()
        self._ended.set()
        connection = getattr(self._pubsub, "connection", None)
        with suppress(OSError, AttributeError):  # whoever reads from it finds its end
            connection._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]  # noqa: SLF001 - as redis-py does

    def close(self) -> None:
        """See :meth:`Listener.close`."""
        self.end()
        self._leave()

    async def _wait(self, seconds: float) -> Sequence[Hint]:
        return await asyncio.to_thread(self._block, seconds)

    def _block(self, seconds: float) -> Sequence[Hint]:
        if self._ended.is_set() or not self._is_subscribed():
            self._ended.wait(seconds)
            return ()
        try:
            return self._read(seconds)
        except Exception:  # noqa: BLE001 - another thread may have closed the connection
            self._leave()  # and the next wait begins anew
            return (Hint(),)

    def _is_subscribed(self) -> bool:
        try:
            channel = self._channel()
            if self._pubsub is not None and channel == self._heard_on:
                return True
            if not channel or monotonic() < self._tries_at:
                return False
            self._leave()
            self._tries_at = monotonic() + AGAIN
            pubsub = self._client().pubsub()
            self._pubsub, self._heard_on = pubsub, channel
            pubsub.subscribe(channel)
        except (StoreError, *_ERRORS) as error:
            self._give_up(error)
            return False
        return True

    def _give_up(self, error: Exception) -> None:
        if isinstance(error, redis.exceptions.NoPermissionError):
            self._tries_at = monotonic() + REFUSED
        self._leave()

    def _read(self, seconds: float) -> Sequence[Hint]:
        pubsub = self._pubsub
        if pubsub is None:
            return ()
        try:
            message = pubsub.get_message(timeout=seconds)
        except redis.exceptions.NoPermissionError as error:
            self._give_up(error)
            return ()
        if message is None and seconds:
            self._look_after(pubsub)
            return ()
        hints = []
        while message is not None:
            hints += self._hints_of(message)
            message = pubsub.get_message(timeout=0.0)
        return hints

    def _look_after(self, pubsub: Any) -> None:
        """Nothing was heard for long: the connection may be dead without a sign of it."""
        if self._asked:
            message = "no answer to a ping"
            raise redis.TimeoutError(message)
        pubsub.ping()
        self._asked = True

    def _hints_of(self, message: Any) -> list[Hint]:
        self._asked = False
        if message["type"] == "subscribe":
            self._is_sure = True
            return [Hint()]  # what was published before was not heard
        if message["type"] != "message":
            return []
        data = message["data"]
        words = (data.decode("ascii", "replace") if isinstance(data, bytes) else data).split(" ")
        if len(words) != len(("queue", "conversation", "waits", "origin")):
            return []
        queue = _QUEUES.get(words[0])
        waits = math.inf if words[2] == "-" else _seconds(words[2])
        if queue is None or (waits == 0.0 and words[3] == self._origin):
            return []
        if waits == 0.0:
            self._heard(queue, words[1])
        return [Hint(seconds=waits, queue=queue, conversation_key=words[1])]

    def _leave(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        self._is_sure = self._asked = False
        if pubsub is not None:
            with suppress(*_ERRORS, AttributeError):
                pubsub.close()

    def _begin_anew(self) -> None:
        """In a forked child: the thread that listens is the parent's, and so is the connection."""
        _forks.sever(self._pubsub)
        _forks.abandon(self._pubsub)
        self._pubsub = None
        self._is_sure = self._asked = False
        self._ended = threading.Event()


def _seconds(milliseconds: str) -> float:
    return int(milliseconds) / 1000 if milliseconds.isdecimal() else 0.0
