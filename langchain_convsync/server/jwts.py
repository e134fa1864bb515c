"""JSON Web Tokens: signed by the issuer of access, and worth nothing once they expired."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jwt
from pydantic import SecretStr

from langchain_convsync._checked import checked
from langchain_convsync._forks import Unpicklable
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.settings import secret_bytes

SHORTEST_SECRET = 32


@checked
@dataclass(frozen=True, kw_only=True)
class JwtRules(Unpicklable):
    """What a token must be like: signed this way, with ``exp`` and ``tenants``.

    ``tenants`` is a list of subdomains, or ``"*"``. ``sub`` tells callers apart.

    Args:
        key: For HS256 the secret, at least 32 bytes; else the public key in PEM.
        algorithm: The only one that is accepted, whatever a token says of itself.
        issuer: What ``iss`` must be; None accepts any.
        audience: What ``aud`` must be or hold; None accepts any.

    Raises:
        ConfigurationError: The key does not fit the algorithm.
    """

    key: str | SecretStr = field(repr=False)
    algorithm: Literal["HS256", "RS256", "ES256"] = "HS256"
    issuer: str | None = None
    audience: str | None = None

    def __post_init__(self) -> None:
        if self.algorithm == "HS256" and len(self._key) < SHORTEST_SECRET:
            message = f"the secret of the JWTs is shorter than {SHORTEST_SECRET} bytes"
            raise ConfigurationError(message)
        try:
            jwt.get_algorithm_by_name(self.algorithm).prepare_key(self._key)
        except NotImplementedError as error:
            message = f"{self.algorithm} needs cryptography: pip install 'pyjwt[crypto]'"
            raise ConfigurationError(message) from error
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            wanted = "a secret, no PEM" if self.algorithm == "HS256" else "a public key in PEM"
            message = f"the key of the JWTs does not fit {self.algorithm}: it needs {wanted}"
            raise ConfigurationError(message) from None

    @property
    def _key(self) -> bytes:
        return secret_bytes(self.key, "key of the JWTs")

    def claims(self, token: str) -> Mapping[str, Any] | None:
        """What a token says; None for one that is not valid, or not yet, or no more."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=[self.algorithm],
                issuer=self.issuer,
                audience=self.audience,
                options={"require": ["exp", "tenants"], "verify_aud": self.audience is not None},
            )
            json.dumps(claims, ensure_ascii=False).encode()  # half a surrogate pair has no UTF-8
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError):
            return None  # whatever a stranger wrote into it
        return claims
