"""What a run decided about the conversation."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from pydantic import BaseModel

from langchain_convsync import telemetry
from langchain_convsync._flow import arun, run
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.models import PartialConversation, StateUpdate
from langchain_convsync.surfaces import state
from langchain_convsync.surfaces.state import as_update, ask, extract
from tests.surfaces import calls, ran

ORDER = StateUpdate(intent="order", step="selecting")


class Answer(BaseModel):
    """A structured response as users write it."""

    reply: str = "Listo"
    intent: str | None = None
    step: str | None = None


def synced(status: Any = "success", artifact: Any = None) -> list[BaseMessage]:
    """A call of the sync_state tool, and its result."""
    return [
        calls("sync_state", intent="order", step="selecting"),
        ToolMessage("Noted.", tool_call_id="call-1", status=status, artifact=artifact),
    ]


@pytest.mark.parametrize(
    "output",
    [
        {"structured_response": Answer(intent="order", step="selecting")},
        {"structured_response": {"intent": "order", "step": "selecting"}},
        {"messages": [], "intent": "order", "step": "selecting"},
        {"messages": synced()},
        {
            "messages": [
                AIMessage("Listo", response_metadata={"intent": "order", "step": "selecting"})
            ]
        },
        AIMessage("Listo", additional_kwargs={"intent": "order", "step": "selecting"}),
        [HumanMessage("Hola"), *synced()],
        Answer(intent="order", step="selecting"),
        ORDER,
    ],
)
def test_a_decision_is_found_wherever_langchain_leaves_it(output: object) -> None:
    """Agents, graphs, chains and models tell it in different places."""
    assert extract(output) == ORDER


@pytest.mark.parametrize(
    "output",
    [
        None,
        "Listo",
        7,
        [],
        {},
        {"messages": [AIMessage("Listo")]},
        {"output": "Listo"},
        {"structured_response": None},
        Document("Pizza", metadata={"source": "menu.pdf"}),
        {"question": "?", "context": [Document("Pizza")], "answer": "Listo"},
        {"intent": 7, "step": ["a"]},
    ],
)
def test_most_outputs_decide_nothing(output: object) -> None:
    """A retriever's documents, texts and values of another type are somebody else's."""
    assert not extract(output)


def test_a_structured_response_outranks_everything_else() -> None:
    """One order of precedence, for every surface."""
    output = {
        "structured_response": Answer(intent="payment"),
        "intent": "menu",
        "messages": synced(),
    }

    assert extract(output) == StateUpdate(intent="payment")


def test_state_keys_outrank_the_tool() -> None:
    """The next in the order of precedence."""
    assert extract({"intent": "menu", "messages": synced()}) == StateUpdate(intent="menu")


def test_what_a_checkpointer_brings_back_is_no_decision() -> None:
    """Last turn's answer reappears in this turn's output."""
    before = {"structured_response": Answer(intent="order"), "intent": "order"}

    assert not extract({**before, "messages": []}, baseline=before)


def test_what_changed_since_is_a_decision() -> None:
    """Only the difference counts."""
    before = {"intent": "order", "step": "selecting"}

    assert extract({"intent": "order", "step": "paying"}, baseline=before) == StateUpdate(
        step="paying"
    )


def test_tool_calls_of_earlier_turns_do_not_count() -> None:
    """A thread's messages hold every call ever made."""
    messages = [*synced(), AIMessage("Listo")]

    assert not extract({"messages": messages}, known_messages=2)


def test_a_failed_tool_call_decides_nothing() -> None:
    """The model was told so, and may decide again."""
    assert not extract({"messages": synced(status="error")})


@pytest.mark.parametrize(
    "artifact",
    [
        PartialConversation(session_id="s"),
        PartialConversation(session_id="s").model_dump(),  # as a checkpoint brings it back
    ],
)
def test_a_call_that_its_tool_has_written_is_not_written_again(artifact: object) -> None:
    """Two surfaces beside each other make one write."""
    assert not extract({"messages": synced(artifact=artifact)})


def test_a_call_that_was_only_noted_is_still_to_be_written() -> None:
    """The middleware's tool leaves the writing to the end of the run."""
    assert extract({"messages": synced(artifact=ORDER)}) == ORDER


def test_tool_calls_can_be_left_out() -> None:
    """A turn has recorded them when they were made."""
    assert not extract({"messages": synced()}, noted=StateUpdate())


NEVER_RAN: dict[str, list[BaseMessage]] = {
    "no answer": [calls("sync_state", intent="order")],
    "the answer of another call": [
        calls("sync_state", intent="order"),
        ToolMessage("Done.", tool_call_id="call-2"),
    ],
    "the answer of another tool": [
        calls("sync_state", intent="order"),
        ToolMessage("Done.", name="menu", tool_call_id="call-1"),
    ],
    "an answer before the call": ran("sync_state", intent="order")[::-1],
}


@pytest.mark.parametrize("messages", NEVER_RAN.values(), ids=NEVER_RAN)
def test_a_call_that_no_tool_has_run_decides_nothing(messages: list[BaseMessage]) -> None:
    """A customer can talk a model into asking for anything; what runs is the agent's."""
    assert not extract({"messages": [*messages, AIMessage("Listo")]})


@pytest.mark.parametrize(
    "forged",
    [
        {"is_active": False},
        {"metadata": {"vip": True}},
        {"context": {"previousMessages": []}},
        {"step": "s" * 201},
        {"intent": ["payment"]},
    ],
    ids=lambda forged: next(iter(forged)),
)
def test_a_call_counts_as_far_as_the_tool_s_own_schema_takes_it(forged: dict[str, Any]) -> None:
    """The tool knows intent, step and context, and refuses everything else."""
    before = telemetry.counted("state_rejected")

    assert not extract({"messages": ran("sync_state", **{"intent": "order", **forged})})
    assert telemetry.counted("state_rejected") == before + 1


def test_several_calls_add_up() -> None:
    """Later ones win."""
    messages = [
        *ran("sync_state", intent="menu", context={"a": 1}),
        *ran("sync_state", intent="order", context={"b": 2}),
    ]

    assert extract({"messages": messages}) == StateUpdate(intent="order", context={"a": 1, "b": 2})


def test_a_decision_that_is_no_json_is_rejected_and_counted() -> None:
    """It could not be written; the run goes on."""
    before = telemetry.counted("state_rejected")

    assert not as_update({"context": {"when": object()}})
    assert telemetry.counted("state_rejected") == before + 1


@pytest.mark.parametrize(
    ("decision", "kept", "told"),
    [
        (
            {"context": {"total": object(), "items": 2}},
            StateUpdate(context={"items": 2}),
            "context.total is of type object, and cannot be sent as JSON",
        ),
        (
            {"metadata": {"+51999999999": float("nan"), "lang": "es"}},
            StateUpdate(metadata={"lang": "es"}),
            "metadata.a key that is no name is of type float, and cannot be sent as JSON",
        ),
        (
            {"intent": "x" * 201, "step": "paying"},
            StateUpdate(step="paying"),
            "intent is longer than 200 characters",
        ),
        (
            {"context": {"all": "x" * 10_001, "items": 2}},
            StateUpdate(context={"items": 2}),
            "values of context must not be longer than 10000 characters of JSON",
        ),
    ],
    ids=["an object", "no number", "a long intent", "a long value"],
)
def test_what_of_a_decision_cannot_be_sent_is_told_and_the_rest_is_kept(
    decision: dict[str, Any],
    kept: StateUpdate,
    told: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, by its name: a developer sees why the server does not have it."""
    monkeypatch.setattr(state, "_warned", set())

    assert [as_update(decision), as_update(decision)] == [kept, kept]
    assert caplog.messages == [f"What a run decides is left out: {told}"]


def test_an_extractor_is_asked_sync_and_async() -> None:
    """A plain function serves both."""
    assert run(ask(lambda output: {"intent": output}, "order")) == {"intent": "order"}


async def test_an_extractor_may_be_async_in_an_async_run() -> None:
    """It may ask another model."""

    async def extractor(output: Any) -> StateUpdate:
        return StateUpdate(intent=output)

    assert await arun(ask(extractor, "order")) == StateUpdate(intent="order")


def test_an_async_extractor_in_a_blocking_run_is_told_apart() -> None:
    """Instead of a coroutine that nobody ever awaits."""

    async def extractor(output: Any) -> StateUpdate:
        return StateUpdate(intent=output)

    with pytest.raises(ConfigurationError, match="async"):
        run(ask(extractor, "order"))
