"""A small town: customers who write, processes that answer them, and what goes wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, TypeVar

from langchain_convsync import _platform, waha
from langchain_convsync._flow import run
from langchain_convsync.client import ConvSyncClient
from langchain_convsync.models import InboundEvent
from langchain_convsync.outbox import WAHAReply
from langchain_convsync.settings import ServerProfile
from langchain_convsync.stores.base import Backlog
from langchain_convsync.turns import Turn, TurnRunner
from tests.chaos.fake_api import AS_DOCUMENTED, CAP, Manners
from tests.chaos.oracle import FINAL, Kept, Returned, Sent, Verdict, judge
from tests.chaos.script import Said, Talk
from tests.simulation.agents import Agent, Clerk
from tests.simulation.disks import Memory, NewDisk
from tests.simulation.hub import EPOCH, Point, Process, Simulation, Strand, StuckError
from tests.simulation.servers import ApiServer, Call, Fault
from tests.simulation.waha import LATE, Echo, WahaServer
from tests.simulation.whatsapp import WhatsApp

T = TypeVar("T")

#: Virtual seconds within which everything must end, whatever goes wrong.
PATIENCE = 4 * 3600.0
#: Seconds after which some of it is delivered again.
DAYS = 3 * 86_400.0
#: Seconds after which a webhook that was not acknowledged comes again.
REPEATED = 2.0
#: Seconds after which whoever called a process hangs up.
CALLERS = 180.0
#: Seconds after which a dead process is replaced.
REPLACED = 1.0
#: Seconds that a process has, once it woke, to do what it was about to.
AWAKE = 30.0
#: Steps of a store in which it erases what ran out.
SWEEPS = 12
#: A process dies, or stands still for so many seconds.
Strike: TypeAlias = Literal["dies"] | float
#: How turns end for whoever delivered an event of theirs.
ENDS = {*FINAL, "paused", "dropped", "interrupted", "failed"}


@dataclass(kw_only=True)
class Plan:
    """What is said and done, and what goes wrong.

    Attributes:
        talks: Who says what.
        processes: How many answer.
        agent: Answers, in all of them.
        goes_wrong: Decides about each call of a server.
        strikes: Decides at each point what its process meets there.
        echo: How WAHA tells of each message that it sent; None where replies do not go through it.
        whatsapp: What becomes of each send through WAHA; None takes all of them.
        reply: Arguments of ``WAHAReply``.
        expires: The ``expiresAt`` of the API server's answers.
        runner: Arguments of ``TurnRunner``.
        days_later: Whether some messages are delivered again, days later.
        stories: What the first conversation may hold in the end; where none is named, the judge
            tells what it must.
        dead: How many dead letters may be left.
    """

    talks: Sequence[Talk]
    seed: object = 0
    processes: int = 2
    manners: Manners = AS_DOCUMENTED
    agent: Callable[[Simulation], Agent] = Clerk.of
    goes_wrong: Callable[[Call], Fault | None] = lambda _: None
    strikes: Callable[[Point], Strike | None] = lambda _: None
    echo: Callable[[], Echo] | None = None
    whatsapp: Callable[[Simulation], WhatsApp] | None = None
    reply: dict[str, Any] = field(default_factory=dict)
    expires: Callable[[Simulation], str | None] | None = None
    shuffled: bool = False
    new_disk: NewDisk = Memory
    runner: dict[str, Any] = field(default_factory=dict)
    days_later: bool = False
    stories: frozenset[str] = frozenset()
    dead: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Report:
    """What came of it; ``wrong`` is what should not be, or why it did not end."""

    wrong: str
    turns: int
    steps: int
    kills: int
    trace: str
    log: list[str]


class World:
    """Runs a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.simulation = Simulation(plan.seed, at=self._point, shuffled=plan.shuffled)
        self.disk = plan.new_disk(self._time_elsewhere)
        self.agent = plan.agent(self.simulation)
        self.api = ApiServer(
            self.simulation, plan.goes_wrong, plan.talks, plan.manners, plan.expires
        )
        self.waha = WahaServer(
            self.simulation,
            plan.goes_wrong,
            plan.talks,
            echo=plan.echo or (lambda: "none"),
            heard=self._hears,
            whatsapp=plan.whatsapp and plan.whatsapp(self.simulation),
        )
        self.kills = 0
        self.living: list[tuple[Process, TurnRunner]] = []
        self.returned: list[Returned] = []
        self.sent: list[Sent] = []
        self.handed_over: set[str] = set()
        self._is_later = False
        self._born = 0

    def run(self) -> Report:
        """Let it happen; what came of it, also where it did not end."""
        verdict = Verdict()
        with _platform.standing_in(self.simulation):
            self._store = self.disk.open()
            self.simulation.begin(self.simulation.outside, self._live, "the town")
            try:
                self.simulation.run(until=DAYS + 10 * PATIENCE)
                dead, left = run(self._store.backlog()).dead_letters, self._left()
                verdict = self._verdict()
                wrong = self._flaw(verdict, dead, left)
            except Exception as error:  # noqa: BLE001 - whatever it comes to is told
                wrong = f"{type(error).__name__}: {error}"
            finally:
                self.disk.close()
        told = self.simulation
        return Report(wrong, verdict.turns, told.steps, self.kills, told.trace, told.log)

    def _verdict(self) -> Verdict:
        kept: list[Kept] = [*self.api.kept, *self.waha.kept]
        finals = {name: each.state["context"] for name, each in self.api.sessions.items()}
        verdict = judge(self.plan.talks, self.returned, self.sent, kept, finals)
        verdict.charges.doubled = len(self.agent.charged) - len({*self.agent.charged})
        return verdict

    def _flaw(self, told: Verdict, dead: int, left: list[str]) -> str:
        """What should not be; nothing where all is well."""
        if self.waha.whatsapp is not None and self.waha.whatsapp.banned:
            return f"banned: {self.waha.whatsapp.banned}"
        if dead not in self.plan.dead:
            return f"{dead} dead letters"
        if left:
            return f"long after, the store holds {left}"
        if self.plan.stories:
            story = self._story(self.plan.talks[0])
            return "" if story in self.plan.stories else story
        tallies = (told.messages, told.syncs, told.replies, told.sends, told.charges)
        return f"{told}" if sum(each.wrong for each in tallies) + told.overlaps else ""

    def ask(self, talk: Talk, work: Callable[[TurnRunner], T | None]) -> T | None:
        """What a process says; None where it died or stood still meanwhile, or failed."""
        awake = [each for each in self.living if each[0].wakes <= self.simulation.time]
        if not awake:
            return None
        process, runner = self.simulation.chance.choice(awake)
        strand = self.simulation.begin(process, lambda: work(runner), "a call")
        self.simulation.rest(
            CALLERS,
            lambda: strand.ended or not process.alive or process.wakes > self.simulation.time,
        )
        if (error := strand.failure) is not None:
            self.simulation.note(f"{process.name} raised {type(error).__name__}: {error}")
        return strand.outcome if strand.ended else None

    def insist(self, talk: Talk, work: Callable[[TurnRunner], T | None]) -> T:
        """Have a process do something, again and again until one has; what it came to."""
        began = self.simulation.time
        while (done := self.ask(talk, work)) is None:
            self.simulation.rest(REPEATED)
            if self.simulation.time > began + PATIENCE:
                raise StuckError(f"{talk.session_id} waits since {began:.0f} s")
        return done

    def client(self) -> ConvSyncClient:
        """A client of the API server."""
        manners = self.plan.manners
        profile = ServerProfile(
            history_cap=CAP,
            idempotency_keys=manners.keys,
            context_sync="replace" if manners.replace else "merge",
            history="sync" if manners.by_sync else "messages",
        )
        return ConvSyncClient("https://api", profile=profile, http_client=self.api.client())

    def _time_elsewhere(self) -> float:
        """The time of day on another machine, whose clock nobody sets."""
        return EPOCH.timestamp() + self.simulation.time

    def _live(self) -> None:
        for _ in range(self.plan.processes):
            self._bear()
        customers = [self._begin(lambda talk=talk: self._talks(talk)) for talk in self.plan.talks]  # type: ignore[misc]
        for customer in customers:
            self._join(customer)
        self._finish()
        if self.plan.days_later:
            self._days_later()
            self._finish()

    def _finish(self) -> None:
        """Wait until who stands still has woken, and the store has nothing left to do."""
        began = self.simulation.time
        wakes = max((process.wakes for process, _ in self.living), default=began)
        self.simulation.rest(max(0.0, wakes - began) + AWAKE)
        while any(left_of(run(self._store.backlog()))):
            self.simulation.rest(AWAKE)
            if self.simulation.time > began + PATIENCE:
                raise StuckError(f"{run(self._store.backlog())} is left for ever")

    def _days_later(self) -> None:
        """Every process is another one, and WAHA delivers some of what it has delivered before."""
        if self.waha.whatsapp is not None:
            self.simulation.rest(2 * LATE)  # the echoes of replies that waited to the very end
        for process, _ in self.living:
            self.simulation.kill(process)
        self.living, self._is_later = [], True
        self.simulation.time += DAYS
        self._bear()
        for talk in self.plan.talks:
            said = self.simulation.chance.choice(talk.said)
            self._join(self._deliver(talk, replace(said, twin=None)))

    def _begin(self, work: Callable[[], Any]) -> Strand:
        return self.simulation.begin(self.simulation.outside, work, "someone")

    def _join(self, strand: Strand) -> None:
        self.simulation.rest(10 * PATIENCE, lambda: strand.ended)
        if strand.failure is not None:
            raise strand.failure

    def _bear(self) -> None:
        """A process is there, with workers of its own."""
        self._born += 1
        process = Process(f"p{self._born}")
        runner = self._runner()
        self.living.append((process, runner))
        self.simulation.begin(process, runner.__enter__, "start")

    def _runner(self) -> TurnRunner:
        given: dict[str, Any] = {
            "prepare": self.agent.prepare,
            "max_starts": 100,  # so many crashes at one event are no sign of a crashing event here,
            "max_errors": 6,  # and an agent that stumbles may be stopped besides
            "max_turns_per_minute": None,  # these customers are machines
            "workers": 1,
            "interrupt_timeout": None,
            "on_handoff": lambda handed: self.handed_over.add(handed.key),
            **self.plan.runner,
        }
        if self.plan.echo is None:
            given["on_reply"] = self._on_reply
        else:
            given["reply"] = WAHAReply(
                "https://waha", http_client=self.waha.client(), **self.plan.reply
            )
        return TurnRunner(
            self.agent.runnable, client=self.client(), store=self.disk.open(), **given
        )

    def _on_reply(self, turn: Turn) -> None:
        self.sent.append(Sent(turn.turn_id or "", turn.reply or ""))

    def _point(self, point: Point, process: Process) -> None:
        if (strike := self.plan.strikes(point)) is None:
            return
        if strike != "dies":
            self.simulation.stop(process, strike)
            return
        self.kills += 1
        self.simulation.kill(process)
        self.living = [each for each in self.living if each[0] is not process]

        def replace() -> None:
            self.simulation.rest(REPLACED)
            self._bear()

        self.simulation.begin(self.simulation.outside, replace, "a new process")

    def _talks(self, talk: Talk) -> None:
        for burst in talk.bursts:
            said = []
            for one in burst:
                if isinstance(one, Said):
                    said.append(self._deliver(talk, one))
                else:
                    one(self, talk)
            for each in said:
                self._join(each)

    def _deliver(self, talk: Talk, said: Said) -> Strand:
        """A webhook, again and again until it is acknowledged, and then until it is answered.

        The customer's next message is delivered when this one is acknowledged: only then does
        anybody know which of the two came first. Some deliveries come twice.
        """
        acknowledged: list[bool] = []

        def deliver(*, by_lid: bool) -> Callable[[], None]:
            event = InboundEvent(**talk.event(said, by_lid=by_lid))

            def work() -> None:
                self.insist(talk, lambda runner: runner.accept(event))
                acknowledged.append(True)
                self.insist(talk, lambda runner: self._answered(talk, runner, event))

            return work

        first = self._begin(deliver(by_lid=said.by_lid))
        if said.twin:
            self._begin(deliver(by_lid=said.twin == "lid"))
        self.simulation.rest(PATIENCE, lambda: bool(acknowledged))
        return first

    def _answered(self, talk: Talk, runner: TurnRunner, event: InboundEvent) -> Turn | None:
        """How the event's turn ended, as its process says; None while it has not."""
        turn = runner.run(event, 20.0)
        if turn.status not in ENDS:
            return None
        told = turn.status, turn.reply, turn.turn_id or "", turn.events
        if (turn.status, turn.reply, self._is_later) != ("duplicate", None, True):  # long known
            self.returned.append(Returned(talk.session_id, event.event_id, *told))
        return turn

    def _hears(self, told: dict[str, Any]) -> None:
        """WAHA's webhook tells of a message that it sent."""
        echo = waha.parse_event(told)
        talk = next(t for t in self.plan.talks if t.account == told["session"])
        if isinstance(echo, waha.OperatorMessage):
            self.insist(talk, lambda runner: [runner.take_over(echo, seconds=600.0)])
        elif isinstance(echo, waha.Ignored):
            self.insist(talk, lambda runner: [runner.record_echo(echo)])

    def _story(self, talk: Talk) -> str:
        """What the customer's sessions hold and what was sent, a clerk's replies by number."""
        sessions = {name for name, each in self.api.sessions.items() if each.talk is talk}
        told = [
            f"{write.kind[0]}:{write.text}" if write.kind != "message" else write.text
            for write in [*self.api.kept, *self.waha.kept]
            if write.session_id in sessions and write.kind != "sync"
        ]
        told += ["handed over"] * len(self.handed_over)
        return re.sub(r"\S+ (#\d+) after #\d+: [^|]*(?= \||$)", r"\1", " | ".join(told))

    def _left(self) -> list[str]:
        """What lies in the store when even the latest has had its time there: words, and facts."""
        self.simulation.time += 2 * self._store.retention
        for _ in range(SWEEPS):
            run(self._store.accounts())
        lines = self.disk.holds().splitlines()
        events = [each for each in lines if each.startswith('INSERT INTO "events"')]
        held = [each for each in lines if "'dead'" not in each]
        texts = {said.text for talk in self.plan.talks for said in talk.said if len(said.text) > 8}
        texts = {text for text in texts if any(is_in(text, each) for each in held)}
        return sorted([*{*events} & {*held}, *texts])


def left_of(backlog: Backlog) -> list[int]:
    """What is under way; dead letters are for the judge, interrupts for the customer."""
    return [backlog.queued, backlog.writes, backlog.replies]


def is_in(text: str, line: str) -> bool:
    """Whether a line of a dump holds a text, also as bytes."""
    return text in line or text.encode().hex().upper() in line
