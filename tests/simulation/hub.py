"""Processes on one virtual machine: who goes next, what time it is, and who dies where."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from heapq import heappop, heappush
from itertools import count
from threading import get_ident
from typing import Any

import greenlet

from langchain_convsync._flow import Io, Polling, Wait
from langchain_convsync._platform import Joinable, Platform
from langchain_convsync.stores import heartbeat
from langchain_convsync.stores.sqlite.transaction import Look
from langchain_convsync.turns import lookout

#: When a simulation begins.
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
#: Seconds that a step takes.
STEP = 0.001
#: Seconds between two looks for work: long ones, since most find none and cost as much as others.
POLL = 30.0


class Killed(BaseException):
    """The process is dead: whatever of it still runs, to clean up, performs nothing."""


class StuckError(AssertionError):
    """Something still waits although nothing is left that could end it in time."""


@dataclass(eq=False)
class Process:
    """A process: its strands run until it is killed, or stand still until it wakes."""

    name: str
    alive: bool = True
    wakes: float = 0.0
    strands: list[Strand] = field(default_factory=list)
    pulse: Any = field(default_factory=heartbeat._Heartbeat)


class Strand(greenlet.greenlet):
    """A thread of a process.

    Attributes:
        due: When it goes on at the latest.
        is_over: Whether it goes on before.
        turn: Tells whose turn it is: the lowest is next.
        outcome: What it came to.
    """

    def __init__(
        self, process: Process, name: str, work: Callable[[], Any], hub: greenlet.greenlet
    ) -> None:
        super().__init__(self._work, hub)
        self.process, self.name, self._job = process, name, work
        self.due, self.is_over, self.turn = 0.0, _never, 0
        self.outcome: Any = None
        self.failure: BaseException | None = None
        self.ended = False

    def _work(self) -> None:
        try:
            self.outcome = self._job()
        except Killed:
            pass
        except Exception as error:  # noqa: BLE001 - whoever waits for it looks at it
            self.failure = error
        self.ended = True


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Point:
    """A place between two steps.

    Attributes:
        number: Counts the steps of the processes that may die.
        process: Whose step it is.
        before: Whether the step has not been performed yet.
        step: What it does.
    """

    number: int
    process: str
    before: bool
    step: str


class Simulation(Platform):
    """A machine whose time passes when all its strands wait.

    Attributes:
        idle: The steps that looked for work, and found none.

    Args:
        seed: Decides whatever is left to chance.
        at: Called at each point between two steps of a process that may die; it may kill it.
        shuffled: Whether any strand that can go on may be the next; else they take turns.
    """

    def __init__(
        self,
        seed: object = 0,
        *,
        at: Callable[[Point, Process], None] = lambda _point, _process: None,
        shuffled: bool = False,
    ) -> None:
        self.chance = random.Random(f"{seed}")
        self.time = 0.0
        self.clock = 0.0
        self.steps = 0
        self.idle = set[int]()
        self.outside = Process("outside")
        self._at, self._shuffled = at, shuffled
        self._waiting: list[Strand] = []
        self._sleeping: list[tuple[float, int, Strand]] = []
        self._begun: list[Strand] = []
        self._turns = count()
        self._hub = greenlet.getcurrent()
        self._thread = get_ident()
        self._trace = sha256()
        self.log: list[str] = []

    # What the machine is asked for.

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self.time if self._is_asked else super().monotonic()

    def now(self) -> datetime:
        """The virtual time of day, by a clock that is set now and then."""
        if not self._is_asked:
            return super().now()
        return EPOCH + timedelta(seconds=self.time + self.clock)

    def token_bytes(self, size: int) -> bytes:
        """As many bytes of the seed's."""
        return self.chance.randbytes(size) if self._is_asked else super().token_bytes(size)

    def random(self) -> float:
        """A number of the seed's."""
        return self.chance.random() if self._is_asked else super().random()

    def perform(self, step: Io[Any]) -> Any:
        """A step, with a point before and after it."""
        strand = greenlet.getcurrent()
        if not isinstance(strand, Strand):  # another thread, which a tool began
            return step.block()
        if isinstance(step, Wait):
            self.rest(step.seconds, step.is_over)
            return step.block() if step.is_over() else None
        if strand.process is self.outside:
            return step.block()
        number, self.steps = self.steps, self.steps + 1
        name = _name_of(step)
        self._pass(strand, Point(number, strand.process.name, True, name))
        try:
            done = step.block()
            if name == "upcoming" or (name == "acquire" and done in (None, [None])):
                self.idle.add(number)
            return done
        finally:
            self._pass(strand, Point(number, strand.process.name, False, name))

    def spawn(self, work: Callable[[], Any], name: str) -> Joinable:
        """A strand of the process that asks."""
        if not self._is_asked:
            return super().spawn(work, name)
        return Handle(self, self.begin(self._process, work, name))

    @property
    def _is_asked(self) -> bool:
        """Whether who asks is in the simulation: other threads of the tests have real time."""
        return get_ident() == self._thread

    # What the world does.

    def begin(self, process: Process, work: Callable[[], Any], name: str) -> Strand:
        """Begin a strand of a process."""
        strand = Strand(process, name, work, self._hub)
        strand.due = self.time
        if process.alive:
            process.strands.append(strand)
            self._begun.append(strand)
            self._line_up(strand)
        return strand

    def rest(self, seconds: float, is_over: Callable[[], bool] = _never) -> None:
        """Let virtual seconds pass, or fewer."""
        strand = greenlet.getcurrent()
        assert isinstance(strand, Strand)
        strand.due, strand.is_over = self.time + max(0.0, seconds), is_over
        self._switch(strand)

    def kill(self, process: Process) -> None:
        """As ``kill -9``: no strand of it goes on."""
        self.note(f"kill {process.name}")
        process.alive = False
        self._waiting = [each for each in self._waiting if each.process is not process]

    def stop(self, process: Process, seconds: float) -> None:
        """As ``SIGSTOP``, and after so many seconds ``SIGCONT``."""
        self.note(f"{process.name} stands still for {seconds:g} s")
        process.wakes = self.time + seconds

    def set_clock(self, seconds: float) -> None:
        """Put the clock of the machine forward, or back."""
        self.note(f"the clock is put by {seconds:g} s")
        self.clock += seconds

    def note(self, line: str) -> None:
        """Add a line to the trace."""
        self._trace.update(f"{self.time:.6f} {line}\n".encode())
        self.log.append(f"{self.time:10.3f}  {line}")

    @property
    def trace(self) -> str:
        """The digest of everything that happened, in order."""
        return self._trace.hexdigest()

    def run(self, *, until: float) -> None:
        """Go on until the outside has nothing left to do.

        Raises:
            StuckError: It still has at virtual time ``until``.
        """
        self._hub = greenlet.getcurrent()
        before, pause, period = heartbeat._heartbeat, Polling.LAST, lookout.PERIOD
        heartbeat._heartbeat = _Pulses(self)  # type: ignore[assignment]
        Polling.LAST = lookout.PERIOD = POLL
        try:
            while any(not each.ended for each in self.outside.strands):
                strand = self._next()
                if self.time > until:
                    waiting = [each.name for each in self.outside.strands if not each.ended]
                    raise StuckError(f"at {self.time:.0f} s still at work: {waiting}")
                strand.switch()
                if not strand.ended:
                    self._line_up(strand)
                elif strand.process is self.outside:
                    self.outside.strands.remove(strand)
                    if strand.failure is not None:
                        raise strand.failure
        finally:
            self._bury()
            heartbeat._heartbeat, Polling.LAST, lookout.PERIOD = before, pause, period

    def _line_up(self, strand: Strand) -> None:
        """It waits for its time, or for what it is waiting for."""
        strand.turn = next(self._turns)
        if strand.is_over is _never:
            heappush(self._sleeping, (strand.due, strand.turn, strand))
        else:
            self._waiting.append(strand)

    def _next(self) -> Strand:
        ready = self._ready()
        while not ready:
            times = [each[0] for each in self._sleeping[:1]]
            self.time = max(self.time, min([*times, *map(_goes_on, self._waiting)]))
            ready = self._ready()
        chosen = self.chance.choice(ready) if self._shuffled else min(ready, key=_turn)
        self._waiting.remove(chosen)
        return chosen

    def _ready(self) -> list[Strand]:
        """Who can go on now; all of them are among those who wait."""
        while self._sleeping and self._sleeping[0][0] <= self.time:
            strand = heappop(self._sleeping)[2]
            if strand.process.wakes > self.time:
                heappush(self._sleeping, (strand.process.wakes, strand.turn, strand))
            elif strand.process.alive:
                self._waiting.append(strand)
        ready = []
        for strand in self._waiting:
            if strand.process.wakes > self.time:
                continue
            if strand.due <= self.time or strand.is_over():
                ready.append(strand)
        return ready

    def _pass(self, strand: Strand, point: Point) -> None:
        self.note(f"{point.process} {'>' if point.before else '<'} {point.step}")
        if point.before:
            self.time += STEP
        self._at(point, strand.process)
        strand.due, strand.is_over = self.time, _never
        self._switch(strand)

    def _switch(self, strand: Strand) -> None:
        if not strand.process.alive:
            raise Killed
        self._hub.switch()
        if not strand.process.alive:
            raise Killed

    def _bury(self) -> None:
        """Let the dead clean up, which changes nothing."""
        for strand in self._begun:
            strand.process.alive = False
        for strand in self._begun:
            if not strand.dead:
                with suppress(BaseException):
                    strand.throw(Killed)

    @property
    def _process(self) -> Process:
        strand = greenlet.getcurrent()
        return strand.process if isinstance(strand, Strand) else self.outside


@dataclass(frozen=True)
class Handle:
    """A strand as a thread of the engine's."""

    simulation: Simulation
    strand: Strand

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended."""
        self.simulation.rest(1e9 if timeout is None else timeout, lambda: self.strand.ended)

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return not self.strand.ended


@dataclass(frozen=True)
class _Pulses:
    """Each process has a heartbeat of its own."""

    simulation: Simulation

    def add(self, watch: heartbeat.Watch) -> None:
        """To that of the process that asks."""
        process = self.simulation._process
        if process.alive:
            process.pulse.add(watch)

    def remove(self, watch: heartbeat.Watch) -> None:
        """From it."""
        self.simulation._process.pulse.remove(watch)


def _goes_on(strand: Strand) -> float:
    """When a strand that waits goes on at the latest, as things are."""
    wakes = strand.process.wakes
    return wakes if strand.is_over() else max(strand.due, wakes)


def _turn(strand: Strand) -> int:
    return strand.turn


def _name_of(step: Io[Any]) -> str:
    """What a step does, in a word: the method of the request, or the function that wrote it."""
    if (named := getattr(step._block, "named", None)) is not None:
        return f"{named(*step._arguments)}"
    operation = step._arguments[0] if step._arguments else None
    if isinstance(operation, Look):
        operation = operation.operation
    if isinstance(method := getattr(operation, "method", None), str):
        return method
    named = operation if hasattr(operation, "__qualname__") else step._block
    name: str = getattr(named, "__qualname__", type(named).__name__)
    return name.split(".<locals>", maxsplit=1)[0].rpartition(".")[2]
