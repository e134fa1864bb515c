"""Whether a delivery comes from a WAHA that knows our secret."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import SecretStr

from langchain_convsync.errors import ConfigurationError
from langchain_convsync.settings import secret_bytes


def verify(
    raw: bytes, headers: Mapping[str, str], secrets: str | SecretStr | Iterable[str | SecretStr]
) -> bool:
    """Whether a delivery was signed with one of the secrets.

    ``X-Webhook-Hmac`` is the lower-case hex HMAC-SHA512 of the raw body. WAHA's timestamp is not
    signed, so replays are for the deduplication to find.

    Args:
        raw: The body, exactly as received.
        headers: Names in any case.
        secrets: WAHA's ``hmac.key``; several while one replaces another.

    Raises:
        ConfigurationError: There is no secret, or an empty one, which any client could sign with,
            or one that is not a text. To accept unsigned deliveries, do not call this.
    """
    given = [secrets] if isinstance(secrets, str | SecretStr) else list(secrets or ())
    keys = [secret_bytes(key, "waha_secrets") for key in given]
    if not keys or not all(keys):
        message = "waha_secrets is empty: pass the key that WAHA's session signs with (hmac.key)"
        raise ConfigurationError(message)
    algorithm = _header(headers, "x-webhook-hmac-algorithm")
    signature = _header(headers, "x-webhook-hmac")
    if len(signature) != 1 or any(name.lower() != "sha512" for name in algorithm):
        return False
    offered = signature[0].encode("utf-8", "replace")
    # All of them, always, so that the time taken says nothing of which one fits.
    matches = [
        hmac.compare_digest(hmac.digest(key, raw, "sha512").hex().encode(), offered) for key in keys
    ]
    return any(matches)


def _header(headers: Mapping[Any, Any], name: str) -> list[str]:
    """Every value of the header; frameworks differ in what else they put into their mappings."""
    return [
        value if isinstance(value, str) else ""
        for key, value in headers.items()
        if isinstance(key, str) and key.lower() == name
    ]
