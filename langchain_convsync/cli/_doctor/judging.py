"""What was seen of an API server's writes, in words. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from langchain_convsync.cli._doctor.findings import Area, Finding, safe_name
from langchain_convsync.errors import APIStatusError
from langchain_convsync.models import Conversation, ConversationMessage, PartialConversation

WRITING = Area("writing")


def context(*, first_kept: bool, second_kept: bool) -> Finding:
    """What a sync does to the keys that it does not name.

    Args:
        first_kept: Whether the first sync's key outlived the second sync.
        second_kept: Whether the second sync's key is there.
    """
    if not second_kept:
        return WRITING.failed(
            "context",
            "a sync is answered as if it was applied, but its context is not there afterwards",
            "look into the API server's log and at its database",
        )
    if first_kept:
        message = "a sync merges its context into what is there"
        return WRITING.ok("context", message, context_sync="merge")
    return WRITING.warning(
        "context",
        "a sync replaces the whole context (what it took away was put back)",
        'pass ServerProfile(context_sync="replace") to the client, or every sync loses data',
        context_sync="replace",
    )


def answers(answer: PartialConversation) -> Finding:
    """What a write is answered with."""
    if answer.user_id is None:
        return WRITING.ok("answers", "writes are answered with the documented fields")
    return WRITING.ok("answers", "writes are answered with the whole document, which is understood")


def expiry(before: Conversation, after: Conversation) -> Finding:
    """Whether an agent's writes keep a conversation alive."""
    if before.expires_at is None or after.expires_at is None:
        return WRITING.ok("expiry", "the server tells no end of conversations")
    if after.expires_at > before.expires_at:
        return WRITING.ok("expiry", "writes prolong the conversation")
    return WRITING.warning(
        "expiry",
        "writes do not prolong the conversation: only the customer's messages can",
        "expect 404 on conversations in which only the bot or a human wrote lately",
    )


def history(*, stored: bool, echoed: bool, by_sync: bool = False) -> Finding:
    """Whether a posted message is kept, and if not, whether a sync's history is."""
    if stored:
        return WRITING.ok("history", "a posted message is stored", history="messages")
    lost = "echoed, but not stored" if echoed else "answered with 200, but not stored"
    if by_sync:
        return WRITING.warning(
            "history",
            f"a posted message is {lost}; a sync that carries the history is",
            'pass ServerProfile(history="sync") to the client, or the bot forgets what was said',
            history="sync",
        )
    return WRITING.failed(
        "history",
        f"a posted message is {lost}, and a history that a sync carries is not stored either",
        "look into the API server's log: the bot has no memory there",
    )


def cap(
    before: Sequence[ConversationMessage],
    after: Sequence[ConversationMessage],
    texts: Collection[str],
) -> Finding:
    """Whether new messages pushed old ones out.

    Args:
        before: The history as it was.
        after: The history with the test messages at its end.
        texts: What the test messages say.
    """
    kept = [message for message in after if message.content not in texts]
    if not kept or len(kept) >= len(before) or kept != list(before[-len(kept) :]):
        message = f"no message was pushed out of a history of {len(after)}; a cap may come later"
        return WRITING.ok("history cap", message)
    message = f"the server keeps the last {len(after)} messages"
    return WRITING.ok("history cap", message, history_cap=len(after))


def idempotency(*, times: int, refused: APIStatusError | None) -> Finding:
    """What came of a second request with the same ``Idempotency-Key``.

    Args:
        times: How often it was applied.
        refused: The error that it was answered with.
    """
    if refused is not None and refused.status_code not in {400, 409, 422}:
        return WRITING.skipped(
            "Idempotency-Key",
            f"a request with the same key failed, so it cannot be told ({refused})",
            "run doctor again",
        )
    if refused is not None:
        return WRITING.warning(
            "Idempotency-Key",
            f"a repeated key is refused instead of answered alike ({refused})",
            "leave idempotency_keys off: lost answers are looked up before a message is repeated",
            idempotency_keys=False,
        )
    if times == 1:
        message = "a request with the same key is applied once"
        return WRITING.ok("Idempotency-Key", message, idempotency_keys=True)
    return WRITING.ok(
        "Idempotency-Key",
        "a request with the same key is applied again: lost answers are looked up instead",
        idempotency_keys=False,
    )


def intents(known: Sequence[str] | None, *, status: int | None) -> Finding:
    """Which intents are accepted.

    Args:
        known: Those of the tried ones that are; None if a made-up one is.
        status: How the others are refused.
    """
    if known is None:
        return WRITING.ok("intents", "any intent is accepted", intents=None)
    if not known:
        return WRITING.failed(
            "intents",
            f"no intent is accepted, not even the present one (status {status})",
            "ask the API server's makers which intents it knows",
        )
    return WRITING.warning(
        "intents",
        f"unknown intents are refused (status {status}); of those tried it accepts "
        f"{', '.join(safe_name(intent) for intent in known)}",
        "pass ServerProfile(intents=frozenset({…})) with all that it accepts",
        intents=frozenset(known),
    )


def repetition(read: Conversation) -> Finding:
    """Whether the same intent again becomes its own predecessor."""
    if read.previous_intent != read.current_intent:
        return WRITING.ok("repeated sync", "the same intent again changes nothing")
    return WRITING.warning(
        "repeated sync",
        "the same intent again becomes the previous intent too",
        "do not rely on previousIntent: a sync may be repeated",
    )


def leftovers(left: Sequence[str], *, sure: bool) -> Finding:
    """What stays in the conversation; not ``sure`` after a write that failed."""
    message = f"left in the test conversation: {'; '.join(left) or 'nothing'}"
    if sure:
        return WRITING.ok("left behind", message)
    return WRITING.warning(
        "left behind",
        f"{message}; what failed may have left more",
        "look for “convsync” in the conversation's intent, context and messages",
    )
