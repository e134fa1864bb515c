"""What the outbox decides, from records alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_convsync.models import Conversation, ConversationMessage, StateUpdate
from langchain_convsync.outbox.plan import (
    ATTEMPT,
    FRESH,
    Anchor,
    Send,
    Verify,
    Wait,
    Write,
    is_applied,
    is_recorded,
    overlay,
    plan,
)
from langchain_convsync.settings import ServerProfile
from langchain_convsync.stores.base import Cursor

PLAIN = ServerProfile(settle=10.0)
KEYED = ServerProfile(idempotency_keys=True)
START = datetime(2026, 1, 1, tzinfo=UTC)


def said(*texts: str, role: str = "user", timed: bool = True) -> list[ConversationMessage]:
    return [
        ConversationMessage(
            role=role, content=text, timestamp=START + timedelta(seconds=i) if timed else None
        )
        for i, text in enumerate(texts)
    ]


def conversation(history: list[ConversationMessage], **fields: Any) -> Conversation:
    entries = [message.model_dump(mode="json") for message in history]
    return Conversation(
        session_id="s1",
        user_id="+51999999999",
        bot_id="bot123",
        subdomain="restaurant-abc",
        context={"previousMessages": entries, "orderTotal": 25},
        **fields,
    )


def write(kind: Any = "append", *texts: str, update: StateUpdate | None = None) -> Write:
    return Write(
        kind=kind,
        phone_number="+51999999999",
        session_id="s1",
        bot_id="bot123",
        subdomain="restaurant-abc",
        turn="t2",
        number=2,
        decided_at=100.0,
        messages=tuple(said(*texts, timed=False)),
        update=update or StateUpdate(),
    )


def test_an_unsent_write_is_sent() -> None:
    """Nothing is in doubt yet."""
    step = plan(write("append", "a"), Cursor(operation_id="t2/0"), now=100.0, profile=PLAIN)

    assert step == Send(pos=0, attempt=1)


def test_a_write_without_an_answer_waits_until_it_surely_landed_or_never_will() -> None:
    """A verification that comes too early would double the message."""
    cursor = Cursor(operation_id="t2/0", pos=0, sent_at=100.0, tries=1)

    step = plan(write("append", "a"), cursor, now=101.0, profile=PLAIN)

    assert step == Wait(seconds=ATTEMPT + 10.0 - 1.0)


def test_a_settled_write_without_an_answer_is_verified_before_it_is_sent_again() -> None:
    """POST is not idempotent."""
    cursor = Cursor(operation_id="t2/0", pos=1, sent_at=100.0, tries=1)

    step = plan(write("append", "a", "b"), cursor, now=115.0, profile=PLAIN)

    assert step == Verify(pos=1)


def test_a_server_that_honours_keys_is_simply_asked_again() -> None:
    """The key makes the repetition safe, so nobody waits."""
    cursor = Cursor(operation_id="t2/0", pos=0, sent_at=100.0, tries=1)

    assert plan(write("append", "a"), cursor, now=101.0, profile=KEYED) == Send(pos=0, attempt=2)


@pytest.mark.parametrize(
    ("tries", "now"), [(1, 101.0), (0, 100.0 + FRESH + 1)], ids=["retried", "late"]
)
def test_an_old_sync_reads_before_it_writes(tries: int, now: float) -> None:
    """Somebody may have written newer state, or closed the conversation, meanwhile."""
    sync = write("sync_state", update=StateUpdate(step="x"))
    cursor = Cursor(operation_id="t2/1", tries=tries)

    assert plan(sync, cursor, now=now, profile=PLAIN) == Verify(pos=0)
    assert plan(sync, cursor, now=now, profile=PLAIN, verified=True) == Send(0, tries + 1)


def test_the_same_word_twice_is_two_messages() -> None:
    """Only what stands after the anchor counts: the customer may have said "sí" before."""
    history = said("sí", "ok")
    anchor = Anchor.at_end("s1", history)
    [message] = said("sí", timed=False)

    assert is_recorded(history, message, anchor) is None
    assert is_recorded([*history, message], message, anchor) == 2


def test_an_anchor_at_the_start_finds_the_first_message() -> None:
    """A fresh conversation has no last message."""
    [message] = said("hola")

    assert is_recorded([message], message, Anchor.at_end("s1", [])) == 0


@pytest.mark.parametrize("anchor", [None, Anchor.at_end("s1", said("forgotten"))])
def test_without_its_anchor_it_is_unknown(anchor: Anchor | None) -> None:
    """A server that truncates may have dropped it: guessing would lose or double a message."""
    [message] = said("hola")

    with pytest.raises(LookupError):
        is_recorded([message], message, anchor)


@given(st.lists(st.sampled_from(["a", "b"]), max_size=8), st.data())
def test_an_anchor_finds_its_own_entry_again(texts: list[str], data: st.DataObject) -> None:
    """Equal messages without timestamps are told apart by their occurrence."""
    history = said(*texts, timed=False)
    place = data.draw(st.integers(-1, len(history) - 1))

    assert Anchor.at("s1", history, place).index(history) == place


ALIKE: list[Any] = [
    {"role": "user", "content": ""},
    {"role": "user", "content": None},
    {"role": "user", "timestamp": "soon"},
    {"role": "", "content": "[]"},
    {"content": []},
    "no object",
]


@given(st.lists(st.sampled_from(ALIKE), max_size=8))
def test_the_end_of_a_history_is_found_in_it_whatever_a_server_stored(entries: list[Any]) -> None:
    """Only what reads like the last message is read to describe it, and all of that is."""
    read = conversation([]).with_history(entries)

    assert Anchor.end_of(read).index(read.said) == len(read.said) - 1


@pytest.mark.parametrize(
    ("mark", "applied"),
    [
        ({"turn": "t2", "n": 2}, True),
        ({"turn": "t9", "n": 3}, True),
        ({"turn": "t1", "n": 1}, False),
        ({"n": "x"}, False),
        ("garbage", False),
        (None, False),
    ],
)
def test_a_sync_is_recognised_by_its_mark_or_a_later_one(mark: object, applied: bool) -> None:
    """An older sync must not overwrite a newer one."""
    read = conversation([], metadata={"convsync": mark})

    assert is_applied(read, write("sync_state")) is applied


@given(st.integers(0, 3))
def test_the_overlay_shows_every_pending_message_once(arrived: int) -> None:
    """Whether a write arrived before the read or not, the agent sees it exactly once."""
    before = said("sí", "ok", timed=False)
    pending = write("append", "sí", "ok", "sí")
    read = conversation([*before, *pending.messages[:arrived]])

    seen = overlay(read, [pending], anchor=Anchor.at_end("s1", before))

    assert [m.content for m in seen.messages] == ["sí", "ok", "sí", "ok", "sí"]


def test_the_overlay_shows_the_state_that_is_on_its_way() -> None:
    """A turn does not wait for the writes of the one before."""
    sync = write("sync_state", update=StateUpdate(intent="payment", context={"orderTotal": 50}))
    read = conversation(said("hola"), current_intent="order", current_step="selecting")

    seen = overlay(read, [sync])

    assert (seen.current_intent, seen.current_step) == ("payment", "selecting")
    assert seen.context["orderTotal"] == 50
    assert [m.content for m in seen.messages] == ["hola"]


def test_the_overlay_leaves_state_alone_that_arrived_before_the_read() -> None:
    """Somebody may have changed it since: what is on the server is newer."""
    sync = write("sync_state", update=StateUpdate(intent="payment"))
    mark = {"convsync": {"turn": "t2", "n": 2}}
    read = conversation([], current_intent="support", metadata=mark)

    assert overlay(read, [sync]).current_intent == "support"


def test_a_sync_never_carries_what_belongs_to_the_server() -> None:
    """``previousMessages`` in a sync would replace the history."""
    update = StateUpdate(context={"previousMessages": [], "lastUserMessage": "x", "a": 1})

    assert write("sync_state", update=update).marked_update().wire() == {
        "context": {"a": 1},
        "metadata": {"convsync": {"turn": "t2", "n": 2}},
        "isActive": True,
    }


@pytest.mark.parametrize("other", [{"subdomain": "another"}, {"bot_id": "another"}])
def test_the_overlay_shows_nothing_of_another_tenant(other: dict[str, str]) -> None:
    """The customer's newest conversation may be somebody else's by the time of the read."""
    pending = [write("append", "Una pizza"), write("sync_state", update=StateUpdate(step="paying"))]
    theirs = [each.model_copy(update=other) for each in pending]
    read = conversation(said("Hola"))

    seen = overlay(read, theirs)

    assert (seen.messages, seen.current_step) == (read.messages, read.current_step)


def test_what_is_new_is_added_although_it_was_said_before() -> None:
    """A turn's own words: "sí" twice is two messages, also in what the next turn falls back on."""
    before = conversation(said("sí", "no"))

    after = overlay(before, [write("append", "sí")], is_new=True)

    assert [message.content for message in after.messages] == ["sí", "no", "sí"]
    assert [entry["content"] for entry in after.entries] == ["sí", "no", "sí"]
