"""Every schedule of a turn: its process dies at every step, every call goes wrong in every way.

Each kind of turn is run once as it should go. Then once more for each point between two of its
steps, at which its process dies, or stands still until another one has taken over; and for each
call and each thing that may go wrong with it, in short kinds with a process that dies soon after,
too. A look for work that finds none is no such point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_convsync import Reply
from tests.chaos.fake_api import AS_DOCUMENTED, Manners
from tests.chaos.script import SLOWLY, Said, Talk, Twin
from tests.simulation.agents import (
    BREAKS,
    CHARGES,
    FAILS,
    HANDS_OVER,
    HANGS,
    Agent,
    Clerk,
    asking,
    saying,
)
from tests.simulation.deeds import (
    adds,
    colleague,
    decides,
    edits,
    refuses,
    renews,
    retries,
    revokes,
    says,
    waits,
)
from tests.simulation.disks import Memory, NewDisk
from tests.simulation.hub import Point, Simulation
from tests.simulation.servers import Call, Fault
from tests.simulation.waha import Echo
from tests.simulation.whatsapp import WhatsApp, capping, down, impatient, locking
from tests.simulation.world import Plan, Report, Strike, World

#: Steps behind a fault at which a process dies besides, in kinds of at most so many steps.
BEHIND, SHORT = 4, 40
#: An image, as far as anyone looks.
PNG = b"\x89PNG\r\n\x1a\n"
#: Seconds for which a process stands still: longer than a lease lasts.
STILL = 60.0


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of turn.

    Attributes:
        bursts: The texts of each burst, and what is done besides; the next follows when all of it
            is answered.
        stories: What the conversation may hold in the end, where more than words came to it.
        dead: Dead letters that may be left.
        runner: Arguments of ``TurnRunner``.
        twin: How the last message is delivered a second time.
        echo: How WAHA tells of a reply; None where none goes through it.
        whatsapp: What becomes of each send through it.
        reply: Arguments of ``WAHAReply``.
    """

    name: str
    bursts: tuple[tuple[Any, ...], ...]
    stories: frozenset[str] = frozenset()
    dead: frozenset[int] = frozenset({0})
    manners: Manners = AS_DOCUMENTED
    agent: Callable[[Simulation], Agent] = Clerk.of
    runner: dict[str, Any] = field(default_factory=dict)
    twin: Twin | None = None
    echo: Echo | None = None
    whatsapp: Callable[[Simulation], WhatsApp] | None = None
    reply: dict[str, Any] = field(default_factory=dict)
    expires: str | None = ""


class ByLid(str):
    """A text that is delivered under the customer's LID alone."""

    __slots__ = ()


def _any_of(*stories: str) -> frozenset[str]:
    return frozenset(stories)


#: An answer of three messages, each of which takes three seconds.
LINES = tuple(f"{n} {'línea ' * 8}".strip() for n in (1, 2, 3))


def _answered(words: str, most: int = 3) -> str:
    return f"{words} | bot " + "\n\n".join(LINES[:most])


def _overtaken(sent: int) -> str:
    """The story of an answer of which so many messages were sent, and of the next."""
    replies = " | ".join(f"r:{line}" for line in (*LINES[:sent], *LINES))
    return f"{_answered('user Hola', sent)} | {_answered('user dos')} | {replies}"


KINDS = (
    Kind(name="plain", bursts=(("Hola",),)),
    Kind(name="taken over soon", bursts=(("Hola",),), runner={"lease": 8.0}),
    Kind(name="repeated words", bursts=(("sí",), ("sí",))),
    Kind(name="a burst", bursts=(("uno", "dos"),), runner={"debounce": 1.0}),
    Kind(name="delivered twice", bursts=(("Hola",),), twin="same"),
    Kind(name="under a LID", bursts=(("Hola",), ("¿Qué hay?",)), twin="lid"),
    Kind(name="a LID, then its number", bursts=((ByLid("Hola"),), ("dos",))),
    Kind(name="a number, then its LID", bursts=(("Hola",), (ByLid("dos"),))),
    Kind(
        name="a number meanwhile",
        bursts=((ByLid(f"uno {SLOWLY}"), waits(3.0), "dos"),),
    ),
    Kind(name="a LID meanwhile", bursts=((f"uno {SLOWLY}", waits(3.0), ByLid("dos")),)),
    Kind(name="slow", bursts=((f"Hola {SLOWLY}",),)),
    Kind(name="history by sync", bursts=(("sí",), ("sí",)), manners=Manners(by_sync=True)),
    Kind(name="replaced state", bursts=(("uno",), ("dos",)), manners=Manners(replace=True)),
    Kind(name="idempotency keys", bursts=(("uno",),), manners=Manners(keys=True)),
    Kind(name="a tool call", bursts=((f"Hola {CHARGES}",),)),
    Kind(name="a failing agent", bursts=((f"Hola {FAILS}",),)),
    Kind(
        name="an agent that is given up",
        bursts=((f"Hola {BREAKS}",),),
        runner={"fallback_reply": "Perdón", "max_errors": 3},
        stories=_any_of(f"user Hola {BREAKS} | bot Perdón"),
        dead=frozenset({1}),
    ),
    Kind(
        name="a hanging agent",
        bursts=((f"Hola {HANGS}",),),
        runner={"fallback_reply": "Perdón", "max_starts": 1, "agent_timeout": 60.0},
        stories=_any_of(f"user Hola {HANGS} | bot Perdón"),
        dead=frozenset({1}),
    ),
    Kind(name="through WAHA", bursts=(("Hola",),), echo="none", runner={"lease": 8.0}),
    Kind(name="while WhatsApp locks", bursts=(("Hola",),), echo="none", whatsapp=locking),
    Kind(
        name="while new chats are capped",
        bursts=(("Hola",), ("sí",)),
        echo="none",
        whatsapp=capping,
    ),
    Kind(name="while WAHA is logged out", bursts=(("Hola",),), echo="none", whatsapp=down),
    Kind(
        name="paced",
        bursts=(("Hola",), ("sí",)),
        echo="none",
        whatsapp=impatient,
        reply={"pace": 1.0},
    ),
    Kind(name="echoed", bursts=(("Hola",), ("sí",)), echo="soon"),
    Kind(name="echoed as a colleague's", bursts=(("Hola",), ("sí",)), echo="as a colleague's"),
    Kind(
        name="silent",
        agent=saying(Reply.silent),
        bursts=(("Hola",), ("dos",)),
        echo="soon",
        stories=_any_of("user Hola | user dos"),
    ),
    Kind(
        name="several messages",
        agent=saying(Reply(texts=["Uno", "Dos", "Tres"])),
        bursts=(("Hola",),),
        echo="soon",
        stories=_any_of("user Hola | bot Uno\n\nDos\n\nTres | r:Uno | r:Dos | r:Tres"),
    ),
    Kind(
        name="several messages, and a newer one",
        agent=saying(Reply(texts=LINES)),
        bursts=(("Hola", waits(4.0), "dos"),),
        echo="soon",
        runner={"on_newer_message": "rerun", "lease": 8.0},
        stories=frozenset(
            {
                _answered("user Hola | user dos") + "".join(f" | r:{line}" for line in LINES),
                *map(_overtaken, range(1, 4)),
            }
        ),
    ),
    Kind(
        name="two files",
        agent=saying(Reply(file=PNG), Reply(texts=["Uno"], file=PNG, caption="Uno")),
        bursts=(("Hola",),),
        echo="late",
        runner={"lease": 8.0},
        stories=_any_of(
            "user Hola | bot [image]\n\nUno\n\nUno\n[image] | r: (a file) | r:Uno | r:Uno (a file)"
        ),
    ),
    Kind(
        name="several messages, and no echo",
        agent=saying(Reply(texts=["sí", "sí"])),
        bursts=(("Hola",),),
        echo="none",
        runner={"lease": 8.0},
        stories=_any_of("user Hola | bot sí\n\nsí | r:sí | r:sí"),
    ),
    Kind(
        name="edited while it waits",
        bursts=((f"uno {SLOWLY}", waits(3.0), "dos", edits("1", "tres")),),
        stories=_any_of(
            f"user uno {SLOWLY} | bot #1 | user tres | bot #2",
            f"user uno {SLOWLY} | user tres | bot #1",
        ),
    ),
    Kind(
        name="revoked while it waits",
        bursts=((f"uno {SLOWLY}", waits(3.0), "dos", revokes("1")),),
        stories=_any_of(f"user uno {SLOWLY} | bot #1"),
    ),
    Kind(
        name="taken over before",
        bursts=((colleague("C1", "Atiendo yo"),), ("Hola",)),
        stories=_any_of("bot Atiendo yo | user Hola"),
    ),
    Kind(
        name="taken over meanwhile",
        bursts=((f"Hola {SLOWLY}", waits(3.0), colleague("C1", "Atiendo yo")),),
        stories=_any_of(f"user Hola {SLOWLY} | bot Atiendo yo"),
    ),
    Kind(
        name="taken over afterwards",
        bursts=(("Hola",), (colleague("C1", "Atiendo yo"),), ("dos",)),
        stories=_any_of("user Hola | bot #1 | bot Atiendo yo | user dos"),
    ),
    Kind(
        name="a question to the customer",
        agent=asking("¿Seguro?"),
        bursts=(("Hola",), ("sí",)),
        stories=_any_of("user Hola | user sí | bot Dijiste sí"),
    ),
    Kind(
        name="a human's decision",
        agent=asking({"total": 1}),
        bursts=(("Hola",), (decides("sí"),)),
        stories=_any_of("user Hola | bot Dijiste sí"),
    ),
    Kind(
        name="a new session",
        bursts=(("Hola",), (waits(60.0), renews), ("dos",)),
        stories=_any_of(
            "user Hola | bot #1 | user dos | bot #1",
            "user Hola | bot #1 | user dos | bot #2",  # it read the sync that was on its way
        ),
    ),
    Kind(
        name="a history with a store",
        bursts=((adds(("Hola", "Buenas"), ("dos", "tres")),),),
        stories=_any_of(
            "user Hola | bot Buenas | user dos | bot tres",
            "user Hola | bot Buenas",  # its process died before the store had the others
            "",
        ),
    ),
    Kind(
        name="a dead letter, retried",
        bursts=(("Hola",), (waits(120.0), refuses), ("dos",), (retries,)),
        stories=_any_of("user Hola | bot #1 | user dos | bot #2"),
    ),
    Kind(
        name="the bot writes first",
        bursts=(("Hola",), (says("Tu pedido salió"),), ("dos",)),
        echo="none",
        stories=_any_of(
            "user Hola | bot #1 | bot Tu pedido salió | user dos | bot #2"
            " | #1 | r:Tu pedido salió | #2"
        ),
    ),
    Kind(
        name="the bot writes later",
        bursts=(("Hola",), (says("Cerramos", after=400.0),), ("dos",), (waits(500.0),)),
        echo="none",
        stories=_any_of(
            "user Hola | bot #1 | user dos | bot #2 | bot Cerramos | #1 | #2 | r:Cerramos"
        ),
    ),
    Kind(
        name="the bot asks who stays silent",
        bursts=(("Hola",), (says("¿Sigues ahí?", after=200.0, unless_heard=True), waits(400.0))),
        stories=_any_of("user Hola | bot #1 | bot ¿Sigues ahí?"),
    ),
    Kind(
        name="the bot asks nobody who writes",
        bursts=(
            ("Hola",),
            (says("¿Sigues ahí?", after=400.0, unless_heard=True),),
            ("dos",),
            (waits(500.0),),
        ),
        stories=_any_of("user Hola | bot #1 | user dos | bot #2"),
    ),
    Kind(
        name="the bot writes while a human does",
        bursts=(("Hola",), (colleague("C1", "Atiendo yo"), says("Tu pedido salió"))),
        stories=_any_of("user Hola | bot #1 | bot Atiendo yo"),
    ),
    Kind(
        name="the bot writes while its agent waits",
        agent=asking("¿Seguro?"),
        bursts=(("Hola",), (says("¿Sigues ahí?"),), ("sí",)),
        stories=_any_of("user Hola | bot ¿Sigues ahí? | user sí | bot Dijiste sí"),
    ),
    Kind(
        name="the agent hands over",
        bursts=((f"Hola {HANDS_OVER}",), ("dos", waits(60.0))),
        stories=_any_of(f"user Hola {HANDS_OVER} | bot #1 | user dos | handed over"),
    ),
    Kind(name="never expires", bursts=(("Hola",), ("dos",)), expires="9999-12-31T23:59:59Z"),
    Kind(name="expired long ago", bursts=(("Hola",), ("dos",)), expires="2019-01-01T00:00:00Z"),
    Kind(name="tells no expiry", bursts=(("Hola",),), expires=None),
)


@dataclass(frozen=True)
class Schedule:
    """What happens in one run: a call that goes wrong, and a point at which a process is struck."""

    kind: Kind
    fault: tuple[str, int, Fault] | None = None
    struck: tuple[int, bool, Strike] | None = None

    def __str__(self) -> str:
        told = [self.kind.name]
        if self.fault is not None:
            server, number, fault = self.fault
            told.append(f"call {number} of {server} {fault}")
        if self.struck is not None:
            number, before, strike = self.struck
            what = "dies" if strike == "dies" else f"stands still for {strike:g} s"
            told.append(f"{what} {'before' if before else 'after'} step {number}")
        return ", ".join(told)

    def plan(self, new_disk: NewDisk) -> Plan:
        """What it stands for."""
        kind = self.kind
        talk = Talk(
            session_id="b1_1",
            subdomain="restaurant-abc",
            bot_id="b1",
            phone_number="+51999999999",
            lid="381234567890123@lid",
            bursts=_said(kind),
        )
        given: dict[str, Any] = {}
        if kind.echo is not None:
            given["echo"] = lambda: kind.echo
        if kind.expires != "":
            given["expires"] = lambda _: kind.expires
        return Plan(
            talks=[talk],
            manners=kind.manners,
            agent=kind.agent,
            runner=kind.runner,
            whatsapp=kind.whatsapp,
            reply=kind.reply,
            goes_wrong=self._goes_wrong,
            strikes=self._strikes,
            new_disk=new_disk,
            stories=kind.stories,
            dead=kind.dead,
            **given,
        )

    def _goes_wrong(self, call: Call) -> Fault | None:
        return (
            self.fault[2] if self.fault and self.fault[:2] == (call.server, call.number) else None
        )

    def _strikes(self, point: Point) -> Strike | None:
        is_here = self.struck and self.struck[:2] == (point.number, point.before)
        return self.struck[2] if self.struck and is_here else None


def _said(kind: Kind) -> tuple[tuple[Any, ...], ...]:
    """The bursts with events in them; the last message is the one that comes twice."""
    texts = [one for burst in kind.bursts for one in burst if isinstance(one, str)]
    numbers = iter(range(len(texts)))

    def event(one: Any) -> Any:
        if not isinstance(one, str):
            return one
        number = next(numbers)
        twin = kind.twin if number == len(texts) - 1 else None
        return Said(f"false_{number}", f"{one}", twin, by_lid=isinstance(one, ByLid))

    return tuple(tuple(map(event, burst)) for burst in kind.bursts)


@dataclass(frozen=True)
class Ran:
    """A schedule, and what came of it; ``began`` is the step at which its fault struck."""

    schedule: Schedule
    report: Report
    began: int = 0

    @property
    def wrong(self) -> str:
        """What is wrong with it, if anything is."""
        return self.report.wrong


def run_all(kind: Kind, new_disk: NewDisk = Memory, *, pairs: bool = True) -> Iterator[Ran]:
    """Every schedule of a kind of turn; with pairs, also a death behind a fault, if it is short."""
    smooth = World(Schedule(kind).plan(new_disk))
    yield Ran(Schedule(kind), report := smooth.run())
    busy = sorted({*range(report.steps)} - smooth.simulation.idle)
    for number in busy:
        for struck in ((number, True, "dies"), (number, False, "dies"), (number, True, STILL)):
            yield _ran(Schedule(kind, None, struck), new_disk)
    for call in [*smooth.api.calls, *smooth.waha.calls]:
        for fault in call.faults:
            ran = _ran(Schedule(kind, (call.server, call.number, fault)), new_disk)
            yield ran
            if ran.wrong or not pairs or len(busy) > SHORT:
                continue
            last = min(ran.report.steps, ran.began + BEHIND)
            for number in range(max(0, ran.began - 1), last):
                for before in (True, False):
                    yield _ran(replace(ran.schedule, struck=(number, before, "dies")), new_disk)


def _ran(schedule: Schedule, new_disk: NewDisk) -> Ran:
    began = 0

    def goes_wrong(call: Call) -> Fault | None:
        nonlocal began
        if (fault := plan.goes_wrong(call)) is not None:
            began = world.simulation.steps
        return fault

    plan = schedule.plan(new_disk)
    world = World(replace(plan, goes_wrong=goes_wrong))
    report = world.run()
    return Ran(schedule, report, began)
