"""``deduplicated``: a runnable that runs once per event, on every store, in every call form."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from langchain_convsync import EventInProgressError, InvalidEventError, deduplicated, once
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.stores.base import EventStore
from tests import stored_results

Call = Callable[[Runnable[Any, Any], Any], Any]


async def last_of(runnable: Runnable[Any, Any], given: Any) -> Any:
    return [chunk async for chunk in runnable.astream(given)][-1]


CALLS: dict[str, Call] = {
    "invoke": lambda runnable, given: runnable.invoke(given),
    "ainvoke": lambda runnable, given: asyncio.run(runnable.ainvoke(given)),
    "stream": lambda runnable, given: list(runnable.stream(given))[-1],
    "batch": lambda runnable, given: runnable.batch([given])[0],
    "astream": lambda runnable, given: asyncio.run(last_of(runnable, given)),
    "abatch": lambda runnable, given: asyncio.run(runnable.abatch([given]))[0],
}


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Call:
    return CALLS[request.param]


def by_id(given: dict[str, Any], _config: RunnableConfig) -> str:
    event_id: str = given["event_id"]
    return event_id


class Counting:
    """Answers with how often it ran, or with what it is told to."""

    def __init__(self, result: Any = None) -> None:
        self.runs, self.result = 0, result
        self.runnable = RunnableLambda(self._run)

    def _run(self, given: dict[str, Any]) -> Any:
        self.runs += 1
        if given.get("fails"):
            raise ValueError(given["fails"])
        counted = {"reply": AIMessage(f"run {self.runs}", id="1"), "runs": self.runs}
        return self.result or counted


def test_an_event_runs_once_and_later_calls_get_its_result(
    event_store: EventStore, call: Call
) -> None:
    """Messages inside the result come back as messages."""
    agent = Counting()
    runnable = deduplicated(agent.runnable, event_store, event_id=by_id)

    results = [call(runnable, {"event_id": "evt_1"}) for _ in range(3)]

    assert results == [{"reply": AIMessage("run 1", id="1"), "runs": 1}] * 3
    assert call(runnable, {"event_id": "evt_2"})["runs"] == 2


def test_a_run_that_fails_gives_its_event_back(event_store: EventStore, call: Call) -> None:
    """The next delivery runs it again."""
    agent = Counting()
    runnable = deduplicated(agent.runnable, event_store, event_id=by_id)
    with pytest.raises(ValueError, match="the agent failed"):
        call(runnable, {"event_id": "evt_1", "fails": "the agent failed"})

    assert call(runnable, {"event_id": "evt_1"})["runs"] == 2


def test_while_a_caller_runs_the_event_others_are_told(event_store: EventStore, call: Call) -> None:
    """An error, not a second run."""
    runnable = deduplicated(Counting().runnable, event_store, event_id=by_id)

    with (
        once(event_store, "evt_1", namespace="runnable"),
        pytest.raises(EventInProgressError, match="wait="),
    ):
        call(runnable, {"event_id": "evt_1"})


def test_others_can_wait_for_the_result(event_store: EventStore) -> None:
    """All calls at once get the one result."""
    agent = Counting()
    runnable = deduplicated(agent.runnable, event_store, event_id=by_id, wait=20.0)
    together = threading.Barrier(8)

    def deliver(_number: int) -> Any:
        together.wait(timeout=20.0)
        return runnable.invoke({"event_id": "evt_1"})["runs"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(deliver, range(8))) == [1] * 8
    assert agent.runs == 1


def test_the_event_id_may_come_from_the_configuration(event_store: EventStore) -> None:
    """Where the input does not carry it."""
    agent = Counting()
    runnable = deduplicated(
        agent.runnable, event_store, event_id=lambda _, config: config["configurable"]["event_id"]
    )
    config: RunnableConfig = {"configurable": {"event_id": "evt_1"}}

    assert [runnable.invoke({}, config)["runs"] for _ in range(2)] == [1, 1]


def test_namespaces_keep_runnables_apart() -> None:
    """Two steps of one pipeline see the same event."""
    store, agent = SQLiteEventStore(":memory:"), Counting()
    for namespace in ("route", "answer"):
        step = deduplicated(agent.runnable, store, event_id=by_id, namespace=namespace)
        step.invoke({"event_id": "evt_1"})
    store.close()

    assert agent.runs == 2


def test_a_result_that_cannot_be_stored_is_no_reason_to_run_again(
    event_store: EventStore, call: Call
) -> None:
    """The caller that ran the event is told; the work is done."""
    agent = Counting(object())
    paid = deduplicated(agent.runnable, event_store, event_id=by_id)
    with pytest.raises(InvalidEventError, match="will not be repeated"):
        call(paid, {"event_id": "evt_1"})

    later = [call(paid, {"event_id": "evt_1"}) for _ in range(2)]

    assert (agent.runs, later) == (1, [None, None])


def test_an_agents_state_comes_back_with_its_structured_response(
    event_store: EventStore, call: Call
) -> None:
    """What LangChain's agents return, run once."""
    state = {
        "messages": [HumanMessage("Una pizza", id="a"), AIMessage("¡Va!", id="b")],
        "structured_response": stored_results.Order(sum=Decimal("9.90")),
    }
    agent = Counting(state)
    runnable = deduplicated(agent.runnable, event_store, event_id=by_id)

    results = [call(runnable, {"event_id": "evt_1"}) for _ in range(3)]

    assert (agent.runs, results) == (1, [state] * 3)
