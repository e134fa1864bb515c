"""WAHA as replies see it, over real HTTP: texts are sent, chats are read, and answers get lost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import pytest

from tests.faulty_server import CLOSE, Deed, FaultyServer, Received, Script, answers, sends


class WahaChats:
    """Everything that was sent, and what is to happen to the next requests.

    Attributes:
        sent: (WAHA session, chat id, text), in order.
        fates: What to do with the next sends; an empty list carries them out.
        refusing: What to answer whatever is sent to these chats.
        reading: What to answer instead of a chat; None shows the chat.
        reads: How often a chat was asked for.
        numbers: The phone numbers that it knows, by LID.
        lid_reads: The LIDs that it was asked for.
        lid_answer: What to answer instead of a number; None tells it.
        posts: What was done in chats: (``sendText``, ``sendSeen``, …, chat id), in order.
        signs: What to answer whatever sends no text.
        quotes: The message that each text quotes, in order.
        files: The file of each, in order; ``sent`` has its caption then.
        limits: What to answer whoever asks how WhatsApp limits the account.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str]] = []
        self.fates: list[Script] = []
        self.refusing: dict[str, Script] = {}
        self.reading: Script | None = None
        self.reads = 0
        self.numbers: dict[str, str] = {}
        self.lid_reads: list[str] = []
        self.lid_answer: Script | None = None
        self.posts: list[tuple[str, str]] = []
        self.signs: Script = answers({}, status=201)
        self.quotes: list[str | None] = []
        self.files: list[dict[str, str] | None] = []
        self.limits: Script = answers({"message": "Not Found"}, status=404)
        self.keys: set[str | None] = set()
        self.url = ""

    @property
    def texts(self) -> list[str]:
        """What customers read, in order."""
        return [text for _, _, text in self.sent]

    def __call__(self, request: Received) -> Iterable[bytes | float | Deed]:
        self.keys.add(request.headers.get("x-api-key"))
        path = unquote(request.target.partition("?")[0])
        if request.method == "POST":
            self.posts.append((path.rpartition("/")[2], request.json["chatId"]))
            if path not in {f"/api/send{kind}" for kind in ("Text", "File", "Image", "Voice")}:
                return self.signs(request)
            fate = self.fates.pop(0) if self.fates else self.carried_out
            return self.refusing.get(request.json["chatId"], fate)(request)
        if "/lids/pn/" in path:
            number = f"+{path.rpartition('/')[2].partition('@')[0]}"
            lids = {known: lid for lid, known in self.numbers.items()}
            return answers({"lid": lids.get(number), "pn": number})(request)
        if "/lids/" in path:
            lid = path.rpartition("/")[2]
            self.lid_reads.append(lid)
            known = answers({"lid": lid, "pn": self.numbers.get(lid)})
            return (self.lid_answer or known)(request)
        if path.startswith("/api/sessions/"):
            return self.limits(request)
        self.reads += 1
        return (self.reading or self.shown)(request)

    def carried_out(self, request: Received) -> Iterable[bytes | float | Deed]:
        """The text is sent, and the answer tells under which id."""
        asked = request.json
        self.quotes.append(asked.get("reply_to"))
        self.files.append(asked.get("file"))
        text = asked["text"] if "text" in asked else asked.get("caption", "")
        self.sent.append((asked["session"], asked["chatId"], text))
        return answers(self.message(len(self.sent)), status=201)(request)

    def lost(self, request: Received) -> Iterable[bytes | float | Deed]:
        """The text is sent; the connection breaks before the answer."""
        self.carried_out(request)
        return sends(CLOSE)(request)

    def shown(self, request: Received) -> Iterable[bytes | float | Deed]:
        """The chat, newest first."""
        _, _, session, _, chat, _ = unquote(request.target.partition("?")[0]).split("/")
        found = [
            self.message(number)
            for number, sent in enumerate(self.sent, start=1)
            if sent[:2] == (session, chat)
        ]
        return answers(found[::-1])(request)

    def message(self, number: int) -> dict[str, Any]:
        """The message that was sent as the so-manyth."""
        _, chat_id, text = self.sent[number - 1]
        return {
            "id": f"true_{chat_id}_3EB0{number:08X}",
            "timestamp": int(time.time()),
            "fromMe": True,
            "source": "api",
            "to": chat_id,
            "body": text,
            "hasMedia": any(self.files[number - 1 : number]),
        }

    def echo(self, number: int) -> dict[str, Any]:
        """The webhook's word of that message."""
        session, _, _ = self.sent[number - 1]
        return {"event": "message.any", "session": session, "payload": self.message(number)}


def never_came(request: Received) -> Iterable[bytes | float | Deed]:
    """The connection breaks before anything is done."""
    return sends(CLOSE)(request)


@contextmanager
def waha_server(chats: WahaChats) -> Iterator[str]:
    """Its URL."""
    with FaultyServer() as server:
        server.plays(chats)
        yield server.url


@pytest.fixture
def chats() -> Iterator[WahaChats]:
    """A WAHA for a test; a module takes it by name: ``chats = waha_chats.chats``."""
    chats = WahaChats()
    with waha_server(chats) as chats.url:
        yield chats
