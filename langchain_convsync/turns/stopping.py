"""Ends a run of an agent that does not end by itself: between its steps, or by leaving it behind.

LangChain tells its handlers of each step before it begins, and a handler may refuse it. So a
blocking run ends at its next step, as an awaited one that does not heed its cancellation. A step
that never comes back is reported, and whoever waits for it is replaced.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import gc
import inspect
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from traceback import walk_stack
from types import FrameType, TracebackType
from typing import Any
from uuid import UUID
from weakref import WeakSet

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook

from langchain_convsync import telemetry
from langchain_convsync._flow import monotonic
from langchain_convsync.errors import FencedError, LoopError, is_users_code, raised_at
from langchain_convsync.stores.heartbeat import Alarm, Watch
from langchain_convsync.surfaces.context import TurnRecord
from langchain_convsync.surfaces.repeats import Rows

logger = logging.getLogger(__name__)

#: Seconds after its deadline at which a run that has not come back is taken for stuck.
STUCK_AFTER = 10.0
#: Seconds that a run on an event loop gets to end once it is cancelled.
CANCEL_TIME = 5.0
#: Steps whose places are remembered, to tell where a run is stuck.
_PLACES = 16


class AgentTimeoutError(TimeoutError):
    """The agent did not finish within the turn's deadline."""


class StoppedRun(BaseException):
    """The run that this is raised in ends here: what retries failures lets it pass."""


class Stopper(BaseCallbackHandler):
    """Refuses each step of a run that is over; LangChain finds it by the run's context.

    Args:
        record: What the run's surfaces note; a loop that one of them has found, too.
        watch: The turn's lease.
        seconds: How long the run may take.
        steps: The step of any graph in it, subagents' graphs too, at which it ends: there LangGraph
            would end it right afterwards, by an error that retries take for a failure.
    """

    raise_error = run_inline = True
    ignore_retry = ignore_custom_event = True

    def __init__(self, record: TurnRecord, watch: Watch, seconds: float, steps: int) -> None:
        self._record = record
        self._watch = watch
        self._seconds = seconds
        self._steps = steps
        self._first_steps: dict[UUID | None, int] = {}
        #: Threads that the run's calls got from the event loop.
        self.threads: list[threading.Thread] = []
        self._until = monotonic() + seconds
        self._ended = False
        self._reported = False
        self._rows = Rows()
        self._places: deque[tuple[int, asyncio.Task[Any] | None]] = deque(maxlen=_PLACES)
        self._replace: Callable[[], None] | None = getattr(_worker, "replace", None)

    @property
    def left(self) -> float:
        """Seconds that the run may still take."""
        return max(0.0, self._until - monotonic())

    @property
    def reason(self) -> Exception | None:
        """Why the run is over, if it is."""
        if (loop := self._record.loop) is not None:
            return loop
        if self._watch.lost:
            message = "another process took the conversation over; the agent was stopped"
            return FencedError(message)
        if monotonic() > self._until:
            return self.too_late()
        return None

    def too_late(self) -> AgentTimeoutError:
        """The error of a run that its deadline ended."""
        return AgentTimeoutError(f"the agent did not finish within {self._seconds:g} s")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The run, on its thread or its event loop."""
        token = _stopper.set(self)
        try:
            with Alarm(self._seconds + STUCK_AFTER, self.report):
                _running.add(self)
                self._note()
                yield
            self._ended = self.reason is None  # what it left running is its own business
            if self._ended:
                self._places.clear()  # whose task holds this, by its context
        finally:
            _running.discard(self)
            _stopper.reset(token)

    def leave_behind(self) -> None:
        """The process may end without it."""
        _let_go({thread for thread, _ in self._places})

    def look_for_threads(self) -> None:
        """The run was cut off, but a call of a tool's on a thread cannot be: report it."""
        if any(thread.is_alive() for thread in self.threads):
            self.report()

    def report(self) -> None:
        """The run does not come back: it is counted, told once, and its worker replaced."""
        if self._reported:
            return
        self._reported = True
        self.leave_behind()  # before anyone is told who may end the process
        telemetry.count("agents_stuck")
        logger.error(
            "The agent is stuck at %s, beyond agent_timeout=%g s, and cannot be stopped: give what "
            "it waits for a timeout of its own; %s",
            self._place(),
            self._seconds,
            "another worker takes its place" if self._replace else "it is left behind",
        )
        if self._replace is not None:
            self._replace()

    def on_chain_start(
        self,
        *_: Any,
        parent_run_id: UUID | None = None,
        metadata: Mapping[str, Any] | None = None,
        **__: Any,
    ) -> None:
        """A step begins, unless the run is over, or it is a graph's step too many."""
        self._note()
        step = (metadata or {}).get("langgraph_step")
        if self._ended or type(step) is not int:
            return
        # a graph with a memory counts on from turn to turn; all within a node has the node's step
        if step - self._first_steps.setdefault(parent_run_id, step) + 1 >= self._steps:
            self._record.loop = endless(self._steps)
            raise StoppedRun from self._record.loop

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        """As above."""
        self._note()

    on_llm_start = on_retriever_start = on_chat_model_start

    def on_llm_end(self, response: Any, **_: Any) -> None:
        """A model has answered: that is what a reply costs, whatever becomes of the run."""
        if self._record.meter is not None:
            answers = next(iter(response.generations), ())[:1]
            self._record.meter.add(each.message for each in answers if hasattr(each, "message"))

    def on_llm_new_token(self, *_: Any, **__: Any) -> None:
        """A model that streams goes on, unless the run is over."""
        self._refuse()

    def on_tool_start(  # noqa: D102 - as above
        self,
        serialized: Mapping[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        metadata: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        self._note()
        if self._ended:
            return
        tool = str((serialized or {}).get("name") or more.get("name"))
        arguments = inputs if isinstance(inputs, Mapping) else {"": input_str}
        about = metadata or {}
        agent = str(about.get("langgraph_checkpoint_ns", "")).rpartition("|")[0]
        step = about.get("langgraph_step")
        try:
            self._rows.begin(run_id, tool, arguments, agent=agent, step=step)
        except LoopError as loop:
            telemetry.count("loops", outcome="ended")
            self._record.loop = loop
            raise StoppedRun from loop

    def on_tool_end(self, output: Any, *, run_id: UUID, **_: Any) -> None:  # noqa: D102
        self._rows.end(run_id, str(getattr(output, "content", output)))

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:  # noqa: D102
        self._rows.end(run_id, f"{type(error).__name__}: {error}")

    def _note(self) -> None:
        self._refuse()
        self._places.append((threading.get_ident(), _current_task()))

    def _refuse(self) -> None:
        if not self._ended and self.reason is not None:
            raise StoppedRun

    def _place(self) -> str:
        """Where it is stuck: of the steps that began last, the first in code of the user's."""
        current, here = sys._current_frames(), threading.get_ident()  # noqa: SLF001 - documented
        alive = [current.get(thread.ident or 0) for thread in self.threads if thread.is_alive()]
        stacks = [_stack(frame) for frame in reversed(alive)] + [
            _awaits(task) if task is not None and thread == here else _stack(current.get(thread))
            for thread, task in reversed(self._places)
        ]
        for stack in stacks:
            if any(map(is_users_code, stack)):
                return _told(stack)
        return next((_told(stack) for stack in stacks if stack), "an unknown place")


_running: WeakSet[Stopper] = WeakSet()
_worker = threading.local()
_stopper: ContextVar[Stopper | None] = ContextVar("convsync_stopper", default=None)
register_configure_hook(_stopper, inheritable=True)


def running_stopper() -> Stopper | None:
    """What ends the run that this is called in, if it is in one."""
    return _stopper.get()


def endless(steps: int) -> LoopError:
    """The error of a run that took too many steps."""
    return LoopError(
        f"the agent, or one that it calls, came to no end in {steps} steps: if it needs more, "
        "give the runner agent.with_config(recursion_limit=…)"
    )


def leave_behind() -> None:
    """The process may end without the runs that are under way: their time is over."""
    for stopper in tuple(_running):
        stopper.leave_behind()


def replace_when_stuck(replace: Callable[[], None]) -> None:
    """What to do where a run never gives this thread back."""
    _worker.replace = replace


def _let_go(threads: Collection[int]) -> None:
    """The process may end without them: Python would wait for what runs on a thread of a pool."""
    waited_for: Any = getattr(concurrent.futures.thread, "_threads_queues", {})
    for thread in list(waited_for):
        if thread.ident in threads and thread.daemon:
            waited_for.pop(thread, None)


def _stack(frame: FrameType | None) -> list[FrameType]:
    """What runs on a thread, the outermost first."""
    return [] if frame is None else [each for each, _ in walk_stack(frame)][::-1]


def _awaits(task: asyncio.Task[Any]) -> list[FrameType]:
    """What a task waits in, and other tasks that it waits for, the outermost first."""
    found: Any = task.get_coro()
    frames = list[FrameType | None]()
    while found is not None:
        frames += (getattr(found, f"{kind}_frame", None) for kind in ("cr", "ag"))
        onward = getattr(found, "cr_await", None) or getattr(found, "ag_await", None)
        tasks = (each for each in gc.get_referents(onward) if isinstance(each, asyncio.Task))
        other = None if inspect.iscoroutine(onward) else next(tasks, None)
        found = onward if other is None else other.get_coro()
    return [*filter(None, frames)]


def _told(stack: Sequence[FrameType]) -> str:
    traceback: TracebackType | None = None
    for frame in reversed(stack):
        traceback = TracebackType(traceback, frame, max(frame.f_lasti, 0), frame.f_lineno or 0)
    return raised_at(Exception().with_traceback(traceback))


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
