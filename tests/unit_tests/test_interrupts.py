"""What runs ask, and what they can be answered with: every shape that is about."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.types import Interrupt as LangGraphs

from langchain_convsync.models import ConversationMessage, InboundEvent, StateUpdate
from langchain_convsync.turns import Interrupt
from langchain_convsync.turns.interrupts import (
    NEVER,
    QUESTION_LIFE,
    Answer,
    WaitingRun,
    interrupts_in,
    question_of,
    resumption,
)

APPROVAL = {
    "action_requests": [{"name": "pay", "args": {}}, {"name": "ship", "args": {}}],
    "review_configs": [{"action_name": "pay", "allowed_decisions": ["approve", "respond"]}],
}
OLDER = [{"action_request": {"action": "pay", "args": {}}, "config": {"allow_respond": True}}]
IGNORING = [{"action_request": {"action": "pay", "args": {}}, "config": {}}]


def of(*values: Any) -> tuple[Interrupt, ...]:
    return tuple(Interrupt(str(number), value) for number, value in enumerate(values))


def waiting(*values: Any, **fields: Any) -> WaitingRun:
    fields = {"seconds": 30.0, **fields}
    customer = InboundEvent(event_id="t", phone_number="+51999999999", text="Hola")
    return WaitingRun(turn="t", customer=customer, thread="x", interrupts=of(*values), **fields)


def test_langgraphs_own_and_its_servers_are_read_alike() -> None:
    """An object in a process, a mapping over the wire; a run that ended asks nothing."""
    own = {"__interrupt__": [LangGraphs(value="¿?", id="1")]}
    remote = {"__interrupt__": [{"value": "¿?", "id": "1", "ns": ["a"]}]}

    assert interrupts_in(own) == interrupts_in(remote) == (Interrupt("1", "¿?"),)
    assert interrupts_in({"messages": []}) == interrupts_in("text") == ()


@pytest.mark.parametrize("value", [object(), "\ud800", {"a": float("nan")}])
def test_what_is_no_json_is_never_put_to_a_customer(value: Any) -> None:
    """Nor kept: a store holds JSON."""
    [interrupt] = interrupts_in({"__interrupt__": [LangGraphs(value=value, id="1")]})

    assert interrupt.question is None
    assert interrupt.value == {"unserializable": type(value).__name__}


@pytest.mark.parametrize(
    ("values", "question"),
    [
        (["¿Sí?"], "¿Sí?"),
        ([" ¿Sí? ", "¿No?", "¿Sí?"], "¿Sí?\n\n¿No?"),
        (["¿Sí?", {}], None),
        ([" "], None),
        ([], None),
    ],
)
def test_only_texts_are_questions_to_the_customer(values: list[Any], question: str | None) -> None:
    """All of what a run asks, or none of it."""
    assert question_of(of(*values)) == question


@pytest.mark.parametrize(
    ("value", "approved", "rejected", "responded"),
    [
        (
            APPROVAL,
            {"decisions": [{"type": "approve"}] * 2},
            {"decisions": [{"type": "reject", "message": "no"}] * 2},
            {"decisions": [{"type": "respond", "message": "no"}] * 2},
        ),
        (
            OLDER,
            [{"type": "accept", "args": None}],
            [{"type": "response", "args": "no"}],
            [{"type": "response", "args": "no"}],
        ),
        ({"total": 25}, True, "no", "no"),
        ("¿Sí?", True, "no", "no"),
    ],
)
def test_an_operator_decides_in_one_word(
    value: Any, approved: Any, rejected: Any, responded: Any
) -> None:
    """About every request of it."""
    run = waiting(value)

    assert run.decisions("approve") == approved
    assert run.decisions("reject", "no") == rejected
    assert run.decisions("respond", "no") == responded


def test_a_refusal_without_a_reason() -> None:
    """Where the operator gives none."""
    assert waiting(APPROVAL).decisions("reject") == {"decisions": [{"type": "reject"}] * 2}
    assert waiting(OLDER).decisions("reject") == [{"type": "ignore", "args": None}]
    assert waiting({}).decisions("reject") is False


def test_a_refusal_tells_what_the_customer_wrote() -> None:
    """In the way that is allowed for each request."""
    pay, ship = waiting(APPROVAL).refusals(["¿Ya?", "¿Y?"])["decisions"]

    assert (pay["type"], ship["type"]) == ("respond", "reject")
    assert "the customer wrote: ¿Ya?\n¿Y?" in pay["message"]
    assert "customer" not in waiting(APPROVAL).refusals([])["decisions"][0]["message"]
    assert waiting(OLDER).refusals(["¿Ya?"]) == [{"type": "response", "args": "¿Ya?"}]
    assert waiting(IGNORING).refusals(["¿Ya?"]) == [{"type": "ignore", "args": None}]
    assert (waiting({}).refusals(["¿Ya?"]), waiting({}).refusals([])) == ("¿Ya?", False)
    assert waiting({}, {}).refusals([]) == {"0": False, "1": False}


def test_one_value_for_all_or_one_for_each() -> None:
    """LangGraph takes None and an empty mapping for no answer, unless they come by an id."""
    one, two = of({}, {})

    assert resumption("x", of=[one], pending=[one]) == {"0": "x"}
    assert resumption({}, of=[one], pending=[one]) == {"0": {}}
    assert resumption("x", of=[one, two], pending=[one, two]) == {"0": "x", "1": "x"}
    assert resumption({"0": "x"}, of=[one, two], pending=[one, two]) == {"0": "x"}
    assert resumption({"0": "x", "1": "y"}, of=[one, two], pending=[two]) == {"1": "y"}


def test_a_run_waits_as_long_as_who_is_asked() -> None:
    """A question until its session is over, a decision as it is configured."""
    assert waiting("¿Sí?", seconds=None).life == QUESTION_LIFE
    assert (waiting({}, seconds=5.0).life, waiting({}, seconds=None).life) == (5.0, NEVER)


def test_a_store_gives_back_what_it_was_given() -> None:
    """And what a newer version has added; what it cannot read is another event's matter."""
    run = waiting({"total": 25}, noted=StateUpdate(step="x")).answered(
        Answer(by="operator", value=None, at=1.0)
    )
    newer = run.stored.replace('"thread": "x"', '"thread": "x", "more": 1')

    assert WaitingRun.read(run.stored) == run
    read = WaitingRun.read(newer)
    assert read is not None
    assert '"more": 1' in read.stored
    for payload in ("", "[]", '{"kind": "interrupt"}', '{"kind": "message", "text": "interrupt"}'):
        assert WaitingRun.read(payload) is None


def test_what_was_noted_is_not_noted_again() -> None:
    """By its values: another one is news."""
    before = StateUpdate(intent="order", step="one", context={"a": 1, "b": 2}, is_active=True)
    run = waiting("¿?", noted=before)
    update = StateUpdate(intent="order", step="two", context={"a": 1, "b": 3}, is_active=True)

    assert run.rest_of(update) == StateUpdate(step="two", context={"b": 3})
    assert not run.rest_of(before)


def test_a_message_that_was_added_is_not_added_again() -> None:
    """As often as it was."""
    hello, bye = (ConversationMessage(role="bot", content=text) for text in ("hola", "chao"))
    run = waiting("¿?", added=(hello,))

    assert run.rest_of_added([hello, hello, bye]) == [hello, bye]


@pytest.mark.parametrize(
    ("asked", "remembered", "same"),
    [
        ({"of": ["a", "b"]}, {"of": ["b", "a"]}, True),  # a set, in another process
        (ValueError("no"), "ValueError('no')", True),  # as LangGraph's memory gives it back
        ({"a": "\ud800"}, {"a": "?"}, True),
        ({"total": 25}, {"total": 26}, False),
        ("¿Qué?", "¿Dónde?", False),
    ],
)
def test_an_interrupt_is_recognised_when_it_is_read_again(
    asked: Any, remembered: Any, same: bool
) -> None:
    """An answer to it is for no other one."""
    one, other = (Interrupt.of({"id": "1", "value": value}) for value in (asked, remembered))

    assert other.is_same_as(one) is same
    assert not other.is_same_as(Interrupt("2", one.value))
