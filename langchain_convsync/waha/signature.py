"""Whether a delivery comes from a WAHA that knows our secret."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from pydantic import SecretStr

from langchain_convsync._forks import Unpicklable
from langchain_convsync.errors import ConfigurationError, InvalidEventError
from langchain_convsync.settings import secret_bytes
from langchain_convsync.waha.wire import parse_json

#: One secret, or several while one replaces another.
Secrets: TypeAlias = str | SecretStr | Iterable[str | SecretStr]
#: Stands for every session, and for deliveries that are not WAHA's own.
ANY_SESSION = "*"
#: As WAHA writes a SHA-512; nothing else can be the signature of anything.
_SIGNATURE = re.compile(r"[0-9a-f]{128}")


class Signers(Unpicklable):
    """Who may sign deliveries, and those of which sessions.

    Args:
        secrets: WAHA's ``hmac.key``, several while one replaces another; or such by the name of the
            WAHA session that signs with it, ``"*"`` for any.

    Raises:
        ConfigurationError: There is no secret, or an empty one, which any client could sign with,
            or one that is not text, or one for a session without a name.
    """

    def __init__(self, secrets: Secrets | Mapping[str, Secrets]) -> None:
        bound = secrets if isinstance(secrets, Mapping) else {ANY_SESSION: secrets}
        if not all(isinstance(session, str) and session for session in bound):
            message = 'waha_secrets: name the WAHA session of each secret, or "*" for any'
            raise ConfigurationError(message)
        self._keys = [(key, session) for session, given in bound.items() for key in _keys_of(given)]
        if not self._keys:
            raise ConfigurationError(_EMPTY)

    def offered(self, headers: Mapping[str, str]) -> bool:
        """Whether the headers hold what can be a signature: else the body need not be read."""
        return _offered(headers) is not None

    def verify(self, raw: bytes, headers: Mapping[str, str]) -> bool:
        """Whether one of them signed this body, and may sign for the session that it names."""
        if (offered := _offered(headers)) is None:
            return False
        # All of them, always, so that the time taken says nothing of which one fits.
        matches = [
            (hmac.compare_digest(hmac.digest(key, raw, "sha512").hex(), offered), session)
            for key, session in self._keys
        ]
        sessions = {session for fits, session in matches if fits}
        return ANY_SESSION in sessions or (bool(sessions) and _session_of(raw) in sessions)


def verify(
    raw: bytes, headers: Mapping[str, str], secrets: Secrets | Mapping[str, Secrets]
) -> bool:
    """Whether a delivery was signed with one of the secrets.

    ``X-Webhook-Hmac`` is the lower-case hex HMAC-SHA512 of the raw body. WAHA's timestamp is not
    signed, so replays are for the deduplication to find.

    Args:
        raw: The body, exactly as received.
        headers: Names in any case.
        secrets: WAHA's ``hmac.key``; several while one replaces another. Or such by the name of the
            WAHA session that signs with it: then they verify that session's deliveries alone, and
            those under ``"*"`` any, forwarded ones too.

    Raises:
        ConfigurationError: There is no secret, or an empty one, which any client could sign with,
            or one that is not a text. To accept unsigned deliveries, do not call this.
    """
    return Signers(secrets).verify(raw, headers)


_EMPTY = "waha_secrets is empty: pass the key that WAHA's session signs with (hmac.key)"


def _keys_of(secrets: Secrets) -> list[bytes]:
    given = [secrets] if isinstance(secrets, str | SecretStr) else list(secrets or ())
    keys = [secret_bytes(key, "waha_secrets") for key in given]
    if not keys or not all(keys):
        raise ConfigurationError(_EMPTY)
    # WAHA may have got the secret with the same line break at its end: either spelling signs.
    as_set = [secret_bytes(key, "waha_secrets", trimmed=False) for key in given]
    return list(dict.fromkeys([*keys, *as_set]))


def _offered(headers: Mapping[str, str]) -> str | None:
    """The one signature in the headers; None without one, or where it can be none."""
    algorithm = _header(headers, "x-webhook-hmac-algorithm")
    signature = _header(headers, "x-webhook-hmac")
    if len(signature) != 1 or any(name.lower() != "sha512" for name in algorithm):
        return None
    return signature[0] if _SIGNATURE.fullmatch(signature[0]) else None


def _session_of(raw: bytes) -> str | None:
    """The session of a delivery of WAHA's; None for any other body."""
    try:
        body = parse_json(raw)
    except InvalidEventError:
        return None
    session = body.get("session") if isinstance(body, dict) and "event" in body else None
    return session if isinstance(session, str) else None


def _header(headers: Mapping[Any, Any], name: str) -> list[str]:
    """Every value of the header; frameworks differ in what else they put into their mappings."""
    return [
        value if isinstance(value, str) else ""
        for key, value in headers.items()
        if isinstance(key, str) and key.lower() == name
    ]
