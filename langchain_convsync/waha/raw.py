"""One message as WAHA and its engine tell it: out of its envelopes, and of which kind it is."""

from __future__ import annotations

from dataclasses import dataclass

from langchain_convsync.waha.wire import Folded, Json, as_object, as_text, at, folded

#: Kinds of content, each with its protobuf fields and its WhatsApp Web types, folded.
KINDS = {
    name: kind
    for kind, names in {
        "text": "conversation extendedtextmessage highlystructuredmessage interactivemessage "
        "buttonsmessage listmessage templatemessage questionresponsemessage interactive hsm "
        "statusquestionanswermessage nativeflow template list buttons oversized chat url",
        "choice": "buttonsresponsemessage templatebuttonreplymessage listresponsemessage "
        "interactiveresponsemessage buttonsresponse templatebuttonreply listresponse "
        "interactiveresponse nativeflowresponse",
        "image": "imagemessage image",
        "video": "videomessage ptvmessage video gif ptv",
        "audio": "audiomessage audio ptt",
        "document": "documentmessage document",
        "sticker": "stickermessage lottiestickermessage sticker",
        "location": "locationmessage livelocationmessage location livelocation",
        "contact": "contactmessage contactsarraymessage vcard multivcard contactarray",
        "poll": "pollcreationmessage pollcreationmessagev2 pollcreationmessagev3 pollcreation "
        "pollcreationmessagev4 pollcreationmessagev5 pollcreationmessagev6",
        "poll result": "pollresultsnapshotmessage pollresultsnapshot",
        "event": "eventmessage eventcreation",
        "event invitation": "eventinvitemessage",
        "order": "ordermessage order",
        "product": "productmessage product",
        "group invitation": "groupinvitemessage groupsv4invite",
        "channel invitation": "newsletteradmininvitemessage newsletterfollowerinvitemessagev2 "
        "newsletteradmininvite",
        "payment": "sendpaymentmessage paymentinvitemessage invoicemessage payment",
        "payment request": "requestpaymentmessage",
        "sticker pack": "stickerpackmessage stickerpack",
        "scheduled call": "scheduledcallcreationmessage scheduledcallcreation",
        "message that opens on the customer's phone only": "placeholdermessage",
        "request for the phone number": "requestphonenumbermessage requestphonenumber",
    }.items()
    for name in names.split()
}
#: Kinds that come as a file.
FILES = frozenset({"image", "video", "audio", "document", "sticker"})

# What carries no person's words: keys, settings, and copies of what has an event of its own. A
# message that could not be decrypted yet is among them, because it comes again under the same id.
SILENT = frozenset(
    """messagecontextinfo senderkeydistributionmessage fastratchetkeysenderkeydistributionmessage
    protocolmessage reactionmessage encreactionmessage pollupdatemessage enceventresponsemessage
    keepinchatmessage pininchatmessage secretencryptedmessage stickersyncrmrmessage call
    calllogmesssage albummessage messagehistorynotice messagehistorybundle
    """.split()  # noqa: SIM905  # one name a line is no better to read
)
SILENT_TYPES = frozenset(
    """e2enotification notification notificationtemplate broadcastnotification gp2 protocol
    revoked ciphertext calllog reaction reactionenc pollupdate pinnedmessage keepinchat debug
    album
    """.split()  # noqa: SIM905  # as above
)

_WRAPPERS = 8


@dataclass(frozen=True, kw_only=True)
class RawMessage:
    """One message as WAHA and its engine describe it, out of its envelopes.

    Attributes:
        payload: WAHA's own fields.
        data: The engine's fields, folded.
        message: The protobuf message, folded; empty where the engine speaks WhatsApp Web's model.
        names: The message's fields as the engine spells them.
        opened: The envelopes that it was in, folded.
        web_type: What WhatsApp Web calls its type, folded.
    """

    payload: Json
    data: Folded
    message: Folded
    names: tuple[str, ...]
    opened: frozenset[str]
    web_type: str

    @classmethod
    def of(cls, payload: Json) -> RawMessage:
        """Take a payload apart."""
        data = Folded.of(payload.get("_data"))
        message, envelopes = opened(as_object(data.get("message")))
        return cls(
            payload=payload,
            data=data,
            message=Folded.of(message),
            names=tuple(name for name, node in message.items() if _says_something(node)),
            opened=envelopes,
            web_type=folded(as_text(data.get("type"))),
        )

    @property
    def kind(self) -> str:
        """What kind of content it is, as far as the engine tells; ``""`` where it does not."""
        named = [KINDS[name] for name in self.message if name in KINDS]
        told = [*named, KINDS.get(self.web_type), KINDS.get(folded(self._media_type))]
        return next((kind for kind in told if kind and kind != "text"), "")

    @property
    def is_live(self) -> bool:
        """Whether it is a live location, as its kind tells."""
        told = {*self.message, self.web_type, folded(self._media_type)}
        return not told.isdisjoint({"livelocation", "livelocationmessage"})

    @property
    def _media_type(self) -> str:
        return "" if self.message else self.data.texts("info.mediatype")

    def node(self, kind: str) -> Folded:
        """The field of that kind; for WhatsApp Web, which has none, all of them."""
        found = next((name for name in self.message if KINDS.get(name) == kind), None)
        return self.data if found is None else self.message.within(found)


def _says_something(node: object) -> bool:
    return isinstance(node, dict) or bool(as_text(node).strip())


def opened(message: Json) -> tuple[Json, frozenset[str]]:
    """The message inside its envelopes: ephemeral, view once, document with caption and others."""
    names: list[str] = []
    for _ in range(_WRAPPERS):
        for name, node in message.items():
            inner = at(node, "message") or at(node, "Message")
            if isinstance(inner, dict):
                names.append(folded(name))
                message = inner
                break
        else:
            break
    return message, frozenset(names)
