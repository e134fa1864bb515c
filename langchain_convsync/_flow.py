"""Sync and async from one source.

A *flow* is a generator that yields :class:`Io` steps and returns a result. :func:`run` performs the
steps blocking, :func:`arun` awaits them; the logic between the steps is written once::

    def greet(store: Store) -> Flow[str]:
        name = yield from store.name()      # an Io[str]
        return f"Hola {name}"

    run(greet(store))                       # or: await arun(greet(store))

Flows contain no concurrency, and their cleanup performs no I/O.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Generic, TypeAlias, TypeVar, TypeVarTuple

from langchain_convsync._platform import monotonic, perform, spawn
from langchain_convsync.errors import ConfigurationError

__all__ = [
    "Flow",
    "Io",
    "Polling",
    "Steps",
    "Wait",
    "arun",
    "monotonic",
    "run",
    "running_loop",
    "sleep",
]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Io(Generic[T]):
    """One step of I/O that can be performed blocking or awaited.

    Args:
        block: Performs it on the calling thread.
        wait: Performs it on the running event loop.
        arguments: What both are given; a turn makes many steps, and closures are dear.
    """

    __slots__ = ("_arguments", "_block", "_wait")

    def __init__(
        self,
        block: Callable[[*Ts], T],
        wait: Callable[[*Ts], Awaitable[T]],
        *arguments: *Ts,
    ) -> None:
        self._block, self._wait, self._arguments = block, wait, arguments

    def block(self) -> T:
        """Perform it on the calling thread."""
        return self._block(*self._arguments)

    def wait(self) -> Awaitable[T]:
        """Perform it on the running event loop."""
        return self._wait(*self._arguments)

    def __iter__(self) -> Generator[Io[Any], Any, T]:
        result: T = yield self
        return result


Flow: TypeAlias = Generator[Io[Any], Any, T]


class Wait(Io[T | None]):
    """A step that lets seconds pass, or fewer.

    Args:
        seconds: How many; then it comes to None.
        is_over: Whether there is nothing to wait for any more.
        block: Performs it on the calling thread.
        wait: Performs it on the running event loop.
    """

    __slots__ = ("is_over", "seconds")

    def __init__(
        self,
        seconds: float,
        is_over: Callable[[], bool],
        block: Callable[[float], T | None],
        wait: Callable[[float], Awaitable[T | None]],
    ) -> None:
        super().__init__(block, wait, seconds)
        self.seconds, self.is_over = seconds, is_over


class Steps(Io[T]):
    """Several steps that can be performed as one, or as a part of a flow.

    Args:
        flow: Begins the flow anew, each time that they are performed.
    """

    __slots__ = ("flow",)

    def __init__(self, flow: Callable[[], Flow[T]]) -> None:
        self.flow = flow

    def __iter__(self) -> Flow[T]:
        return self.flow()

    def block(self) -> T:
        """Perform them on the calling thread."""
        return run(self.flow())

    def wait(self) -> Awaitable[T]:
        """Perform them on the running event loop."""
        return arun(self.flow())


def run(flow: Flow[T] | Io[T]) -> T:
    """Perform a flow, or a single step, on the calling thread."""
    if isinstance(flow, Io):
        return flow.block() if isinstance(flow, Steps) else perform(flow)  # type: ignore[no-any-return]
    try:
        step = next(flow)
        while True:
            try:
                value = perform(step)
            except BaseException as error:  # noqa: BLE001 - cancellation too, so cleanup still runs
                step = flow.throw(error)
            else:
                step = flow.send(value)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        flow.close()


async def arun(flow: Flow[T] | Io[T]) -> T:
    """Perform a flow, or a single step, on the running event loop.

    Raises:
        ConfigurationError: The loop is not asyncio's.
    """
    running_loop()
    if isinstance(flow, Io):
        return await flow.wait()
    try:
        step = next(flow)
        while True:
            try:
                value = await step.wait()
            except BaseException as error:  # noqa: BLE001 - cancellation too, so cleanup still runs
                step = flow.throw(error)
            else:
                step = flow.send(value)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        flow.close()


def running_loop() -> asyncio.AbstractEventLoop:
    """The running event loop.

    Raises:
        ConfigurationError: None of asyncio's runs: what awaits here is trio, for example.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        message = (
            "langchain-convsync awaits on asyncio, and no event loop of asyncio runs here: under "
            "trio, make the blocking call on a thread (await trio.to_thread.run_sync(…)), or run "
            "with anyio's asyncio backend"
        )
        raise ConfigurationError(message) from None


class Polling:
    """Pauses between looks for something: short at first, then doubled, up to a quarter second."""

    FIRST, LAST = 0.01, 0.25

    def __init__(self) -> None:
        self._next = self.FIRST

    def slow(self) -> None:
        """Go on with the longest pause: there may be nothing for a long time."""
        self._next = self.LAST

    def soon(self) -> None:
        """Begin anew with the shortest one: there was something."""
        self._next = self.FIRST

    def pause(self, longest: float = math.inf) -> float:
        """Seconds until the next look, at most ``longest``."""
        pause, self._next = self._next, min(self.LAST, self._next * 2)
        return min(pause, longest)


def is_async(function: object) -> bool:
    """Whether a function, or an object that is called like one, has to be awaited."""
    call = getattr(function, "__call__", None)  # noqa: B004 - the method of an object, if it is one
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


async def on_thread(block: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Perform something blocking on a thread of its own, with the caller's context.

    A thread of a pool would be missing there while this one is stuck, and the end of the process
    would wait for it.
    """
    loop, context = asyncio.get_running_loop(), copy_context()
    done: asyncio.Future[T] = loop.create_future()

    def settle(settled: Callable[[Any], None], with_what: Any) -> None:
        if not done.done():  # by a cancellation
            settled(with_what)

    def work() -> None:
        told: tuple[Callable[[Any], None], Any]
        try:
            told = done.set_result, context.run(block, *arguments)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets it
            told = done.set_exception, error
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, *told)

    spawn(work, "convsync-blocking")
    return await done


def off_the_loop(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """A user's function for a loop that must not stand still: a plain one is run on a thread."""

    async def called(*given: Any) -> Any:
        blocks = not is_async(function)
        said = await asyncio.to_thread(function, *given) if blocks else function(*given)
        return await said if isinstance(said, Awaitable) else said

    return called


def sleep(seconds: float) -> Io[None]:
    """Let ``seconds`` pass."""
    return Wait(seconds, _never, time.sleep, asyncio.sleep)


def _never() -> bool:
    return False
