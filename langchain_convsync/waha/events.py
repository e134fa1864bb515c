"""What WAHA reports besides a customer's message; their reprs name no person and quote nothing."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from langchain_convsync.contents import Media, Quoted, content_of

#: Why an event is not a message to answer. Few and fixed, so that they can label a metric.
Reason: TypeAlias = Literal[
    "not an object",
    "not a message",
    "a payload alone: pass the whole event",
    "group",
    "not mentioned",
    "newsletter",
    "broadcast",
    "own echo",
    "own message of unknown source",
    "unknown sender",
    "no content",
    "waiting",
    "edited",
    "revoked",
    "live location",
    "reaction",
    "ack",
    "session status",
]


@dataclass(frozen=True, kw_only=True)
class OperatorMessage:
    """A human wrote to a customer from the business's own phone: a human takes over.

    WAHA's ``source`` is not always right: ``TurnRunner.take_over`` recognises what ``WAHAReply``
    sent. Compare ``message_id`` with the ids of what you send yourself before you believe it.

    Attributes:
        event_id: The message's own id, the same for every delivery of it.
        message_id: Its stanza id, as :func:`stanza_id` finds it in the answer to a send.
        chat_id: The chat it was written in.
        phone_number: The customer, E.164; None while only a LID is known.
        lid: The customer's ``…@lid`` identity, where the source told it.
        text: What the human wrote; the caption for media.
        quoted: The message that it quotes, with its words.
        media: The file that came along.
        notes: What came along and is not text, as in :class:`InboundEvent`.
        account: The receiving side that the event came through.
        waha_session: WAHA's session name.
        business_number: The business's own number, as WAHA's ``me`` tells it.
        bot_id: The bot that serves the account, where the session's metadata says so.
        subdomain: The tenant, where the session's metadata says so.
        delivery_id: The id of this one delivery; for logs only.
        sent_at: When it was sent.
        reply_to: Stanza id of the message that it quotes.
    """

    event_id: str = field(repr=False)  # it holds the chat id
    message_id: str | None = None
    chat_id: str | None = field(default=None, repr=False)
    phone_number: str | None = field(default=None, repr=False)
    lid: str | None = field(default=None, repr=False)
    text: str = field(default="", repr=False)
    quoted: Quoted | None = field(default=None, repr=False)
    media: Media | None = field(default=None, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    account: str = field(default="default", repr=False)
    waha_session: str | None = field(default=None, repr=False)
    business_number: str | None = field(default=None, repr=False)
    bot_id: str | None = None
    subdomain: str | None = None
    delivery_id: str | None = None
    sent_at: datetime | None = None
    reply_to: str | None = field(default=None, repr=False)

    @property
    def content(self) -> str:
        """What enters the history: quoted words, the text, and a line for all that is not text."""
        return content_of(self.text, self.notes, quoted=self.quoted, media=self.media)


@dataclass(frozen=True)
class Ignored:
    """An event that asks for no answer, with what later layers may want to know of it.

    Attributes:
        reason: Why it is not answered.
        event: WAHA's name of the event.
        account: The receiving side that the event came through.
        waha_session: WAHA's session name.
        business_number: The business's own number, as WAHA's ``me`` tells it.
        bot_id: The bot that serves the account, where the session's metadata says so.
        subdomain: The tenant, where the session's metadata says so.
        message_id: Stanza id of the message, edit, revocation or reaction itself.
        target_id: Stanza id of the message that it is about: edited, revoked, reacted to, or read.
        from_me: Whether the business did it; None where that is unknown.
        chat_id: The chat it happened in.
        phone_number: The customer, E.164, where known.
        lid: The customer's ``…@lid`` identity, where known.
        text: The words: of our own echo, of the edited message, the reaction's emoji, or where a
            live location is now.
        notes: What came along with our own echo and is not text, as in :class:`InboundEvent`.
        sent_at: When it happened.
        ack: How far a message got: -1 error, 0 pending, 1 server, 2 device, 3 read, 4 played.
        status: The session's status, e.g. ``"WORKING"``.
        limit: What WhatsApp has set the account, ``"timelock"`` or ``"capping"``.
        limited_until: When that ends, where it is told.
        limits_over: Those of which it is told that they do not hold, or no longer.
    """

    reason: Reason
    event: str = ""
    _: KW_ONLY
    account: str = field(default="default", repr=False)
    waha_session: str | None = field(default=None, repr=False)
    business_number: str | None = field(default=None, repr=False)
    bot_id: str | None = None
    subdomain: str | None = None
    message_id: str | None = None
    target_id: str | None = None
    from_me: bool | None = None
    chat_id: str | None = field(default=None, repr=False)
    phone_number: str | None = field(default=None, repr=False)
    lid: str | None = field(default=None, repr=False)
    text: str = field(default="", repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    sent_at: datetime | None = None
    ack: int | None = None
    status: str | None = None
    limit: str | None = None
    limited_until: datetime | None = None
    limits_over: tuple[str, ...] = ()

    @property
    def content(self) -> str:
        """What enters the history of our own echo: its text, and a line for all that is not."""
        return content_of(self.text, self.notes)
