"""A WAHA for tests: it sends nothing, remembers everything, and fails when it is told to."""

from __future__ import annotations

import hmac
import itertools
import json
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Self, TypedDict

from pydantic import SecretStr

from langchain_convsync import phone
from langchain_convsync._checked import Port, checked
from langchain_convsync.errors import ClosedError, InvalidPhoneNumberError
from langchain_convsync.settings import secret_bytes
from langchain_convsync.testing._limits import AccountLimits
from langchain_convsync.testing._loopback import Answer, LoopbackServer, Request
from langchain_convsync.waha.limits import LimitKind


class SentText(NamedTuple):
    """A text that a customer would have got.

    Attributes:
        session: The WAHA session that sent it.
        chat_id: The chat, e.g. ``51999999999@c.us``.
        text: The text.
        id: The message's id without WAHA's prefixes.
        file: The file that was sent as WAHA got it: ``mimetype``, ``filename``, and ``url``, or
            ``data`` in base64; ``text`` is its caption. None where it is a text.
        reply_to: WAHA's id of the message that it quotes.
    """

    session: str
    chat_id: str
    text: str
    id: str
    file: Mapping[str, str] | None = None
    reply_to: str | None = None


class Delivery(TypedDict):
    """What a webhook gets: keyword arguments of ``post`` of any httpx or Starlette client."""

    content: bytes
    headers: dict[str, str]


@checked
class FakeWAHA:
    """A WAHA over real HTTP on loopback that sends nothing, for tests of bots that answer.

    It takes texts, files, read marks and typing, shows chats, sessions, files and the phone numbers
    behind LIDs, and makes the signed deliveries of a webhook::

        with FakeWAHA() as waha:
            runner = TurnRunner(agent, client=client, store=store, reply=WAHAReply(waha.base_url))
            with TestClient(create_app(runner, waha_secrets="key")) as web:
                web.post("/webhook", **waha.delivery("+51999999999", "Hola", secret="key"))
                assert waha.wait_for_sent()[0].text == "…"

    Args:
        api_key: The ``X-Api-Key`` that callers must show; None takes any.
        session: The name of its one session.
        numbers: The phone numbers it knows, by LID (``{"38…@lid": "+51999999999"}``).
        port: Where it listens; 0 takes a free port.

    Attributes:
        sent: The texts that were sent, oldest first; those that failed are not among them.
        signs: What else was shown in chats, oldest first: (``"sendSeen"``, ``"startTyping"`` or
            ``"stopTyping"``, chat id).
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        session: str = "default",
        numbers: Mapping[str, str] | None = None,
        port: Port = 0,
    ) -> None:
        self.sent: list[SentText] = []
        self.signs: list[tuple[str, str]] = []
        self.session = session
        self._api_key = api_key
        self._numbers = dict(numbers or {})
        self._fates: list[Answer] = []
        self._limits = AccountLimits()
        self._files: dict[tuple[str, str], bytes] = {}
        self._changed = threading.Condition()
        self._count = itertools.count(1)
        self._server = LoopbackServer(self._answer, port=port)

    @property
    def base_url(self) -> str:
        """Where it answers, or answered before it was stopped.

        Raises:
            ClosedError: It was never started.
        """
        if not self._server.port:
            message = "the fake WAHA is not running: call start(), or use it in a with block"
            raise ClosedError(message)
        return self._server.url

    def start(self) -> Self:
        """Listen, on the same port as before after :meth:`stop`; nothing while it is running."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Close every connection; what was sent stays."""
        self._server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def refuse(self, status: int = 500, *, times: int = 1, message: str = "refused") -> None:
        """Answer the next texts with an error instead of sending them.

        Args:
            status: The HTTP status: 422 is what a session that is not WORKING answers.
            times: How many texts.
            message: What the answer says.
        """
        self._fates += [Answer(status, {"statusCode": status, "message": message})] * times

    def lose_answers(self, times: int = 1) -> None:
        """Send the next texts, and break the connection before the answer.

        Args:
            times: How many texts.
        """
        self._fates += [Answer(0, None)] * times

    def limit(self, kind: LimitKind | None) -> None:
        """Limit the account from now on, as WhatsApp and WAHA do; :meth:`status` tells a webhook.

        Whoever goes on sending is banned: see :attr:`banned`.

        Args:
            kind: ``"timelock"``: it may write to no one, and a send answers error 463.
                ``"capping"``: it may begin no chats; who was sent something is sent more.
                ``"session"``: it is logged out, and a send answers 422. None ends that.
        """
        with self._changed:
            self._limits.set(kind)

    @property
    def banned(self) -> bool:
        """Whether its number is banned: three sends were refused for a limit, and more came."""
        return self._limits.banned

    def wait_for_sent(self, count: int = 1, *, timeout: float = 10.0) -> list[SentText]:
        """Wait until so many texts were sent; a runner's workers send behind the webhook's answer.

        It blocks: in async tests, ``await asyncio.to_thread(waha.wait_for_sent)``.

        Args:
            count: How many, since the beginning.
            timeout: Seconds to wait at most.

        Returns:
            All that were sent.

        Raises:
            TimeoutError: They were not sent in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.sent) >= count, timeout):
                message = f"{len(self.sent)} of {count} texts were sent within {timeout} seconds"
                raise TimeoutError(message)
            return list(self.sent)

    def delivery(
        self,
        sender: str,
        text: str,
        *,
        secret: str | SecretStr | None = None,
        message_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        file: bytes | None = None,
        mimetype: str = "image/jpeg",
        filename: str | None = None,
    ) -> Delivery:
        """What WAHA posts to a webhook when a customer writes.

        Deliver it with any client: ``client.post(url, **waha.delivery(…))``. The same delivery
        twice is one message. A file is served from then on, under the URL that WAHA would tell:
        one of ``http://localhost:3000``, where this one is not.

        Args:
            sender: The customer: a phone number in any spelling, or a chat id, ``…@lid`` too.
            text: What the customer writes.
            secret: The key to sign with (WAHA's ``hmac.key``); None leaves it unsigned.
            message_id: The message's own id; None makes a new message of each call.
            metadata: The session's metadata, e.g. ``{"bot.id": "bot123"}``.
            file: A file that the customer sends along, whose caption is ``text``.
            mimetype: What the message says that the file is.
            filename: What a document is called.

        Raises:
            InvalidPhoneNumberError: ``sender`` names no customer.
        """
        identity = phone.identity_of(sender)
        if identity is None or not phone.is_chat(identity):
            message = "sender must be a phone number such as +51999999999, or a chat id"
            raise InvalidPhoneNumberError(message)
        chat_id = phone.chat_id(identity)
        stanza = message_id or f"3A{next(self._count):030X}"
        now = time.time()
        payload = _message(stanza, chat_id, text, now, own=False)
        if file is not None:
            name = f"{stanza}.{mimetype.partition(';')[0].rpartition('/')[2]}"
            self._files[self.session, name] = file
            url = f"http://localhost:3000/api/files/{self.session}/{name}"
            media = {"url": url, "mimetype": mimetype, "filename": filename, "error": None}
            payload |= {"hasMedia": True, "media": media}
        return self._signed(payload, "message", now, metadata, secret)

    def echo(self, sent: SentText, *, secret: str | SecretStr | None = None) -> Delivery:
        """What WAHA posts to a webhook about a message of our own.

        Args:
            sent: The message, one of :attr:`sent`.
            secret: The key to sign with; None leaves it unsigned.
        """
        now = time.time()
        return self._signed(_own(sent), "message.any", now, None, secret)

    def status(self, *, secret: str | SecretStr | None = None) -> Delivery:
        """What WAHA posts to a webhook about its session and its limits, as they are now.

        Args:
            secret: The key to sign with; None leaves it unsigned.
        """
        limits = self._limits
        me = {
            "reachoutTimelock": limits.told["timelock"],
            "messageCapping": limits.told["capping"],
        }
        payload = {"name": self.session, "status": limits.status, "statuses": [], "data": me}
        return self._signed(payload, "session.status", time.time(), None, secret)

    def _signed(
        self,
        payload: dict[str, Any],
        event: str,
        now: float,
        metadata: Mapping[str, str] | None,
        secret: str | SecretStr | None,
    ) -> Delivery:
        envelope = {
            "id": f"evt_{next(self._count):026x}",
            "timestamp": int(now * 1000),
            "event": event,
            "session": self.session,
            "metadata": dict(metadata or {}),
            "payload": payload,
            "engine": "GOWS",
        }
        content = json.dumps(envelope, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json"}
        if secret is not None:
            key = secret_bytes(secret, "secret")
            headers["X-Webhook-Hmac"] = hmac.digest(key, content, "sha512").hex()
            headers["X-Webhook-Hmac-Algorithm"] = "sha512"
        return Delivery(content=content, headers=headers)

    def _answer(self, request: Request) -> Answer:
        if self._api_key is not None and request.headers.get("x-api-key") != self._api_key:
            return Answer(401, {"message": "Unauthorized"})
        with self._changed:
            if request.method == "POST":
                return self._posted(request.path, request.json)
            found = self._found(request.path)
        return Answer(404, {"message": "Not Found"}) if found is None else Answer(200, found)

    def _posted(self, path: list[str], body: Mapping[str, Any]) -> Answer:
        match path:
            case ["api", "sendText"] if {"session", "chatId", "text"} <= body.keys():
                return self._send(body, str(body["text"]))
            case ["api", "sendFile" | "sendImage" | "sendVoice"] if _is_file(body):
                return self._send(body, str(body.get("caption", "")))
            case ["api", "sendSeen" | "startTyping" | "stopTyping" as sign] if "chatId" in body:
                self.signs.append((sign, str(body["chatId"])))
                return Answer(201, {})
        return Answer(400, {"message": "Bad Request"})

    def _found(self, path: list[str]) -> object:
        match path:
            case ["api", "files", session, name]:
                return self._files.get((session, name))
            case ["api", "sessions", *about]:
                return self._session(about)
            case ["api", _, "lids", *named]:
                return self._pair(*named)
            case ["api", session, "chats"]:
                return self._chats(session)
            case ["api", session, "chats", chat_id, "messages"]:
                return self._sent_in(session, chat_id)
        return None

    def _session(self, about: list[str]) -> object:
        if about:
            return self._limits.told.get(about[-1])
        return [{"name": self.session, "status": self._limits.status}]

    def _send(self, body: Mapping[str, Any], text: str) -> Answer:
        known = any(sent.chat_id == body["chatId"] for sent in self.sent)
        if (refusal := self._limits.refusal(known=known)) is not None:
            return refusal
        fate = self._fates.pop(0) if self._fates else None
        if fate is not None and fate.status:
            return fate
        stanza = f"3EB0{len(self.sent) + 1:016X}"
        to = (str(body["session"]), str(body["chatId"]))
        sent = SentText(*to, text, stanza, body.get("file"), body.get("reply_to"))
        self.sent.append(sent)
        self._changed.notify_all()
        return fate or Answer(201, _own(sent))

    def _pair(self, *named: str) -> dict[str, str | None]:
        """A LID and its number, by either."""
        if named[0] != "pn":
            return {"lid": named[0], "pn": self._numbers.get(named[0])}
        numbers = {number: lid for lid, number in self._numbers.items()}
        return {"lid": numbers.get(phone.identity_of(named[-1]) or ""), "pn": named[-1]}

    def _chats(self, session: str) -> list[dict[str, str]]:
        newest_first = reversed([sent.chat_id for sent in self.sent if sent.session == session])
        return [{"id": chat_id} for chat_id in dict.fromkeys(newest_first)]

    def _sent_in(self, session: str, chat_id: str) -> list[dict[str, Any]]:
        return [
            _own(sent)
            for sent in reversed(self.sent)
            if (sent.session, sent.chat_id) == (session, chat_id)
        ]


def _is_file(body: Mapping[str, Any]) -> bool:
    file = body.get("file")
    named = isinstance(file, dict) and "mimetype" in file and bool({"url", "data"} & file.keys())
    return named and {"session", "chatId"} <= body.keys()


def _own(sent: SentText) -> dict[str, Any]:
    told = _message(sent.id, sent.chat_id, sent.text, time.time(), own=True)
    return {**told, "hasMedia": sent.file is not None}


def _message(stanza: str, chat_id: str, text: str, now: float, *, own: bool) -> dict[str, Any]:
    return {
        "id": f"{str(own).lower()}_{chat_id}_{stanza}",
        "timestamp": int(now),
        "from": chat_id,
        "fromMe": own,
        "source": "api" if own else "app",
        "to": chat_id if own else None,
        "body": text,
        "hasMedia": False,
    }
