"""How much a prompt holds, and how much a run may decide."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync import TurnRunner, telemetry
from langchain_convsync.contents import Quoted
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.middleware import ConvSyncMiddleware
from langchain_convsync.models import Conversation, InboundEvent, StateUpdate
from langchain_convsync.stores.base import Acquired, Lease, QueuedEvent
from langchain_convsync.surfaces.bounds import MOST_CHARACTERS, MOST_MESSAGES, recent
from langchain_convsync.surfaces.prompts import as_data, state_section
from langchain_convsync.surfaces.state import as_update, extract
from langchain_convsync.turns import bounds
from langchain_convsync.turns.turn import payload_of
from tests.surfaces import ran, unreachable


def stored(context: dict[str, Any], **fields: Any) -> Conversation:
    facts: dict[str, Any] = {"session_id": "s", "user_id": "+51999999999", "bot_id": "b"}
    return Conversation(**{**facts, "subdomain": "\U000e0041" * 300, "context": context, **fields})


CONTEXTS: dict[str, dict[str, Any]] = {
    "many keys": {f"key {n}" * 10: "x" * 100 for n in range(5000)},
    "a long value": {"a": "x" * 1_000_000},
    "a long key": {"k" * 1_000_000: 1},
    "text that grows when it is escaped": {"a": "\u2028" * 2000},
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_the_state_section_is_4_000_characters_at_most(context: dict[str, Any]) -> None:
    """Whatever the tenant's server keeps; what is left out is told and counted."""
    before = telemetry.counted("cuts", what="state")
    conversation = stored(context, current_intent="\U000e0041" * 9999, current_step="<" * 9999)

    section = state_section(conversation, context.keys())

    assert len(section) <= 4000
    assert "left_out" in section or "more characters are left out" in section
    told = json.loads(
        section.split("<conversation_state>")[1].removesuffix("</conversation_state>")
    )
    assert len(told.get("context_keys", ())) + told.get("context_keys_left_out", 0) == len(context)
    assert telemetry.counted("cuts", what="state") == before + 1
    assert len(as_data(conversation)) <= 4000


def test_a_tool_tells_no_more_of_the_history_than_a_prompt_holds() -> None:
    """Fifty messages of the longest kind are not all told."""
    said = [{"role": "user", "content": f"{n} " + "x" * 60_000} for n in range(50)]
    told = json.loads(as_data(stored({"previousMessages": said}), messages=50))
    assert sum(len(str(each)) for each in told["last_messages"]) <= 50_000
    assert told["earlier_messages_left_out"] == 50 - len(told["last_messages"])
    assert told["last_messages"][-1]["user"].startswith("49 x")


def history(number: int, length: int = 1) -> list[BaseMessage]:
    kinds: list[Callable[..., BaseMessage]] = [HumanMessage, AIMessage]
    return [kinds[n % 2](content=f"{n} ".ljust(length, "x"), id=str(n)) for n in range(number)]


def test_a_prompt_holds_the_end_of_a_history() -> None:
    """Its first message says how many are left out; the operator has a counter."""
    before = telemetry.counted("cuts", what="history")
    told = recent(history(1000))
    assert [message.id for message in told] == [str(n) for n in range(900, 1000)]
    assert told[0].content == "[900 earlier messages are left out]\n900 "
    assert len(told) == MOST_MESSAGES
    assert telemetry.counted("cuts", what="history") == before + 1


def test_a_prompt_holds_so_many_characters_of_a_history() -> None:
    """The last message is told in any case, cut if need be."""
    told = recent(history(50, 10_000))
    assert sum(len(str(message.content)) for message in told) <= MOST_CHARACTERS + 100
    assert told[-1].id == "49"
    (last,) = recent(history(1, 300_000))
    assert len(str(last.content)) == MOST_CHARACTERS
    assert str(last.content).endswith("more characters are left out]")
    assert recent(history(5)) == history(5)
    assert recent([]) == []


@pytest.mark.parametrize(
    ("most", "told"),
    [(10, "0 1 2 3 4 5"), (6, "0 1 2 3 4 5"), (5, "2 3 4 5"), (3, "4 5"), (2, "4 5"), (1, "5")],
)
def test_what_is_left_of_a_history_begins_with_the_customers_words(most: int, told: str) -> None:
    """Half an exchange is none; only where they say nothing in it, it begins with the bot's."""
    assert [message.id for message in recent(history(6), most)] == told.split()


def test_a_history_that_is_whole_may_begin_with_the_bots_words() -> None:
    """Nothing is left out before it."""
    assert recent(history(6)[1:]) == history(6)[1:]


@pytest.mark.parametrize("limit", [0, -1, True, 2.5, "10", None])
@pytest.mark.parametrize("bounded", [ConvSyncMiddleware, TurnRunner])
def test_a_limit_is_a_number_of_messages(bounded: Any, limit: Any) -> None:
    """A limit of none would be no memory at all."""
    given = [] if bounded is ConvSyncMiddleware else [RunnableLambda(str)]

    with pytest.raises(ConfigurationError, match="history_limit"):
        bounded(*given, client=unreachable(), history_limit=limit)


TOO_MUCH: dict[str, tuple[dict[str, Any], StateUpdate]] = {
    "intent": ({"intent": "i" * 201, "step": "s"}, StateUpdate(step="s")),
    "step": ({"intent": "i", "step": "s" * 201}, StateUpdate(intent="i")),
    "key": ({"intent": "i", "context": {"k" * 201: 1}}, StateUpdate(intent="i")),
    "value": (
        {"intent": "i", "context": {"a": "v" * 10_001, "b": ["v" * 9] * 2000, "c": 1}},
        StateUpdate(intent="i", context={"c": 1}),
    ),
    "keys": (
        {"intent": "i", "context": {str(n): n for n in range(300)}},
        StateUpdate(intent="i", context={str(n): n for n in range(200)}),
    ),
}
#: The ways in which a run tells what it decided.
TELLING: dict[str, Callable[[dict[str, Any]], StateUpdate]] = {
    "extractor": as_update,
    "update": lambda decision: as_update(StateUpdate(**decision)),
    "structured response": lambda decision: extract({"structured_response": decision}),
    "state keys": lambda decision: extract({"messages": [], **decision}),
    "metadata": lambda decision: extract(AIMessage("Listo", response_metadata=decision)),
}


@pytest.mark.parametrize("tell", TELLING.values(), ids=TELLING)
@pytest.mark.parametrize(("decision", "left"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_is_too_long_is_not_decided(
    tell: Callable[[dict[str, Any]], StateUpdate], decision: dict[str, Any], left: StateUpdate
) -> None:
    """Half of an intent is another one; everything else is kept, and the rest is counted."""
    before = telemetry.counted("state_rejected")
    assert tell(decision) == left
    assert telemetry.counted("state_rejected") == before + 1


@pytest.mark.parametrize(("decision", "_"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_tool_refuses_what_is_too_long(decision: dict[str, Any], _: StateUpdate) -> None:
    """The model is told, so nothing of the call counts."""
    assert not extract({"messages": ran("sync_state", **decision)})


def queued(*texts: str) -> Acquired:
    events = tuple(
        QueuedEvent(
            event_key=str(n),
            payload=payload_of(InboundEvent(event_id=str(n), text=text)),
            accepted_at=0.0,
        )
        for n, text in enumerate(texts)
    )
    lease = Lease(conversation_key="c", queue="inbox", token="t", epoch=1, until=0.0)
    return Acquired(lease=lease, events=events, now=0.0)


@pytest.mark.parametrize(
    ("texts", "taken"),
    [
        (["a"] * 5, 5),
        (["a"] * 800, 500),
        (["ñ" * 40_000] * 4, 2),
        (["ñ" * 400_000, "a"], 1),
        ([" a"] * 3, 3),
    ],
)
def test_a_turn_takes_a_prefix_of_the_inbox(texts: list[str], taken: int) -> None:
    """One event at least, and not more than a prompt takes."""
    acquired = queued(*texts)
    assert bounds.head_of(acquired).events == acquired.events[:taken]


def test_an_event_keeps_no_more_text_than_whatsapp_takes() -> None:
    """Its notes included; the model and the operator are told."""
    before = telemetry.counted("cuts", what="text")
    event = InboundEvent(event_id="e", text="x" * 100_000, notes=("n" * 100_000, "m"))
    kept = bounds.shortened(event)
    assert len(kept.content) <= bounds.LONGEST_TEXT
    assert kept.text.endswith("more characters are left out]")
    assert telemetry.counted("cuts", what="text") == before + 1
    noted = InboundEvent(event_id="e", text="x", notes=("n" * 100_000,))
    assert len(bounds.shortened(noted).content) <= bounds.LONGEST_TEXT
    quoting = InboundEvent(event_id="e", text="x" * 100_000, quoted=Quoted(text="q" * 100_000))
    assert len(bounds.shortened(quoting).content) <= bounds.LONGEST_TEXT
    short = InboundEvent(event_id="e", text="x", notes=("n",))
    assert bounds.shortened(short) is short
