"""The engine's guards, each with a way to take it out: a run without it must go red.

They are patched inside the worker process. A guard that has moved fails loudly here.
"""

from __future__ import annotations

import hashlib
import importlib
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from langchain_convsync._flow import Flow, Io, monotonic
from langchain_convsync.client._connections import Connections
from langchain_convsync.client._exchange import Outcome, Request
from langchain_convsync.outbox import plan as planning
from langchain_convsync.outbox import reply as replying
from langchain_convsync.outbox.plan import Send
from langchain_convsync.stores import RedisEventStore, SQLiteEventStore
from langchain_convsync.stores.base import AcceptRules, KeptCall, Keys, NewEvent
from langchain_convsync.stores.redis import wire as redis_wire
from langchain_convsync.turns.result import CurrentConversation

PACKAGE = "langchain_convsync"


def put(place: str, value: Any) -> Any:
    """Replace ``module.name`` or ``module.Class.name`` of the package; what was there before."""
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(f"{PACKAGE}.{module}")
    for part in owners:
        owner = getattr(owner, part)
    before = getattr(owner, name)
    setattr(owner, name, value)
    return before


def remove(guard: str) -> None:
    """Take a guard out of this process."""
    GUARDS[guard]()


def _verify() -> None:
    """A write without a clear answer is sent again, without a look."""
    put("outbox.delivery:plan", lambda _write, cursor, **_: Send(cursor.pos, cursor.tries + 1))


def _settle() -> None:
    """The look comes at once, before a late write has had its time."""
    real = planning.plan

    def hasty(write: Any, cursor: Any, *, now: float, **given: Any) -> Any:
        return real(write, cursor, now=now + 3600.0, **given)

    put("outbox.delivery:plan", hasty)


def _reply_verify() -> None:
    """A reply without a clear answer is sent again, without a look."""
    put("outbox.replies:plan_reply", lambda cursor, **_: Send(0, cursor.tries + 1))


def _reply_settle() -> None:
    """The look into the chat comes at once, before a late send has had its time."""
    real = replying.plan_reply

    def hasty(cursor: Any, *, now: float, **given: Any) -> Any:
        return real(cursor, now=now + 3600.0, **given)

    put("outbox.replies:plan_reply", hasty)


def _anchor() -> None:
    """Any message that reads the same counts as the one that was sent."""
    real = planning.is_recorded
    start = planning.Anchor(session_id="")
    put("outbox.job:is_recorded", lambda history, message, _: real(history, message, start))


def _base() -> None:
    """Writes do not know where the history ended when their turn was decided."""
    real = CurrentConversation.read

    def without(*given: Any, **options: Any) -> CurrentConversation:
        return replace(real(*given, **options), base=None)

    put("turns.result:CurrentConversation.read", staticmethod(without))


def _overlay() -> None:
    """A turn does not see the writes that are still on their way."""
    put("outbox.compose:overlay", lambda conversation, _writes, **_: conversation)


def _late() -> None:
    """A request is sent whenever its process comes to it, however long it stood still."""

    def whenever(self: Connections, request: Request, seconds: float) -> Io[Outcome]:
        return Io(
            lambda: self._exchange(request, monotonic() + seconds),
            lambda: self._aexchange(request, monotonic() + seconds),
        )

    put("client._connections:Connections.exchange", whenever)


def _dedup() -> None:
    """Every delivery is another event."""
    event, source = Keys.event, Keys.source

    def fresh(self: Keys, account: str, customer: str, family: str, source_id: str) -> str:
        return event(self, account, customer, family, source_id + uuid.uuid4().hex)

    def other(self: Keys, family: str, source_id: str) -> str:
        return source(self, family, source_id + uuid.uuid4().hex)

    put("stores.base:Keys.event", fresh)
    put("stores.base:Keys.source", other)


def _order() -> None:
    """Every event is a conversation of its own."""
    real = Keys.conversation

    def alone(self: Keys, account: str, customer: str) -> str:
        return real(self, account, customer + uuid.uuid4().hex)

    put("stores.base:Keys.conversation", alone)


def _account() -> None:
    """Events and customers of all tenants share their names."""
    event, conversation = Keys.event, Keys.conversation
    put("stores.base:Keys.event", lambda self, _, *parts: event(self, "", *parts))
    put("stores.base:Keys.conversation", lambda self, _, *parts: conversation(self, "", *parts))


def _lease() -> None:
    """A queue can be acquired while another worker is at it."""
    for store in (SQLiteEventStore, RedisEventStore):
        for name in ("accept", "acquire"):
            setattr(store, name, _without_lease(getattr(store, name)))


def _without_lease(operation: Callable[..., Any]) -> Callable[..., Any]:
    def without(self: Any, what: Any, *given: Any, **named: Any) -> Any:
        if isinstance(what, NewEvent):
            rules = given[0] if given else AcceptRules()
            return operation(self, what, replace(rules, lease=0.0), **named)
        return operation(self, what, *given, **{**named, "lease": 0.0})

    return without


def _heartbeat() -> None:
    """A lease is never renewed while the agent works."""
    put("stores.heartbeat:_Heartbeat.add", lambda _self, _watch: None)


def _fence() -> None:
    """A worker that once held a queue may go on with it; leases lapse at once, so many do."""
    _lease()
    for module in ("queues", "events", "work"):
        put(f"stores.sqlite.{module}:is_held", _is_held_by_any)
    put("stores.redis:script", _unfenced)


def _is_held_by_any(row: Any, _lease: Any) -> bool:
    return row.until is not None


def _unfenced(name: str, *, prelude: bool = True) -> redis_wire.Script:
    source = redis_wire.script(name, prelude=prelude).source
    check = b"if has[1] == token and has[2] == epoch and has[3] then"
    if prelude and check not in source:
        raise LookupError(check)
    source = source.replace(check, b"if has[3] then")
    return redis_wire.Script(
        source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
    )


def _own() -> None:
    """Whatever WAHA reports as typed on the phone was typed on the phone."""
    put("turns.inbox:is_ours", lambda *_: False)


def _limit() -> None:
    """A process keeps to itself that its account is to send nothing."""

    def unheard(_self: Any, *_given: Any, **_named: Any) -> Io[None]:
        return Io(lambda: None, _nothing)

    for store in (SQLiteEventStore, RedisEventStore):
        setattr(store, "restrict", unheard)  # noqa: B010 - as `put` does


async def _nothing() -> None:
    return None


def _pace() -> None:
    """Messages are sent as they come."""
    put("outbox.account:Account._spacing", lambda *_: {})


def _once() -> None:
    """A run begins its tools' calls whatever an earlier one did; leases lapse, so many are run."""
    _lease()

    def forgetful(self: Any, _name: str) -> Flow[KeptCall]:
        yield from ()
        return KeptCall(by=self._token)

    put("surfaces.calls:TurnCalls.begin", forgetful)


GUARDS: dict[str, Callable[[], None]] = {
    "verify": _verify,
    "settle": _settle,
    "reply verify": _reply_verify,
    "reply settle": _reply_settle,
    "anchor": _anchor,
    "base": _base,
    "overlay": _overlay,
    "late": _late,
    "dedup": _dedup,
    "order": _order,
    "account": _account,
    "lease": _lease,
    "heartbeat": _heartbeat,
    "fence": _fence,
    "own": _own,
    "limit": _limit,
    "pace": _pace,
    "once": _once,
}
