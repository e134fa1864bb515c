"""Middleware for agents of ``create_agent``: memory and state, and tools that act once."""

from langchain_convsync.middleware._conversation import ConvSyncMiddleware
from langchain_convsync.middleware._once_tools import OnceToolsMiddleware

__all__ = ["ConvSyncMiddleware", "OnceToolsMiddleware"]
