"""What the bot says of its own accord, as it waits in the inbox of its conversation. Pure."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.reply import Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the bot is to say, and when; ``TurnRunner.say`` documents it."""

    reply: Reply
    at: datetime | None = None
    unless_heard: bool = False
    colleague: bool = False
    key: str | None = None

    @classmethod
    def of(cls, what: str | Reply, *, at: datetime | None, key: str | None, **more: Any) -> Self:
        """As ``say`` was told it.

        Raises:
            ConfigurationError: It says nothing, or not when.
        """
        if isinstance(what, str):
            what = Reply(texts=(what,)) if what.strip() else Reply.silent
        if what.is_silent:
            message = "say() needs something to say: a text, or a Reply with texts or a file"
            raise ConfigurationError(message)
        if at is not None and at.utcoffset() is None:
            message = "at= needs a time zone: datetime.now(UTC) + timedelta(hours=1), for example"
            raise ConfigurationError(message)
        if key is not None and not key.strip():
            message = 'key= names the message, "reminder of order 7" for example: it is empty'
            raise ConfigurationError(message)
        return cls(reply=what, at=at, key=key, **more)


class Saying(BaseModel):
    """A message that the bot writes first.

    Attributes:
        at: Store time from which on it is due.
        unless_heard: Whether the customer's words, if they come first, make it needless.
        colleague: Whether a human says it, who may have the conversation.
        turn: The turn that asked for it: its own customer's words are no such words.
        fields: The reply's fields, but for the bytes of its file.
        data: Those, in base64.
    """

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    at: float = 0.0
    unless_heard: bool = False
    colleague: bool = False
    turn: str | None = None
    fields: dict[str, Any] = Field(repr=False)
    data: str | None = Field(default=None, repr=False)

    @classmethod
    def of(cls, reply: Reply, **facts: Any) -> Self:
        """A reply that waits."""
        data = base64.b64encode(reply.file).decode() if isinstance(reply.file, bytes) else None
        without = {"file"} if data else set()
        fields = reply.model_dump(mode="json", exclude_defaults=True, exclude=without)
        return cls(fields=fields, data=data, **facts)

    @property
    def reply(self) -> Reply:
        """What is said."""
        data = {} if self.data is None else {"file": base64.b64decode(self.data)}
        return Reply.model_validate({**self.fields, **data})
