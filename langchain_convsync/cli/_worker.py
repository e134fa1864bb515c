"""``convsync worker``: a process that answers and delivers what is due in a store."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langchain_convsync.cli._logs import Format, Level, LogFormat, LogLevel, begin_logs
from langchain_convsync.cli._metrics import measured
from langchain_convsync.client import recommended
from langchain_convsync.errors import ConfigurationError

if TYPE_CHECKING:
    from langchain_convsync.turns import TurnRunner


def worker(
    runner: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:RUNNER",
            help="A TurnRunner with reply or on_reply, or a function that makes one.",
        ),
    ],
    *,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve /metrics on this port; 0 picks a free one."),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(help="Address to serve /metrics on; 0.0.0.0 for all.")
    ] = "127.0.0.1",
    log_level: LogLevel = Level.INFO,
    log_format: LogFormat = Format.TEXT,
) -> None:
    """Answer queued events, deliver writes and replies until SIGTERM or Ctrl-C.

    Events and writes of processes that died are taken over once their lease has ended. On SIGTERM
    it finishes what it is at. Run as many as you like on one store.
    """
    begin_logs(log_level, log_format)
    found = load(runner)
    stopping = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    port = None if metrics_port is None else (metrics_host, metrics_port)
    with measured(found, port), found:
        typer.echo(f"convsync worker {os.getpid()} is at work; SIGTERM or Ctrl-C ends it")
        if advice := recommended(*found.transports):
            typer.echo(advice, err=True)
        while not stopping.wait(1.0):  # a bare wait would keep Ctrl-C from Windows
            pass
    typer.echo("convsync worker ended")


def load(target: str) -> TurnRunner:
    """The runner that ``MODULE:RUNNER`` names.

    Raises:
        ConfigurationError: It names none, or one that cannot send its replies.
    """
    from langchain_convsync.turns import TurnRunner  # LangChain takes a while to import

    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute or module_name.startswith("."):
        message = f"{target!r} is not a MODULE:RUNNER, e.g. my_bot.agent:runner"
        raise ConfigurationError(message)
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        found = getattr(import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        message = f"there is no module {module_name!r} here: run this in the folder that holds it"
        raise ConfigurationError(message) from error
    except AttributeError as error:
        message = f"the module {module_name!r} has no {attribute!r}"
        raise ConfigurationError(message) from error
    runner = found if isinstance(found, TurnRunner) or not callable(found) else _made(found, target)
    if not isinstance(runner, TurnRunner):
        message = f"{target} is not a TurnRunner, and does not make one"
        raise ConfigurationError(message)
    if not runner.sends_replies:
        message = f"{target} cannot send replies: give it reply=WAHAReply(…) or on_reply=…"
        raise ConfigurationError(message)
    return runner


def _made(maker: Callable[..., object], target: str) -> object:
    """What a function without arguments makes.

    Raises:
        ConfigurationError: It is another function: one that wants arguments makes no runner, and
            is not called to find out.
    """
    if not _needs_nothing(maker):
        message = f"{target} is not a TurnRunner, nor a function that makes one without arguments"
        raise ConfigurationError(message)
    made = maker()
    if inspect.iscoroutine(made):
        made.close()
    return made


def _needs_nothing(maker: Callable[..., object]) -> bool:
    if inspect.isbuiltin(maker):  # sys:exit, say: they make no runner
        return False
    try:
        inspect.signature(maker).bind()
    except (TypeError, ValueError):
        return False
    return True
