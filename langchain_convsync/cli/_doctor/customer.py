"""Whether the API server finds a customer, how it spells them, and what the conversation is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate

from langchain_convsync._flow import run
from langchain_convsync._lines import count_of
from langchain_convsync.cli._doctor.findings import Area, Finding, safe_name
from langchain_convsync.client import Api
from langchain_convsync.errors import (
    APIError,
    ConversationMismatchError,
    ConversationNotFoundError,
    InvalidResponseError,
    PermissionDeniedError,
    ServerError,
)
from langchain_convsync.models import Conversation
from langchain_convsync.phone import PhoneFormat, formatted, kind_of, masked, normalize, variants

CONVERSATION = Area("conversation")
#: What the messages that doctor writes begin with.
MARK = "convsync doctor"
#: What a message may be older than one before it: some servers keep whole seconds.
ROUNDED = timedelta(seconds=1)
_FORMATS: dict[PhoneFormat, str] = {
    "e164": "+51… (E.164)",
    "digits": "51… (digits)",
    "jid": "51…@c.us (chat id)",
}

#: Makes the API for customers in one format.
ApiFor = Callable[[PhoneFormat], Api]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A customer's conversation, and how to ask for it.

    Attributes:
        spelling: The phone number or chat id under which it was found.
        phone_format: How the server wants it written.
        conversation: The conversation.
    """

    spelling: str
    phone_format: PhoneFormat
    conversation: Conversation


def spellings(phone: str) -> Iterator[tuple[PhoneFormat, str]]:
    """Every text under which a server may keep the customer: the likeliest first.

    Raises:
        InvalidPhoneNumberError: It is not a customer id.
    """
    seen: set[str] = set()
    for identity in variants(phone):
        for style in _FORMATS:
            text = formatted(identity, style)
            if text not in seen:
                seen.add(text)
                yield style, identity


def looked_up(
    api_for: ApiFor, phone: str, bot_id: str | None
) -> tuple[list[Finding], Found | None]:
    """Look a customer up until found, and tell what is to be known of the conversation."""
    try:
        found = _search(api_for, phone, bot_id)
        if found is None:
            return [_missing(api_for, phone, bot_id)], None
    except ConversationMismatchError as error:
        advice = "do not use this API server: it answers with other customers' conversations"
        return [CONVERSATION.failed("lookup", str(error), advice)], None
    except ServerError as error:
        return [_broken(api_for, phone, bot_id, error)], None
    except APIError as error:
        return [CONVERSATION.failed("lookup", str(error), _what_to_do(error))], None
    return [
        spelled(found, phone),
        _tenant(api_for, found),
        lively(found.conversation, datetime.now(UTC)),
        fresh(found.conversation),
        inbound(found.conversation),
        ordered(found.conversation),
    ], found


def _search(api_for: ApiFor, phone: str, bot_id: str | None) -> Found | None:
    for style, identity in spellings(phone):
        with closing(api_for(style)) as api:
            try:
                read = run(api.get_conversation(identity, bot_id, attempts=1))
            except ConversationNotFoundError:
                continue
        return Found(spelling=identity, phone_format=style, conversation=read)
    return None


def _what_to_do(error: APIError) -> str:
    if isinstance(error, PermissionDeniedError):
        return "check for which tenant CONVSYNC_API_KEY was made"
    if isinstance(error, InvalidResponseError):
        return "compare the API server's answer with the document"
    return "look into the API server's log, and run doctor again"


def _tenant(api_for: ApiFor, found: Found) -> Finding:
    read = found.conversation
    try:
        with closing(api_for(found.phone_format)) as api:
            tenant = run(api.lookup_tenant(found.spelling))
    except APIError as error:
        advice = "pass a bot id to lookup_tenant: then it asks for the conversation instead"
        return CONVERSATION.failed("tenant", str(error), advice)
    if (tenant.subdomain, tenant.bot_id) == (read.subdomain, read.bot_id):
        return CONVERSATION.ok(
            "tenant", f"the tenant look-up tells {safe_name(tenant.subdomain)}, too"
        )
    return CONVERSATION.warning(
        "tenant",
        f"without a bot id the customer is looked up for {safe_name(tenant.subdomain)}, bot "
        f"{safe_name(tenant.bot_id)}: the API server takes the newest conversation",
        "always pass the bot id",
    )


def _missing(api_for: ApiFor, phone: str, bot_id: str | None) -> Finding:
    other = None if bot_id is None else _search(api_for, phone, None)
    if other is not None:
        return CONVERSATION.failed(
            "lookup",
            f"{masked(phone)} has no conversation with this bot, but one with the bot "
            f"{safe_name(other.conversation.bot_id)} of {safe_name(other.conversation.subdomain)}",
            "check --bot-id, and which bot the WAHA session belongs to",
        )
    tried = list(spellings(phone))
    styles = ", ".join(dict.fromkeys(_named(style, identity) for style, identity in tried))
    twins = " and of the number with or without its extra digit" if len(variants(phone)) > 1 else ""
    return CONVERSATION.failed(
        "lookup",
        f"{masked(phone)} has no active conversation under any of {len(tried)} spellings "
        f"({styles}{twins})",
        "it may have expired (24 hours after the last message): let the customer write, and check "
        "that WAHA's webhook reaches the API server; if WAHA names the customer by …@lid, pass "
        "that as --phone",
    )


def _broken(api_for: ApiFor, phone: str, bot_id: str | None, error: ServerError) -> Finding:
    try:
        found = None if bot_id is None else _search(api_for, phone, None)
    except (APIError, ConversationMismatchError):
        found = None
    if found is None:
        return CONVERSATION.failed("lookup", str(error), "look into the API server's log")
    known_id = safe_name(found.conversation.bot_id)
    return CONVERSATION.failed(
        "lookup",
        f"the API server fails on this bot id, and not without one ({error})",
        f"pass the id as the server knows it, e.g. {known_id}: some know ids of 24 hex digits only",
    )


def spelled(found: Found, phone: str) -> Finding:
    """How the customer was found."""
    read = found.conversation
    bot, tenant = safe_name(read.bot_id), safe_name(read.subdomain)
    target = f"bot {bot} of {tenant}, {count_of(len(read.messages), 'message')}"
    identity = normalize(phone)
    message = f"{masked(phone)} is found as {_named(found.phone_format, found.spelling)}: {target}"
    if found.spelling != identity:
        digits = "more" if len(found.spelling) > len(identity) else "less"
        return CONVERSATION.warning(
            "lookup",
            f"{message}, but with one digit {digits} than given",
            "look the customer up under the spelling that WAHA tells",
            phone_format=found.phone_format,
        )
    if not identity.startswith("+"):
        return CONVERSATION.ok("lookup", message)  # a LID, for example, is written in one way only
    if found.phone_format == "e164":
        return CONVERSATION.ok("lookup", message, phone_format="e164")
    return CONVERSATION.warning(
        "lookup",
        message,
        f'pass ServerProfile(phone_format="{found.phone_format}") to the client',
        phone_format=found.phone_format,
    )


def _named(style: PhoneFormat, identity: str) -> str:
    if identity.startswith("+"):
        return _FORMATS[style]
    kinds = {"bsuid": "a BSUID", "opaque": "an id of the server's own"}
    return kinds.get(kind_of(identity)) or f"…@{identity.partition('@')[2]}"


def lively(read: Conversation, now: datetime) -> Finding:
    """Whether the conversation is open, and for how long."""
    if not read.is_active:
        return CONVERSATION.failed(
            "open",
            "the conversation is closed (isActive is false): events are recorded, not answered",
            "let the customer write again, or sync is_active=True",
        )
    if read.expires_at is None:
        return CONVERSATION.ok("open", "the conversation is open; the server tells no end of it")
    end = read.expires_at if read.expires_at.tzinfo else read.expires_at.replace(tzinfo=UTC)
    until = f"{end.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    if end <= now:
        return CONVERSATION.failed(
            "open",
            f"the conversation expired at {until}",
            "let the customer write again; compare the clocks",
        )
    return CONVERSATION.ok("open", f"the conversation is open until {until}")


def fresh(read: Conversation) -> Finding:
    """Whether a conversation without state has its fields."""
    absent = [name for name in ("context", "metadata") if name not in read.model_fields_set]
    if absent:
        message = f"the answer has no {' and no '.join(absent)}, which is taken for empty"
        return CONVERSATION.ok("fields", message)
    return CONVERSATION.ok("fields", "the answer has context and metadata")


def inbound(read: Conversation) -> Finding:
    """Whether the server records what the customer writes, as far as the history tells."""
    said = [m for m in read.messages if not m.content.startswith(MARK)]
    agent = "convsync" in read.metadata or any(message.role == "bot" for message in said)
    if not said and not agent:
        return CONVERSATION.ok(
            "inbound",
            "the history is empty: if the customer has written here, agents record it",
            records_inbound=False,
        )
    if agent or not any(message.role == "user" for message in said):
        return CONVERSATION.skipped(
            "inbound",
            "an agent was here, so it cannot be told who recorded what the customer wrote",
            "let a new customer write once while no agent runs, and ask for that --phone",
        )
    advice = "pass ServerProfile(records_inbound=True) to the client, or messages are there twice"
    if len(said) > 1:
        return CONVERSATION.warning(
            "inbound",
            "the API server records what the customer writes: no agent was here",
            advice,
            records_inbound=True,
        )
    return CONVERSATION.warning(
        "inbound",
        "the API server records what the customer writes first: no agent was here; one message "
        "cannot tell whether it records later ones, and some servers do not",
        f"{advice}; what is missing after a turn is recorded. To know, let the customer write "
        "again while no agent runs, and look whether both are there",
        records_inbound=True,
    )


def ordered(read: Conversation) -> Finding:
    """Whether the messages stand in the order of their times."""
    stamps = [message.timestamp for message in read.messages if message.timestamp is not None]
    times = [time if time.tzinfo else time.replace(tzinfo=UTC) for time in stamps]
    if len(times) < 2:
        return CONVERSATION.ok("order", "fewer than two messages tell when they were recorded")
    newest = accumulate(times, max)
    late = sum(time < before - ROUNDED for time, before in zip(times[1:], newest, strict=False))
    if not late:
        return CONVERSATION.ok("order", "the messages stand in the order of their times")
    return CONVERSATION.warning(
        "order",
        f"{late} of {len(times)} messages stand behind newer ones: writers do not wait for each "
        "other, or their clocks differ",
        "let all that writes be one TurnRunner with one store, and follow NTP",
    )
