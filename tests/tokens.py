"""JWTs that a reference server with the same secret accepts, and variations."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import jwt

SECRET = "a secret of at least thirty-two bytes"
LATER = datetime(2100, 1, 1, tzinfo=UTC)
CLAIMS: dict[str, Any] = {"sub": "agent-1", "exp": LATER, "tenants": ["restaurant-abc"]}


def token(key: Any = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    """A token that is valid but for the changes; None leaves a claim out."""
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if value is not None}
    return jwt.encode(claims, key, algorithm)
