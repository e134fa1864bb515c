"""What a turn keeps of its tools' calls, so that a run that begins anew does not act again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_convsync import _forks
from langchain_convsync._flow import Flow
from langchain_convsync.errors import FencedError, UnknownOutcomeError
from langchain_convsync.stores.base import EventStore, KeptCall, Lease, new_token


class TurnCalls:
    """The calls of one run of a turn's agent, kept in the store under the turn's lease.

    Args:
        store: The turn's store.
        lease: The turn's lease: who lost it can neither begin a call nor keep its result.
        event_keys: The turn's events, the head first.

    Attributes:
        held: Why an operator has to decide before the turn goes on.
    """

    def __init__(self, store: EventStore, lease: Lease, event_keys: Sequence[str]) -> None:
        self.held: UnknownOutcomeError | None = None
        self._store, self._lease, self._event_keys = store, lease, tuple(event_keys)
        self._token = new_token()  # of this run
        self._numbers: dict[str, int] = {}
        self._named: dict[tuple[int, str], tuple[object, str]] = {}
        self._lock = _forks.lock()  # an agent calls its tools in parallel

    def name(self, tool: str, arguments: Mapping[str, Any], occasion: object) -> str:
        """What a call is known by in whichever run: tool, arguments, how many-th in the run.

        Args:
            tool: The tool's name.
            arguments: As the model gave them.
            occasion: The same object for every attempt at one call.
        """
        digest = _digest(tool, arguments)
        place = (id(occasion), digest)
        with self._lock:
            if place not in self._named:
                number = self._numbers[digest] = self._numbers.get(digest, 0) + 1
                self._named[place] = (occasion, f"{digest}.{number}")  # kept alive for its id
            return self._named[place][1]

    def failed(self, name: str) -> None:
        """The call's result is an error: another attempt at it is a call of its own."""
        with self._lock:
            self._named = {place: it for place, it in self._named.items() if it[1] != name}

    def begin(self, name: str) -> Flow[KeptCall]:
        """Note that a call begins; what is kept of it already.

        Raises:
            FencedError: Another process took the turn over.
            UnknownOutcomeError: The turn is held for an operator since.
            StoreError: The store cannot tell; the tool must not be run.
        """
        if self.held is not None:
            raise self.held
        kept = yield from self._store.begin_call(
            self._lease, self._event_keys, name, token=self._token
        )
        if kept is None:
            raise _fenced()
        return kept

    def is_begun_here(self, kept: KeptCall) -> bool:
        """Whether it was this run that began the call."""
        return kept.by == self._token

    def end(self, name: str, result: str | None) -> Flow[None]:
        """Keep what a call came to; None takes back that it began.

        Raises:
            FencedError: Another process took the turn over; nothing was kept.
            StoreError: The store does not answer; nothing may have been kept.
        """
        kept = yield from self._store.end_call(
            self._lease, self._event_keys[0], name, token=self._token, result=result
        )
        if not kept:
            raise _fenced()


def _fenced() -> FencedError:
    message = "another process took the turn over while a tool was called"
    return FencedError(message)


def _digest(tool: str, arguments: Mapping[str, Any]) -> str:
    """A digest that is the same for the same call, however a model writes it."""
    written = json.dumps([tool, _canonical(arguments)], sort_keys=True, default=_kind)
    return hashlib.sha256(written.encode()).hexdigest()[:32]


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 25.0 is 25
    return value


def _kind(value: object) -> str:
    return type(value).__name__  # no model writes such arguments; an address would differ each time
