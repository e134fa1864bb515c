"""Conversations of servers that keep a customer's name as somebody wrote it."""

from __future__ import annotations

from langchain_convsync.server import Tenant
from langchain_convsync.server.customers import Exactly
from langchain_convsync.server.wire import StateSync
from langchain_convsync.testing import ReferenceServer


def stored_as(
    server: ReferenceServer, name: str, *, subdomain: str = "abc", bot_id: str = "a" * 24
) -> str:
    """Begin a conversation under this very text, and tell its session id."""
    tenant = Tenant(subdomain, bot_id)
    created = server._store.create(Exactly(name, None), tenant, StateSync())
    return str(created["sessionId"])
