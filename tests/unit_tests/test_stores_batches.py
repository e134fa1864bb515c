"""What is asked of a store at the same time travels together, and is answered singly."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from langchain_convsync import SQLiteEventStore
from langchain_convsync.stores.batches import CROWD, LARGEST, Batches


class Answering:
    """Answers every number by its double, and keeps what travelled together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, questions: Sequence[int]) -> list[Any]:
        self.batches.append(list(questions))
        await self.open.wait()
        if 0 in questions:
            message = "all of them"
            raise OSError(message)
        return [ValueError(number) if number < 0 else 2 * number for number in questions]


async def test_what_is_asked_in_one_step_travels_together() -> None:
    """Each gets its own answer; what is asked later travels later."""
    answering, batches = Answering(), Batches[int](most=8)

    first = await asyncio.gather(*(batches.ask(number, answering) for number in (1, 2, 3)))
    second = await batches.ask(4, answering)

    assert (first, second) == ([2, 4, 6], 8)
    assert answering.batches == [[1, 2, 3], [4]]


async def test_an_error_is_raised_by_whom_it_concerns() -> None:
    """The others have their answers."""
    answering, batches = Answering(), Batches[int](most=8)

    asked = [batches.ask(number, answering) for number in (1, -2, 3)]
    one, two, three = await asyncio.gather(*asked, return_exceptions=True)

    assert (one, three) == (2, 6)
    assert isinstance(two, ValueError)


async def test_what_fails_as_a_whole_is_raised_by_all_each_its_own() -> None:
    """A traceback of one task does not grow by those of the others."""
    answering, batches = Answering(), Batches[int](most=8)

    asked = [batches.ask(number, answering) for number in (0, 1)]
    one, two = await asyncio.gather(*asked, return_exceptions=True)

    assert isinstance(one, OSError)
    assert isinstance(two, OSError)
    assert one is not two


@pytest.mark.parametrize(
    ("most", "expected"), [(8, [[1], [2], [3]]), (2, [[1], [2], [3]]), (1, [[1], [2, 3]])]
)
async def test_what_is_asked_meanwhile_travels_beside_or_behind(
    most: int, expected: list[list[int]]
) -> None:
    """Beside it where there are several wires, else together behind it."""
    answering, batches = Answering(), Batches[int](most=most)
    answering.open.clear()
    asked = []
    for number in (1, 2, 3):
        asked.append(asyncio.create_task(batches.ask(number, answering)))
        for _ in range(5):
            await asyncio.sleep(0)

    answering.open.set()

    assert await asyncio.gather(*asked) == [2, 4, 6]
    assert answering.batches == expected


async def test_behind_a_crowd_more_is_waited_for_but_not_behind_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A commit costs the same for one and for many; who is alone does not wait for others."""
    answering, batches = Answering(), Batches[int](most=1, pause=60.0)
    timers: list[Any] = []

    def call_later(delay: float, callback: Any, *arguments: Any) -> None:
        timers.append((delay, partial(callback, *arguments)))

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later)

    assert [await batches.ask(number, answering) for number in (1, 2)] == [2, 4]
    crowd = range(1, CROWD + 1)
    await asyncio.gather(*(batches.ask(number, answering) for number in crowd))
    asked = []
    for number in (8, 9):
        asked.append(asyncio.create_task(batches.ask(number, answering)))
        for _ in range(5):
            await asyncio.sleep(0)
    ((delay, timer),) = timers
    timer()

    assert await asyncio.gather(*asked) == [16, 18]
    assert (delay, answering.batches) == (60.0, [[1], [2], [*crowd], [8, 9]])


async def test_a_batch_is_bounded() -> None:
    """A file belongs to one transaction for as long as it takes, however much is asked at once."""
    answering, batches = Answering(), Batches[int](most=1)

    asked = range(1, 2 * LARGEST + 2)
    answers = await asyncio.gather(*(batches.ask(number, answering) for number in asked))

    assert answers == [2 * number for number in asked]
    assert [len(batch) for batch in answering.batches] == [LARGEST, LARGEST, 1]


async def test_who_is_cancelled_spoils_no_batch() -> None:
    """The others are answered."""
    answering, batches = Answering(), Batches[int](most=8)
    answering.open.clear()
    cancelled, other = (asyncio.create_task(batches.ask(number, answering)) for number in (1, 2))
    for _ in range(5):
        await asyncio.sleep(0)

    cancelled.cancel()
    await asyncio.wait((cancelled,))
    answering.open.set()

    assert await other == 4
    assert cancelled.cancelled()


async def test_operations_of_a_file_that_are_awaited_together_share_a_commit(
    tmp_path: Path,
) -> None:
    """One write to the disk acknowledges them all."""
    store = SQLiteEventStore(tmp_path / "events.db")
    keys = await store.keys().wait()
    sql = store._sql
    statements: list[str] = []
    assert sql is not None
    sql.set_trace_callback(statements.append)

    conversation_keys = [keys.conversation("default", f"+5199999{number}") for number in range(20)]
    await asyncio.gather(
        *(
            store.pause(conversation_key, seconds=60.0).wait()
            for conversation_key in conversation_keys
        )
    )

    assert sum("INSERT" in statement and "pauses" in statement for statement in statements) == 20
    assert statements.count("COMMIT") == 1
    await store.aclose()
