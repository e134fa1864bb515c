"""Delivering operations: each part noted before it is sent, confirmed once, in order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from langchain_convsync.stores import Backlog, Confirmed, Cursor, EventStore, Lane, Taken
from tests.store_cases import Clock, Do, committed, event, lane_of, turn_of

pytest_plugins = ("tests.store_fixtures",)

FIRST, SECOND = f"{event('1').eid}/0", f"{event('1').eid}/1"
LANES = pytest.mark.parametrize("lane", ["write", "say"])


def begin(store: EventStore, do: Do, taken: Taken, pos: int = 0, attempt: int = 1) -> Cursor:
    """Note that a part of the first operation goes on the wire."""
    step = store.op_begin(taken.lease, FIRST, pos, attempt=attempt, need=6.0)
    cursor: Cursor | None = do(step)
    assert cursor is not None
    return cursor


def test_a_begun_part_is_seen_by_whoever_takes_over(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """It may have been applied, so it has to be verified before it is sent again."""
    committed(store, do)
    taken = lane_of(store, do)
    do(store.op_begin(taken.lease, FIRST, 0, attempt=1, need=6.0, note='{"base": 3}'))
    begun = clock.now
    clock.advance(30.0)

    assert lane_of(store, do, token="other").cursor == Cursor(
        op_id=FIRST, pos=0, sent_at=begun, tries=1, note='{"base": 3}'
    )


def test_a_turn_sees_how_far_its_outbox_has_come(store: EventStore, do: Do) -> None:
    """The overlay of unconfirmed writes starts at the cursor and at the anchor."""
    committed(store, do, writes=2)
    taken = lane_of(store, do)
    do(store.op_done(taken.lease, FIRST, 0, last=True, anchor="{}"))
    do(store.op_begin(taken.lease, SECOND, 0, attempt=1, need=6.0))
    turn = turn_of(store, do, event("2"))

    assert [op.id for op in turn.ops] == [SECOND]
    assert (turn.anchor, turn.cursor and turn.cursor.op_id) == ("{}", SECOND)


def test_a_part_is_confirmed_as_the_next_one_begins(store: EventStore, do: Do) -> None:
    """One step of the store, however often it is repeated."""
    committed(store, do, writes=2)
    taken = lane_of(store, do)
    begin(store, do, taken)
    done = Confirmed(op_id=FIRST, pos=0, last=True, anchor="{}")

    following = store.op_begin(taken.lease, SECOND, 0, attempt=1, need=6.0, done=done)
    cursors = [do(following) for _ in range(2)]
    turn = turn_of(store, do, event("2"))

    assert cursors[0] == cursors[1] == turn.cursor
    assert turn.cursor is not None
    assert (turn.cursor.op_id, turn.cursor.tries) == (SECOND, 1)
    assert ([op.id for op in turn.ops], turn.anchor) == ([SECOND], "{}")


def test_the_last_part_is_confirmed_as_the_lane_is_given_back(store: EventStore, do: Do) -> None:
    """Nothing is left to do for whoever comes next."""
    committed(store, do)
    taken = lane_of(store, do)
    begin(store, do, taken)
    done = Confirmed(op_id=FIRST, pos=0, last=True)

    released = [do(store.release(taken.lease, done=done)) for _ in range(2)]

    assert released == [True, True]
    assert do(store.backlog()).writes == 0
    assert do(store.due("write", taken.lease.cid)) is None


def test_a_zombie_confirms_nothing_along_with_its_next_step(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Whoever took over has the part still to do."""
    committed(store, do, writes=2)
    lost = lane_of(store, do, token="lost").lease
    clock.advance(30.0)
    taken = lane_of(store, do, token="other")
    done = Confirmed(op_id=FIRST, pos=0, last=True, anchor="{}")

    assert do(store.op_begin(lost, SECOND, 0, attempt=1, need=6.0, done=done)) is None
    assert do(store.release(lost, done=done)) is False
    assert do(store.take("write", "other")) == replace(taken, now=clock.now)


def test_a_repeated_begin_keeps_the_time_of_the_first(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """What settles is counted from when the part first went on the wire."""
    committed(store, do)
    taken = lane_of(store, do)
    first = begin(store, do, taken)
    clock.advance(2.0)

    assert begin(store, do, taken) == first


def test_another_attempt_has_a_time_of_its_own(store: EventStore, do: Do, clock: Clock) -> None:
    """And is counted."""
    committed(store, do)
    taken = lane_of(store, do)
    begin(store, do, taken)
    clock.advance(2.0)
    again = begin(store, do, taken, attempt=2)

    assert (again.tries, again.sent_at) == (2, clock.now)


def test_a_begin_renews_a_lease_that_is_too_short(store: EventStore, do: Do, clock: Clock) -> None:
    """A request on the wire never outlives its lease."""
    committed(store, do)
    taken = lane_of(store, do)
    clock.advance(29.0)
    begin(store, do, taken)
    clock.advance(5.9)

    assert do(store.take("write", "other")) is None


def test_a_begin_never_shortens_a_lease(store: EventStore, do: Do, clock: Clock) -> None:
    """What the heartbeat renewed stays renewed."""
    committed(store, do)
    begin(store, do, lane_of(store, do))
    clock.advance(29.9)

    assert do(store.take("write", "other")) is None


@LANES
def test_confirmed_parts_move_the_cursor_and_the_last_one_the_queue(
    store: EventStore, do: Do, lane: Lane
) -> None:
    """An append has one part per message; the next operation starts afresh."""
    committed(store, do, writes=2, says=2)
    taken = do(store.take(lane, "worker"))
    do(store.op_begin(taken.lease, FIRST, 0, attempt=3, need=6.0, note="about part 0"))
    do(store.op_done(taken.lease, FIRST, 0, last=False, anchor="after 0"))
    part = do(store.take(lane, "worker"))
    do(store.op_done(taken.lease, FIRST, 1, last=True))
    rest = do(store.take(lane, "worker"))

    assert part.cursor == Cursor(op_id=FIRST, pos=1)
    assert [op.id for op in rest.ops] == [SECOND]
    assert (rest.cursor, rest.anchor) == (None, "after 0")


def test_a_repeated_confirmation_is_done_again_and_moves_nothing(store: EventStore, do: Do) -> None:
    """The answer lost on the wire skips no message."""
    committed(store, do, writes=2)
    taken = lane_of(store, do)
    parts = [do(store.op_done(taken.lease, FIRST, 0, last=False)) for _ in range(2)]
    ops = [do(store.op_done(taken.lease, FIRST, 1, last=True)) for _ in range(2)]

    assert parts + ops == ["done"] * 4
    assert do(store.backlog()).writes == 1


def test_what_another_process_confirmed_is_already_done(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """The slow process does not send it again."""
    committed(store, do, writes=2)
    slow = lane_of(store, do, token="slow")
    clock.advance(30.0)
    fast = lane_of(store, do, token="fast")
    do(store.op_done(fast.lease, FIRST, 0, last=False))

    assert do(store.op_done(slow.lease, FIRST, 0, last=False)) == "already"
    assert do(store.op_retry(slow.lease, FIRST, 0, delay=0.0, sent=True)) == "already"
    assert do(store.op_begin(slow.lease, FIRST, 0, attempt=1, need=6.0)) is None


def test_a_lost_lease_moves_nothing(store: EventStore, do: Do, clock: Clock) -> None:
    """Every step of a zombie is fenced."""
    committed(store, do)
    lost = lane_of(store, do, token="lost").lease
    clock.advance(30.0)
    taken = lane_of(store, do, token="other")

    assert do(store.op_begin(lost, FIRST, 0, attempt=1, need=6.0)) is None
    assert do(store.op_done(lost, FIRST, 0, last=True)) == "fenced"
    assert do(store.op_retry(lost, FIRST, 0, delay=0.0, sent=False)) == "fenced"
    assert do(store.op_park(lost, FIRST, reason="no")) == "fenced"
    assert do(store.release(lost)) is False
    assert do(store.take("write", "other")) == replace(taken, now=clock.now)


def test_a_part_that_surely_was_not_applied_is_simply_sent_again(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """After its delay, without verification."""
    committed(store, do)
    taken = lane_of(store, do)
    begin(store, do, taken)
    do(store.op_retry(taken.lease, FIRST, 0, delay=2.0, sent=False))
    do(store.release(taken.lease))
    early = do(store.take("write", "b"))
    clock.advance(2.0)
    later = lane_of(store, do, token="c")

    assert early is None
    assert later.cursor == Cursor(op_id=FIRST, pos=0, sent_at=None, tries=1)


def test_a_part_that_may_have_been_applied_keeps_its_time(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """And what the deliverer noted about it."""
    committed(store, do)
    taken = lane_of(store, do)
    sent_at = begin(store, do, taken).sent_at
    do(store.op_retry(taken.lease, FIRST, 0, delay=2.0, sent=True, note="502"))
    clock.advance(2.0)

    assert begin(store, do, taken) == Cursor(
        op_id=FIRST, pos=0, sent_at=sent_at, tries=1, note="502"
    )


def test_a_confirmation_ends_the_delay(store: EventStore, do: Do) -> None:
    """The next operation does not wait for the last one's retry."""
    committed(store, do, writes=2)
    taken = lane_of(store, do)
    do(store.op_retry(taken.lease, FIRST, 0, delay=60.0, sent=True))
    do(store.op_done(taken.lease, FIRST, 0, last=True))
    do(store.release(taken.lease))

    assert lane_of(store, do, token="next").ops[0].id == SECOND


@LANES
def test_a_parked_operation_takes_the_rest_of_its_turn_along(
    store: EventStore, do: Do, lane: Lane
) -> None:
    """Later turns proceed, and an operator decides about this one."""
    committed(store, do, "1", writes=3, says=3)
    committed(store, do, "2", writes=1, says=1)
    taken = do(store.take(lane, "worker"))
    do(store.op_done(taken.lease, FIRST, 0, last=True))
    parked = [do(store.op_park(taken.lease, SECOND, reason="gone")) for _ in range(2)]
    rest = do(store.take(lane, "worker"))

    assert parked == ["done", "done"]
    assert [op.id for op in rest.ops] == [f"{event('2').eid}/0"]
    left = {"writes": 4, "says": 4} | {f"{lane}s": 1}
    assert do(store.backlog()) == Backlog(parked=2, **left)


def test_parking_ends_the_delay_and_the_cursor(store: EventStore, do: Do) -> None:
    """The next turn's first operation starts afresh."""
    committed(store, do, "1", writes=1)
    committed(store, do, "2", writes=1)
    taken = lane_of(store, do)
    begin(store, do, taken)
    do(store.op_retry(taken.lease, FIRST, 0, delay=60.0, sent=True))
    do(store.op_park(taken.lease, FIRST, reason="gone"))
    do(store.release(taken.lease))

    assert lane_of(store, do, token="next").cursor is None


def test_parking_what_left_the_queue_is_already_done(store: EventStore, do: Do) -> None:
    """Nobody parks what was confirmed."""
    committed(store, do, writes=2)
    taken = lane_of(store, do)
    do(store.op_done(taken.lease, FIRST, 0, last=True))

    assert do(store.op_park(taken.lease, FIRST, reason="late")) == "already"
    assert do(store.backlog()) == Backlog(writes=1)


def test_a_lease_on_the_turn_lane_delivers_nothing(store: EventStore, do: Do) -> None:
    """A turn and its predecessor's writes are worked on side by side."""
    committed(store, do, "1")
    turn = turn_of(store, do, event("2"))

    with pytest.raises(ValueError, match="write or the say lane"):
        do(store.op_done(turn.lease, FIRST, 0, last=True))
