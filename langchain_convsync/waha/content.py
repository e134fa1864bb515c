"""What a WAHA message says: its text, its file, and whatever else people send.

WAHA reports texts, files, places and cards uniformly, and the rest as its engines found it, under
``_data``: the protobuf message for NOWEB (``_data.message``) and GOWS (``_data.Message``), WhatsApp
Web's own model for WEBJS and WPP. All are read in the same steps: envelopes are opened, keys are
folded, and one table says of which kind a field is. Nothing is trusted: whatever stands in a field,
nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

from langchain_convsync import phone
from langchain_convsync.contents import (
    Choice,
    Contact,
    Location,
    Media,
    Quoted,
    Referral,
    as_detail,
    content_of,
)
from langchain_convsync.waha.cards import contacts_of
from langchain_convsync.waha.choices import choice_of
from langchain_convsync.waha.origin import stanza_id
from langchain_convsync.waha.parts import (
    context_of,
    details_of_event,
    details_of_payment,
    details_of_poll,
    has_moved,
    location_of,
    mentions_of,
    referral_of,
)
from langchain_convsync.waha.raw import FILES, SILENT, SILENT_TYPES, RawMessage, opened
from langchain_convsync.waha.wire import Folded, Json, as_object, as_text, at, first_text, folded

#: Where words stand in any field of a message, the surest first.
_WORDS = ("text", "caption", "contenttext", "hydratedcontenttext", "comment", "note")
#: Where the words are not its own: other messages inside it, and what is silent.
_ELSEWHERE = SILENT | {"contextinfo", "quotedmessage", "nativeflowmessage"}

_MIMETYPE = re.compile(r"[\w.+-]+/[\w.+-]+(?: *;.*)?")
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a message says, as :class:`InboundEvent` tells it; falsy when it says nothing."""

    text: str = ""
    reply_to: str | None = None
    quoted: Quoted | None = None
    choice: Choice | None = None
    referral: Referral | None = None
    mentions: tuple[str, ...] = ()
    poll_votes: tuple[str, ...] = ()
    location: Location | None = None
    contacts: tuple[Contact, ...] = ()
    view_once: bool = False
    forwarded: bool = False
    media: Media | None = None
    notes: tuple[str, ...] = ()
    unread_kind: str | None = None

    def __bool__(self) -> bool:
        return bool(self.text.strip() or self.shown(but=_ABOUT).strip())

    @property
    def facts(self) -> dict[str, Any]:
        """The fields that tell something, by their names."""
        return {name: value for name in _FIELDS if (value := getattr(self, name))}

    @property
    def of_a_colleague(self) -> dict[str, Any]:
        """The fields of an :class:`OperatorMessage`, whose notes tell all else."""
        told = _OF_A_COLLEAGUE | ({"view_once"} if self.media else set())
        notes = self.shown(but=told - {"notes"}).splitlines()
        return {name: value for name, value in self.facts.items() if name in _OF_A_COLLEAGUE} | {
            "notes": tuple(notes)
        }

    def shown(self, *, but: frozenset[str] = frozenset()) -> str:
        """What a person would see of it."""
        parts = {name: value for name, value in self.facts.items() if name in _SHOWN - but}
        return content_of("" if "text" in but else self.text, self.notes, **parts)


_FIELDS = tuple(field.name for field in fields(Content))
Change: TypeAlias = Literal["edited", "revoked", "live location"]
#: What is shown beside text and notes, and of that, what says nothing by itself.
_SHOWN = frozenset(_FIELDS) - {"text", "notes", "reply_to", "mentions"}
_ABOUT = frozenset({"quoted", "forwarded"})
_OF_A_COLLEAGUE = frozenset({"text", "quoted", "reply_to", "media", "notes"})


def read_content(
    payload: Json, own: frozenset[str] = frozenset(), customer: frozenset[str] = frozenset()
) -> Content:
    """The content of a message's ``payload``.

    Args:
        payload: What WAHA tells of the message.
        own: The identities of the business.
        customer: Those of the customer, in a chat that is with one alone.
    """
    raw = RawMessage.of(payload)
    if raw.web_type in SILENT_TYPES:
        return Content()
    said = _said(raw)
    quoted = _quoted(raw, own, customer)
    context = context_of(raw.message)
    facts = said.facts
    facts["quoted"], facts["reply_to"] = quoted, quoted and quoted.id
    facts["choice"], facts["text"] = choice_of(payload, raw.data, raw.message, said.text)
    facts["referral"] = referral_of(context, raw.data)
    facts["mentions"] = mentions_of(payload, context, raw.data)
    facts["forwarded"] = _is_forwarded(context, raw.data)
    content = Content(**facts)
    if not content and (kind := _unread(raw)):
        return Content(**{**facts, "unread_kind": kind})
    return content


def changed_text(payload: Json) -> str:
    """The new words of an edited message, where WAHA or its engine tells them."""
    edited = RawMessage.of(payload).message.at("protocolmessage", "editedmessage")
    return as_text(payload.get("body")) or _said(RawMessage.of({"_data": {"message": edited}})).text


def changes(payload: Json) -> tuple[Change, str] | None:
    """How a message changes another one, and that one's id where it is told; None for most.

    Some engines tell edits and revocations as messages, and each move of a live location.
    """
    data = Folded.of(payload.get("_data"))
    message, _ = opened(as_object(data.get("message")))
    if data.get("islive") is True and has_moved(data):
        return "live location", ""
    names = {folded(name): name for name in message}
    if (name := names.get("livelocationmessage")) is not None:
        return ("live location", "") if has_moved(Folded.of(message[name])) else None
    protocol = Folded.of(message.get(names.get("protocolmessage", "")))
    target = protocol.texts("key.id")
    if target and as_object(protocol.get("editedmessage")):
        return "edited", target
    return ("revoked", target) if target and protocol.get("type") in (0, "REVOKE") else None


def _said(raw: RawMessage) -> Content:
    """What it says by itself, without what it refers to."""
    kind, text = raw.kind, _words(raw)
    place = {k: v for k, v in as_object(raw.payload.get("location")).items() if v is not None}
    location = None
    if place or kind == "location":
        location = location_of(place, raw.node("location"), is_live=raw.is_live)
    contacts = (
        contacts_of(raw.payload, raw.node("contact"))
        if kind == "contact" or raw.payload.get("vCards")
        else ()
    )
    detail = _DETAILS[kind](raw) if kind in _DETAILS else ""
    if _repeats(text, kind, detail, location):
        text = ""
    return Content(
        text=text,
        location=location,
        contacts=contacts or ((Contact(),) if kind == "contact" else ()),
        view_once=(kind in FILES or not (kind or text)) and _is_view_once(raw),
        media=_media(raw, kind),
        notes=(_noted(kind, detail),) if kind in _DETAILS else (),
    )


def _noted(kind: str, detail: str) -> str:
    shown = as_detail(detail)
    return f"[{kind}: {shown}]" if shown else f"[{kind}]"


def _words(raw: RawMessage) -> str:
    """The first text that is not blank, and no raw content of a file or a card."""
    return next((text for text in _texts(raw) if text.strip() and not _is_raw(text, raw)), "")


def _texts(raw: RawMessage) -> Iterator[str]:
    yield as_text(raw.payload.get("body"))
    if raw.web_type:
        yield from (raw.data.texts(name) for name in ("caption", "body", "comment"))
        return
    yield raw.message.texts("conversation", "ordermessage.message")
    if raw.names:
        for node in raw.message.nested(without=_ELSEWHERE):
            yield node.texts(*_WORDS)
        yield raw.node("text").texts("description", "title")


def _is_raw(text: str, raw: RawMessage) -> bool:
    """Whether it is a card, or a JPEG thumbnail: WEBJS puts those into the body."""
    if text.lstrip()[:11].upper() == "BEGIN:VCARD":
        return True
    return text.startswith("/9j/") and bool(raw.kind)


def _repeats(text: str, kind: str, detail: str, location: Location | None) -> bool:
    """Whether the text only says what the rest says."""
    if kind in {"poll", "event", "poll result"}:
        return detail.startswith(as_detail(text))
    return location is not None and text in {location.name, location.address}


def _media(raw: RawMessage, kind: str) -> Media | None:
    payload = raw.payload
    reported = as_object(payload.get("media"))
    url = first_text(reported.get("url"), payload.get("mediaUrl"))
    if payload.get("hasMedia") is not True and not url and kind not in FILES:
        return None
    node = raw.node(kind)
    mimetype = first_text(reported.get("mimetype"), node.get("mimetype"), raw.data.get("mimetype"))
    media = Media(
        url=url,
        mimetype=mimetype if mimetype and _MIMETYPE.fullmatch(mimetype) else None,
        filename=first_text(
            reported.get("filename"), node.get("filename"), raw.data.get("filename")
        ),
        error=first_text(reported.get("error")),
    )
    if media.named == "audio" or kind == "audio":
        return media.called("voice message" if _is_voice(raw, media) else "audio")
    return media.called(kind) if kind in FILES else media


def _is_voice(raw: RawMessage, media: Media) -> bool:
    if node := raw.message.within("audiomessage"):
        return node.get("ptt") is True
    if raw.web_type in {"ptt", "audio"}:
        return raw.web_type == "ptt"
    return (media.mimetype or "").startswith("audio/ogg")


def _is_view_once(raw: RawMessage) -> bool:
    flags = [raw.data, raw.data.within("key")]
    flags += [raw.message.within(folded(name)) for name in raw.names]
    said = (
        name
        for flagged in flags
        for name, value in flagged.items()
        if value is True and name.removeprefix("is").startswith("viewonce")
    )
    return any(name.startswith("viewonce") for name in raw.opened) or any(said)


def _is_forwarded(context: Folded, data: Folded) -> bool:
    told = (context.get("isforwarded"), data.get("isforwarded"))
    scores = (context.get("forwardingscore"), data.get("forwardingscore"))
    return True in told or any(isinstance(score, int) and score > 0 for score in scores)


def _quoted(raw: RawMessage, own: frozenset[str], customer: frozenset[str]) -> Quoted | None:
    """The message that is quoted: as WAHA tells it, else as its engine does."""
    told_of = raw.payload.get("replyTo")  # an id alone, or all of the message
    reply = {"id": told_of} if isinstance(told_of, str) else as_object(told_of)
    context, data = context_of(raw.message), raw.data
    message = first_object(context.get("quotedmessage"), reply.get("_data"), data.get("quotedmsg"))
    found = (reply.get("id"), context.get("stanzaid"), data.get("quotedstanzaid"))
    told = next((each for each in found if stanza_id(each)), None)
    if told is None and not message and not as_text(reply.get("body")):
        return None
    told_by_engine = message if "type" in message else {"message": message}
    content = _said(RawMessage.of({**reply, "_data": told_by_engine}))
    people = (reply.get("participant"), context.get("participant"), data.get("quotedparticipant"))
    sender = next((who for each in people if (who := _identity(each))), None)
    return Quoted(
        text=content.shown(but=frozenset({"media", "view_once"})),
        id=stanza_id(told),
        by=_speaker(sender, as_text(told), own, customer),
        sender=sender,
        media=content.media,
    )


def _speaker(
    sender: str | None, message_id: str, own: frozenset[str], customer: frozenset[str]
) -> Literal["business", "customer"] | None:
    """Whose words they are; older WAHAs do not tell the LID of the business."""
    if sender is None:
        spoken: dict[str, Literal["business", "customer"]] = {"t": "business", "f": "customer"}
        return spoken[message_id[0]] if message_id.startswith(("true_", "false_")) else None
    if any(phone.same_subscriber(sender, mine) for mine in own):
        return "business"
    if not customer or any(phone.same_subscriber(sender, theirs) for theirs in customer):
        return "customer"
    is_told = any(sender.endswith("@lid") == theirs.endswith("@lid") for theirs in customer)
    return "business" if is_told else None  # the chat has two sides


def first_object(*values: object) -> Json:
    """The first of them that is an object and holds something."""
    return next((value for value in values if isinstance(value, dict) and value), {})


def _identity(jid: object) -> str | None:
    return phone.identity_of(as_text(jid) or as_text(at(jid, "_serialized")) or None)


def _unread(raw: RawMessage) -> str | None:
    """What a message is called that says something which cannot be read here; None for no words."""
    spoken = [name for name in raw.names if folded(name) not in SILENT]
    if not spoken and raw.web_type in {"", "chat"}:
        spoken = [name for name in [raw.data.texts("info.mediatype")] if name]
        if not spoken:
            return None
    name = (spoken or [as_text(raw.data.get("type"))])[0]
    return name if _KIND.fullmatch(name) else "unknown"


def _named(*paths: str) -> Callable[[RawMessage], str]:
    """The first of some texts of a field, whose kind is found by its own name."""
    return lambda raw: raw.node(raw.kind).texts(*paths)


#: What stands in the brackets of everything that is noted.
_DETAILS: dict[str, Callable[[RawMessage], str]] = {
    "poll": lambda raw: details_of_poll(raw.node("poll")),
    "poll result": _named("name"),
    "event": lambda raw: details_of_event(raw.node("event")),
    "event invitation": _named("eventtitle"),
    "order": lambda raw: details_of_payment(raw.node("order"), "ordertitle"),
    "product": lambda raw: details_of_payment(raw.node("product"), "product.title", "title"),
    "group invitation": _named("groupname", "invitegrpname"),
    "channel invitation": _named("newslettername", "name"),
    "payment": lambda raw: details_of_payment(raw.node("payment")),
    "payment request": lambda raw: details_of_payment(raw.node("payment request")),
    "sticker pack": _named("name"),
    "scheduled call": _named("title"),
    "request for the phone number": lambda raw: "",
    "message that opens on the customer's phone only": lambda raw: "",
}
