"""Calling the API server: one configuration, one retry loop, within one deadline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

import httpx

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, Io, monotonic, sleep
from langchain_convsync._platform import chance, unique
from langchain_convsync.client import _outgoing as outgoing
from langchain_convsync.client._connections import Connections
from langchain_convsync.client._exchange import Method, Outcome, Request
from langchain_convsync.client._keys import Keys
from langchain_convsync.client._retry import pause
from langchain_convsync.errors import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    ConfigurationError,
)
from langchain_convsync.settings import (
    APIKey,
    CallTarget,
    ServerProfile,
    Transport,
    base_url_setting,
)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How time passes between attempts; tests pass their own.

    Attributes:
        clock: Seconds that only ever grow.
        sleep: Lets seconds pass.
        randomness: A fresh random number, 0.0 up to 1.0.
    """

    clock: Callable[[], float] = monotonic
    sleep: Callable[[float], Io[None]] = sleep
    randomness: Callable[[], float] = chance


class Caller:
    """Sends requests to one API server; the arguments are those of ``ConvSyncClient``."""

    def __init__(
        self,
        base_url: str | None,
        *,
        api_key: APIKey,
        timeout: float,
        max_retries: int,
        profile: ServerProfile,
        transport: Transport | None,
        trust_env: bool | None,
        http_client: httpx.Client | httpx.AsyncClient | None,
        pace: Pace,
        allow_http: Iterable[str] | None = None,
    ) -> None:
        self.base_url = base_url_setting(base_url, allow_http=allow_http)
        self.address = outgoing.mount_point(self.base_url, profile.prefix)
        self._keys = Keys(api_key)
        self._timeout = seconds(timeout)
        self._attempts = _attempts(max_retries + 1)
        self._idempotency_keys = profile.idempotency_keys
        self._pace = pace
        self.connections = Connections(
            self.base_url, http_client, transport=transport, trust_env=trust_env
        )

    @property
    def only_awaits(self) -> bool:
        """Whether no blocking call can be served."""
        return self.connections.only_awaits or self._keys.only_awaits

    def request(
        self,
        method: Method,
        path: str,
        body: bytes | None = None,
        idempotency_key: str | None = None,
    ) -> Request:
        """A request for a path below the mount point; all attempts of a call send the same one."""
        if body is not None:
            idempotency_key = idempotency_key or unique()
        return Request(
            method=method,
            url=self.address + path,
            headers=outgoing.headers(idempotency_key, body=body is not None),
            content=body,
        )

    def until(self, timeout: float | None = None) -> float:
        """When a call that starts now must be over."""
        return self._pace.clock() + (self._timeout if timeout is None else seconds(timeout))

    def left(self, until: float) -> float:
        """Seconds until then; may be negative."""
        return until - self._pace.clock()

    def ask(
        self,
        request: Request,
        read: Callable[[Outcome], T],
        *,
        target: CallTarget | None,
        operation: str,
        until: float,
        attempts: int | None = None,
    ) -> Flow[T]:
        """Send a request until an answer can be read, no repetition may help, or time is up.

        Each attempt has a key of its own, by ``target``; without a target none has one.
        """
        self.connections.require_open()
        limit = self._attempts if attempts is None else _attempts(attempts)
        attempt, unclear, renewed = 1, False, target is None or not self._keys.may_change
        while True:
            with telemetry.timed("api_request", operation=operation, status="none") as timing:
                try:
                    keyed = yield from self._with_key(request, target, until)
                    answer = read((yield from self.connections.exchange(keyed, self.left(until))))
                    timing.labels["status"] = "2xx"
                    return answer
                except APIError as failed:
                    error = failed  # handled below, so that it is not a context of the next one
                    timing.labels["status"] = _status(error)
                    timing.failed(error)
            if error.status_code == 401 and not renewed and self.left(until) > 0:
                renewed = True  # a token that ends on its way: nothing was applied
                telemetry.count("api_retries", method=request.method, error=type(error).__name__)
                continue
            seconds = pause(
                error,
                method=request.method,
                attempt=attempt,
                attempts=limit,
                left=self.left(until),
                randomness=self._pace.randomness(),
                idempotency_keys=self._idempotency_keys,
            )
            # A clear refusal of the last attempt does not tell whether an earlier one was applied.
            unclear = error.ambiguous = unclear or error.ambiguous
            if seconds is None:
                raise error
            telemetry.count("api_retries", method=request.method, error=type(error).__name__)
            yield from self._pace.sleep(seconds)
            attempt += 1

    def _with_key(self, request: Request, target: CallTarget | None, until: float) -> Flow[Request]:
        key = None if target is None else (yield from self._keys.of(target, self.left(until)))
        if key is None:
            return request
        return replace(request, headers={**request.headers, "Authorization": f"Bearer {key}"})


def _status(error: APIError) -> str:
    """What metrics call an answer that is missing, or cannot be used."""
    if isinstance(error, APIConnectionError):
        return "timeout" if isinstance(error, APITimeoutError) else "connection"
    if error.status_code is None or error.status_code < 300:
        return "invalid"
    return f"{error.status_code // 100}xx"


def seconds(timeout: float) -> float:
    """A timeout of a caller, once it is one."""
    if not (math.isfinite(timeout) and timeout > 0):
        message = "timeout must be a positive number of seconds"
        raise ConfigurationError(message)
    return timeout


def _attempts(number: int) -> int:
    if number < 1:
        message = "max_retries must be 0 or more, and attempts 1 or more"
        raise ConfigurationError(message)
    return number
