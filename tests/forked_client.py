"""A module as a forkserver preloads it: its client has worked before any child is made."""

from __future__ import annotations

from langchain_convsync.client import ConvSyncClient

CLIENT = ConvSyncClient(max_retries=0, timeout=60.0)
CLIENT.health()


def tenant(phone: str) -> str:
    """The tenant that a phone number talks to."""
    return CLIENT.lookup_tenant(phone).subdomain
