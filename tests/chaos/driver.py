"""Plays a script against workers, store and API server, and kills them meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from langchain_convsync._flow import arun
from langchain_convsync.stores import Backlog, open_store
from tests.chaos import fake_api, fake_waha, worker
from tests.chaos.answering import LEASE, SETTLE, Setup
from tests.chaos.children import Child
from tests.chaos.fake_api import AS_DOCUMENTED, Manners, Server
from tests.chaos.fake_waha import Waha
from tests.chaos.oracle import Returned, Run, Sent, Tally, Verdict, judge
from tests.chaos.script import Said, Talk, talks
from tests.redis_server import RedisServer

Store: TypeAlias = Literal["sqlite", "redis"]
Profile: TypeAlias = Literal["kills", "pauses"]
#: Whether replies are sent through WAHA, and whether it echoes them.
Sending: TypeAlias = Literal["none", "silent", "echoing"]

WORKERS = 3
#: Conversations at a time.
CONVERSATIONS_AT_ONCE = 80
#: Seconds that a killed part stays away at most.
AWAY = 0.25
#: Seconds after which a delivery without an answer is repeated elsewhere.
REDELIVER = 4 * LEASE
#: Seconds that a delivery waits for its turn.
WAIT = 2 * LEASE
#: What needs no further delivery.
ENDED = {"answered", "merged", "duplicate", "failed", "dropped", "interrupted"}
#: What a store that is away is answered with; anything else is a defect.
EXPECTED_ERROR = "StoreUnavailableError"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run; the command line describes its options.

    Attributes:
        folder: For the files of store, API server and workers.
        limit: Seconds for all of it.
        drain: Seconds that the writes may take that are left when everything is answered.
    """

    folder: Path
    turns: int = 1000
    kills: int = 80
    seed: int = 1
    store: Store = "sqlite"
    profile: Profile = "kills"
    manners: Manners = AS_DOCUMENTED
    waha: Sending = "echoing"
    naive: bool = False
    without: str | None = None
    limit: float = 3600.0
    drain: float = 60.0


@dataclass(slots=True)
class Report:
    """What happened in a run.

    Attributes:
        finished: Everything was answered and delivered in time.
        seconds: Until everything was answered.
        draining: Seconds until everything was delivered, after that.
        left: What the store still held in the end.
        struck: How often each part was killed or paused.
        faults: How often the API server and WAHA did what.
        errors: Deliveries that ended in an error, by its name.
        strange: What nobody expects: tracebacks, and echoes that are taken for a human.
    """

    verdict: Verdict = field(default_factory=Verdict)
    finished: bool = False
    left: Backlog = field(default_factory=Backlog)
    events: int = 0
    deliveries: int = 0
    seconds: float = 0.0
    draining: float = 0.0
    struck: Counter[str] = field(default_factory=Counter)
    faults: dict[str, int] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    strange: list[str] = field(default_factory=list)


async def play(plan: Plan) -> Report:
    """Run it; every process that it started has ended afterwards."""
    async with _Stage(plan) as stage:
        return await stage.play()


class _Stage:
    """The processes of a run, and who strikes them down."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rng = random.Random(f"{plan.seed}/driver")
        self._talks = talks(plan.turns, plan.seed)
        self._report = Report(events=sum(len(talk.said) for talk in self._talks))
        self._returned: list[Returned] = []
        self._sent: list[Sent] = []
        self._deaths: dict[int, float] = {}
        self._strikes = sorted(self._rng.uniform(0, plan.turns) for _ in range(plan.kills))
        self._bursts = 0
        self._room = asyncio.Semaphore(CONVERSATIONS_AT_ONCE)
        self._ports = {name: _free_port() for name in ("api", "waha")}
        self._echoing: set[asyncio.Task[None]] = set()
        self._redis: RedisServer | None = None
        self._store_url = f"sqlite:///{plan.folder / 'events.db'}"
        self._children: dict[str, Child] = {}
        self._servers = ["api", *(["waha"] if self._sends else [])]
        self._locks = {name: asyncio.Lock() for name in (*_slots(), *self._servers, "redis")}
        self._starts = 0

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            if self._plan.store == "redis":
                # What was acknowledged is on its way to the disk with "always"; "everysec" may
                # hold it back in the process while an earlier fsync takes its time.
                self._redis = RedisServer()
                self._redis.port = _free_port()
                stack.callback(self._redis.__exit__)
                await asyncio.to_thread(self._redis.start)
                self._store_url = self._redis.url
            fake_api.create(self._file("api"), self._talks)
            fake_waha.create(self._file("waha"))
            stack.callback(self._kill_all)
            await asyncio.gather(*(self._start(name) for name in (*self._servers, *_slots())))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def play(self) -> Report:
        """Play everything, wait until all is delivered, and judge."""
        report, began = self._report, time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._plan.limit), asyncio.TaskGroup() as striking:
                await self._converse_all(striking)
            report.seconds = time.monotonic() - began
            report.finished = self._plan.naive or await self._drain()
        report.draining = time.monotonic() - began - report.seconds
        for child in self._children.values():
            await child.stop()
        kept, finals, report.faults = fake_api.applied(self._file("api"))
        said, faults = fake_waha.delivered(self._file("waha"), self._talks)
        kept, report.faults = kept + said, dict(Counter(report.faults) + Counter(faults))
        report.verdict = judge(self._talks, self._returned, self._sent, kept, finals, self._runs())
        charged = Counter(note["charged"] for note in self._notes() if "charged" in note)
        report.verdict.charges = Tally(kept=charged.total(), doubled=charged.total() - len(charged))
        return report

    async def _converse_all(self, striking: asyncio.TaskGroup) -> None:
        async with asyncio.TaskGroup() as conversing:
            for talk in self._talks:
                conversing.create_task(self._converse(talk, striking))

    async def _converse(self, talk: Talk, striking: asyncio.TaskGroup) -> None:
        """Each burst follows when the one before is answered."""
        async with self._room:
            for burst in talk.bursts:
                await self._say(talk, burst)
                self._bursts += 1
                while self._strikes and self._strikes[0] < self._bursts:
                    self._strikes.pop(0)
                    striking.create_task(self._strike())

    async def _say(self, talk: Talk, burst: Iterable[Said]) -> None:
        """Each event follows when the one before is accepted; then all of them are waited for."""
        async with asyncio.TaskGroup() as waiting:
            for said in burst:
                if said.twin is not None:
                    twin = self._until_ended(talk, said, by_lid=said.twin == "lid")
                    waiting.create_task(twin)
                if await self._deliver(talk, said, wait=0.0) not in ENDED:
                    waiting.create_task(self._until_ended(talk, said))

    async def _until_ended(self, talk: Talk, said: Said, *, by_lid: bool = False) -> None:
        while await self._deliver(talk, said, wait=WAIT, by_lid=by_lid) not in ENDED:
            await self._moment()

    async def _deliver(self, talk: Talk, said: Said, *, wait: float, by_lid: bool = False) -> str:
        """Deliver an event again and again until a worker says what became of it."""
        request = {"event": talk.event(said, by_lid=by_lid), "wait": wait}
        while True:
            self._report.deliveries += 1
            asked = self._children[self._rng.choice(_slots())].ask(request)
            asked.add_done_callback(lambda answer: self._note(talk, said, answer.result()))
            await asyncio.wait([asked], timeout=REDELIVER)
            answer = asked.result() if asked.done() else None
            if answer is not None and "status" in answer:
                status: str = answer["status"]
                return status
            await self._moment()

    def _note(self, talk: Talk, said: Said, answer: dict[str, Any] | None) -> None:
        """Late answers count too: their callers would act on them."""
        if answer is None:
            return
        if error := answer.get("error"):
            self._report.errors[error] += 1
            if error != EXPECTED_ERROR and not self._plan.naive:
                self._report.strange.append(answer["detail"])
            return
        returned = Returned(
            session_id=talk.session_id,
            event_id=said.event_id,
            status=answer["status"],
            reply=answer["reply"],
            turn_id=answer["turn_id"] or "",
            events=tuple(answer["events"]),
        )
        self._returned.append(returned)

    def _hear(self, line: dict[str, Any]) -> None:
        self._sent.append(Sent(line["sent"]["turn_id"], line["sent"]["reply"]))

    def _echo(self, line: dict[str, Any]) -> None:
        task = asyncio.create_task(self._deliver_echo(line))
        self._echoing.add(task)
        task.add_done_callback(self._echoing.discard)

    async def _deliver_echo(self, line: dict[str, Any]) -> None:
        """Once, to whichever worker is there: webhooks promise nothing."""
        if line["late"]:
            await asyncio.sleep(SETTLE)
        answer = await self._children[self._rng.choice(_slots())].ask({"echo": line["echo"]})
        if answer is not None and "detail" in answer and answer["error"] != EXPECTED_ERROR:
            self._report.strange.append(answer["detail"])
        if answer is not None and answer.get("human"):
            self._report.strange.append("one of our own replies was taken for a human's")

    async def _moment(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.0, 0.05))

    async def _drain(self) -> bool:
        """Wait until the workers have delivered everything that is left."""
        store, until = open_store(self._store_url), time.monotonic() + self._plan.drain
        try:
            while time.monotonic() < until:
                left = self._report.left = await arun(store.backlog())
                if not (left.queued or left.writes or left.replies):
                    return True
                await self._moment()
        finally:
            await store.aclose()
        return False

    async def _strike(self) -> None:
        await self._moment()
        parts = {"worker": 60, **dict.fromkeys(self._servers, 25), "redis": 25 * bool(self._redis)}
        if self._plan.profile == "pauses":
            parts["paused worker"] = 150
        part = self._rng.choices([*parts], [*parts.values()])[0]
        name = self._rng.choice(_slots()) if "worker" in part else part
        self._report.struck[part] += 1
        async with self._locks[name]:
            if part == "redis":
                await self._restart_redis()
            elif part == "paused worker":
                await self._pause(self._children[name])
            else:
                child = self._children[name]
                child.kill()
                self._deaths[child.pid] = child.killed_at or 0.0
                await asyncio.sleep(self._rng.uniform(0.0, AWAY))
                await self._start(name)

    async def _restart_redis(self) -> None:
        assert self._redis is not None
        await asyncio.to_thread(self._redis.kill9)
        await asyncio.sleep(self._rng.uniform(0.0, AWAY))
        await asyncio.to_thread(self._redis.start)

    async def _pause(self, child: Child) -> None:
        child.pause()
        try:
            await asyncio.sleep(LEASE * self._rng.uniform(1.2, 2.5))
        finally:
            child.resume()

    async def _start(self, name: str) -> None:
        plan, self._starts = self._plan, self._starts + 1
        if name in self._servers:
            where: Any = {"file": self._file(name), "port": self._ports[name]}
            where["faults"] = f"{plan.seed}/{name}/{self._starts}"
            if name == "api":
                api = Server(**where, manners=plan.manners)
                self._children[name] = await Child.start(fake_api.serve, api)
            else:
                waha = Waha(**where, echoes=plan.waha == "echoing")
                self._children[name] = await Child.start(fake_waha.serve, waha, told=self._echo)
            return
        setup = Setup(
            number=_slots().index(name),
            folder=plan.folder,
            base_url=f"http://127.0.0.1:{self._ports['api']}",
            store_url=self._store_url,
            manners=plan.manners,
            waha_url=f"http://127.0.0.1:{self._ports['waha']}" if self._sends else None,
            naive=plan.naive,
            without=plan.without,
        )
        self._children[name] = await Child.start(worker.main, setup, told=self._hear)

    def _kill_all(self) -> None:
        for child in self._children.values():
            child.kill()

    @property
    def _sends(self) -> bool:
        return self._plan.waha != "none" and not self._plan.naive

    def _file(self, server: str) -> Path:
        return self._plan.folder / f"{server}.db"

    def _notes(self) -> list[dict[str, Any]]:
        lines = (self._plan.folder / "runs.log").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def _runs(self) -> list[Run]:
        """The runs of the agent; a killed process had no time to note their end."""
        begun: dict[str, Any] = {}
        ended: dict[str, Any] = {}
        late: defaultdict[int, list[Any]] = defaultdict(list)
        for note in self._notes():
            if "run" in note:
                (begun if "start" in note else ended)[note["run"]] = note
            elif "late" in note:
                late[note["pid"]].append(note)
        runs = []
        for run, note in begun.items():
            start, pid = note["start"], note["pid"]
            end = ended[run]["end"] if run in ended else self._deaths.get(pid, 0.0)
            lapses = [
                max(start, n["late"]) for n in late[pid] if n["late"] < end and start < n["until"]
            ]
            runs.append(Run(session_id=note["session_id"], start=start, end=min([end, *lapses])))
        return runs


def _slots() -> list[str]:
    return [f"worker {number}" for number in range(WORKERS)]


def _free_port() -> int:
    """A port that no outgoing connection takes while its server is away; another one each time."""
    while True:
        port = random.SystemRandom().randrange(20000, 30000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
