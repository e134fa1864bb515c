"""A small town: customers who write, processes that answer them, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.runnables import RunnableLambda

from langchain_convsync import _platform
from langchain_convsync._flow import run
from langchain_convsync.client import ConvSyncClient
from langchain_convsync.models import Conversation, InboundEvent
from langchain_convsync.settings import ServerProfile
from langchain_convsync.stores.base import EventStore
from langchain_convsync.turns import Turn, TurnRunner
from tests.chaos.fake_api import AS_DOCUMENTED, CAP, Manners
from tests.chaos.oracle import (
    FINAL,
    Kept,
    Returned,
    Sent,
    Verdict,
    judge,
    number_of,
    reply_to,
)
from tests.chaos.script import SLOWLY, Said, Talk
from tests.simulation.hub import Point, Process, Simulation, Strand
from tests.simulation.servers import ApiServer, Call, Fault

#: Virtual seconds within which everything must end, whatever goes wrong.
PATIENCE = 4 * 3600.0
#: Seconds after which a webhook that was not acknowledged comes again.
REPEATED = 2.0
#: Seconds after which a dead process is replaced.
REPLACED = 1.0


@dataclass(kw_only=True)
class Plan:
    """What is said, and what goes wrong.

    Attributes:
        talks: Who says what.
        processes: How many answer.
        goes_wrong: Decides about each call of the API server.
        dies: Decides at each point whether its process dies there.
    """

    talks: Sequence[Talk]
    seed: object = 0
    processes: int = 2
    manners: Manners = AS_DOCUMENTED
    goes_wrong: Callable[[Call], Fault | None] = lambda _: None
    dies: Callable[[Point], bool] = lambda _: False
    shuffled: bool = False
    new_store: Callable[[Callable[[], float]], EventStore]
    runner: dict[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    """What came of it."""

    verdict: Verdict
    steps: int
    calls: int
    kills: int
    seconds: float
    trace: str
    log: list[str]

    @property
    def wrong(self) -> int:
        """Everything that should not be."""
        told = self.verdict
        return (
            sum(each.wrong for each in (told.messages, told.syncs, told.replies, told.sends))
            + told.overlaps
        )


class World:
    """Runs a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.simulation = Simulation(plan.seed, at=self._point, shuffled=plan.shuffled)
        self.store = plan.new_store(lambda: 1_767_225_600.0 + self.simulation.time)
        self.api = ApiServer(self.simulation, plan.goes_wrong, plan.talks, plan.manners)
        self.kills = 0
        self.living: list[tuple[Process, TurnRunner]] = []
        self.returned: list[Returned] = []
        self.sent: list[Sent] = []
        self._resting = False
        self._born = 0

    def run(self) -> Report:
        """Let it happen; what came of it."""
        with _platform.standing_in(self.simulation):
            self.simulation.begin(self.simulation.outside, self._live, "the town")
            try:
                self.simulation.run(until=PATIENCE)
            finally:
                self.store.close()
        finals = {name: each.state["context"] for name, each in self.api.sessions.items()}
        kept: list[Kept] = self.api.kept
        return Report(
            verdict=judge(self.plan.talks, self.returned, self.sent, kept, finals),
            steps=self.simulation.steps,
            calls=len(self.api.calls),
            kills=self.kills,
            seconds=self.simulation.time,
            trace=self.simulation.trace,
            log=self.simulation.log,
        )

    def _live(self) -> None:
        for _ in range(self.plan.processes):
            self._bear()
        customers = [
            self.simulation.begin(self.simulation.outside, self._customer(talk), "a customer")
            for talk in self.plan.talks
        ]
        for customer in customers:
            self.simulation.rest(PATIENCE, lambda customer=customer: customer.ended)  # type: ignore[misc]
            if customer.failure is not None:
                raise customer.failure
        self._resting = True  # nobody dies any more: what is left is delivered
        while any(vars_of(run(self.store.backlog()))):
            self.simulation.rest(1.0)

    def _bear(self) -> None:
        """A process is there, with workers of its own."""
        self._born += 1
        process = Process(f"p{self._born}")
        runner = self._runner()
        self.living.append((process, runner))
        self.simulation.begin(process, runner.__enter__, "start")

    def _runner(self) -> TurnRunner:
        manners = self.plan.manners
        profile = ServerProfile(
            history_cap=CAP,
            idempotency_keys=manners.keys,
            context_sync="replace" if manners.replace else "merge",
            history="sync" if manners.by_sync else "messages",
        )
        client = ConvSyncClient("https://api", profile=profile, http_client=self.api.client())
        given: dict[str, Any] = {
            "on_reply": self._on_reply,
            "prepare": prepare,
            "max_starts": 100,  # so many crashes at one event are no sign of a crashing event here
            "workers": 1,
            **self.plan.runner,
        }
        return TurnRunner(RunnableLambda(self._agent), client=client, store=self.store, **given)

    def _agent(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.simulation.rest(asked["seconds"])
        number, reply = asked["number"], asked["reply"]
        context = {"number": number, "reply": reply}
        return {"reply": reply, "intent": "order", "step": f"step {number}", "context": context}

    def _on_reply(self, turn: Turn) -> None:
        self.sent.append(Sent(turn.turn_id or "", turn.reply or ""))

    def _point(self, point: Point, process: Process) -> None:
        if self._resting or not self.plan.dies(point):
            return
        self.kills += 1
        self.simulation.kill(process)
        self.living = [each for each in self.living if each[0] is not process]

        def replace() -> None:
            self.simulation.rest(REPLACED)
            self._bear()

        self.simulation.begin(self.simulation.outside, replace, "a new process")

    def _customer(self, talk: Talk) -> Callable[[], None]:
        def talks() -> None:
            for burst in talk.bursts:
                said = [self._deliver(talk, each) for each in burst]
                for each in said:
                    self.simulation.rest(PATIENCE, lambda each=each: each.ended)  # type: ignore[misc]
                    if each.failure is not None:
                        raise each.failure

        return talks

    def _deliver(self, talk: Talk, said: Said) -> Strand:
        """A webhook, again and again until it is acknowledged, and then until it is answered.

        The customer's next message is delivered when this one is acknowledged: only then does
        anybody know which of the two came first. Some deliveries come twice.
        """
        acknowledged: list[bool] = []

        def deliver(*, by_lid: bool) -> Callable[[], None]:
            event = InboundEvent(**talk.event(said, by_lid=by_lid))

            def work() -> None:
                while self._called(talk, event, TurnRunner.accept) is None:
                    self.simulation.rest(REPEATED)
                acknowledged.append(True)
                while (turn := self._called(talk, event, _answer)) is None or (
                    turn.status not in FINAL
                ):
                    self.simulation.rest(REPEATED)

            return work

        outside = self.simulation.outside
        first = self.simulation.begin(outside, deliver(by_lid=False), "a delivery")
        if said.twin:
            self.simulation.begin(outside, deliver(by_lid=said.twin == "lid"), "its twin")
        self.simulation.rest(PATIENCE, lambda: bool(acknowledged))
        return first

    def _called(
        self, talk: Talk, event: InboundEvent, call: Callable[[TurnRunner, InboundEvent], Turn]
    ) -> Turn | None:
        """What a process says of an event; None where it died meanwhile, or failed."""
        if not self.living:
            return None
        process, runner = self.simulation.chance.choice(self.living)
        strand = self.simulation.begin(process, lambda: call(runner, event), "a call")
        self.simulation.rest(PATIENCE, lambda: strand.ended or not process.alive)
        if (error := strand.failure) is not None:
            self.simulation.note(f"{process.name} raised {type(error).__name__}: {error}")
        if not strand.ended or strand.outcome is None:
            return None
        turn: Turn = strand.outcome
        told = turn.status, turn.reply, turn.turn_id or "", turn.events
        if turn.status != "queued":
            self.returned.append(Returned(talk.session_id, event.event_id, *told))
        return turn


def _answer(runner: TurnRunner, event: InboundEvent) -> Turn:
    return runner.run(event, 20.0)


def vars_of(backlog: Any) -> list[int]:
    """Every number of a backlog but dead letters, which are for the judge."""
    return [backlog.queued, backlog.writes, backlog.replies]


def prepare(conversation: Conversation, events: Sequence[InboundEvent]) -> dict[str, Any]:
    """What the agent is asked: everything is decided by what it sees of the conversation."""
    number = int(conversation.context.get("number", 0)) + 1
    said = [m.content for m in conversation.messages[-CAP:] if m.role == "bot"]
    previous = max(map(number_of, said), default=0)
    ids = [event.event_id for event in events]
    return {
        "number": number,
        "reply": reply_to(conversation.subdomain, number, previous, ids),
        "seconds": 45.0 if any(SLOWLY in event.text for event in events) else 0.0,
    }
