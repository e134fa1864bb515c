"""WhatsApp as the workbench plays it: customers with phones, and a WAHA that takes what is sent."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_convsync import phone
from langchain_convsync.testing import Delivery, FakeWAHA, SentText
from langchain_convsync.testing._loopback import Answer, Request

#: The business's own number.
BUSINESS = "51988888888@c.us"
SESSION = "workbench"
#: What pictures the page shows, and up to how many characters of base64.
_PICTURES = {"image/png", "image/jpeg", "image/gif", "image/webp"}
LARGEST_SHOWN = 1_000_000


@dataclass(frozen=True, slots=True)
class Customer:
    """Somebody who writes.

    Attributes:
        name: As their phone tells it.
        phone_number: E.164.
        lid: The other id under which WhatsApp may know them.
    """

    name: str
    phone_number: str
    lid: str

    @property
    def chat(self) -> str:
        """Their chat id."""
        return phone.chat_id(self.phone_number)


CUSTOMERS = (
    Customer("Lucía", "+51999999999", "38000000000010@lid"),
    Customer("Marco", "+51988877766", "38000000000020@lid"),
    Customer("Amina", "+51977766655", "38000000000030@lid"),
)


def stranger(number: int) -> Customer:
    """A customer nobody has met: one for each number."""
    return Customer(f"Customer {number}", f"+5190{number:07}", f"39{number:012}@lid")


class WhatsApp(FakeWAHA):
    """A WAHA whose customers can be played, and which tells what it is asked.

    Args:
        tell: Called with a kind and facts.
        secret: What its deliveries are signed with.
        metadata: The session's: whose bot it is.

    Attributes:
        customers: Whom it knows.
    """

    def __init__(
        self, tell: Callable[..., Any], *, secret: str, metadata: Mapping[str, str]
    ) -> None:
        super().__init__(session=SESSION)
        self.customers: list[Customer] = []
        for customer in CUSTOMERS:
            self.meet(customer)
        self.away = False
        self._tell, self._secret, self._metadata = tell, secret, metadata
        self._begun = int(time.time())

    def meet(self, customer: Customer) -> None:
        """Know one more customer."""
        self.customers.append(customer)
        self._numbers[customer.lid] = customer.chat

    def written(
        self,
        customer: Customer,
        stanza: str,
        text: str,
        *,
        lid: bool = False,
        quotes: Mapping[str, str] | None = None,
        image: bool = False,
    ) -> Delivery:
        """A message of the customer's, as it is delivered; with ``lid``, as its twin."""
        chat, other = customer.chat, customer.lid
        if lid:
            chat, other = other, chat
        payload = _payload(f"false_{chat}_{stanza}", chat, text, own=False) | {
            "_data": {
                "Info": {
                    "Chat": chat,
                    "ID": stanza,
                    "PushName": customer.name,
                    "SenderAlt": other.replace("@c.us", "@s.whatsapp.net"),
                }
            }
        }
        if quotes is not None:
            payload["replyTo"] = dict(quotes)
        if image:
            name = f"{stanza}.png"
            self._files[self.session, name] = PICTURE
            url = f"http://localhost:3000/api/files/{self.session}/{name}"
            media = {"url": url, "mimetype": "image/png", "filename": None, "error": None}
            payload |= {"hasMedia": True, "media": media}
        return self._event("message", payload)

    def edited(self, customer: Customer, stanza: str, text: str, number: int) -> Delivery:
        """The customer changes the words of a message."""
        payload = _payload(f"false_{customer.chat}_ED{number:030X}", customer.chat, text, own=False)
        return self._event("message.edited", payload | {"editedMessageId": stanza})

    def revoked(self, customer: Customer, stanza: str, number: int) -> Delivery:
        """The customer takes a message back."""
        after = _payload(f"false_{customer.chat}_DE{number:030X}", customer.chat, "", own=False)
        payload = {"after": after, "revokedMessageId": stanza, "before": None}
        return self._event("message.revoked", payload)

    def written_by_colleague(
        self, customer: Customer, stanza: str, text: str, at: float
    ) -> Delivery:
        """A human writes to the customer from the business's own phone, at this time."""
        payload = _payload(f"true_{customer.chat}_{stanza}", customer.chat, text, own=True)
        return self._event("message.any", payload | {"timestamp": int(at)})

    def echoed(self, sent: SentText) -> Delivery:
        """A message of the bot's own, as WAHA reports it."""
        payload = _payload(f"true_{sent.chat_id}_{sent.id}", sent.chat_id, sent.text, own=True)
        return self._event("message.any", payload | {"source": "api"})

    def _event(self, event: str, payload: dict[str, Any]) -> Delivery:
        return self._signed(payload, event, time.time(), self._metadata, self._secret)

    def _answer(self, request: Request) -> Answer:
        return Answer(0, None) if self.away else super()._answer(request)

    def _posted(self, path: list[str], body: Mapping[str, Any]) -> Answer:
        answer = super()._posted(path, body)
        if path[:1] == ["api"] and path[-1] in {"sendSeen", "startTyping", "stopTyping"}:
            self._tell("sign", sign=path[-1], chat=str(body.get("chatId")))
        return answer

    def _send(self, body: Mapping[str, Any], text: str) -> Answer:
        before = len(self.sent)
        answer = super()._send(body, text)
        if len(self.sent) > before:
            sent, status = self.sent[-1], answer.status
            told = {"text": sent.text, "id": sent.id, "file": sent.file and _shown(sent.file)}
            self._tell("said", chat=sent.chat_id, status=status, **told)
        else:
            self._tell("refused", chat=str(body["chatId"]), status=answer.status)
        return answer


def _shown(file: Mapping[str, str]) -> dict[str, str | None]:
    """What a page shows of a file that the bot sent: small pictures, and the names of others."""
    picture = None
    if file["mimetype"] in _PICTURES and len(data := file.get("data", "")) < LARGEST_SHOWN:
        picture = f"data:{file['mimetype']};base64,{data}" if data else None
    return {"mimetype": file["mimetype"], "name": file.get("filename"), "picture": picture}


def _payload(message_id: str, chat: str, text: str, *, own: bool) -> dict[str, Any]:
    return {
        "id": message_id,
        "timestamp": int(time.time()),
        "from": chat,
        "fromMe": own,
        "source": "app",
        "to": chat if own else BUSINESS,
        "body": text,
        "hasMedia": False,
    }


def _chunk(kind: bytes, data: bytes) -> bytes:
    checked = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checked


def _picture(size: int = 64) -> bytes:
    """A PNG: a slice of pizza, as far as 64 pixels go."""
    rows = bytearray()
    for y in range(size):
        rows.append(0)
        for x in range(size):
            inside = abs(x - size / 2) < (size - y) / 2
            crust, dot = y < size / 6, (x // 9 + y // 9) % 3 == 0
            colour = b"\xc8\x7a\x30" if crust else b"\xd6\x3a\x2c" if dot else b"\xf6\xc8\x4c"
            rows += colour if inside else b"\xf3\xf1\xec"
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", head)
        + _chunk(b"IDAT", zlib.compress(bytes(rows)))
        + _chunk(b"IEND", b"")
    )


PICTURE = _picture()
