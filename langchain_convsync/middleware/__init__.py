"""Middleware for agents of ``create_agent``: memory and state."""

from langchain_convsync.middleware._conversation import ConvSyncMiddleware

__all__ = ["ConvSyncMiddleware"]
