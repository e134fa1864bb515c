"""``kill -9`` of the process that runs a turn, at each of its stages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from langchain_convsync._flow import run
from langchain_convsync.models import InboundEvent
from langchain_convsync.settings import ServerProfile
from langchain_convsync.stores import open_store
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.promises import on_sqlite

CUSTOMER = "+51999999999"

#: Runs one event and hangs at a stage, so that it can be killed exactly there.
WORKER = """
import sys, time
import httpx
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_convsync import ConvSyncClient, InboundEvent, ServerProfile, TurnRunner
from langchain_convsync._flow import Io
from langchain_convsync.outbox import delivery
from langchain_convsync.stores import open_store

delivery.ATTEMPT = 0.1  # a write is leased for longer than an attempt
stage, base_url, store_url = sys.argv[1:]

def forget_key(request):
    request.headers.pop("idempotency-key", None)

def hang(*args, **kwargs):
    print("here", flush=True)
    time.sleep(600)

store = open_store(store_url)
real = store.begin

def begin(*args, done=None, **kwargs):
    return Io(hang, hang) if done is not None else real(*args, **kwargs)

if stage == "recorded":
    store.begin = begin  # would note, too, that the first message was recorded

def agent(messages):
    if stage == "running":
        hang()
    return AIMessage("from the first process")

runner = TurnRunner(
    RunnableLambda(agent),
    client=ConvSyncClient(
        base_url,
        profile=ServerProfile(settle=0.0),
        http_client=httpx.Client(event_hooks={"request": [forget_key]}),
    ),
    store=store,
    lease=1.0,
    on_reply=hang if stage == "committed" else None,
)
runner.run(InboundEvent(event_id="evt_1", phone_number="+51999999999", text="Hola"))
"""


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        running.create_conversation(
            phone_number=CUSTOMER, subdomain="restaurant-abc", bot_id="bot123"
        )
        yield running


def _forget_key(request: httpx.Request) -> None:
    request.headers.pop("idempotency-key", None)


def killed_at(stage: str, server: ReferenceServer, store_url: str) -> None:
    """Run the event in a process of its own and kill it there."""
    command = [sys.executable, "-c", WORKER, stage, server.base_url, store_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "here\n"
        worker.kill()


@pytest.fixture
def keyless() -> Iterator[httpx.Client]:
    """Sends no ``Idempotency-Key``."""
    with httpx.Client(event_hooks={"request": [_forget_key]}) as client:
        yield client


@pytest.mark.slow  # the simulator ends a process at any step
@on_sqlite
@pytest.mark.parametrize(
    ("stage", "status", "reply"),
    [
        ("running", "answered", "from the second process"),
        ("committed", "duplicate", "from the first process"),
        ("recorded", "duplicate", "from the first process"),
    ],
)
def test_the_next_process_finishes_what_a_killed_one_began(
    stage: str,
    status: str,
    reply: str,
    server: ReferenceServer,
    durable_store_url: str,
    keyless: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing lost, nothing doubled, in order: before, at and after the commit.

    ``Idempotency-Key`` never reaches the server here, so a message that was recorded without
    anybody knowing has to be found by reading.
    """
    monkeypatch.setattr("langchain_convsync.outbox.plan.ATTEMPT", 0.1)  # nothing is on the wire
    killed_at(stage, server, durable_store_url)
    store = open_store(durable_store_url)
    client = server.client(profile=ServerProfile(settle=0.0), http_client=keyless)
    agent: RunnableLambda[Any, Any] = RunnableLambda(lambda _: AIMessage("from the second process"))
    runner = TurnRunner(agent, client=client, store=store, lease=1.0)

    turn = runner.run(InboundEvent(event_id="evt_1", phone_number=CUSTOMER, text="Hola"))
    # A killed process' write lease has to lapse before its writes can be taken over.
    while run(store.backlog()).writes:
        runner.run(InboundEvent(event_id="evt_1", phone_number=CUSTOMER, text="Hola"))

    assert (turn.status, turn.reply) == (status, reply)
    kept = [(m.role, m.content) for m in server.conversation(CUSTOMER).messages]
    assert kept == [("user", "Hola"), ("bot", reply)]
    store.close()
