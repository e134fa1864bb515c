"""WhatsApp behind WAHA: it locks numbers for a while, and bans those that go on all the same."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from langchain_convsync.outbox.reply import SEND_TIME
from tests.simulation.hub import EPOCH, Simulation
from tests.simulation.servers import LATE, Refusal

LOCKED, DOWN = "server returned error 463", "Session status is not as expected"
CAPPED = "new chat message capping reached"
#: Seconds of a lock or a cap, and of a session that is down.
LOCKS, DOWNS = (300.0, 1200.0), (20.0, 300.0)
#: Seconds in which messages are counted; one that hung comes so much later than it was sent.
MINUTE = 60.0 - SEND_TIME - LATE
#: Seconds from a lock or a cap to the next one, at least.
CALM = 4 * 3600.0


@dataclass
class WhatsApp:
    """What becomes of each send.

    Attributes:
        simulation: Whose time it is.
        happens: What a send meets: ``"lock"``, ``"cap"`` and ``"down"`` begin there; the how
            manieth it is.
        tells: Whether WAHA says how long a lock lasts; older ones do not.
        tolerated: Sends into a lock, or a cap, of which the number was told; a process that dies
            before it has noted that knows nothing of it.
        most: Messages a minute, at most.
        locks: Seconds of which a lock or a cap has some.
        banned: The numbers that are, and for what.
    """

    simulation: Simulation
    happens: Callable[[int], str]
    tells: bool = True
    tolerated: int = 5
    most: int = 30
    locks: tuple[float, ...] = LOCKS
    banned: dict[str, str] = field(default_factory=dict)
    _locked: dict[str, float] = field(default_factory=dict)
    _capped: dict[str, float] = field(default_factory=dict)
    _down: dict[str, float] = field(default_factory=dict)
    _known: set[tuple[str, str]] = field(default_factory=set)
    _told: set[tuple[str, str]] = field(default_factory=set)
    _refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    _sent: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _number: int = 0

    def check(self, account: str, customer: str) -> None:
        """Refuse a send, or take it.

        Raises:
            Refusal: The number is locked, or the session down; or it is capped, and the customer
                has had no message before.
        """
        now, met = self.simulation.time, "nothing"
        if now >= max(self._locked.get(account, 0.0), self._down.get(account, 0.0)):
            met, self._number = self.happens(self._number), self._number + 1
        if met in {"lock", "cap"}:
            limits, words = (self._locked, LOCKED) if met == "lock" else (self._capped, CAPPED)
            limits[account] = now + self.simulation.chance.choice(self.locks)
            self._told.discard((account, words))
            self._refused[account, words] = 0
        elif met == "down":
            self._down[account] = now + self.simulation.chance.choice(DOWNS)
        if now < self._down.get(account, 0.0):
            raise Refusal(422, DOWN)
        if now < self._locked.get(account, 0.0):
            self._refuse(account, LOCKED)
        if now < self._capped.get(account, 0.0) and (account, customer) not in self._known:
            self._refuse(account, CAPPED)
        self._known.add((account, customer))
        sent = [each for each in self._sent[account] if each > now - MINUTE]
        self._sent[account] = [*sent, now]
        if len(sent) >= self.most:
            self.banned[account] = f"{len(sent) + 1} messages within a minute"

    def _refuse(self, account: str, words: str) -> NoReturn:
        self._refused[account, words] += (account, words) in self._told
        if (number := self._refused[account, words]) > self.tolerated:
            self.banned[account] = f"{number} sends although: {words}"
        raise Refusal(500, words)

    def tell(self, account: str, words: str) -> None:
        """An answer has arrived."""
        self._told |= {(account, each) for each in (LOCKED, CAPPED) if each in words}

    def timelock(self, account: str) -> Any:
        """What WAHA knows of it.

        Raises:
            Refusal: It is too old for that.
        """
        if not self.tells:
            raise Refusal(404, "Cannot GET /api/sessions/…/timelock")
        ends = self._locked.get(account, 0.0)
        return {
            "isActive": self.simulation.time < ends,
            "timeEnforcementEnds": int(EPOCH.timestamp() + ends),
        }


def moody(simulation: Simulation, seed: object, *, often: float = 0.03) -> WhatsApp:
    """One that locks, and a WAHA that loses its session, now and then.

    Not one lock upon the other: an answer would be too old then to be worth sending.
    """
    chance, calm = random.Random(f"{seed}/whatsapp"), 0.0

    def happens(_number: int) -> str:
        nonlocal calm
        met = chance.random()
        if met < 2 * often and simulation.time >= calm:
            calm = simulation.time + CALM
            return "lock" if met < often else "cap"
        return "down" if 2 * often <= met < 3 * often else "nothing"

    return WhatsApp(simulation, happens, tells=chance.random() < 0.5)


def locking(simulation: Simulation) -> WhatsApp:
    """One that locks at the first send."""
    return _once(simulation, "lock", tolerated=2)


def capping(simulation: Simulation) -> WhatsApp:
    """One that lets it begin no more chats, from the first send on."""
    return _once(simulation, "cap", tolerated=3)


def impatient(simulation: Simulation) -> WhatsApp:
    """One that takes a message a minute."""
    return WhatsApp(simulation, lambda _: "nothing", most=1)


def down(simulation: Simulation) -> WhatsApp:
    """A session that is down at the first send."""
    return _once(simulation, "down")


def _once(simulation: Simulation, met: str, **given: Any) -> WhatsApp:
    """One whose first send meets something, as short as that is: each look meanwhile is a step."""
    return WhatsApp(
        simulation, lambda number: "nothing" if number else met, locks=LOCKS[:1], **given
    )
