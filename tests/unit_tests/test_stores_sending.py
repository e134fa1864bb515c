"""Whether an account sends, and how fast: one answer for all processes."""

from __future__ import annotations

import pytest

from langchain_convsync.stores.base import AccountKey, EventStore, Lease
from tests.store_cases import Clock, Do, commit_of, conversation, event, turn_of

pytest_plugins = ("tests.store_fixtures",)

ACCOUNT = AccountKey(conversation()[:15])
WHY = "WAHA's session is STOPPED"


def replies(store: EventStore, do: Do, *customers: str, account: str = "ventas") -> None:
    """A reply waits for each of them."""
    for customer in customers:
        new = event(customer, customer=customer, account=account)
        acquired = turn_of(store, do, new, token=f"turn {new.event_key}")
        done = do(store.commit_turn(acquired.lease, commit_of(acquired, writes=1, replies=1)))
        assert done == "done"


def lease_of(store: EventStore, do: Do, token: str, *, seconds: float = 30.0) -> Lease:
    lease: Lease = do(store.acquire("replies", token, lease=seconds)).lease
    return lease


def restrict(store: EventStore, do: Do, seconds: float, kind: str = "session") -> None:
    do(store.restrict(ACCOUNT, kind=kind, seconds=seconds, why=WHY))


def test_no_reply_of_a_restricted_account_is_acquired(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """By name or not; its writes, and what another account says, go on."""
    replies(store, do, "ana", "eva")
    replies(store, do, "ana", account="cocina")
    restrict(store, do, 60.0)

    assert do(store.acquire("replies", "1", conversation_key=conversation())) is None
    assert do(store.due("replies", conversation())) == 60.0
    other = do(store.acquire("replies", "2"))
    assert other.lease.conversation_key == conversation(account="cocina")
    assert do(store.acquire("replies", "3")) is None
    assert do(store.acquire("outbox", "4", conversation_key=conversation())) is not None
    [told] = do(store.restrictions())
    assert (told.kind, told.why, told.until) == ("session", WHY, clock.now + 60.0)
    assert do(store.view(conversation())).restriction == told


def test_when_it_ends_one_reply_shows_whether_it_is_over(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """The others wait for it; as long as its lease lasts, if its process dies."""
    replies(store, do, "ana", "eva", "luz")
    restrict(store, do, 60.0)
    since = clock.now
    clock.advance(60.0)
    trial = do(store.acquire("replies", "1", lease=30.0))

    assert trial.restriction.since == since
    assert do(store.acquire("replies", "2")) is None
    clock.advance(30.0)
    another = do(store.acquire("replies", "2"))
    assert another.restriction.since == since
    assert do(store.acquire("replies", "3")) is None
    do(store.release(another.lease))
    assert do(store.acquire("replies", "3")) is not None


def test_nothing_is_begun_once_the_account_is_restricted(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Not by a worker either that had its queue before; but by the one that shows if it is over."""
    replies(store, do, "ana")
    acquired = do(store.acquire("replies", "1"))
    operation = acquired.operations[0].id
    restrict(store, do, 10.0)
    begun = do(store.begin(acquired.lease, operation, 0, attempt=1, need=5.0))
    do(store.release(acquired.lease))
    clock.advance(10.0)
    trial = do(store.acquire("replies", "2"))

    assert begun is None
    assert do(store.begin(trial.lease, operation, 0, attempt=1, need=5.0)).tries == 1


def test_only_the_one_that_tried_it_lifts_it(store: EventStore, do: Do, clock: Clock) -> None:
    """What another process has learned meanwhile counts."""
    replies(store, do, "ana", "eva")
    restrict(store, do, 0.0)
    trial = do(store.acquire("replies", "1"))
    restrict(store, do, 60.0, "timelock")
    do(store.lift(ACCOUNT, token=trial.lease.token))
    still = do(store.restrictions())
    clock.advance(60.0)
    trial = do(store.acquire("replies", "2"))
    do(store.lift(ACCOUNT, kind="session"))
    do(store.lift(ACCOUNT, token=trial.lease.token))

    assert [each.kind for each in still] == ["timelock"]
    assert do(store.restrictions()) == ()
    assert do(store.acquire("replies", "3")).restriction is None


def test_a_shorter_restriction_of_another_kind_ends_none(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """A session that starts again does not end WhatsApp's lock."""
    restrict(store, do, 3600.0, "timelock")
    restrict(store, do, 30.0)

    [told] = do(store.restrictions())
    assert (told.kind, told.until) == ("timelock", clock.now + 3600.0)


def sent(store: EventStore, do: Do, customer: str, *, account: str = "ventas") -> None:
    """The customer has had a message, and another reply waits for them."""
    replies(store, do, customer, account=account)
    key = conversation(customer, account=account)
    acquired = do(store.acquire("replies", "before", conversation_key=key))
    operation = acquired.operations[0].id
    do(store.begin(acquired.lease, operation, 0, attempt=1, need=5.0))
    assert do(store.confirm(acquired.lease, operation, 0, last=True, anchor="[]")) == "done"
    do(store.release(acquired.lease))
    new = event(f"{customer} again", customer=customer, account=account)
    turn = turn_of(store, do, new, token=f"turn {new.event_key}")
    do(store.commit_turn(turn.lease, commit_of(turn, replies=1)))


def test_a_cap_of_new_chats_holds_first_contacts_alone(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Whoever has had a message goes on, also behind them; and shows nothing of the cap."""
    sent(store, do, "eva")
    replies(store, do, "ana", "luz")
    restrict(store, do, 60.0, "capping")
    known = do(store.acquire("replies", "1"))
    operation = known.operations[0].id

    assert known.lease.conversation_key == conversation("eva")
    assert known.restriction is None
    assert do(store.begin(known.lease, operation, 0, attempt=1, need=5.0)) is not None
    assert do(store.acquire("replies", "2")) is None
    assert do(store.acquire("replies", "2", conversation_key=conversation("ana"))) is None
    assert do(store.due("replies", conversation("ana"))) == 60.0
    assert do(store.view(conversation("eva"))).restriction is None
    assert do(store.view(conversation("ana"))).restriction.kind == "capping"
    clock.advance(60.0)
    trial = do(store.acquire("replies", "2", conversation_key=conversation("ana")))
    assert trial.restriction.kind == "capping"
    assert do(store.acquire("replies", "3", conversation_key=conversation("luz"))) is None


def test_an_account_whose_first_contacts_wait_keeps_no_other_account_waiting(
    store: EventStore, do: Do
) -> None:
    """However long they do."""
    replies(store, do, "ana", "luz")
    replies(store, do, "ana", account="cocina")
    restrict(store, do, 60.0, "capping")

    other = do(store.acquire("replies", "1"))
    assert other.lease.conversation_key == conversation("ana", account="cocina")


def test_a_cap_gives_way_to_what_holds_everything_and_ends_none_of_it(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """A locked account sends to no one, however long it is capped; until that is tried."""
    replies(store, do, "ana")
    restrict(store, do, 3600.0, "capping")
    restrict(store, do, 30.0, "timelock")
    restrict(store, do, 3600.0, "capping")
    [before] = do(store.restrictions())
    clock.advance(30.0)
    do(store.acquire("replies", "1"))
    restrict(store, do, 60.0, "capping")
    [after] = do(store.restrictions())

    assert (before.kind, before.until) == ("timelock", clock.now)
    assert (after.kind, after.until) == ("capping", clock.now + 60.0)


def test_one_that_nothing_has_tried_is_forgotten_after_a_day(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Nobody writes there any more, and no alert goes on for ever."""
    restrict(store, do, 30.0)
    clock.advance(24 * 3600.0 + 30.0)

    assert do(store.restrictions()) == ()


def test_messages_of_an_account_keep_their_distance(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Whoever sends them; each waits for a time of its own, in the order of asking."""
    replies(store, do, "ana", "eva", "luz")
    leases = [lease_of(store, do, name) for name in ("1", "2", "3")]

    def waits() -> list[float]:
        return [do(store.pace(lease, lease.token, spacing={"any": 5.0})) for lease in leases]

    assert waits() == [0.0, 5.0, 10.0]
    assert waits() == [0.0, 5.0, 10.0]
    clock.advance(5.0)
    del leases[0]
    assert waits() == [0.0, 5.0]


def test_no_two_go_at_once_after_all_have_waited_for_long(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """An account that could not send for an hour would send all of it in a second."""
    replies(store, do, "ana", "eva", "luz")
    leases = [lease_of(store, do, name, seconds=7200.0) for name in ("1", "2", "3")]
    spacing = {"any": 5.0}
    for lease in leases:
        do(store.pace(lease, lease.token, spacing=spacing))
    clock.advance(3600.0)

    waits = [do(store.pace(lease, f"{lease.token}+", spacing=spacing)) for lease in leases]
    assert waits == [0.0, 5.0, 10.0]


def test_a_message_of_two_kinds_waits_for_both(store: EventStore, do: Do, clock: Clock) -> None:
    """First contacts are counted apart, and count among all."""
    replies(store, do, "ana", "eva")
    ana, eva = (lease_of(store, do, name) for name in ("1", "2"))
    first = {"any": 5.0, "first": 60.0}

    assert do(store.pace(ana, "a", spacing=first)) == 0.0
    assert do(store.pace(eva, "b", spacing=first)) == 60.0
    clock.advance(5.0)
    assert do(store.pace(ana, "c", spacing={"any": 5.0})) == 60.0
    assert do(store.pace(ana, "c", spacing={})) == 60.0


def test_whoever_lost_the_queue_sends_nothing(store: EventStore, do: Do, clock: Clock) -> None:
    """Another process is at it."""
    replies(store, do, "ana")
    lease = lease_of(store, do, "1")
    clock.advance(60.0)
    lease_of(store, do, "2")

    assert do(store.pace(lease, "a", spacing={"any": 5.0})) is None


@pytest.mark.parametrize("kind", ["", "a b", "ñ"])
def test_a_kind_is_a_word(store: EventStore, do: Do, kind: str) -> None:
    """It is a metric's label."""
    with pytest.raises(ValueError, match="is not a word"):
        restrict(store, do, 1.0, kind)
