"""Agents on LangGraph's server: one that answers as it was recorded, and the real one."""

from __future__ import annotations

import asyncio
import itertools
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph.pregel.remote import RemoteGraph

from langchain_convsync.errors import AgentServerError
from langchain_convsync.models import InboundEvent, StateUpdate
from langchain_convsync.reply import Handoff, Reply
from langchain_convsync.stores import SQLiteEventStore
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import Turn, TurnRunner
from tests.agent_server import graphs as agents
from tests.agent_server import real
from tests.agent_server.client import Graphs
from tests.agent_server.recorded import Recorded
from tests.listening import listening
from tests.pages import files, page

pytestmark = pytest.mark.usefixtures("no_pause")

Answer = Callable[[TurnRunner, InboundEvent], Awaitable[Turn]]
numbers = itertools.count(51_900_000_001)


async def blocking(runner: TurnRunner, event: InboundEvent) -> Turn:
    return await asyncio.to_thread(runner.run, event)


async def awaited(runner: TurnRunner, event: InboundEvent) -> Turn:
    return await runner.arun(event)


@pytest.fixture(params=[blocking, awaited], ids=["sync", "async"])
def answer(request: pytest.FixtureRequest) -> Answer:
    chosen: Answer = request.param
    return chosen


@pytest.fixture(scope="module")
def recorded() -> Iterator[str]:
    with listening(Recorded().app) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def real_server() -> Iterator[str]:
    if not real.IS_INSTALLED:
        pytest.skip(real.MISSING)
    with real.serving() as url:
        yield url


@pytest.fixture(params=["recorded", pytest.param("real_server", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def reference() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        yield running


@pytest.fixture
def server(reference: ReferenceServer) -> ReferenceServer:
    return reference.start()


@pytest.fixture
async def graphs(url: str) -> AsyncIterator[Graphs]:
    made = Graphs(url)
    yield made
    await made.close()


@pytest.fixture
def customer(server: ReferenceServer) -> str:
    """A customer of their own for each test: a thread begins empty."""
    number = f"+{next(numbers)}"
    server.create_conversation(phone_number=number, subdomain="restaurant-abc", bot_id="bot123")
    return number


@pytest.fixture
def runner_of(server: ReferenceServer) -> Iterator[Callable[..., TurnRunner]]:
    """Makes a runner for an agent; its store is closed in the end."""
    stores: list[SQLiteEventStore] = []

    def make(agent: Any, **given: Any) -> TurnRunner:
        stores.append(SQLiteEventStore(":memory:"))
        return TurnRunner(agent, client=server.client(), store=stores[-1], **given)

    yield make
    for store in stores:
        store.close()


def event(customer: str, number: int, text: str) -> InboundEvent:
    return InboundEvent(event_id=f"evt_{number}", phone_number=customer, text=text)


def words(server: ReferenceServer, customer: str) -> list[tuple[str, str]]:
    return [(each.role, each.content) for each in server.conversation(customer).messages]


async def test_a_turn_runs_the_agent_there_and_syncs_what_it_decided(
    graphs: Graphs,
    customer: str,
    server: ReferenceServer,
    runner_of: Callable[..., TurnRunner],
    answer: Answer,
) -> None:
    """Reply, state and history as of an agent of this process; what is old is not decided again.

    The server remembers, so it gets the new message only; and it is told of nobody's number.
    """
    runner = runner_of(graphs("waiter"))

    first = await answer(runner, event(customer, 1, "Una pizza"))
    second = await answer(runner, event(customer, 2, "¿Qué oíste?"))

    assert (first.status, first.reply) == ("answered", "Anotado, pizza: S/ 25")
    assert first.state == StateUpdate(intent="order")
    assert (second.status, second.reply) == ("answered", "Oí: Una pizza, ¿Qué oíste?")
    assert second.state == StateUpdate()
    assert server.conversation(customer).current_intent == "order"
    assert words(server, customer) == [
        ("user", "Una pizza"),
        ("bot", "Anotado, pizza: S/ 25"),
        ("user", "¿Qué oíste?"),
        ("bot", "Oí: Una pizza, ¿Qué oíste?"),
    ]
    assert not any(customer.lstrip("+") in sent for sent in graphs.sent)


class Losing(RemoteGraph):
    """Loses the answer of its first run, as a process does that is killed."""

    lost = False

    def _lose(self, output: Any) -> Any:
        if not self.lost:
            self.lost = True
            message = "reset by peer"
            raise httpx.ReadError(message)
        return output

    def invoke(self, *args: Any, **kwargs: Any) -> Any:
        return self._lose(super().invoke(*args, **kwargs))

    async def ainvoke(self, *args: Any, **kwargs: Any) -> Any:
        return self._lose(await super().ainvoke(*args, **kwargs))


async def test_a_message_that_is_sent_again_stands_in_the_thread_once(
    graphs: Graphs, customer: str, runner_of: Callable[..., TurnRunner], answer: Answer
) -> None:
    """A process that dies before it has committed runs the agent again, on the same thread."""
    graph = graphs("waiter", Losing)
    runner = runner_of(graph)

    first = await answer(runner, event(customer, 1, "Hola"))
    graph.lost = False
    second = await answer(runner, event(customer, 2, "Agua"))

    assert (first.status, first.reply) == ("answered", "Oí: Hola")
    assert (second.status, second.reply) == ("answered", "Oí: Hola, Agua")


async def test_an_interrupted_run_is_resumed_by_the_next_message(
    graphs: Graphs, customer: str, runner_of: Callable[..., TurnRunner], answer: Answer
) -> None:
    """As an interrupted graph of this process; afterwards it runs anew."""
    runner = runner_of(graphs("careful"))

    asked = await answer(runner, event(customer, 1, "una pizza"))
    told = await answer(runner, event(customer, 2, "sí"))
    again = await answer(runner, event(customer, 3, "agua"))

    assert [turn.status for turn in (asked, told, again)] == [
        "interrupted",
        "answered",
        "interrupted",
    ]
    assert [each.value for each in asked.interrupts] == ["¿Confirma una pizza?"]
    assert (asked.reply, told.reply) == ("¿Confirma una pizza?", "una pizza: sí")


async def test_what_is_said_there_as_a_reply_arrives_as_one(
    graphs: Graphs, customer: str, runner_of: Callable[..., TurnRunner], answer: Answer
) -> None:
    """In JSON, with its file; by a tool, too, whose other artifacts are nothing to say."""
    shown = await answer(runner_of(graphs("speaking")), event(customer, 1, "la carta"))

    assert shown.said == (
        Reply(texts=["Nuestra carta:"], file=agents.PHOTO, caption="Hoy", quote=True),
        Reply(texts=["¿Algo más?"]),
    )


@pytest.mark.parametrize(
    ("told", "status", "reply", "handoff"),
    [
        ("gracias", "silent", None, None),
        ("una queja", "answered", "Te atiende un colega.", Handoff(reason="complaint")),
    ],
)
async def test_so_do_silence_and_a_hand_over(
    graphs: Graphs,
    customer: str,
    runner_of: Callable[..., TurnRunner],
    answer: Answer,
    told: str,
    status: str,
    reply: str | None,
    handoff: Handoff | None,
) -> None:
    """Nothing is sent by accident, and no one waits for a human who was not told."""
    turn = await answer(runner_of(graphs("speaking")), event(customer, 1, told))

    assert (turn.status, turn.reply, turn.handoff) == (status, reply, handoff)


@pytest.mark.parametrize(
    ("told", "why"),
    [("mal", "caption=, mimetype=, filename= and voice= belong to a file"), ("peor", "colour")],
)
async def test_what_is_no_reply_there_is_told_in_one_line(
    graphs: Graphs,
    customer: str,
    runner_of: Callable[..., TurnRunner],
    answer: Answer,
    caplog: pytest.LogCaptureFixture,
    told: str,
    why: str,
) -> None:
    """Without a word of what it says."""
    runner = runner_of(graphs("speaking"), max_errors=1, fallback_reply="Perdón")
    turn = await answer(runner, event(customer, 1, told))

    assert (turn.status, turn.reply) == ("failed", "Perdón")
    [line] = [each for each in caplog.messages if why in each]
    assert "\n" not in line
    assert "secreto" not in caplog.text


async def test_a_thread_that_was_made_and_has_not_run_is_an_empty_one(
    graphs: Graphs, customer: str, runner_of: Callable[..., TurnRunner], answer: Answer
) -> None:
    """So it is where a process died while its first run was queued."""
    made: list[str] = []

    graph = graphs("waiter")
    read = graph.sync_client.threads.get_state, graph.client.threads.get_state

    def block(thread: str) -> Any:
        made.append(thread)
        graph.sync_client.threads.create(thread_id=thread)
        return read[0](thread)

    async def wait(thread: str) -> Any:
        made.append(thread)
        await graph.client.threads.create(thread_id=thread)
        return await read[1](thread)

    graph.sync_client.threads.get_state, graph.client.threads.get_state = block, wait

    turn = await answer(runner_of(graph), event(customer, 1, "Hola"))

    assert (turn.status, turn.reply) == ("answered", "Oí: Hola")
    assert [uuid.UUID(thread).version for thread in made] == [5]


async def test_a_run_that_fails_there_fails_here_and_says_where_to_look(
    graphs: Graphs,
    customer: str,
    runner_of: Callable[..., TurnRunner],
    answer: Answer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server repeats an error's text, which may be the customer's words: ours tell its name."""
    runner = runner_of(graphs("clumsy"), max_errors=1, fallback_reply="Un momento")

    with caplog.at_level(logging.INFO):
        turn = await answer(runner, event(customer, 1, "soufflé"))

    assert (turn.status, turn.reply) == ("failed", "Un momento")
    assert isinstance(turn.error, AgentServerError)
    assert str(turn.error).startswith("'clumsy' failed with ValueError on LangGraph's server at ")
    assert str(turn.error).endswith(": its log says why")
    assert str(turn.error) in caplog.text
    assert "soufflé" not in f"{turn.error}{caplog.text}"


async def test_a_server_that_serves_no_such_agent_is_told_by_what_to_do(
    graphs: Graphs, customer: str, runner_of: Callable[..., TurnRunner], answer: Answer
) -> None:
    turn = await answer(runner_of(graphs("cook"), max_errors=1), event(customer, 1, "Hola"))

    assert turn.status == "failed"
    assert "'cook' (422): it must be the name of a graph in its langgraph.json" in str(turn.error)
    assert graphs.url in str(turn.error)


async def test_the_runner_that_the_page_shows_answers(
    graphs: Graphs,
    customer: str,
    server: ReferenceServer,
    answer: Answer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """As pasted, but for where LangGraph's server is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVSYNC_BASE_URL", server.base_url)
    shown = files(page("build/langgraph"))["bot.py"]
    assert 'RemoteGraph("waiter", url="http://127.0.0.1:2024")' in shown
    names: dict[str, Any] = {}
    exec(shown.replace("http://127.0.0.1:2024", graphs.url), names)
    graphs.close_later(names["agent"])

    async with names["runner"] as runner:
        turn = await answer(runner, event(customer, 1, "Hola"))

    assert (turn.status, turn.reply) == ("answered", "Oí: Hola")
