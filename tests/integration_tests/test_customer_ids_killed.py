"""A process that dies between any two steps while it is found out whose the names are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from langchain_convsync import WAHAReply
from langchain_convsync._flow import Flow, run
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner, operators
from tests import promises
from tests.promises import echo, killed, spoken
from tests.waha_chats import WahaChats, waha_server

server = promises.server
pytestmark = pytest.mark.usefixtures("no_pause")

NUMBERS = count(51_900_000_000)


@dataclass
class Customer:
    """One customer, with all their names, and who serves them."""

    server: ReferenceServer
    store: EventStore
    chats: WahaChats
    number: int = field(default_factory=lambda: next(NUMBERS))

    def __post_init__(self) -> None:
        self.phone, self.bsuid = f"+{self.number}", f"PE.{self.number}z"
        self.lid = f"198{self.number}@lid"
        self.server.create_conversation(
            phone_number=self.phone, subdomain="restaurant-abc", bot_id="bot123"
        )

    def names(self, spelled: str) -> dict[str, Any]:
        """What an event tells: ``p``, ``l`` and ``u`` for number, LID and BSUID."""
        told: dict[str, Any] = {"chat_id": self.lid}
        told |= {"phone_number": self.phone} if "p" in spelled else {}
        told |= {"lid": self.lid} if "l" in spelled else {}
        return told | ({"aliases": (self.bsuid,)} if "u" in spelled else {})

    def process(self) -> TurnRunner:
        reply = WAHAReply(self.chats.url, settle=0.0)
        return TurnRunner(
            echo(), client=self.server.client(), store=self.store, reply=reply, lease=0.2
        )

    def victim(self) -> TurnRunner:
        """A process that does not come to delivering what it has committed."""
        runner = self.process()
        vars(runner._deliveries)["drain"] = lambda _: iter(())
        return runner


Act = Callable[[Customer, TurnRunner], Flow[Any]]


def says(text: str, spelled: str) -> Act:
    """The customer writes, under these names."""

    def act(customer: Customer, process: TurnRunner) -> Flow[Any]:
        told = customer.names(spelled)
        event_id = f"false_{customer.number}{text}"
        event = InboundEvent(event_id=event_id, text=text, waha_session="loja", **told)
        return process._engine.run(event, None)

    return act


def links(customer: Customer, process: TurnRunner) -> Flow[Any]:
    """Somebody tells that BSUID and number are one."""
    return process._engine.link(customer.phone, customer.bsuid, "default")


#: What happens, and which of it is killed.
SCRIPTS: dict[str, tuple[list[Act], list[int]]] = {
    "the LID, then both": ([says("1", "pu"), says("2", "l"), says("3", "pl")], [1, 2]),
    "only WAHA knows": ([says("1", "p"), says("2", "l"), says("3", "p")], [1, 2]),
    "the number last": ([says("1", "lu"), says("2", "u"), says("3", "pu")], [0, 1, 2]),
    "told by an operator": ([says("1", "p"), links, says("2", "u"), says("3", "l")], [1, 2]),
}


@pytest.mark.slow  # processes by the dozen: the simulator tries every step of one
@promises.on_sqlite
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_process_may_die_at_any_step_of_discovery(
    server: ReferenceServer, event_store: EventStore, name: str, after: bool
) -> None:
    """Every message once, in order, in one conversation; every reply once; all names lead there."""
    chats = WahaChats()
    with waha_server(chats) as chats.url:
        acts, victims = SCRIPTS[name]
        died = 0
        for victim in victims:
            for at in range(60):
                customer, came_so_far = Customer(server, event_store, chats), False
                chats.numbers[customer.lid] = f"{customer.phone[1:]}@c.us"
                sent = len(chats.sent)
                for place, act in enumerate(acts):
                    if place == victim:
                        came_so_far = killed(act(customer, customer.victim()), at, after=after)
                    run(act(customer, customer.process()))
                for text in "123":  # duplicates, which deliver what is left
                    run(says(text, "plu")(customer, customer.process()))
                found = [(m.role, m.content) for m in server.conversation(customer.phone).messages]
                assert found == spoken(["1", "2", "3"]), (victim, at)
                assert chats.texts[sent:] == ["re: 1", "re: 2", "re: 3"], (victim, at)
                keys = {
                    run(
                        event_store.view(run(operators.conversation_key_of(event_store, each)))
                    ).conversation_key
                    for each in (customer.phone, customer.lid, customer.bsuid)
                }
                assert len(keys) == 1, (victim, at)
                died += came_so_far
                if not came_so_far:
                    break
        assert died > 10
        left = run(event_store.backlog())
        assert (left.queued, left.writes, left.replies, left.dead_letters) == (0, 0, 0, 0)
