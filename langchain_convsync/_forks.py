"""What a forked process does not share with its parent: locks, connections, threads.

gunicorn that preloads, Celery's pool and ``multiprocessing`` fork processes that have worked
already. The child gets a copy of everything but the threads: locks that no thread will release,
and sockets whose other end answers parent and child alike. What keeps such a thing registers here
what becomes of it; Python calls back before anything else runs in the child.

A process that is sent a pickle shares less: what keeps such a thing is `Unpicklable`.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableSequence,
    MutableSet,
    Sequence,
)
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any, NoReturn, Self, SupportsIndex, TypeVar
from weakref import ProxyTypes, WeakKeyDictionary, WeakSet

logger = logging.getLogger(__name__)
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
#: What pools call their connections, and the calls that use or await one: all are the parent's.
_POOLED = {
    "_available_connections",
    "_connections",
    "_free",
    "_in_use_connections",
    "_requests",
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
    with _forking:  # not while another thread forks
        _resting[owner] = (rest, go_on)


def abandon(*things: object) -> None:
    """Keep what was the parent's: its finalizers must not run in the child."""
    _abandoned.extend(things)


def sever(*roots: object) -> None:
    """Cut a child's copies of all connections that are found below some objects.

    Each becomes a connection to nothing: a pool that looks at it finds that it broke, and whatever
    is still written to it, TLS's farewell for example, reaches neither the parent's peer nor its
    event loop. Pools on the way are empty then: the calls that use their connections, or wait for
    one, are the parent's too. Locks are free.
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
        if id(found) in seen or type(found) in ProxyTypes:  # a dead one answers nothing
            continue
        seen[id(found)] = found  # kept, so that no other object gets its id
        wire = _wire(found)
        if wire is not None:
            yield wire.fileno()
        elif isinstance(found, _LOCKS):
            _free(found)
        else:
            waiting += _held(found)


def _wire(found: object) -> Any:
    """The socket itself, or the one below what an event loop made of it."""
    if isinstance(found, socket.socket):
        return found
    if _package(type(found)) not in _LOOPS:
        return None
    about = getattr(found, "get_extra_info", None)
    return None if about is None or found.is_closing() else about("socket")  # type: ignore[attr-defined]


def _held(found: object) -> Iterable[object]:
    if isinstance(found, Mapping):
        return found.values()
    if isinstance(found, Sequence | AbstractSet) and not isinstance(found, str | bytes):
        return found
    # A client or transport of the caller's own class is one of theirs as well.
    packages = {_package(kind) for kind in type(found).__mro__}
    if packages.isdisjoint(_SEARCHED) and not _is_transport(found):
        return []
    names = {name for kind in type(found).__mro__ for name in getattr(kind, "__slots__", ())}
    slots = {name: getattr(found, name, None) for name in names if not name.startswith("__")}
    held = {**slots, **getattr(found, "__dict__", {})}
    return [*held.values(), *_emptied(held[name] for name in _POOLED & held.keys())]


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _is_transport(found: object) -> bool:
    return hasattr(found, "handle_request") or hasattr(found, "handle_async_request")


def _emptied(pools: Iterable[object]) -> Iterator[object]:
    for pool in pools:
        if isinstance(pool, MutableSequence | MutableSet):
            abandon(*pool)
            yield list(pool)
            pool.clear()


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
        try:
            begin_anew(owner)
        except Exception:
            logger.critical(
                "A forked child still shares connections with its parent: make a new %s in it",
                type(owner).__name__,
                exc_info=True,
            )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
