"""``convsync worker``: answers and delivers what other processes left."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from langchain_convsync._flow import run
from langchain_convsync.cli._worker import load
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores import open_store
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner

CUSTOMER = "+51999999999"

BOT = """
import os
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_convsync import TurnRunner

def send(turn):
    print("sent", turn.reply, flush=True)

def answer(messages):
    return AIMessage("re: " + messages[-1].content)

def runner():
    return TurnRunner(RunnableLambda(answer), on_reply=send)

mute = TurnRunner(RunnableLambda(answer))
something = 42
"""


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    with ReferenceServer() as running:
        running.create_conversation(
            phone_number=CUSTOMER, subdomain="restaurant-abc", bot_id="bot123"
        )
        yield running


@contextmanager
def working(
    folder: Path, server: ReferenceServer, store_url: str, **settings: str
) -> Iterator[subprocess.Popen[str]]:
    """A worker process that is at work."""
    (folder / "bot.py").write_text(BOT)
    command = [sys.executable, "-c", "from langchain_convsync.cli import main; main()"]
    environment = {
        "CONVSYNC_BASE_URL": server.base_url,
        "CONVSYNC_STORE_URL": store_url,
        **settings,
    }
    with subprocess.Popen(
        [*command, "worker", "bot:runner"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "is at work" in process.stdout.readline()
        yield process
        process.kill()


def queued(text: str, server: ReferenceServer, store_url: str) -> None:
    """An event that was recorded by a webhook which does not answer itself."""
    from langchain_core.runnables import RunnableLambda

    store = open_store(store_url)
    runner = TurnRunner(
        RunnableLambda(str), client=server.client(), store=store, debounce=0.05, max_debounce=0.05
    )
    turn = runner.run(InboundEvent(event_id=text, phone_number=CUSTOMER, text=text), wait=0)
    store.close()
    assert turn.status == "queued"


def test_a_worker_answers_what_is_queued_and_ends_on_sigterm(
    server: ReferenceServer, durable_store_url: str, tmp_path: Path
) -> None:
    """It sends the reply, delivers the writes, and leaves nothing behind."""
    queued("Hola", server, durable_store_url)

    with working(tmp_path, server, durable_store_url) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "sent re: Hola\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0

    kept = [(m.role, m.content) for m in server.conversation(CUSTOMER).messages]
    assert kept == [("user", "Hola"), ("bot", "re: Hola")]
    store = open_store(durable_store_url)
    assert run(store.backlog()).writes == 0
    store.close()


@pytest.mark.parametrize(("transport", "advice"), [("httpx", 1), ("aiohttp", 0)])
def test_a_worker_recommends_an_aiohttp_that_lies_idle(
    transport: str, advice: int, server: ReferenceServer, tmp_path: Path
) -> None:
    """One line, apart from what the bot prints."""
    store_url = f"sqlite:///{tmp_path / 'events.db'}"
    with working(tmp_path, server, store_url, CONVSYNC_TRANSPORT=transport) as process:
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)

    assert told.count("CONVSYNC_TRANSPORT=aiohttp") == advice


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("bot", "not a MODULE:RUNNER"),
        ("nowhere_to_be_found:runner", "no module"),
        ("bot:missing", "has no 'missing'"),
        ("bot:something", "is not a TurnRunner"),
        ("bot:mute", "on_reply"),
    ],
)
def test_what_cannot_work_is_told_at_once(
    target: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: ReferenceServer,
) -> None:
    """Not at the first event."""
    (tmp_path / "bot.py").write_text(BOT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CONVSYNC_BASE_URL", server.base_url)
    monkeypatch.setenv("CONVSYNC_STORE_URL", ":memory:")
    monkeypatch.delitem(sys.modules, "bot", raising=False)

    with pytest.raises(ConfigurationError, match=complaint):
        load(target)
    sys.modules.pop("bot", None)
