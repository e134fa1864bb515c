"""Events, commits and a clock for the tests of the stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from langchain_convsync._flow import Io
from langchain_convsync.stores import (
    Commit,
    Confirmed,
    EventStore,
    Handles,
    Lane,
    NewEvent,
    Op,
    SetAside,
    Taken,
)

T = TypeVar("T")
HANDLES = Handles(b"a test's secret")
#: Performs a store's step in the colour under test.
Do: TypeAlias = Callable[[Io[Any]], Any]


class Clock:
    """A store's clock that moves only when told."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def conversation(customer: str = "ana", account: str = "ventas") -> str:
    return HANDLES.conversation(account, customer)


def event(
    source: str = "1",
    *,
    customer: str = "ana",
    account: str = "ventas",
    alias: str | None = None,
    payload: str = '{"text": "Hola"}',
    digest: str = "hola",
) -> NewEvent:
    """A message of a customer; the same source id is the same message."""
    return NewEvent(
        eid=HANDLES.event(account, "message", source),
        cid=conversation(customer, account),
        alias=None if alias is None else conversation(alias, account),
        digest=digest,
        payload=payload,
    )


def commit_of(taken: Taken, *, writes: int = 0, says: int = 0, **options: Any) -> Commit:
    """A commit that answers the whole inbox, with so many operations."""
    eids = [queued.eid for queued in taken.events]
    return Commit(
        eids=eids,
        outcomes=options.pop("outcomes", {eids[0]: '"answered"'}),
        ops=[Op(id=f"{eids[0]}/{n}", body=f"write {n}") for n in range(writes)],
        says=[Op(id=f"{eids[0]}/{n}", body=f"say {n}") for n in range(says)],
        **options,
    )


def turn_of(store: EventStore, do: Do, new: NewEvent, token: str = "turn") -> Taken:
    """Accept an event and take its turn lane."""
    taken: Taken | None = do(store.accept(new, token=token)).taken
    assert taken is not None
    return taken


def committed(
    store: EventStore,
    do: Do,
    source: str = "1",
    *,
    writes: int = 1,
    says: int = 0,
    customer: str = "ana",
) -> Taken:
    """A whole turn, which leaves so many operations behind."""
    taken = turn_of(store, do, event(source, customer=customer), token=f"turn {source}")
    assert do(store.commit_turn(taken.lease, commit_of(taken, writes=writes, says=says))) == "done"
    return taken


def lane_of(store: EventStore, do: Do, lane: Lane = "write", token: str = "worker") -> Taken:
    """Take a lane that has work."""
    taken: Taken | None = do(store.take(lane, token))
    assert taken is not None
    return taken


def blocking(io: Io[Any]) -> Any:
    """The blocking colour, where the test is not about colours."""
    return io.block()


FIRST, SECOND = (f"{event('1').eid}/{index}" for index in range(2))


def ready(store: EventStore) -> Any:
    """A store with a turn's two writes, one event queued, and leases on both lanes."""
    committed(store, blocking, "1", writes=2)
    write = lane_of(store, blocking, "write", "w").lease
    taken = store.accept(event("2"), token="t").block().taken
    assert taken is not None
    return write, taken


def aside_in(store: EventStore, has: Any) -> SetAside:
    """The operation at the head, parked."""
    store.op_park(has[0], FIRST, reason="test").block()
    return SetAside(cid=conversation(), lane="write", id=FIRST, body="", since=0.0)


def dead_in(store: EventStore, has: Any) -> SetAside:
    """The queued event, a dead letter."""
    store.commit_turn(has[1].lease, commit_of(has[1], dead=True)).block()
    eid = has[1].events[0].eid
    return SetAside(cid=conversation(), lane="turn", id=eid, body="", since=0.0)


CALLS: dict[str, Callable[[EventStore, Any], Io[Any]]] = {
    "accept": lambda store, _: store.accept(event("3", customer="eva")),
    "accept and take": lambda store, _: store.accept(event("3", customer="eva"), token="mine"),
    "take": lambda store, _: store.take("write", "mine"),
    "take one": lambda store, _: store.take("write", "mine", cid=conversation()),
    "beat": lambda store, has: store.beat(has[0]),
    "commit": lambda store, has: store.commit_turn(has[1].lease, commit_of(has[1], writes=1)),
    "begin": lambda store, has: store.op_begin(has[0], FIRST, 0, attempt=1, need=6.0),
    "begin the next": lambda store, has: store.op_begin(
        has[0], SECOND, 0, attempt=1, need=6.0, done=Confirmed(op_id=FIRST, pos=0, last=True)
    ),
    "done": lambda store, has: store.op_done(has[0], FIRST, 0, last=True),
    "done and release": lambda store, has: store.release(
        has[0], done=Confirmed(op_id=FIRST, pos=0, last=True)
    ),
    "retry": lambda store, has: store.op_retry(has[0], FIRST, 0, delay=1.0, sent=True),
    "park": lambda store, has: store.op_park(has[0], FIRST, reason="test"),
    "hear": lambda store, _: store.hear(conversation(), "echo"),
    "amend": lambda store, has: store.amend(has[1].events[0].eid, has[1].events[0].payload, "{}"),
    "pause": lambda store, _: store.pause(conversation(), seconds=60.0),
    "link": lambda store, _: store.link(conversation("lid"), conversation()),
    "due": lambda store, _: store.due("write", conversation()),
    "backlog": lambda store, _: store.backlog(),
    "release": lambda store, has: store.release(has[1].lease, failed=True),
    "loads": lambda store, _: store.loads(),
    "view": lambda store, _: store.view(conversation()),
    "set aside": lambda store, _: store.set_aside(),
    "requeue": lambda store, has: store.requeue(aside_in(store, has), token="mine"),
    "requeue a letter": lambda store, has: store.requeue(dead_in(store, has), token="mine"),
    "discard": lambda store, has: store.discard(aside_in(store, has), token="mine"),
    "discard a letter": lambda store, has: store.discard(dead_in(store, has), token="mine"),
}
