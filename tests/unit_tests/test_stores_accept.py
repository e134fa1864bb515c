"""Accepting events: each once, in order, into the right conversation."""

from __future__ import annotations

import pytest

from langchain_convsync.stores import AcceptRules, EventStore, NewEvent
from tests.store_cases import (
    KEYS,
    Clock,
    Do,
    committed,
    conversation,
    event,
    queue_of,
    turn_of,
)

pytest_plugins = ("tests.store_fixtures",)


def test_a_new_event_is_recorded(store: EventStore, do: Do) -> None:
    """Without a token it is only recorded: a worker takes it."""
    accepted = do(store.accept(event()))

    assert (accepted.status, accepted.state, accepted.acquired) == ("new", "queued", None)
    assert accepted.conversation_key == conversation()


def test_a_new_event_is_acquired_in_the_same_step(store: EventStore, do: Do, clock: Clock) -> None:
    """One round trip records the message and gives the right to answer it."""
    acquired = do(store.accept(event(), AcceptRules(lease=20.0), token="mine")).acquired

    assert (acquired.lease.token, acquired.lease.epoch, acquired.lease.queue) == (
        "mine",
        1,
        "inbox",
    )
    assert (acquired.now, acquired.lease.until) == (clock.now, clock.now + 20.0)
    assert [queued.payload for queued in acquired.events] == ['{"text": "Hola"}']


def test_a_second_delivery_is_a_duplicate(store: EventStore, do: Do) -> None:
    """WAHA delivers one message several times."""
    do(store.accept(event()))
    again = do(store.accept(event()))

    assert (again.status, again.state, again.differs) == ("duplicate", "queued", False)
    assert do(store.backlog()).queued == 1


def test_a_duplicate_with_another_text_is_noticed(store: EventStore, do: Do) -> None:
    """The first text stays; the difference is for the caller to count."""
    do(store.accept(event(digest="hola", payload="first")))
    again = do(store.accept(event(digest="adiós", payload="second"), token="mine"))

    assert again.differs
    assert again.acquired.events[0].payload == "first"


def test_a_duplicate_can_take_what_a_crashed_process_left(store: EventStore, do: Do) -> None:
    """The redelivery of a recorded message is the chance to answer it."""
    do(store.accept(event()))
    again = do(store.accept(event(), token="mine"))

    assert again.status == "duplicate"
    assert again.acquired is not None


def test_a_duplicate_of_an_answered_event_brings_its_outcome(store: EventStore, do: Do) -> None:
    """The stored answer is repeated instead of asking the agent again."""
    committed(store, do)
    again = do(store.accept(event(), token="mine"))

    assert (again.status, again.state, again.outcome) == ("duplicate", "done", '"answered"')
    assert (again.acquired, again.due_in) == (None, 0.0)


def test_a_duplicate_of_an_answered_event_takes_no_other_work(store: EventStore, do: Do) -> None:
    """Its caller only wants the stored answer."""
    committed(store, do, "1")
    do(store.accept(event("2")))

    assert do(store.accept(event("1"), token="mine")).acquired is None
    assert do(store.acquire("inbox", "other")) is not None


def test_the_same_step_performed_again_is_no_duplicate(store: EventStore, do: Do) -> None:
    """An answer lost on the wire is answered again, with or without a token."""
    recording, taking = store.accept(event("1")), store.accept(event("2"), token="mine")

    assert do(recording) == do(recording)
    assert do(taking) == do(taking)
    assert do(store.backlog()).queued == 2


def test_the_same_token_answers_the_same_lease(store: EventStore, do: Do) -> None:
    """Also when the caller builds the call anew; the start is counted once."""
    first = do(store.accept(event(), token="mine"))
    again = do(store.accept(event(), token="mine"))

    assert again == first
    assert again.acquired.events[0].starts == 1


def test_events_of_one_conversation_queue_in_order_of_arrival(store: EventStore, do: Do) -> None:
    """FIFO, whatever their ids."""
    for source in ("3", "1", "2"):
        do(store.accept(event(source, payload=source)))
    acquired = queue_of(store, do, "inbox")

    assert [queued.payload for queued in acquired.events] == ["3", "1", "2"]


def test_a_full_inbox_refuses(store: EventStore, do: Do) -> None:
    """Beyond the backlog nothing is recorded: the sender is told to come back."""
    do(store.accept(event("1"), AcceptRules(max_queued=1)))
    refused = do(store.accept(event("2"), AcceptRules(max_queued=1)))

    assert (refused.status, refused.state) == ("busy", None)
    assert do(store.backlog()).queued == 1


def test_a_full_inbox_still_knows_its_duplicates(store: EventStore, do: Do) -> None:
    """What is recorded already needs no room."""
    do(store.accept(event("1"), AcceptRules(max_queued=1)))

    assert do(store.accept(event("1"), AcceptRules(max_queued=1))).status == "duplicate"


def test_a_burst_is_due_after_the_quiet_window(store: EventStore, do: Do, clock: Clock) -> None:
    """Every further message of the burst moves the turn back."""
    do(store.accept(event("1"), AcceptRules(debounce=2.0, max_debounce=10.0), token="a"))
    clock.advance(1.5)
    accepted = do(store.accept(event("2"), AcceptRules(debounce=2.0, max_debounce=10.0), token="b"))
    clock.advance(1.9)
    early = do(store.acquire("inbox", "c"))
    clock.advance(0.1)
    acquired = do(store.acquire("inbox", "d"))

    assert (accepted.acquired, accepted.due_in) == (None, 2.0)
    assert early is None
    assert len(acquired.events) == 2


def test_a_long_burst_is_due_at_the_latest_after_max_quiet(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """A customer who never stops writing is answered too."""
    for source in range(4):
        do(store.accept(event(str(source)), AcceptRules(debounce=2.0, max_debounce=5.0)))
        clock.advance(1.5)

    assert len(queue_of(store, do, "inbox").events) == 4


def test_due_in_counts_to_the_end_of_a_workers_lease(
    store: EventStore, do: Do, clock: Clock
) -> None:
    """So a waiting call knows when it could take over."""
    do(store.accept(event("1"), AcceptRules(lease=30.0), token="other"))
    clock.advance(10.0)
    accepted = do(store.accept(event("2"), token="mine"))

    assert (accepted.acquired, accepted.due_in) == (None, 20.0)


def test_an_alias_leads_to_the_same_conversation(store: EventStore, do: Do) -> None:
    """A customer known by phone and by LID has one queue."""
    do(store.accept(event("1", customer="ana", alias="ana's lid")))
    accepted = do(store.accept(event("2", customer="ana's lid")))

    assert accepted.conversation_key == conversation("ana")
    assert len(queue_of(store, do, "inbox").events) == 2


def test_an_alias_waits_while_a_worker_works_under_its_name(store: EventStore, do: Do) -> None:
    """Otherwise a newer message could overtake the one that is being answered."""
    do(store.accept(event("1", customer="ana's lid"), token="turn"))
    do(store.accept(event("2", customer="ana", alias="ana's lid")))
    accepted = do(store.accept(event("3", customer="ana's lid")))

    assert accepted.conversation_key == conversation("ana's lid")


def test_an_alias_is_learnt_from_a_duplicate(store: EventStore, do: Do) -> None:
    """The LID twin of an answered message still tells who the LID is."""
    committed(store, do)
    do(store.accept(event("1", alias="ana's lid")))

    assert do(store.accept(event("2", customer="ana's lid"))).conversation_key == conversation(
        "ana"
    )


def test_a_conversation_may_be_offered_as_its_own_alias(store: EventStore, do: Do) -> None:
    """A sender that knows one name only."""
    do(store.accept(event("1", customer="ana", alias="ana")))

    assert do(store.accept(event("2", customer="ana"))).conversation_key == conversation("ana")


def test_aliases_never_lead_in_a_circle(store: EventStore, do: Do) -> None:
    """Two names that point at each other are one conversation."""
    do(store.accept(event("1", customer="ana", alias="ana's lid")))
    do(store.accept(event("2", customer="ana's lid", alias="ana")))

    assert do(store.accept(event("3", customer="ana"))).conversation_key == conversation("ana")
    assert do(store.accept(event("4", customer="ana's lid"))).conversation_key == conversation(
        "ana"
    )


@pytest.mark.parametrize(
    "payload",
    ["", "nul\0inside", "\ud83d lone \udc00", "ñandú 🍕 שלום", "x" * 1_000_000, '"\\u0000"\r\n'],
    ids=["empty", "nul", "surrogates", "unicode", "1 MB", "escapes"],
)
def test_any_text_comes_back_as_it_was_given(store: EventStore, do: Do, payload: str) -> None:
    """Payloads are opaque to the store."""
    acquired = turn_of(store, do, event(payload=payload))

    assert acquired.events[0].payload == payload


def test_keys_of_two_accounts_are_refused(store: EventStore) -> None:
    """An event can never reach another tenant's conversation."""
    event_key = KEYS.event("ventas", "", "message", "1")

    with pytest.raises(ValueError, match="one account"):
        store.accept(NewEvent(event_key=event_key, conversation_key=conversation("ana", "soporte")))


@pytest.mark.parametrize("conversation_key", ["", "+51999999999", "07.abc", conversation() + "\n"])
def test_what_is_not_a_key_is_refused(store: EventStore, conversation_key: str) -> None:
    """No phone number can become a key by mistake."""
    with pytest.raises(ValueError, match="not a key"):
        store.accept(NewEvent(event_key=event().event_key, conversation_key=conversation_key))
