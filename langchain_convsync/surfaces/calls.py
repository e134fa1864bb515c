"""What is kept of tools' calls, so that a run of an agent that begins anew does not act again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_convsync import _forks
from langchain_convsync._flow import Flow
from langchain_convsync.errors import (
    EventInProgressError,
    FencedError,
    StoreUnavailableError,
    UnknownOutcomeError,
)
from langchain_convsync.stores.base import Acquired, EventStore, KeptCall, Lease, new_token
from langchain_convsync.stores.claims import claim, finish, give_back

#: Seconds after which the call of a process that died is of unknown outcome, outside of turns.
LEASE = 30.0
#: Keeps tools' calls apart from what ``once`` does for the same event.
_NAMESPACE = "once_tools"


class TurnStoreUnavailableError(StoreUnavailableError):
    """A turn's own store did not answer while its agent ran: the agent did not fail."""


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
        digest = digest_of(tool, arguments)
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
            TurnStoreUnavailableError, StoreError: The store cannot tell; the tool must not be run.
        """
        if self.held is not None:
            raise self.held
        try:
            kept = yield from self._store.begin_call(
                self._lease, self._event_keys, name, token=self._token
            )
        except StoreUnavailableError as error:
            raise TurnStoreUnavailableError(str(error)) from error
        if kept is None:
            raise _fenced()
        return kept

    def is_begun_here(self, kept: KeptCall) -> bool:
        """Whether it was this run that began the call."""
        return kept.by == self._token

    def left_open(self, name: str) -> Flow[None]:
        """The call ends here without a result; its outcome stays unknown."""
        del name  # as the store has it already
        yield from ()

    def raised(self, name: str) -> Flow[None]:
        """The tool raised: nobody can tell whether it acted."""
        yield from self.left_open(name)

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


class EventCalls:
    """A call of a tool that answers an event outside of turns: it is a claim of its own.

    Args:
        store: Where the claims are kept.
        event: Names the event.
        number: How many-th of its kind the call is among those that answer the event.
        failures: Attempts of this process that failed, and what they were an attempt at: a retry in
            the same run may do it again.
    """

    held: UnknownOutcomeError | None = None

    def __init__(
        self, store: EventStore, event: str, number: int, failures: MutableMapping[str, object]
    ) -> None:
        self._store, self._event, self._number, self._failures = store, event, number, failures
        self._token = new_token()
        self._occasion: object = None
        self._acquired: Acquired | None = None

    def name(self, tool: str, arguments: Mapping[str, Any], occasion: object) -> str:
        """As :meth:`TurnCalls.name`."""
        self._occasion, attempt = occasion, 1
        known = f"{digest_of(tool, arguments)}.{self._number}"
        while self._failures.get(self._key(f"{known}.{attempt}", "error")) is occasion:
            attempt += 1
        return f"{known}.{attempt}"

    def failed(self, name: str) -> None:
        """As :meth:`TurnCalls.failed`."""
        self._failures[self._key(name, "error")] = self._occasion

    def begin(self, name: str) -> Flow[KeptCall]:
        """As :meth:`TurnCalls.begin`.

        Raises:
            EventInProgressError: Another process is at it.
            StoreError: The store cannot tell; the tool must not be run.
        """
        event = self._key(name)
        accepted = yield from claim(self._store, event, namespace=_NAMESPACE, lease=LEASE)
        if accepted.state == "done":
            return KeptCall(by="", result=accepted.outcome or "")
        if (acquired := accepted.acquired) is None:
            message = "another process has begun this call of a tool: deliver the event again later"
            raise EventInProgressError(message)
        self._acquired = acquired
        [begun] = acquired.events
        is_first = begun.starts == 1 and not begun.errors
        is_retry = self._failures.get(self._key(name, "raised")) is self._occasion
        return KeptCall(by=self._token if is_first or is_retry else "")

    def is_begun_here(self, kept: KeptCall) -> bool:
        """As :meth:`TurnCalls.is_begun_here`."""
        return kept.by == self._token

    def left_open(self, name: str) -> Flow[None]:
        """As :meth:`TurnCalls.left_open`."""
        del name
        if self._acquired is not None:
            yield from self._store.release(self._acquired.lease, failed=True)

    def raised(self, name: str) -> Flow[None]:
        """As :meth:`TurnCalls.raised`."""
        self._failures[self._key(name, "raised")] = self._occasion
        yield from self.left_open(name)

    def end(self, name: str, result: str | None) -> Flow[None]:
        """As :meth:`TurnCalls.end`."""
        del name
        if self._acquired is None:
            return  # it was done before, and what it came to is lost already
        if result is None:
            yield from give_back(self._store, self._acquired)
        else:
            yield from finish(self._store, self._acquired, result)

    def _key(self, name: str, *more: str) -> str:
        return json.dumps([self._event, name, *more])


def number_of(called: Mapping[str, Any], messages: Sequence[BaseMessage]) -> int:
    """How many-th of its kind a call is among those since the customer's last words.

    Args:
        called: The call, as the model's message tells it.
        messages: The agent's messages so far.
    """
    digest, number = digest_of(called["name"], called["args"]), 0
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            break
        for each in reversed(message.tool_calls if isinstance(message, AIMessage) else ()):
            counts = number > 0 or each["id"] == called["id"]
            number += counts and digest_of(each["name"], each["args"]) == digest
    return max(number, 1)


def _fenced() -> FencedError:
    message = "another process took the turn over while a tool was called"
    return FencedError(message)


def digest_of(tool: str, arguments: Mapping[str, Any]) -> str:
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
