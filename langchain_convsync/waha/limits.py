"""What WAHA tells of the limits that WhatsApp has set an account: pure.

Protocol: WAHA 2026.8, ``GET /api/sessions/{session}/timelock`` and ``…/capping``,
``me.reachoutTimelock``, ``me.messageCapping`` and the event ``session.status``, whose ``data`` is
what has changed: https://waha.devlike.pro/docs/how-to/sessions/#reachout-timelock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from langchain_convsync.waha.origin import moment
from langchain_convsync.waha.wire import Folded, as_text

#: ``session``: WAHA is not logged in. ``timelock``: WhatsApp lets the account reach out to nobody.
#: ``capping``: it may begin no more chats. The last two are WhatsApp's words.
LimitKind: TypeAlias = Literal["session", "timelock", "capping"]
LIMIT_KINDS: tuple[LimitKind, ...] = ("session", "timelock", "capping")

_LOCKED = ("isactive", "active", "locked")
_ENDS = (
    *("timeenforcementends", "endsat", "until", "expiresat"),
    *("cycleend", "cycleendtimestamp", "cycleendsat"),
)


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that holds now; ``ends`` where it is told."""

    kind: LimitKind
    ends: datetime | None = None


def meanwhile(kind: str) -> str:
    """What an account does while it is limited like this."""
    return "begins no new chats" if kind == "capping" else "sends nothing"


def why_limited(kind: str, ends: datetime | None) -> str:
    """Why it does so, for an operator."""
    until = "" if ends is None else f", until {ends.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return f"WhatsApp limits the account: {kind}{until}"


def limit_in(*told: object) -> Limit | None:
    """The limit that one of these answers, or payloads, tells of; a lock before a cap."""
    for kind, (name, holds, _) in _KINDS.items():
        places = _told(name, told)
        if (found := next(filter(holds, [*map(Folded.of, told), *places]), None)) is not None:
            return Limit(kind, _end_of(found))
    return None


def limits_over(*told: object) -> tuple[LimitKind, ...]:
    """The limits of which a session's account, or status, tells that they do not hold.

    None of them where it tells nothing: it is empty until WAHA knows of a limit.
    """
    over: list[LimitKind] = []
    for kind, (name, holds, tells) in _KINDS.items():
        places = _told(name, told)
        if any(map(tells, places)) and not any(map(holds, places)):
            over.append(kind)
    return tuple(over)


def _told(name: str, told: tuple[object, ...]) -> list[Folded]:
    """The objects of that name, wherever they stand."""
    paths = ((name,), ("me", name), ("data", name))
    return [Folded.of(each).within(*path) for each in told for path in paths]


def _is_locked(told: Folded) -> bool:
    return any(told.at(name) is True for name in _LOCKED)


def _tells_of_lock(told: Folded) -> bool:
    return any(isinstance(told.at(name), bool) for name in _LOCKED)


def _is_capped(told: Folded) -> bool:
    total, used = told.at("totalquota"), told.at("usedquota")
    if isinstance(total, int) and isinstance(used, int) and 0 < total <= used:
        return True
    return _capping(told).upper() == "CAPPED"


def _capping(told: Folded) -> str:
    return as_text(told.at("cappingstatus")) or as_text(told.at("status"))


_Tells: TypeAlias = Callable[[Folded], bool]
#: What WAHA calls what it tells of a limit, whether that holds, and whether it is told at all.
_KINDS: dict[LimitKind, tuple[str, _Tells, _Tells]] = {
    "timelock": ("reachouttimelock", _is_locked, _tells_of_lock),
    "capping": ("messagecapping", _is_capped, lambda told: bool(_capping(told))),
}


def _end_of(told: Folded) -> datetime | None:
    for name in _ENDS:
        value = told.at(name)
        if (found := moment(value) or _spelled(as_text(value))) is not None:
            return found
    return None


def _spelled(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
