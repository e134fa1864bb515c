"""Writes that replace what is on the server: they carry what was just read.

Where a sync alone persists messages, an append is one PUT of the whole history; where a sync
replaces the context, it carries the rest of it. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from langchain_convsync.models import Conversation, Words
from langchain_convsync.outbox.plan import Anchor, Write
from langchain_convsync.settings import ServerProfile

_MILLISECOND = timedelta(milliseconds=1)


def carried(read: Conversation, write: Write, pos: int, profile: ServerProfile) -> dict[str, Any]:
    """The context that goes along with a write, the server's own keys included.

    Args:
        read: The conversation as it was just read.
        write: The write.
        pos: How many of its messages are in there already.
        profile: What the API server does.
    """
    context = dict(read.context) if profile.context_sync == "replace" else {}
    if write.kind == "append":
        new = write.messages[pos:]
        history = [*read.entries, *_entries(read, write, new)]
        cap = profile.history_cap
        context["previousMessages"] = history if cap is None else history[-cap:]
        said = [message.content for message in new if message.role == "user"]
        if said:
            context["lastUserMessage"] = said[-1]
    return context


def place_written(
    history: Sequence[Words],
    messages: Sequence[Words],
    anchor: Anchor | None,
) -> int | None:
    """Where the last of the messages stands that one PUT wrote right after the anchor.

    None where they do not stand there: a PUT writes all of them or none.

    Raises:
        LookupError: The anchor is unknown or gone, so it cannot be told.
    """
    start = None if anchor is None else anchor.index(history)
    if start is None:
        reason = "the last message before the write is not in the history any more"
        raise LookupError(reason)
    written = history[start + 1 : start + 1 + len(messages)]
    alike = [(m.role, m.content) for m in written] == [(m.role, m.content) for m in messages]
    return start + len(messages) if alike else None


def _entries(read: Conversation, write: Write, messages: Sequence[Words]) -> list[dict[str, Any]]:
    """The messages as the server would have recorded them: each with a time, after all others."""
    times = [m.timestamp for m in read.said if m.timestamp is not None and m.timestamp.tzinfo]
    at = max([datetime.fromtimestamp(write.decided_at, UTC), *times])
    entries = []
    for message in messages:
        at += _MILLISECOND
        text = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entries.append({"role": message.role, "content": message.content, "timestamp": text})
    return entries
