"""Files as customers send them, and an agent that keeps what it is given."""

from __future__ import annotations

import base64
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_convsync.models import InboundEvent
from langchain_convsync.testing import FakeWAHA
from langchain_convsync.waha import parse_event, parse_json
from tests.promises import CUSTOMER

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\xff\xd9"
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
WEBP = b"RIFF\x1a\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00"
ANIMATED = b"RIFF\x1a\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x02\x00\x00\x00"
PDF = b"%PDF-1.7\n1 0 obj\n"
VOICE = b"OggS\x00\x02\x00\x00OpusHead"
MP3 = b"\xff\xfb\x90\x64\x00"
AAC = b"\xff\xf1\x50\x80\x00"
MP4 = b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00"
ZIP = b"PK\x03\x04\x14\x00\x06\x00"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


def coded(data: bytes) -> str:
    """As content blocks hold it."""
    return base64.b64encode(data).decode()


def sent(
    waha: FakeWAHA, file: bytes, text: str = "", mimetype: str = "image/jpeg", **named: Any
) -> InboundEvent:
    """The event of a message with a file, as WAHA delivers it."""
    delivery = waha.delivery(CUSTOMER, text, file=file, mimetype=mimetype, **named)
    event = parse_event(parse_json(delivery["content"]))
    assert isinstance(event, InboundEvent)
    return event


class Attentive:
    """An agent that remembers what it was given.

    Attributes:
        given: The messages of each run.
    """

    def __init__(self, answer: Any = "Claro") -> None:
        self.given: list[list[BaseMessage]] = []
        self._answer = answer
        self.agent: Runnable[Any, Any] = RunnableLambda(self._run)

    def _run(self, messages: list[BaseMessage]) -> AIMessage:
        self.given.append(messages)
        said = self._answer(messages) if callable(self._answer) else self._answer
        return AIMessage(said)

    @property
    def prompt(self) -> Any:
        """What the customer says, as the last run got it."""
        return self.given[-1][-1].content
