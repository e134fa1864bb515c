"""What a model reads of a file that a customer sent, or why it reads none. Pure."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage, HumanMessage

from langchain_convsync._lines import cut, one_line
from langchain_convsync.client._exchange import Failure, Outcome
from langchain_convsync.contents import Media, as_detail
from langchain_convsync.errors import WAHAError
from langchain_convsync.models import InboundEvent
from langchain_convsync.surfaces.messages import WORDS
from langchain_convsync.turns.turn import Batch
from langchain_convsync.waha.files import is_animated, is_text, kind_of, text_of_file

#: One of LangChain's content blocks.
Block: TypeAlias = dict[str, Any]

#: Bytes of one file, and of all that one turn loads: providers take little more in a request.
LARGEST_FILE, LARGEST_TURN = 10 * 1024 * 1024, 20 * 1024 * 1024
#: Characters of a document in plain text.
LONGEST_DOCUMENT = 50_000

_IMAGES = {"image/jpeg", "image/png", "image/gif", "image/webp"}
#: What may hold anything, and whose message does not say what.
_CONTAINERS = {"application/zip", "application/x-ole-storage"}
#: What OpenAI and Gemini call it; LangChain tells OpenAI the second half.
_NAMES = {"audio/mpeg": "audio/mp3"}
_FAMILIES = {"sticker": "image", "voice message": "audio"}


class Unread(Exception):  # noqa: N818 - control flow inside a turn: the model is told instead
    """There is nothing to show.

    Args:
        why: In words, for the model and for metrics.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


#: By what is missing of an answer.
_FLAWS = {
    "size": "too large",
    "timeout": "it took too long",
    "connection": "the file server did not answer",
    "content": "it is not what it says it is",
}
#: By status, or by its first digit.
_REFUSED = {
    401: "access was refused",
    403: "access was refused",
    404: "it is gone",
    410: "it is gone",
    3: "it is kept elsewhere",
}
#: What an operator can do about it.
ADVICE = {
    "it was not downloaded": "; check WAHA's log, and WHATSAPP_DOWNLOAD_MEDIA there",
    "it is kept elsewhere": "; files are loaded from WAHA's own /api/files/ only",
    "access was refused": "; check the api_key of WAHAReply",
    "it is gone": "; check WHATSAPP_FILES_LIFETIME of WAHA",
    "the file server did not answer": "; check that WAHA is up",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """What a model reads of one event: its words, and its file."""

    words: str
    blocks: tuple[Block, ...] = ()

    @property
    def content(self) -> str | list[str | Block]:
        """Both, as a message's content."""
        if not self.blocks:
            return self.words
        words = [{"type": "text", "text": self.words}] if self.words else []
        return [*words, *self.blocks]


def as_messages(
    batch: Batch, shown: Mapping[str, Shown], *, apart: bool
) -> tuple[list[BaseMessage], dict[str, Sequence[Block]]]:
    """The customer's messages, and the files of those that go without, by the messages' ids.

    Args:
        batch: The turn's events.
        shown: What a model reads of those with files.
        apart: Whether files stay out of the messages.
    """
    messages: list[BaseMessage] = []
    files: dict[str, Sequence[Block]] = {}
    for event_key, event in batch.asked:
        words, key = event.words, f"convsync-{event_key}"
        each = shown.get(event_key) or Shown(event.content)
        each = replace(each, words=event.spoken(each.words))
        content = each.words if apart else each.content
        kept = {} if content == words else {WORDS: words}
        messages.append(HumanMessage(content=content, id=key, additional_kwargs=kept))
        if apart and each.blocks:
            files[key] = each.blocks
    return messages, files


def family_of(event: InboundEvent) -> str:
    """The kind of its file, as its message tells it; empty where nothing is there to be loaded."""
    media = event.media
    if media is None or (event.view_once and not media.url):  # that one is told as it is
        return ""
    for named in (media.named, (media.mimetype or "").partition("/")[0]):
        if (family := _FAMILIES.get(named, named)) in {"image", "audio", "video"}:
            return family
    return "document"


def telling(event: InboundEvent, what: str) -> str:
    """What the event says, with what became of its file where the file is named."""
    media = event.media or Media()
    named = as_detail(media.filename or "", 100)
    told = media.model_copy(update={"filename": f"{named}: {what}" if named else what})
    return event.model_copy(update={"media": told}).content


def read_file(outcome: Outcome, most: int, declared: str | None) -> tuple[bytes, str]:
    """The file that was answered, and what it is.

    Args:
        outcome: What came of asking for it.
        most: Bytes that there was room for.
        declared: What its message says that it is.

    Raises:
        Unread: It cannot be shown.
        WAHAError: The machine lacks what it takes to ask.
    """
    data = _body(outcome, most)
    if not data:
        raise Unread("it is empty")
    kind = kind_of(data, declared)
    if kind is None:
        raise Unread("it is not what it says it is")
    family = kind.partition("/")[0]
    unusual = family == "image" and (kind not in _IMAGES or is_animated(data))
    if unusual or family == "video" or kind in _CONTAINERS:
        raise Unread("files of its kind cannot be read")
    return data, kind


def _body(outcome: Outcome, most: int) -> bytes:
    flaw = outcome if isinstance(outcome, Failure) else outcome.flaw
    if flaw is not None and flaw.shortage:
        raise WAHAError(flaw.told("the file is asked for again")) from flaw.cause
    if not isinstance(outcome, Failure):
        status = outcome.status
        if not 200 <= status < 300:
            why = _REFUSED.get(status) or _REFUSED.get(status // 100)
            raise Unread(why or "the file server failed")
        if flaw is None:
            return outcome.body
    kind = "" if flaw is None else flaw.kind
    if kind == "size" and most < LARGEST_FILE:
        raise Unread("there are too many files")
    raise Unread(_FLAWS[kind])


def block_of(data: bytes, kind: str, event: InboundEvent) -> Block:
    """A file as LangChain's content blocks, version 1, have it."""
    family = kind.partition("/")[0]
    if is_text(kind):
        return {"type": "text", "text": cut(text_of_file(data), LONGEST_DOCUMENT)}
    coded = {"base64": base64.b64encode(data).decode(), "mime_type": _NAMES.get(kind, kind)}
    if family in {"image", "audio"}:
        return {"type": family, **coded}
    name = one_line((event.media and event.media.filename) or "")[-100:]
    name = name or f"document{mimetypes.guess_extension(kind) or ''}"  # OpenAI asks for one
    return {"type": "file", **coded, "extras": {"filename": name}}
