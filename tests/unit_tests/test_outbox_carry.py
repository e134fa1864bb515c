"""Writes that replace what is on the server carry all of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from langchain_convsync.models import Conversation, ConversationMessage, StateUpdate
from langchain_convsync.outbox.carry import carried, place_written
from langchain_convsync.outbox.job import WriteJob
from langchain_convsync.outbox.plan import ATTEMPT, Anchor, Send, Verify, Wait, Write, plan
from langchain_convsync.settings import ServerProfile
from langchain_convsync.stores.base import Acquired, Cursor, Lease, Operation

SYNCED = ServerProfile(history="sync", settle=10.0)
REPLACED = ServerProfile(context_sync="replace")
BOTH = ServerProfile(history="sync", context_sync="replace")
START = datetime(2026, 1, 1, tzinfo=UTC)


def entry(text: str, second: int = 0, **more: Any) -> dict[str, Any]:
    at = (START + timedelta(seconds=second)).isoformat(timespec="milliseconds")
    return {"role": "user", "content": text, "timestamp": at.replace("+00:00", "Z"), **more}


def read(*entries: dict[str, Any], **context: Any) -> Conversation:
    return Conversation(
        session_id="s1",
        user_id="+51999999999",
        bot_id="bot123",
        subdomain="restaurant-abc",
        context={"previousMessages": list(entries), **context},
    )


def write(kind: Any = "append", *texts: str, **update: Any) -> Write:
    roles = ["user", "bot"]
    return Write(
        kind=kind,
        phone_number="+51999999999",
        session_id="s1",
        bot_id="bot123",
        subdomain="restaurant-abc",
        turn="t2",
        number=2,
        decided_at=START.timestamp(),
        messages=tuple(
            ConversationMessage(role=roles[place % 2], content=text)
            for place, text in enumerate(texts)
        ),
        update=StateUpdate(**update),
    )


def test_a_synced_append_carries_the_history_as_read_and_its_messages() -> None:
    """Entries stay as they are, fields that nobody here knows included."""
    old = entry("hola", mediaId="m1")

    context = carried(read(old, orderTotal=5), write("append", "sí", "ok"), 0, SYNCED)

    assert context["previousMessages"][0] == old
    assert [(e["role"], e["content"]) for e in context["previousMessages"][1:]] == [
        ("user", "sí"),
        ("bot", "ok"),
    ]
    assert context["lastUserMessage"] == "sí"
    assert "orderTotal" not in context


def test_new_messages_are_later_than_all_others() -> None:
    """Readers sort by time, and another clock may be ahead."""
    context = carried(read(entry("hola", 60)), write("append", "sí", "ok"), 0, SYNCED)

    assert [e["timestamp"] for e in context["previousMessages"]] == [
        "2026-01-01T00:01:00.000Z",
        "2026-01-01T00:01:00.001Z",
        "2026-01-01T00:01:00.002Z",
    ]


def test_what_was_confirmed_before_is_not_written_again() -> None:
    """The first messages of an append may have been posted before the profile changed."""
    context = carried(read(entry("sí")), write("append", "sí", "ok"), 1, SYNCED)

    assert [e["content"] for e in context["previousMessages"]] == ["sí", "ok"]
    assert "lastUserMessage" not in context


def test_the_oldest_messages_beyond_the_cap_are_left_out() -> None:
    """The server would keep no more."""
    capped = ServerProfile(history="sync", history_cap=3)
    history = [entry("a", 1), entry("b", 2)]

    context = carried(read(*history), write("append", "c", "d"), 0, capped)

    assert [e["content"] for e in context["previousMessages"]] == ["b", "c", "d"]


@pytest.mark.parametrize("profile", [REPLACED, BOTH])
def test_a_sync_carries_the_whole_context_where_it_would_be_replaced(
    profile: ServerProfile,
) -> None:
    """The server's own keys too, or the history would be gone."""
    conversation = read(entry("hola"), lastUserMessage="hola", orderTotal=5)

    context = carried(conversation, write("sync_state", context={"a": 1}), 0, profile)

    assert context == conversation.context


def test_an_append_carries_the_rest_where_the_context_would_be_replaced() -> None:
    """The tenant's own keys survive the history."""
    context = carried(read(orderTotal=5), write("append", "sí"), 0, BOTH)

    assert context["orderTotal"] == 5
    assert context["lastUserMessage"] == "sí"


@pytest.mark.parametrize(
    ("profile", "what"),
    [
        (SYNCED, write("append", "sí")),
        (REPLACED, write("sync_state", context={"a": 1})),
    ],
)
def test_what_carries_a_read_reads_first(profile: ServerProfile, what: Write) -> None:
    """However fresh the turn is: the list on the server is the one to extend."""
    unsent, now = Cursor(operation_id="t2/0"), START.timestamp()

    assert plan(what, unsent, now=now, profile=profile) == Verify(0)
    assert plan(what, unsent, now=now, profile=profile, verified=True) == Send(0, 1)


@pytest.mark.parametrize(
    ("profile", "what"),
    [
        (SYNCED, write("sync_state", context={"a": 1})),
        (REPLACED, write("append", "sí")),
        (REPLACED, write("sync_state", step="x")),
    ],
)
def test_what_replaces_nothing_is_sent_at_once(profile: ServerProfile, what: Write) -> None:
    """A read more would be for nothing."""
    step = plan(what, Cursor(operation_id="t2/0"), now=START.timestamp(), profile=profile)

    assert step == Send(0, 1)


def test_a_key_does_not_make_a_carrying_write_safe_to_repeat() -> None:
    """Its body is another one by then: it is verified like one without a key."""
    keyed = ServerProfile(history="sync", idempotency_keys=True, settle=10.0)
    cursor = Cursor(operation_id="t2/0", sent_at=100.0, tries=1)
    sent = write("append", "sí")

    assert plan(sent, cursor, now=101.0, profile=keyed) == Wait(ATTEMPT + 9.0)
    assert plan(sent, cursor, now=115.0, profile=keyed) == Verify(0)


@pytest.mark.parametrize(("carries", "same"), [(True, False), (False, True)])
def test_a_key_stands_for_one_body(carries: bool, same: bool) -> None:
    """Servers refuse a known key with another body, and what carries a read has one each time."""
    lease = Lease(conversation_key="c", queue="outbox", token="t", epoch=1, until=0.0)
    acquired, operation, sent = (
        Acquired(lease=lease, now=0.0),
        Operation(id="t2/0", body=""),
        write("append", "sí"),
    )
    first, second = (
        WriteJob(
            acquired=acquired,
            operation=operation,
            write=sent,
            cursor=Cursor(operation_id="t2/0", tries=tries),
            carries=carries,
        ).key
        for tries in (1, 2)
    )

    assert (first == second) is same


def test_what_one_put_wrote_stands_right_after_the_anchor() -> None:
    """Whatever was said later comes after it."""
    before = read(entry("sí", 1)).messages
    anchor = Anchor.at_end("s1", before)
    messages = write("append", "sí", "ok").messages
    later = read(entry("sí", 9)).messages

    assert place_written([*before, *messages], messages, anchor) == 2
    assert place_written([*before, *messages, *later], messages, anchor) == 2


def test_the_same_words_of_another_writer_are_not_the_write() -> None:
    """Only all of its messages, in their order, are: a PUT writes all or none."""
    before = read(entry("hola", 1)).messages
    anchor = Anchor.at_end("s1", before)
    messages = write("append", "sí", "ok").messages

    assert place_written([*before, messages[0]], messages, anchor) is None
    assert place_written([*before, messages[1], *messages], messages, anchor) is None
    assert place_written(before, messages, anchor) is None


@pytest.mark.parametrize("anchor", [None, Anchor.at_end("s1", read(entry("gone")).messages)])
def test_without_its_anchor_it_is_unknown_whether_a_put_was_applied(
    anchor: Anchor | None,
) -> None:
    """Guessing would lose or double messages."""
    messages = write("append", "sí").messages

    with pytest.raises(LookupError):
        place_written(messages, messages, anchor)
