"""What tools return comes back as it was, or it is told that it did not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.messages.modifier import RemoveMessage as Modifier
from langgraph.types import Command, Send

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.middleware import OnceToolsMiddleware
from langchain_convsync.middleware._once_results import LARGEST_RESULT, NOT_KEPT, kept, restored
from langchain_convsync.surfaces.calls import digest_of, number_of


class Place(NamedTuple):
    table: int
    room: str


PAID = ToolMessage("Paid.", tool_call_id="1", name="charge")


@pytest.mark.parametrize(
    "result",
    [
        PAID,
        ToolMessage("No.", tool_call_id="1", status="error"),
        ToolMessage("ñ\ud83d", tool_call_id="1", artifact={"a": [1, 2.5, None, {"b": True}]}),
        ToolMessage("2", tool_call_id="1", artifact=[Document("x", metadata={"page": 1}), PAID]),
        ToolMessage([{"type": "text", "text": "Paid."}, "and more"], tool_call_id="1"),
        Command(update={"messages": [PAID], "step": "paid", "cart": {"items": [1, 2]}}),
        Command(update=[("messages", [PAID]), ("step", "paid")]),
        Command(update={"messages": [RemoveMessage(id="a"), Modifier(id="__remove_all__")]}),
        Command(graph=Command.PARENT, goto="kitchen", update={"messages": [PAID]}),
        Command(graph=Command.PARENT, goto=[Send("kitchen", {"messages": [PAID]}), "bar"]),
        Command(goto=Send("kitchen", {"order": 1})),
        Command(update={"at": datetime(2026, 1, 1, tzinfo=UTC), "sizes": {1: ("a", "b")}}),
        Command(update={"place": Place(7, "terrace")}),
        Command(),
        [PAID, Command(update={"step": "paid"})],
    ],
)
def test_a_result_comes_back_as_it_was(result: Any) -> None:
    """Messages, artifacts, commands, several at once."""
    text, missing = kept(result, "1")

    assert missing == ""
    assert (found := restored(text, "1")) == result
    assert getattr(found, "graph", None) is getattr(result, "graph", None)


@pytest.mark.parametrize(
    "result",
    [
        ToolMessage("x" * LARGEST_RESULT, tool_call_id="1"),
        Command(update=HumanMessage("no mapping")),
        Command(resume="yes"),
        Command(goto=Send("kitchen", object())),
        "no message",
        object(),
    ],
)
def test_what_would_come_back_as_something_else_is_not_kept(result: Any) -> None:
    """Only that it was there."""
    assert kept(result, "1") == (NOT_KEPT, "result")


@pytest.mark.parametrize("artifact", [object(), "x" * LARGEST_RESULT])
def test_an_artifact_that_cannot_be_kept_costs_no_word(artifact: Any) -> None:
    """The model never reads it."""
    text, missing = kept(ToolMessage("Paid.", tool_call_id="1", artifact=artifact), "1")

    assert missing == "artifact"
    assert restored(text, "1") == ToolMessage("Paid.", tool_call_id="1")


def test_a_result_answers_the_call_that_the_model_makes_now() -> None:
    """Wherever the message stands; messages about other calls stay as they are."""
    other = ToolMessage("Other.", tool_call_id="other")
    result: Any = Command(update={"messages": [PAID, other], "last": {"message": PAID}})

    found = restored(kept(result, "1").text, "9")

    assert [m.tool_call_id for m in found.update["messages"]] == ["9", "other"]
    assert found.update["last"]["message"].tool_call_id == "9"


def test_a_history_that_is_handed_over_keeps_its_own_calls() -> None:
    """The call that it answers is in it."""
    asked = AIMessage("", tool_calls=[{"name": "charge", "args": {}, "id": "1"}])
    paid = PAID.model_copy()
    result: Any = Command(graph=Command.PARENT, update={"messages": [asked, paid]})

    assert restored(kept(result, "1").text, "9") == result
    assert paid.id  # by which a thread that holds it already knows it again


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"result": {}, "call": "1"}', '{"call": "1"}', '{"result": 1}']
)
def test_what_cannot_be_read_is_none(text: str) -> None:
    """Written by a newer version, or damaged."""
    assert restored(text, "1") is None


def test_a_call_is_the_same_however_a_model_writes_it() -> None:
    """The order of arguments, and 25.0 for 25; anything else is another call."""
    same: list[dict[str, Any]] = [{"a": 25, "b": [1]}, {"b": [1.0], "a": 25.0}]
    others: list[dict[str, Any]] = [
        {"a": 26, "b": [1]},
        {"a": "25", "b": [1]},
        {"a": 25},
        {"a": True, "b": [1]},
    ]
    digests = {digest_of("charge", arguments) for arguments in same}

    assert len(digests) == 1
    assert len(digests | {digest_of("charge", arguments) for arguments in others}) == 5
    assert digest_of("refund", same[0]) not in digests


def test_a_call_is_counted_among_those_since_the_customers_last_words() -> None:
    """Of its kind, before it: in earlier messages and in its own."""

    def call(number: int, amount: int) -> Any:
        return {"name": "charge", "args": {"amount": amount}, "id": f"call-{number}"}

    messages = [
        AIMessage("", tool_calls=[call(0, 25)]),
        HumanMessage("Pago"),
        AIMessage("", tool_calls=[call(1, 25), call(2, 9)]),
        AIMessage("", tool_calls=[call(3, 25), call(4, 25), call(5, 9)]),
    ]
    made = [number_of(call(n, amount), messages) for n, amount in [(3, 25), (4, 25), (5, 9)]]

    assert made == [2, 3, 2]
    assert number_of(call(7, 7), []) == 1


@pytest.mark.parametrize(
    "given",
    [{"unknown": "guess"}, {"tools": {"charge": "guess"}}, {"tools": "charge"}],
    ids=str,
)
def test_a_policy_that_does_not_exist_is_refused(given: Any) -> None:
    """And so is a single name, whose letters would be names."""
    with pytest.raises(
        ConfigurationError, match=r'"ask" or "retry" or "hold", not|a list of texts'
    ):
        OnceToolsMiddleware(**given)
