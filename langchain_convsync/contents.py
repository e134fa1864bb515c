"""What a customer's message may hold besides its text, and how a model reads all of it.

Nothing of it appears in a ``repr``: it is what people sent, and reprs end up in logs and traces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, model_validator

from langchain_convsync._checked import refuse_unknown
from langchain_convsync._lines import cut, one_line

__all__ = ["Choice", "Contact", "Location", "Media", "Quoted", "Referral"]

#: Characters of quoted words, of one detail in brackets, and of a form's answers, that are shown.
LONGEST_QUOTE, LONGEST_DETAIL, LONGEST_FORM = 1_000, 200, 2_000
#: What a form's answers hold for programs only.
_FORM_KEYS = frozenset({"flow_token", "flow_id", "flow_message_version", "wa_flow_response_params"})


class Part(BaseModel):
    """Anything that may come along with a text."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any, info: ValidationInfo) -> Any:
        return refuse_unknown(cls, given, info)


class Media(Part):
    """A file that came with a message.

    Attributes:
        url: Where it can be fetched; None when it was not downloaded.
        mimetype: Its type, e.g. ``image/jpeg``.
        filename: As its sender called it.
        error: Why it was not downloaded.
        kind: What a person would call it where its type does not tell, e.g. ``"voice message"``.
    """

    url: str | None = Field(default=None, repr=False)
    mimetype: str | None = None
    filename: str | None = Field(default=None, repr=False)
    error: str | None = Field(default=None, repr=False)
    kind: str | None = None

    @property
    def named(self) -> str:
        """What a person would call it."""
        if self.kind:
            return self.kind
        family, _, subtype = (self.mimetype or "").partition("/")
        if family in {"image", "video", "audio"}:
            return "sticker" if (family, subtype) == ("image", "webp") else family
        return "document" if family or self.filename else "file"

    def called(self, kind: str) -> Media:
        """The file as one of that kind."""
        return self if kind == self.named else self.model_copy(update={"kind": kind})


class Quoted(Part):
    """The message that this one answers, as far as the source tells it.

    Attributes:
        text: What it said; ``""`` where that is not known.
        id: Its id, as ``message_id`` of an own send or in ``event_id`` of a customer's message.
        by: Whether the business said it, bot or human, or a customer; None where that is not known.
        sender: Who wrote it, by phone number or LID: in a group that may be somebody else.
        media: The file that it came with.
    """

    text: str = Field(default="", repr=False)
    id: str | None = Field(default=None, repr=False)
    by: Literal["business", "customer"] | None = None
    sender: str | None = Field(default=None, repr=False)
    media: Media | None = Field(default=None, repr=False)


class Choice(Part):
    """What a customer chose instead of writing: a button, a row of a list, or a form's answers.

    Attributes:
        id: The id that the sender of the choices gave it.
        title: What the customer saw.
        kind: ``"button"``, ``"list"``, ``"template"`` or ``"flow"``; other values survive.
        params: Its raw parameters, e.g. a form's answers, as the source tells them.
    """

    id: str | None = Field(default=None, repr=False)
    title: str | None = Field(default=None, repr=False)
    kind: str | None = None
    params: dict[str, JsonValue] = Field(default_factory=dict, repr=False)


class Referral(Part):
    """The ad or post that led the customer here.

    Attributes:
        source_type: ``"ad"`` or ``"post"``, or ``"link"`` for any other page; other values survive.
        source_id: Meta's id of it.
        source_url: Where it is.
        title: Its headline.
        body: Its text.
        click_id: Meta's id of the click (``ctwa_clid``).
    """

    source_type: str = "ad"
    source_id: str | None = Field(default=None, repr=False)
    source_url: str | None = Field(default=None, repr=False)
    title: str | None = Field(default=None, repr=False)
    body: str | None = Field(default=None, repr=False)
    click_id: str | None = Field(default=None, repr=False)


class Location(Part):
    """A place.

    Attributes:
        latitude: Degrees, -90 to 90.
        longitude: Degrees, -180 to 180.
        name: What the place is called.
        address: Its address.
        url: A page about it.
        live: Whether it is where the customer is on the move.
    """

    latitude: float | None = Field(default=None, ge=-90, le=90, repr=False)
    longitude: float | None = Field(default=None, ge=-180, le=180, repr=False)
    name: str | None = Field(default=None, repr=False)
    address: str | None = Field(default=None, repr=False)
    url: str | None = Field(default=None, repr=False)
    live: bool = False


class Contact(Part):
    """Somebody's card.

    Attributes:
        name: Their name.
        phone_numbers: Their numbers, as the card spells them.
        emails: Their addresses.
        organization: Whom they work for.
    """

    name: str | None = Field(default=None, repr=False)
    phone_numbers: tuple[str, ...] = Field(default=(), repr=False)
    emails: tuple[str, ...] = Field(default=(), repr=False)
    organization: str | None = Field(default=None, repr=False)


def content_of(
    text: str,
    notes: Iterable[str] = (),
    *,
    quoted: Quoted | None = None,
    choice: Choice | None = None,
    referral: Referral | None = None,
    location: Location | None = None,
    contacts: Iterable[Contact] = (),
    poll_votes: Iterable[str] = (),
    media: Media | None = None,
    view_once: bool = False,
    forwarded: bool = False,
    unread_kind: str | None = None,
) -> str:
    """What a person would see of a message; what is not text stands in brackets, a line each."""

    def parts() -> Iterator[str]:
        if referral:
            yield _bracketed(_source(referral), _with(referral.title, referral.body))
        if forwarded:
            yield "[forwarded]"
        if quoted:
            yield _quote(quoted)
        yield text or _chosen(choice) or as_detail(", ".join(poll_votes), LONGEST_FORM)
        if choice and choice.kind == "flow":
            yield _answers(choice.params)
        if location:
            yield _bracketed("live location" if location.live else "location", _place(location))
        if named := [_card(contact) for contact in contacts]:
            yield _bracketed("contact", ", ".join(named))
        if view_once or media:
            yield _file(media, view_once=view_once)
        yield from map(one_line, notes)
        if unread_kind:
            yield _bracketed("a message of a kind this bot cannot read", unread_kind)

    return "\n".join(part for part in dict.fromkeys(parts()) if part)


def as_detail(text: str, length: int = LONGEST_DETAIL) -> str:
    """What others wrote, so that it stays inside the brackets of one line."""
    line = " ".join(one_line(text[: length * 4]).split()).replace("[", "(").replace("]", ")")
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _bracketed(kind: str, detail: str) -> str:
    shown = as_detail(detail)
    return f"[{kind}: {shown}]" if shown else f"[{kind}]"


def _with(name: str | None, more: str | None) -> str:
    return f"{name} ({more})" if name and more else name or more or ""


def _source(referral: Referral) -> str:
    kind = as_detail(referral.source_type or "link")
    return f"from {'an' if kind[:1].lower() in set('aeiou') else 'a'} {kind}"


def _quote(quoted: Quoted) -> str:
    said = [quoted.text, _file(quoted.media, view_once=False) if quoted.media else ""]
    words = "\n".join(filter(None, said)) or "[an earlier message]"
    return "\n".join(f"> {line}" for line in cut(words, LONGEST_QUOTE).splitlines())


def _chosen(choice: Choice | None) -> str:
    return as_detail((choice and (choice.title or choice.id)) or "")


def _answers(params: Mapping[str, JsonValue]) -> str:
    """What was filled into a form."""
    given = {name: value for name, value in params.items() if name not in _FORM_KEYS}
    told = [
        f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in given.items()
        if value not in (None, "")
    ]
    return f"[answers: {as_detail('; '.join(told), LONGEST_FORM)}]" if told else ""


def _place(location: Location) -> str:
    name = ", ".join(part for part in (location.name, location.address) if part)
    if location.latitude is None or location.longitude is None:
        return name
    at = f"{_degrees(location.latitude)}, {_degrees(location.longitude)}"
    return f"{name} ({at})" if name else at


def _degrees(degrees: float) -> str:
    """To a tenth of a metre."""
    return f"{degrees:.6f}".rstrip("0").rstrip(".")


def _card(contact: Contact) -> str:
    return _with(contact.name or contact.organization, ", ".join(contact.phone_numbers))


def _file(media: Media | None, *, view_once: bool) -> str:
    kind = media.named if media else "message"
    if view_once and not (media and media.url):
        named = as_detail(media.filename or "") if media else ""
        unread = "it opens on the customer's phone only, and was not read"
        return f"[view-once {kind}: {named}{'; ' if named else ''}{unread}]"
    if media is None or media == Media():
        return "[file that could not be read]"
    return _bracketed(f"view-once {kind}" if view_once else kind, media.filename or "")
