"""Durable delivery of writes: ``plan`` decides, ``delivery`` does."""

from langchain_convsync.outbox.delivery import Outbox, Unverifiable
from langchain_convsync.outbox.plan import Anchor, Write, anchor_for, overlay

__all__ = ["Anchor", "Outbox", "Unverifiable", "Write", "anchor_for", "overlay"]
