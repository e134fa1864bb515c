"""How long it is remembered whose LID it is."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from langchain_convsync import SQLiteEventStore
from langchain_convsync._flow import run
from langchain_convsync.client import Waha
from langchain_convsync.models import InboundEvent
from langchain_convsync.turns import lids
from langchain_convsync.turns.lids import LIFETIME, SHORT_LIFETIME, Lids
from langchain_convsync.turns.naming import Naming
from tests.store_cases import Clock

ANA, EVA, LEO = "381@lid", "382@lid", "383@lid"


class Book:
    """WAHA's numbers, and the LIDs that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.clock = Clock()
        client = httpx.Client(transport=httpx.MockTransport(self.answer))
        self.lids = Lids(
            Naming(SQLiteEventStore(":memory:")),
            Waha("http://localhost", http_client=client),
            clock=self.clock,
        )

    def answer(self, request: httpx.Request) -> httpx.Response:
        lid = request.url.path.rpartition("/")[2]
        self.asked.append(lid)
        return httpx.Response(
            200, json={"lid": lid, "pn": "51999999999@c.us" if lid == ANA else None}
        )

    def number_of(self, lid: str, **fields: Any) -> str | None:
        event = InboundEvent(event_id="1", lid=lid, text="Hola", **fields)
        return run(self.lids.phone_number_of(event, "07.a.b"))


@pytest.mark.parametrize(("lid", "lifetime"), [(ANA, LIFETIME), (EVA, SHORT_LIFETIME)])
def test_an_answer_is_remembered_for_a_while(lid: str, lifetime: float) -> None:
    """One without a number not as long: WAHA may learn it any time."""
    book = Book()
    numbers = [book.number_of(lid)]
    book.clock.advance(lifetime - 1)
    numbers.append(book.number_of(lid))
    once = list(book.asked)
    book.clock.advance(1)
    numbers.append(book.number_of(lid))

    assert once == [lid]
    assert book.asked == [lid, lid]
    assert numbers == ["+51999999999" if lid == ANA else None] * 3


def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers cannot fill the memory."""
    monkeypatch.setattr(lids, "SIZE", 2)
    book = Book()
    for lid in (ANA, EVA, LEO, EVA, ANA):
        book.number_of(lid)

    assert book.asked == [ANA, EVA, LEO, ANA]


def test_what_an_event_tells_is_not_asked_for() -> None:
    """The payload is the first place to look; another session's customers are others."""
    book = Book()

    assert book.number_of(ANA, phone_number="+51911111111") is None
    assert book.asked == []
    assert book.number_of(ANA, waha_session="ventas") == "+51999999999"
    assert book.number_of(ANA, waha_session="soporte") == "+51999999999"
    assert len(book.asked) == 2
