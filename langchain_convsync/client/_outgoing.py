"""What is sent, checked before it leaves: nothing here performs I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.models import Conversation, StateUpdate, Words
from langchain_convsync.settings import DOCUMENTED_PREFIX, OBSERVED_PREFIX, ServerProfile

_MILLISECOND = timedelta(milliseconds=1)
_KNOWN_PREFIXES = (DOCUMENTED_PREFIX.strip("/"), OBSERVED_PREFIX.strip("/"))


def mount_point(base_url: str, prefix: str) -> str:
    """The URL under which the endpoints are, without a trailing slash.

    Raises:
        ConfigurationError: The prefix is more than a path, or base_url ends with one already.
    """
    path = prefix.strip("/")
    if not path.isascii() or not path.isprintable() or set(path) & set(" ?#\\"):
        message = f"ServerProfile(prefix=…) must be a plain path such as {ServerProfile.prefix}"
        raise ConfigurationError(message)
    if not path:
        return base_url
    for known in (path, *_KNOWN_PREFIXES):
        if base_url.endswith(f"/{known}"):
            rest = base_url.removesuffix(f"/{known}")
            message = (
                f"base_url ends with /{known}, and a client adds the prefix itself: pass {rest} "
                f'and, unless it is the documented one, profile=ServerProfile(prefix="/{known}")'
            )
            raise ConfigurationError(message)
    return f"{base_url}/{path}"


def query(name: str, value: str | None) -> str:
    """A query string with one parameter; empty without a value.

    Raises:
        ConfigurationError: The value is not text that can be sent.
    """
    if value is None:
        return ""
    try:
        return f"?{name}={quote(value, safe='')}"
    except (UnicodeEncodeError, TypeError):
        pass
    message = f"{name} cannot be sent: it must be text without lone surrogates"
    raise ConfigurationError(message)


def headers(idempotency_key: str | None, *, body: bool) -> dict[str, str]:
    """The headers of a request, but for the key that each attempt gets.

    Raises:
        ConfigurationError: The idempotency key holds characters that no header can carry.
    """
    found = {
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
        "User-Agent": "langchain-convsync",
    }
    if body:
        found["Content-Type"] = "application/json"
    if idempotency_key is not None:
        found["Idempotency-Key"] = header_value(idempotency_key, "idempotency_key")
    return found


def header_value(value: str, name: str) -> str:
    """The value, if a header can carry it.

    Raises:
        ConfigurationError: It cannot.
    """
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        message = f"{name} must be printable ASCII without spaces and line breaks, and not empty"
        raise ConfigurationError(message)
    return value


def sync_body(
    update: StateUpdate | Mapping[str, Any],
    profile: ServerProfile,
    carried: Mapping[str, Any] | None = None,
) -> bytes:
    """The body of a sync.

    Args:
        update: What was decided.
        profile: What the API server accepts.
        carried: Context that goes along unchanged, the server's own keys included.

    Raises:
        ConfigurationError: It is not a state update, not JSON, or has an intent that the server
            does not know.
    """
    update = _state_update(update)
    if profile.intents is not None and update.intent not in {None, *profile.intents}:
        message = f"this API server accepts the intents {', '.join(sorted(profile.intents))} only"
        raise ConfigurationError(message)
    body = update.wire()
    if carried is not None:
        body["context"] = {**carried, **body.get("context", {})}
    return _json(body)


def carried(
    read: Conversation, messages: Sequence[Words], at: datetime, profile: ServerProfile
) -> dict[str, Any]:
    """The context that goes along with a sync that replaces what is on the server.

    Where a sync alone persists messages, it is the whole history with those at its end; where a
    sync replaces the context, it is the rest of it, the server's own keys included.

    Args:
        read: The conversation as it was just read.
        messages: What is to be added to its history.
        at: When they were said.
        profile: What the API server does.
    """
    context = dict(read.context) if profile.context_sync == "replace" else {}
    if messages:
        history = [*read.entries, *_entries(read, messages, at)]
        cap = profile.history_cap
        context["previousMessages"] = history if cap is None else history[-cap:]
        if said := [message.content for message in messages if message.role == "user"]:
            context["lastUserMessage"] = said[-1]
    return context


def _entries(read: Conversation, messages: Sequence[Words], at: datetime) -> list[dict[str, Any]]:
    """The messages as the server would have recorded them: each with a time, after all others."""
    times = [m.timestamp for m in read.said if m.timestamp is not None and m.timestamp.tzinfo]
    at = max([at, *times])
    entries = []
    for message in messages:
        at += _MILLISECOND
        text = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entries.append({"role": message.role, "content": message.content, "timestamp": text})
    return entries


def _state_update(update: StateUpdate | Mapping[str, Any]) -> StateUpdate:
    if isinstance(update, StateUpdate):
        return update
    try:
        return StateUpdate.model_validate(update)
    except ValidationError as error:  # it repeats the values, so it is not a cause of ours
        flaws = error.errors(include_input=False)
        names = sorted(
            {str(flaw["loc"][0]) if flaw["loc"] else _reason(flaw["msg"]) for flaw in flaws}
        )
    message = (
        f"the update is not a StateUpdate (see {', '.join(names)}): it takes intent, step, "
        "context, metadata and is_active, with JSON values"
    )
    raise ConfigurationError(message)


def _reason(message: str) -> str:
    return message.removeprefix("Value error, ")


def message_body(role: str, content: str) -> bytes:
    """The body of a message.

    Raises:
        ConfigurationError: The API does not know the role, or the content is not text.
    """
    if role not in {"user", "bot"} or not isinstance(content, str):
        message = 'a message needs the role "user" or "bot", and text as its content'
        raise ConfigurationError(message)
    return _json({"role": role, "content": content})


_written = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _json(body: dict[str, Any]) -> bytes:
    try:
        return _written(body).encode()
    except (ValueError, TypeError, RecursionError):
        pass
    message = (
        "the content cannot be sent as JSON: it holds NaN, Infinity, a lone surrogate, an object "
        "that is not a JSON value, or is nested too deeply"
    )
    raise ConfigurationError(message)
