"""What travels on the wire: the API server's JSON, and inbound events.

The JSON names follow the Agent Conversation Sync API exactly; Python names are its snake_case.
Unknown fields and unknown enum values survive a round trip. Phone numbers, session ids and message
texts stay out of every ``repr``, because reprs end up in logs and traces.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeAlias, overload

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetPydanticSchema,
    JsonValue,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationInfo,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError, core_schema, to_jsonable_python

from langchain_convsync import phone
from langchain_convsync._checked import refuse_unknown
from langchain_convsync._display import Displayed, Summary
from langchain_convsync._lines import whole
from langchain_convsync.contents import (
    Choice,
    Contact,
    Location,
    Media,
    Quoted,
    Referral,
    content_of,
)

Role: TypeAlias = Literal["user", "bot"]

#: Context keys that belong to the API server; a state update never carries them.
SERVER_KEYS = frozenset({"previousMessages", "lastUserMessage"})


def _text(value: Any) -> str:
    """Servers store whatever was posted; the reader gets text."""
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _iso(value: Any) -> Any:
    """ISO 8601 becomes a time: Python's share one UTC, each of pydantic's keeps its own."""
    if isinstance(value, str) and value[4:5] == "-":
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass
    return value


def _object(value: Any) -> Any:
    return {} if value is None else value


def _else(odd: Callable[[Any], Any]) -> GetPydanticSchema:
    """What is not as documented goes through ``odd``; all else costs no Python."""

    def schema(documented: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        otherwise = core_schema.no_info_plain_validator_function(odd)
        return core_schema.union_schema([handler(documented), otherwise], mode="left_to_right")

    return GetPydanticSchema(schema)


Text = Annotated[str, _else(_text)]
Time = Annotated[datetime, BeforeValidator(_iso)]
#: One odd entry of a history must not make the whole conversation unreadable.
AnyTime = Annotated[Time | None, _else(lambda _: None)]
Object = Annotated[dict[str, Any], BeforeValidator(_object)]


class WireModel(BaseModel):
    """Base of every model that mirrors the API server's JSON."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="allow",
        frozen=True,
        hide_input_in_errors=True,  # it names the customer, and errors end up in logs
    )


class ConversationMessage(WireModel):
    """One entry of ``previousMessages``.

    Attributes:
        role: ``"user"`` or ``"bot"``; other values survive, but reach no model.
        content: The text.
        timestamp: When the server recorded it; None where the server keeps none that can be read.
    """

    role: Text
    content: Text = Field(default="", repr=False)
    timestamp: AnyTime = None


_ANY_TIME: TypeAdapter[datetime | None] = TypeAdapter(AnyTime)


def _time(sent: Any) -> datetime | None:
    found = _iso(sent)
    return found if isinstance(found, datetime) else _ANY_TIME.validate_python(found)


def _role_and_content(entry: dict[str, Any]) -> tuple[str, str]:
    role, content = entry.get("role"), entry.get("content")
    return (
        role if isinstance(role, str) else _text(role),
        content if isinstance(content, str) else _text(content),
    )


def _is_like(entry: dict[str, Any], role: str, content: str) -> bool:
    said = entry.get("content")
    if isinstance(said, str) and said != content:  # nearly all of a history
        return False
    return _role_and_content(entry) == (role, content)


class Said(NamedTuple):
    """Words that were read, and will not be written: one object where a model is five.

    Attributes:
        role: As :class:`ConversationMessage` has it, like the others.
        content: The text.
        sent: The time as the server wrote it: of a long history nobody asks for most of them.
    """

    role: str
    content: str
    sent: Any = None

    @property
    def timestamp(self) -> datetime | None:
        """When the server recorded it."""
        return None if self.sent is None else _time(self.sent)

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Self:
        """One entry of ``previousMessages``, read as :class:`ConversationMessage` reads it."""
        return cls(*_role_and_content(entry), entry.get("timestamp"))

    def __repr__(self) -> str:
        return f"Said(role={self.role!r}, timestamp={self.timestamp!r})"


class History(Sequence[Said]):
    """The words of a history, each read when it is asked for.

    Args:
        entries: Of ``previousMessages``.
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, place: int) -> Said: ...
    @overload
    def __getitem__(self, place: slice) -> History: ...
    def __getitem__(self, place: int | slice) -> Said | History:
        if isinstance(place, slice):
            return History(self._entries[place])
        return Said.of(self._entries[place])

    def __iter__(self) -> Iterator[Said]:
        return map(Said.of, self._entries)

    def __repr__(self) -> str:
        return repr([*self])


#: What a customer, an agent or a human said, as a history holds it.
Words: TypeAlias = ConversationMessage | Said

_MESSAGES = TypeAdapter(list[ConversationMessage])


class TenantInfo(WireModel):
    """The tenant that a phone number talks to.

    Attributes:
        subdomain: The tenant (``subDomain`` on the wire).
        bot_id: The bot that serves the conversation.
        session_id: The conversation's key on the API server.
        is_active: False once the conversation was closed.
    """

    subdomain: str = Field(alias="subDomain")
    bot_id: str
    session_id: str = Field(repr=False)
    is_active: Annotated[bool, BeforeValidator(bool)] = True


class _ConversationFields(WireModel):
    session_id: str = Field(repr=False)
    current_intent: str | None = None
    current_step: str | None = None
    previous_intent: str | None = None
    previous_step: str | None = None
    context: Object = Field(default_factory=dict, repr=False)
    metadata: Object = Field(default_factory=dict, repr=False)
    last_activity: Time | None = None
    expires_at: Time | None = None
    created_at: Time | None = None
    updated_at: Time | None = None

    @property
    def entries(self) -> list[dict[str, Any]]:
        """``previousMessages`` as the server sent them, without what is not an object.

        Empty where it sent none, or something else than a list.
        """
        sent = self.context.get("previousMessages")
        return (
            [entry for entry in sent if isinstance(entry, dict)] if isinstance(sent, list) else []
        )

    @property
    def messages(self) -> list[ConversationMessage]:
        """``previousMessages`` in the server's order; entries that are not objects are left out."""
        named = [entry if "role" in entry else {"role": "", **entry} for entry in self.entries]
        return _MESSAGES.validate_python(named)

    @property
    def said(self) -> History:
        """What :attr:`messages` say, for callers that only read them."""
        return History(self.entries)

    def said_like(self, words: Words) -> list[Said]:
        """What of the history reads like these words."""
        role, content = words.role, words.content
        return [Said.of(entry) for entry in self.entries if _is_like(entry, role, content)]

    def with_history(self, entries: list[dict[str, Any]]) -> Self:
        """A copy with another history."""
        return self.model_copy(update={"context": {**self.context, "previousMessages": entries}})


class PartialConversation(_ConversationFields):
    """The answer to a write: the session id and whatever else the server sends back.

    The documented answers hold a few fields, servers in the wild answer with the whole document.
    """

    user_id: str | None = Field(default=None, repr=False)
    bot_id: str | None = None
    subdomain: str | None = Field(default=None, alias="subDomain")
    is_active: bool | None = None


class Conversation(_ConversationFields, Displayed):
    """The API server's ConversationState: one customer talking to one tenant.

    Attributes:
        session_id: The conversation's key on the API server.
        user_id: The customer: E.164, or a chat id where the server stores those.
        bot_id: The bot that serves the conversation.
        subdomain: The tenant (``subDomain`` on the wire).
        current_intent: What the customer wants, e.g. ``"order"``.
        current_step: How far they are, e.g. ``"selecting"``.
        context: The tenant's own data; holds ``previousMessages`` and ``lastUserMessage`` too.
        metadata: Data about the conversation, e.g. ``{"language": "es"}``.
        is_active: False once the conversation was closed.
        expires_at: When the server forgets it (24 hours after the last message, by default).
    """

    user_id: str = Field(repr=False)
    bot_id: str
    subdomain: str = Field(alias="subDomain")
    is_active: Annotated[bool, BeforeValidator(bool)] = True

    def expired(self, now: datetime) -> bool:
        """Whether the server would no longer find this conversation at ``now``."""
        return self.expires_at is not None and self.expires_at <= now

    def _summary(self) -> Summary:
        return Summary(
            f"{self.subdomain}, {self.bot_id}",
            {
                "intent": _moved(self.previous_intent, self.current_intent),
                "step": _moved(self.previous_step, self.current_step),
                "context": ", ".join(key for key in self.context if key not in SERVER_KEYS),
                "state": None if self.is_active else "closed",
            },
            [("customer" if m.role == "user" else m.role, m.content) for m in self.said],
        )


def _moved(before: str | None, now: str | None) -> str | None:
    return f"{before} → {now}" if before and now and before != now else now


#: The names of the API server's JSON, and of a Conversation, for what a state update decides.
SPELLINGS: Mapping[str, str] = {
    "currentIntent": "intent",
    "current_intent": "intent",
    "currentStep": "step",
    "current_step": "step",
    "isActive": "is_active",
}


class StateUpdate(BaseModel):
    """What a run decided about the conversation; None leaves a field as it is.

    Attributes:
        intent: The new intent, e.g. ``"payment"``.
        step: The new step, e.g. ``"processing_payment"``.
        context: A patch: its top-level keys replace those of the conversation's context.
        metadata: A patch of the conversation's metadata.
        is_active: False closes the conversation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    intent: str | None = None
    step: str | None = None
    context: dict[str, JsonValue] = Field(default_factory=dict, repr=False)
    metadata: dict[str, JsonValue] = Field(default_factory=dict, repr=False)
    is_active: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_named_here(cls, given: Any, info: ValidationInfo) -> Any:
        if isinstance(given, Mapping) and not given.keys() <= cls.model_fields.keys():
            given = {SPELLINGS.get(name, name): value for name, value in given.items()}
            return refuse_unknown(cls, given, info)
        return given

    def __bool__(self) -> bool:
        """Whether anything was decided."""
        said = (self.intent, self.step, self.is_active) != (None, None, None)
        return said or bool(self.context or self.metadata)

    def __hash__(self) -> int:  # without one, pydantic copies an update that is a default
        return hash((self.intent, self.step, self.is_active))

    def updated_by(self, later: StateUpdate) -> StateUpdate:
        """This update with everything that ``later`` decided on top of it."""
        if not later or not self:
            return later or self
        return StateUpdate(
            intent=self.intent if later.intent is None else later.intent,
            step=self.step if later.step is None else later.step,
            context={**self.context, **later.context},
            metadata={**self.metadata, **later.metadata},
            is_active=self.is_active if later.is_active is None else later.is_active,
        )

    def wire(self) -> dict[str, Any]:
        """The documented body of a sync; only what was decided, and ``isActive`` always.

        Servers take a missing ``isActive`` for true, so leaving it out would only hide that.
        """
        body: dict[str, Any] = {"isActive": True if self.is_active is None else self.is_active}
        for name in ("intent", "step"):
            if (value := getattr(self, name)) is not None:
                body[name] = value
        if context := {k: v for k, v in self.context.items() if k not in SERVER_KEYS}:
            body["context"] = context
        if self.metadata:
            body["metadata"] = self.metadata
        return body


def _known_fields(stored: Any) -> Any:
    if not isinstance(stored, dict):
        return stored
    return {name: value for name, value in stored.items() if name in StateUpdate.model_fields}


#: An update as a store keeps it: one that a newer version wrote may have fields of its own.
StoredUpdate = Annotated[StateUpdate, BeforeValidator(_known_fields)]


def zoned(sent: datetime) -> datetime:
    """The time in a zone; one that names none is UTC, as WhatsApp's are."""
    return sent.replace(tzinfo=UTC) if sent.utcoffset() is None else sent


#: When something was sent: always in a zone, or two of them could not be compared.
SentAt: TypeAlias = Annotated[datetime, AfterValidator(zoned)]


def as_json(value: object) -> Any:
    """The value as the API can be sent it: dates, enums and models become JSON.

    Raises:
        ValueError: It cannot be sent.
    """
    plain = to_jsonable_python(value)
    json.dumps(plain, allow_nan=False, ensure_ascii=False).encode()
    return plain


def _of_its_group(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """An event of a group: whoever wrote it, no one's own conversation is meant."""
    if not phone.is_group(given.get("chat_id")):
        return given
    who = next(filter(None, map(given.get, ("participant", "phone_number", "lid"))), None)
    return {**given, "participant": who, "phone_number": None, "lid": None, "aliases": ()}


class InboundEvent(BaseModel):
    """One customer message, as one delivery reported it.

    ``content=`` is taken for ``text=`` where that is not given. What a model could not make sense
    of, because it says nothing at all, is refused here.

    Attributes:
        event_id: The message's own id at its source: the same for every delivery of it.
        text: What the customer wrote; the caption for media, ``""`` without one.
        phone_number: The customer: E.164, or a BSUID or the API server's own id of a customer who
            has no number; None while only a LID is known.
        chat_id: Where a reply goes, e.g. ``51999999999@c.us``; None answers to the phone number.
        lid: The customer's ``…@lid`` identity, where the source told it.
        aliases: Other ids of the customer that the source knows: a BSUID, or one that is no longer
            used (``user_changed_user_id``). All of them name one conversation from then on.
        account: The receiving side that the event came through, as configured for its source.
            Together with the four that follow it tells one receiving side from another: pass all
            that the source knows.
        bot_id: The bot that serves the conversation, where the source knows it.
        subdomain: The tenant, where the source knows it.
        waha_session: WAHA's session name.
        business_number: The business's own WhatsApp number, which was written to.
        delivery_id: The id of this one delivery (WAHA's ``evt_…``); for logs only.
        sent_at: When the customer sent it; a time without a zone is taken for UTC.
        sender_name: The customer's own display name.
        participant: Who wrote it in a group, by phone number or LID; in a group ``phone_number``
            and ``lid`` stay None, because the conversation is the group's.
        reply_to: Id of the message that this one answers: quotes, chooses from, or votes in.
        quoted: The message that it quotes, with its words.
        choice: The button, list row or form that it answers with.
        referral: The ad or post that led the customer here.
        mentions: Who is mentioned in it, by phone number or LID.
        poll_votes: The options of a poll that were voted for.
        location: The place that was sent.
        contacts: The cards that were sent.
        view_once: Whether it may be opened once, and on the customer's phone only.
        forwarded: Whether somebody else wrote it first.
        media: The file that came along.
        notes: What else came along and is not text, one description each, e.g. ``"[poll: Pan?]"``.
        unread_kind: What kind of message it is, where nothing of it could be read.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    event_id: str = Field(min_length=1, max_length=1024, repr=False)  # WAHA's hold the chat id
    text: Annotated[str, AfterValidator(whole)] = Field(default="", repr=False)
    phone_number: str | None = Field(default=None, repr=False)
    chat_id: str | None = Field(default=None, repr=False)
    lid: str | None = Field(default=None, repr=False)
    aliases: tuple[str, ...] = Field(default=(), max_length=16, repr=False)
    account: str = Field(default="default", repr=False)  # sessions are named after phone numbers
    bot_id: str | None = None
    subdomain: str | None = None
    waha_session: str | None = Field(default=None, repr=False)
    business_number: str | None = Field(default=None, repr=False)
    delivery_id: str | None = None
    sent_at: SentAt | None = None
    sender_name: str | None = Field(default=None, repr=False)
    participant: str | None = Field(default=None, repr=False)
    reply_to: str | None = Field(default=None, repr=False)
    quoted: Quoted | None = Field(default=None, repr=False)
    choice: Choice | None = Field(default=None, repr=False)
    referral: Referral | None = Field(default=None, repr=False)
    mentions: tuple[str, ...] = Field(default=(), repr=False)
    poll_votes: tuple[str, ...] = Field(default=(), repr=False)
    location: Location | None = Field(default=None, repr=False)
    contacts: tuple[Contact, ...] = Field(default=(), repr=False)
    view_once: bool = False
    forwarded: bool = False
    media: Media | None = None
    notes: tuple[str, ...] = Field(default=(), repr=False)
    unread_kind: str | None = Field(default=None, repr=False)

    @model_validator(mode="wrap")
    @classmethod
    def _understood(
        cls, given: Any, read: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        if isinstance(given, Mapping):
            given = _of_its_group(given)
        if not isinstance(given, Mapping) or info.mode != "python":  # a store's or a server's
            return read(given)
        if "content" in given:
            if "text" in given:
                both = "text= and content= are two names of the same: pass one"
                raise PydanticCustomError("two_texts", "{told}", {"told": both})
            given = {"text" if name == "content" else name: given[name] for name in given}
        event = read(refuse_unknown(cls, given, info))
        if not (event.text.strip() or event.content.strip()):
            told = "the event says nothing: pass text=, or what came instead, e.g. media= or notes="
            raise PydanticCustomError("empty_event", "{told}", {"told": told})
        return event

    @property
    def is_group(self) -> bool:
        """Whether it was written in a group: then its conversation is the group's."""
        return phone.is_group(self.chat_id)

    @property
    def content(self) -> str:
        """What the model reads: quoted words, the text, and a line for all that is not text."""
        return content_of(
            self.text,
            self.notes,
            quoted=self.quoted,
            choice=self.choice,
            referral=self.referral,
            location=self.location,
            contacts=self.contacts,
            poll_votes=self.poll_votes,
            media=self.media,
            view_once=self.view_once,
            forwarded=self.forwarded,
            unread_kind=self.unread_kind,
        )
