"""Whether an API server is worth asking, tenant by tenant."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow
from langchain_convsync.errors import APIError
from langchain_convsync.settings import CallTarget

T = TypeVar("T")
#: Tells for which tenant and bot a server is asked; only a silent or failing one is a question.
Whose: TypeAlias = Callable[[], CallTarget]

#: Failures in a row after which a server is left alone for a while.
PATIENCE = 3


@dataclass(slots=True)
class _Silence:
    """A server that does not answer; ``trying`` while one request finds out if it does again."""

    failures: int = 0
    seconds: float = 0.0
    until: float = 0.0
    trying: bool = False


class Breaker:
    """Leaves a server alone that does not answer for a tenant, and now and then tries again.

    After :data:`PATIENCE` failures in a row (no answer, or 5xx) everybody waits; then one request
    goes, and what becomes of it decides: an answer ends the silence, a failure doubles it. It lives
    in this process only: what other processes find out, they find out themselves.

    Args:
        first: Seconds of the first silence.
        longest: Seconds of the longest one.
        clock: Seconds that only ever grow.
    """

    def __init__(
        self, *, first: float, longest: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._first, self._longest, self._clock = first, longest, clock
        self._silent: dict[CallTarget, _Silence] = {}
        self._lock = threading.Lock()

    def wait(self, whose: Whose) -> float:
        """Seconds to leave the server alone; at 0.0 the caller may ask, now."""
        if not self._silent:
            return 0.0
        with self._lock:
            silence, now = self._silent.get(whose()), self._clock()
            if silence is None or silence.failures < PATIENCE:
                return 0.0
            if now < silence.until:
                telemetry.count("requests_held")
                return silence.until - now
            # Others wait meanwhile, but not for ever: the one that goes may never come back.
            silence.trying, silence.until = True, now + silence.seconds
            return 0.0

    def watched(self, whose: Whose, request: Flow[T]) -> Flow[T]:
        """A request whose end is noted."""
        try:
            answer = yield from request
        except APIError as error:
            if error.status_code is None or error.status_code >= 500:
                self._failed(whose)
            else:
                self._answered(whose)
            raise
        self._answered(whose)
        return answer

    def _answered(self, whose: Whose) -> None:
        if self._silent:
            with self._lock:
                self._silent.pop(whose(), None)

    def _failed(self, whose: Whose) -> None:
        with self._lock:
            silence = self._silent.setdefault(whose(), _Silence())
            silence.failures += 1
            opens = silence.failures == PATIENCE
            if not (opens or silence.trying):
                return  # it was on its way when the silence began: that tells nothing new
            telemetry.count("silences")
            silence.trying = False
            silence.seconds = min(self._longest, silence.seconds * 2 or self._first)
            silence.until = self._clock() + silence.seconds
