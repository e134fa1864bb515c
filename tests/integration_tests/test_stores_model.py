"""Every store does, step by step and under repeated calls, what the model in plain Python does.

``HYPOTHESIS_PROFILE=long`` makes 2,000 runs of 50 steps on each store, some ten minutes in all.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from langchain_convsync._flow import Io
from langchain_convsync.stores import (
    Commit,
    Confirmed,
    EventStore,
    Handles,
    Lane,
    Lease,
    NewEvent,
    Op,
    RedisEventStore,
    SetAside,
    SQLiteEventStore,
)
from tests.redis_server import RedisServer
from tests.store_checks import check_keys, check_rows
from tests.store_model import StoreModel

pytest_plugins = ("tests.store_fixtures",)

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
SETTINGS = settings(
    max_examples=2000 if LONG else 30,
    stateful_step_count=50 if LONG else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
HANDLES = Handles(b"test")
ACCOUNTS = ("ventas", "soporte", "cocina")
LANES: tuple[Lane, ...] = ("turn", "write", "say")
TEXTS = st.sampled_from(("{}", "", "ñ\0\ud83d", "x" * 200))
LEASES = st.sampled_from((5.0, 30.0))
AT_ONCE = st.sampled_from((0, 0, 1, 2))
CUSTOMERS = st.sampled_from((0, 0, 1, 2))
CHOICE = st.integers(0, 7)


def has_lease(*lanes: Lane) -> Callable[[StoreMachine], bool]:
    """Mostly there is one that holds; now and then a stale one will do."""

    def check(machine: StoreMachine) -> bool:
        fitting = [lease for lease in machine.leases if lease.lane in lanes]
        return bool(fitting) and (machine.steps % 5 == 0 or any(map(machine.model.holds, fitting)))

    return check


def has_work(machine: StoreMachine) -> bool:
    """Mostly there is something to take; now and then there may be nothing."""
    return machine.steps % 5 == 0 or any(machine.model.next_due(lane) for lane in LANES)


class StoreMachine(RuleBasedStateMachine):
    """One store beside the model, on one clock that stands still between the rules."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_700_000_000.0
        self.store = self.open_store()
        self.model = StoreModel(self.clock)
        self.loop = asyncio.Runner()
        self.steps = 0
        self.leases: list[Lease] = []
        self.decided: list[SetAside] = []
        self.last: tuple[Io[Any], Any] | None = None
        self.accepted: dict[str, list[str]] = defaultdict(list)
        self.ended: dict[str, list[str]] = defaultdict(list)

    def open_store(self) -> EventStore:
        raise NotImplementedError

    def clock(self) -> float:
        return self.now

    def perform(self, io: Io[Any]) -> Any:
        """In the colours by turns: they must not disturb each other."""
        self.steps += 1
        if self.steps % 2:
            return io.block()

        async def wait() -> Any:
            return await io.wait()

        return self.loop.run(wait())

    def step(self, name: str, *args: Any, **options: Any) -> Any:
        """One operation on both; the answers must be equal."""
        io = getattr(self.store, name)(*args, **options)
        expected = getattr(self.model, name)(*args, **options)
        answer = self.perform(io)
        assert answer == expected
        self.last = io, answer
        return answer

    def token(self) -> str:
        return f"token {self.steps}"

    def a_lease(self, choice: int, lanes: tuple[Lane, ...]) -> Lease:
        """Mostly one that holds, else any that was given once, or one that never was."""
        fitting = [lease for lease in self.leases if lease.lane in lanes]
        held = [lease for lease in fitting if self.model.holds(lease)]
        pool = held if held and choice < 5 else fitting
        lease = pool[-1 - choice % len(pool)]
        match choice:
            case 6:
                return replace(lease, token="forged")
            case 7:
                return replace(lease, epoch=lease.epoch + 1)
            case _:
                return lease

    @rule(
        account=st.sampled_from((0, 0, 1, 2)),
        customer=CUSTOMERS,
        source=st.integers(0, 30),
        alias=st.sampled_from((None, None, 0, 1, 2)),
        text=TEXTS,
        takes=st.booleans(),
        lease=LEASES,
        windows=st.sampled_from(((0, 0), (0, 0), (2, 5), (5, 2))),
        backlog=st.sampled_from((2, 1000, 1000)),
        at_once=AT_ONCE,
    )
    def accept(
        self,
        *,
        account: int,
        customer: int,
        source: int,
        alias: int | None,
        text: str,
        takes: bool,
        lease: float,
        windows: tuple[int, int],
        backlog: int,
        at_once: int,
    ) -> None:
        name = ACCOUNTS[account]
        event = NewEvent(
            eid=HANDLES.event(name, "message", str(source)),
            cid=HANDLES.conversation(name, str(customer)),
            alias=None if alias is None else HANDLES.conversation(name, str(alias)),
            digest=str(len(text)),
            payload=text,
        )
        accepted = self.step(
            "accept",
            event,
            token=self.token() if takes else None,
            lease=lease,
            quiet=windows[0],
            max_quiet=windows[1],
            backlog=backlog,
            at_once=at_once,
        )
        self.events_moved()
        if accepted.status == "new":
            self.accepted[accepted.cid].append(event.eid)
        if accepted.taken:
            self.leases.append(accepted.taken.lease)

    @precondition(lambda self: self.accepted)
    @rule(choice=CHOICE, of=st.sampled_from(("queued", "queued", "done", "dead")), after=TEXTS)
    def amend(self, choice: int, of: str, after: str) -> None:
        """Mostly of what it was; else it is told what that is."""
        eids = [eid for eid, event in self.model.events.items() if event.state == of]
        if eids:
            eid = eids[choice % len(eids)]
            before = self.model.events[eid].payload if choice < 6 else "another"
            self.step("amend", eid, before, after)

    def events_moved(self) -> None:
        """What waited under a name that was linked stands behind what waited there."""
        for cid in list(self.accepted):
            for eid in list(self.accepted[cid]):
                if (now_in := self.model.events[eid].cid) != cid:
                    self.accepted[cid].remove(eid)
                    self.accepted[now_in].append(eid)

    def a_lane(self, choice: int) -> Lane:
        """Mostly one in which there is something to take."""
        due = [lane for lane in LANES if self.model.next_due(lane)]
        pool = due if due and choice < 7 else LANES
        return pool[choice % len(pool)]

    @precondition(has_work)
    @rule(choice=CHOICE, lease=LEASES, at_once=AT_ONCE)
    def take_any(self, choice: int, lease: float, at_once: int) -> None:
        lane = self.a_lane(choice)
        if taken := self.step("take", lane, self.token(), lease=lease, at_once=at_once):
            self.leases.append(taken.lease)

    @precondition(has_work)
    @precondition(lambda self: self.accepted)
    @rule(choice=CHOICE, other=CHOICE, lease=LEASES)
    def take_one(self, choice: int, other: int, lease: float) -> None:
        lane, cids = self.a_lane(choice), list(self.accepted)
        cid = (other < 6 and self.model.next_due(lane)) or cids[other % len(cids)]
        if taken := self.step("take", lane, self.token(), cid=cid, lease=lease):
            self.leases.append(taken.lease)

    @rule(account=st.sampled_from((0, 1)), customer=CUSTOMERS, seconds=st.sampled_from((0.0, 40.0)))
    def pause(self, account: int, customer: int, seconds: float) -> None:
        cid = HANDLES.conversation(ACCOUNTS[account], str(customer))
        self.step("pause", cid, seconds=seconds)

    @precondition(lambda self: self.accepted)
    @rule(choice=CHOICE, note=st.sampled_from(("echo", "ñ\ud83d", "echo of another")))
    def hear(self, choice: int, note: str) -> None:
        cids = [
            cid
            for cid, talk in self.model.talks.items()
            if (cursor := talk.lanes["say"].cursor) and cursor.sent_at is not None
        ]
        cids = cids if cids and choice < 6 else list(self.accepted)
        self.step("hear", cids[choice % len(cids)], note)

    @rule(
        account=st.sampled_from((0, 0, 1)), alias=CUSTOMERS, customer=CUSTOMERS, mine=st.booleans()
    )
    def link(self, account: int, alias: int, customer: int, mine: bool) -> None:
        """Also by those who work, or worked, on what the name stands for."""
        names = [HANDLES.conversation(ACCOUNTS[account], str(n)) for n in (alias, customer)]
        turns = [lease for lease in self.leases if (lease.cid, lease.lane) == (names[0], "turn")]
        self.step("link", *names, lease=turns[-1] if turns and mine else None)
        self.events_moved()

    @precondition(lambda self: self.accepted)
    @rule(lane=st.sampled_from(LANES), choice=CHOICE)
    def due(self, lane: Lane, choice: int) -> None:
        cids = list(self.accepted)
        self.step("due", lane, cids[choice % len(cids)])

    @precondition(has_lease(*LANES))
    @rule(choice=CHOICE, seconds=LEASES)
    def beat(self, choice: int, seconds: float) -> None:
        self.step("beat", self.a_lease(choice, LANES), seconds=seconds)

    @precondition(has_lease(*LANES))
    @rule(choice=CHOICE, delay=st.sampled_from((0.0, 4.0)), failed=st.booleans())
    def release(self, choice: int, delay: float, failed: bool) -> None:
        lease = self.a_lease(choice, LANES)
        self.step("release", lease, delay=delay, failed=failed)

    @precondition(has_lease("turn"))
    @rule(
        choice=CHOICE,
        amount=st.integers(1, 3),
        skip=st.sampled_from((0, 0, 0, 0, 0, 1)),
        ops=st.sampled_from((2, 1, 3, 0)),
        says=st.integers(0, 2),
        dead=st.sampled_from((False, False, True)),
        snapshot=st.none() | TEXTS,
        ttl=st.sampled_from((0.0, 10.0, 1000.0)),
        guards=st.sampled_from(((False, False), (True, False), (False, True), (True, True))),
    )
    def commit_turn(
        self,
        *,
        choice: int,
        amount: int,
        skip: int,
        ops: int,
        says: int,
        dead: bool,
        snapshot: str | None,
        ttl: float,
        guards: tuple[bool, bool],
    ) -> None:
        lease = self.a_lease(choice, ("turn",))
        eids = [event.eid for event in self.model.talks[lease.cid].inbox][skip : skip + amount]
        eids = eids or self.accepted[lease.cid][-1:]  # answered by an earlier turn
        eids = eids or [eid for eid in self.model.events if eid[:15] == lease.cid[:15]][:1]
        commit = Commit(
            eids=eids,
            outcomes={eid: f"outcome {eid}" for eid in eids[::2]},
            ops=[Op(id=f"{eids[0]}/{n}", body=f"write {n}") for n in range(ops)],
            says=[Op(id=f"{eids[0]}/{n}", body=f"say {n}") for n in range(says)],
            dead=dead,
            snapshot=snapshot,
            snapshot_ttl=ttl,
            unless_paused=guards[0],
            unless_newer=guards[1],
        )
        if (
            self.step("commit_turn", lease, commit) == "done"
            and eids[0] not in self.ended[lease.cid]
        ):
            self.ended[lease.cid] += eids

    def an_op(self, lease: Lease, offset: int) -> tuple[str, int]:
        """The operation at the head and its next part; or, by the offset, another one."""
        talk = self.model.talks[lease.cid]
        queue, cursor = talk.ops[lease.lane], talk.lanes[lease.lane].cursor
        if not queue or offset == 2:
            return f"{self.accepted[lease.cid][0]}/0", 0
        return queue[0].id, max(0, (cursor.pos if cursor else 0) + offset)

    OFFSETS = st.sampled_from((0, 0, 0, 0, 1, -1, 2))
    NOTES = st.none() | TEXTS

    @precondition(has_lease("write", "say"))
    @rule(choice=CHOICE, offset=OFFSETS, attempt=st.integers(1, 3), need=LEASES, note=NOTES)
    def op_begin(
        self, choice: int, offset: int, attempt: int, need: float, note: str | None
    ) -> None:
        lease = self.a_lease(choice, ("write", "say"))
        op_id, pos = self.an_op(lease, offset)
        self.step("op_begin", lease, op_id, pos, attempt=attempt, need=need, note=note)

    @precondition(has_lease("write", "say"))
    @rule(choice=CHOICE, offset=OFFSETS, last=st.booleans(), anchor=NOTES)
    def op_done(self, choice: int, offset: int, last: bool, anchor: str | None) -> None:
        lease = self.a_lease(choice, ("write", "say"))
        op_id, pos = self.an_op(lease, offset)
        self.step("op_done", lease, op_id, pos, last=last, anchor=anchor)

    @precondition(has_lease("write", "say"))
    @rule(
        choice=CHOICE,
        offset=OFFSETS,
        delay=st.sampled_from((0.0, 0.2, 20.0)),
        sent=st.booleans(),
        note=NOTES,
    )
    def op_retry(
        self,
        choice: int,
        offset: int,
        delay: float,
        sent: bool,
        note: str | None,
    ) -> None:
        lease = self.a_lease(choice, ("write", "say"))
        op_id, pos = self.an_op(lease, offset)
        self.step("op_retry", lease, op_id, pos, delay=delay, sent=sent, note=note)

    @precondition(has_lease("write", "say"))
    @rule(choice=CHOICE, last=st.booleans(), anchor=NOTES)
    def deliver(self, choice: int, last: bool, anchor: str | None) -> None:
        """What mostly happens: a part is begun and confirmed."""
        lease = self.a_lease(choice, ("write", "say"))
        op_id, pos = self.an_op(lease, 0)
        self.step("op_begin", lease, op_id, pos, attempt=1, need=6.0)
        self.step("op_done", lease, op_id, pos, last=last, anchor=anchor)

    @precondition(has_lease("write", "say"))
    @rule(choice=CHOICE, offset=OFFSETS, last=st.booleans(), anchor=NOTES, goes_on=st.booleans())
    def deliver_on(
        self, choice: int, offset: int, last: bool, anchor: str | None, goes_on: bool
    ) -> None:
        """What mostly happens next: it is confirmed as the next part is begun, or the lane ends."""
        lease = self.a_lease(choice, ("write", "say"))
        op_id, pos = self.an_op(lease, offset)
        done = Confirmed(op_id=op_id, pos=pos, last=last, anchor=anchor)
        if goes_on:
            queue = self.model.talks[lease.cid].ops[lease.lane]
            following = queue[1].id if last and len(queue) > 1 else op_id
            after = 0 if last else pos + 1
            self.step("op_begin", lease, following, after, attempt=1, need=6.0, done=done)
        else:
            self.step("release", lease, delay=0.0, failed=False, done=done)

    @precondition(lambda self: self.steps % 3 == 0)
    @precondition(has_lease("write", "say"))
    @rule(choice=CHOICE, offset=OFFSETS)
    def op_park(self, choice: int, offset: int) -> None:
        lease = self.a_lease(choice, ("write", "say"))
        self.step("op_park", lease, self.an_op(lease, offset)[0], reason="ñ\ud800")

    @rule(customer=CUSTOMERS, account=st.sampled_from((0, 1)), most=st.sampled_from((1, 100)))
    def view(self, customer: int, account: int, most: int) -> None:
        self.step("view", HANDLES.conversation(ACCOUNTS[account], str(customer)), most=most)

    def is_any_aside(self) -> bool:
        """Mostly there is something; now and then there may be nothing."""
        return self.steps % 5 == 0 or bool(self.model.set_aside())

    @precondition(is_any_aside)
    @rule(customer=st.none() | CUSTOMERS, account=st.sampled_from((0, 1)))
    def set_aside(self, customer: int | None, account: int) -> None:
        cid = HANDLES.conversation(ACCOUNTS[account], str(customer))
        self.step("set_aside", None if customer is None else cid)

    @precondition(lambda self: self.model.parked)
    @rule(most=st.integers(1, 3))
    def set_aside_some(self, most: int) -> None:
        """Of the parked ones the oldest are told; of dead letters, the store says which."""
        found = self.perform(self.store.set_aside(most=most))
        expected = self.model.set_aside(most=1000)
        assert len(found) == min(most, len(expected))
        assert set(found) <= set(expected)
        parked = [one for one in expected if one.lane != "turn"]
        told = [one for one in found if one.lane != "turn"]
        assert told == parked[: len(told)]

    def an_aside(self, choice: int) -> SetAside:
        """Mostly one that is set aside, else one that was once, or never."""
        found = self.model.set_aside()
        if choice == 7 or not found:
            found = tuple(self.decided) or (replace(found[0], id=f"{found[0].id}0"),)
        aside = found[choice % len(found)]
        self.decided.append(aside)
        return aside

    @precondition(lambda self: self.model.set_aside())
    @rule(choice=CHOICE, body=NOTES)
    def requeue(self, choice: int, body: str | None) -> None:
        aside = self.an_aside(choice)
        renewed = self.step("requeue", aside, token=self.token(), body=body)
        if renewed and aside.lane == "turn":
            self.accepted[self.model.events[renewed].cid].append(renewed)

    @precondition(lambda self: self.model.set_aside())
    @rule(choice=CHOICE)
    def discard(self, choice: int) -> None:
        self.step("discard", self.an_aside(choice), token=self.token())

    @precondition(lambda self: self.steps % 4 == 0)
    @rule(account=st.sampled_from((0, 0, 1)), customer=CUSTOMERS)
    def forget(self, account: int, customer: int) -> None:
        """Nothing is left of it, and whoever held a lease of it has lost it."""
        cid = HANDLES.conversation(ACCOUNTS[account], str(customer))
        names = self.model.names_of(cid)
        held = [lease for lease in self.leases if lease.cid in names and self.model.holds(lease)]
        self.step("forget", cid)
        for lease in held:
            assert self.perform(self.store.beat(lease)) is None
        self.leases = [lease for lease in self.leases if lease.cid not in names]
        for name in names:
            self.accepted.pop(name, None)
            self.ended.pop(name, None)

    @rule(seconds=st.sampled_from((0.001, 0.5, 3.0, 6.0, 31.0)))
    def time_passes(self, seconds: float) -> None:
        self.now = round(self.now + seconds, 3)
        self.last = None  # the same call is the same answer as long as the store's clock stands

    @precondition(lambda self: self.last)
    @rule()
    def the_answer_was_lost(self) -> None:
        """The same call again answers the same; what follows shows that it changed nothing."""
        assert self.last is not None
        io, answer = self.last
        assert self.perform(io) == answer

    @invariant()
    def counts_agree(self) -> None:
        assert self.perform(self.store.backlog()) == self.model.backlog()
        if self.steps % 3 == 0:
            assert self.perform(self.store.loads()) == self.model.loads()

    def teardown(self) -> None:
        """Whatever happened: in the end every event was answered once, in order of arrival."""
        try:
            self.now += 1000
            while taken := self.perform(self.store.take("turn", self.token())):
                eids = [event.eid for event in taken.events]
                commit = Commit(eids=eids, outcomes={})
                assert self.perform(self.store.commit_turn(taken.lease, commit)) == "done"
                self.ended[taken.lease.cid] += eids
            assert self.ended == {cid: eids for cid, eids in self.accepted.items() if eids}
            self.inspect()
        finally:
            self.loop.run(self.store.aclose())
            self.loop.close()

    def inspect(self) -> None:
        """Look at what the store left behind."""


def test_sqlite_in_memory_does_what_the_model_does() -> None:
    """One connection serves both colours; after every step its rows agree with each other."""

    class MemoryMachine(StoreMachine):
        def open_store(self) -> EventStore:
            return SQLiteEventStore(":memory:", clock=self.clock)

        @invariant()
        def rows_agree(self) -> None:
            assert isinstance(self.store, SQLiteEventStore)
            if self.store._sql is not None:
                check_rows(self.store._sql)

    run_state_machine_as_test(MemoryMachine, settings=SETTINGS)


def test_sqlite_in_a_file_does_what_the_model_does(tmp_path: Path) -> None:
    """Each run has a file of its own."""
    numbers = itertools.count()

    class FileMachine(StoreMachine):
        def open_store(self) -> EventStore:
            return SQLiteEventStore(tmp_path / f"{next(numbers)}.db", clock=self.clock)

    run_state_machine_as_test(FileMachine, settings=SETTINGS)


def test_redis_does_what_the_model_does(server: RedisServer) -> None:
    """And leaves no key that should have expired, nor lets one expire that is still needed."""

    class RedisMachine(StoreMachine):
        def open_store(self) -> EventStore:
            server.empty()
            return RedisEventStore(server.url, clock=self.clock)

        def inspect(self) -> None:
            with server.client() as client:
                check_keys(client)

    run_state_machine_as_test(RedisMachine, settings=SETTINGS)
