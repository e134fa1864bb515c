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
    AcceptRules,
    Commit,
    Confirmed,
    DeadLetter,
    EventStore,
    Keys,
    Lease,
    NewEvent,
    Operation,
    QueueName,
    RedisEventStore,
    SQLiteEventStore,
)
from langchain_convsync.stores.base import AccountKey, Adopt, HeldEvent
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
KEYS = Keys(b"test")
#: Two of one name, told apart by a fact.
ACCOUNTS = (KEYS.account("ventas"), KEYS.account("ventas", "n=1"), KEYS.account("cocina"))
QUEUES: tuple[QueueName, ...] = ("inbox", "outbox", "replies")
TEXTS = st.sampled_from(("{}", "", "ñ\0\ud83d", "x" * 200))
LEASES = st.sampled_from((5.0, 30.0))
ACCOUNT_CONCURRENCY = st.sampled_from((0, 0, 1, 2))
#: What deliveries of one message may tell: of its receiving side, and of the customer.
FACTS = st.sampled_from(("", "", "n=1 p=1", "d=2", "b=3 d=2 l=4", "n=5 p=1", "b=6", "l=4", "s=7"))
SOURCES = st.sampled_from(("", "", "a1", "a2"))
CUSTOMERS = st.sampled_from((0, 0, 1, 2))
CHOICE = st.integers(0, 7)


def has_lease(*queues: QueueName) -> Callable[[StoreMachine], bool]:
    """Mostly there is one that holds; now and then a stale one will do."""

    def check(machine: StoreMachine) -> bool:
        fitting = [lease for lease in machine.leases if lease.queue in queues]
        return bool(fitting) and (machine.steps % 5 == 0 or any(map(machine.model.holds, fitting)))

    return check


def has_work(machine: StoreMachine) -> bool:
    """Mostly there is something to take; now and then there may be nothing."""
    return machine.steps % 5 == 0 or any(machine.model.next_due(queue) for queue in QUEUES)


class StoreMachine(RuleBasedStateMachine):
    """One store beside the model, on one clock that stands still between the rules."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_700_000_000.0
        self.store = self.open_store()
        self.model = StoreModel(self.clock, replies_kept=20.0)
        self.loop = asyncio.Runner()
        self.steps = 0
        self.leases: list[Lease] = []
        self.decided: list[DeadLetter] = []
        self.last: tuple[Io[Any], Any] | None = None
        self.accepted: dict[str, list[str]] = defaultdict(list)
        self.ended: dict[str, list[str]] = defaultdict(list)

    def open_store(self) -> EventStore:
        raise NotImplementedError

    def clock(self) -> float:
        return self.now

    def perform(self, io: Io[Any]) -> Any:
        """Sync and async by turns: they must not disturb each other."""
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

    def a_lease(self, choice: int, queues: tuple[QueueName, ...]) -> Lease:
        """Mostly one that holds, else any that was given once, or one that never was."""
        fitting = [lease for lease in self.leases if lease.queue in queues]
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
        aliases=st.sampled_from(((), (), (), (0,), (1,), (2,), (2, 1), (0, 1))),
        text=TEXTS,
        takes=st.booleans(),
        lease=LEASES,
        windows=st.sampled_from(((0, 0), (0, 0), (2, 5), (5, 2))),
        max_queued=st.sampled_from((2, 1000, 1000)),
        account_concurrency=ACCOUNT_CONCURRENCY,
        pause=st.sampled_from((0.0, 0.0, 0.0, 20.0)),
        found_as=SOURCES,
        facts=FACTS,
    )
    def accept(
        self,
        *,
        account: int,
        customer: int,
        source: int,
        aliases: tuple[int, ...],
        text: str,
        takes: bool,
        lease: float,
        windows: tuple[int, int],
        max_queued: int,
        account_concurrency: int,
        pause: float,
        found_as: str,
        facts: str,
    ) -> None:
        name = ACCOUNTS[account]
        event = NewEvent(
            event_key=KEYS.event(name, "", "message", str(source)),
            conversation_key=KEYS.conversation(name, str(customer)),
            aliases=tuple(KEYS.conversation(name, str(alias)) for alias in aliases),
            digest=str(len(text)),
            source=found_as,
            facts=facts,
            payload=text,
            pause=pause,
        )
        accepted = self.step(
            "accept",
            event,
            AcceptRules(
                lease=lease,
                debounce=windows[0],
                max_debounce=windows[1],
                max_queued=max_queued,
                account_concurrency=account_concurrency,
            ),
            token=self.token() if takes else None,
        )
        self.events_moved()
        if accepted.status == "new":
            self.accepted[accepted.conversation_key].append(event.event_key)
        if accepted.acquired:
            self.leases.append(accepted.acquired.lease)

    @rule(name=st.sampled_from(("", "default")), facts=FACTS)
    def account(self, name: str, facts: str) -> None:
        """What one source tells of a receiving side, and another one of the same side."""
        self.step("account", KEYS.account(name, facts), facts)

    @rule(
        server=st.sampled_from(("", "a", "a", "b:80")),
        adopt=st.sampled_from(("first", "first", "also", "only")),
    )
    def serve(self, server: str, adopt: Adopt) -> None:
        """An API server whose conversations are held, or another one."""
        self.step("serve", server, adopt=adopt)

    @rule(account=st.sampled_from((0, 1)), source=st.sampled_from(("a1", "a2")), facts=FACTS)
    def find(self, account: int, source: str, facts: str) -> None:
        self.step("find", ACCOUNTS[account], source, facts)

    @precondition(lambda self: self.accepted)
    @rule(
        choice=CHOICE,
        of=st.sampled_from(("queued", "queued", "done", "dead")),
        after=TEXTS,
        due=st.booleans(),
    )
    def amend(self, choice: int, of: str, after: str, due: bool) -> None:
        """Mostly of what it was; else it is told what that is."""
        event_keys = [
            event_key for event_key, event in self.model.events.items() if event.state == of
        ]
        if event_keys:
            event_key = event_keys[choice % len(event_keys)]
            before = self.model.events[event_key].payload if choice < 6 else "another"
            self.step("amend", event_key, before, after, due=due)

    def events_moved(self) -> None:
        """What waited under a name that was linked stands among what waited there."""
        for talk in list(self.model.talks.values()):
            for event in talk.inbox:
                for conversation_key, event_keys in list(self.accepted.items()):
                    if event.event_key in event_keys and event.conversation_key != conversation_key:
                        event_keys.remove(event.event_key)
                        here = self.accepted[event.conversation_key]
                        waiting = [each.event_key for each in talk.inbox]
                        mine = {*here, event.event_key}
                        here[:] = [key for key in here if key not in waiting]
                        here += [key for key in waiting if key in mine]

    def a_queue(self, choice: int) -> QueueName:
        """Mostly one in which there is something to take."""
        due = [queue for queue in QUEUES if self.model.next_due(queue)]
        pool = due if due and choice < 7 else QUEUES
        return pool[choice % len(pool)]

    @precondition(has_work)
    @rule(choice=CHOICE, lease=LEASES, account_concurrency=ACCOUNT_CONCURRENCY)
    def acquire_any(self, choice: int, lease: float, account_concurrency: int) -> None:
        queue = self.a_queue(choice)
        if acquired := self.step(
            "acquire", queue, self.token(), lease=lease, account_concurrency=account_concurrency
        ):
            self.leases.append(acquired.lease)

    @precondition(has_work)
    @precondition(lambda self: self.accepted)
    @rule(choice=CHOICE, other=CHOICE, lease=LEASES)
    def take_one(self, choice: int, other: int, lease: float) -> None:
        queue, conversation_keys = self.a_queue(choice), list(self.accepted)
        conversation_key = (other < 6 and self.model.next_due(queue)) or conversation_keys[
            other % len(conversation_keys)
        ]
        if acquired := self.step(
            "acquire", queue, self.token(), conversation_key=conversation_key, lease=lease
        ):
            self.leases.append(acquired.lease)

    @rule(account=st.sampled_from((0, 1)), customer=CUSTOMERS, seconds=st.sampled_from((0.0, 40.0)))
    def pause(self, account: int, customer: int, seconds: float) -> None:
        conversation_key = KEYS.conversation(ACCOUNTS[account], str(customer))
        self.step("pause", conversation_key, seconds=seconds)

    @precondition(lambda self: self.model.talks)
    @rule(choice=CHOICE, message=st.integers(0, 2), level=st.integers(-1, 4))
    def record_ack(self, choice: int, message: int, level: int) -> None:
        conversation_keys = list(self.model.talks)
        conversation_key = conversation_keys[choice % len(conversation_keys)]
        self.step("record_ack", conversation_key, f"3EB{message}", level)
        self.step("view", conversation_key)

    @precondition(lambda self: self.steps % 3 == 0)
    @rule(
        account=st.sampled_from((0, 0, 1)),
        kind=st.sampled_from(("session", "timelock", "capping")),
        seconds=st.sampled_from((0.0, 2.0, 30.0)),
        why=st.sampled_from(("it is away", "ñ  x")),
    )
    def restrict(self, account: int, kind: str, seconds: float, why: str) -> None:
        self.step("restrict", ACCOUNTS[account], kind=kind, seconds=seconds, why=why)
        self.step("restrictions")

    @precondition(lambda self: self.model.restricted)
    @rule(account=st.sampled_from((0, 0, 1)), by=st.sampled_from((None, "session", "token")))
    def lift(self, account: int, by: str | None) -> None:
        """Whatever it is, one kind alone, or by whom it is tried."""
        known = self.model.restricted.get(ACCOUNTS[account])
        tokens = [lease.token for lease in self.leases if lease.queue == "replies"]
        tried = (known and known[4]) or (tokens or ["forged"])[-1]
        asked = {} if by is None else {"token": tried} if by == "token" else {"kind": by}
        self.step("lift", ACCOUNTS[account], **asked)
        self.step("restrictions")

    @precondition(has_lease("replies"))
    @rule(
        choice=CHOICE,
        message=st.sampled_from(("a", "a", "b")),
        spacing=st.sampled_from(({"any": 2.0}, {"any": 0.0}, {"any": 2.0, "first": 30.0})),
    )
    def pace(self, choice: int, message: str, spacing: dict[str, float]) -> None:
        self.step("pace", self.a_lease(choice, ("replies",)), message, spacing=spacing)

    @precondition(lambda self: self.accepted)
    @rule(choice=CHOICE, note=st.sampled_from(("echo", "ñ\ud83d", "echo of another")))
    def record_echo(self, choice: int, note: str) -> None:
        conversation_keys = [
            conversation_key
            for conversation_key, talk in self.model.talks.items()
            if (cursor := talk.queues["replies"].cursor) and cursor.sent_at is not None
        ]
        conversation_keys = (
            conversation_keys if conversation_keys and choice < 6 else list(self.accepted)
        )
        self.step("record_echo", conversation_keys[choice % len(conversation_keys)], note)

    @rule(
        account=st.sampled_from((0, 0, 1)), alias=CUSTOMERS, customer=CUSTOMERS, mine=st.booleans()
    )
    def link(self, account: int, alias: int, customer: int, mine: bool) -> None:
        """Also by those who work, or worked, on what the name stands for."""
        names = [KEYS.conversation(ACCOUNTS[account], str(n)) for n in (alias, customer)]
        turns = [
            lease
            for lease in self.leases
            if (lease.conversation_key, lease.queue) == (names[0], "inbox")
        ]
        self.step("alias", *names, lease=turns[-1] if turns and mine else None)
        self.events_moved()

    @precondition(lambda self: self.accepted)
    @rule(queue=st.sampled_from(QUEUES), choice=CHOICE)
    def due(self, queue: QueueName, choice: int) -> None:
        conversation_keys = list(self.accepted)
        self.step("due", queue, conversation_keys[choice % len(conversation_keys)])

    @precondition(has_lease(*QUEUES))
    @rule(choice=CHOICE, seconds=LEASES)
    def renew(self, choice: int, seconds: float) -> None:
        self.step("renew", self.a_lease(choice, QUEUES), seconds=seconds)

    @precondition(has_lease(*QUEUES))
    @rule(
        choice=CHOICE,
        delay=st.sampled_from((0.0, 4.0)),
        failed=st.booleans(),
        held=st.none() | st.integers(1, 2),
        why=st.sampled_from((None, "it is away", "it is away", "ñ")),
    )
    def release(
        self, *, choice: int, delay: float, failed: bool, held: int | None, why: str | None
    ) -> None:
        lease = self.a_lease(choice, QUEUES)
        held = held if lease.queue == "inbox" else None
        self.step("release", lease, delay=delay, failed=failed, held=held, why=why)

    def some_events(self, lease: Lease, skip: int, amount: int) -> list[str]:
        """Of the inbox; else one that was answered by an earlier turn, else one of the account."""
        waiting = [event.event_key for event in self.model.talks[lease.conversation_key].inbox]
        of_account = [key for key in self.model.events if key[:15] == lease.conversation_key[:15]]
        return (
            waiting[skip : skip + amount]
            or self.accepted[lease.conversation_key][-1:]
            or of_account[:1]
        )

    @precondition(has_lease("inbox"))
    @rule(choice=CHOICE, skip=st.sampled_from((0, 0, 0, 1)), call=st.sampled_from(("a", "b")))
    def begin_call(self, choice: int, skip: int, call: str) -> None:
        lease = self.a_lease(choice, ("inbox",))
        event_keys = self.some_events(lease, skip, 3)
        self.step("begin_call", lease, event_keys, call, token=self.token())

    @precondition(has_lease("inbox"))
    @rule(
        choice=CHOICE,
        skip=st.sampled_from((0, 0, 0, 1)),
        call=st.sampled_from(("a", "b")),
        result=st.none() | TEXTS,
    )
    def end_call(self, choice: int, skip: int, call: str, result: str | None) -> None:
        """A call that was begun, or one that was not; nothing takes it back."""
        lease = self.a_lease(choice, ("inbox",))
        event_key = self.some_events(lease, skip, 1)[0]
        self.step("end_call", lease, event_key, call, token=self.token(), result=result)

    @precondition(has_lease("inbox"))
    @rule(
        choice=CHOICE,
        amount=st.integers(1, 3),
        skip=st.sampled_from((0, 0, 0, 0, 0, 1)),
        operations=st.sampled_from((2, 1, 3, 0)),
        replies=st.integers(0, 2),
        dead=st.sampled_from((False, False, True)),
        reason=st.sampled_from(("", "ñ\ud800")),
        snapshot=st.none() | TEXTS,
        ttl=st.sampled_from((0.0, 10.0, 1000.0)),
        tenant=st.sampled_from((None, None, "one", "two")),
        note=st.none() | TEXTS,
        pause=st.sampled_from((0.0, 0.0, 0.0, 30.0)),
        guards=st.sampled_from(((False, False), (True, False), (False, True), (True, True))),
        holds=st.sampled_from((None, None, 4.0, 40.0)),
        keeps=st.sampled_from((0, 0, 0, 1, 2)),
    )
    def commit_turn(
        self,
        *,
        choice: int,
        amount: int,
        skip: int,
        operations: int,
        replies: int,
        dead: bool,
        reason: str,
        snapshot: str | None,
        ttl: float,
        tenant: str | None,
        note: str | None,
        pause: float,
        guards: tuple[bool, bool],
        holds: float | None,
        keeps: int,
    ) -> None:
        lease = self.a_lease(choice, ("inbox",))
        event_keys = self.some_events(lease, skip, amount + keeps)
        kept = event_keys[amount % 2 :: 2][:keeps]  # every other one, the first of all included
        kept = kept if len(kept) < len(event_keys) else []
        event_keys = [each for each in event_keys if each not in kept]
        held = None
        if holds is not None:
            name = KEYS.event(AccountKey(event_keys[0][:15]), "", "interrupt", event_keys[0])
            held = HeldEvent(event_key=name, payload="ñ\ud800", seconds=holds)
        commit = Commit(
            event_keys=event_keys,
            held=held,
            kept=kept,
            kept_for=(holds or 8.0) / 2,
            outcomes={event_key: f"outcome {event_key}" for event_key in event_keys[::2]},
            operations=[
                Operation(id=f"{event_keys[0]}/{n}", body=f"write {n}") for n in range(operations)
            ],
            replies=[Operation(id=f"{event_keys[0]}/{n}", body=f"say {n}") for n in range(replies)],
            fact=f"fact {event_keys[0]}" if ttl else None,
            dead=dead,
            reason=reason,
            snapshot=snapshot,
            snapshot_ttl=ttl,
            tenant=tenant,
            note=note,
            pause=pause,
            unless_paused=guards[0],
            unless_newer=guards[1],
        )
        if (
            self.step("commit_turn", lease, commit) == "done"
            and event_keys[0] not in self.ended[lease.conversation_key]
        ):
            self.ended[lease.conversation_key] += event_keys
            waiting, ended = (
                self.accepted[lease.conversation_key],
                len(self.ended[lease.conversation_key]),
            )
            stays = [each for each in waiting[ended - len(event_keys) :] if each not in event_keys]
            first = [] if held is None else [held.event_key]  # it stands before all that waits
            waiting[ended - len(event_keys) :] = [*event_keys, *first, *stays]

    def an_op(self, lease: Lease, offset: int) -> tuple[str, int]:
        """The operation at the head and its next part; or, by the offset, another one."""
        talk = self.model.talks[lease.conversation_key]
        queue, cursor = talk.operations[lease.queue], talk.queues[lease.queue].cursor
        if not queue or offset == 2:
            return f"{self.accepted[lease.conversation_key][0]}/0", 0
        return queue[0].id, max(0, (cursor.pos if cursor else 0) + offset)

    OFFSETS = st.sampled_from((0, 0, 0, 0, 1, -1, 2))
    NOTES = st.none() | TEXTS

    @precondition(has_lease("outbox", "replies"))
    @rule(choice=CHOICE, offset=OFFSETS, attempt=st.integers(1, 3), need=LEASES, note=NOTES)
    def begin(self, choice: int, offset: int, attempt: int, need: float, note: str | None) -> None:
        lease = self.a_lease(choice, ("outbox", "replies"))
        operation_id, pos = self.an_op(lease, offset)
        self.step("begin", lease, operation_id, pos, attempt=attempt, need=need, note=note)

    @precondition(has_lease("outbox", "replies"))
    @rule(choice=CHOICE, offset=OFFSETS, last=st.booleans(), anchor=NOTES)
    def confirm(self, choice: int, offset: int, last: bool, anchor: str | None) -> None:
        lease = self.a_lease(choice, ("outbox", "replies"))
        operation_id, pos = self.an_op(lease, offset)
        self.step("confirm", lease, operation_id, pos, last=last, anchor=anchor)

    @precondition(has_lease("outbox", "replies"))
    @rule(
        choice=CHOICE,
        offset=OFFSETS,
        delay=st.sampled_from((0.0, 0.2, 20.0)),
        sent=st.booleans(),
        note=NOTES,
    )
    def retry(
        self,
        choice: int,
        offset: int,
        delay: float,
        sent: bool,
        note: str | None,
    ) -> None:
        lease = self.a_lease(choice, ("outbox", "replies"))
        operation_id, pos = self.an_op(lease, offset)
        self.step("retry", lease, operation_id, pos, delay=delay, sent=sent, note=note)

    @precondition(has_lease("outbox", "replies"))
    @rule(choice=CHOICE, last=st.booleans(), anchor=NOTES)
    def deliver(self, choice: int, last: bool, anchor: str | None) -> None:
        """What mostly happens: a part is begun and confirmed."""
        lease = self.a_lease(choice, ("outbox", "replies"))
        operation_id, pos = self.an_op(lease, 0)
        self.step("begin", lease, operation_id, pos, attempt=1, need=6.0)
        self.step("confirm", lease, operation_id, pos, last=last, anchor=anchor)

    @precondition(has_lease("outbox", "replies"))
    @rule(choice=CHOICE, offset=OFFSETS, last=st.booleans(), anchor=NOTES, goes_on=st.booleans())
    def deliver_on(
        self, choice: int, offset: int, last: bool, anchor: str | None, goes_on: bool
    ) -> None:
        """What mostly happens next: it is confirmed as the next part begins, or the queue ends."""
        lease = self.a_lease(choice, ("outbox", "replies"))
        operation_id, pos = self.an_op(lease, offset)
        done = Confirmed(operation_id=operation_id, pos=pos, last=last, anchor=anchor)
        if goes_on:
            queue = self.model.talks[lease.conversation_key].operations[lease.queue]
            following = queue[1].id if last and len(queue) > 1 else operation_id
            after = 0 if last else pos + 1
            self.step("begin", lease, following, after, attempt=1, need=6.0, done=done)
        else:
            self.step("release", lease, delay=0.0, failed=False, done=done)

    @precondition(lambda self: self.steps % 3 == 0)
    @precondition(has_lease("outbox", "replies"))
    @rule(choice=CHOICE, offset=OFFSETS)
    def set_dead(self, choice: int, offset: int) -> None:
        lease = self.a_lease(choice, ("outbox", "replies"))
        self.step("set_dead", lease, self.an_op(lease, offset)[0], reason="ñ\ud800")

    @rule(customer=CUSTOMERS, account=st.sampled_from((0, 1)), most=st.sampled_from((1, 100)))
    def view(self, customer: int, account: int, most: int) -> None:
        self.step("view", KEYS.conversation(ACCOUNTS[account], str(customer)), most=most)

    def is_any_aside(self) -> bool:
        """Mostly there is something; now and then there may be nothing."""
        return self.steps % 5 == 0 or bool(self.model.dead_letters())

    @precondition(is_any_aside)
    @rule(customer=st.none() | CUSTOMERS, account=st.sampled_from((0, 1)))
    def dead_letters(self, customer: int | None, account: int) -> None:
        conversation_key = KEYS.conversation(ACCOUNTS[account], str(customer))
        self.step("dead_letters", None if customer is None else conversation_key)

    @precondition(lambda self: self.model.dead_operations)
    @rule(most=st.integers(1, 3))
    def list_some_dead_letters(self, most: int) -> None:
        """Of operations the oldest are told; of events, the store says which."""
        found = self.perform(self.store.dead_letters(most=most))
        expected = self.model.dead_letters(most=1000)
        assert len(found) == min(most, len(expected))
        assert set(found) <= set(expected)
        operations = [one for one in expected if one.queue != "inbox"]
        told = [one for one in found if one.queue != "inbox"]
        assert told == operations[: len(told)]

    @precondition(lambda self: self.model.dead_letters())
    @rule(most=st.integers(1, 3), account=st.none() | st.sampled_from(ACCOUNTS))
    def page_through_dead_letters(self, most: int, account: AccountKey | None) -> None:
        """All of them, each once; those of one queue as they died."""
        found: list[DeadLetter] = []
        page: str | None = ""
        while page is not None:
            told = self.perform(self.store.dead_letter_page(page, account_key=account, most=most))
            found, page = [*found, *told.letters], told.next
        expected = [
            one
            for one in self.model.dead_letters(most=1000)
            if account is None or one.conversation_key.startswith(account)
        ]
        assert len(found) == len(expected)
        for queue in QUEUES:
            for name in {one.conversation_key for one in expected}:
                ours, theirs = (
                    [one for one in each if (one.conversation_key, one.queue) == (name, queue)]
                    for each in (found, expected)
                )
                assert set(ours) == set(theirs)
                assert queue == "inbox" or ours == theirs

    def an_aside(self, choice: int) -> DeadLetter:
        """Mostly one that is a dead letter, else one that was once, or never."""
        found = self.model.dead_letters()
        if choice == 7 or not found:
            found = tuple(self.decided) or (replace(found[0], id=f"{found[0].id}0"),)
        letter = found[choice % len(found)]
        self.decided.append(letter)
        return letter

    @precondition(lambda self: self.model.dead_letters())
    @rule(choice=CHOICE, body=NOTES)
    def requeue(self, choice: int, body: str | None) -> None:
        letter = self.an_aside(choice)
        renewed = self.step("requeue", letter, token=self.token(), body=body)
        if renewed and letter.queue == "inbox":
            self.accepted[self.model.events[renewed].conversation_key].append(renewed)

    @precondition(lambda self: self.model.dead_letters())
    @rule(choice=CHOICE)
    def discard(self, choice: int) -> None:
        self.step("discard", self.an_aside(choice), token=self.token())

    @precondition(lambda self: self.steps % 4 == 0)
    @rule(account=st.sampled_from((0, 0, 1)), customer=CUSTOMERS)
    def forget(self, account: int, customer: int) -> None:
        """Nothing is left of it, and whoever held a lease of it has lost it."""
        conversation_key = KEYS.conversation(ACCOUNTS[account], str(customer))
        names = self.model.names_of(conversation_key)
        held = [
            lease
            for lease in self.leases
            if lease.conversation_key in names and self.model.holds(lease)
        ]
        self.step("forget", conversation_key)
        self.last = None  # nothing is kept any more, which the same call would tell
        for lease in held:
            assert self.perform(self.store.renew(lease)) is None
        self.leases = [lease for lease in self.leases if lease.conversation_key not in names]
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
            while acquired := self.perform(self.store.acquire("inbox", self.token())):
                event_keys = [event.event_key for event in acquired.events]
                commit = Commit(event_keys=event_keys, outcomes={})
                assert self.perform(self.store.commit_turn(acquired.lease, commit)) == "done"
                self.ended[acquired.lease.conversation_key] += event_keys
            assert self.ended == {
                conversation_key: event_keys
                for conversation_key, event_keys in self.accepted.items()
                if event_keys
            }
            self.inspect()
        finally:
            self.loop.run(self.store.aclose())
            self.loop.close()

    def inspect(self) -> None:
        """Look at what the store left behind."""


def test_sqlite_in_memory_does_what_the_model_does() -> None:
    """One connection serves sync and async; after every step its rows agree with each other."""

    class MemoryMachine(StoreMachine):
        def open_store(self) -> EventStore:
            return SQLiteEventStore(":memory:", clock=self.clock, replies_kept=20.0)

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
            path = tmp_path / f"{next(numbers)}.db"
            return SQLiteEventStore(path, clock=self.clock, replies_kept=20.0)

    run_state_machine_as_test(FileMachine, settings=SETTINGS)


def test_redis_does_what_the_model_does(server: RedisServer) -> None:
    """And leaves no key that should have expired, nor lets one expire that is still needed."""

    class RedisMachine(StoreMachine):
        def open_store(self) -> EventStore:
            server.empty()
            return RedisEventStore(server.url, clock=self.clock, replies_kept=20.0)

        def inspect(self) -> None:
            with server.client() as client:
                check_keys(client)

    run_state_machine_as_test(RedisMachine, settings=SETTINGS)
