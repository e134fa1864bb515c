"""Whether an answer is about what was asked: another tenant's data never gets through."""

from __future__ import annotations

import re
from collections.abc import Iterable

from langchain_convsync import telemetry
from langchain_convsync.errors import ConversationMismatchError
from langchain_convsync.models import Conversation, PartialConversation, TenantInfo
from langchain_convsync.phone import identity_of, is_group, kind_of, phone_of, same_subscriber
from langchain_convsync.settings import CallTarget

#: Database ids: the same number in either case, and servers answer with their own spelling.
_HEX = re.compile(r"[0-9a-fA-F]+")
#: How a tenant's look-up names the customer, where a server tells more than is documented.
_NAMES = ("userId", "phoneNumber", "phone", "chatId")
#: A documented session id, behind its bot: customer, time, something random. A LID's digits, which
#: may stand there for a customer whose number is known by now, are longer than most numbers.
_SESSION = re.compile(r"_([1-9][0-9]{6,12})_[0-9]{10,13}_\w+", re.ASCII)


def joined(target: CallTarget | None, bot_id: str | None) -> CallTarget:
    """Whom a call is about, from both places that can say so.

    Raises:
        ConversationMismatchError: They disagree.
    """
    target = target or CallTarget()
    if bot_id is None:
        return target
    if not _same_bot(target.bot_id, bot_id):
        message = "bot_id and target name different bots"
        raise ConversationMismatchError(message)
    return CallTarget(subdomain=target.subdomain, bot_id=bot_id)


def require_same(
    found: Conversation | PartialConversation | TenantInfo,
    *,
    target: CallTarget,
    identity: str | None = None,
    known_as: Iterable[str] = (),
    session_id: str | None = None,
) -> None:
    """Refuse an answer that belongs to another customer.

    Args:
        found: The answer; fields that it lacks are not compared.
        target: The tenant and bot that the caller knows.
        identity: The customer that was asked for.
        known_as: Further ids of that customer.
        session_id: The session that was written to.

    Raises:
        ConversationMismatchError: It names another tenant, bot, customer or session.
    """
    if target.subdomain is not None and found.subdomain not in {None, target.subdomain}:
        raise _mismatch("tenant")
    if not _same_bot(target.bot_id, found.bot_id):
        raise _mismatch("bot")
    if session_id is not None and found.session_id != session_id:
        raise _mismatch("session")
    if identity is not None and not all(
        _is_customer(customer, identity, known_as) for customer in _customers(found)
    ):
        raise _mismatch("customer")


def _customers(found: Conversation | PartialConversation | TenantInfo) -> list[str | None]:
    """Whom an answer names, in as many places as it does."""
    if isinstance(found, Conversation):
        return [found.user_id]
    if not isinstance(found, TenantInfo):
        return []
    extra = found.model_extra or {}
    told = filter(None, (identity_of(extra.get(name)) for name in _NAMES))
    # A server's own id may be one of anything.
    named: list[str | None] = [who for who in told if kind_of(who) != "opaque"]
    bot, session = found.bot_id, found.session_id
    if session.startswith(bot) and (match := _SESSION.fullmatch(session[len(bot) :])):
        named.append(match[1])
    return named


def _is_customer(answered: str | None, asked: str, known_as: Iterable[str]) -> bool:
    """Whether an answer names the customer that was asked for."""
    names = {asked, *known_as}
    if any(same_subscriber(name, answered) for name in names):
        return True
    found = identity_of(answered)
    # A LID, for example, says nothing of its phone number: a server that knows both may answer with
    # either. But a number is answered with the number, and what is known can be compared.
    if found is None or phone_of(asked) is not None or is_group(found):
        return False
    return kind_of(found) not in map(kind_of, names)


def _same_bot(one: str | None, other: str | None) -> bool:
    if one is None or other is None or one == other:
        return True
    return one.lower() == other.lower() and _HEX.fullmatch(one) is not None


def _mismatch(what: str) -> ConversationMismatchError:
    telemetry.count("mismatched_answers", field=what)
    return ConversationMismatchError(
        f"the API server's answer belongs to another {what} than was asked for; it was dropped"
    )
