"""``convsync worker``: a process that answers and delivers what is due in a store."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from langchain_convsync.cli._logs import Format, Level, LogFormat, LogLevel, begin_logs
from langchain_convsync.cli._metrics import measured
from langchain_convsync.cli._target import load
from langchain_convsync.client import recommended

if TYPE_CHECKING:
    from langchain_convsync.turns.threads import OwnThreads


def worker(
    runner: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:RUNNER",
            help="A TurnRunner with reply or on_reply, an app with one, or a function that makes "
            "one, also an async one. MODULE alone means its only runner; it may be a file.",
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

    It works on one event loop: what blocks in your agent runs on threads.

    Events and writes of processes that died are taken over once their lease has ended. On SIGTERM
    it finishes what it is at. Run as many as you like on one store.
    """
    begin_logs(log_level, log_format)
    port = None if metrics_port is None else (metrics_host, metrics_port)
    asyncio.run(_work(runner, port))


async def _work(target: str, port: tuple[str, int] | None) -> None:
    from langchain_convsync.turns.threads import OwnThreads  # no other command waits for it

    loop, stopping, threads = asyncio.get_running_loop(), asyncio.Event(), OwnThreads()
    async with AsyncExitStack() as opened:
        found = await load(target, opened)
        for name in (signal.SIGTERM, signal.SIGINT):  # Windows has no loop.add_signal_handler
            signal.signal(name, lambda *_: loop.call_soon_threadsafe(stopping.set))
        found._has_a_process_of_its_own()  # noqa: SLF001 - nobody else's business
        loop.set_default_executor(threads)
        with measured(found, port):
            async with found:
                typer.echo(f"convsync worker {os.getpid()} is at work; SIGTERM or Ctrl-C ends it")
                if advice := recommended(*found.transports):
                    typer.echo(advice, err=True)
                while not stopping.is_set():  # a bare wait would keep Ctrl-C from Windows
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stopping.wait(), 1.0)
    typer.echo("convsync worker ended")
    await _end(threads)


async def _end(threads: OwnThreads) -> None:
    """Let what is left behind end; what does not is not waited for, as Python would for ever."""
    from langchain_convsync.turns.threads import PATIENCE

    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=PATIENCE)
    threads.shutdown()
    if not all(task.done() for task in left) or not threads.is_idle:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
