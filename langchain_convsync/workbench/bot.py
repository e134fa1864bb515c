"""The bot's process: your runner behind its webhook, at work on the workbench's servers.

It is killed now and then. It ends by itself when the workbench has.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from langchain_convsync.app import create_app
from langchain_convsync.server.serving import listen, server_for, url_of
from langchain_convsync.turns import TurnRunner
from langchain_convsync.turns.threads import OwnThreads
from langchain_convsync.workbench.pointing import point_at
from langchain_convsync.workbench.process import GIVEN, MORE, Place
from langchain_convsync.workbench.watching import watch

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: Seconds that the bot waits at most for a message that is announced.
MOMENT = 60.0

Load: TypeAlias = Callable[[str, AsyncExitStack], Awaitable[TurnRunner]]


class Line:
    """The line to the workbench: one JSON object per fact.

    Args:
        port: Where the workbench listens.
        key: What it knows this process by.
    """

    def __init__(self, port: int, key: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._lock = threading.Lock()
        self.tell("hello", key=key, pid=os.getpid())

    def tell(self, kind: str, **facts: Any) -> None:
        """Tell a fact; where nobody hears it any more, this process is about to end."""
        told = json.dumps({"kind": kind, **facts}, default=str).encode() + b"\n"
        with self._lock:
            try:
                self._socket.sendall(told)
            except OSError:
                return

    def wait(self) -> None:
        """Block until the workbench has gone."""
        try:
            while self._socket.recv(1):
                pass
        except OSError:
            return


def main(load: Load) -> None:
    """Run the runner that the environment names, until SIGTERM or the workbench's end.

    Args:
        load: Finds a runner, as ``convsync worker`` does.
    """
    given = json.loads(os.environ[GIVEN])
    line = Line(given["port"], given["key"])
    point_at(Place(**given["place"]), lambda words: line.tell("notice", text=words))
    watch(line.tell)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises it again once it has ended
        signal.signal(number, _leave)
    try:
        asyncio.run(_work(load, given["target"], given["groups"], line))
    except SystemExit:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # an agent that does not come back holds up nothing


async def _work(load: Load, target: str, groups: bool, line: Line) -> None:
    listener = listen("127.0.0.1", 0)
    async with AsyncExitStack() as opened:
        runner = await load(target, opened)
        runner._has_a_process_of_its_own()  # noqa: SLF001 - as the worker's
        asyncio.get_running_loop().set_default_executor(OwnThreads())
        app = _Moments(create_app(runner, groups="mentions" if groups else False), runner)
        server = server_for(app, grace=2)
        threading.Thread(target=_end_with, args=(line,), daemon=True).start()
        await opened.enter_async_context(runner.lifespan())
        line.tell("ready", url=f"{url_of(listener)}/webhook", files=sorted(_files()))
        await server.serve([listener])


class _Moments:
    """ASGI middleware: what is said in one moment is answered together, however slow it comes."""

    def __init__(self, app: ASGIApp, runner: TurnRunner) -> None:
        self._app, self._inbox = app, runner._inbox  # noqa: SLF001 - as no webhook could
        self._rules = self._inbox.rules
        self._waiting = replace(self._rules, debounce=MOMENT, max_debounce=MOMENT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            more = any(name == MORE.lower().encode() for name, _ in scope["headers"])
            self._inbox.rules = self._waiting if more else self._rules
        await self._app(scope, receive, send)


def _leave(*_: object) -> NoReturn:
    sys.exit(0)


def _end_with(line: Line) -> None:
    line.wait()
    os.kill(os.getpid(), signal.SIGTERM)


def _files() -> Iterator[str]:
    """The files of modules that lie here: the user's own, which change."""
    here = Path.cwd().resolve()
    for module in [*sys.modules.values()]:
        name = getattr(module, "__file__", None)
        if name is None or not name.endswith(".py"):
            continue
        file = Path(name).resolve()
        if file.is_relative_to(here) and not {"site-packages", ".venv"} & set(file.parts):
            yield str(file)
