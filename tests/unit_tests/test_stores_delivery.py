"""Delivering operations: each part noted before it is sent, confirmed once, in order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from langchain_convsync.stores import Acquired, Backlog, Confirmed, Cursor, EventStore, QueueName
from tests.store_cases import Clock, Do, committed, event, queue_of, turn_of

pytest_plugins = ("tests.store_fixtures",)

FIRST, SECOND = f"{event('1').event_key}/0", f"{event('1').event_key}/1"
QUEUES = pytest.mark.parametrize("queue", ["outbox", "replies"])


def begin(store: EventStore, do: Do, acquired: Acquired, pos: int = 0, attempt: int = 1) -> Cursor:
    """Note that a part of the first operation goes on the wire."""
    step = store.begin(acquired.lease, FIRST, pos, attempt=attempt, need=6.0)
    cursor: Cursor | None = do(step)
    assert cursor is not None
    return cursor


def test_a_begun_part_is_seen_by_the_worker_that_takes_over(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """It may have been applied, so it has to be verified before it is sent again."""
    committed(store, do)
    acquired = queue_of(store, do)
    do(store.begin(acquired.lease, FIRST, 0, attempt=1, need=6.0, note='{"base": 3}'))
    begun = clock.now
    clock.advance(30.0)

    assert queue_of(store, do, token="other").cursor == Cursor(
        operation_id=FIRST, pos=0, sent_at=begun, tries=1, note='{"base": 3}'
    )


def test_a_turn_sees_how_far_its_outbox_has_come(store: EventStore, do: Do) -> None:
    """The overlay of unconfirmed writes starts at the cursor and at the anchor."""
    committed(store, do, writes=2)
    acquired = queue_of(store, do)
    do(store.confirm(acquired.lease, FIRST, 0, last=True, anchor="{}"))
    do(store.begin(acquired.lease, SECOND, 0, attempt=1, need=6.0))
    turn = turn_of(store, do, event("2"))

    assert [operation.id for operation in turn.operations] == [SECOND]
    assert (turn.anchor, turn.cursor and turn.cursor.operation_id) == ("{}", SECOND)


def test_a_part_is_confirmed_as_the_next_one_begins(store: EventStore, do: Do) -> None:
    """One step of the store, however often it is repeated."""
    committed(store, do, writes=2)
    acquired = queue_of(store, do)
    begin(store, do, acquired)
    done = Confirmed(operation_id=FIRST, pos=0, last=True, anchor="{}")

    following = store.begin(acquired.lease, SECOND, 0, attempt=1, need=6.0, done=done)
    cursors = [do(following) for _ in range(2)]
    turn = turn_of(store, do, event("2"))

    assert cursors[0] == cursors[1] == turn.cursor
    assert turn.cursor is not None
    assert (turn.cursor.operation_id, turn.cursor.tries) == (SECOND, 1)
    assert ([operation.id for operation in turn.operations], turn.anchor) == ([SECOND], "{}")


def test_the_last_part_is_confirmed_as_the_queue_is_released(store: EventStore, do: Do) -> None:
    """Nothing is left to do for whoever comes next."""
    committed(store, do)
    acquired = queue_of(store, do)
    begin(store, do, acquired)
    done = Confirmed(operation_id=FIRST, pos=0, last=True)

    released = [do(store.release(acquired.lease, done=done)) for _ in range(2)]

    assert released == [True, True]
    assert do(store.backlog()).writes == 0
    assert do(store.due("outbox", acquired.lease.conversation_key)) is None


def test_a_zombie_confirms_nothing_along_with_its_next_step(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Whoever took over has the part still to do."""
    committed(store, do, writes=2)
    lost = queue_of(store, do, token="lost").lease
    clock.advance(30.0)
    acquired = queue_of(store, do, token="other")
    done = Confirmed(operation_id=FIRST, pos=0, last=True, anchor="{}")

    assert do(store.begin(lost, SECOND, 0, attempt=1, need=6.0, done=done)) is None
    assert do(store.release(lost, done=done)) is False
    assert do(store.acquire("outbox", "other")) == replace(acquired, now=clock.now)


def test_a_repeated_begin_keeps_the_time_of_the_first(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """What settles is counted from when the part first went on the wire."""
    committed(store, do)
    acquired = queue_of(store, do)
    first = begin(store, do, acquired)
    clock.advance(2.0)

    assert begin(store, do, acquired) == first


def test_another_attempt_has_a_time_of_its_own(store: EventStore, do: Do, clock: Clock) -> None:
    """And is counted."""
    committed(store, do)
    acquired = queue_of(store, do)
    begin(store, do, acquired)
    clock.advance(2.0)
    again = begin(store, do, acquired, attempt=2)

    assert (again.tries, again.sent_at) == (2, clock.now)


def test_a_begin_renews_a_lease_that_is_too_short(store: EventStore, do: Do, clock: Clock) -> None:
    """A request on the wire never outlives its lease."""
    committed(store, do)
    acquired = queue_of(store, do)
    clock.advance(29.0)
    begin(store, do, acquired)
    clock.advance(5.9)

    assert do(store.acquire("outbox", "other")) is None


def test_a_begin_never_shortens_a_lease(store: EventStore, do: Do, clock: Clock) -> None:
    """What the heartbeat renewed stays renewed."""
    committed(store, do)
    begin(store, do, queue_of(store, do))
    clock.advance(29.9)

    assert do(store.acquire("outbox", "other")) is None


@QUEUES
def test_confirmed_parts_move_the_cursor_and_the_last_one_the_queue(
    store: EventStore, do: Do, queue: QueueName
) -> None:
    """An append has one part per message; the next operation starts afresh."""
    committed(store, do, writes=2, replies=2)
    acquired = do(store.acquire(queue, "worker"))
    do(store.begin(acquired.lease, FIRST, 0, attempt=3, need=6.0, note="about part 0"))
    do(store.confirm(acquired.lease, FIRST, 0, last=False, anchor="after 0"))
    part = do(store.acquire(queue, "worker"))
    do(store.confirm(acquired.lease, FIRST, 1, last=True))
    rest = do(store.acquire(queue, "worker"))

    assert part.cursor == Cursor(operation_id=FIRST, pos=1)
    assert [operation.id for operation in rest.operations] == [SECOND]
    assert (rest.cursor, rest.anchor) == (None, "after 0")


def test_a_repeated_confirmation_is_done_again_and_moves_nothing(store: EventStore, do: Do) -> None:
    """The answer lost on the wire skips no message."""
    committed(store, do, writes=2)
    acquired = queue_of(store, do)
    parts = [do(store.confirm(acquired.lease, FIRST, 0, last=False)) for _ in range(2)]
    operations = [do(store.confirm(acquired.lease, FIRST, 1, last=True)) for _ in range(2)]

    assert parts + operations == ["done"] * 4
    assert do(store.backlog()).writes == 1


def test_what_another_process_confirmed_is_already_done(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """The slow process does not send it again."""
    committed(store, do, writes=2)
    slow = queue_of(store, do, token="slow")
    clock.advance(30.0)
    fast = queue_of(store, do, token="fast")
    do(store.confirm(fast.lease, FIRST, 0, last=False))

    assert do(store.confirm(slow.lease, FIRST, 0, last=False)) == "already"
    assert do(store.retry(slow.lease, FIRST, 0, delay=0.0, sent=True)) == "already"
    assert do(store.begin(slow.lease, FIRST, 0, attempt=1, need=6.0)) is None


def test_a_lost_lease_moves_nothing(store: EventStore, do: Do, clock: Clock) -> None:
    """Every step of a zombie is fenced."""
    committed(store, do)
    lost = queue_of(store, do, token="lost").lease
    clock.advance(30.0)
    acquired = queue_of(store, do, token="other")

    assert do(store.begin(lost, FIRST, 0, attempt=1, need=6.0)) is None
    assert do(store.confirm(lost, FIRST, 0, last=True)) == "fenced"
    assert do(store.retry(lost, FIRST, 0, delay=0.0, sent=False)) == "fenced"
    assert do(store.set_dead(lost, FIRST, reason="no")) == "fenced"
    assert do(store.release(lost)) is False
    assert do(store.acquire("outbox", "other")) == replace(acquired, now=clock.now)


def test_a_part_that_surely_was_not_applied_is_simply_sent_again(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """After its delay, without verification."""
    committed(store, do)
    acquired = queue_of(store, do)
    begin(store, do, acquired)
    do(store.retry(acquired.lease, FIRST, 0, delay=2.0, sent=False))
    do(store.release(acquired.lease))
    early = do(store.acquire("outbox", "b"))
    clock.advance(2.0)
    later = queue_of(store, do, token="c")

    assert early is None
    assert later.cursor == Cursor(operation_id=FIRST, pos=0, sent_at=None, tries=1)


def test_a_part_that_may_have_been_applied_keeps_its_time(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """And what the deliverer noted about it."""
    committed(store, do)
    acquired = queue_of(store, do)
    sent_at = begin(store, do, acquired).sent_at
    do(store.retry(acquired.lease, FIRST, 0, delay=2.0, sent=True, note="502"))
    clock.advance(2.0)

    assert begin(store, do, acquired) == Cursor(
        operation_id=FIRST, pos=0, sent_at=sent_at, tries=1, note="502"
    )


def test_a_confirmation_ends_the_delay(store: EventStore, do: Do) -> None:
    """The next operation does not wait for the last one's retry."""
    committed(store, do, writes=2)
    acquired = queue_of(store, do)
    do(store.retry(acquired.lease, FIRST, 0, delay=60.0, sent=True))
    do(store.confirm(acquired.lease, FIRST, 0, last=True))
    do(store.release(acquired.lease))

    assert queue_of(store, do, token="next").operations[0].id == SECOND


@QUEUES
def test_a_dead_letter_takes_the_rest_of_its_turn_along(
    store: EventStore, do: Do, queue: QueueName
) -> None:
    """Later turns proceed, and an operator decides about this one."""
    committed(store, do, "1", writes=3, replies=3)
    committed(store, do, "2", writes=1, replies=1)
    acquired = do(store.acquire(queue, "worker"))
    do(store.confirm(acquired.lease, FIRST, 0, last=True))
    outcomes = [do(store.set_dead(acquired.lease, SECOND, reason="gone")) for _ in range(2)]
    rest = do(store.acquire(queue, "worker"))

    assert outcomes == ["done", "done"]
    assert [operation.id for operation in rest.operations] == [f"{event('2').event_key}/0"]
    left = {"writes": 4, "replies": 4} | {"writes" if queue == "outbox" else "replies": 1}
    assert do(store.backlog()) == Backlog(dead_letters=2, **left)


def test_a_dead_letter_ends_the_delay_and_the_cursor(store: EventStore, do: Do) -> None:
    """The next turn's first operation starts afresh."""
    committed(store, do, "1", writes=1)
    committed(store, do, "2", writes=1)
    acquired = queue_of(store, do)
    begin(store, do, acquired)
    do(store.retry(acquired.lease, FIRST, 0, delay=60.0, sent=True))
    do(store.set_dead(acquired.lease, FIRST, reason="gone"))
    do(store.release(acquired.lease))

    assert queue_of(store, do, token="next").cursor is None


def test_a_dead_letter_that_left_the_queue_is_already_done(store: EventStore, do: Do) -> None:
    """What was confirmed cannot become a dead letter."""
    committed(store, do, writes=2)
    acquired = queue_of(store, do)
    do(store.confirm(acquired.lease, FIRST, 0, last=True))

    assert do(store.set_dead(acquired.lease, FIRST, reason="late")) == "already"
    assert do(store.backlog()) == Backlog(writes=1)


def test_a_lease_on_the_inbox_delivers_nothing(store: EventStore, do: Do) -> None:
    """A turn and its predecessor's writes are worked on side by side."""
    committed(store, do, "1")
    turn = turn_of(store, do, event("2"))

    with pytest.raises(ValueError, match="write or the reply queue"):
        do(store.confirm(turn.lease, FIRST, 0, last=True))
