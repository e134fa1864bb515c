"""What customers send, as WAHA's engines report it: made from one table in three spellings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

Engine: TypeAlias = Literal["NOWEB", "GOWS", "WEBJS"]
ENGINES: tuple[Engine, ...] = ("NOWEB", "GOWS", "WEBJS")

#: Stands in each place whose words a person would see.
WORDS = "canaryword"
#: Stands in what a message refers to.
REFERRED = "canaryquote"
CUSTOMER, BUSINESS, STRANGER = "51999999999", "51888888888", "51777777777"
CARD = f"BEGIN:VCARD\nVERSION:3.0\nFN:{WORDS}\nTEL;waid={STRANGER}:+51 777\nEND:VCARD"
JPEG = "/9j/" + "A" * 200

#: Baileys' fields. GOWS' are made from them; what WhatsApp Web tells instead is in ``WEB``.
MESSAGES: dict[str, dict[str, Any]] = {
    "text": {"conversation": WORDS},
    "long text": {"extendedTextMessage": {"text": WORDS}},
    "image": {"imageMessage": {"mimetype": "image/jpeg", "caption": WORDS, "jpegThumbnail": JPEG}},
    "video": {"videoMessage": {"mimetype": "video/mp4", "caption": WORDS, "seconds": 3}},
    "document": {
        "documentWithCaptionMessage": {
            "message": {"documentMessage": {"fileName": WORDS, "mimetype": "application/pdf"}}
        }
    },
    "button": {
        "buttonsResponseMessage": {
            "selectedButtonId": "b1",
            "selectedDisplayText": WORDS,
            "type": "DISPLAY_TEXT",
        }
    },
    "template button": {
        "templateButtonReplyMessage": {
            "selectedId": "t1",
            "selectedDisplayText": WORDS,
            "selectedIndex": 0,
        }
    },
    "list row": {
        "listResponseMessage": {
            "title": WORDS,
            "listType": "SINGLE_SELECT",
            "singleSelectReply": {"selectedRowId": "r1"},
        }
    },
    "list row without a title": {
        "listResponseMessage": {"singleSelectReply": {"selectedRowId": WORDS}}
    },
    "quick reply": {
        "interactiveResponseMessage": {
            "nativeFlowResponseMessage": {
                "name": "quick_reply",
                "paramsJson": json.dumps({"id": "q1", "display_text": WORDS}),
            }
        }
    },
    "form": {
        "interactiveResponseMessage": {
            "body": {"text": "Enviado"},
            "nativeFlowResponseMessage": {
                "name": "flow",
                "paramsJson": json.dumps({"flow_token": "t", "nombre": WORDS}),
            },
        }
    },
    "place": {
        "locationMessage": {"degreesLatitude": -12.5, "degreesLongitude": -77.5, "name": WORDS}
    },
    "live place": {
        "liveLocationMessage": {
            "degreesLatitude": 1.5,
            "degreesLongitude": 2.5,
            "caption": WORDS,
            "sequenceNumber": "1786400000000001",
        }
    },
    "card": {"contactMessage": {"displayName": WORDS, "vcard": CARD}},
    "cards": {"contactsArrayMessage": {"contacts": [{"displayName": "Ana"}, {"vcard": CARD}]}},
    "poll": {"pollCreationMessageV3": {"name": "¿Qué?", "options": [{"optionName": WORDS}]}},
    "event": {"eventMessage": {"name": WORDS, "startTime": "1786400000"}},
    "order": {"orderMessage": {"orderTitle": "Pedido", "itemCount": 2, "message": WORDS}},
    "product": {
        "productMessage": {
            "product": {"title": WORDS, "priceAmount1000": "30000", "currencyCode": "PEN"}
        }
    },
    "invitation": {"groupInviteMessage": {"groupName": "Vecinos", "caption": WORDS}},
    "payment request": {
        "requestPaymentMessage": {
            "amount1000": "30000",
            "currencyCodeIso4217": "PEN",
            "noteMessage": {"extendedTextMessage": {"text": WORDS}},
        }
    },
    "new kind": {"hologramMessage": {"text": WORDS}},
}

WEB: dict[str, dict[str, Any]] = {
    "text": {"type": "chat", "body": WORDS},
    "image": {"type": "image", "caption": WORDS, "body": JPEG, "mimetype": "image/jpeg"},
    "document": {"type": "document", "filename": WORDS, "mimetype": "application/pdf"},
    "button": {"type": "buttons_response", "selectedButtonId": "b1", "body": WORDS},
    "template button": {"type": "template_button_reply", "selectedId": "t1", "body": WORDS},
    "list row": {
        "type": "list_response",
        "listResponse": {"title": WORDS, "singleSelectReply": {"selectedRowId": "r1"}},
    },
    "button of which only the id is told": {
        "type": "buttons_response",
        "selectedButtonId": "b1",
        "quotedMsg": {
            "type": "chat",
            "body": "¿Cuál?",
            "dynamicReplyButtons": [{"buttonId": "b1", "buttonText": {"displayText": WORDS}}],
        },
    },
    "place": {"type": "location", "lat": -12.5, "lng": -77.5, "loc": WORDS, "body": JPEG},
    "card": {"type": "vcard", "body": CARD, "vcardFormattedName": "Ana"},
    "cards": {"type": "multi_vcard", "vcardList": [{"displayName": "Ana", "vcard": CARD}]},
    "poll": {"type": "poll_creation", "pollName": WORDS, "pollOptions": [{"name": "sí"}]},
    "event": {"type": "event_creation", "eventName": WORDS},
    "order": {"type": "order", "orderTitle": WORDS, "itemCount": 2, "body": JPEG},
    "product": {"type": "product", "title": WORDS, "body": JPEG},
    "invitation": {"type": "groups_v4_invite", "inviteGrpName": WORDS},
}

#: Envelopes that a message may be in.
WRAPPERS = (
    "ephemeralMessage",
    "viewOnceMessageV2",
    "deviceSentMessage",
    "groupMentionedMessage",
    "botForwardedMessage",
)
#: What a message may refer to.
CONTEXTS: dict[str, dict[str, Any]] = {
    "quote": {
        "stanzaId": "3EB0QUOTED",
        "participant": f"{BUSINESS}@s.whatsapp.net",
        "quotedMessage": {"conversation": REFERRED},
    },
    "quote of a picture": {
        "stanzaId": "3EB0QUOTED",
        "quotedMessage": {"imageMessage": {"caption": REFERRED, "mimetype": "image/png"}},
    },
    "mention": {"mentionedJid": [f"{BUSINESS}@s.whatsapp.net", "87000000000001@lid"]},
    "forward": {"isForwarded": True, "forwardingScore": 2},
    "ad": {"externalAdReply": {"title": REFERRED, "sourceType": "ad", "sourceId": "1"}},
}

_CAPITALS = re.compile(r"(?:Id|Jid|Url|Json)(?=[A-Z]|$)")
_ONEOFS = {
    "nativeFlowResponseMessage": ("InteractiveResponseMessage", "NativeFlowResponseMessage"),
    "selectedDisplayText": ("Response", "SelectedDisplayText"),
}


def in_go(value: Any) -> Any:
    """Baileys' spelling as whatsmeow's: initialisms in capitals, alternatives under Go's names."""
    if isinstance(value, list):
        return [in_go(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    told: dict[str, Any] = {}
    for name, inner in value.items():
        spelled = _CAPITALS.sub(lambda match: match[0].upper(), name)
        if name in _ONEOFS and name != "selectedDisplayText":
            outer, own = _ONEOFS[name]
            told.setdefault(outer, {})[own] = in_go(inner)
        elif name == "selectedDisplayText" and "selectedButtonId" in value:
            told.setdefault("Response", {})["SelectedDisplayText"] = inner
        else:
            told[spelled] = in_go(inner)
    return told


def data_of(
    name: str, engine: Engine, *, wrappers: tuple[str, ...] = (), contexts: tuple[str, ...] = ()
) -> dict[str, Any]:
    """``_data`` of a message of that kind, as the engine tells it."""
    if engine == "WEBJS":
        return dict(WEB[name])
    message = json.loads(json.dumps(MESSAGES[name]))
    context: dict[str, Any] = {}
    for each in contexts:
        context.update(CONTEXTS[each])
    field = next((node for node in message.values() if isinstance(node, dict)), None)
    if context and field is not None:
        inner = field.get("message")
        (inner["documentMessage"] if isinstance(inner, dict) else field)["contextInfo"] = context
    for wrapper in wrappers:
        message = {wrapper: {"message": message}}
    if engine == "GOWS":
        return {"Info": {"Chat": f"{CUSTOMER}@s.whatsapp.net"}, "Message": in_go(message)}
    return {"key": {"remoteJid": f"{CUSTOMER}@s.whatsapp.net"}, "message": message}


def delivery(data: dict[str, Any], **payload: Any) -> dict[str, Any]:
    """A delivery of WAHA's whose own fields tell nothing of the message."""
    return {
        "id": "evt_01k0000000000000000000000a",
        "event": "message",
        "session": "shop",
        "me": {"id": f"{BUSINESS}@c.us", "lid": "87000000000001@lid"},
        "payload": {
            "id": f"false_{CUSTOMER}@c.us_3EB0C767D097B7C7C030",
            "timestamp": 1786400000,
            "from": f"{CUSTOMER}@c.us",
            "fromMe": False,
            "source": "app",
            "body": None,
            "hasMedia": False,
            "_data": data,
            **payload,
        },
    }
