"""What a store hears of a reply that is on the wire."""

from __future__ import annotations

import pytest

from langchain_convsync.stores import EventStore, Taken
from tests.store_cases import (
    Clock,
    Do,
    committed,
    conversation,
    event,
    lane_of,
    turn_of,
)

pytest_plugins = ("tests.store_fixtures",)


def saying(store: EventStore, do: Do) -> Taken:
    """The say lane of a conversation with a reply on the wire, and one behind it."""
    committed(store, do, says=2)
    taken = lane_of(store, do, "say")
    do(store.op_begin(taken.lease, taken.ops[0].id, 0, attempt=1, need=6.0))
    return taken


def heard(store: EventStore, do: Do, taken: Taken) -> tuple[str, ...]:
    """What was heard of the reply at the head."""
    again = do(store.take("say", taken.lease.token, cid=taken.lease.cid))
    return again.cursor.heard if again.cursor else ()


def test_what_was_heard_is_told_with_the_queue(store: EventStore, do: Do) -> None:
    """Each note once, whoever repeats it, in order."""
    taken = saying(store, do)
    answers = [do(store.hear(conversation(), note)) for note in ("a", "ñ\ud83d", "a")]

    assert answers == [True, True, True]
    assert heard(store, do, taken) == ("a", "ñ\ud83d")


def test_nothing_is_kept_while_nothing_is_on_the_wire(store: EventStore, do: Do) -> None:
    """Before a reply is sent, in a conversation without one, in none at all."""
    nobody = do(store.hear(conversation("eva"), "a"))
    committed(store, do, says=1)
    before = do(store.hear(conversation(), "a"))

    assert (nobody, before) == (False, False)
    assert lane_of(store, do, "say").cursor is None


def test_a_queue_that_waits_is_due_at_once(store: EventStore, do: Do, clock: Clock) -> None:
    """The sign it waited for is there."""
    taken = saying(store, do)
    do(store.op_retry(taken.lease, taken.ops[0].id, 0, delay=60.0, sent=True))
    do(store.release(taken.lease, delay=60.0))
    waiting = do(store.due("say", conversation()))
    do(store.hear(conversation(), "a"))

    assert (waiting, do(store.due("say", conversation()))) == (60.0, 0.0)
    assert lane_of(store, do, "say", "next").cursor.heard == ("a",)  # type: ignore[union-attr]


@pytest.mark.parametrize("then", ["sent again", "taken back", "confirmed"])
def test_it_belongs_to_one_try_of_one_reply(store: EventStore, do: Do, then: str) -> None:
    """Later ones are not taken for sent."""
    taken = saying(store, do)
    do(store.hear(conversation(), "a"))
    head = taken.ops[0].id
    match then:
        case "sent again":
            do(store.op_begin(taken.lease, head, 0, attempt=2, need=6.0))
        case "taken back":
            do(store.op_retry(taken.lease, head, 0, delay=0.0, sent=False))
        case _:
            do(store.op_done(taken.lease, head, 0, last=True))
            do(store.op_begin(taken.lease, taken.ops[1].id, 0, attempt=1, need=6.0))

    assert heard(store, do, taken) == ()


def test_it_is_heard_under_every_name_of_the_customer(store: EventStore, do: Do) -> None:
    """Our own echo may name the LID."""
    taken = saying(store, do)
    do(store.link(conversation("lid"), conversation()))

    assert do(store.hear(conversation("lid"), "a"))
    assert heard(store, do, taken) == ("a",)


@pytest.mark.parametrize("note", ["", "a\nb"])
def test_a_note_is_one_line(store: EventStore, note: str) -> None:
    """Anything else would be read back as something else."""
    with pytest.raises(ValueError, match="one line"):
        store.hear(conversation(), note)


def test_a_turn_does_not_disturb_it(store: EventStore, do: Do) -> None:
    """Another message of the customer begins another turn meanwhile."""
    taken = saying(store, do)
    do(store.hear(conversation(), "a"))
    turn_of(store, do, event("2"), "other")

    assert heard(store, do, taken) == ("a",)
