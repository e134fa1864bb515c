"""What is decided about a reply whose sending got no clear answer."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from langchain_convsync.client import ChatMessage
from langchain_convsync.outbox import queue
from langchain_convsync.outbox.plan import Send, Verify, Wait
from langchain_convsync.outbox.reply import (
    ECHO_TIME,
    LOOK_BACK,
    QUOTABLE,
    REMEMBERED,
    SEND_TIME,
    SKEW,
    PendingFile,
    PendingReply,
    ReplyJob,
    echo_note,
    echo_of,
    is_ours,
    plan_reply,
    said_by,
    sent_of,
    standing_in,
    typing_time,
    words_like,
)
from langchain_convsync.stores.base import Acquired, Cursor, Lease, Operation, QueueView

SENT = datetime(2026, 1, 1, 12, tzinfo=UTC)
REPLY = PendingReply(turn="t1", chat_id="51999999999@c.us", text="¿Algo más?")


def own(
    message_id: str | None, text: str = REPLY.text, *, seconds: float | None = 0
) -> ChatMessage:
    """A message of ours, so many seconds after the reply was sent."""
    at = None if seconds is None else SENT + timedelta(seconds=seconds)
    return ChatMessage(message_id, text, at)


def found(chat: list[ChatMessage], known: tuple[str, ...] = ()) -> ChatMessage | None:
    return standing_in(REPLY, chat, since=SENT, known=known)


def test_what_was_not_sent_is_sent() -> None:
    """As the next try."""
    assert plan_reply(Cursor(operation_id="t1/0"), now=100.0, settle=10.0) == Send(0, 1)
    assert plan_reply(Cursor(operation_id="t1/0", tries=3), now=100.0, settle=10.0) == Send(0, 4)


def test_what_may_have_been_sent_is_looked_for_when_that_is_surely_over() -> None:
    """Not before: the request may still be on its way."""
    cursor = Cursor(operation_id="t1/0", sent_at=100.0, tries=1)

    assert plan_reply(cursor, now=101.0, settle=10.0) == Wait(SEND_TIME + 9.0)
    assert plan_reply(cursor, now=110.0 + SEND_TIME, settle=10.0) == Verify(0)


def test_an_echo_is_a_sign_at_once() -> None:
    """What is there cannot be still to come."""
    cursor = Cursor(operation_id="t1/0", sent_at=100.0, tries=1)

    assert plan_reply(cursor, now=101.0, settle=10.0, echoed=True) == Verify(0)


def test_an_echo_is_recognised_by_its_words_and_a_new_id() -> None:
    """Echoes of other words, and of earlier replies, say nothing; no words are kept."""
    notes = [echo_note("A", REPLY.text), echo_note("B", "Hola"), echo_note("C", REPLY.text)]

    assert echo_of(REPLY, notes, known=()) == "A"
    assert echo_of(REPLY, notes, known=["A"]) == "C"
    assert echo_of(REPLY, notes, known=["A", "C"]) is None
    assert REPLY.text not in "".join(notes)


def test_a_reply_stands_in_a_chat_under_a_new_id() -> None:
    """The same words of an earlier reply are another message."""
    assert found([own("B"), own("A", seconds=-5)], ("A",)) == own("B")
    assert found([own("A")], ("A",)) is None
    assert found([own("B", "Hola")]) is None
    assert found([]) is None
    assert found([replace(own("B"), own=False)]) is None


def test_clocks_may_differ_a_little() -> None:
    """WhatsApp's and the store's; old messages with the same words are not ours."""
    assert found([own("A", seconds=-SKEW)]) is not None
    assert found([own("A", seconds=-SKEW - 1)]) is None
    assert found([own("A", seconds=None)]) is not None


def test_a_chat_that_is_not_read_back_far_enough_tells_nothing() -> None:
    """The reply may stand further up."""
    newer = [own(f"{n}", "Hola", seconds=60) for n in range(LOOK_BACK)]

    with pytest.raises(LookupError):
        found(newer)
    assert found(newer[1:]) is None
    assert found([*newer[1:], own("old", "Hola", seconds=-60)]) is None


@pytest.fixture
def saying() -> ReplyJob:
    """A reply that is being sent."""
    lease = Lease(conversation_key="c", queue="replies", token="t", epoch=1, until=0.0)
    return ReplyJob(
        acquired=Acquired(lease=lease, now=0.0),
        operation=Operation(id="t1/0", body=""),
        cursor=Cursor(operation_id="t1/0"),
        reply=REPLY,
    )


def test_the_ids_of_the_last_replies_are_remembered(saying: ReplyJob) -> None:
    """So many that a look back shows no other ones; without an id its words stand for it."""
    nameless = saying.anchor_with(None)
    for number in range(REMEMBERED + 1):
        saying.anchor = saying.anchor_with(f"id {number}")

    assert len(saying.known) == REMEMBERED
    assert (saying.known[0], saying.known[-1]) == ("id 1", f"id {REMEMBERED}")
    assert REPLY.text not in nameless
    saying.anchor = nameless
    assert saying.known == []


def test_the_words_of_a_reply_are_found_in_a_history(saying: ReplyJob) -> None:
    """By a digest of them: the whole message, or one of the texts that it was sent as."""
    for number in range(QUOTABLE + 1):
        saying.anchor = saying.anchor_with(f"id {number}")
    known = said_by(saying.anchor)
    words = known["id 1"]

    assert len(known) == QUOTABLE
    assert REPLY.text not in f"{saying.anchor}"
    assert words_like(words, ["Otra cosa", f"Uno.\n\n{REPLY.text}\n\nDos."]) == REPLY.text
    assert words_like(words, [REPLY.text]) == REPLY.text
    assert words_like(words, ["Otra cosa", "\n\n" * 1000]) is None
    assert (
        said_by(None) == said_by('["A"]') == said_by("[") == said_by('[{"said": {"a": 1}}]') == {}
    )


def say(anchor: str | None = None, cursor: Cursor | None = None) -> QueueView:
    """A reply queue after some replies, with another one in it where it has a cursor."""
    operations = () if cursor is None else (Operation(id="t1/0", body=REPLY.model_dump_json()),)
    return QueueView(depth=len(operations), cursor=cursor, operations=operations, anchor=anchor)


def test_an_own_message_is_recognised_by_the_id_of_a_send() -> None:
    """The same words under another id are somebody else's."""
    sent = say(json.dumps(["A"]))

    assert is_ours("A", "edited since", sent, 100.0)
    assert not is_ours("B", REPLY.text, sent, 100.0)
    assert not is_ours("A", REPLY.text, say(), 100.0)


def test_by_its_words_where_no_answer_told_the_id() -> None:
    """For a while: later a human may say the same."""
    looks = {"digest": json.loads(echo_note("", REPLY.text))["digest"], "at": 100.0}
    sent = say(json.dumps(["A", looks]))

    assert is_ours("B", REPLY.text, sent, 100.0 + ECHO_TIME - 1)
    assert not is_ours("B", REPLY.text, sent, 100.0 + ECHO_TIME)
    assert not is_ours("B", "Hola", sent, 100.0)


def test_by_its_words_while_the_answer_is_still_to_come() -> None:
    """Also when the try before it was taken for lost; not before the first try."""
    on_the_wire = say(cursor=Cursor(operation_id="t1/0", sent_at=100.0, tries=1))
    taken_back = say(cursor=Cursor(operation_id="t1/0", tries=1))
    never_begun = say(cursor=Cursor(operation_id="t1/0"))
    of_another = say(cursor=Cursor(operation_id="t0/0", sent_at=100.0, tries=1))

    assert is_ours("A", REPLY.text, on_the_wire, 100.0)
    assert is_ours("A", REPLY.text, taken_back, 100.0)
    assert not is_ours("A", "Hola", on_the_wire, 100.0)
    assert not is_ours("A", REPLY.text, never_begun, 100.0)
    assert not is_ours("A", REPLY.text, of_another, 100.0)


def test_a_long_text_takes_longer_to_type_and_no_longer_than_it_may() -> None:
    """By default no time at all."""
    assert typing_time("a" * 30, 5.0) == 2.0
    assert typing_time("a" * 3000, 5.0) == 5.0
    assert typing_time("a" * 3000, 0.0) == 0.0


def test_pauses_between_tries_grow_and_end_growing() -> None:
    """Also after days without the other side."""
    pauses = [queue.backoff(tries) for tries in (1, 2, 3, 10, 5000)]

    assert pauses == [0.2, 0.4, 0.8, queue.LAST_DELAY, queue.LAST_DELAY]


def queue_at(
    head: str | None = None, *, began: bool = False, dropped: tuple[str, ...] = ()
) -> QueueView:
    """A reply queue with this operation at its head, after which these were dropped."""
    cursor = None if head is None else Cursor(operation_id=head, tries=int(began))
    anchor = json.dumps(["A", *({"dropped": each} for each in dropped)])
    operations = () if head is None else (Operation(id=head, body=REPLY.model_dump_json()),)
    return QueueView(operations=operations, cursor=cursor, anchor=anchor)


@pytest.mark.parametrize(
    ("replies", "decided", "so_far"),
    [
        (queue_at(), 3, 3),
        (queue_at("t2/0"), 3, 3),
        (queue_at("t1/1"), None, 1),
        (queue_at("t1/1", began=True), None, 2),
        (queue_at(dropped=("t1/1", "t1/2")), 1, 1),
        (queue_at("t2/0", dropped=("t0/0", "t1/2")), 2, 2),
    ],
)
def test_a_queue_tells_how_much_of_an_answer_was_sent(
    replies: QueueView, decided: int | None, so_far: int
) -> None:
    """Its head, and what it noted of what was dropped."""
    assert sent_of("t1", 3, replies) == decided
    assert sent_of("t1", 3, replies, so_far=True) == so_far


def test_what_was_dropped_is_none_of_our_sends() -> None:
    """And stays noted behind what is sent later."""
    head = ReplyJob(
        acquired=Acquired(
            lease=Lease(conversation_key="c", queue="replies", token="t", epoch=1, until=0.0),
            now=0.0,
        ),
        operation=Operation(id="t1/1", body=""),
        cursor=Cursor(operation_id="t1/1"),
        anchor='["A"]',
        reply=REPLY,
    )
    anchor = head.anchor_without
    later = replace(head, anchor=anchor)

    assert json.loads(anchor) == ["A", {"dropped": "t1/1"}]
    assert (later.known, json.loads(later.anchor_with("B"))[-2:]) == (
        ["A"],
        [{"dropped": "t1/1"}, "B"],
    )
    assert not is_ours("X", REPLY.text, QueueView(anchor=anchor), 1.0)


FILE = PendingReply(
    turn="t1", chat_id=REPLY.chat_id, text="", file=PendingFile(mimetype="x/y", filename="a.pdf")
)


@pytest.mark.parametrize(
    ("text", "is_file", "stands"),
    [("", True, True), ("a.pdf", True, True), ("", False, False), ("b.pdf", True, False)],
)
def test_a_file_stands_in_a_chat_as_one(text: str, is_file: bool, stands: bool) -> None:
    """Without a caption by nothing else, or by its name, as engines tell it."""
    message = ChatMessage("A", text, SENT, file=is_file)

    assert (standing_in(FILE, [message], since=SENT, known=()) is message) == stands
