"""Leases: who may work on what, for how long, and in whose turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from langchain_convsync._flow import run
from langchain_convsync.stores import AcceptRules, EventStore, NewEvent, SQLiteEventStore
from langchain_convsync.stores.heartbeat import Watch
from tests.store_cases import (
    Clock,
    Do,
    commit_of,
    committed,
    conversation,
    event,
    queue_of,
    turn_of,
)

pytest_plugins = ("tests.store_fixtures",)


def test_an_empty_store_has_nothing_to_take(store: EventStore, do: Do) -> None:
    """A worker that finds nothing is told so at once."""
    assert do(store.acquire("inbox", "a")) is None
    assert do(store.acquire("outbox", "b", conversation_key=conversation())) is None


def test_a_claim_is_found_by_its_claimer_only(store: EventStore, do: Do, clock: Clock) -> None:
    """A worker could do nothing with it: what is claimed is code in a webhook somewhere."""
    key = do(store.keys()).claim("once", "evt_1")
    claimed = NewEvent(event_key=key, conversation_key=key)
    do(store.accept(claimed, AcceptRules(lease=1.0), token="dies"))
    clock.advance(2.0)

    assert do(store.acquire("inbox", "worker")) is None
    assert do(store.accept(claimed, token="next")).acquired is not None


def test_a_leased_queue_is_no_other_workers(store: EventStore, do: Do, clock: Clock) -> None:
    """Two workers never run one conversation at once."""
    turn_of(store, do, event())
    clock.advance(29.999)

    assert do(store.acquire("inbox", "other")) is None
    assert do(store.acquire("inbox", "other", conversation_key=conversation())) is None


def test_a_lapsed_lease_is_taken_over(store: EventStore, do: Do, clock: Clock) -> None:
    """The process that held it is dead, or so slow that its work is discarded."""
    lost = turn_of(store, do, event()).lease
    clock.advance(30.0)
    acquired = queue_of(store, do, "inbox", token="other")

    assert (acquired.lease.epoch, acquired.lease.token) == (2, "other")
    assert do(store.renew(lost)) is None
    assert do(store.commit_turn(lost, commit_of(acquired))) == "fenced"


def test_a_lapsed_lease_still_serves_until_it_is_taken_over(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Work that nobody repeated need not be discarded."""
    acquired = turn_of(store, do, event())
    clock.advance(100.0)

    assert do(store.commit_turn(acquired.lease, commit_of(acquired))) == "done"


def test_a_beat_renews_the_lease(store: EventStore, do: Do, clock: Clock) -> None:
    """A slow agent keeps its conversation."""
    lease = turn_of(store, do, event()).lease
    clock.advance(20.0)
    renewed = do(store.renew(lease, seconds=30.0))
    clock.advance(29.0)

    assert renewed == replace(lease, until=clock.now + 1.0)
    assert do(store.acquire("inbox", "other")) is None


def test_a_beat_never_shortens_a_lease(store: EventStore, do: Do) -> None:
    """Whatever a request on the wire needs of it stays."""
    lease = turn_of(store, do, event()).lease

    assert do(store.renew(lease, seconds=1.0)) == lease


@pytest.mark.parametrize("forged", [{"token": "stolen"}, {"epoch": 2}])
def test_token_and_epoch_are_compared_together(
    store: EventStore, do: Do, forged: dict[str, Any]
) -> None:
    """A conversation that was forgotten starts at epoch 1 again; the token tells them apart."""
    acquired = turn_of(store, do, event())
    foreign = replace(acquired.lease, **forged)

    assert do(store.renew(foreign)) is None
    assert do(store.release(foreign)) is False
    assert do(store.commit_turn(foreign, commit_of(acquired))) == "fenced"


def test_the_same_take_again_answers_the_same_lease(store: EventStore, do: Do) -> None:
    """With and without a conversation named: the lost answer named it."""
    do(store.accept(event()))
    first = do(store.acquire("inbox", "mine"))

    assert do(store.acquire("inbox", "mine")) == first
    assert do(store.acquire("inbox", "mine", conversation_key=conversation())) == first


def test_a_take_counts_a_start_and_a_release_takes_it_back(store: EventStore, do: Do) -> None:
    """So starts that were not given back are crashes."""
    first = turn_of(store, do, event(), token="a")
    do(store.release(first.lease))
    second = do(store.acquire("inbox", "b"))

    assert first.events[0].starts == second.events[0].starts == 1


def test_a_crash_leaves_its_start_counted(store: EventStore, do: Do, clock: Clock) -> None:
    """An event that kills its process is recognised in the end."""
    turn_of(store, do, event(), token="a")
    clock.advance(30.0)

    assert queue_of(store, do, "inbox").events[0].starts == 2


def test_a_failed_release_counts_an_error_and_waits(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """An agent that failed is tried again later."""
    first = turn_of(store, do, event())
    do(store.release(first.lease, delay=5.0, failed=True))
    early = do(store.acquire("inbox", "b"))
    clock.advance(5.0)
    head = queue_of(store, do, "inbox").events[0]

    assert early is None
    assert (head.starts, head.errors) == (1, 1)


def test_a_release_is_safe_to_repeat(store: EventStore, do: Do) -> None:
    """The error is counted once, and a later owner is left alone."""
    lost = turn_of(store, do, event(), token="a").lease
    answers = [do(store.release(lost, failed=True)) for _ in range(2)]
    acquired = queue_of(store, do, "inbox", token="b")

    assert answers == [True, True]
    assert do(store.release(lost, failed=True)) is False
    assert (acquired.lease.epoch, acquired.events[0].errors) == (2, 1)
    assert do(store.acquire("inbox", "c")) is None


def test_the_queues_of_a_conversation_are_independent(store: EventStore, do: Do) -> None:
    """A new turn does not wait for an old turn's writes, nor a reply for either."""
    committed(store, do, "1", writes=1, replies=1)
    write, reply = queue_of(store, do, "outbox", "w"), queue_of(store, do, "replies", "s")
    turn = turn_of(store, do, event("2"))

    assert [operation.body for operation in write.operations] == ["write 0"]
    assert [operation.body for operation in reply.operations] == ["say 0"]
    assert [operation.body for operation in turn.operations] == ["write 0"]
    assert (turn.turns, turn.lease.epoch) == (1, 2)


def test_within_an_account_the_longest_due_comes_first(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Order of arrival, not of names."""
    for customer in ("c", "a", "b"):
        do(store.accept(event(customer, customer=customer)))
        clock.advance(1.0)
    conversation_keys = [
        queue_of(store, do, "inbox", token=str(n)).lease.conversation_key for n in range(3)
    ]

    assert conversation_keys == [conversation(customer) for customer in ("c", "a", "b")]


def test_accounts_take_turns(store: EventStore, do: Do, clock: Clock) -> None:
    """A tenant with a thousand waiting customers cannot starve one with two."""
    for n in range(20):
        do(store.accept(event(str(n), customer=str(n), account="busy")))
        clock.advance(0.001)
    for n in range(2):
        do(store.accept(event(str(n), customer=str(n), account="calm")))
        do(store.accept(event(str(n), customer=str(n), account="slow")))
    accounts = [
        queue_of(store, do, "inbox", token=str(n)).lease.conversation_key[:15] for n in range(6)
    ]

    for three in (accounts[:3], accounts[3:]):
        assert len(set(three)) == 3


def test_accounts_take_turns_within_one_shard_too(store: EventStore, do: Do, clock: Clock) -> None:
    """However the accounts are spread over the shards."""
    shard = conversation("x", "busy")[:2]
    twin = next(name for n in range(9999) if conversation("x", name := f"account {n}")[:2] == shard)
    for n in range(3):
        do(store.accept(event(str(n), customer=str(n), account="busy")))
    clock.advance(1.0)
    for n in range(3):
        do(store.accept(event(str(n), customer=str(n), account=twin)))
    accounts = []
    for n in range(6):
        clock.advance(0.001)
        accounts.append(queue_of(store, do, "inbox", token=str(n)).lease.conversation_key[:15])

    assert accounts == [conversation("x", "busy")[:15], conversation("x", twin)[:15]] * 3


def test_a_delayed_account_does_not_hold_up_others(store: EventStore, do: Do, clock: Clock) -> None:
    """Forty conversations that wait hide none that is due."""
    for n in range(40):
        do(
            store.accept(
                event(str(n), customer=str(n), account="busy"),
                AcceptRules(debounce=60.0, max_debounce=60.0),
            )
        )
    clock.advance(1.0)
    do(store.accept(event("1", account="calm")))

    assert queue_of(store, do, "inbox").lease.conversation_key == conversation(account="calm")


@pytest.mark.parametrize("how", ["renewed", "delayed"])
def test_work_that_is_put_off_hides_none_behind_it(
    store: EventStore, do: Do, clock: Clock, how: str
) -> None:
    """A lease that was renewed, and a write to be tried later, step back in the queue."""
    for n in (1, 2):
        acquired = turn_of(store, do, event(str(n), customer=str(n)), token=str(n))
        do(store.commit_turn(acquired.lease, commit_of(acquired, writes=1)))
    first = queue_of(store, do, token="a")
    second = queue_of(store, do, token="b")
    if how == "renewed":
        do(store.renew(first.lease, seconds=100.0))
    else:
        do(store.retry(first.lease, first.operations[0].id, 0, delay=100.0, sent=True))
    clock.advance(30.0)

    assert queue_of(store, do, token="c").lease.conversation_key == second.lease.conversation_key


def test_a_conversation_without_work_is_not_acquired(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Not even when a lease on it lapsed after its work was done."""
    committed(store, do, writes=1)
    acquired = queue_of(store, do)
    do(store.confirm(acquired.lease, acquired.operations[0].id, 0, last=True))
    clock.advance(100.0)

    assert do(store.acquire("outbox", "other")) is None
    assert do(store.acquire("outbox", "other", conversation_key=conversation())) is None


def test_a_queue_says_when_it_can_be_acquired(store: EventStore, do: Do, clock: Clock) -> None:
    """After a lease and a delay, whichever is later; never without work."""
    committed(store, do, writes=1)
    seen = [do(store.due("outbox", conversation()))]
    acquired = queue_of(store, do)
    seen.append(do(store.due("outbox", conversation())))
    do(store.retry(acquired.lease, acquired.operations[0].id, 0, delay=45.0, sent=True))
    seen.append(do(store.due("outbox", conversation())))
    do(store.release(acquired.lease, delay=0.5))
    clock.advance(44.5)
    seen.append(do(store.due("outbox", conversation())))
    clock.advance(10.0)
    seen.append(do(store.due("outbox", conversation())))

    assert seen == [0.0, 30.0, 45.0, 0.5, 0.0]
    assert do(store.due("inbox", conversation())) is None


def test_an_empty_queues_delay_is_kept_for_what_comes(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """A breaker that delays a queue holds for the next turn's writes as well."""
    committed(store, do, "1", writes=1)
    acquired = queue_of(store, do)
    do(store.confirm(acquired.lease, acquired.operations[0].id, 0, last=True))
    do(store.release(acquired.lease, delay=10.0))
    committed(store, do, "2", writes=1)
    early = do(store.acquire("outbox", "b"))
    clock.advance(10.0)

    assert early is None
    assert do(store.acquire("outbox", "c")) is not None


@pytest.mark.parametrize("lease", [30.0, 5.0])
def test_a_lease_is_renewed_until_its_deadline_and_not_beyond(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, lease: float
) -> None:
    """Work that hangs gives its conversation up: the deadline is past, and one lease more."""
    store = SQLiteEventStore(":memory:", clock=clock)
    run(store.accept(event()))
    acquired = run(store.acquire("inbox", "hangs", lease=lease))
    assert acquired is not None
    ticks = [0.0]
    monkeypatch.setattr("langchain_convsync.stores.heartbeat.monotonic", lambda: ticks[0])
    watch = Watch(store, acquired.lease, seconds=lease, deadline=130.0)
    others: list[float] = []
    while not watch.lost and ticks[0] < 300.0:
        ticks[0] += 1.0
        clock.advance(1.0)
        if ticks[0] >= watch.next_renewal:
            run(watch.renew())
        if not others and run(store.acquire("inbox", "next", lease=lease)) is not None:
            others.append(ticks[0])

    assert watch.lost
    assert 130.0 - lease / 3 <= others[0] <= 130.0 + lease
    store.close()
