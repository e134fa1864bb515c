"""Who calls, and whose conversations they may see: API keys and JWTs, bound to tenants."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Self

from pydantic import SecretStr

from langchain_convsync._checked import checked
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.server.jwts import JwtRules

#: The tenants of a key or token: their subdomains, or all of them.
Tenants = Collection[str] | Literal["*"]

SHORTEST_KEY = 16
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)


class Caller(NamedTuple):
    """Who asks.

    Attributes:
        id: The same for every request of this caller; None where no key is needed.
        tenants: Whose conversations exist for this caller; None for all.
    """

    id: str | None
    tenants: frozenset[str] | None


#: Every caller of a server without keys.
UNIDENTIFIED = Caller(None, None)


@checked
@dataclass(frozen=True)
class ApiKey:
    """A key that agents send as ``Authorization: Bearer …``; the server keeps its hash only.

    Args:
        name: Tells keys apart. One that replaces another may keep its name.
        sha256: The key's SHA-256 as 64 hex digits.
        tenants: The subdomains whose conversations it may see, or ``"*"`` for all.

    Raises:
        ConfigurationError: There is no name or no tenant, or the hash is not a SHA-256.
    """

    name: str
    sha256: str = field(repr=False)
    tenants: Tenants

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigurationError('name of an API key is empty: give it one such as "agent-abc"')
        if not _DIGEST.fullmatch(self.sha256):
            raise ConfigurationError(
                "sha256 must be the 64 lower-case hex digits of the key's hash"
            )
        object.__setattr__(self, "tenants", _checked(self.tenants))

    @classmethod
    def of(cls, key: str | SecretStr, *, name: str, tenants: Tenants) -> Self:
        """The key itself, hashed at once.

        Raises:
            ConfigurationError: It is shorter than 16 characters, or cannot stand in a header.
        """
        secret = key.get_secret_value() if isinstance(key, SecretStr) else key
        if len(secret) < SHORTEST_KEY or not re.fullmatch(r"[!-~]+", secret):
            message = (
                f"an API key is at least {SHORTEST_KEY} characters of ASCII without spaces: make "
                'one with python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
            raise ConfigurationError(message)
        return cls(name, hashlib.sha256(secret.encode()).hexdigest(), tenants)

    @property
    def caller(self) -> Caller:
        """Who calls with this key."""
        return Caller(_id("key", self.name), _known(self.tenants))


class Keyring:
    """Every key and token that the server accepts.

    Args:
        keys: API keys.
        jwt: What tokens must be like; None accepts none.

    Raises:
        ConfigurationError: Two keys have the same name or the same hash.
    """

    def __init__(self, keys: Iterable[ApiKey] = (), jwt: JwtRules | None = None) -> None:
        self._keys = tuple(keys)
        self._jwt = jwt
        for each in ({key.name for key in self._keys}, {key.sha256 for key in self._keys}):
            if len(each) < len(self._keys):
                raise ConfigurationError("two API keys have the same name, or are the same key")

    def caller_of(self, authorization: Sequence[str]) -> Caller | None:
        """Who sent these ``Authorization`` headers; None for an unknown one."""
        bearer = _BEARER.fullmatch(authorization[0]) if len(authorization) == 1 else None
        return None if bearer is None else self._by_key(bearer[1]) or self._by_token(bearer[1])

    def _by_key(self, offered: str) -> Caller | None:
        digest = hashlib.sha256(offered.encode("utf-8", "surrogatepass")).hexdigest()
        # All of them, always, so that the time taken says nothing of which one fits.
        fitting = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        return fitting[0].caller if fitting else None

    def _by_token(self, offered: str) -> Caller | None:
        claims = self._jwt.claims(offered) if self._jwt else None
        if claims is None:
            return None
        try:
            tenants = _known(_checked(claims["tenants"]))
        except ConfigurationError:
            return None
        issuer = json.dumps(claims.get("iss"))
        if (subject := claims.get("sub")) is not None:
            return Caller(_id("jwt by subject", issuer, json.dumps(subject)), tenants)
        return Caller(_id("jwt by tenants", issuer, *sorted(tenants or "*")), tenants)


def _checked(tenants: object) -> Tenants:
    if tenants == "*":
        return "*"
    if isinstance(tenants, list | tuple | set | frozenset):
        names = list(tenants)
        if names and all(map(_can_be_a_tenant, names)):
            return frozenset(names)
    raise ConfigurationError('tenants must be a list of subdomains, or "*" for all')


def _can_be_a_tenant(name: object) -> bool:
    # A database refuses to be asked for half a surrogate pair, or for NUL.
    return isinstance(name, str) and name not in {"", "*"} and name.isprintable()


def _known(tenants: Tenants) -> frozenset[str] | None:
    return None if tenants == "*" else frozenset(tenants)


def _id(*parts: str) -> str:
    spelled = "\0".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(spelled.encode("utf-8", "surrogatepass")).hexdigest()
