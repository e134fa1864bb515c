"""A reply on its way to the customer, and what shows that it has arrived at WAHA. Pure.

WAHA has no idempotency keys, so a reply whose sending got no clear answer is looked for before it
is sent again: among our own echoes that came in meanwhile, and in the chat as WAHA keeps it. It
counts as sent if the same words stand there under an id that none of our other replies has.
"""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from langchain_convsync import telemetry
from langchain_convsync.client import ChatMessage
from langchain_convsync.outbox.plan import Send, Step, Verify, Wait, digest
from langchain_convsync.outbox.queue import Head
from langchain_convsync.outbox.refused import Refusals
from langchain_convsync.reply import Reply
from langchain_convsync.stores.base import Cursor, QueueView

#: Seconds that one request to WAHA may take: its engines type and upload before they answer.
SEND_TIME = 10.0
#: Seconds that a file may take: WAHA fetches it, and WhatsApp has to have all of it.
FILE_TIME = 60.0
#: Seconds by which WhatsApp's clock and the store's may differ.
SKEW = 30.0
#: Messages of a chat that are read to find a reply.
LOOK_BACK = 100
#: Characters that seem to be typed in a second.
TYPED_PER_SECOND = 15.0
#: Seconds that pass at most between two messages of one answer, where no typing is shown.
LONGEST_PAUSE = 3.0
#: Own messages that are remembered per conversation: more than a look back can show.
REMEMBERED = 200
#: Of so many of them is known what they say, by a digest: a customer may quote them by their id.
QUOTABLE = 50
#: Paragraphs of a history's message among which one of its texts is looked for.
MOST_PARAGRAPHS = 40
#: Seconds for which a message counts as ours by its words, where no answer told us its id.
ECHO_TIME = 600.0


class PendingFile(BaseModel):
    """A file that is sent, as it is stored and as WAHA takes it.

    Attributes:
        mimetype: What it is.
        filename: What it is called.
        url: Where WAHA fetches it.
        data: Else its bytes in base64.
        voice: Whether it is a voice message.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    mimetype: str
    filename: str = Field(default="", repr=False)
    url: str | None = Field(default=None, repr=False)
    data: str | None = Field(default=None, repr=False)
    voice: bool = False

    @classmethod
    def of(cls, reply: Reply) -> PendingFile | None:
        """The file of a reply; None where it has none."""
        if reply.file is None:
            return None
        is_url = isinstance(reply.file, str)
        return cls(
            mimetype=reply.kind,
            filename=reply.name or f"file{mimetypes.guess_extension(reply.kind) or ''}",
            url=reply.file if isinstance(reply.file, str) else None,
            data=None if is_url else base64.b64encode(reply.file).decode(),  # type: ignore[arg-type]
            voice=reply.voice,
        )

    @property
    def wire(self) -> dict[str, str]:
        """As WAHA takes it."""
        return self.model_dump(include={"mimetype", "filename", "url", "data"}, exclude_none=True)


class PendingReply(BaseModel):
    """One operation of the reply queue, as it is stored.

    Attributes:
        turn: The turn that decided it.
        waha_session: WAHA's session to send from.
        chat_id: Where it goes: the chat that the customer wrote in.
        text: What the customer reads; under a file its caption, empty without one.
        file: The file that is sent.
        decided_at: Store time of the commit; None in one that an operator sends after all, and in
            one that an older version queued.
        other_chats: The customer's other names: where it goes if that chat is refused for good.
        expires: Seconds after ``decided_at`` for which it is worth sending; None for three hours.
        reply_to: WAHA's id of the message that it quotes.
        recorded: The digest of what the history holds of a file.
        unless_newer: The number of its turn, where it is not sent once a later one has begun; None
            in what is sent in any case.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    turn: str
    waha_session: str = Field(default="default", repr=False)
    chat_id: str = Field(repr=False)
    text: str = Field(repr=False)
    file: PendingFile | None = None
    decided_at: float | None = None
    other_chats: tuple[str, ...] = Field(default=(), repr=False)
    expires: float | None = None
    reply_to: str | None = Field(default=None, repr=False)
    recorded: str | None = None
    unless_newer: int | None = None


@dataclass(slots=True, kw_only=True)
class ReplyJob(Head):
    """The reply at the head of a reply queue; its anchor is what was sent before it, oldest first.

    Each is an id, or, where no answer told one, the words' digest and when they were sent.

    Attributes:
        reply: What is sent.
        sent: Whether it was.
        is_free: Whether it has shown that the account's restriction is over.
    """

    reply: PendingReply
    sent: bool = False
    is_free: bool = False

    @property
    def done(self) -> bool:
        """Whether it was sent."""
        return self.sent

    @property
    def send_time(self) -> float:
        """Seconds that the request may take."""
        return SEND_TIME if self.reply.file is None else FILE_TIME

    @property
    def is_first(self) -> bool:
        """Whether nothing of its turn goes before it."""
        return self.operation.id.endswith("/0")

    @property
    def refusals(self) -> Refusals:
        """What WAHA has refused of it so far."""
        return Refusals.read(self.cursor.note)

    @property
    def known(self) -> list[str]:
        """Ids of earlier replies, oldest first."""
        return sent_ids(self.anchor)

    def anchor_with(self, message_id: str | None) -> str:
        """The anchor once the reply was sent under this id; None where WAHA did not tell it."""
        words = digest(self.reply.text)
        if message_id:
            return self._anchor_and(message_id, words=self.reply.recorded or words)
        return self._anchor_and({"digest": words, "at": self.cursor.sent_at or self.acquired.now})

    @property
    def anchor_without(self) -> str:
        """The anchor once it was decided that the reply is not sent."""
        return self._anchor_and({"dropped": self.operation.id})

    def _anchor_and(self, last: Any, words: str | None = None) -> str:
        noted, said = [*_listed(self.anchor), last][-REMEMBERED:], said_by(self.anchor)
        if words is not None:
            said[last] = words
        says = [{"said": dict([*said.items()][-QUOTABLE:])}] if said else []
        return json.dumps(says + noted)


def plan_reply(
    cursor: Cursor,
    *,
    now: float,
    settle: float,
    echoed: bool = False,
    send_time: float | None = None,
) -> Step:
    """The next step for a reply.

    Args:
        cursor: How far it has come.
        now: Store time.
        settle: Seconds after which a request without an answer was surely carried out, or never
            will be.
        echoed: Its echo came in: no need to wait.
        send_time: Seconds that its request may take; None for a text's.
    """
    if cursor.sent_at is None:
        return Send(0, cursor.tries + 1)
    settled = cursor.sent_at + (SEND_TIME if send_time is None else send_time) + settle
    return Verify(0) if echoed or now >= settled else Wait(settled - now)


def typing_time(text: str, longest: float) -> float:
    """Seconds for which a text seems to be typed: as a fast writer would, at most so many."""
    return min(longest, len(text) / TYPED_PER_SECOND)


def echo_note(message_id: str, text: str) -> str:
    """What a store keeps of our own echo; the words cannot be read from it."""
    return json.dumps({"id": message_id, "digest": digest(text)})


def echo_of(reply: PendingReply, notes: Iterable[str], known: Collection[str]) -> str | None:
    """The id under which one of our own echoes shows the reply; None without such an echo."""
    echoes = [echo for note in notes if isinstance(echo := _json(note), dict)]
    ids = [str(echo.get("id")) for echo in echoes if echo.get("digest") == digest(reply.text)]
    return next((each for each in ids if each not in known), None)


def is_ours(message_id: str | None, text: str, replies: QueueView, now: float) -> bool:
    """Whether a message of the business is one of our sends, whatever WAHA takes for its source.

    It is if its id was the answer to a send, or else if it has the words of one whose id is not
    known: of the reply that is being sent, whose answer may come later than its echo.

    Args:
        message_id: The message's stanza id.
        text: Its words.
        replies: The conversation's reply queue, its head included.
        now: Store time.
    """
    sent, words = _before(replies.anchor), digest(text)
    if message_id in sent:
        return True
    nameless = [each for each in sent if isinstance(each, dict)]
    if any(each["digest"] == words and now < each["at"] + ECHO_TIME for each in nameless):
        return True
    head, cursor = next(iter(replies.operations), None), replies.cursor
    if head is None or cursor is None or cursor.operation_id != head.id or not cursor.tries:
        return False
    try:
        return digest(PendingReply.model_validate_json(head.body).text) == words
    except ValueError:
        return False


def sent_ids(anchor: str | None) -> list[str]:
    """Ids of the replies that were sent, oldest first, as far as WAHA told them."""
    return [sent for sent in _before(anchor) if isinstance(sent, str)]


def said_by(anchor: str | None) -> dict[str, str]:
    """What the last replies say, by their ids: the digests of what a history holds of them."""
    found = None if anchor is None else _json(anchor)
    noted = [e.get("said") for e in found if isinstance(e, dict)] if isinstance(found, list) else []
    said = next((each for each in noted if isinstance(each, dict)), {})
    return {name: words for name, words in said.items() if isinstance(words, str)}


def words_like(words: str, said: Iterable[str]) -> str | None:
    """What a digest is of: a message of a history, or one of the texts that it was sent as.

    Args:
        words: The digest.
        said: What the bot said, as a history holds it.
    """
    for each in said:
        parts = each.split("\n\n")[:MOST_PARAGRAPHS]
        for start in range(len(parts)):
            for end in range(len(parts), start, -1):
                if digest(text := "\n\n".join(parts[start:end])) == words:
                    return text
    return None


def sent_of(turn: str, count: int, replies: QueueView, *, so_far: bool = False) -> int | None:
    """How many of a turn's messages were sent, as far as its reply queue tells.

    Args:
        turn: The turn's id.
        count: How many there are.
        replies: The queue.
        so_far: Whether what has not begun counts as not sent; else None tells that it may be yet.
    """
    head, cursor = next(iter(replies.operations), None), replies.cursor
    if head is not None and head.id.rpartition("/")[0] == turn:
        began = cursor is not None and cursor.operation_id == head.id and cursor.tries > 0
        return int(head.id.rpartition("/")[2]) + began if so_far else None
    dropped = {each["dropped"] for each in _listed(replies.anchor) if _is_dropped(each)}
    return next((n for n in range(count) if f"{turn}/{n}" in dropped), count)


def _listed(anchor: str | None) -> list[Any]:
    found = None if anchor is None else _json(anchor)
    return [e for e in found if _is_sent(e) or _is_dropped(e)] if isinstance(found, list) else []


def _before(anchor: str | None) -> list[Any]:
    return [each for each in _listed(anchor) if _is_sent(each)]


def _is_dropped(each: object) -> bool:
    return isinstance(each, dict) and isinstance(each.get("dropped"), str)


def _is_sent(each: object) -> bool:
    if not isinstance(each, dict):
        return isinstance(each, str)
    return isinstance(each.get("digest"), str) and isinstance(each.get("at"), int | float)


def _json(stored: str) -> Any:
    try:
        return from_json(stored)
    except ValueError:
        telemetry.count("unreadable", what="anchor")
        return None


def _is_like(message: ChatMessage, reply: PendingReply) -> bool:
    """Whether a message says what a reply says; engines tell a document without caption by name."""
    if reply.file is None:
        return message.text == reply.text
    bare = {"", reply.file.filename} if not reply.text else set()
    return message.file and message.text in {reply.text, *bare}


def standing_in(
    reply: PendingReply, chat: Collection[ChatMessage], *, since: datetime, known: Collection[str]
) -> ChatMessage | None:
    """The message of the chat that is this reply; None if it is not there.

    Args:
        reply: The reply.
        chat: The last messages in the chat, at most :data:`LOOK_BACK` of them.
        since: When it was sent, on the store's clock.
        known: Ids of our other replies.

    Raises:
        LookupError: The messages do not reach back far enough to tell.
    """
    since -= timedelta(seconds=SKEW)
    found = [
        message
        for message in chat
        if message.own
        and _is_like(message, reply)
        and message.id not in known
        and (message.sent_at is None or message.sent_at >= since)
    ]
    if found:
        return found[0]
    times = [message.sent_at for message in chat if message.sent_at is not None]
    if len(chat) >= LOOK_BACK and min(times, default=since) >= since:
        reason = "the chat was not read back far enough"
        raise LookupError(reason)
    return None
