"""Scripts on their way to one Redis: in batches, each over a connection of our own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import redis

from langchain_convsync.stores.batches import Batches

_pack: Callable[[tuple[Any, ...]], bytes] | None = None
with suppress(ImportError):  # of the extra `aiohttp`
    from hiredis import pack_command

    _pack = pack_command

Command: TypeAlias = Sequence[Any]
#: Batches under way on one event loop.
BATCHES = 8


class Scripts:
    """Asks for scripts' answers on whichever event loop is running."""

    def __init__(self) -> None:
        self._batches: Batches[Command] = Batches(most=BATCHES)
        #: Connections that are ours until the client is closed: to get one from its pool and give
        #: it back costs more than a batch.
        self._at_hand: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Any]] = WeakKeyDictionary()

    async def ask(self, command: Command, client: Callable[[], Awaitable[Any]]) -> Any:
        """The answer to one command.

        Args:
            command: An ``EVALSHA`` or ``EVAL``: what a client gives back as it came.
            client: Finds the redis-py client of the running loop.
        """
        return await self._batches.ask(command, partial(self._answers, client))

    async def _answers(
        self, client: Callable[[], Awaitable[Any]], commands: Sequence[Command]
    ) -> list[Any]:
        pool = (await client()).connection_pool
        at_hand = self._at_hand.setdefault(asyncio.get_running_loop(), [])
        acquired = [at_hand.pop() if at_hand else await pool.get_connection()]
        try:
            return await _exchanged(acquired[0], commands)
        except BaseException:
            # Answers that are not read must not meet other questions; the others may be dead, too.
            acquired += at_hand
            at_hand.clear()  # none is acquired while it is being closed
            for connection in acquired:
                await connection.disconnect(nowait=True)
            raise
        finally:
            at_hand += acquired


async def _exchanged(connection: Any, commands: Sequence[Command]) -> list[Any]:
    """The answers, or the errors, of commands."""
    answers: list[Any] = []
    try:
        async with asyncio.timeout(connection.socket_timeout):  # one for all: redis-py's are dear
            await connection.send_packed_command(b"".join(map(_packed, commands)))
            for _ in commands:
                try:
                    read = connection.read_response(disable_decoding=True, timeout=math.inf)
                    answers.append(await read)
                except redis.ResponseError as error:
                    answers.append(error)
    except TimeoutError as error:
        message = "no answer in time"
        raise redis.TimeoutError(message) from error
    return answers


def _packed(command: Command) -> bytes:
    """A command in RESP: https://redis.io/docs/latest/develop/reference/protocol-spec/."""
    if _pack is not None:
        return _pack(tuple(command))
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        sent = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(sent), sent))
    return b"".join(parts)
