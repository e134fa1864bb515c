"""``convsync worker``: answers and delivers what other processes left."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
import typer

from langchain_convsync._flow import run
from langchain_convsync.cli._target import load
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.models import InboundEvent
from langchain_convsync.stores import open_store
from langchain_convsync.testing import ReferenceServer
from langchain_convsync.turns import TurnRunner
from tests.promises import on_sqlite

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

#: A runner whose agent can only be awaited: its tools are those of an MCP server on stdio.
MCP_BOT = """
import sys
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_convsync import TurnRunner
from langchain_convsync.testing import ScriptedChatModel

MENU = {"menu": {"command": sys.executable, "args": [SERVER], "transport": "stdio"}}
CALL = AIMessage("", tool_calls=[{"name": "menu", "args": {"day": "hoy"}, "id": "1"}])

def send(turn):
    print("sent", turn.reply, flush=True)

def tell(messages):
    return f"Hay {messages[-1].text}"

async def runner():
    tools = await MultiServerMCPClient(MENU).get_tools()
    return TurnRunner(create_agent(ScriptedChatModel([CALL, tell]), tools), on_reply=send)
"""

#: An agent that blocks for ever, on a thread of the worker's pool.
STUCK_BOT = """
import threading
from langchain_core.runnables import RunnableLambda
from langchain_convsync import TurnRunner

def answer(messages):
    print("began", flush=True)
    threading.Event().wait()

runner = TurnRunner(RunnableLambda(answer), on_reply=print, shutdown_timeout=0.1)
"""

MCP_SERVER = """
from mcp.server.fastmcp import FastMCP

server = FastMCP("menu")

@server.tool()
def menu(day: str) -> str:
    "The menu of a day."
    return f"sopa ({day})"

server.run("stdio")
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
    folder: Path, server: ReferenceServer, store_url: str, bot: str = BOT, **settings: str
) -> Iterator[subprocess.Popen[str]]:
    """A worker process that is at work."""
    (folder / "bot.py").write_text(bot)
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


@pytest.mark.slow  # processes of their own
@on_sqlite
def test_an_async_worker_answers_with_a_tool_of_an_mcp_server(
    server: ReferenceServer, durable_store_url: str, tmp_path: Path
) -> None:
    """Such tools can only be awaited, and are got by awaiting: in an async function."""
    (tmp_path / "menu.py").write_text(MCP_SERVER)
    queued("¿Qué hay?", server, durable_store_url)
    bot = f"SERVER = {str(tmp_path / 'menu.py')!r}\n{MCP_BOT}"

    with working(tmp_path, server, durable_store_url, bot) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "sent Hay sopa (hoy)\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def test_a_worker_ends_on_sigterm_although_its_agent_never_comes_back(
    server: ReferenceServer, tmp_path: Path
) -> None:
    """Python would wait for the thread; what was begun stays in the store."""
    store_url = f"sqlite:///{tmp_path / 'events.db'}"
    queued("Hola", server, store_url)

    with working(tmp_path, server, store_url, STUCK_BOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "convsync worker ended\n"
        assert process.wait(timeout=120) == 0


@pytest.mark.slow  # processes of their own
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


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: ReferenceServer
) -> Iterator[Path]:
    """A user's folder, in which the command is called."""
    (tmp_path / "bot.py").write_text(BOT)
    (tmp_path / "one.py").write_text(ONE)
    (tmp_path / "several.py").write_text(f"{ONE}\nother = make()\n")
    (tmp_path / "broken.py").write_text("def deeper():\n    1 / 0\n\ndeeper()\n")
    (tmp_path / "missing.py").write_text("import a_package_that_is_not_there\n")
    (tmp_path / "shop" / "bots").mkdir(parents=True)
    for package in ("shop", "shop/bots"):
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "shop" / "bots" / "agent.py").write_text(f"from shop import bots\n{ONE}")
    before, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVSYNC_BASE_URL", server.base_url)
    monkeypatch.setenv("CONVSYNC_STORE_URL", ":memory:")
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"bot", "one", "several", "broken", "missing", "shop"}:
            del sys.modules[name]


#: A module with one runner, by itself and in apps; what else it has makes one.
ONE = """
from contextlib import asynccontextmanager
from fastapi import FastAPI
from langchain_core.runnables import RunnableLambda
from langchain_convsync import TurnRunner, create_app
from langchain_convsync.app import create_router

def make():
    return TurnRunner(RunnableLambda(str), on_reply=print)

async def amake():
    return make()

@asynccontextmanager
async def opened():
    yield make()

runner = make()
app = create_app(runner, waha_secrets="secret")
api = FastAPI()
api.include_router(create_router(runner, waha_secrets="secret"), prefix="/bots")
outer = FastAPI()
outer.mount("/api", api)

class settings:
    bot = runner
"""


@pytest.mark.parametrize(
    "target",
    [
        "one:runner",
        "one:app",
        "one:api",
        "one:outer",
        "one:settings.bot",
        "one",
        "one.py",
        "./one.py",
        "one.py:runner",
        "one:make",
        "one:amake",
        "one:opened",
        "shop.bots.agent:runner",
        "shop/bots/agent.py:runner",
        "shop/bots/agent.py",
    ],
)
async def test_a_runner_is_found_by_each_of_its_names(target: str, folder: Path) -> None:
    """Whatever people give to uvicorn or to python, and functions that make one."""
    del folder
    async with AsyncExitStack() as opened:
        runner = await load(target, opened)

    assert isinstance(runner, TurnRunner)
    own = getattr(sys.modules[type_of(target)], "runner")  # noqa: B009 - a module of the test's
    assert (runner is own) is not target.endswith(("make", "opened"))


def type_of(target: str) -> str:
    return "shop.bots.agent" if "shop" in target else "one"


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("bot", "bot cannot send replies"),
        ("several", "name several:runner or several:app"),
        ("several:runer", "has no 'runer': name several:runner"),
        (":runner", "not a MODULE:RUNNER"),
        ("nowhere_to_be_found:runner", "no module"),
        ("shop.nowhere:runner", "no module"),
        ("nowhere.py:runner", "no file 'nowhere.py'"),
        ("one.runner", "no module 'one.runner' here: did you mean one:runner"),
        ("one/runner", "did you mean one:runner"),
        ("shop.bots.agent.runner", "did you mean shop.bots.agent:runner"),
        ("shop/bots/agent/runner", "did you mean shop.bots.agent:runner"),
        ("bot:missing", "has no 'missing'"),
        ("bot:something", "is a int, not a TurnRunner"),
        ("bot:answer", "without arguments"),
        ("bot:mute", "on_reply"),
    ],
)
async def test_what_cannot_work_is_told_at_once(target: str, complaint: str, folder: Path) -> None:
    """Not at the first event, and with what to name instead."""
    del folder
    with pytest.raises(ConfigurationError, match=complaint):
        await load(target, AsyncExitStack())


@pytest.mark.parametrize(
    ("target", "told"), [("broken:runner", "ZeroDivisionError"), ("missing:runner", "a_package")]
)
async def test_an_error_of_the_users_module_is_shown_as_python_shows_it(
    target: str, told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the user's frames, and none of ours."""
    with pytest.raises(typer.Exit):
        await load(target, AsyncExitStack())

    shown = capsys.readouterr().err
    assert told in shown
    assert str(folder) in shown
    assert "langchain_convsync" not in shown
