"""Which run belongs to which root, and what was so before the root began.

A *root* is a run whose parent the handler has not seen: the outermost one it is attached to. What
belongs to a root is kept under its run id, so one handler serves any number of runs at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any
from uuid import UUID

from langchain_convsync import _forks, telemetry
from langchain_convsync.surfaces.context import ConversationRef, TurnRecord
from langchain_convsync.surfaces.messages import messages_of

#: Roots that are remembered at once; the oldest one that never ended is forgotten beyond.
MOST_ROOTS = 10_000


@dataclass(slots=True)
class _Run:
    """A run that may be a graph: what it was given, and the step at which it began or went on."""

    given: Mapping[str, Any]
    checkpoint: str | None
    first_step: int | None = None


@dataclass(slots=True)
class Root:
    """One root and everything below it.

    Attributes:
        ref: The conversation, where it was known when the root began.
        turn: The turn that was running then.
        thread: The thread of the graph that it is or holds, if that has a checkpointer.
        given: The root's input, where it is a mapping.
        restored: State that a checkpointer brought back.
        known: Ids of the messages that were there before.
        interrupted: Whether a graph stopped to wait for a human.
        resumed: Whether the root goes on with an interrupted one.
        elsewhere: Whether that one was interrupted in another process, so that the state
            before it is not known here.
    """

    ref: ConversationRef | None = None
    turn: TurnRecord | None = None
    thread: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    restored: dict[str, Any] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    interrupted: bool = False
    resumed: bool = False
    elsewhere: bool = False
    runs: dict[UUID, _Run] = field(default_factory=dict)

    def before(self, inputs: object = None) -> Mapping[str, Any]:
        """The state before the root; streams tell their input only when they end."""
        return {**(inputs if isinstance(inputs, Mapping) else self.given), **self.restored}

    def fresh(self, output: object) -> object:
        """The output without the messages that were there before."""
        if not isinstance(output, Mapping) or not (self.known or self.elsewhere):
            return output
        messages = [message for message in messages_of(output) if message.id not in self.known]
        if self.elsewhere:  # the interrupted run began with the customer's last words
            own = takewhile(lambda message: message.type != "human", reversed(messages))
            messages = list(own)[::-1]
        return {**output, "messages": messages}

    def enter(
        self, run_id: UUID, parent: UUID | None, given: Mapping[str, Any], about: Mapping[str, Any]
    ) -> None:
        """Note a run, and what it tells about the state before.

        The nodes that a graph runs first see its whole state. What they see and the graph was not
        given came from its checkpointer: nothing of that was decided now.
        """
        checkpoint, step = about.get("langgraph_checkpoint_ns"), about.get("langgraph_step")
        self.runs[run_id] = _Run(given, checkpoint)
        graph = self.runs.get(parent) if parent else None
        if graph is None or checkpoint in {None, graph.checkpoint} or self.resumed:
            return
        graph.first_step = step if graph.first_step is None else graph.first_step
        if graph.first_step == step:
            self.restored.update((k, v) for k, v in given.items() if k not in graph.given)
            self.known.update(message.id for message in messages_of(given) if message.id)


class Runs:
    """The roots under way, found by the id of any run below them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = _forks.lock()
        self._roots: OrderedDict[UUID, Root] = OrderedDict()
        self._root_ids: dict[UUID, UUID] = {}
        self._paused: OrderedDict[str, Root] = OrderedDict()

    def __len__(self) -> int:
        """How many roots are under way."""
        return len(self._roots)

    def begin(
        self,
        run_id: UUID,
        parent: UUID | None,
        inputs: object,
        about: Mapping[str, Any],
        new_root: Callable[[], Root],
    ) -> None:
        """Note the start of a run.

        Args:
            run_id: The run.
            parent: The run above it.
            inputs: Its input.
            about: Its metadata.
            new_root: Makes the root, if the run is one.
        """
        given = inputs if isinstance(inputs, Mapping) else {}
        with self._lock:
            root_id = run_id if parent is None else self._root_ids.get(parent, run_id)
            if root_id == run_id:
                self._roots[run_id] = new_root()
                self._roots[run_id].given = given
            self._root_ids[run_id] = root_id
            root = self._roots[root_id]
            if thread := _thread_of_graph(about):
                root.thread = thread
                if inputs is None or hasattr(inputs, "resume"):  # told to go on
                    self._go_on(root, thread)
            root.enter(run_id, parent, given, about)
            while len(self._roots) > MOST_ROOTS:
                telemetry.count("callback_runs_forgotten")
                self._forget(next(iter(self._roots)))

    def _go_on(self, root: Root, thread: str) -> None:
        """What was decided before the interrupt is still to be synced."""
        paused = self._paused.pop(thread, None)
        root.resumed, root.elsewhere = True, paused is None
        if paused is not None:
            root.restored, root.known = paused.restored, paused.known

    def interrupt(self, run_id: UUID | None) -> None:
        """Note that a run waits for a human."""
        with self._lock:
            root_id = self._root_ids.get(run_id) if run_id else None
            if root_id is None:
                return
            root = self._roots[root_id]
            root.interrupted = True
            if root.thread:
                self._paused[root.thread] = root
            while len(self._paused) > MOST_ROOTS:
                self._paused.popitem(last=False)

    def end(self, run_id: UUID) -> Root | None:
        """Forget a root and everything below it; None where the run is not a root."""
        with self._lock:
            return self._forget(run_id)

    def _forget(self, root_id: UUID) -> Root | None:
        root = self._roots.pop(root_id, None)
        if root is not None:
            for run_id in root.runs:
                del self._root_ids[run_id]
            root.runs.clear()
        return root


def _thread_of_graph(about: Mapping[str, Any]) -> str | None:
    """The thread, where the run is a graph with a checkpointer, and none of a graph's nodes."""
    return None if "langgraph_step" in about else about.get("thread_id")
