"""The API key of each attempt: a fixed one, or whatever a callable gives right then.

Tokens expire, in the middle of a turn too. So the callable is asked before every attempt, and once
more when the server does not accept what it gave.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

from pydantic import SecretStr

from langchain_convsync._flow import Flow, Io, is_async
from langchain_convsync.client._outgoing import header_value
from langchain_convsync.errors import AuthenticationError, ConfigurationError, loggable
from langchain_convsync.settings import APIKey, CallTarget, optional_setting

_Choose: TypeAlias = Callable[[CallTarget], Any]
_P = inspect.Parameter
_POSITIONAL = (_P.POSITIONAL_ONLY, _P.POSITIONAL_OR_KEYWORD)
_NAME = "api_key (or CONVSYNC_API_KEY)"
_IS_ASYNC = (
    "api_key= is an async callable, which blocking calls cannot await: "
    "use AsyncConvSyncClient and await, or pass a callable that returns the key"
)


def require_blocking(api_key: APIKey) -> None:
    """Refuse a callable that has to be awaited.

    Raises:
        ConfigurationError: It is one.
    """
    if is_async(api_key):
        raise ConfigurationError(_IS_ASYNC)


class Keys:
    """What proves to the API server who asks.

    Args:
        api_key: As for ``ConvSyncClient``.

    Attributes:
        only_awaits: Whether it is an async callable.

    Raises:
        ConfigurationError: No header can carry the key, or the callable wants other arguments.
    """

    def __init__(self, api_key: APIKey) -> None:
        self.only_awaits = is_async(api_key)
        self._choose = _chooser(api_key) if callable(api_key) else None
        self._fixed: SecretStr | None = None
        if not callable(api_key):
            api_key = optional_setting(None, "CONVSYNC_API_KEY") if api_key is None else api_key
            self._fixed = (
                None if api_key is None else SecretStr(header_value(_text(api_key), _NAME))
            )

    @property
    def may_change(self) -> bool:
        """Whether asking again may give another key."""
        return self._choose is not None

    def of(self, target: CallTarget, seconds: float) -> Flow[str | None]:
        """The key for a call; None where there is none.

        Args:
            target: What the call is about.
            seconds: How long an async callable may take.

        Raises:
            AuthenticationError: The callable gave none, or none that can be sent.
        """
        if self._choose is None:
            return None if self._fixed is None else self._fixed.get_secret_value()
        return (yield from Io(_asked, _awaited, self._choose, target, seconds))


def _asked(choose: _Choose, target: CallTarget, _seconds: float) -> str:
    try:
        given = choose(target)
    except Exception as error:
        raise _failed(error) from error
    if inspect.iscoroutine(given):
        given.close()
    if inspect.isawaitable(given):
        raise AuthenticationError(_IS_ASYNC)
    return _sendable(given)


async def _awaited(choose: _Choose, target: CallTarget, seconds: float) -> str:
    try:
        given = choose(target)
        if inspect.isawaitable(given):
            async with asyncio.timeout(seconds):
                given = await given
    except Exception as error:
        raise _failed(error) from error
    return _sendable(given)


def _failed(error: Exception) -> AuthenticationError:
    """The callable is the user's, and so is its error: it is named, its text is not repeated."""
    told = loggable(error)
    return AuthenticationError(f"there is no API key: the callable api_key= raised {told}")


def _sendable(given: Any) -> str:
    text = _text(given)
    try:
        return header_value(text if isinstance(text, str) else "", "what api_key= gives")
    except ConfigurationError as error:
        message = f"there is no API key: {error}"
    raise AuthenticationError(message)


def _text(key: Any) -> Any:
    text = key.get_secret_value() if isinstance(key, SecretStr) else key
    return text.strip() if isinstance(text, str) else text


def _chooser(choose: Callable[..., Any]) -> _Choose:
    """The callable as one of a target, which token providers of other libraries do not take."""
    try:
        parameters = inspect.signature(choose).parameters.values()
    except (ValueError, TypeError):  # some builtins tell none
        return choose
    wanted = [p.name for p in parameters if p.kind in _POSITIONAL]
    required = [p for p in parameters if p.kind in _POSITIONAL and p.default is _P.empty]
    by_name = [p for p in parameters if p.kind is _P.KEYWORD_ONLY and p.default is _P.empty]
    if len(required) > 1 or by_name:
        message = "api_key= must be a callable of a CallTarget, or of nothing"
        raise ConfigurationError(message)
    if required or wanted[:1] == ["target"] or any(p.kind is _P.VAR_POSITIONAL for p in parameters):
        return choose
    return lambda _target: choose()
