"""How fast a conversation may go, and what its turns leave for the next ones: pure."""

from __future__ import annotations

import pytest

from langchain_convsync.turns.bounds import LONGEST_SILENCE, Pace, is_telling
from langchain_convsync.turns.note import BEGINS_ANEW, Note

MOST = 20


def answered(pace: Pace, times: list[float], words: str = "") -> tuple[Pace, list[float]]:
    """Turns at these times; the silences that they came to."""
    silences = []
    for at in times:
        pace, seconds = pace.after_turn(words, now=at, most=MOST)
        silences.append(seconds)
    return pace, silences


def test_a_minute_has_so_many_turns_and_then_a_minute_of_silence() -> None:
    """The next minute has as many again."""
    pace, silences = answered(Pace(), [1000.0 + 0.1 * n for n in range(MOST + 1)])
    _, later = answered(pace, [1070.0 + 0.1 * n for n in range(MOST)])

    assert silences == [0.0] * MOST + [60.0]
    assert later == [0.0] * MOST


def test_a_customer_who_is_fast_is_never_silenced() -> None:
    """One message every three seconds, for an hour, each another one."""
    _, silences = answered(Pace(), [3.0 * n for n in range(1200)])

    assert not any(silences)


@pytest.mark.parametrize("every", [0.5, 5.0, 60.0, 500.0])
def test_the_same_long_words_again_and_again_are_another_machines(every: float) -> None:
    """However slow it is."""
    _, silences = answered(Pace(), [every * n for n in range(40)], words="hash")
    first = next(n for n, seconds in enumerate(silences) if seconds)

    assert 5 <= first <= MOST


def test_words_that_come_back_every_day_are_a_customers() -> None:
    """Who orders the same each morning is answered."""
    _, silences = answered(Pace(), [86_400.0 * n for n in range(100)], words="hash")

    assert not any(silences)


def test_a_silence_doubles_with_each_that_follows_up_to_a_day() -> None:
    """After a day without one, the first one counts anew."""
    pace, now, seen = Pace(), 0.0, []
    for _ in range(14):
        seconds = 0.0
        while not seconds:
            pace, seconds = pace.after_turn("", now=now, most=MOST)
        seen.append(seconds)
        now += seconds
    now += LONGEST_SILENCE + 1
    seconds = 0.0
    while not seconds:
        pace, seconds = pace.after_turn("", now=now, most=MOST)

    assert seen == [min(60.0 * 2**n, LONGEST_SILENCE) for n in range(14)]
    assert seconds == 60.0


@pytest.mark.parametrize(
    "text", ["sí", "1", "más", "una más por favor", "好的", "Здравствуйте", "สวัสดีครับ"]
)
def test_short_words_tell_nothing_about_machines(text: str) -> None:
    """Customers page through a menu with one word."""
    assert not is_telling(text)


@pytest.mark.parametrize("text", ["Soy un asistente virtual.", "感谢您的留言，我们会尽快回复"])
def test_long_words_do(text: str) -> None:
    """In any script."""
    assert is_telling(text)


def test_a_note_that_cannot_be_read_is_an_empty_one() -> None:
    """It is no reason to leave a customer without an answer."""
    assert Note.read("{") == Note.read('{"since": "soon"}') == Note.read(None) == Note()


def test_a_note_of_a_newer_version_is_read() -> None:
    """Processes of two versions share a store."""
    assert Note.read('{"since": 1.0, "mood": "good"}').since == 1.0


@pytest.mark.parametrize(
    ("heard", "wrote", "prompt"),
    [
        ([100.0], 100.0, True),
        ([100.0], 109.0, True),
        ([100.0], 99.0, True),  # the clocks tell whole seconds
        ([100.0], 111.0, False),
        ([100.0, 150.0], 152.0, False),  # a human who had been writing while they did
        ([100.0, 101.0 + BEGINS_ANEW], 103.0 + BEGINS_ANEW, True),
        ([], 100.0, False),
    ],
)
def test_within_seconds_of_the_first_words_no_human_answers(
    heard: list[float], wrote: float, prompt: bool
) -> None:
    """The first after a while of silence: in the middle of a talk humans are fast."""
    assert Note().hearing(heard).is_prompt(wrote) is prompt
