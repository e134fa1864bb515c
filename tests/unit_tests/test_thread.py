"""What of a conversation a thread does not hold, and where that belongs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_convsync.models import ConversationMessage
from langchain_convsync.surfaces.thread import Watermark, interjection, interleaved

MORNING = datetime(2025, 12, 29, 10, tzinfo=UTC)


def user(text: str, second: int | None = None) -> ConversationMessage:
    return message("user", text, second)


def bot(text: str, second: int | None = None) -> ConversationMessage:
    return message("bot", text, second)


def message(role: str, text: str, second: int | None = None) -> ConversationMessage:
    at = None if second is None else MORNING + timedelta(seconds=second)
    return ConversationMessage(role=role, content=text, timestamp=at)


def texts(messages: list[ConversationMessage]) -> list[str]:
    return [each.content for each in messages]


def read(*history: ConversationMessage, mark: Watermark | None = None) -> tuple[Any, Watermark]:
    others, after = (mark or Watermark()).read(history)
    return texts(others), Watermark.of(after.plain())


def test_at_first_all_of_the_history_is_new() -> None:
    """The thread holds nothing yet."""
    assert read(user("Hola"), bot("¡Hola!"))[0] == ["Hola", "¡Hola!"]


def test_what_was_read_or_said_does_not_come_back() -> None:
    """Only a colleague's words are new."""
    _, mark = read(user("Hola", 0))
    mark = mark.after_saying([user("Pizza"), bot("Claro")])

    others, _ = read(
        user("Hola", 0), user("Pizza", 5), bot("Soy Ana", 6), bot("Claro", 7), mark=mark
    )

    assert others == ["Soy Ana"]


def test_the_same_words_again_are_another_message() -> None:
    """Each of ours is recognised once."""
    _, mark = read(user("sí", 0))
    mark = mark.after_saying([bot("sí")])

    assert read(user("sí", 0), bot("sí", 1), bot("sí", 2), mark=mark)[0] == ["sí"]


def test_what_is_on_its_way_is_recognised_when_it_has_arrived() -> None:
    """A turn sees its own writes before the server has given them a time."""
    _, mark = read(user("Hola", 0))
    mark = mark.after_saying([bot("Claro")])

    on_its_way, mark = read(user("Hola", 0), bot("Claro"), mark=mark)
    arrived, mark = read(user("Hola", 0), bot("Soy Ana", 8), bot("Claro", 9), mark=mark)

    assert (on_its_way, arrived) == ([], ["Soy Ana"])
    assert mark.own == ()


def test_what_was_said_and_never_recorded_hides_nothing_else() -> None:
    """A write failed."""
    _, mark = read(user("Hola", 0))
    mark = mark.after_saying([user("Pizza"), bot("Claro")])

    assert read(user("Hola", 0), bot("Soy Ana", 4), mark=mark)[0] == ["Soy Ana"]


def test_at_first_only_the_end_of_the_history_can_be_the_threads() -> None:
    """A greeting of last week is not the one that the server has just recorded."""
    mark = Watermark().after_saying([user("Hola")])

    assert read(user("Hola", 0), bot("¡Hola!", 1), mark=mark)[0] == ["Hola", "¡Hola!"]
    assert read(user("Hola", 0), bot("¡Hola!", 1), user("Hola", 2), mark=mark)[0] == [
        "Hola",
        "¡Hola!",
    ]


def test_a_new_session_begins_with_new_words() -> None:
    """Nothing in it was seen."""
    _, mark = read(user("Hola", 0), bot("¡Hola!", 1))

    assert read(bot("¡Buenos días!", 99), mark=mark)[0] == ["¡Buenos días!"]


def test_an_old_message_that_was_edited_brings_nothing_older_back() -> None:
    """What stands before everything that was seen is older."""
    history = [user(f"{n}", n) for n in range(120)]
    _, mark = Watermark().read(history)

    others, _ = mark.read([*history[:80], bot("editado", 80), *history[81:], bot("Soy Ana", 120)])

    assert texts(others) == ["editado", "Soy Ana"]


CLOCKS = {"exact": timedelta(milliseconds=1), "seconds": timedelta(seconds=1), "none": None}
TURNS = st.lists(
    st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 4), st.booleans()), max_size=12
)


@pytest.mark.parametrize("cap", [None, 20])
@pytest.mark.parametrize("clock", CLOCKS)
@given(turns=TURNS)
def test_whatever_others_say_is_told_once_and_nothing_else(
    clock: str, cap: int | None, turns: list[tuple[int, bool, int, bool]]
) -> None:
    """On servers that cut the history off, keep whole seconds, or keep no times at all.

    Each turn, so many say something before it, and so many more before its reply is recorded; the
    customer says something, or the same as ever; the reply is recorded, or its write fails.
    """
    history: list[ConversationMessage] = []
    tick, number, mark = CLOCKS[clock], 0, Watermark()
    told: list[str] = []
    spoken: list[str] = []

    def record(role: str, text: str) -> None:
        nonlocal number
        number += 1
        elapsed = timedelta(milliseconds=137 * number)
        at = None if tick is None else MORNING + (elapsed // tick) * tick
        history.append(ConversationMessage(role=role, content=text, timestamp=at))
        del history[: -(cap or len(history))]

    def speak(times: int) -> None:
        for _ in range(times):
            spoken.append(f"otro {number}")
            record("bot", spoken[-1])

    for turn, (before, repeats, during, recorded) in enumerate(turns):
        speak(before)
        others, mark = mark.read(history)
        told += texts(others)
        words = user("sí" if repeats else f"cliente {turn}")
        reply = bot(f"agente {turn}")
        mark = Watermark.of(mark.after_saying([words, reply]).plain())
        record("user", words.content)
        speak(during)
        if recorded:
            record("bot", reply.content)
    told += texts(mark.read(history)[0])

    assert told == spoken


def thread(*ids: str) -> list[BaseMessage]:
    return [HumanMessage(key, id=key) if "u" in key else AIMessage(key, id=key) for key in ids]


def told(messages: list[BaseMessage]) -> list[str]:
    return [str(each.content) for each in messages]


@pytest.mark.parametrize(
    ("later", "whole"),
    [
        (["u1", "a1", "u2", "a2"], ["u1", "a1", "Ana", "u2", "a2"]),
        (["summary", "u2", "a2"], ["summary", "Ana", "u2", "a2"]),
        (["u1", "a1", "a2"], ["u1", "a1", "Ana", "a2"]),
        (["summary", "a2"], ["Ana", "summary", "a2"]),
        ([], ["Ana"]),
    ],
)
def test_words_of_others_keep_their_place_in_a_thread_that_loses_messages(
    later: list[str], whole: list[str]
) -> None:
    """Next to whichever neighbour is left; without one they stand at the beginning."""
    ana = interjection([bot("Ana")], thread("u1", "a1", "u2"), held=["u1", "a1"])

    assert told(interleaved(thread(*later), [ana])) == whole


def test_words_of_others_come_before_those_of_a_run_that_is_tried_again() -> None:
    """Nothing in the thread is new then."""
    ana = interjection([bot("Ana")], thread("u1", "a1", "u2"), held=["u1", "a1", "u2"])

    assert told(interleaved(thread("u1", "a1", "u2"), [ana])) == ["u1", "a1", "Ana", "u2"]


def test_words_of_others_in_one_place_keep_their_order() -> None:
    """The history, then what was said since."""
    messages = thread("u1", "a1", "u2")
    both = [
        interjection([user("Hola"), bot("¡Hola!")], messages, held=[]),
        interjection([bot("Ana")], messages, held=[]),
    ]

    assert told(interleaved(messages, both)) == ["Hola", "¡Hola!", "Ana", "u1", "a1", "u2"]
