"""Event deduplication for a webhook of your own: a claim that survives crashes."""

from langchain_convsync.dedup.claims import (
    ACQUIRED,
    DONE,
    IN_PROGRESS,
    Claim,
    ClaimStatus,
    aonce,
    once,
)
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
