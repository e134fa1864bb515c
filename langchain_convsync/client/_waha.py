"""WAHA's own API, as far as answering needs it: sending, seen marks, chats, files, LIDs, sessions.

Protocol: https://waha.devlike.pro/docs/how-to/send-messages/, …/chats/, …/contacts/ (for LIDs) and
…/sessions/. No call is repeated here: WAHA has no idempotency keys, so the worker that holds
the reply queue decides what comes next.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any

import httpx
from pydantic import SecretStr

from langchain_convsync import phone, telemetry
from langchain_convsync._flow import Flow
from langchain_convsync._forks import Unpicklable
from langchain_convsync._platform import now
from langchain_convsync.client._caller import seconds
from langchain_convsync.client._connections import Connections
from langchain_convsync.client._exchange import (
    LARGEST_BODY,
    Answer,
    Failure,
    Method,
    Outcome,
    Request,
)
from langchain_convsync.client._outgoing import header_value
from langchain_convsync.client._retry import retry_after
from langchain_convsync.errors import ConfigurationError, InvalidEventError, WAHAError
from langchain_convsync.phone import path_segment
from langchain_convsync.settings import Transport, base_url_setting, optional_setting
from langchain_convsync.waha import parse_json, stanza_id
from langchain_convsync.waha.files import is_voice, sending_path
from langchain_convsync.waha.limits import Limit, limit_in
from langchain_convsync.waha.origin import message_stanza, moment
from langchain_convsync.waha.refusals import RefusalKind, refusal_of
from langchain_convsync.waha.wire import Json, as_list, as_object, as_text, at

#: What is pasted from a call's URL, or from the dashboard's.
_ENDPOINT = re.compile(r"/(api|dashboard)(?:/(?:send\w*|sessions|server|default)(?:/.*)?)?$")
_REFUSED: dict[RefusalKind, str] = {
    "chat": "WAHA refused this chat id",
    "session": "WAHA's session does not work: start it, or scan its QR code",
    "timelock": "WhatsApp locks the account for a while: it has written to too many strangers",
    "capping": "WhatsApp lets the account begin no more chats for a while",
    "message": "WAHA refused: check its api_key and the session's name",
    "unclear": "WAHA refused, which may pass: look into its log",
}
_NOT_THERE = "there is no WAHA at base_url: pass where its /api begins, without /api"
#: Of a text that is refused with it, whoever refuses it, nothing becomes smaller by itself.
_TOO_LARGE = 413


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """A message as WAHA keeps it in a chat.

    ``own`` is one of the business itself, ``file`` one that came with a file.
    """

    id: str | None
    text: str = field(repr=False)
    sent_at: datetime | None
    own: bool = True
    file: bool = False


@dataclass(frozen=True, slots=True)
class WahaWebhook:
    """Where a session delivers its events; ``key`` signs them, ``hmac.key`` in WAHA's words."""

    events: tuple[str, ...] = ()
    key: SecretStr | None = None

    @classmethod
    def parse(cls, webhook: object) -> WahaWebhook:
        """The webhook in a session's ``config``."""
        entry = as_object(webhook)
        key = as_text(at(entry, "hmac", "key"))
        events = tuple(filter(None, map(as_text, as_list(entry.get("events")))))
        return cls(events, SecretStr(key) if key else None)


@dataclass(frozen=True, slots=True)
class WahaSession:
    """A WhatsApp account of WAHA; only a ``WORKING`` one sends and receives.

    ``limit`` is what WhatsApp has set it. ``webhooks`` are its own; those of all sessions together
    (``WHATSAPP_HOOK_URL``) WAHA does not tell.
    """

    name: str = field(repr=False)
    status: str | None
    webhooks: tuple[WahaWebhook, ...] = ()
    limit: Limit | None = None


class Waha(Unpicklable):
    """One WAHA server; :class:`WAHAClient` documents the arguments."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | SecretStr | None = None,
        transport: Transport | None = None,
        allow_http: Iterable[str] | None = None,
        trust_env: bool | None = None,
        http_client: httpx.Client | httpx.AsyncClient | None = None,
    ) -> None:
        self.base_url = base_url_setting(base_url, "CONVSYNC_WAHA_BASE_URL", allow_http=allow_http)
        if pasted := _ENDPOINT.search(self.base_url):
            message = (
                "base_url of WAHA (or CONVSYNC_WAHA_BASE_URL) goes without "
                f"/{pasted[1]}, which a client adds itself: pass {self.base_url[: pasted.start()]}"
            )
            raise ConfigurationError(message)
        key = optional_setting(
            api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key,
            "CONVSYNC_WAHA_API_KEY",
        )
        self._key = (
            None
            if key is None
            else SecretStr(header_value(key, "api_key (or CONVSYNC_WAHA_API_KEY)"))
        )
        self._connections = Connections(
            self.base_url, http_client, transport=transport, trust_env=trust_env
        )

    @property
    def transport(self) -> Transport | None:
        """What awaited calls travel over; None where a lent client carries them."""
        return self._connections.transport

    @property
    def only_awaits(self) -> bool:
        """Whether it was lent a client that cannot serve blocking calls."""
        return self._connections.only_awaits

    def send_text(
        self,
        session: str,
        chat_id: str,
        text: str,
        *,
        reply_to: str | None = None,
        timeout: float,
    ) -> Flow[str | None]:
        """Send a text; the stanza id of the message, where the answer tells it.

        Raises:
            WAHAError: It was not sent, or that is unknown.
        """
        asked = {"session": session, "chatId": chat_id, "text": text}
        if reply_to is not None:
            asked["reply_to"] = reply_to
        return (yield from self._sent("send_text", "/api/sendText", asked, timeout))

    def send_file(
        self,
        session: str,
        chat_id: str,
        file: Mapping[str, str],
        *,
        caption: str = "",
        voice: bool = False,
        reply_to: str | None = None,
        timeout: float,
    ) -> Flow[str | None]:
        """Send a file; the stanza id of the message, where the answer tells it.

        Args:
            session: WAHA's session.
            chat_id: The chat.
            file: Its ``mimetype`` and ``filename``, and its ``url``, or its bytes in base64 as
                ``data``.
            caption: The text under it.
            voice: Whether it is a voice message.
            reply_to: WAHA's id of the message that it quotes.
            timeout: Seconds for the whole call.

        Raises:
            WAHAError: It was not sent, or that is unknown.
        """
        asked: dict[str, object] = {"session": session, "chatId": chat_id, "file": dict(file)}
        if caption and not voice:
            asked["caption"] = caption
        if voice:
            asked["convert"] = not is_voice(file["mimetype"])
        if reply_to is not None:
            asked["reply_to"] = reply_to
        path = sending_path(file["mimetype"], voice=voice)
        return (yield from self._sent("send_file", path, asked, timeout))

    def _sent(
        self, operation: str, path: str, asked: Mapping[str, object], timeout: float
    ) -> Flow[str | None]:
        answer = yield from self._ask(operation, "POST", path, json.dumps(asked).encode(), timeout)
        told = _parsed(answer)
        if told is None and answer.body.strip():
            message = "what answered is not WAHA: check base_url, and what stands in front of it"
            raise WAHAError(message, status_code=answer.status, ambiguous=True, foreign=True)
        return _id_of(told)

    def seen(self, session: str, chat_id: str, *, timeout: float) -> Flow[None]:
        """Mark the chat as read: the customer's ticks turn blue.

        Raises:
            WAHAError: It did not work, or that is unknown.
        """
        yield from self._tell("seen", "/api/sendSeen", session, chat_id, timeout)

    def typing(self, session: str, chat_id: str, *, on: bool, timeout: float) -> Flow[None]:
        """Show that the business is typing, or no longer is.

        Raises:
            WAHAError: It did not work, or that is unknown.
        """
        path = "/api/startTyping" if on else "/api/stopTyping"
        yield from self._tell("typing", path, session, chat_id, timeout)

    def lid(self, session: str, lid: str, *, timeout: float) -> Flow[str | None]:
        """The phone number behind a LID, E.164; None where WAHA does not know it (yet).

        Raises:
            WAHAError: It cannot be asked.
        """
        path = f"/api/{path_segment(session)}/lids/{path_segment(lid)}"
        mapping = as_object(_parsed((yield from self._ask("lid", "GET", path, None, timeout))))
        number = phone.identity_of(as_text(mapping.get("pn")))
        return number if number is not None and number.startswith("+") else None

    def lid_of(self, session: str, phone_number: str, *, timeout: float) -> Flow[str | None]:
        """The LID of a phone number; None where WAHA does not know it.

        Raises:
            WAHAError: It cannot be asked.
        """
        chat_id = path_segment(phone.chat_id(phone_number))
        path = f"/api/{path_segment(session)}/lids/pn/{chat_id}"
        mapping = as_object(_parsed((yield from self._ask("lid", "GET", path, None, timeout))))
        return phone.lid_of(phone.identity_of(as_text(mapping.get("lid"))))

    def chats(self, session: str, *, most: int, timeout: float) -> Flow[list[str]]:
        """The chat ids of the last ``most`` chats; those that cannot be read are left out.

        Raises:
            WAHAError: They cannot be listed; ``status_code`` tells an engine that keeps none.
        """
        path = f"/api/{path_segment(session)}/chats?limit={most}&sortOrder=desc"
        listed = yield from self._list(
            "chats", f"{path}&sortBy=conversationTimestamp", "chats", timeout
        )
        ids = (as_text(chat.get("id")) or as_text(at(chat, "id", "_serialized")) for chat in listed)
        return [phone.chat_id(found) for each in ids if (found := phone.identity_of(each))]

    def chat(
        self, session: str, chat_id: str, *, most: int, own_only: bool, timeout: float
    ) -> Flow[list[ChatMessage]]:
        """The last ``most`` messages in a chat, in any order.

        Raises:
            WAHAError: They cannot be read; ``status_code`` tells an engine that keeps none.
        """
        path = f"/api/{path_segment(session)}/chats/{path_segment(chat_id)}/messages"
        query = f"?limit={most}&downloadMedia=false{'&filter.fromMe=true' if own_only else ''}"
        listed = yield from self._list("chat", path + query, "messages", timeout)
        return [
            ChatMessage(
                _id_of(entry),
                as_text(entry.get("body")),
                moment(entry.get("timestamp")),
                own=entry.get("fromMe") is True,
                file=entry.get("hasMedia") is True,
            )
            for entry in listed
        ]

    def limit(self, session: str, *, timeout: float) -> Flow[Limit | None]:
        """The limit that WhatsApp has set the account; None where there is none, or WAHA is older.

        Raises:
            WAHAError: It cannot be asked.
        """
        told = []
        for what in ("timelock", "capping"):
            path = f"/api/sessions/{path_segment(session)}/{what}"
            try:
                told.append(_parsed((yield from self._ask("limit", "GET", path, None, timeout))))
            except WAHAError as error:
                if error.status_code is None or error.status_code >= 500:
                    raise
        return limit_in(*told)

    def sessions(self, *, timeout: float) -> Flow[list[WahaSession]]:
        """Every session, stopped ones included.

        Raises:
            WAHAError: They cannot be read.
        """
        listed = yield from self._list("sessions", "/api/sessions?all=true", "sessions", timeout)
        return [
            WahaSession(
                as_text(entry.get("name")),
                as_text(entry.get("status")) or None,
                tuple(map(WahaWebhook.parse, as_list(at(entry, "config", "webhooks")))),
                limit_in({"me": entry.get("me")}),
            )
            for entry in listed
        ]

    def file(self, path: str, *, most: int, timeout: float) -> Flow[Outcome]:
        """What becomes of asking for a file, redirects and refusals included: none is followed.

        Args:
            path: Where WAHA keeps it, see :func:`.waha.files.file_path`.
            most: Bytes of it, decoded, that are read at most.
            timeout: Seconds for the whole call.
        """
        with telemetry.timed("waha_request", operation="file", status="none") as timing:
            outcome = yield from self._send("GET", path, None, timeout, most=most, accept="*/*")
            status = outcome.status if isinstance(outcome, Answer) else None
            timing.labels["status"] = f"{status // 100}xx" if status else "connection"
            return outcome

    def _tell(
        self, operation: str, path: str, session: str, chat_id: str, timeout: float
    ) -> Flow[None]:
        body = json.dumps({"session": session, "chatId": chat_id}).encode()
        yield from self._ask(operation, "POST", path, body, timeout)

    def _list(self, operation: str, path: str, what: str, timeout: float) -> Flow[list[Json]]:
        answer = yield from self._ask(operation, "GET", path, None, timeout)
        listed = _parsed(answer)
        if not isinstance(listed, list):
            message = f"WAHA answered with no list of {what}: check that base_url is WAHA's"
            raise WAHAError(message, status_code=answer.status, foreign=True)
        return [as_object(entry) for entry in listed]

    def _ask(
        self, operation: str, method: Method, path: str, body: bytes | None, timeout: float
    ) -> Flow[Answer]:
        with telemetry.timed("waha_request", operation=operation, status="none") as timing:
            try:
                answer = yield from self._exchange(method, path, body, timeout)
            except WAHAError as error:
                status = error.status_code
                timing.labels["status"] = f"{status // 100}xx" if status else "connection"
                raise
            timing.labels["status"] = "2xx"
            return answer

    def _exchange(
        self, method: Method, path: str, body: bytes | None, timeout: float
    ) -> Flow[Answer]:
        outcome = yield from self._send(method, path, body, timeout)
        writes = method == "POST"
        if isinstance(outcome, Failure):
            message = outcome.told("check WAHA's base_url and that it is up")
            raise WAHAError(message, ambiguous=writes and outcome.sent) from outcome.cause
        if not 200 <= outcome.status < 300:
            told = _parsed(outcome)
            refusal = refusal_of(outcome.status, told, sent=[*_texts_in(body), *self._secrets()])
            raise WAHAError(
                _NOT_THERE if _is_no_endpoint(outcome) else _REFUSED[refusal.kind],
                status_code=outcome.status,
                retry_after=retry_after(outcome.headers.get("Retry-After"), now()),
                ambiguous=writes and outcome.status >= 500 and refusal.kind == "unclear",
                foreign=outcome.status != _TOO_LARGE and not isinstance(told, dict),
                kind=refusal.kind,
                words=refusal.words,
                engine=refusal.engine,
            )
        if outcome.flaw is not None:
            raise WAHAError(
                outcome.flaw.told("check that WAHA is up"),
                status_code=outcome.status,
                ambiguous=writes,
                foreign=True,
            ) from outcome.flaw.cause
        return outcome

    def _send(
        self,
        method: Method,
        path: str,
        body: bytes | None,
        timeout: float,
        *,
        most: int = LARGEST_BODY,
        accept: str = "application/json",
    ) -> Flow[Outcome]:
        headers = {
            "Accept": accept,
            "Accept-Encoding": "gzip",  # aiohttp would ask for more than is read
            "User-Agent": "langchain-convsync",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._key is not None:
            headers["X-Api-Key"] = self._key.get_secret_value()
        url = self.base_url + path
        request = Request(method=method, url=url, headers=headers, content=body, most=most)
        self._connections.require_open()
        return (yield from self._connections.exchange(request, seconds(timeout)))

    def _secrets(self) -> list[str]:
        return [] if self._key is None else [self._key.get_secret_value()]

    def reopen(self) -> None:
        """Open connections anew when they are needed, after :meth:`close` as well."""
        self._connections.reopen()

    def close(self) -> None:
        """Close the connections of sync and async; a lent ``http_client`` stays open."""
        self._connections.close()

    async def aclose(self) -> None:
        """Close the connections of sync and async; a lent ``http_client`` stays open."""
        await self._connections.aclose()


def _parsed(answer: Answer) -> Any:
    """What the answer says; None where that is not JSON: it was a success all the same."""
    try:
        return parse_json(answer.body)
    except InvalidEventError:
        return None


def _texts_in(body: bytes | None) -> list[str]:
    """What a request of ours tells."""
    told = as_object(None if body is None else json.loads(body))
    return [as_text(value) for value in told.values()]


def _is_no_endpoint(answer: Answer) -> bool:
    """Whether no such path is there; WAHA's own framework says "Cannot POST /api/…"."""
    if answer.status != HTTPStatus.NOT_FOUND:
        return False
    told = _parsed(answer)
    said = as_text(at(told, "message"))
    return not isinstance(told, dict) or said.startswith("Cannot ")


def _id_of(message: object) -> str | None:
    """The stanza id of a message in an answer: engines put it in different places."""
    sent = as_object(message)
    return message_stanza(sent) or stanza_id(at(sent, "key", "id"))
