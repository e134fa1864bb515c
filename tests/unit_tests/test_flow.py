"""Flows: one generator, sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from langchain_convsync import (
    AsyncConvSyncClient,
    ConfigurationError,
    InboundEvent,
    RedisEventStore,
    SQLiteEventStore,
    TurnRunner,
    aonce,
)
from langchain_convsync._flow import Flow, Io, arun, run


def value(result: Any) -> Io[Any]:
    async def wait() -> Any:
        await asyncio.sleep(0)
        return result

    return Io(lambda: result, wait)


def failure(error: BaseException) -> Io[Any]:
    def block() -> Any:
        raise error

    async def wait() -> Any:
        raise error

    return Io(block, wait)


def blocking(flow: Flow[Any] | Io[Any]) -> Any:
    return run(flow)


def awaited(flow: Flow[Any] | Io[Any]) -> Any:
    return asyncio.run(arun(flow))


@pytest.fixture(params=[blocking, awaited])
def drive(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    chosen: Callable[[Any], Any] = request.param
    return chosen


def test_a_flow_returns_what_its_steps_make_of_each_other(drive: Callable[[Any], Any]) -> None:
    """The logic between the steps is written once."""

    def total() -> Flow[int]:
        first: int = yield from value(1)
        second: int = yield from value(2)
        return first + second

    assert drive(total()) == 3


def test_a_single_step_can_be_driven_like_a_flow(drive: Callable[[Any], Any]) -> None:
    """Store operations are single steps."""
    assert drive(value("x")) == "x"


def test_a_failing_step_raises_where_the_flow_waits_for_it(drive: Callable[[Any], Any]) -> None:
    """A flow can catch and go on, as plain code can."""

    def recovering() -> Flow[str]:
        try:
            yield from failure(ValueError("no"))
        except ValueError as error:
            return f"caught {error}"
        return "unreachable"

    assert drive(recovering()) == "caught no"


def test_cleanup_runs_when_a_step_is_interrupted(drive: Callable[[Any], Any]) -> None:
    """Cancellation and interrupts are exceptions too."""
    cleaned: list[str] = []

    def careful() -> Flow[None]:
        try:
            yield from failure(KeyboardInterrupt())
        finally:
            cleaned.append("yes")

    with pytest.raises(KeyboardInterrupt):
        drive(careful())
    assert cleaned == ["yes"]


async def test_cancelling_a_task_cancels_the_step_it_waits_for() -> None:
    """A cancelled call does not go on behind the caller's back."""
    started, seen = asyncio.Event(), []

    async def forever() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    def flow() -> Flow[None]:
        yield from Io(lambda: None, forever)

    task = asyncio.ensure_future(arun(flow()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]


def without_asyncio(call: Coroutine[Any, Any, object]) -> str:
    """What an awaited call says where its loop is another one's, trio's for example."""
    with pytest.raises(ConfigurationError) as refused:
        call.send(None)
    return str(refused.value)


def test_another_event_loop_is_told_what_works_there() -> None:
    """Not that there is no loop, where one runs: each awaited call, each block, each close."""
    client, store = AsyncConvSyncClient("http://127.0.0.1:9"), SQLiteEventStore(":memory:")
    runner = TurnRunner(RunnableLambda(str), client=client, store=store)

    told = {
        without_asyncio(client.lookup_tenant("+51999999999")),
        without_asyncio(client.aclose()),
        without_asyncio(aonce(store, "evt").__aenter__()),
        without_asyncio(
            runner.arun(InboundEvent(event_id="1", phone_number="+51999999999", text="Hola"))
        ),
        without_asyncio(runner.__aenter__()),
        without_asyncio(store.aclose()),
        without_asyncio(RedisEventStore("redis://127.0.0.1:9").aclose()),
    }

    assert len(told) == 1
    assert "trio.to_thread.run_sync" in told.pop()
