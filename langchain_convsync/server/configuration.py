"""What a server's configuration file says, and what is wrong with it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr, ValidationError

from langchain_convsync._forks import Unpicklable
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.server.access import ApiKey
from langchain_convsync.server.configuration_file import (
    ForwardTable,
    JwtTable,
    KeyTable,
    ServerFile,
    complaint,
)
from langchain_convsync.server.customers import Tenant
from langchain_convsync.server.forwarder import Forwarding
from langchain_convsync.server.jwts import JwtRules
from langchain_convsync.server.limits import RateLimit

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Configuration(Unpicklable):
    """Everything that ``convsync serve`` can be told; the arguments of ``create_reference_api``."""

    host: str = "127.0.0.1"
    port: int = 8000
    database_url: str = field(default="sqlite://", repr=False)
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    waha_secrets: tuple[SecretStr, ...] | None = None
    quirks: tuple[str, ...] = ()
    api_keys: tuple[ApiKey, ...] = ()
    jwt: JwtRules | None = None
    rate_limit: RateLimit | None = None
    forwarding: Forwarding | None = None
    trusted_proxies: tuple[str, ...] = ()
    answer_cap: int | None = None

    def __post_init__(self) -> None:
        proxies(self.trusted_proxies)

    @classmethod
    def read(cls, path: Path, environment: Mapping[str, str] = os.environ) -> Configuration:
        """What a TOML file says.

        Args:
            path: The file; ``public_key_file`` is relative to it.
            environment: Holds the secrets that it names.

        Raises:
            ConfigurationError: It cannot be read, or something in it is wrong: the message names
                the key, and what to write instead.
        """
        return _Reader(path, environment).configuration()


def proxies(given: Sequence[str]) -> tuple[str, ...]:
    """Addresses and networks of proxies.

    Raises:
        ConfigurationError: One is neither.
    """
    try:
        for each in given:
            ip_network(each)
    except ValueError:
        message = (
            "a trusted proxy is an address or a network, such as 127.0.0.1 or 10.0.0.0/8: name "
            "those that stand in front of this server"
        )
        raise ConfigurationError(message) from None
    return tuple(given)


class _Reader:
    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self._path = path
        self._environment = environment

    def configuration(self) -> Configuration:
        said = self._said()
        given: dict[str, Any] = {"host": said.host, "port": said.port}
        given["answer_cap"] = said.answer_cap
        given["database_url"] = said.database_url
        if said.database_url_env:
            given["database_url"] = self._secret("database_url_env", said.database_url_env)
        return Configuration(
            **{name: value for name, value in given.items() if value is not None},
            tenants={
                session: self._made(f"sessions.{session}", Tenant, each.subdomain, each.bot_id)
                for session, each in said.sessions.items()
            },
            waha_secrets=self._secrets("waha.secret_env", said.waha.secret_env)
            if said.waha
            else None,
            quirks=tuple(said.quirks),
            trusted_proxies=self._made("trusted_proxies", proxies, said.trusted_proxies),
            api_keys=tuple(self._key(f"keys[{n}]", key) for n, key in enumerate(said.keys)),
            jwt=self._jwt(said.jwt) if said.jwt else None,
            rate_limit=self._made("limits", RateLimit, **dict(said.limits))
            if said.limits
            else None,
            forwarding=self._forwarding(said.forward) if said.forward else None,
        )

    def _said(self) -> ServerFile:
        try:
            return ServerFile.model_validate(tomllib.loads(self._path.read_text("utf-8")))
        except ValidationError as error:  # it repeats the values, so it is not a cause of ours
            problem = complaint(error)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise ConfigurationError(f"{self._path.name} cannot be read: {reason}") from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"{self._path.name} is not TOML: {error}") from None
        raise ConfigurationError(f"{self._path.name}: {problem}")

    def _key(self, place: str, said: KeyTable) -> ApiKey:
        if (said.sha256 is None) == (said.env is None):
            message = "needs either sha256, the key's hash, or env, the variable that holds the key"
            raise self._wrong(place, message)
        named = {"name": said.name, "tenants": said.tenants}
        if said.env is not None:
            return self._made(place, ApiKey.of, self._secret(f"{place}.env", said.env), **named)
        return self._made(place, ApiKey, sha256=said.sha256, **named)

    def _jwt(self, said: JwtTable) -> JwtRules:
        if (said.secret_env is None) == (said.public_key_file is None):
            message = "needs either secret_env (HS256) or public_key_file (RS256, ES256)"
            raise self._wrong("jwt", message)
        if said.secret_env is not None:
            key = self._secret("jwt.secret_env", said.secret_env)
        else:
            key = self._text("jwt.public_key_file", str(said.public_key_file))
        rest = said.model_dump(exclude={"secret_env", "public_key_file"})
        return self._made("jwt", JwtRules, key=SecretStr(key), **rest)

    def _forwarding(self, said: ForwardTable) -> Forwarding:
        secret = SecretStr(self._secret("forward.secret_env", said.secret_env))
        return self._made(
            "forward", Forwarding, url=said.url, secret=secret, timeout=float(said.timeout)
        )

    def _text(self, place: str, name: str) -> str:
        try:
            return (self._path.parent / name).read_text("utf-8")
        except (OSError, UnicodeError) as error:
            raise self._wrong(place, "the file cannot be read") from error

    def _secrets(self, place: str, names: str | list[str]) -> tuple[SecretStr, ...]:
        listed = [names] if isinstance(names, str) else names
        return tuple(SecretStr(self._secret(place, name)) for name in listed)

    def _secret(self, place: str, name: str) -> str:
        if value := self._environment.get(name, "").strip():
            return value
        raise self._wrong(place, f"the environment variable {name} is not set")

    def _made(self, place: str, make: Callable[..., T], *args: Any, **settings: Any) -> T:
        with self._placed(place):
            return make(*args, **settings)

    @contextmanager
    def _placed(self, place: str) -> Iterator[None]:
        try:
            yield
        except ConfigurationError as error:
            raise self._wrong(place, str(error)) from error

    def _wrong(self, place: str, message: str) -> ConfigurationError:
        return ConfigurationError(f"{self._path.name}: {place}: {message}")
