"""What happens beside a turn: a human takes over, another message comes, others need their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_convsync import telemetry
from langchain_convsync.models import InboundEvent, StateUpdate
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner

CUSTOMER = "+51999999999"
OTHER = "+51988888888"
LID = "38000000000001@lid"
Answer = Callable[[TurnRunner, InboundEvent], Turn]


def blocking(runner: TurnRunner, event: InboundEvent) -> Turn:
    return runner.run(event)


def awaited(runner: TurnRunner, event: InboundEvent) -> Turn:
    return asyncio.run(runner.arun(event))


@pytest.fixture(params=[blocking, awaited], ids=["sync", "async"])
def answer(request: pytest.FixtureRequest) -> Answer:
    chosen: Answer = request.param
    return chosen


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        running.create_conversation(
            phone_number=CUSTOMER, subdomain="restaurant-abc", bot_id="bot123"
        )
        yield running


def event(number: int, text: str, **fields: Any) -> InboundEvent:
    return InboundEvent(event_id=f"evt_{number}", text=text, phone_number=CUSTOMER, **fields)


def history(server: ReferenceServer) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in server.conversation(CUSTOMER).messages]


class Agent:
    """Answers "re: <everything new>", and does something else first, in its first run."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.meanwhile = [meanwhile]
        self.runs = 0
        self.runnable: Runnable[Any, Any] = RunnableLambda(self.reply)

    def reply(self, messages: list[BaseMessage]) -> AIMessage:
        self.runs += 1
        if self.meanwhile:
            self.meanwhile.pop()()
        new = [m.content for m in messages if "." in (m.id or "")]  # history has other ids
        return AIMessage(f"re: {' '.join(map(str, new))}")


def test_while_a_human_has_the_conversation_the_agent_is_paused(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """What the customer writes is recorded, so that the agent finds it afterwards."""
    agent = Agent()
    runner = TurnRunner(agent.runnable, client=server.client(), store=event_store)
    runner.pause(CUSTOMER, seconds=600.0)

    turn = answer(runner, event(1, "Hola"))

    assert (turn.status, turn.reply, agent.runs) == ("paused", None, 0)
    assert history(server) == [("user", "Hola")]
    assert answer(runner, event(1, "Hola")).status == "duplicate"


def test_after_the_takeover_the_agent_answers_what_comes_next(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """And not what the human answered."""
    runner = TurnRunner(Agent().runnable, client=server.client(), store=event_store)
    runner.pause(CUSTOMER, seconds=600.0)
    answer(runner, event(1, "Hola"))
    runner.resume(CUSTOMER)

    assert answer(runner, event(2, "¿Y ahora?")).reply == "re: ¿Y ahora?"
    assert history(server) == [
        ("user", "Hola"),
        ("user", "¿Y ahora?"),
        ("bot", "re: ¿Y ahora?"),
    ]


def test_a_reply_is_dropped_if_a_human_came_while_the_agent_was_thinking(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """Nothing that the agent decided happens; the customer's words are kept."""
    agent = Agent(lambda: runner.pause(CUSTOMER, seconds=600.0))
    runner = TurnRunner(
        agent.runnable,
        client=server.client(),
        store=event_store,
        extractor=lambda _: StateUpdate(step="paying"),
    )

    turn = answer(runner, event(1, "Hola"))

    assert (turn.status, turn.reply) == ("paused", None)
    assert history(server) == [("user", "Hola")]
    assert server.conversation(CUSTOMER).current_step != "paying"


def test_a_human_is_not_talked_over_by_the_fallback(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """The agent failed, but somebody is there."""

    def fail() -> None:
        runner.pause(CUSTOMER, seconds=600.0)
        raise ValueError

    runner = TurnRunner(
        Agent(fail).runnable,
        client=server.client(),
        store=event_store,
        fallback_reply="Un momento.",
        max_errors=1,
    )

    assert answer(runner, event(1, "Hola")).status == "paused"


def test_a_takeover_under_the_lid_counts_for_the_phone_number(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """As soon as an event tells that both are one customer."""
    runner = TurnRunner(Agent().runnable, client=server.client(), store=event_store)
    runner.pause(LID, seconds=600.0)

    assert answer(runner, event(1, "Hola", lid=LID)).status == "paused"


async def test_a_takeover_has_an_async_twin(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """On the running loop."""
    runner = TurnRunner(Agent().runnable, client=server.client(), store=event_store)
    await runner.apause(CUSTOMER, seconds=600.0)
    assert (await runner.arun(event(1, "Hola"))).status == "paused"
    await runner.aresume(CUSTOMER)

    assert (await runner.arun(event(2, "Hola"))).status == "answered"


def test_by_default_a_newer_message_gets_an_answer_of_its_own(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """The customer reads two replies."""
    agent = Agent(lambda: runner.run(event(2, "con queso"), wait=0.0))
    runner = TurnRunner(agent.runnable, client=server.client(), store=event_store)

    assert answer(runner, event(1, "Una pizza")).reply == "re: Una pizza"
    assert answer(runner, event(2, "con queso")).reply == "re: con queso"


def test_with_rerun_a_newer_message_is_answered_together_with_the_first(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """The reply to half of what was said is dropped; nothing of it was written."""
    agent = Agent(lambda: runner.run(event(2, "con queso"), wait=0.0))
    runner = TurnRunner(
        agent.runnable, client=server.client(), store=event_store, on_newer_message="rerun"
    )

    turn = answer(runner, event(1, "Una pizza"))

    assert (turn.reply, turn.events) == ("re: Una pizza con queso", ("evt_1", "evt_2"))
    assert [role for role, _ in history(server)] == ["user", "user", "bot"]


def test_a_customer_who_never_stops_writing_is_answered_at_last(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """Runs are repeated for as long as one run may take, no longer."""
    numbers = iter(range(2, 100))

    def write_again() -> None:
        agent.meanwhile.append(write_again)
        number = next(numbers)
        runner.run(event(number, f"y {number}"), wait=0.0)

    agent = Agent(write_again)
    reruns = telemetry.counted("turns_rerun")
    runner = TurnRunner(
        agent.runnable,
        client=server.client(),
        store=event_store,
        on_newer_message="rerun",
        agent_timeout=0.2,
    )

    assert runner.run(event(1, "Hola")).status == "answered"
    assert telemetry.counted("turns_rerun") > reruns


def test_an_account_has_no_more_agents_at_work_than_it_may(
    server: ReferenceServer, event_store: EventStore, answer: Answer
) -> None:
    """Another customer's event waits until the first one is answered."""
    server.create_conversation(phone_number=OTHER, subdomain="restaurant-abc", bot_id="bot123")
    other = InboundEvent(event_id="other", text="Hola", phone_number=OTHER)
    meanwhile: list[Turn] = []
    agent = Agent(lambda: meanwhile.append(runner.run(other, wait=0.0)))
    runner = TurnRunner(
        agent.runnable, client=server.client(), store=event_store, account_concurrency=1
    )

    answer(runner, event(1, "Hola"))

    assert [turn.status for turn in meanwhile] == ["queued"]
    assert answer(runner, other).status == "answered"
