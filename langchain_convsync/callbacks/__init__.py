"""Sync the conversation's state at the end of any run, by attaching a callback handler."""

from langchain_convsync.callbacks._handlers import (
    AsyncConvSyncCallbackHandler,
    ConvSyncCallbackHandler,
)

__all__ = ["AsyncConvSyncCallbackHandler", "ConvSyncCallbackHandler"]
