"""Who writes, what the agent says, and what has to be in the API server afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.place import Place

_NUMBERS = itertools.count(1)


class OtherWorkError(AssertionError):
    """A flow has not done what the others did: its numbers say nothing."""


@dataclass(frozen=True, slots=True)
class Customer:
    """One conversation."""

    number: int

    @property
    def phone_number(self) -> str:
        return f"+519{self.number:08d}"

    def event_id(self, text: str) -> str:
        """Of a message, which this customer writes once."""
        return f"{self.number}/{text}"


def new_customers(count: int) -> list[Customer]:
    """Customers that nobody has written for before."""
    return [Customer(next(_NUMBERS)) for _ in range(count)]


def text_of(turn: int) -> str:
    """What a customer writes in a turn, counted from 1."""
    return f"Mensaje {turn}: quiero una pizza grande, por favor"


def reply_to(text: str) -> str:
    """What the agent says."""
    return f"Con gusto. {text}"


def state_after(text: str) -> dict[str, Any]:
    """What the agent decides."""
    return {"intent": "order", "step": "selecting", "context": {"last": text, "total": 25.5}}


def require_same_work(place: Place, customers: Sequence[Customer], turns: int) -> None:
    """Every message once and in order, every turn's state, for each of these customers.

    Raises:
        OtherWorkError: Something is missing, or there twice.
    """
    texts = [text_of(turn) for turn in range(1, turns + 1)]
    messages = [said for text in texts for said in (["user", text], ["bot", reply_to(text)])]
    ledger = place.ledger([customer.phone_number for customer in customers])
    for written, state, syncs in ledger:
        decided = {name: state.get(name) for name in ("intent", "step", "context")}
        if written != messages or decided != state_after(texts[-1]) or syncs != turns:
            told = (
                f"{len(written)} of {len(messages)} messages, {syncs} of {turns} syncs: {decided}"
            )
            raise OtherWorkError(told)
