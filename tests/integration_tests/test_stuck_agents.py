"""Agents that never come back: they are reported, and cost no other conversation anything."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import tool

from langchain_convsync import SQLiteEventStore, create_app, telemetry
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores.base import EventStore
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.turns import Turn, TurnRunner, stopping
from langchain_convsync.turns import process as turn_process
from tests.promises import CUSTOMER
from tests.redis_topologies import until

OTHER = "+51988888888"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, no_pause: None) -> None:
    """What takes ten seconds for others is due at once here."""
    del no_pause
    monkeypatch.setattr(stopping, "STUCK_AFTER", 0.05)
    monkeypatch.setattr("langchain_convsync.turns.agent.CANCEL_TIME", 0.05)
    monkeypatch.setattr(turn_process, "READ_TIME", 0.0)


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        for number in (CUSTOMER, OTHER):
            running.create_conversation(
                phone_number=number, subdomain="restaurant-abc", bot_id="bot123"
            )
        yield running


@pytest.fixture
def bank() -> Iterator[threading.Event]:
    """A bank that answers when it is let; at last it does, so that no thread stays."""
    event = threading.Event()
    yield event
    event.set()


def event(number: str, text: str) -> InboundEvent:
    return InboundEvent(event_id=f"{number} {text}", phone_number=number, text=text)


def paying(bank: threading.Event) -> Runnable[Any, Any]:
    """An agent that pays where the customer asks for it, by a tool that waits for the bank."""

    @tool
    def pay() -> str:
        """Pay."""
        bank.wait()
        return "paid"

    def answer(messages: list[BaseMessage]) -> AIMessage | str:
        words = str(messages[-1].content)
        if words == "Paga":
            return AIMessage("", tool_calls=[{"name": "pay", "args": {}, "id": "1"}])
        return f"re: {words}"

    agent: Runnable[Any, Any] = create_agent(
        ScriptedChatModel(iter(lambda: answer, None)), tools=[pay]
    )
    return agent


def stuck() -> int:
    return telemetry.counted("agents_stuck")


def test_a_worker_that_is_stuck_is_reported_and_replaced(
    server: ReferenceServer,
    event_store: EventStore,
    bank: threading.Event,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The only worker waits in a tool: another one answers, and leaving waits for neither."""
    before, turns = stuck(), SimpleQueue[Turn]()
    runner = TurnRunner(
        paying(bank),
        client=server.client(),
        store=event_store,
        on_reply=turns.put,
        workers=1,
        agent_timeout=0.1,
        shutdown_timeout=600.0,
    )

    with caplog.at_level(logging.ERROR), runner:
        runner.accept(event(CUSTOMER, "Paga"))
        until(lambda: stuck() == before + 1)
        runner.accept(event(OTHER, "Hola"))
        assert turns.get(timeout=60).reply == "re: Hola"

    [said] = [r.getMessage() for r in caplog.records if "stuck" in r.getMessage()]
    assert f"{Path(__file__).name}:" in said
    assert " in pay" in said
    assert "another worker takes its place" in said
    assert CUSTOMER.strip("+") not in said


def test_a_worker_that_comes_back_after_it_was_replaced_ends(
    server: ReferenceServer, event_store: EventStore, bank: threading.Event
) -> None:
    """There are as many as before, and what the late one made of its turn is discarded."""
    before, turns = stuck(), SimpleQueue[Turn]()
    runner = TurnRunner(
        paying(bank),
        client=server.client(),
        store=event_store,
        on_reply=turns.put,
        fallback_reply="Luego",
        workers=1,
        agent_timeout=0.1,
        max_errors=1,
    )

    with runner:
        workers = inbox_workers()
        runner.accept(event(CUSTOMER, "Paga"))
        until(lambda: stuck() == before + 1)
        until(lambda: len(inbox_workers()) == 2)
        bank.set()
        assert turns.get(timeout=60).reply == "Luego"
        until(lambda: len(inbox_workers()) == 1)
        assert inbox_workers() != workers


def test_the_conversation_of_a_stuck_agent_goes_to_another_worker(
    server: ReferenceServer, event_store: EventStore, bank: threading.Event
) -> None:
    """Its lease is not renewed beyond the deadline: nobody waits for the agent to come back."""
    turns = SimpleQueue[Turn]()
    hangs = iter([True])

    def answer(_messages: list[BaseMessage]) -> AIMessage:
        if next(hangs, False):
            bank.wait()
        return AIMessage("Aquí estoy")

    runner = TurnRunner(
        RunnableLambda(answer),
        client=server.client(),
        store=event_store,
        on_reply=turns.put,
        workers=1,
        agent_timeout=0.2,
        lease=0.5,
    )

    with runner:
        runner.accept(event(CUSTOMER, "Hola"))
        assert turns.get(timeout=60).reply == "Aquí estoy"
        assert not bank.is_set()


async def test_a_run_that_swallows_its_cancellation_is_left_behind(
    server: ReferenceServer,
    event_store: EventStore,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The turn ends without it."""
    monkeypatch.setattr(stopping, "STUCK_AFTER", 600.0)
    before, ends = stuck(), asyncio.Event()

    async def stubborn(_messages: list[BaseMessage]) -> AIMessage:
        while not ends.is_set():
            try:
                await ends.wait()
            except asyncio.CancelledError:
                continue
        return AIMessage("late")

    agent: Runnable[Any, Any] = RunnableLambda(stubborn)
    runner = TurnRunner(
        agent, client=server.client(), store=event_store, agent_timeout=0.1, max_errors=1
    )
    try:
        turn = await runner.arun(event(CUSTOMER, "Hola"))
    finally:
        ends.set()

    assert isinstance(turn.error, stopping.AgentTimeoutError)
    assert stuck() == before + 1
    assert " in stubborn" in caplog.text


async def test_a_run_that_blocks_the_event_loop_is_reported(
    server: ReferenceServer,
    event_store: EventStore,
    bank: threading.Event,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By the heartbeat, as nothing else of the process goes on."""

    async def blocks(_messages: list[BaseMessage]) -> AIMessage:
        bank.wait()
        return AIMessage("late")

    def reported(record: logging.LogRecord) -> bool:
        if "stuck" in record.getMessage():
            bank.set()
        return True

    log = logging.getLogger(stopping.__name__)
    log.addFilter(reported)
    agent: Runnable[Any, Any] = RunnableLambda(blocks)
    runner = TurnRunner(
        agent, client=server.client(), store=event_store, agent_timeout=0.1, max_errors=1
    )
    try:
        turn = await runner.arun(event(CUSTOMER, "Hola"))
    finally:
        log.removeFilter(reported)

    assert isinstance(turn.error, stopping.AgentTimeoutError)
    assert " in blocks" in caplog.text


async def test_a_tool_that_hangs_on_a_thread_of_the_loop_is_reported(
    server: ReferenceServer,
    event_store: EventStore,
    bank: threading.Event,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once, with its place; its thread is missing to no other customer of the app."""
    before, turns, reported = stuck(), asyncio.Queue[Turn](), asyncio.Event()
    log = logging.getLogger(stopping.__name__)

    def noted(_record: logging.LogRecord) -> bool:
        reported.set()
        return True

    runner = TurnRunner(
        paying(bank),
        client=server.client(),
        store=event_store,
        on_reply=turns.put,
        agent_timeout=0.2,
        max_errors=1,
    )
    app = create_app(runner, waha_secrets="secret")
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))

    async with app.router.lifespan_context(app):
        log.addFilter(noted)
        try:
            await runner.aaccept(event(CUSTOMER, "Paga"))
            await asyncio.wait_for(reported.wait(), 60)
        finally:
            log.removeFilter(noted)
        await runner.aaccept(event(OTHER, "Hola"))
        assert (await turns.get()).reply == "re: Hola"
        assert await asyncio.to_thread(lambda: "another call") == "another call"

    assert stuck() == before + 1
    [said] = [r.getMessage() for r in caplog.records if "stuck" in r.getMessage()]
    assert f"{Path(__file__).name}:" in said
    assert " in pay" in said


async def test_a_user_app_keeps_its_executor(
    server: ReferenceServer, event_store: EventStore
) -> None:
    """The process of a router, or of a runner's lifespan, is not ours."""
    theirs = ThreadPoolExecutor(1, thread_name_prefix="theirs")
    asyncio.get_running_loop().set_default_executor(theirs)
    runner = TurnRunner(
        RunnableLambda(lambda _: threading.current_thread().name),
        client=server.client(),
        store=event_store,
        on_reply=print,
    )

    async with runner.lifespan():
        assert (await runner.arun(event(CUSTOMER, "Hola"))).reply == "theirs_0"


#: Forty customers' tools hang; the next customer is told how many of them were reported.
HANGING_BOT = """
import threading
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_convsync import TurnRunner, create_app, telemetry
from langchain_convsync.testing import ScriptedChatModel
from langchain_convsync.turns import agent, process

agent.CANCEL_TIME = 0.1
process.READ_TIME = 1.0

@tool
def pay() -> str:
    "Pay."
    threading.Event().wait()

@tool
def count() -> str:
    "Count those that are stuck."
    return f"{telemetry.counted('agents_stuck')} are stuck"

def answer(messages):
    said = messages[-1]
    if said.type == "tool":
        return said.text
    name = "pay" if said.content == "Paga" else "count"
    return AIMessage("", tool_calls=[{"name": name, "args": {}, "id": "1"}])

def send(turn):
    print("sent", turn.reply, flush=True)

runner = TurnRunner(
    create_agent(ScriptedChatModel(iter(lambda: answer, None)), [pay, count]),
    on_reply=send,
    agent_timeout=5.0,
    max_errors=1,
    workers=20,
)
app = create_app(runner, waha_secrets="secret")
"""
COMMANDS = {
    "worker": ["-c", "from langchain_convsync.cli import main; main()", "worker", "bot:runner"],
    "uvicorn": ["-m", "uvicorn", "bot:app", "--port", "0"],
}


@pytest.mark.slow  # it hangs for seconds
@pytest.mark.parametrize("command", ["uvicorn", "worker"])
def test_tools_that_hang_take_no_thread_from_other_customers(
    command: str, server: ReferenceServer, tmp_path: Path
) -> None:
    """More of them than a pool has threads; and SIGTERM ends the process."""
    numbers = [f"+519888000{n:02}" for n in range(40)]
    for number in numbers:
        server.create_conversation(phone_number=number, subdomain="restaurant-abc", bot_id="bot123")
    (tmp_path / "bot.py").write_text(HANGING_BOT)
    store = SQLiteEventStore(tmp_path / "events.db")
    recording = TurnRunner(client=server.client(), store=store, record_only=True)
    for number in numbers:
        recording.accept(event(number, "Paga"))

    environment = {
        **os.environ,
        "CONVSYNC_BASE_URL": server.base_url,
        "CONVSYNC_STORE_URL": f"sqlite:///{tmp_path / 'events.db'}",
    }
    errors = tmp_path / "errors"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, *COMMANDS[command]],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            until(lambda: errors.read_text().count("is stuck at") == 40)
            recording.accept(event(CUSTOMER, "Hola"))
            assert process.stdout is not None
            assert "sent 40 are stuck\n" in process.stdout
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
        finally:
            process.kill()
    store.close()
    told = [line for line in errors.read_text().splitlines() if "is stuck at" in line]
    assert all("bot.py:" in line and " in pay" in line for line in told)


SCRIPT = """
import sys
import threading
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_convsync import InboundEvent, SQLiteEventStore, TurnRunner
from langchain_convsync.testing import ScriptedChatModel
from langchain_convsync.turns import stopping
import logging

stopping.STUCK_AFTER = 0.05
reported = threading.Event()

class Told(logging.Handler):
    def emit(self, record):
        if "stuck" in record.getMessage():
            reported.set()

logging.getLogger(stopping.__name__).addHandler(Told())

@tool
def pay() -> str:
    "Pay."
    threading.Event().wait()

call = AIMessage("", tool_calls=[{"name": "pay", "args": {}, "id": "1"}])
agent = create_agent(ScriptedChatModel([call]), [pay])
store = SQLiteEventStore(sys.argv[1])
runner = TurnRunner(agent, store=store, on_reply=print, agent_timeout=0.1, shutdown_timeout=600.0)
with runner:
    runner.accept(InboundEvent(event_id="1", phone_number="+51999999999", text="Paga"))
    reported.wait()
print("left")
"""


def test_the_end_of_a_process_does_not_wait_for_a_stuck_agent(
    server: ReferenceServer, tmp_path: Path
) -> None:
    """Nor does leaving the block, although its tool waits on a thread of a pool for ever."""
    environment = {**os.environ, "CONVSYNC_BASE_URL": server.base_url}
    script = [sys.executable, "-c", SCRIPT, str(tmp_path / "events.db")]

    done = subprocess.run(
        script, env=environment, capture_output=True, text=True, timeout=120, check=False
    )

    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr


def inbox_workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "convsync-inbox"}
