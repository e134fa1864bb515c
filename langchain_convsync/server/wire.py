"""The reference server's JSON: what it accepts and what it answers.

The field names are those of the Agent Conversation Sync API. The models of
:mod:`langchain_convsync.models` forgive what servers in the wild send; these do not.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from langchain_convsync.models import Role

T = TypeVar("T")


def timestamp(moment: datetime) -> str:
    """The documented form, e.g. ``2025-12-29T10:00:00.000Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _moment(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a date and time in ISO 8601") from None  # quotes no input


Timestamp = Annotated[
    AwareDatetime,
    BeforeValidator(_moment),
    PlainSerializer(timestamp),
    Field(examples=["2025-12-29T10:00:00.000Z"]),
]


class Message(BaseModel):
    """One entry of ``previousMessages``; further fields are kept."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, hide_input_in_errors=True)

    role: Role
    content: str = Field(min_length=1, repr=False)
    timestamp: Timestamp


# --- requests ----------------------------------------------------------------------------------


class _Body(BaseModel):
    # A default would be advertised in OpenAPI and let null through: a field that may be left out
    # has a factory instead, and whether it was sent is read from `model_fields_set`.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class SyncedMessage(Message):
    """A message as a sync may carry it.

    Without a timestamp, or with one that lies in the future, it gets the server's.
    """

    timestamp: Timestamp = Field(default_factory=lambda: datetime.max.replace(tzinfo=UTC))


class ContextPatch(_Body):
    """Top-level keys to replace in the context; what is not named stays as it is."""

    model_config = ConfigDict(extra="allow")

    previous_messages: list[SyncedMessage] = Field(
        default_factory=list, alias="previousMessages", description="Replaces the whole history."
    )
    last_user_message: str = Field(default_factory=str, alias="lastUserMessage")


class StateSync(_Body):
    """The state after the agent processed a message; what is not named stays as it is."""

    intent: str = Field(default_factory=str, examples=["payment"])
    step: str = Field(default_factory=str, examples=["processing_payment"])
    context: ContextPatch = Field(default_factory=ContextPatch)
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="Top-level keys to replace in the metadata."
    )
    is_active: bool = Field(
        default_factory=bool, alias="isActive", description="False closes the conversation."
    )


class NewMessage(_Body):
    """A message that the agent processed."""

    role: Role
    content: str = Field(min_length=1, repr=False)


# --- answers -----------------------------------------------------------------------------------


class _Answer(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, hide_input_in_errors=True
    )


class Success(_Answer, Generic[T]):
    """The envelope of every answer that worked."""

    type: Literal["1"]
    message: str
    data: T


class Failure(_Answer):
    """The envelope of every answer that did not."""

    type: Literal["3"]
    message: str
    data: None


class TenantData(_Answer):
    """The tenant that a phone number talks to."""

    subdomain: str = Field(alias="subDomain")
    bot_id: str
    session_id: str
    is_active: bool


class ContextData(_Answer):
    """The tenant's own keys, and the history."""

    model_config = ConfigDict(extra="allow")

    previous_messages: list[Message]
    last_user_message: str = Field(default_factory=str)


class ConversationData(_Answer):
    """The whole conversation."""

    session_id: str
    user_id: str
    bot_id: str
    subdomain: str = Field(alias="subDomain")
    current_intent: str
    current_step: str
    previous_intent: str | None
    previous_step: str | None
    context: ContextData
    metadata: dict[str, Any]
    is_active: bool
    last_activity: Timestamp
    expires_at: Timestamp
    created_at: Timestamp
    updated_at: Timestamp


class SyncedData(_Answer):
    """What a sync left behind."""

    session_id: str
    current_intent: str
    current_step: str
    context: ContextData
    last_activity: Timestamp


class MessagesContext(_Answer):
    """The history, with the new message at its end."""

    previous_messages: list[Message]
    last_user_message: str | None


class MessagesData(_Answer):
    """What a new message left behind."""

    session_id: str
    context: MessagesContext


class HealthData(_Answer):
    """The service answers, and so does its database."""

    status: Literal["ok"]


class WebhookData(_Answer):
    """What became of a WAHA event: a conversation, or the reason why none."""

    accepted: bool
    session_id: str | None
    reason: str | None
