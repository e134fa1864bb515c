"""Writes that replace what is on the server: they carry what was just read.

Where a sync alone persists messages, an append is one PUT of the whole history; where a sync
replaces the context, it carries the rest of it. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from langchain_convsync.client import _outgoing as outgoing
from langchain_convsync.models import Conversation, Words
from langchain_convsync.outbox.plan import Anchor, Write
from langchain_convsync.settings import ServerProfile


def carried(read: Conversation, write: Write, pos: int, profile: ServerProfile) -> dict[str, Any]:
    """The context that goes along with a write, the server's own keys included.

    Args:
        read: The conversation as it was just read.
        write: The write.
        pos: How many of its messages are in there already.
        profile: What the API server does.
    """
    decided_at = datetime.fromtimestamp(write.decided_at, UTC)
    return outgoing.carried(read, write.messages[pos:], decided_at, profile)


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
