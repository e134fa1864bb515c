"""Event deduplication for a webhook of your own: a claim that survives crashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_convsync.dedup.claims import (
    ACQUIRED,
    DONE,
    IN_PROGRESS,
    Claim,
    ClaimStatus,
    aonce,
    once,
)

if TYPE_CHECKING:
    from langchain_convsync.dedup.runnable import deduplicated

__all__ = [
    "ACQUIRED",
    "DONE",
    "IN_PROGRESS",
    "Claim",
    "ClaimStatus",
    "aonce",
    "deduplicated",
    "once",
]

# Hidden from type checkers: a module-level `__getattr__` would make every name `Any` to them.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "deduplicated":  # runnables take a while to import; claims do without
            from langchain_convsync.dedup.runnable import deduplicated

            return deduplicated
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
