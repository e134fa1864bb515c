"""Durable delivery of writes and replies: ``plan`` and ``reply`` decide, the queues do.

``journal`` serves the surfaces that run no turn.
"""

from langchain_convsync.outbox.compose import as_ops, overlaid, writes_for
from langchain_convsync.outbox.delivery import Outbox, Unverifiable
from langchain_convsync.outbox.plan import Anchor, Write, anchor_for, overlay, target_of
from langchain_convsync.outbox.replies import Replies, WAHAReply
from langchain_convsync.outbox.reply import Reply, echo_note, is_ours

__all__ = [
    "Anchor",
    "Outbox",
    "Replies",
    "Reply",
    "Unverifiable",
    "WAHAReply",
    "Write",
    "anchor_for",
    "as_ops",
    "echo_note",
    "is_ours",
    "overlaid",
    "overlay",
    "target_of",
    "writes_for",
]
