"""The workbench's count while customers write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from langchain_convsync.workbench.whatsapp import CUSTOMERS
from langchain_convsync.workbench.world import World


@pytest.fixture
def world() -> Iterator[World]:
    """Nobody listens in it."""
    with closing(World("nobody:runner")) as made:
        yield made


def test_what_is_written_while_it_counts_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the store nor the API server was asked in time to know of it."""
    customer, conversation = CUSTOMERS[0], world.api.conversation

    def written_meanwhile(number: str) -> Any:
        world.write(customer, "Hola")
        return conversation(number)

    monkeypatch.setattr(world.api, "conversation", written_meanwhile)
    state = world.state(customer)

    assert (state["settled"], state["sent"], state["lost"]) == (False, 1, 0)
