"""A process is killed while the bot writes first, or while a conversation is handed over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_convsync import Handoff, Reply, WAHAReply
from langchain_convsync._flow import run
from langchain_convsync.stores import open_store
from langchain_convsync.stores.base import Backlog
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests import promises, waha_chats
from tests.promises import CUSTOMER, history, on_sqlite, said
from tests.redis_topologies import until
from tests.waha_chats import WahaChats

server, chats = promises.server, waha_chats.chats

WORDS, WHY = "Tu pedido salió", Handoff(reason="complaint", summary="Two pizzas never came.")
HANDS_OVER = Reply(texts=["Te atiende un colega."], handoff=WHY)
AGENT: Runnable[Any, Any] = RunnableLambda(lambda _: HANDS_OVER)

DYING = """
import os, signal, sys
from langchain_convsync import ConvSyncClient, TurnRunner, WAHAReply
from langchain_convsync._flow import Io
from langchain_convsync.outbox import replies
from langchain_convsync.stores import open_store
from tests.integration_tests.test_saying_killed import AGENT, WORDS
from tests.promises import CUSTOMER, said

replies.SEND_TIME = 0.1
when, what, api, waha, url, told = sys.argv[1:]
store = open_store(url)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def dies_after(name):
    real = getattr(store, name)

    def then_dies(*given, **named):
        operation = real(*given, **named)
        return Io(lambda: (operation.block(), die()), operation.wait)

    setattr(store, name, then_dies)

def dies_once_sent():
    real = store.release

    def dying(lease, **named):
        return die() if lease.queue == "replies" else real(lease, **named)

    store.release = dying

def tell(handed):
    with open(told, "a") as file:
        file.write(handed.key + chr(10))
    if when == "told":
        die()

if when in {"accept", "commit_turn"}:
    dies_after(when)
elif when == "sent":
    dies_once_sent()
runner = TurnRunner(AGENT, client=ConvSyncClient(api), store=store, lease=0.1,
                    reply=WAHAReply(waha), on_handoff=tell)
if what == "say":
    runner.say(CUSTOMER, WORDS, key="order 7")
else:
    runner.run(said("¡Quiero hablar con alguien!", event_id="1"))
"""


@pytest.mark.slow  # processes by the dozen: the simulator tries every step of one
@on_sqlite
@pytest.mark.parametrize(
    ("what", "when"),
    [
        ("say", "accept"),
        ("say", "commit_turn"),
        ("say", "sent"),
        ("handoff", "commit_turn"),
        ("handoff", "sent"),
        ("handoff", "told"),
    ],
)
def test_whoever_dies_the_message_is_sent_once_and_a_human_is_told(
    server: ReferenceServer,
    chats: WahaChats,
    durable_store_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    when: str,
) -> None:
    """Killed once it was recorded, decided, sent or told; and who asked for it asks again."""
    monkeypatch.setattr("langchain_convsync.outbox.reply.SEND_TIME", 0.0)
    told = tmp_path / "told"
    told.touch()
    arguments = [sys.executable, "-c", DYING, when, what, server.base_url, chats.url]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    died = subprocess.run(
        [*arguments, durable_store_url, str(told)], env=env, check=False, capture_output=True
    )
    keys = told.read_text().split()
    store = open_store(durable_store_url)
    runner = TurnRunner(
        AGENT,
        client=server.client(),
        store=store,
        reply=WAHAReply(chats.url, settle=0.0),
        on_handoff=lambda handed: keys.append(handed.key),
    )
    with runner:
        if what == "say":
            runner.say(CUSTOMER, WORDS, key="order 7")
        else:
            runner.run(said("¡Quiero hablar con alguien!", event_id="1"))
            runner.run(said("¿Hola?", event_id="2"))
        until(lambda: run(store.backlog()) == Backlog())
    store.close()

    words = WORDS if what == "say" else HANDS_OVER.text
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert chats.texts == [words]
    assert history(server).count(("bot", words)) == 1
    if what == "handoff":
        assert len({*keys}) == 1
        assert len(keys) == (2 if when == "told" else 1)
