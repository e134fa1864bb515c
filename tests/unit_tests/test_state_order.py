"""What a run decided: which of its traces counts, what is old, and what nobody could send."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import BaseModel

from langchain_convsync import telemetry
from langchain_convsync._flow import run
from langchain_convsync.callbacks import AsyncConvSyncCallbackHandler, ConvSyncCallbackHandler
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.models import StateUpdate
from langchain_convsync.surfaces.state import as_update, ask, extract
from langchain_convsync.testing import ScriptedChatModel
from tests.surfaces import calls, in_turn, invoke, ran, sync_and_async, unreachable


class Intent(Enum):
    """The intents of somebody's bot."""

    ORDER = "order"


class Item(BaseModel):
    """Something nested."""

    name: str
    price: Decimal


class Loose(BaseModel):
    """A model with a field that is no JSON."""

    intent: str = "order"
    client: object = object()


class Derived(BaseModel):
    """A model with a property of a telling name."""

    intent: str = "order"

    @property
    def context(self) -> dict[str, str]:
        """Somebody else's."""
        return {"internal": "x"}


@dataclass
class Plain:
    """A structured response as a dataclass."""

    intent: str = "order"


#: Every trace that a run can leave of a decision, strongest first.
TRACES: dict[str, dict[str, Any]] = {
    "structured response": {"structured_response": {"intent": "1"}},
    "state keys": {"intent": "2"},
    "tool call": {"messages": ran("sync_state", intent="3")},
    "metadata": {"messages": [AIMessage("Listo", response_metadata={"intent": "4"})]},
}


def leaving(traces: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The output of a run that leaves these traces."""
    merged: dict[str, Any] = {}
    for trace in traces.values():
        merged |= {**trace, "messages": [*merged.get("messages", ()), *trace.get("messages", ())]}
    return merged


def by_extract(output: dict[str, Any]) -> StateUpdate:
    return extract(output)


def by_handler(output: dict[str, Any]) -> StateUpdate:
    runnable: Runnable[Any, Any] = RunnableLambda(lambda _: output)
    with in_turn() as record:
        runnable.invoke("?", {"callbacks": [ConvSyncCallbackHandler(unreachable())]})
    return record.update


@pytest.mark.parametrize("surface", [by_extract, by_handler])
@pytest.mark.parametrize("missing", range(len(TRACES)))
def test_the_strongest_trace_of_a_decision_wins(
    missing: int, surface: Callable[[dict[str, Any]], StateUpdate]
) -> None:
    """Without it, the next one does."""
    left = dict(list(TRACES.items())[missing:])

    assert surface(leaving(left)) == StateUpdate(intent=f"{missing + 1}")


@pytest.mark.parametrize("kind", [ConvSyncCallbackHandler, AsyncConvSyncCallbackHandler])
@sync_and_async
async def test_the_extractor_wins_over_all_of_them(kind: Any, mode: str) -> None:
    """What its user says about a run is not second-guessed; None leaves it to the traces."""
    output = leaving(TRACES)

    def run_of(decision: Any) -> tuple[Runnable[Any, Any], Any]:
        handler = kind(unreachable(), extractor=lambda _: decision)
        return RunnableLambda(lambda _: output), {"callbacks": [handler]}

    updates = []
    for decision in ({"intent": "0"}, StateUpdate(intent="0"), {}, None):
        runnable, config = run_of(decision)
        with in_turn() as record:
            await invoke(mode, runnable, "?", config)
        updates.append(record.update.intent)

    assert updates == ["0", "0", None, "1"]


@pytest.mark.parametrize("trace", TRACES)
def test_every_trace_of_an_earlier_turn_is_old(trace: str) -> None:
    """A checkpointer brings all of them back; only the messages that came since are read."""
    before = TRACES[trace]
    kept = before.get("messages", [])

    assert not extract(before, baseline=before, known_messages=len(kept))


@pytest.mark.parametrize("trace", TRACES)
def test_every_trace_of_this_turn_counts_beside_the_old_ones(trace: str) -> None:
    """The same kind of trace again, or another one."""
    before = leaving(TRACES)
    fresh: dict[str, dict[str, Any]] = {
        "structured response": {"structured_response": {"intent": "new"}},
        "state keys": {"intent": "new"},
        "tool call": {"messages": ran("sync_state", intent="new")},
        "metadata": {"messages": [AIMessage("", response_metadata={"intent": "new"})]},
    }
    messages = [*before["messages"], *fresh[trace].get("messages", ())]

    update = extract(
        {**before, **fresh[trace], "messages": messages},
        baseline=before,
        known_messages=len(before["messages"]),
    )

    assert update == StateUpdate(intent="new")


def test_of_a_context_that_was_kept_only_what_changed_is_decided() -> None:
    """An old value would overwrite what a colleague has noted since."""
    before = {"context": {"address": "Av. 1", "total": 20}, "metadata": {"language": "es"}}
    after = {"context": {"address": "Av. 1", "total": 25, "paid": None}, "metadata": {}}

    assert extract(after, baseline=before) == StateUpdate(context={"total": 25, "paid": None})


def test_a_message_of_the_customer_decides_nothing() -> None:
    """Whatever its metadata says."""
    assert not extract({"messages": [HumanMessage("Hola", additional_kwargs={"intent": "order"})]})


def test_metadata_of_an_earlier_message_decides_nothing() -> None:
    """The last word counts."""
    messages = [AIMessage("Uno", response_metadata={"intent": "order"}), AIMessage("Dos")]

    assert not extract({"messages": messages})


@pytest.mark.parametrize(
    "malformed",
    [
        {"intent": 7},
        {"intent": ["order"]},
        {"intent": ""},
        {"intent": "  "},
        {"intent": None},
        {"intent": "ord\ud800"},
        {"context": ["order"]},
        {"context": "order"},
        {"context": {}},
        {"context": {"total": math.nan}},
        {"context": {"when": object()}},
        {"context": {"raw": b"\xff"}},
        {"metadata": 7},
        {"is_active": "no"},
        {"is_active": 0},
        "order",
        7,
        None,
        ["intent"],
        [("intent", "order")],
    ],
)
@pytest.mark.parametrize(
    "trace",
    [
        lambda value: {"structured_response": value},
        lambda value: value,
        lambda value: {
            "messages": [
                AIMessage("", response_metadata={"intent": value.get("intent")})
                if isinstance(value, dict)
                else AIMessage("")
            ]
        },
        as_update,
    ],
    ids=["structured response", "state keys", "metadata", "extractor"],
)
def test_a_malformed_value_decides_nothing(trace: Callable[[Any], Any], malformed: Any) -> None:
    """And fails no run."""
    assert not extract(trace(malformed))


@pytest.mark.parametrize("args", [{"intent": 7}, {"intent": ""}, {"context": "?"}, {}])
def test_a_malformed_call_decides_nothing(args: dict[str, Any]) -> None:
    """A model alone has nobody who refuses it."""
    assert not extract({"messages": ran("sync_state", **args)})


def test_a_call_of_another_tool_decides_nothing() -> None:
    """Whatever its arguments are called."""
    assert not extract({"messages": ran("search", intent="order")})


def test_a_call_whose_tool_was_refused_by_a_human_decides_nothing() -> None:
    """LangChain answers it with an error."""
    refused = ToolMessage("No", tool_call_id="call-1", status="error")

    assert not extract({"messages": [calls("sync_state", intent="order"), refused]})


def test_one_field_that_cannot_be_sent_costs_no_other() -> None:
    """It is left out, and counted."""
    before = telemetry.counted("state_rejected")

    update = as_update({"intent": "order", "context": {"when": object()}, "step": 7})

    assert update == StateUpdate(intent="order")
    assert telemetry.counted("state_rejected") == before + 1


@pytest.mark.parametrize(
    "decision", [Loose(), Derived(), Plain(), {"intent": Intent.ORDER}, {"intent": " order "}]
)
def test_a_decision_may_be_of_any_kind_that_has_the_fields(decision: object) -> None:
    """What else it holds is not looked at."""
    assert extract({"structured_response": decision}) == StateUpdate(intent="order")


def test_values_that_are_almost_json_become_json() -> None:
    """Graphs keep dates, decimals and models in their state."""
    noon = datetime(2025, 12, 29, 12, tzinfo=UTC)
    item = Item(name="pizza", price=Decimal("25.50"))

    update = extract({"context": {"items": [item], "at": noon, "kind": Intent.ORDER}})

    assert update.context == {
        "items": [{"name": "pizza", "price": "25.50"}],
        "at": "2025-12-29T12:00:00Z",
        "kind": "order",
    }


@sync_and_async
async def test_values_that_cannot_be_sent_are_refused_to_the_model(mode: str) -> None:
    """It is told so, instead of being told that they were noted."""
    call = calls("sync_state", context={"total": math.nan})
    model = ScriptedChatModel([call, "Listo"])
    agent: Runnable[Any, Any] = create_agent(model, middleware=[ConvSyncMiddleware(unreachable())])

    with in_turn() as record:
        result = await invoke(mode, agent, {"messages": [("user", "?")]})

    assert "cannot be sent" in result["messages"][2].content
    assert not record.update


@pytest.mark.parametrize(
    ("decision", "told"),
    [
        ("order", "it is of type str: return a StateUpdate, a dict, or None"),
        (["a"], "it is of type list"),
        ({"intent": 5}, "intent is of type int"),
        ({"context": "x"}, "context is of type str"),
        ({"+51999999999": 1}, "no field a key that is no name"),
        ({"currentIntent": 5}, "intent is of type int"),
    ],
)
def test_what_an_extractor_says_in_vain_is_told_once(
    decision: Any, told: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left out and why, and no customer's number."""
    monkeypatch.setattr("langchain_convsync.surfaces.state._warned", set())
    for _ in range(2):
        run(ask(lambda _: decision, "Hola"))

    [line] = caplog.messages
    assert line.startswith("What the extractor says is left out: ")
    assert told in line
    assert "999" not in line
