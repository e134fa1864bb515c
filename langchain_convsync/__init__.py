"""WhatsApp conversations as memory and tools for LangChain agents, synced effectively once.

Every public name is loaded on first use, so that importing the package stays cheap and needs no
extra. Start with :class:`TurnRunner` for the whole thing, or pick a single surface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_convsync._lazy import on_first_use
from langchain_convsync._version import __version__

if TYPE_CHECKING:
    from langchain_convsync import waha
    from langchain_convsync.app import create_app
    from langchain_convsync.callbacks import AsyncConvSyncCallbackHandler, ConvSyncCallbackHandler
    from langchain_convsync.chat_history import ConvSyncChatMessageHistory
    from langchain_convsync.client import (
        AsyncConvSyncClient,
        AsyncWAHAClient,
        ConvSyncClient,
        WAHAClient,
    )
    from langchain_convsync.dedup import aonce, deduplicated, once
    from langchain_convsync.errors import (
        AgentServerError,
        APIConnectionError,
        APIError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        BudgetError,
        ClosedError,
        ConfigurationError,
        ConflictError,
        ConversationMismatchError,
        ConversationNotFoundError,
        ConvSyncError,
        EventInProgressError,
        FencedError,
        InvalidEventError,
        InvalidPhoneNumberError,
        InvalidResponseError,
        LoopError,
        MissingExtraError,
        NoInterruptError,
        NotFoundError,
        PermissionDeniedError,
        RateLimitError,
        ServerError,
        StoreChangedError,
        StoreDamagedError,
        StoreError,
        StoreFormatError,
        StoreUnavailableError,
        UnknownArgumentError,
        UnknownConversationError,
        UnknownOutcomeError,
        WAHAError,
    )
    from langchain_convsync.models import (
        Conversation,
        ConversationMessage,
        InboundEvent,
        StateUpdate,
        TenantInfo,
    )
    from langchain_convsync.outbox import Undelivered, WAHAReply
    from langchain_convsync.reply import Handoff, Reply
    from langchain_convsync.settings import ServerProfile
    from langchain_convsync.stores import RedisEventStore, SQLiteEventStore
    from langchain_convsync.surfaces.context import (
        ConversationRef,
        Tenant,
        current_conversation,
        in_conversation,
    )
    from langchain_convsync.surfaces.llm_extraction import llm_extractor
    from langchain_convsync.tools import (
        AddMessage,
        ConvSyncToolkit,
        GetConversation,
        HandOver,
        LookupTenant,
        SyncState,
    )
    from langchain_convsync.turns import HandedOver, Interrupt, Turn, TurnRunner

_MODULES = {
    "app": ("create_app",),
    "callbacks": ("AsyncConvSyncCallbackHandler", "ConvSyncCallbackHandler"),
    "chat_history": ("ConvSyncChatMessageHistory",),
    "client": ("AsyncConvSyncClient", "AsyncWAHAClient", "ConvSyncClient", "WAHAClient"),
    "surfaces.context": (
        "ConversationRef",
        "Tenant",
        "current_conversation",
        "in_conversation",
    ),
    "dedup": ("aonce", "deduplicated", "once"),
    "errors": (
        "APIConnectionError",
        "APIError",
        "APIStatusError",
        "APITimeoutError",
        "AgentServerError",
        "AuthenticationError",
        "BadRequestError",
        "BudgetError",
        "ClosedError",
        "ConfigurationError",
        "ConflictError",
        "ConvSyncError",
        "ConversationMismatchError",
        "ConversationNotFoundError",
        "EventInProgressError",
        "FencedError",
        "InvalidEventError",
        "InvalidPhoneNumberError",
        "InvalidResponseError",
        "LoopError",
        "MissingExtraError",
        "NoInterruptError",
        "NotFoundError",
        "PermissionDeniedError",
        "RateLimitError",
        "ServerError",
        "StoreChangedError",
        "StoreDamagedError",
        "StoreError",
        "StoreFormatError",
        "StoreUnavailableError",
        "UnknownArgumentError",
        "UnknownConversationError",
        "UnknownOutcomeError",
        "WAHAError",
    ),
    "surfaces.llm_extraction": ("llm_extractor",),
    "models": (
        "Conversation",
        "ConversationMessage",
        "InboundEvent",
        "StateUpdate",
        "TenantInfo",
    ),
    "outbox": ("Undelivered", "WAHAReply"),
    "reply": ("Handoff", "Reply"),
    "settings": ("ServerProfile",),
    "stores": ("RedisEventStore", "SQLiteEventStore"),
    "tools": (
        "AddMessage",
        "ConvSyncToolkit",
        "GetConversation",
        "HandOver",
        "LookupTenant",
        "SyncState",
    ),
    "turns": ("HandedOver", "Interrupt", "Turn", "TurnRunner"),
    "waha": (),
}

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AddMessage",
    "AgentServerError",
    "AsyncConvSyncCallbackHandler",
    "AsyncConvSyncClient",
    "AsyncWAHAClient",
    "AuthenticationError",
    "BadRequestError",
    "BudgetError",
    "ClosedError",
    "ConfigurationError",
    "ConflictError",
    "ConvSyncCallbackHandler",
    "ConvSyncChatMessageHistory",
    "ConvSyncClient",
    "ConvSyncError",
    "ConvSyncToolkit",
    "Conversation",
    "ConversationMessage",
    "ConversationMismatchError",
    "ConversationNotFoundError",
    "ConversationRef",
    "EventInProgressError",
    "FencedError",
    "GetConversation",
    "HandOver",
    "HandedOver",
    "Handoff",
    "InboundEvent",
    "Interrupt",
    "InvalidEventError",
    "InvalidPhoneNumberError",
    "InvalidResponseError",
    "LookupTenant",
    "LoopError",
    "MissingExtraError",
    "NoInterruptError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "RedisEventStore",
    "Reply",
    "SQLiteEventStore",
    "ServerError",
    "ServerProfile",
    "StateUpdate",
    "StoreChangedError",
    "StoreDamagedError",
    "StoreError",
    "StoreFormatError",
    "StoreUnavailableError",
    "SyncState",
    "Tenant",
    "TenantInfo",
    "Turn",
    "TurnRunner",
    "Undelivered",
    "UnknownArgumentError",
    "UnknownConversationError",
    "UnknownOutcomeError",
    "WAHAClient",
    "WAHAError",
    "WAHAReply",
    "__version__",
    "aonce",
    "create_app",
    "current_conversation",
    "deduplicated",
    "in_conversation",
    "llm_extractor",
    "once",
    "waha",
]


def __dir__() -> list[str]:
    return sorted(__all__)


# Hidden from type checkers: a module-level `__getattr__` would make every name `Any` to them.
if not TYPE_CHECKING:
    __getattr__ = on_first_use(__name__, _MODULES)
