"""Durable delivery of writes: ``plan`` decides, ``delivery`` does, ``journal`` serves surfaces."""

from langchain_convsync.outbox.compose import as_ops, overlaid, writes_for
from langchain_convsync.outbox.delivery import Outbox, Unverifiable
from langchain_convsync.outbox.plan import Anchor, Write, anchor_for, overlay

__all__ = [
    "Anchor",
    "Outbox",
    "Unverifiable",
    "Write",
    "anchor_for",
    "as_ops",
    "overlaid",
    "overlay",
    "writes_for",
]
