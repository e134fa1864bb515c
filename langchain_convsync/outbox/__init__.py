"""Durable delivery of writes and replies: ``plan`` and ``reply`` decide, the queues do.

``journal`` serves the surfaces that run no turn.
"""

from langchain_convsync.outbox.arrival import OnUndelivered, Undelivered
from langchain_convsync.outbox.compose import (
    as_operations,
    overlaid,
    replies_of,
    without_dropped,
    words_of,
    writes_for,
)
from langchain_convsync.outbox.delivery import OnUnverifiable, Outbox
from langchain_convsync.outbox.plan import Anchor, Write, anchor_for, overlay, target_of
from langchain_convsync.outbox.replies import Replies
from langchain_convsync.outbox.reply import PendingReply, echo_note, is_ours, said_by, words_like
from langchain_convsync.outbox.sender import WAHAReply

__all__ = [
    "Anchor",
    "OnUndelivered",
    "OnUnverifiable",
    "Outbox",
    "PendingReply",
    "Replies",
    "Undelivered",
    "WAHAReply",
    "Write",
    "anchor_for",
    "as_operations",
    "echo_note",
    "is_ours",
    "overlaid",
    "overlay",
    "replies_of",
    "said_by",
    "target_of",
    "without_dropped",
    "words_like",
    "words_of",
    "writes_for",
]
