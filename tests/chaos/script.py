"""Who says what, in which order: planned from a seed before anything runs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

#: An event that the agent takes longer for than a lease lasts says so.
SLOWLY = "despacio"

#: What stands for a message without text.
STICKER = "[sticker]"

TENANTS = 5
SHARED = 3  # so many tenants talk to the same phone number
BURSTS = 12  # per conversation at most; short runs have many short ones

#: Another delivery of the same event at the same time: as it was, or under the customer's LID.
Twin: TypeAlias = Literal["same", "lid"]


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a customer.

    Attributes:
        event_id: Unique within its account alone: tenants that share a customer share ids.
        text: Some texts are said again and again, as customers do.
        twin: How it is delivered a second time while the first delivery is under way.
        edited: What the customer made of it afterwards.
        by_lid: Whether it is delivered under the customer's LID alone.
    """

    event_id: str
    text: str
    twin: Twin | None = None
    edited: str = ""
    by_lid: bool = False

    @property
    def words(self) -> str:
        """What the history says of it: a message without text is a sticker."""
        return self.text or STICKER


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """One customer talking to one tenant.

    Attributes:
        bursts: What is said, and in a simulation what is done besides, in quick succession; the
            next burst follows when all of it is answered.
        colleague: What a human wrote meanwhile from the business's phone.
    """

    session_id: str
    subdomain: str
    bot_id: str
    phone_number: str
    lid: str
    bursts: tuple[tuple[Any, ...], ...]
    colleague: tuple[str, ...] = ()

    @property
    def account(self) -> str:
        """The receiving side, as it would be configured for the tenant's webhook."""
        return f"waha-{self.subdomain}"

    @property
    def chats(self) -> tuple[str, str]:
        """The chats that a reply may go to."""
        return f"{self.phone_number[1:]}@c.us", self.lid

    @property
    def said(self) -> list[Said]:
        """Everything, in order."""
        return [said for burst in self.bursts for said in burst if isinstance(said, Said)]

    def event(self, said: Said, *, by_lid: bool = False) -> dict[str, Any]:
        """The event as a webhook would report it; the same message under the LID has no number."""
        event: dict[str, Any] = {
            "event_id": said.event_id,
            "text": said.text,
            "account": self.account,
            "waha_session": self.account,
            "chat_id": self.lid if by_lid else self.chats[0],
            "bot_id": self.bot_id,
            "lid": self.lid,
            "notes": () if said.text else (STICKER,),
        }
        return event if by_lid else {**event, "phone_number": self.phone_number}


def talks(turns: int, seed: int) -> list[Talk]:
    """Conversations of at least so many turns together: every burst takes one turn or more."""
    rng = random.Random(f"{seed}/script")
    planned, length = [], min(BURSTS, max(3, turns // 20))
    for number, first in enumerate(range(0, turns, length)):
        customer, tenant = number // SHARED, number % TENANTS
        subdomain, bot_id = f"tenant-{tenant}", f"b07{tenant:05x}"
        bursts = _bursts(rng, min(length, turns - first), subdomain, f"{customer}")
        planned.append(
            Talk(
                session_id=f"{bot_id}_{customer}",
                subdomain=subdomain,
                bot_id=bot_id,
                phone_number=f"+519{customer:08d}",
                lid=f"38{customer:013d}@lid",
                bursts=bursts,
            )
        )
    return planned


def _bursts(
    rng: random.Random, count: int, subdomain: str, prefix: str
) -> tuple[tuple[Said, ...], ...]:
    bursts, number = [], 0
    for _ in range(count):
        burst = []
        for _ in range(rng.choice((1, 1, 1, 1, 1, 1, 2, 4))):
            number += 1
            event_id = f"false_E{prefix}N{number}"
            burst.append(Said(event_id, _text(rng, f"{subdomain} {event_id}"), _twin(rng, number)))
        bursts.append(tuple(burst))
    return tuple(bursts)


def _text(rng: random.Random, unique: str) -> str:
    if rng.random() < 0.3:
        return "sí"
    return f"{unique} {SLOWLY}" if rng.random() < 0.02 else unique


def _twin(rng: random.Random, number: int) -> Twin | None:
    chance = rng.random()
    if chance < 0.1:
        return "same"
    # Before the first event has told which number the LID belongs to, nobody can know.
    return "lid" if chance < 0.2 and number > 1 else None
