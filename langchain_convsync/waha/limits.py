"""What WAHA tells of the limits that WhatsApp has set an account: pure.

Protocol: WAHA 2026.8, ``GET /api/sessions/{session}/timelock`` and ``…/capping``,
``me.reachoutTimelock``, ``me.messageCapping`` and the event ``session.status``.
"""

from __future__ import annotations

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
_ENDS = ("timeenforcementends", "endsat", "until", "expiresat", "cycleendtimestamp", "cycleendsat")


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that holds now; ``ends`` where it is told."""

    kind: LimitKind
    ends: datetime | None = None


def meanwhile(kind: str) -> str:
    """What an account does while it is limited like this."""
    return "begins no new chats" if kind == "capping" else "sends nothing"


def limit_in(*told: object) -> Limit | None:
    """The limit that one of these answers, or payloads, tells of; a lock before a cap."""
    places = [Folded.of(each) for each in told]
    locks = [each.within(*path) for each in places for path in _places("reachouttimelock")]
    if (lock := next(filter(_is_locked, locks), None)) is not None:
        return Limit("timelock", _end_of(lock))
    caps = [each.within(*path) for each in places for path in _places("messagecapping")]
    if (cap := next(filter(_is_capped, caps), None)) is not None:
        return Limit("capping", _end_of(cap))
    return None


def _places(name: str) -> tuple[tuple[str, ...], ...]:
    return (), (name,), ("me", name)


def _is_locked(told: Folded) -> bool:
    return any(told.at(name) is True for name in _LOCKED)


def _is_capped(told: Folded) -> bool:
    status = as_text(told.at("cappingstatus")) or as_text(told.at("status"))
    total, used = told.at("totalquota"), told.at("usedquota")
    if isinstance(total, int) and isinstance(used, int) and 0 < total <= used:
        return True
    return status.upper() == "CAPPED"


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
