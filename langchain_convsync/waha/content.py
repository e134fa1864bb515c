"""What a WAHA message says: its text, its file, and a note for everything that is neither.

WAHA reports text and files uniformly and the rest as its engines found it, under ``_data``: the
protobuf message for NOWEB (``_data.message``) and GOWS (``_data.Message``), WhatsApp Web's own
``_data.type`` for WEBJS and WPP. This module reads all of them and trusts none of them: whatever
stands in a field, nothing here raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from langchain_convsync.contents import Media
from langchain_convsync.waha.wire import Json, as_list, as_object, as_text, at, first_text, one_line

# Kinds of content, each with its protobuf fields and its WhatsApp Web types.
_KINDS = {
    name: kind
    for kind, names in {
        "image": "imageMessage image",
        "video": "videoMessage ptvMessage video gif ptv",
        "audio": "audioMessage audio ptt",
        "document": "documentMessage document",
        "sticker": "stickerMessage lottieStickerMessage sticker",
        "location": "locationMessage liveLocationMessage location live_location",
        "contact": "contactMessage contactsArrayMessage vcard multi_vcard",
        "poll": "pollCreationMessage pollCreationMessageV2 pollCreationMessageV3 poll_creation",
        "event": "eventMessage event_creation",
        "order": "orderMessage order",
        "product": "productMessage product",
        "group invitation": "groupInviteMessage groups_v4_invite",
    }.items()
    for name in names.split()
}

# What carries no person's words: keys, settings, and copies of what has an event of its own. A
# message that could not be decrypted yet is among them, because it comes again under the same id.
_SILENT = frozenset(
    """messageContextInfo senderKeyDistributionMessage fastRatchetKeySenderKeyDistributionMessage
    protocolMessage reactionMessage encReactionMessage pollUpdateMessage encEventResponseMessage
    keepInChatMessage pinInChatMessage secretEncryptedMessage stickerSyncRmrMessage call
    callLogMesssage albumMessage
    """.split()  # noqa: SIM905  # one name a line is no better to read
)
_SILENT_TYPES = frozenset(
    """e2e_notification notification notification_template broadcast_notification gp2 protocol
    revoked ciphertext call_log reaction reaction_enc poll_update pinned_message keep_in_chat debug
    album
    """.split()  # noqa: SIM905  # as above
)

# Where words stand when WAHA's `body` is empty; GOWS nests alternatives under Go's field names.
_WORDS = (
    ("conversation",),
    ("extendedTextMessage", "text"),
    ("imageMessage", "caption"),
    ("videoMessage", "caption"),
    ("documentMessage", "caption"),
    ("buttonsResponseMessage", "selectedDisplayText"),
    ("buttonsResponseMessage", "Response", "SelectedDisplayText"),
    ("buttonsResponseMessage", "selectedButtonId"),
    ("templateButtonReplyMessage", "selectedDisplayText"),
    ("listResponseMessage", "title"),
    ("listResponseMessage", "singleSelectReply", "selectedRowId"),
    ("interactiveResponseMessage", "body", "text"),
    ("interactiveMessage", "body", "text"),
    ("buttonsMessage", "contentText"),
    ("listMessage", "description"),
    ("templateMessage", "hydratedTemplate", "hydratedContentText"),
)

# What an event, an order, a product or an invitation is called.
_TITLES = (
    ("eventMessage", "name"),
    ("orderMessage", "orderTitle"),
    ("productMessage", "product", "title"),
    ("groupInviteMessage", "groupName"),
)

_MIMETYPE = re.compile(r"[\w.+-]+/[\w.+-]+(?: *;.*)?")
_VCARD_NAME = re.compile(
    r"^(?:item\d+\.)?FN(?:;[^:\r\n]*)?:([^\r\n]+)", re.IGNORECASE | re.MULTILINE
)
#: Kinds that come as a file.
_FILES = frozenset({"image", "video", "audio", "document", "sticker", "file"})
_DETAIL_LENGTH = 200
_WRAPPERS = 8


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a message says; falsy when it says nothing, as WhatsApp's own housekeeping does."""

    text: str = ""
    media: Media | None = None
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.notes or self.media)


def read_content(payload: Json) -> Content:
    """The content of a message's ``payload``."""
    raw = _Raw.of(payload)
    if raw.web_type in _SILENT_TYPES:
        return Content()
    kind, text = _kind(raw), _words(raw)
    detail = _as_detail(_DETAILS.get(kind, _title)(raw))
    if _repeats(text, kind, detail):
        text = ""
    if not kind and not text and _speaks(raw):
        kind = "unsupported message"
    if raw.media is not None and kind in _FILES:
        return Content(text=text, media=raw.media.called(_file(raw, kind)))
    note = f"[{kind}: {detail}]" if detail else f"[{kind}]"
    return Content(text=text, media=raw.media, notes=(note,) if kind else ())


@dataclass(frozen=True, kw_only=True)
class _Raw:
    """One message as WAHA and its engine describe it."""

    payload: Json
    data: Json
    message: Json
    web_type: str
    media: Media | None

    @classmethod
    def of(cls, payload: Json) -> _Raw:
        data = as_object(payload.get("_data"))
        message = _unwrapped(as_object(data.get("message")) or as_object(data.get("Message")))
        return cls(
            payload=payload,
            data=data,
            message=message,
            web_type=as_text(data.get("type")),
            media=_media(payload, data, message),
        )

    def node(self, kind: str) -> Json:
        return next((as_object(self.message[n]) for n in self.message if _KINDS.get(n) == kind), {})


def _unwrapped(message: Json) -> Json:
    """The message inside its envelopes: ephemeral, view once, document with caption and others."""
    for _ in range(_WRAPPERS):
        inner = next((found for node in message.values() if (found := at(node, "message"))), None)
        if not isinstance(inner, dict):
            break
        message = inner
    return message


def _media(payload: Json, data: Json, message: Json) -> Media | None:
    reported = as_object(payload.get("media"))
    if payload.get("hasMedia") is not True and not reported.get("url"):
        return None
    node = next((as_object(message[name]) for name in message if name in _KINDS), {})
    mimetype = first_text(reported.get("mimetype"), node.get("mimetype"), data.get("mimetype"))
    return Media(
        url=first_text(reported.get("url")),
        mimetype=mimetype if mimetype and _MIMETYPE.fullmatch(mimetype) else None,
        filename=first_text(reported.get("filename"), node.get("fileName"), data.get("filename")),
        error=first_text(reported.get("error")),
    )


def _kind(raw: _Raw) -> str:
    named = next((_KINDS[name] for name in raw.message if name in _KINDS), None)
    if kind := named or _KINDS.get(raw.web_type):
        return kind
    if as_object(raw.payload.get("location")):
        return "location"
    if as_list(raw.payload.get("vCards")):
        return "contact"
    if raw.media is None:
        return ""
    family, _, subtype = (raw.media.mimetype or "").partition("/")
    if family in {"image", "video", "audio"}:
        return "sticker" if (family, subtype) == ("image", "webp") else family
    return "document" if family else "file"


def _speaks(raw: _Raw) -> bool:
    """Whether a person said something, even if it cannot be read here."""
    fields = (name for name, node in raw.message.items() if isinstance(node, dict))
    return not _SILENT.issuperset(fields) or raw.web_type not in {"", "chat"}


def _words(raw: _Raw) -> str:
    """The first text that is not blank."""
    places = (raw.payload.get("body"), *(at(raw.message, *path) for path in _WORDS))
    return next((text for place in places if (text := as_text(place)).strip()), "")


def _repeats(text: str, kind: str, detail: str) -> bool:
    """Whether the text only says what the note says: WEBJS puts raw content into the body."""
    match kind:
        case "contact":
            return text.lstrip().upper().startswith("BEGIN:VCARD")
        case "location" | "order" | "product":
            return text.startswith("/9j/")  # a JPEG thumbnail
        case "poll" | "event":
            return detail.startswith(_as_detail(text))
        case _:
            return False


def _as_detail(text: str) -> str:
    """What others wrote, so that it stays inside the brackets of one note."""
    return one_line(text.replace("[", "(").replace("]", ")"), _DETAIL_LENGTH)


def _title(raw: _Raw) -> str:
    return first_text(*(at(raw.message, *path) for path in _TITLES)) or ""


def _file(raw: _Raw, kind: str) -> str:
    return "voice message" if kind == "audio" and _is_voice(raw) else kind


def _is_voice(raw: _Raw) -> bool:
    if node := raw.node("audio"):
        return node.get("ptt") is True or node.get("PTT") is True
    if raw.web_type:
        return raw.web_type == "ptt"
    return raw.media is not None and (raw.media.mimetype or "").startswith("audio/ogg")


def _place(raw: _Raw) -> str:
    location, node = as_object(raw.payload.get("location")), raw.node("location")
    named = (first_text(location.get(key), node.get(key)) for key in ("name", "address"))
    place = ", ".join(name for name in named if name) or as_text(location.get("description"))
    latitude = _degrees(location.get("latitude", node.get("degreesLatitude")), 90)
    longitude = _degrees(location.get("longitude", node.get("degreesLongitude")), 180)
    if not latitude or not longitude:
        return place
    return f"{place} ({latitude}, {longitude})" if place else f"{latitude}, {longitude}"


def _degrees(value: object, limit: int) -> str:
    """A coordinate to a tenth of a metre; WAHA reports text, engines report numbers."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    try:
        degrees = float(value)
    except (ValueError, OverflowError):
        return ""
    if not abs(degrees) <= limit:  # not a number included
        return ""
    return f"{degrees:.6f}".rstrip("0").rstrip(".")


def _contacts(raw: _Raw) -> str:
    """Names only: whose numbers these are is not ours to spread."""
    cards = [_VCARD_NAME.search(as_text(card)) for card in as_list(raw.payload.get("vCards"))]
    if any(cards):
        return ", ".join(re.sub(r"\\(.)", r"\1", card[1].strip()) for card in cards if card)
    node = raw.node("contact")
    contacts = as_list(node.get("contacts")) or as_list(raw.data.get("vcardList")) or [node]
    return ", ".join(name for each in contacts if (name := as_text(at(each, "displayName"))))


def _poll(raw: _Raw) -> str:
    node = raw.node("poll")
    question = first_text(node.get("name"), raw.data.get("pollName")) or ""
    options = [
        name
        for option in as_list(node.get("options")) or as_list(raw.data.get("pollOptions"))
        if (name := first_text(at(option, "optionName"), at(option, "name")))
    ]
    return f"{question} ({', '.join(options)})" if options else question


_DETAILS = {
    "location": _place,
    "contact": _contacts,
    "poll": _poll,
}
