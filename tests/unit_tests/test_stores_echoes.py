"""The echoes that a store records of a reply that is on the wire."""

from __future__ import annotations

import pytest

from langchain_convsync.stores import Acquired, EventStore
from tests.store_cases import (
    Clock,
    Do,
    committed,
    conversation,
    event,
    queue_of,
    turn_of,
)

pytest_plugins = ("tests.store_fixtures",)


def saying(store: EventStore, do: Do) -> Acquired:
    """The reply queue of a conversation with a reply on the wire, and one behind it."""
    committed(store, do, replies=2)
    acquired = queue_of(store, do, "replies")
    do(store.begin(acquired.lease, acquired.operations[0].id, 0, attempt=1, need=6.0))
    return acquired


def echoes(store: EventStore, do: Do, acquired: Acquired) -> tuple[str, ...]:
    """The recorded echoes of the reply at the head."""
    again = do(
        store.acquire(
            "replies", acquired.lease.token, conversation_key=acquired.lease.conversation_key
        )
    )
    return again.cursor.echoes if again.cursor else ()


def test_echoes_are_told_with_the_queue(store: EventStore, do: Do) -> None:
    """Each note once, whoever repeats it, in order."""
    acquired = saying(store, do)
    answers = [do(store.record_echo(conversation(), note)) for note in ("a", "ñ\ud83d", "a")]

    assert answers == [True, True, True]
    assert echoes(store, do, acquired) == ("a", "ñ\ud83d")


def test_nothing_is_kept_while_nothing_is_on_the_wire(store: EventStore, do: Do) -> None:
    """Before a reply is sent, in a conversation without one, in none at all."""
    unknown = do(store.record_echo(conversation("eva"), "a"))
    committed(store, do, replies=1)
    before = do(store.record_echo(conversation(), "a"))

    assert (unknown, before) == (False, False)
    assert queue_of(store, do, "replies").cursor is None


def test_a_queue_that_waits_is_due_at_once(store: EventStore, do: Do, clock: Clock) -> None:
    """The sign it waited for is there."""
    acquired = saying(store, do)
    do(store.retry(acquired.lease, acquired.operations[0].id, 0, delay=60.0, sent=True))
    do(store.release(acquired.lease, delay=60.0))
    waiting = do(store.due("replies", conversation()))
    do(store.record_echo(conversation(), "a"))

    assert (waiting, do(store.due("replies", conversation()))) == (60.0, 0.0)
    assert queue_of(store, do, "replies", "next").cursor.echoes == ("a",)  # type: ignore[union-attr]


@pytest.mark.parametrize("then", ["sent again", "taken back", "confirmed"])
def test_it_belongs_to_one_try_of_one_reply(store: EventStore, do: Do, then: str) -> None:
    """Later ones are not taken for sent."""
    acquired = saying(store, do)
    do(store.record_echo(conversation(), "a"))
    head = acquired.operations[0].id
    match then:
        case "sent again":
            do(store.begin(acquired.lease, head, 0, attempt=2, need=6.0))
        case "taken back":
            do(store.retry(acquired.lease, head, 0, delay=0.0, sent=False))
        case _:
            do(store.confirm(acquired.lease, head, 0, last=True))
            do(store.begin(acquired.lease, acquired.operations[1].id, 0, attempt=1, need=6.0))

    assert echoes(store, do, acquired) == ()


def test_an_echo_is_recorded_under_every_name_of_the_customer(store: EventStore, do: Do) -> None:
    """Our own echo may name the LID."""
    acquired = saying(store, do)
    do(store.alias(conversation("lid"), conversation()))

    assert do(store.record_echo(conversation("lid"), "a"))
    assert echoes(store, do, acquired) == ("a",)


@pytest.mark.parametrize("note", ["", "a\nb"])
def test_a_note_is_one_line(store: EventStore, note: str) -> None:
    """Anything else would be read back as something else."""
    with pytest.raises(ValueError, match="one line"):
        store.record_echo(conversation(), note)


def test_a_turn_does_not_disturb_it(store: EventStore, do: Do) -> None:
    """Another message of the customer begins another turn meanwhile."""
    acquired = saying(store, do)
    do(store.record_echo(conversation(), "a"))
    turn_of(store, do, event("2"), "other")

    assert echoes(store, do, acquired) == ("a",)
