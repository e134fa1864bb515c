"""What a process loads, and when."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from langchain_convsync.testing import ReferenceServer
from tests import served
from tests.surfaces import BOT, PHONE

reference, server = served.reference, served.server

LOADED_BEFORE = ("langchain_convsync", "httpcore", "aiohttp")
ONE_TURN = """
import asyncio, json, sys
from langchain_core.runnables import RunnableLambda
from langchain_convsync import ConvSyncClient, InboundEvent, SQLiteEventStore, TurnRunner

url, phone, bot, mode = sys.argv[1:]
agent = RunnableLambda(lambda _: "Claro")
runner = TurnRunner(agent, client=ConvSyncClient(url), store=SQLiteEventStore(":memory:"))
event = InboundEvent(event_id="evt_1", phone_number=phone, bot_id=bot, text="Hola")
made = {*sys.modules}
turn = asyncio.run(runner.arun(event)) if mode == "awaited" else runner.run(event)
print(json.dumps([turn.status, *{*sys.modules} - made]))
"""


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
@pytest.mark.parametrize("mode", ["blocking", "awaited"])
def test_a_runner_that_was_made_has_loaded_what_its_turns_take(
    server: ReferenceServer, mode: str, transport: str
) -> None:
    """Names are cheap, so whoever makes a runner pays: no turn waits, and no event loop stands."""
    command = [sys.executable, "-c", ONE_TURN, server.base_url, PHONE, BOT, mode]
    environment = {**os.environ, "CONVSYNC_TRANSPORT": transport}
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)

    status, *loaded = json.loads(told.stdout)
    assert status == "answered"
    assert {name for name in loaded if name.startswith(LOADED_BEFORE)} == set()
