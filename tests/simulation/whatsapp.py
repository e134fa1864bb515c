"""WhatsApp behind WAHA: it locks numbers for a while, and bans those that go on all the same."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from langchain_convsync.outbox.reply import SEND_TIME
from tests.simulation.hub import EPOCH, Simulation
from tests.simulation.servers import LATE, Refusal

LOCKED, DOWN = "server returned error 463", "Session status is not as expected"
#: Seconds of a lock, and of a session that is down.
LOCKS, DOWNS = (300.0, 1200.0), (20.0, 300.0)
#: Seconds in which messages are counted; one that hung comes so much later than it was sent.
MINUTE = 60.0 - SEND_TIME - LATE
#: Seconds from a lock to the next one, at least.
CALM = 4 * 3600.0


@dataclass
class WhatsApp:
    """What becomes of each send.

    Attributes:
        simulation: Whose time it is.
        happens: What a send meets: ``"lock"`` and ``"down"`` begin there; the how manieth it is.
        tells: Whether WAHA says how long a lock lasts; older ones do not.
        tolerated: Sends into a lock of which the number was told; a process that dies before it
            has noted that knows nothing of it.
        most: Messages a minute, at most.
        banned: The numbers that are, and for what.
    """

    simulation: Simulation
    happens: Callable[[int], str]
    tells: bool = True
    tolerated: int = 5
    most: int = 30
    banned: dict[str, str] = field(default_factory=dict)
    _locked: dict[str, float] = field(default_factory=dict)
    _down: dict[str, float] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)
    _refused: Counter[str] = field(default_factory=Counter)
    _sent: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _number: int = 0

    def check(self, account: str) -> None:
        """Refuse a send, or take it.

        Raises:
            Refusal: The number is locked, or the session down.
        """
        now, met = self.simulation.time, "nothing"
        if now >= max(self._locked.get(account, 0.0), self._down.get(account, 0.0)):
            met, self._number = self.happens(self._number), self._number + 1
        if met == "lock":
            self._locked[account] = now + self.simulation.chance.choice(LOCKS)
            self._told.discard(account)
            self._refused[account] = 0
        elif met == "down":
            self._down[account] = now + self.simulation.chance.choice(DOWNS)
        if now < self._down.get(account, 0.0):
            raise Refusal(422, DOWN)
        if now < self._locked.get(account, 0.0):
            self._refused[account] += account in self._told
            if self._refused[account] > self.tolerated:
                self.banned[account] = f"{self._refused[account]} sends into a lock"
            raise Refusal(500, LOCKED)
        sent = [each for each in self._sent[account] if each > now - MINUTE]
        self._sent[account] = [*sent, now]
        if len(sent) >= self.most:
            self.banned[account] = f"{len(sent) + 1} messages within a minute"

    def tell(self, account: str, words: str) -> None:
        """An answer has arrived."""
        if LOCKED in words:
            self._told.add(account)

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
        if met < often and simulation.time >= calm:
            calm = simulation.time + CALM
            return "lock"
        return "down" if often <= met < 2 * often else "nothing"

    return WhatsApp(simulation, happens, tells=chance.random() < 0.5)


def locking(simulation: Simulation) -> WhatsApp:
    """One that locks at the first send."""
    return WhatsApp(simulation, lambda number: "nothing" if number else "lock", tolerated=2)


def impatient(simulation: Simulation) -> WhatsApp:
    """One that takes a message a minute."""
    return WhatsApp(simulation, lambda _: "nothing", most=1)


def down(simulation: Simulation) -> WhatsApp:
    """A session that is down at the first send."""
    return WhatsApp(simulation, lambda number: "nothing" if number else "down")
