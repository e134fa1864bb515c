"""Whether an API server is worth asking, tenant by tenant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from langchain_convsync import _forks, _machine, telemetry
from langchain_convsync._flow import Flow, monotonic
from langchain_convsync.errors import APIConnectionError, APIError
from langchain_convsync.settings import CallTarget

T = TypeVar("T")
#: Tells for which tenant and bot a server is asked; only looked at while one fails.
Target: TypeAlias = Callable[[], CallTarget]

#: Failures in a row after which a server is left alone for a while.
FAILURES_TO_OPEN = 3


@dataclass(slots=True)
class _OpenCircuit:
    """A server that does not answer; ``trying`` while one request finds out if it does again."""

    failures: int = 0
    seconds: float = 0.0
    until: float = 0.0
    trying: bool = False


def is_away(error: APIError) -> bool:
    """Whether the API server did not answer: not at all, by half, with a proxy's page, or 5xx."""
    if isinstance(error, APIConnectionError) or error.foreign:
        return True
    return error.status_code is None or error.status_code >= 500


class CircuitBreaker:
    """Leaves a server alone that does not answer for a tenant, and now and then tries again.

    After :data:`FAILURES_TO_OPEN` failures in a row (see :func:`is_away`) the circuit opens: all
    requests wait; then one goes, and what becomes of it decides: an answer closes the circuit, a
    failure doubles the wait. It lives in this process only: others find out for themselves.

    Args:
        first: Seconds for which a circuit is open at first.
        longest: Seconds for which one is open at most.
        clock: Seconds that only ever grow.
    """

    def __init__(
        self, *, first: float, longest: float, clock: Callable[[], float] = monotonic
    ) -> None:
        self._first, self._longest, self._clock = first, longest, clock
        self._circuits: dict[CallTarget, _OpenCircuit] = {}
        self._lock = _forks.lock()

    def wait(self, target: Target) -> float:
        """Seconds to leave the server alone; at 0.0 the caller may ask, now."""
        if not self._circuits:
            return 0.0
        with self._lock:
            circuit, now = self._circuits.get(target()), self._clock()
            if circuit is None or circuit.failures < FAILURES_TO_OPEN:
                return 0.0
            if now < circuit.until:
                telemetry.count("requests_held")
                return circuit.until - now
            # Others wait meanwhile, but not for ever: the one that goes may never come back.
            circuit.trying, circuit.until = True, now + circuit.seconds
            return 0.0

    def guarded(self, target: Target, request: Flow[T]) -> Flow[T]:
        """A request whose end is noted."""
        try:
            answer = yield from request
        except APIError as error:
            if _machine.lacking(error):
                pass  # it was not asked
            elif is_away(error):
                self._failed(target)
            else:
                self._answered(target)
            raise
        self._answered(target)
        return answer

    def _answered(self, target: Target) -> None:
        if self._circuits:
            with self._lock:
                self._circuits.pop(target(), None)

    def _failed(self, target: Target) -> None:
        with self._lock:
            circuit = self._circuits.setdefault(target(), _OpenCircuit())
            circuit.failures += 1
            opens = circuit.failures == FAILURES_TO_OPEN
            if not (opens or circuit.trying):
                return  # it was on its way when the circuit opened: that tells nothing new
            telemetry.count("circuits_opened")
            circuit.trying = False
            circuit.seconds = min(self._longest, circuit.seconds * 2 or self._first)
            circuit.until = self._clock() + circuit.seconds
