"""``kill -9`` of a process whose tool acts, and what is left of what a tool returned."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool

from langchain_convsync._flow import run
from langchain_convsync.middleware import OnceToolsMiddleware
from langchain_convsync.stores import SQLiteEventStore, open_store
from langchain_convsync.testing import ReferenceServer, ScriptedChatModel
from langchain_convsync.turns import Turn, TurnRunner
from tests.promises import Answer, on_sqlite, said, served, sync_and_async
from tests.redis_server import RedisServer
from tests.stored import redis_records, sqlite_records

#: Charges, and hangs in the tool or in the model's next call, so that it can be killed there.
WORKER = """
import sys, time
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_convsync import ConvSyncClient, InboundEvent, TurnRunner
from langchain_convsync.middleware import OnceToolsMiddleware
from langchain_convsync.stores import open_store
from langchain_convsync.testing import ScriptedChatModel

stage, base_url, store_url, charges = sys.argv[1:]

def hang(*_):
    print("here", flush=True)
    time.sleep(600)

@tool
def charge(amount: int) -> str:
    "Charge the customer's card."
    with open(charges, "a") as file:
        file.write(f"{amount} ")
    if stage == "in the tool":
        hang()
    return "Paid."

call = AIMessage("", tool_calls=[{"name": "charge", "args": {"amount": 25}, "id": "1"}])
agent = create_agent(
    ScriptedChatModel([call, hang]), [charge], middleware=[OnceToolsMiddleware()]
)
runner = TurnRunner(
    agent, client=ConvSyncClient(base_url), store=open_store(store_url), lease=1.0
)
runner.run(InboundEvent(event_id="Pago", phone_number="+51999999999", text="Pago"))
"""


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    running = served()
    yield running
    running.stop()


def killed(stage: str, server: ReferenceServer, store_url: str, charges: Path) -> None:
    """The customer's card is charged, and the process killed there."""
    command = [sys.executable, "-c", WORKER, stage, server.base_url, store_url, str(charges)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "here\n"
        worker.kill()
    assert charges.read_text() == "25 "


@pytest.mark.slow  # processes by the dozen: the simulator tries every step of one
@on_sqlite
@pytest.mark.parametrize(
    ("stage", "unknown", "charged", "status", "told"),
    [
        ("after the tool", "ask", "25 ", "answered", "Paid."),
        ("in the tool", "ask", "25 ", "answered", "it may have taken effect"),
        ("in the tool", "retry", "25 25 ", "answered", "Paid."),
        ("in the tool", "hold", "25 ", "failed", None),
    ],
)
def test_the_next_process_charges_no_card_that_a_killed_one_may_have_charged(
    stage: str,
    unknown: Any,
    charged: str,
    status: str,
    told: str | None,
    server: ReferenceServer,
    durable_store_url: str,
    tmp_path: Path,
) -> None:
    """It knows what the tool returned, or that nobody knows whether it acted."""
    charges = tmp_path / "charges"
    killed(stage, server, durable_store_url, charges)
    store = open_store(durable_store_url)

    @tool
    def charge(amount: int) -> str:
        """Charge the customer's card."""
        charges.write_text(f"{charges.read_text()}{amount} ")
        return "Paid."

    call = AIMessage("", tool_calls=[{"name": "charge", "args": {"amount": 25}, "id": "2"}])
    model = ScriptedChatModel([call, "Listo"])
    agent: Any = create_agent(model, [charge], middleware=[OnceToolsMiddleware(unknown=unknown)])
    runner = TurnRunner(
        agent, client=server.client(), store=store, lease=1.0, fallback_reply="Ya vuelvo"
    )

    turn = runner.run(said("Pago"))

    assert (turn.status, charges.read_text()) == (status, charged)
    if told is not None:
        answer = model.calls[-1][-1]
        assert isinstance(answer, ToolMessage)
        assert told in str(answer.content)
    store.close()


#: What a tool returned.
SECRET = "receipt-of-4111-1111"


def charged_turn(
    server: ReferenceServer, store: Any, answer: Answer, *, ends: str
) -> Iterator[Turn]:
    """A turn whose tool returned a secret: before its end, and after."""

    @tool
    def charge(amount: int) -> str:
        """Charge the customer's card."""
        return f"{SECRET}-{amount}"

    call = AIMessage("", tool_calls=[{"name": "charge", "args": {"amount": 25}, "id": "1"}])
    script: list[Any] = [call, "Listo"] if ends == "commit" else [call, RuntimeError("no")]
    agent: Any = create_agent(
        ScriptedChatModel(script), [charge], middleware=[OnceToolsMiddleware()]
    )
    runner = TurnRunner(agent, client=server.client(), store=store, max_errors=1)
    turn = answer(runner, said("Pago"))
    if ends != "commit":
        yield turn
        [letter] = run(store.dead_letters())
        if ends == "forget":
            run(store.forget(letter.conversation_key))
        else:
            run(store.discard(letter, token="mine"))
    yield turn


@pytest.mark.parametrize("ends", ["commit", "discard", "forget"])
@sync_and_async
def test_no_word_that_a_tool_returned_outlives_its_turn(
    answer: Answer,
    ends: str,
    server: ReferenceServer,
    redis_server: RedisServer,
    tmp_path: Path,
) -> None:
    """Committed, given up or forgotten; a dead letter keeps them, for its retry."""
    redis_server.empty()
    path = tmp_path / "events.db"
    stores = [SQLiteEventStore(path), open_store(redis_server.url)]
    for store in stores:
        states = []
        for _ in charged_turn(server, store, answer, ends=ends):
            records = sqlite_records(path) if store is stores[0] else redis_records(redis_server)
            states.append([name for name, whole in records if SECRET.encode() in whole])
        store.close()
        assert states[-1] == []
        assert all(states[:-1])
    assert SECRET.encode() not in path.read_bytes()
