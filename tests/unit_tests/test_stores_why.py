"""What a store tells of work that waits: why, since when, who has it; and its dead letters, all."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from langchain_convsync._flow import Io, run
from langchain_convsync.stores import Acquired, Confirmed, DeadLetter, EventStore, SQLiteEventStore
from langchain_convsync.stores.base import LONGEST_WHY, AccountKey
from langchain_convsync.turns import operators
from tests.store_cases import (
    FIRST,
    SECOND,
    Clock,
    Do,
    blocking,
    commit_of,
    committed,
    conversation,
    event,
    queue_of,
    turn_of,
)

pytest_plugins = ("tests.store_fixtures",)
AWAY = "the API server does not answer: APITimeoutError"


def test_why_an_event_waits_is_told_since_it_was_told_first(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Whoever has it meanwhile; another reason begins anew."""
    start, told = clock.now, []
    for why in (AWAY, AWAY, "a human has it"):
        do(store.accept(event("1")))
        acquired = queue_of(store, do, "inbox", why + str(clock.now))
        held = do(store.view(conversation())).inbox
        told.append((held.why, held.since, held.held_since))
        do(store.release(acquired.lease, why=why))
        clock.advance(10.0)

    waits = do(store.view(conversation())).inbox

    assert told == [(None, None, start), (AWAY, start, start + 10), (AWAY, start, start + 20)]
    assert (waits.why, waits.since, waits.held_since) == ("a human has it", start + 20, None)


def commit(store: EventStore, acquired: Acquired) -> Io[Any]:
    return store.commit_turn(acquired.lease, commit_of(acquired))


def release(store: EventStore, acquired: Acquired) -> Io[Any]:
    return store.release(acquired.lease)


def confirm(store: EventStore, acquired: Acquired) -> Io[Any]:
    return store.confirm(acquired.lease, FIRST, 0, last=True)


def confirm_a_part(store: EventStore, acquired: Acquired) -> Io[Any]:
    return store.confirm(acquired.lease, FIRST, 0, last=False)


def set_dead(store: EventStore, acquired: Acquired) -> Io[Any]:
    return store.set_dead(acquired.lease, FIRST, reason="refused")


@pytest.mark.parametrize(
    ("queue", "ending"),
    [
        ("inbox", commit),
        ("inbox", release),
        ("outbox", release),
        ("outbox", confirm),
        ("outbox", confirm_a_part),
        ("outbox", set_dead),
    ],
)
def test_a_reason_ends_with_what_it_was_for(
    store: EventStore, do: Do, queue: Any, ending: Callable[[EventStore, Acquired], Io[Any]]
) -> None:
    """A worker that dies right after it did something leaves no old reason behind."""
    committed(store, do, "1", writes=2)
    do(store.accept(event("2")))
    do(store.release(queue_of(store, do, queue, "one").lease, why=AWAY))
    acquired = queue_of(store, do, queue, "two")
    assert getattr(do(store.view(conversation())), queue).why == AWAY

    do(ending(store, acquired))

    told = getattr(do(store.view(conversation())), queue)
    assert (told.why, told.since) == (None, None)


def test_a_reason_is_kept_with_what_was_confirmed_in_the_same_step(
    store: EventStore, do: Do
) -> None:
    """It is why the rest waits."""
    committed(store, do, "1", writes=2)
    lease = queue_of(store, do).lease
    do(store.release(lease, done=Confirmed(operation_id=FIRST, pos=0, last=True), why=AWAY))

    told = do(store.view(conversation())).outbox
    assert ([each.id for each in told.operations], told.why) == ([SECOND], AWAY)


def test_a_reason_is_one_line_of_bounded_length(store: EventStore, do: Do) -> None:
    """Whatever a server said; and a lease that is lost leaves none."""
    do(store.accept(event("1")))
    acquired = queue_of(store, do, "inbox")
    do(store.release(acquired.lease, why="one\ntwo \x1b[31m" + "x" * 5000))
    told = do(store.view(conversation())).inbox.why

    again = queue_of(store, do, "inbox", "another")
    assert not do(store.release(acquired.lease, why="too late"))

    assert told.startswith("one two \\u001b[31m")
    assert len(told) == LONGEST_WHY
    assert do(store.view(again.lease.conversation_key)).inbox.why == told


def test_the_turns_that_run_in_an_account_are_counted(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Those of others are not, nor leases that have ended."""
    turn_of(store, do, event("1", customer="ana"), "a")
    turn_of(store, do, event("2", customer="eva"), "b")
    turn_of(store, do, event("3", account="cocina"), "c")

    running = [do(store.view(conversation(account=name))).running for name in ("ventas", "cocina")]
    clock.advance(31.0)

    assert running == [2, 1]
    assert do(store.view(conversation())).running == 0


def test_a_load_tells_whether_a_worker_has_its_first(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """Then it is due when the lease ends, which says nothing of how long it waits."""
    turn_of(store, do, event("1"))
    (held,) = do(store.loads())
    do(store.accept(event("2", customer="eva")))
    (mixed,) = do(store.loads())
    clock.advance(31.0)
    (lapsed,) = do(store.loads())

    assert (held.held, held.due_in) == (True, 30.0)
    assert (mixed.held, mixed.due_in) == (False, 0.0)
    assert (lapsed.held, lapsed.due_in) == (False, -31.0)


def kill(store: EventStore, do: Do, source: str, *, customer: str, account: str) -> None:
    """A turn whose event and whose two writes are dead letters."""
    acquired = turn_of(store, do, event(source, customer=customer, account=account), source)
    do(store.commit_turn(acquired.lease, commit_of(acquired, writes=2, dead=True)))
    lease = queue_of(store, do, "outbox", f"w {source}").lease
    event_key = acquired.events[0].event_key
    do(store.set_dead(lease, f"{event_key}/0", reason="refused"))
    do(store.release(lease))


def pages(store: EventStore, do: Do, **options: Any) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    page: str | None = ""
    while page is not None:
        told = do(store.dead_letter_page(page, **options))
        assert len(told.letters) <= options["most"] + 3  # a customer's writes come together
        found, page = [*found, *told.letters], told.next
    return found


@pytest.mark.parametrize("most", [1, 2, 3, 1000])
def test_all_dead_letters_are_told_page_by_page(
    store: EventStore, do: Do, clock: Clock, most: int
) -> None:
    """Each once, of all accounts or of one; also those that died in one millisecond."""
    for number, (account, customer) in enumerate(
        [("ventas", "ana"), ("ventas", "eva"), ("cocina", "ana"), ("ventas", "ana")]
    ):
        kill(store, do, str(number), customer=customer, account=account)
        clock.advance(number // 2)
    everything = do(store.dead_letters())
    kitchen = AccountKey(conversation(account="cocina")[:15])

    told = pages(store, do, most=most)
    of_one = pages(store, do, most=most, account_key=kitchen)

    assert (len(everything), len(told)) == (12, 12)
    assert set(told) == set(everything)
    assert set(of_one) == {one for one in everything if one.conversation_key.startswith(kitchen)}
    written = [one.id for one in told if one.queue == "outbox" and one.id.startswith(FIRST[:-1])]
    assert written == sorted(written)


def test_what_is_decided_between_two_pages_is_told_no_more(store: EventStore, do: Do) -> None:
    """And nothing else is passed over for it."""
    for number in range(4):
        kill(store, do, str(number), customer=f"c{number}", account="ventas")
    told: list[DeadLetter] = []
    page: str | None = ""
    while page is not None:
        found = do(store.dead_letter_page(page, most=2))
        for letter in found.letters:
            assert do(store.discard(letter, token="mine"))
        told, page = [*told, *found.letters], found.next

    assert len(set(told)) == len(told) == 12
    assert do(store.dead_letters()) == ()


@pytest.mark.parametrize("whole", [False, True])
def test_what_fails_again_meanwhile_is_not_given_back_again(
    store: EventStore, do: Do, clock: Clock, monkeypatch: pytest.MonkeyPatch, *, whole: bool
) -> None:
    """A worker is as fast as the operator: each is given back once, and the command ends."""
    kill(store, do, "1", customer="ana", account="ventas")
    given: list[str] = []
    requeue = type(store).requeue

    def failing(self: Any, letter: DeadLetter, **named: Any) -> Io[Any]:
        given.append(letter.id)
        assert len(given) <= 3
        renewed = do(requeue(self, letter, **named))
        clock.advance(1.0)
        if letter.queue == "outbox":
            lease = queue_of(store, do, "outbox", f"again {len(given)}").lease
            do(store.set_dead(lease, renewed, reason="refused again"))
            do(store.release(lease))
        return Io(lambda: renewed, partial(asyncio.sleep, 0, renewed))

    monkeypatch.setattr(type(store), "requeue", failing)
    monkeypatch.setattr(operators, "_PAGE", 1)

    assert run(operators.retry(store, None if whole else conversation())) == 3
    assert len(set(given)) == 3
    assert len(do(store.dead_letters())) == 2


@pytest.mark.parametrize("page", ["7", "events", "operations 1; DROP", "00 dead x y", "00 c 0 x"])
def test_a_page_of_another_kind_is_refused(store: EventStore, page: str) -> None:
    """Before anything is asked."""
    with pytest.raises(ValueError, match="not a page"):
        store.dead_letter_page(page)


def test_a_file_of_an_older_version_gains_the_columns(tmp_path: Path) -> None:
    """What it holds is worked on; the older process that has it open works on, too."""
    path = tmp_path / "events.db"
    before = SQLiteEventStore(path)
    committed(before, blocking, "1")
    before.close()
    file = sqlite3.connect(path, isolation_level=None)
    for column in ("since", "why", "why_since"):
        file.execute(f"ALTER TABLE queues DROP COLUMN {column}")
    file.execute("ALTER TABLE conversations DROP COLUMN noted")

    store = SQLiteEventStore(path)
    lease = queue_of(store, blocking).lease
    store.release(lease, why=AWAY).block()
    told = store.view(conversation()).block().outbox
    file.execute("UPDATE queues SET not_before = 0")  # as the older one would
    store.close()
    file.close()

    assert told.why == AWAY
