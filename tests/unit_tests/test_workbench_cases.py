"""Cases: how they are read, what is different, and what of a talk stands in one."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_convsync._flow import run
from langchain_convsync.errors import ConfigurationError, MissingExtraError
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.turns import operators
from langchain_convsync.workbench import Case, cases_in
from langchain_convsync.workbench.cases import ExpectedState, Step, Words
from langchain_convsync.workbench.comparing import Outcome, differences
from langchain_convsync.workbench.recording import kept, talk

WHO = "+51999999999"
TALK = """
convsync: 1
steps:
- customer: [Hola, {text: this one, quotes: Hi}]
  tools: [menu, {sync_state: {intent: menu}}]
  state: {intent: menu, context: {items: {pizza: 2}, day: 2026-11-30}}
  bot: Hi!
- colleague: I am here
- do: resume
- customer: {image: true, text: look}
"""


def test_a_case_survives_its_file() -> None:
    """A text may stand for a list of one, and a day is text, as it is at the API server."""
    case = Case.read(TALK)

    assert Case.read(case.yaml) == case
    assert case.words == ["Hola", "this one", "look"]
    assert case.steps[0].bot == ["Hi!"]
    assert case.steps[0].state == ExpectedState(
        intent="menu", context={"items": {"pizza": 2}, "day": "2026-11-30"}
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("steps: [", "a.yaml, line 1: expected the node content, but found '<stream end>'"),
        ("hello", "a.yaml: is not a case: a case has convsync: 1 and steps"),
        ("convsync: 2\nsteps: [{customer: x}]", "a.yaml, convsync: this version reads 1"),
        ("a: &a [*a]", "a.yaml: is not YAML"),
        ("convsync: 1", "a.yaml, steps: is missing"),
        ("steps: []", "a.yaml, steps: is empty"),
        ("steps: [{customer: no}]", "a.yaml, step 1 customer 1: is not text: put quotes around it"),
        ("steps: [{customer: a, bott: b}]", "a.yaml, step 1: there is no key 'bott'"),
        (
            "steps: [{customer: {txt: a}}]",
            "a.yaml, step 1 customer 1: there is no key 'txt'",
        ),
        (
            "steps: [{customer: a}, {bot: b}]",
            "a.yaml, step 2: begins with one of customer, colleague and do",
        ),
        (
            "steps: [{customer: a, tools: [{b: 1}]}]",
            "a.yaml, step 1 tools 1 b: is not a mapping of names to values",
        ),
        (
            "steps: [{do: dance}]",
            "a.yaml, step 1 do: Input should be 'pause', 'resume' or 'expire'",
        ),
    ],
)
def test_what_is_no_case_is_refused_in_one_line(text: str, error: str) -> None:
    """With the place, and what is wrong there."""
    with pytest.raises(ConfigurationError) as raised:
        Case.read(text, name="a.yaml")

    assert str(raised.value) == error


def test_a_folder_is_all_cases_below_it(tmp_path: Path) -> None:
    """One without any is a mistake, as is a file that is not there."""
    (tmp_path / "orders").mkdir()
    with pytest.raises(ConfigurationError, match=r"there is no case in .*: convsync record"):
        cases_in([tmp_path])
    for name in ("orders/two.yml", "one.yaml", "notes.txt"):
        (tmp_path / name).write_text("steps: [{customer: Hola}]", encoding="utf-8")

    assert [case.name for case in cases_in([tmp_path])] == ["one.yaml", "orders/two.yml"]
    with pytest.raises(ConfigurationError, match=r"none\.yaml: No such file"):
        cases_in([tmp_path / "none.yaml"])


SEEN = Outcome(
    ("menu", {"sync_state": {"intent": "menu", "step": "browsing"}}),
    ExpectedState(intent="menu", step="browsing", context={"items": ["a"], "total": 3.0}),
    ("*Hi!*", "What would you like?"),
)


@pytest.mark.parametrize(
    "expected",
    [
        {},
        {"tools": ["menu", "sync_state"]},
        {"tools": ["menu", {"sync_state": {"intent": "menu"}}]},
        {"state": {"intent": "menu"}},
        {"state": {"context": ["total"]}},
        {"state": {"context": {"items": ["a"], "total": 3}}},
        {"bot": "Hi! What would you like?"},
    ],
)
def test_what_a_step_does_not_state_is_not_compared(expected: dict[str, Any]) -> None:
    """And of words no marks, spaces or bubbles."""
    step = Step.model_validate({"customer": "Hola", **expected})

    assert differences(step, SEEN, "exact") == []


@pytest.mark.parametrize(
    ("expected", "words", "told"),
    [
        ({"tools": []}, "none", 'tools: expected none, now menu, sync_state(intent="menu", step='),
        ({"tools": ["sync_state", "menu"]}, "none", "tools: expected sync_state, menu, now menu,"),
        (
            {"tools": ["menu", {"sync_state": {"intent": "pay"}}]},
            "none",
            'tools: expected menu, sync_state(intent="pay"), now',
        ),
        ({"state": {"step": "paying"}}, "none", "step: expected paying, now browsing"),
        ({"state": {"context": {"total": 4}}}, "none", "context total: expected 4, now 3.0"),
        ({"state": {"context": ["name"]}}, "none", "context: expected the keys name, now items"),
        ({"bot": "bye"}, "contains", "bot contains: expected “bye”, now “*Hi!*” · “What would"),
        ({"bot": "hi"}, "exact", "bot: expected “hi”, now"),
    ],
)
def test_a_difference_is_told_in_a_line(expected: dict[str, Any], words: Words, told: str) -> None:
    """What was expected, and what is now."""
    step = Step.model_validate({"customer": "Hola", **expected})
    [line] = differences(step, SEEN, words)

    assert line.startswith(told)
    assert words == "none" or differences(step, SEEN) == []
    assert expected != {"bot": "hi"} or differences(step, SEEN, "contains") == []


def facts(*told: dict[str, Any]) -> list[dict[str, Any]]:
    """As the timeline has them."""
    return [{"n": n, "who": WHO, **each} for n, each in enumerate(told, 1)]


def heard(text: str) -> dict[str, Any]:
    return {"kind": "heard", "text": text, "quotes": None}


def runs(turn: str) -> dict[str, Any]:
    return {"kind": "phase", "phase": "agent", "turn": turn}


def called(turn: str, name: str) -> dict[str, Any]:
    return {"kind": "tool", "turn": turn, "name": name, "args": {"n": "[1, 'a']"}}


def test_a_talk_becomes_steps_of_what_was_answered_together() -> None:
    """A run that was killed counts for nothing; who writes on while it runs begins a step."""
    case = talk(
        facts(
            heard("one"),
            heard("two"),
            runs("t1"),
            called("t1", "lost"),
            runs("t1"),
            called("t1", "kept"),
            heard("three"),
            {"kind": "phase over", "phase": "agent", "turn": "t1"},
            {"kind": "said", "text": "re: two"},
            runs("t2"),
            {"kind": "phase over", "phase": "agent", "turn": "t2"},
            {"kind": "said", "text": "re: three"},
            {"kind": "colleague", "text": "here"},
        ),
        WHO,
    )

    assert [step.texts for step in case.steps] == [["one", "two"], ["three"], []]
    assert case.steps[0].tools == [{"kept": {"n": [1, "a"]}}]
    assert [step.bot for step in case.steps] == [["re: two"], ["re: three"], []]
    assert case.steps[2].colleague == "here"


def test_what_one_turn_did_not_answer_is_the_next_ones_step() -> None:
    """A burst that two turns answered, the first one its first message."""
    case = talk(facts(heard("one"), heard("two"), runs("t1"), runs("t2")), WHO)

    assert [step.texts for step in case.steps] == [["one"], ["two"]]


def test_a_talk_without_words_or_without_its_beginning_is_no_case() -> None:
    """The reason is told on the page."""
    with pytest.raises(LookupError, match="has not written"):
        talk(facts({"kind": "worker"}), WHO)
    with pytest.raises(LookupError, match="the beginning of this talk is forgotten"):
        talk(facts(heard("one"), heard("two"))[1:], WHO)


def test_a_recorded_customer_speaks_in_a_simulation() -> None:
    """As openevals calls simulated users: with a trajectory, and sometimes a count."""
    case = Case.read(TALK, name="talk.yaml")

    assert case.customer([], turn_counter=1, thread_id="1")["content"] == "this one"
    so_far = [HumanMessage("Hola"), AIMessage("Hi"), {"role": "user", "content": "this one"}]
    assert case.customer(so_far) == {"role": "user", "content": "look"}
    with pytest.raises(ConfigurationError, match=r"talk\.yaml holds 3 messages"):
        case.customer([], turn_counter=3)


def test_a_store_that_keeps_no_words_says_so() -> None:
    """Since when, and why."""
    with closing(SQLiteEventStore(":memory:")) as store:
        key = run(operators.conversation_key_of(store, WHO))
        inspected = run(operators.inspect_conversation(store, key))

    with pytest.raises(ConfigurationError, match="the store keeps no words of this conversation"):
        kept(inspected, texts=True)


def test_a_case_names_what_it_is_read_and_written_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """LangChain brings PyYAML today; the extra brings it where LangChain no longer does."""
    case = Case.read("steps: [{do: pause}]")
    monkeypatch.setitem(sys.modules, "yaml", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'langchain-convsync\[cli\]'"):
        Case.read("steps: [{do: pause}]")
    with pytest.raises(MissingExtraError, match=r"pip install 'langchain-convsync\[cli\]'"):
        _ = case.yaml
