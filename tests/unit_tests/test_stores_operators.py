"""What operators see of a store, and decide: nothing is taken, nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from langchain_convsync._flow import Io
from langchain_convsync.stores import (
    AcceptRules,
    Backlog,
    Commit,
    DeadLetter,
    EventStore,
    Lease,
    RedisEventStore,
    SQLiteEventStore,
)
from tests.redis_server import RedisServer
from tests.store_cases import (
    FIRST,
    Clock,
    Do,
    commit_of,
    committed,
    conversation,
    event,
    queue_of,
    turn_of,
)
from tests.store_checks import check_keys
from tests.stored import redis_records, sqlite_records

pytest_plugins = ("tests.store_fixtures",)


def dead_operation(
    store: EventStore, do: Do, source: str = "1", *, confirmed: int = 0
) -> DeadLetter:
    """A turn's write, a dead letter after so many of its parts."""
    committed(store, do, source)
    acquired = queue_of(store, do, token=f"worker {source}")
    operation_id = acquired.operations[0].id
    for pos in range(confirmed):
        assert do(store.confirm(acquired.lease, operation_id, pos, last=False)) == "done"
    assert do(store.begin(acquired.lease, operation_id, confirmed, attempt=1, need=6.0))
    assert do(store.set_dead(acquired.lease, operation_id, reason="no idea")) == "done"
    do(store.release(acquired.lease))
    letter: DeadLetter = do(store.dead_letters(conversation()))[-1]
    return letter


def dead(store: EventStore, do: Do, source: str = "1") -> DeadLetter:
    """An event whose agent could not answer."""
    acquired = turn_of(store, do, event(source), token=f"turn {source}")
    commit = commit_of(acquired, dead=True, fact='"failed"')
    assert do(store.commit_turn(acquired.lease, commit)) == "done"
    letter: DeadLetter = do(store.dead_letters(conversation()))[-1]
    return letter


def test_what_is_set_aside_is_listed_oldest_first(store: EventStore, do: Do, clock: Clock) -> None:
    """Parked operations tell how far they came, dead letters when they arrived."""
    start = clock.now
    one = dead_operation(store, do, "1", confirmed=2)
    clock.advance(5.0)
    other = dead(store, do, "2")

    expected = DeadLetter(
        conversation_key=conversation(),
        queue="outbox",
        id=FIRST,
        body="write 0",
        reason="no idea",
        since=start,
        pos=2,
        sent_at=start,
        tries=1,
    )
    assert one == expected
    assert (other.queue, other.since, other.tries) == ("inbox", start + 5.0, 1)
    assert (other.id, other.body) == (event("2").event_key, '{"text": "Hola"}')
    for conversation_key in (None, conversation()):
        assert do(store.dead_letters(conversation_key)) == (one, other)
        assert do(store.dead_letters(conversation_key, most=1)) == (one,)
    assert do(store.dead_letters(conversation("eva"))) == ()


def test_a_look_takes_nothing_and_tells_why_it_waits(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """An alias stands for its conversation; nothing is counted as a start."""
    committed(store, do, "1", writes=2, replies=1)
    do(store.accept(event("2", alias="lid"), AcceptRules(debounce=3.0, max_debounce=9.0)))
    write = queue_of(store, do)
    do(store.begin(write.lease, FIRST, 0, attempt=2, need=6.0))
    do(store.pause(conversation(), seconds=60.0))

    seen = do(store.view(conversation("lid")))

    assert (seen.conversation_key, seen.turns, seen.paused_until) == (
        conversation(),
        1,
        clock.now + 60.0,
    )
    assert [(queued.event_key, queued.starts) for queued in seen.events] == [
        (event("2").event_key, 0)
    ]
    assert (seen.inbox.depth, seen.inbox.due_in, seen.inbox.held_until) == (1, 3.0, None)
    assert (seen.outbox.depth, seen.outbox.held_until) == (2, write.lease.until)
    assert seen.outbox.cursor is not None
    assert (seen.outbox.cursor.operation_id, seen.outbox.cursor.tries) == (FIRST, 2)
    assert [operation.body for operation in seen.outbox.operations] == ["write 0", "write 1"]
    assert (seen.replies.depth, seen.replies.due_in) == (1, 0.0)
    assert do(store.view(conversation("lid"))) == seen
    assert len(do(store.view(conversation(), most=1)).outbox.operations) == 1


def test_a_dead_letter_goes_to_the_end_of_its_queue_once(store: EventStore, do: Do) -> None:
    """Whoever asks, and how often; what is left of it to do is the caller's word."""
    letter = dead_operation(store, do, "1")
    committed(store, do, "2")

    renewed = do(store.requeue(letter, token="mine", body="the rest"))
    again = do(store.requeue(letter, token="mine", body="the rest"))
    other = do(store.requeue(letter, token="another"))

    assert (renewed, again, other) == (renewed, renewed, None)
    assert renewed != FIRST
    assert renewed.startswith(f"{event('1').event_key}/")
    queue = do(store.view(conversation())).outbox.operations
    assert [operation.body for operation in queue] == ["write 0", "the rest"]
    assert queue[-1].id == renewed
    assert do(store.backlog()) == Backlog(writes=2)


def test_a_dead_letter_is_queued_again_as_new(store: EventStore, do: Do, clock: Clock) -> None:
    """Its message that is offered again is a duplicate still."""
    letter = dead(store, do, "1")
    clock.advance(8 * 24 * 3600.0)  # the conversation was idle for long

    renewed = do(store.requeue(letter, token="mine"))
    other = do(store.requeue(letter, token="another"))

    (queued,) = do(store.acquire("inbox", "worker")).events
    assert (queued.event_key, other) == (renewed, None)
    assert (queued.payload, queued.accepted_at) == ('{"text": "Hola"}', clock.now)
    assert (queued.starts, queued.errors) == (1, 0)  # this take
    repeated = do(store.accept(event("1")))
    assert (repeated.status, repeated.state) == ("duplicate", "done")
    assert repeated.outcome == '"failed"'
    assert do(store.backlog()) == Backlog(queued=1)


@pytest.mark.parametrize("make", [dead_operation, dead])
def test_what_is_discarded_is_gone_once(
    store: EventStore, do: Do, make: Callable[[EventStore, Do], DeadLetter]
) -> None:
    """Nobody can give it back afterwards."""
    letter = make(store, do)

    assert do(store.discard(letter, token="mine"))
    assert do(store.discard(letter, token="mine"))
    assert not do(store.discard(letter, token="another"))
    assert do(store.requeue(letter, token="third")) is None
    assert do(store.dead_letters()) == ()
    assert do(store.backlog()) == Backlog()
    assert do(store.accept(event("1"))).state == "done"


def test_what_is_set_aside_under_an_alias_goes_to_where_it_leads(store: EventStore, do: Do) -> None:
    """The customer's LID turned out to be their phone number."""
    letter = dead_operation(store, do)
    committed(store, do, "9", customer="eva", writes=0)
    do(store.alias(conversation(), conversation("eva")))
    assert do(store.dead_letters(conversation())) == (letter,)
    assert do(store.dead_letters(conversation("eva"))) == ()

    do(store.requeue(letter, token="mine"))

    assert do(store.acquire("outbox", "worker")).lease.conversation_key == conversation("eva")


def filled(store: EventStore, do: Do) -> list[Lease]:
    """Something of everything, and the leases that are held meanwhile."""
    dead(store, do, "words of the dead")
    dead_operation(store, do, "1")
    do(store.accept(event("2", alias="lid")))
    turn = do(store.acquire("inbox", "t"))
    commit = commit_of(turn, writes=1, replies=1, snapshot="words", snapshot_ttl=99.0)
    do(store.commit_turn(turn.lease, commit))
    do(store.accept(event("3")))
    leases = [
        do(store.acquire(queue, f"own {queue}")).lease for queue in ("inbox", "outbox", "replies")
    ]
    do(store.pause(conversation(), seconds=60.0))
    return leases


def test_a_forgotten_conversation_leaves_nothing_and_fences_its_workers(
    store: EventStore, do: Do
) -> None:
    """Other conversations do not notice."""
    leases = filled(store, do)
    do(store.accept(event("4", customer="eva")))
    turn = do(store.view(conversation()))
    assert len(turn.events) == 1

    do(store.forget(conversation("lid")))  # an alias stands for it

    for lease in leases:
        assert do(store.renew(lease)) is None
        assert not do(store.release(lease))
    commit = Commit(event_keys=[queued.event_key for queued in turn.events], outcomes={})
    assert do(store.commit_turn(leases[0], commit)) == "fenced"
    seen = do(store.view(conversation()))
    assert (seen.turns, seen.paused_until, seen.inbox.depth, seen.outbox.depth) == (0, None, 0, 0)
    assert do(store.dead_letters()) == ()
    assert do(store.backlog()) == Backlog(queued=1)
    assert do(store.accept(event("1"))).status == "new"
    assert do(store.view(conversation("lid"))).conversation_key == conversation("lid")


def test_nothing_of_a_forgotten_conversation_is_left_in_the_file(tmp_path: Path, do: Do) -> None:
    """Neither words nor keys."""
    path = tmp_path / "events.db"
    store = SQLiteEventStore(path)
    filled(store, do)
    do(store.forget(conversation()))
    do(Io(store.close, store.aclose))

    left = [(table, row) for table, row in sqlite_records(path) if table != "meta"]
    assert left == []


def test_nothing_of_a_forgotten_conversation_is_left_in_redis(server: RedisServer, do: Do) -> None:
    """Neither words nor keys; and the counters are right."""
    store = RedisEventStore(server.url)
    filled(store, do)
    do(store.forget(conversation()))
    do(Io(store.close, store.aclose))

    left = {key for key, _ in redis_records(server)}
    assert {key.split(":", 2)[-1] for key in left} <= {"meta", "count"}
    with server.client() as client:
        check_keys(client)


def test_redis_lists_by_what_is_left_when_the_oldest_is_decided(
    server: RedisServer, do: Do, clock: Clock
) -> None:
    """Another conversation's may be older by now; an idle one has expired meanwhile."""
    store = RedisEventStore(server.url, clock=clock)
    letter, first = dead(store, do, "0"), dead_operation(store, do, "1")
    clock.advance(5.0)
    committed(store, do, "2", customer="eva")
    other = queue_of(store, do, token="another worker")
    do(store.set_dead(other.lease, other.operations[0].id, reason="no idea"))
    clock.advance(5.0)
    dead_operation(store, do, "3")
    with server.client() as client:
        client.delete(f"cs:{{s{conversation()[:2]}}}:c:{conversation()}")
        do(store.requeue(first, token="mine"))
        do(store.requeue(letter, token="mine too"))
        check_keys(client)
    (oldest,) = do(store.dead_letters(most=1))
    acquired = do(store.acquire("inbox", "worker"))
    do(Io(store.close, store.aclose))

    assert oldest.conversation_key == conversation("eva")
    assert [queued.payload for queued in acquired.events] == [letter.body]


@pytest.mark.parametrize("most", [0, 1001])
def test_a_listing_is_bounded(store: EventStore, most: int) -> None:
    """Nobody loads a whole store by accident."""
    for ask in (store.dead_letters, lambda most: store.view(conversation(), most=most)):
        with pytest.raises(ValueError, match="ask for 1 to 1000"):
            ask(most=most).block()


def test_a_decision_needs_a_token(store: EventStore, do: Do) -> None:
    """Without one a lost answer could not be told from another caller's."""
    letter = dead_operation(store, do)
    for decide in (store.requeue, store.discard):
        with pytest.raises(ValueError, match="new_token"):
            decide(letter, token="")
