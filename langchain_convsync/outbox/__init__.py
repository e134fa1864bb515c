"""Durable delivery of writes: ``plan`` decides, ``delivery`` does."""

from langchain_convsync.outbox.delivery import Outbox
from langchain_convsync.outbox.plan import Anchor, Write, anchor_for, overlay

__all__ = ["Anchor", "Outbox", "Write", "anchor_for", "overlay"]
