"""Every schedule of a turn: its process dies at every step, every call goes wrong in every way.

Each kind of turn is run once as it should go. Then once more for each point between two of its
steps, at which its process dies; for each call and each thing that may go wrong with it; and for
each of these again with a process that dies at one of the points that follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tests.chaos.fake_api import AS_DOCUMENTED, Manners
from tests.chaos.script import SLOWLY, Said, Talk
from tests.simulation.hub import Point
from tests.simulation.random_runs import NewStore, in_memory
from tests.simulation.servers import Call, Fault
from tests.simulation.world import Plan, Report, World

#: Points behind a fault at which a process dies besides.
BEHIND = 4


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of turn.

    Attributes:
        bursts: The texts of each burst; the next follows when all of it is answered.
        runner: Arguments of ``TurnRunner``.
        twin: How the first message is delivered a second time.
    """

    name: str
    bursts: tuple[tuple[str, ...], ...]
    manners: Manners = AS_DOCUMENTED
    runner: dict[str, Any] = field(default_factory=dict)
    twin: Any = None


KINDS = (
    Kind(name="plain", bursts=(("Hola",),)),
    Kind(name="repeated words", bursts=(("sí",), ("sí",))),
    Kind(name="a burst", bursts=(("uno", "dos"),), runner={"debounce": 1.0}),
    Kind(name="delivered twice", bursts=(("Hola",),), twin="same"),
    Kind(name="under a LID", bursts=(("Hola",), ("¿Qué hay?",)), twin="lid"),
    Kind(name="slow", bursts=((f"Hola {SLOWLY}",),)),
    Kind(name="history by sync", bursts=(("sí",), ("sí",)), manners=Manners(by_sync=True)),
    Kind(name="replaced state", bursts=(("uno",), ("dos",)), manners=Manners(replace=True)),
    Kind(name="idempotency keys", bursts=(("uno",),), manners=Manners(keys=True)),
)


@dataclass(frozen=True)
class Schedule:
    """What happens in one run: a call that goes wrong, and a point at which a process dies."""

    kind: Kind
    fault: tuple[int, Fault] | None = None
    death: tuple[int, bool] | None = None

    def __str__(self) -> str:
        told = [self.kind.name]
        if self.fault is not None:
            told.append(f"call {self.fault[0]} {self.fault[1]}")
        if self.death is not None:
            told.append(f"dies {'before' if self.death[1] else 'after'} step {self.death[0]}")
        return ", ".join(told)

    def plan(self, new_store: NewStore) -> Plan:
        """What it stands for."""
        kind, number = self.kind, iter(range(100))
        bursts = tuple(
            tuple(Said(f"evt_{next(number)}", text) for text in burst) for burst in kind.bursts
        )
        if kind.twin is not None:
            *others, last = bursts[-1]
            bursts = (*bursts[:-1], (*others, replace(last, twin=kind.twin)))
        talk = Talk(
            session_id="b1_1",
            subdomain="restaurant-abc",
            bot_id="b1",
            phone_number="+51999999999",
            lid="381234567890123@lid",
            bursts=bursts,
        )
        return Plan(
            talks=[talk],
            manners=kind.manners,
            runner=kind.runner,
            goes_wrong=self._goes_wrong,
            dies=self._dies,
            new_store=new_store,
        )

    def _goes_wrong(self, call: Call) -> Fault | None:
        return self.fault[1] if self.fault is not None and self.fault[0] == call.number else None

    def _dies(self, point: Point) -> bool:
        return self.death == (point.number, point.before)


@dataclass(frozen=True)
class Ran:
    """A schedule, and what came of it; ``began`` is the step at which its fault struck."""

    schedule: Schedule
    report: Report | None
    began: int = 0
    failure: str = ""

    @property
    def is_wrong(self) -> bool:
        """Whether it did not end, or not as it should."""
        return self.report is None or self.report.wrong > 0

    @property
    def what(self) -> str:
        """What is to be told of it."""
        return self.failure or f"{self.report and self.report.verdict}"


def run_all(kind: Kind, new_store: NewStore = in_memory, *, pairs: bool = True) -> Iterator[Ran]:
    """Every schedule of a kind of turn; with pairs, also of a fault with a death behind it."""
    smooth = World(Schedule(kind).plan(new_store))
    report = smooth.run()
    yield Ran(Schedule(kind), report)
    points = [(number, before) for number in range(report.steps) for before in (True, False)]
    for death in points:
        yield _ran(Schedule(kind, None, death), new_store)
    for call in smooth.api.calls:
        for fault in call.faults:
            ran = _ran(Schedule(kind, (call.number, fault)), new_store)
            yield ran
            if ran.report is None or not pairs:
                continue
            last = min(ran.report.steps, ran.began + BEHIND)
            for number in range(max(0, ran.began - 1), last):
                for before in (True, False):
                    yield _ran(replace(ran.schedule, death=(number, before)), new_store)


def _ran(schedule: Schedule, new_store: NewStore) -> Ran:
    began = 0

    def goes_wrong(call: Call) -> Fault | None:
        nonlocal began
        if (fault := plan.goes_wrong(call)) is not None:
            began = world.simulation.steps
        return fault

    plan = schedule.plan(new_store)
    world = World(replace(plan, goes_wrong=goes_wrong))
    try:
        return Ran(schedule, world.run(), began)
    except Exception as error:  # noqa: BLE001 - whatever a schedule comes to is told
        return Ran(schedule, None, began, f"{type(error).__name__}: {error}")
