"""What a forked process does not share with its parent: locks, connections, threads.

gunicorn that preloads, Celery's pool and ``multiprocessing`` fork processes that have worked
already. The child gets a copy of everything but the threads: locks that no thread will release,
and sockets whose other end answers parent and child alike. What keeps such a thing registers here
what becomes of it; Python calls back before anything else runs in the child.

A process that is sent a pickle shares less: what keeps such a thing is `Unpicklable`.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any, NoReturn, Self, SupportsIndex, TypeVar
from weakref import WeakKeyDictionary, WeakSet

T = TypeVar("T")

#: Seconds that a fork waits for what is under way to come to rest.
PATIENCE = 10.0
#: Whose objects are searched for sockets: no more than what a client is made of.
_SEARCHED = {
    "aiohttp",
    "anyio",
    "httpcore",
    "httpx",
    "httpx_aiohttp",
    "langchain_convsync",
    "queue",  # a pool's connections
    "redis",
}
_LOOPS = {"asyncio", "uvloop"}
_LOCKS = (type(threading.Lock()), type(threading.RLock()))

_locks: WeakSet[Any] = WeakSet()
_resting: WeakKeyDictionary[Any, tuple[Callable[[Any], None], Callable[[Any], None]]] = (
    WeakKeyDictionary()
)
_beginning: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()
#: Who rests while a fork is under way.
_at_rest: list[tuple[Any, Callable[[Any], None]]] = []
#: Kept in a child for good: to be collected they would call the parent's event loop.
_abandoned: list[object] = []
_forking = threading.RLock()


class Unpicklable:
    """What stays in its process: a pickle would write its secret down, and hold no connection.

    A copy within the process is the thing itself, as frameworks copy what they are given.
    """

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        name = type(self).__name__.lstrip("_")
        message = (
            f"{name} holds secrets or connections, which stay in their process: pass what it is "
            "made of, and make it anew in the process that uses it"
        )
        raise TypeError(message)


def lock() -> threading.Lock:
    """A lock that is free in a forked child."""
    new = threading.Lock()
    _locks.add(new)
    return new


def condition() -> threading.Condition:
    """A condition that is free in a forked child, without the parent's waiters."""
    new = threading.Condition()
    _locks.add(new)
    return new


def in_child(owner: T, begin_anew: Callable[[T], None]) -> None:
    """Call ``begin_anew(owner)`` in every forked child, as long as the owner lives.

    Its locks are free then, no other thread runs, and it must not perform I/O.
    """
    _beginning[owner] = begin_anew


def around(owner: T, *, rest: Callable[[T], None], go_on: Callable[[T], None]) -> None:
    """Call ``rest(owner)`` before a fork, and ``go_on(owner)`` in the parent after it."""
    _resting[owner] = (rest, go_on)


def abandon(*things: object) -> None:
    """Keep what was the parent's: its finalizers must not run in the child."""
    _abandoned.extend(things)


def sever(*roots: object) -> None:
    """Cut a child's copies of all connections that are found below some objects.

    Each becomes a connection to nothing: a pool that looks at it finds that it broke, and whatever
    is still written to it, TLS's farewell for example, reaches neither the parent's peer nor its
    event loop. Locks on the way are free then.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        for descriptor in _descriptors(roots):
            with suppress(OSError):  # it was closed
                os.dup2(nowhere, descriptor, inheritable=False)
    finally:
        os.close(nowhere)


def _descriptors(roots: Iterable[object]) -> Iterator[int]:
    waiting, seen = list(roots), dict[int, object]()
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen[id(found)] = found  # kept, so that no other object gets its id
        package = type(found).__module__.partition(".")[0]
        if isinstance(found, _LOCKS):
            _free(found)
        elif isinstance(found, socket.socket):
            yield found.fileno()
        elif package in _LOOPS:
            about = getattr(found, "get_extra_info", None)
            wire = None if about is None else about("socket")
            if wire is not None:
                yield wire.fileno()
        elif isinstance(found, Mapping):
            waiting += found.values()
        elif isinstance(found, Sequence | AbstractSet) and not isinstance(found, str | bytes):
            waiting += found
        elif package in _SEARCHED:
            waiting += _attributes(found)


def _attributes(found: object) -> list[object]:
    names = {name for kind in type(found).__mro__ for name in getattr(kind, "__slots__", ())}
    held = [getattr(found, name, None) for name in names if not name.startswith("__")]
    return [*held, *getattr(found, "__dict__", {}).values()]


def _free(held: Any) -> None:
    held._at_fork_reinit()  # noqa: SLF001 - made for this, by the standard library for its own


def _before() -> None:
    _forking.acquire()
    for owner, (rest, go_on) in list(_resting.items()):
        rest(owner)
        _at_rest.append((owner, go_on))


def _after_in_parent() -> None:
    while _at_rest:
        owner, go_on = _at_rest.pop()
        go_on(owner)
    _forking.release()


def _after_in_child() -> None:
    _free(_forking)
    _at_rest.clear()
    for each in list(_locks):
        _free(each)
    for owner, begin_anew in list(_beginning.items()):
        begin_anew(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
