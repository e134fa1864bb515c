"""Where a WAHA event comes from and whom it is about: envelope, message ids, chat and customer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from langchain_convsync import phone
from langchain_convsync.errors import InvalidEventError
from langchain_convsync.waha.wire import Json, as_object, as_text, at, first_text

# {fromMe}_{chatId}_{stanzaId}[_{participant}]; ids that lack parts, or are bare, are read too.
_MESSAGE_ID = re.compile(
    r"(?:(?P<from_me>true|false)_(?:(?P<chat>[^_@]*@[^_@]*|[0-9]{5,20}|null|undefined|)_)?)?"
    r"(?P<stanza>.+?)(?:_[^_@]+@[^_@]+)?",
    re.DOTALL,
)
# Plain enough for a log: no phone number either, and nothing that would be read as a longer id.
_STANZA = re.compile(r"(?![0-9]{7,15}$|true_|false_)[A-Za-z0-9._:=+/-]{1,128}")
_TOKEN = re.compile(r"[A-Za-z0-9._:-]{1,128}")

# WhatsApp began in 2009, and a clock that is past 2100 is wrong.
_EARLIEST, _LATEST = 1_230_768_000, 4_102_444_800
_MILLISECONDS_FROM = 100_000_000_000


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What surrounds every event's payload; envelopes before 2025 have no id and no timestamp.

    Attributes:
        event: WAHA's name of the event; ``""`` where it is not a text.
        payload: What the event reports.
        account: The receiving side: WAHA's session.
        waha_session: The session's name, if there is one.
        delivery_id: The id of this one delivery.
        fallback: What tells messages apart that carry neither an id nor a time.
        bot_id: ``bot.id`` of the session's metadata.
        subdomain: ``subdomain`` of the session's metadata.
        business_number: The number among ``own``.
        own: The identities of the business itself.
        me: The account, as WAHA tells it.
    """

    event: str
    payload: Json
    account: str
    waha_session: str | None
    delivery_id: str | None
    fallback: str
    bot_id: str | None
    subdomain: str | None
    business_number: str | None
    own: frozenset[str]
    me: Json

    @classmethod
    def of(cls, body: Json) -> Envelope:
        """Read the envelope."""
        session = as_text(body.get("session")) or None
        me = as_object(body.get("me"))
        own = [who for key in ("id", "jid", "lid") if (who := phone.identity_of(me.get(key)))]
        return cls(
            event=token(body.get("event")) or "",
            payload=as_object(body.get("payload")),
            account=session or "default",
            waha_session=session,
            delivery_id=token(body.get("id")),
            fallback=first_text(body.get("id"), str(moment(body.get("timestamp")))) or "",
            bot_id=as_text(at(body, "metadata", "bot.id")).strip() or None,
            subdomain=as_text(at(body, "metadata", "subdomain")).strip() or None,
            business_number=next((who for who in own if who.startswith("+")), None),
            own=frozenset(own),
            me=me,
        )

    @property
    def receiver(self) -> dict[str, Any]:
        """The receiving side, as every event tells it."""
        names = ("account", "waha_session", "business_number", "bot_id", "subdomain")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Party:
    """The chat that a message stands in, and the customer it comes from or goes to.

    Attributes:
        servers: What follows the ``@`` in any of the ids that name the chat.
        chat_id: The chat, canonical; None where no id of it can be read.
        phone_number: The customer, E.164, where known.
        lid: The customer's ``…@lid`` identity, where known.
    """

    servers: frozenset[str]
    chat_id: str | None
    phone_number: str | None
    lid: str | None

    @classmethod
    def of(cls, payload: Json, own: frozenset[str], *, from_me: bool) -> Party:
        """Read the parties of a message; the business itself is never one of them."""
        chats = [jid for value in _chats(payload, from_me=from_me) if (jid := _jid(value))]
        servers = frozenset(chat.rpartition("@")[2] for chat in chats)
        group = next((chat for chat in chats if chat.endswith("@g.us")), None)
        people = [
            *([] if group else chats),
            *_people(payload, in_group=bool(group), from_me=from_me),
        ]
        others = [who for who in phone.known_people(*map(_jid, people)) if who not in own]
        chat = phone.identity_of(group) or next(iter(others), None)
        return cls(
            servers=servers,
            chat_id=phone.chat_id(chat) if chat else None,
            phone_number=next((who for who in others if who.startswith("+")), None),
            lid=next((who for who in others if who.endswith("@lid")), None),
        )

    @property
    def customer(self) -> frozenset[str]:
        """The customer's identities; none in a group, where others speak, too."""
        told = () if "g.us" in self.servers else (self.phone_number, self.lid)
        return frozenset(who for who in told if who)


def stanza_id(message_id: object) -> str | None:
    """The part of a message's id that is the same in all its spellings; None without one.

    Args:
        message_id: ``true_51999999999@c.us_3EB0…``, a bare ``3EB0…``, or the object that some
            engines answer a send with. What looks like no id of WhatsApp's is replaced by its hash.
    """
    key = as_object(message_id)
    text = as_text(message_id) or first_text(key.get("_serialized"), key.get("id")) or ""
    match = _MESSAGE_ID.fullmatch(text)
    if match is None:
        return None
    stanza = match["stanza"]
    return stanza if _STANZA.fullmatch(stanza) else digest(stanza)


def event_id(message_id: str, *, from_me: bool = False) -> str:
    """The ``event_id`` of the message with that id, in any spelling: e.g. of an edit's target.

    Raises:
        InvalidEventError: The id is empty.
    """
    stanza = stanza_id(message_id)
    if stanza is None:
        message = (
            "a message id is empty: pass payload.id, a target_id or the id that a send returned"
        )
        raise InvalidEventError(message)
    return f"{'true' if from_me else 'false'}_{stanza}"


def message_stanza(payload: Json) -> str | None:
    """The stanza id of a payload's message, from WAHA's id or else the engine's."""
    data = as_object(payload.get("_data"))
    places = (payload.get("id"), at(data, "key", "id"), data.get("id"), at(data, "Info", "ID"))
    return next((found for place in places if (found := stanza_id(place))), None)


def sent_from_me(payload: Json, event: str) -> bool | None:
    """Whether the business itself wrote it; None where nothing tells."""
    data = as_object(payload.get("_data"))
    flags = (
        payload.get("fromMe"),
        at(data, "key", "fromMe"),
        at(data, "id", "fromMe"),
        at(data, "Info", "IsFromMe"),
    )
    if (known := next((value for value in flags if isinstance(value, bool)), None)) is not None:
        return known
    if event == "message":  # WAHA fires it for incoming messages only
        return False
    match = _MESSAGE_ID.fullmatch(as_text(payload.get("id")))
    return match["from_me"] == "true" if match and match["from_me"] else None


def moment(value: object) -> datetime | None:
    """A time in seconds or milliseconds, whole or not; None for anything else, and absurd times."""
    if not isinstance(value, str | int | float):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    if seconds >= _MILLISECONDS_FROM:
        seconds /= 1000
    return datetime.fromtimestamp(seconds, UTC) if _EARLIEST <= seconds < _LATEST else None


def token(value: object) -> str | None:
    """A name or an id, if it is a plain one: it may stand in a log."""
    text = as_text(value)
    return text if _TOKEN.fullmatch(text) else None


def digest(*facts: str) -> str:
    """A stand-in for an id, the same for the same facts."""
    joined = "\0".join(facts).encode()
    return f"sha256-{hashlib.sha256(joined).hexdigest()[:40]}"


def _chats(payload: Json, *, from_me: bool) -> Iterator[object]:
    """Everything that names the chat, the surest first.

    ``from`` is the customer's chat when the customer writes. When the business does, it is the chat
    for NOWEB and GOWS, and the business itself for WEBJS and WPP.
    """
    match = _MESSAGE_ID.fullmatch(as_text(payload.get("id")))
    named = match["chat"] if match else None
    yield from (
        (named, payload.get("to"), payload.get("from")) if from_me else (payload.get("from"), named)
    )
    data = as_object(payload.get("_data"))
    yield at(data, "key", "remoteJid")
    yield at(data, "id", "remote")
    yield at(data, "Info", "Chat")


def _people(payload: Json, *, in_group: bool, from_me: bool) -> Iterator[object]:
    """Everything else that names the customer: the other half of a phone and LID pair above all."""
    key, info = at(payload, "_data", "key"), at(payload, "_data", "Info")
    if from_me:
        if not in_group:
            yield at(key, "remoteJidAlt")
            yield at(info, "RecipientAlt")
        return
    if in_group:
        yield payload.get("participant")
        yield at(key, "participant")
        yield at(info, "Sender")
    else:
        yield at(key, "remoteJidAlt")
    for name in ("participantAlt", "senderPn", "senderLid", "participantPn", "participantLid"):
        yield at(key, name)
    yield at(info, "SenderAlt")


def _jid(value: object) -> str | None:
    """A chat id as WAHA or an engine writes it; bare digits could be a phone or a LID."""
    text = as_text(value) or as_text(at(value, "_serialized"))
    return text if "@" in text or text.startswith("+") else None
