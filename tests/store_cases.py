"""Events, commits and a clock for the tests of the stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from langchain_convsync._flow import Io
from langchain_convsync.stores import (
    Acquired,
    Commit,
    Confirmed,
    DeadLetter,
    EventStore,
    Keys,
    NewEvent,
    Operation,
    QueueName,
)

T = TypeVar("T")
KEYS = Keys(b"a test's secret")
#: Performs a store's step sync or async, as the test wants it.
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
    return KEYS.conversation(account, customer)


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
        event_key=KEYS.event(account, customer, "message", source),
        conversation_key=conversation(customer, account),
        aliases=() if alias is None else (conversation(alias, account),),
        digest=digest,
        payload=payload,
    )


def commit_of(acquired: Acquired, *, writes: int = 0, replies: int = 0, **options: Any) -> Commit:
    """A commit that answers the whole inbox, with so many operations."""
    event_keys = [queued.event_key for queued in acquired.events]
    return Commit(
        event_keys=event_keys,
        outcomes=options.pop("outcomes", {event_keys[0]: '"answered"'}),
        operations=[Operation(id=f"{event_keys[0]}/{n}", body=f"write {n}") for n in range(writes)],
        replies=[Operation(id=f"{event_keys[0]}/{n}", body=f"say {n}") for n in range(replies)],
        **options,
    )


def turn_of(store: EventStore, do: Do, new: NewEvent, token: str = "turn") -> Acquired:
    """Accept an event and take its inbox."""
    acquired: Acquired | None = do(store.accept(new, token=token)).acquired
    assert acquired is not None
    return acquired


def committed(
    store: EventStore,
    do: Do,
    source: str = "1",
    *,
    writes: int = 1,
    replies: int = 0,
    customer: str = "ana",
) -> Acquired:
    """A whole turn, which leaves so many operations behind."""
    acquired = turn_of(store, do, event(source, customer=customer), token=f"turn {source}")
    assert (
        do(store.commit_turn(acquired.lease, commit_of(acquired, writes=writes, replies=replies)))
        == "done"
    )
    return acquired


def queue_of(
    store: EventStore, do: Do, queue: QueueName = "outbox", token: str = "worker"
) -> Acquired:
    """Take a queue that has work."""
    acquired: Acquired | None = do(store.acquire(queue, token))
    assert acquired is not None
    return acquired


def blocking(io: Io[Any]) -> Any:
    """Blocking, where the test is not about sync and async."""
    return io.block()


FIRST, SECOND = (f"{event('1').event_key}/{index}" for index in range(2))


def ready(store: EventStore) -> Any:
    """A store with a turn's two writes, one event queued, and leases on both queues."""
    committed(store, blocking, "1", writes=2)
    write = queue_of(store, blocking, "outbox", "w").lease
    acquired = store.accept(event("2"), token="t").block().acquired
    assert acquired is not None
    return write, acquired


def aside_in(store: EventStore, has: Any) -> DeadLetter:
    """The operation at the head, a dead letter."""
    store.set_dead(has[0], FIRST, reason="test").block()
    return DeadLetter(conversation_key=conversation(), queue="outbox", id=FIRST, body="", since=0.0)


def dead_in(store: EventStore, has: Any) -> DeadLetter:
    """The queued event, a dead letter."""
    store.commit_turn(has[1].lease, commit_of(has[1], dead=True)).block()
    event_key = has[1].events[0].event_key
    return DeadLetter(
        conversation_key=conversation(), queue="inbox", id=event_key, body="", since=0.0
    )


CALLS: dict[str, Callable[[EventStore, Any], Io[Any]]] = {
    "accept": lambda store, _: store.accept(event("3", customer="eva")),
    "accept and acquire": lambda store, _: store.accept(event("3", customer="eva"), token="mine"),
    "account": lambda store, _: store.account(KEYS.account("ventas", "n=1"), "n=1"),
    "accounts": lambda store, _: store.accounts(),
    "find": lambda store, _: store.find(KEYS.account("ventas"), "source", "n=1"),
    "acquire": lambda store, _: store.acquire("outbox", "mine"),
    "acquire one": lambda store, _: store.acquire(
        "outbox", "mine", conversation_key=conversation()
    ),
    "renew": lambda store, has: store.renew(has[0]),
    "commit": lambda store, has: store.commit_turn(has[1].lease, commit_of(has[1], writes=1)),
    "begin call": lambda store, has: store.begin_call(
        has[1].lease, [has[1].events[0].event_key], "charge", token="run"
    ),
    "end call": lambda store, has: store.end_call(
        has[1].lease, has[1].events[0].event_key, "charge", token="run", result="charged"
    ),
    "take a call back": lambda store, has: store.end_call(
        has[1].lease, has[1].events[0].event_key, "charge", token="run", result=None
    ),
    "begin": lambda store, has: store.begin(has[0], FIRST, 0, attempt=1, need=6.0),
    "begin the next": lambda store, has: store.begin(
        has[0], SECOND, 0, attempt=1, need=6.0, done=Confirmed(operation_id=FIRST, pos=0, last=True)
    ),
    "confirm": lambda store, has: store.confirm(has[0], FIRST, 0, last=True),
    "confirm and release": lambda store, has: store.release(
        has[0], done=Confirmed(operation_id=FIRST, pos=0, last=True)
    ),
    "retry": lambda store, has: store.retry(has[0], FIRST, 0, delay=1.0, sent=True),
    "set dead": lambda store, has: store.set_dead(has[0], FIRST, reason="test"),
    "record echo": lambda store, _: store.record_echo(conversation(), "echo"),
    "amend": lambda store, has: store.amend(
        has[1].events[0].event_key, has[1].events[0].payload, "{}"
    ),
    "pause": lambda store, _: store.pause(conversation(), seconds=60.0),
    "alias": lambda store, _: store.alias(conversation("lid"), conversation()),
    "due": lambda store, _: store.due("outbox", conversation()),
    "backlog": lambda store, _: store.backlog(),
    "upcoming": lambda store, _: store.upcoming([conversation()]),
    "release": lambda store, has: store.release(has[1].lease, failed=True),
    "release with a reason": lambda store, has: store.release(has[0], delay=1.0, why="away"),
    "loads": lambda store, _: store.loads(),
    "view": lambda store, _: store.view(conversation()),
    "dead letters": lambda store, _: store.dead_letters(),
    "dead letter page": lambda store, _: store.dead_letter_page(),
    "requeue": lambda store, has: store.requeue(aside_in(store, has), token="mine"),
    "requeue a letter": lambda store, has: store.requeue(dead_in(store, has), token="mine"),
    "discard": lambda store, has: store.discard(aside_in(store, has), token="mine"),
    "discard a letter": lambda store, has: store.discard(dead_in(store, has), token="mine"),
}
