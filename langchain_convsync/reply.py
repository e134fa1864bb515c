"""What the bot says in a turn, where that is more than one text, or nothing at all."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from langchain_convsync._checked import refuse_unknown
from langchain_convsync._lines import whole
from langchain_convsync.contents import Media, content_of
from langchain_convsync.waha.files import kind_of

#: Bytes of a file that a reply may hold: WhatsApp's bound for media. A longer one goes as a URL.
LARGEST_FILE = 16 * 1024 * 1024
#: Texts of one reply: more are no conversation, and WhatsApp takes who sends them for a machine.
MOST_TEXTS = 20
#: Seconds after which a reply that is to expire is of no use to anyone: a year.
LONGEST_LIFE = 366 * 24 * 3600.0
#: Characters of why a conversation is handed over, and of what it is about.
LONGEST_REASON, LONGEST_SUMMARY = 300, 4000

_ANY_TYPE = "application/octet-stream"
_TEXT_OR_NULL = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})


def _texts(given: Any) -> Any:
    """A text alone is one; a list becomes what nobody can change."""
    if isinstance(given, str):
        return (given,)
    return tuple(given) if isinstance(given, list) else given


def _refused(kind: str, told: str) -> PydanticCustomError:
    return PydanticCustomError(kind, "{told}", {"told": told})


class Handoff(BaseModel):
    """An agent hands its conversation over to a human.

    Attributes:
        reason: Why, in a few words.
        summary: What it is about, for whoever goes on.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    reason: Annotated[str, AfterValidator(whole)] = Field(
        min_length=1, max_length=LONGEST_REASON, repr=False
    )
    summary: Annotated[str, AfterValidator(whole)] = Field(
        default="", max_length=LONGEST_SUMMARY, repr=False
    )


def _handoff(given: Any) -> Any:
    """A reason alone is one, too."""
    return {"reason": given} if isinstance(given, str) else given


class Reply(BaseModel):
    """What a turn answers: one text or several, a file, or nothing.

    An agent returns it instead of a text, as its output or as ``structured_response`` or its
    ``reply``::

        Reply(texts=["¡Listo!", "Llega en 30 minutos."])
        Reply(file="https://example.com/menu.pdf", caption="Nuestro menú")
        Reply.silent  # recorded, and nothing is sent

    The texts are sent first, in order, each as a message of its own; the file comes last.

    Attributes:
        texts: What is said, one message each; a single text may be given as it is.
        file: The file's bytes, at most 16 MiB of them, or its ``http(s)`` URL, which WAHA fetches.
        caption: The text under the file. WhatsApp shows none under a voice message: there it is
            what the voice says, and enters the history only.
        mimetype: The file's type, e.g. ``application/pdf``; else its name or its bytes tell it.
        filename: What the customer sees it called; else the last part of the URL.
        voice: Whether the file is a voice message; WAHA converts other audio to WhatsApp's.
        quote: Whether the first message quotes the customer's last one.
        expires: Seconds after which it is not sent any more, from the turn's commit; None for ever.
        handoff: Why a human goes on, a :class:`Handoff` or its reason: the conversation is paused,
            and ``on_handoff=`` told, in one step with what is said. Nothing need be said.
        silent: The reply that says nothing: the customer's words are recorded, nothing is sent.

    Raises:
        ValidationError: A text is empty, the file is no bytes and no URL, or what belongs to a
            file comes without one.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        ser_json_bytes="base64",
    )

    silent: ClassVar[Reply]

    texts: Annotated[Sequence[Annotated[str, AfterValidator(whole)]], BeforeValidator(_texts)] = (
        Field(default=(), max_length=MOST_TEXTS, repr=False)
    )
    file: Annotated[bytes | str | None, _TEXT_OR_NULL] = Field(default=None, repr=False)
    caption: Annotated[str, AfterValidator(whole)] = Field(default="", repr=False)
    mimetype: str | None = None
    filename: str | None = Field(default=None, repr=False)
    voice: bool = False
    quote: bool = False
    expires: float | None = Field(default=None, gt=0, le=LONGEST_LIFE)

    handoff: Annotated[Handoff | str | None, BeforeValidator(_handoff)] = None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any, info: ValidationInfo) -> Any:
        return refuse_unknown(cls, given, info)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if any(not text.strip() for text in self.texts):
            raise _refused(
                "empty_text",
                "a text is empty: what says nothing is Reply.silent, without any texts",
            )
        if self.file is None:
            if self.caption or self.mimetype or self.filename or self.voice:
                told = "caption=, mimetype=, filename= and voice= belong to a file: pass file="
                raise _refused("no_file", told)
            return self
        self._require_file(self.file)
        if self.voice and not self.kind.startswith("audio/"):
            told = "a voice message is audio: pass mimetype=, e.g. audio/ogg or audio/mpeg"
            raise _refused("no_audio", told)
        return self

    def _require_file(self, file: bytes | str) -> None:
        if isinstance(file, bytes):
            if not 0 < len(file) <= LARGEST_FILE:
                told = "a file has from 1 byte to 16 MiB: pass the URL of a longer one"
                raise _refused("file_size", told)
            if self.kind == _ANY_TYPE and not self.mimetype:
                told = "these bytes do not tell what they are: pass mimetype= or filename= as well"
                raise _refused("file_kind", told)
            return
        try:
            parts = urlsplit(file)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            told = "file= is bytes, or a URL that begins with https:// or http://: read a path's "
            raise _refused("file_url", told + "bytes, Path(…).read_bytes()")

    @property
    def handed_over(self) -> Handoff | None:
        """The hand-over, whole; None where there is none."""
        return self.handoff if isinstance(self.handoff, Handoff) else None

    @property
    def is_silent(self) -> bool:
        """Whether nothing is said."""
        return not self.texts and self.file is None

    @property
    def kind(self) -> str:
        """The file's MIME type, as far as anything tells it."""
        found = self.mimetype or mimetypes.guess_type(self.name)[0]
        if found is None and isinstance(self.file, bytes):
            found = kind_of(self.file, None)
        return found or _ANY_TYPE

    @property
    def name(self) -> str:
        """What the file is called; empty where nothing tells."""
        if self.filename or not isinstance(self.file, str):
            return self.filename or ""
        return unquote(urlsplit(self.file).path.rpartition("/")[2])

    @property
    def words(self) -> str:
        """What the history holds of its file: its caption and what kind of file it is."""
        if self.file is None:
            return ""
        media = Media(mimetype=self.kind, filename=self.name or None)
        return content_of(
            self.caption, media=media.called("voice message") if self.voice else media
        )

    @property
    def text(self) -> str:
        """All of it as one text, as ``Turn.reply`` and the history hold it."""
        return "\n\n".join(filter(None, (*self.texts, self.words)))


Reply.silent = Reply()


class InvalidReplyError(ValueError):
    """A mapping has the fields of a reply, and is none."""


def reply_in(given: object) -> Reply | None:
    """A reply, also as JSON: what a model made of its schema, or a server of the object.

    Args:
        given: It, or anything else.

    Returns:
        None where it is something else.

    Raises:
        InvalidReplyError: It has a reply's fields alone, and is none: why, without its words.
    """
    if isinstance(given, Reply) or not isinstance(given, Mapping):
        return given if isinstance(given, Reply) else None
    names = given.keys()
    if not {"texts", "file", "handoff"} & names or not names <= Reply.model_fields.keys():
        return None
    return _read(given)


def reply_of_server(artifact: object) -> Reply | None:
    """:func:`reply_in` of a tool's artifact: JSON is a reply only with each of its fields.

    Other tools' artifacts may well have some of them, and are nothing to say.
    """
    if isinstance(artifact, Mapping) and artifact.keys() >= Reply.model_fields.keys():
        return _read(artifact)
    return artifact if isinstance(artifact, Reply) else None


def _read(given: Mapping[Any, Any]) -> Reply:
    """The reply; the bytes of a file are base64 in JSON, as no URL is."""
    fields, file = dict(given), given.get("file")
    if isinstance(file, str) and ":" not in file:
        try:
            fields["file"] = base64.b64decode(file, validate=True)
        except ValueError:
            fields["file"] = file
    try:
        return Reply.model_validate(fields)
    except ValidationError as error:
        flaws = error.errors(include_url=False, include_context=False, include_input=False)
        told = "; ".join(
            ": ".join(filter(None, (".".join(map(str, flaw["loc"])), flaw["msg"])))
            for flaw in flaws[:3]
        )
        message = f"the agent returned the fields of a Reply that is none: {told}"
        raise InvalidReplyError(message) from error
