"""What operators see of a store, and decide: nothing is taken, nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from langchain_convsync._flow import Io
from langchain_convsync.stores import (
    Backlog,
    Commit,
    EventStore,
    Lease,
    RedisEventStore,
    SetAside,
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
    lane_of,
    turn_of,
)
from tests.store_checks import check_keys
from tests.stored import redis_records, sqlite_records

pytest_plugins = ("tests.store_fixtures",)


def parked(store: EventStore, do: Do, source: str = "1", *, confirmed: int = 0) -> SetAside:
    """A turn's write, set aside after so many of its parts."""
    committed(store, do, source)
    taken = lane_of(store, do, token=f"worker {source}")
    op_id = taken.ops[0].id
    for pos in range(confirmed):
        assert do(store.op_done(taken.lease, op_id, pos, last=False)) == "done"
    assert do(store.op_begin(taken.lease, op_id, confirmed, attempt=1, need=6.0))
    assert do(store.op_park(taken.lease, op_id, reason="no idea")) == "done"
    do(store.release(taken.lease))
    aside: SetAside = do(store.set_aside(conversation()))[-1]
    return aside


def dead(store: EventStore, do: Do, source: str = "1") -> SetAside:
    """An event whose agent could not answer."""
    taken = turn_of(store, do, event(source), token=f"turn {source}")
    assert do(store.commit_turn(taken.lease, commit_of(taken, dead=True))) == "done"
    aside: SetAside = do(store.set_aside(conversation()))[-1]
    return aside


def test_what_is_set_aside_is_listed_oldest_first(store: EventStore, do: Do, clock: Clock) -> None:
    """Parked operations tell how far they came, dead letters when they arrived."""
    start = clock.now
    one = parked(store, do, "1", confirmed=2)
    clock.advance(5.0)
    other = dead(store, do, "2")

    expected = SetAside(
        cid=conversation(),
        lane="write",
        id=FIRST,
        body="write 0",
        reason="no idea",
        since=start,
        pos=2,
        sent_at=start,
        tries=1,
    )
    assert one == expected
    assert (other.lane, other.since, other.tries) == ("turn", start + 5.0, 1)
    assert (other.id, other.body) == (event("2").eid, '{"text": "Hola"}')
    for cid in (None, conversation()):
        assert do(store.set_aside(cid)) == (one, other)
        assert do(store.set_aside(cid, most=1)) == (one,)
    assert do(store.set_aside(conversation("eva"))) == ()


def test_a_look_takes_nothing_and_tells_why_it_waits(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """An alias stands for its conversation; nothing is counted as a start."""
    committed(store, do, "1", writes=2, says=1)
    do(store.accept(event("2", alias="lid"), quiet=3.0, max_quiet=9.0))
    write = lane_of(store, do)
    do(store.op_begin(write.lease, FIRST, 0, attempt=2, need=6.0))
    do(store.pause(conversation(), seconds=60.0))

    seen = do(store.view(conversation("lid")))

    assert (seen.cid, seen.turns, seen.paused_until) == (conversation(), 1, clock.now + 60.0)
    assert [(queued.eid, queued.starts) for queued in seen.events] == [(event("2").eid, 0)]
    assert (seen.turn.depth, seen.turn.due_in, seen.turn.held_until) == (1, 3.0, None)
    assert (seen.write.depth, seen.write.held_until) == (2, write.lease.until)
    assert seen.write.cursor is not None
    assert (seen.write.cursor.op_id, seen.write.cursor.tries) == (FIRST, 2)
    assert [op.body for op in seen.write.ops] == ["write 0", "write 1"]
    assert (seen.say.depth, seen.say.due_in) == (1, 0.0)
    assert do(store.view(conversation("lid"))) == seen
    assert len(do(store.view(conversation(), most=1)).write.ops) == 1


def test_a_parked_operation_goes_to_the_end_of_its_queue_once(store: EventStore, do: Do) -> None:
    """Whoever asks, and how often; what is left of it to do is the caller's word."""
    aside = parked(store, do, "1")
    committed(store, do, "2")

    renewed = do(store.requeue(aside, token="mine", body="the rest"))
    again = do(store.requeue(aside, token="mine", body="the rest"))
    other = do(store.requeue(aside, token="another"))

    assert (renewed, again, other) == (renewed, renewed, None)
    assert renewed != FIRST
    assert renewed.startswith(f"{event('1').eid}/")
    queue = do(store.view(conversation())).write.ops
    assert [op.body for op in queue] == ["write 0", "the rest"]
    assert queue[-1].id == renewed
    assert do(store.backlog()) == Backlog(writes=2)


def test_a_dead_letter_is_queued_again_as_new(store: EventStore, do: Do, clock: Clock) -> None:
    """Its message that is offered again is a duplicate still."""
    aside = dead(store, do, "1")
    clock.advance(8 * 24 * 3600.0)  # the conversation was idle for long

    renewed = do(store.requeue(aside, token="mine"))
    other = do(store.requeue(aside, token="another"))

    (queued,) = do(store.take("turn", "worker")).events
    assert (queued.eid, other) == (renewed, None)
    assert (queued.payload, queued.accepted_at) == ('{"text": "Hola"}', clock.now)
    assert (queued.starts, queued.errors) == (1, 0)  # this take
    repeated = do(store.accept(event("1")))
    assert (repeated.status, repeated.state) == ("duplicate", "done")
    assert repeated.outcome == '"answered"'
    assert do(store.backlog()) == Backlog(queued=1)


@pytest.mark.parametrize("make", [parked, dead])
def test_what_is_discarded_is_gone_once(
    store: EventStore, do: Do, make: Callable[[EventStore, Do], SetAside]
) -> None:
    """Nobody can give it back afterwards."""
    aside = make(store, do)

    assert do(store.discard(aside, token="mine"))
    assert do(store.discard(aside, token="mine"))
    assert not do(store.discard(aside, token="another"))
    assert do(store.requeue(aside, token="third")) is None
    assert do(store.set_aside()) == ()
    assert do(store.backlog()) == Backlog()
    assert do(store.accept(event("1"))).state == "done"


def test_what_is_set_aside_under_an_alias_goes_to_where_it_leads(store: EventStore, do: Do) -> None:
    """The customer's LID turned out to be their phone number."""
    aside = parked(store, do)
    do(store.link(conversation(), conversation("eva")))
    assert do(store.set_aside(conversation())) == (aside,)
    assert do(store.set_aside(conversation("eva"))) == ()

    do(store.requeue(aside, token="mine"))

    assert do(store.take("write", "worker")).lease.cid == conversation("eva")


def filled(store: EventStore, do: Do) -> list[Lease]:
    """Something of everything, and the leases that are held meanwhile."""
    dead(store, do, "words of the dead")
    parked(store, do, "1")
    do(store.accept(event("2", alias="lid")))
    turn = do(store.take("turn", "t"))
    commit = commit_of(turn, writes=1, says=1, snapshot="words", snapshot_ttl=99.0)
    do(store.commit_turn(turn.lease, commit))
    do(store.accept(event("3")))
    leases = [do(store.take(lane, f"own {lane}")).lease for lane in ("turn", "write", "say")]
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
        assert do(store.beat(lease)) is None
        assert not do(store.release(lease))
    commit = Commit(eids=[queued.eid for queued in turn.events], outcomes={})
    assert do(store.commit_turn(leases[0], commit)) == "fenced"
    seen = do(store.view(conversation()))
    assert (seen.turns, seen.paused_until, seen.turn.depth, seen.write.depth) == (0, None, 0, 0)
    assert do(store.set_aside()) == ()
    assert do(store.backlog()) == Backlog(queued=1)
    assert do(store.accept(event("1"))).status == "new"
    assert do(store.view(conversation("lid"))).cid == conversation("lid")


def test_nothing_of_a_forgotten_conversation_is_left_in_the_file(tmp_path: Path, do: Do) -> None:
    """Neither words nor handles."""
    path = tmp_path / "events.db"
    store = SQLiteEventStore(path)
    filled(store, do)
    do(store.forget(conversation()))
    do(Io(store.close, store.aclose))

    left = [(table, row) for table, row in sqlite_records(path) if table != "meta"]
    assert left == []


def test_nothing_of_a_forgotten_conversation_is_left_in_redis(server: RedisServer, do: Do) -> None:
    """Neither words nor handles; and the counters are right."""
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
    letter, first = dead(store, do, "0"), parked(store, do, "1")
    clock.advance(5.0)
    committed(store, do, "2", customer="eva")
    other = lane_of(store, do, token="another worker")
    do(store.op_park(other.lease, other.ops[0].id, reason="no idea"))
    clock.advance(5.0)
    parked(store, do, "3")
    with server.client() as client:
        client.delete(f"cs:{{s{conversation()[:2]}}}:c:{conversation()}")
        do(store.requeue(first, token="mine"))
        do(store.requeue(letter, token="mine too"))
        check_keys(client)
    (oldest,) = do(store.set_aside(most=1))
    taken = do(store.take("turn", "worker"))
    do(Io(store.close, store.aclose))

    assert oldest.cid == conversation("eva")
    assert [queued.payload for queued in taken.events] == [letter.body]


@pytest.mark.parametrize("most", [0, 1001])
def test_a_listing_is_bounded(store: EventStore, most: int) -> None:
    """Nobody loads a whole store by accident."""
    for ask in (store.set_aside, lambda most: store.view(conversation(), most=most)):
        with pytest.raises(ValueError, match="ask for 1 to 1000"):
            ask(most=most).block()


def test_a_decision_needs_a_token(store: EventStore, do: Do) -> None:
    """Without one a lost answer could not be told from another caller's."""
    aside = parked(store, do)
    for decide in (store.requeue, store.discard):
        with pytest.raises(ValueError, match="new_token"):
            decide(aside, token="")
