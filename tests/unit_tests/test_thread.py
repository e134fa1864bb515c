"""What of a conversation a thread does not hold, and where that belongs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_convsync.models import ConversationMessage
from langchain_convsync.surfaces.thread import Watermark, beside, joined, places_of

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


@pytest.mark.in_turn
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


@pytest.mark.parametrize(
    ("held", "whole"),
    [
        ([], ["Hola", "¡Hola!", "Pizza", "Claro", "Ana"]),
        (["u Pizza", "a Claro"], ["Hola", "¡Hola!", "Pizza", "Claro", "Ana"]),
        (["u Hola", "a ¡Hola!", "u Pizza", "a Claro", "a Ana"], None),
        (["u Pizza", "a Pienso", "a Claro"], ["Hola", "¡Hola!", "Pizza", "Pienso", "Claro", "Ana"]),
        (["u Anota"], ["Anota", "Hola", "¡Hola!", "Pizza", "Claro", "Ana"]),
    ],
)
def test_a_history_joins_a_thread_around_what_that_holds(
    held: list[str], whole: list[str] | None
) -> None:
    """Whatever else the thread holds stays in its place."""
    history = [
        user("Hola", 0),
        bot("¡Hola!", 1),
        user("Pizza", 2),
        bot("Claro\n", 3),
        bot("Ana", 4),
    ]
    messages = thread(*held)

    merged = joined(messages, beside(history, messages), most=100)

    told = [str(message.content).strip() for message in merged]
    assert told == (whole or [text[2:] for text in held])
    assert len({message.id for message in merged}) == len(merged)


def test_what_was_left_out_of_a_thread_does_not_come_back() -> None:
    """The history had joined it once, as much of it as was asked for."""
    history = [user("Hola", 0), bot("¡Hola!", 1), user("Pizza", 2), bot("Claro", 3)]
    short = joined([], [(0, message) for message in history], most=2)
    assert [str(message.content) for message in short] == [
        "[2 earlier messages are left out]\nPizza",
        "Claro",
    ]

    assert beside([*history, bot("Ana", 4)], short) == [(2, bot("Ana", 4))]


def test_the_same_words_join_a_thread_under_ids_of_their_own() -> None:
    """On a server without times they read like those that joined it before."""
    first = joined([], [(0, bot("sí"))], most=100)
    second = joined(first, [(1, bot("sí")), (1, bot("sí"))], most=100)

    assert len({message.id for message in second}) == 3


@pytest.mark.parametrize(
    ("words", "places"),
    [
        ([HumanMessage("sí", id="2")], [2]),
        ([HumanMessage("sí")], [2]),
        ([HumanMessage("sí", id="unknown")], [2]),
        ([HumanMessage("sí"), HumanMessage("sí")], [0, 2]),
        ([HumanMessage("no")], [None]),
        ([HumanMessage("no"), HumanMessage("sí")], [None, 2]),
    ],
)
def test_words_are_found_in_a_thread(words: list[HumanMessage], places: list[int | None]) -> None:
    """By their ids, else the last that read alike, each once."""
    messages = [HumanMessage("sí", id="0"), AIMessage("?", id="1"), HumanMessage("sí", id="2")]

    assert places_of(words, [*messages, AIMessage("!", id="3")]) == places


def test_more_than_joins_can_have_arrived() -> None:
    """The watermark goes on behind all of it."""
    _, mark = read(user("Hola", 0))
    history = [user("Hola", 0), *(bot(f"otro {n}", n) for n in range(1, 400))]

    others, mark = mark.read(history, 300)
    assert texts(others)[-300:] == [f"otro {n}" for n in range(100, 400)]
    assert mark.read([*history, bot("Ana", 400)], 300)[0] == [bot("Ana", 400)]


def thread(*spoken: str) -> list[BaseMessage]:
    kinds = {"u": HumanMessage, "a": AIMessage}
    return [kinds[each[0]](each[2:], id=f"id-{number}") for number, each in enumerate(spoken)]
