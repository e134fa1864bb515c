"""What counts as lost, and what as doubled."""

from __future__ import annotations

from langchain_convsync.workbench.counting import Ledger, Tally, tally

HISTORY = [("user", "Hola"), ("bot", "*Hi!*\n\nWhat would you like?")]


def ledger() -> Ledger:
    """A customer who wrote once, and read the answer in two bubbles, as a phone shows them."""
    return Ledger(written={"1": ["Hola"]}, read=["Hi!", "What would you like?"])


def test_what_arrived_once_is_neither_lost_nor_doubled() -> None:
    """Bubbles and marks of Markdown make no difference."""
    assert tally(ledger(), HISTORY, settled=True) == Tally(3, 0, 0)


def test_a_message_that_the_history_lacks_is_lost_once_nothing_waits() -> None:
    """Until then it is on its way; and a dead letter is kept for a human."""
    assert tally(ledger(), HISTORY[1:], settled=False).lost == 0
    assert tally(ledger(), HISTORY[1:], settled=True).lost == 1
    assert tally(ledger(), HISTORY[1:], settled=True, dead=[("user", "Hola")]).lost == 0


def test_a_message_that_is_recorded_twice_is_doubled() -> None:
    """At once, whatever still waits; two messages of the same words are no double."""
    assert tally(ledger(), [HISTORY[0], *HISTORY], settled=False).doubled == 1
    twice = ledger()
    twice.written["2"] = ["Hola"]
    assert tally(twice, [HISTORY[0], *HISTORY], settled=True).doubled == 0


def test_an_answer_that_is_read_more_often_than_recorded_is_doubled() -> None:
    """And one that is recorded and was never read is lost."""
    again, never = ledger(), ledger()
    again.read.append("Hi!")
    never.read.clear()

    assert tally(again, HISTORY, settled=True) == Tally(4, 0, 1)
    assert tally(never, HISTORY, settled=True) == Tally(1, 1, 0)


def test_an_edited_message_counts_with_either_words_and_a_revoked_one_with_none() -> None:
    """What it was recorded with depends on when the bot read it."""
    edited = Ledger(written={"1": ["two", "one"]})
    assert tally(edited, [("user", "one")], settled=True) == Tally(1, 0, 0)
    assert tally(edited, [("user", "two")], settled=True) == Tally(1, 0, 0)
    assert tally(edited, [("user", "one"), ("user", "two")], settled=True).doubled == 1

    revoked = Ledger(written={"1": ["one"]}, revoked={"1"})
    assert tally(revoked, [], settled=True) == Tally(1, 0, 0)


def test_what_a_colleague_wrote_and_what_was_said_in_an_earlier_session_count() -> None:
    """A human's words need not have come from the bot."""
    helped = ledger()
    helped.colleague, helped.over = ["I am Ana"], HISTORY

    assert tally(helped, [("bot", "I am Ana")], settled=True) == Tally(3, 0, 0)


def test_what_dead_letters_hold_or_an_operator_gave_up_is_neither() -> None:
    """It was written and read, and waits for a human to be recorded."""
    kept = HISTORY
    assert tally(ledger(), [], settled=True, dead=kept) == Tally(3, 0, 0)

    given_up = ledger()
    given_up.given_up = kept
    assert tally(given_up, [], settled=True) == Tally(3, 0, 0)
    assert tally(ledger(), HISTORY, settled=True, dead=kept) == Tally(3, 0, 0)


def test_what_was_taken_back_takes_the_words_of_no_other_message() -> None:
    """It may stand in the history or not; the other one does."""
    ledger = Ledger(written={"1": ["card", "cash"], "2": ["cash"]}, revoked={"1"})

    assert tally(ledger, [("user", "cash")], settled=True).lost == 0
