"""``convsync chat``: talk to your bot in a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from langchain_convsync.cli._dev import BotId, Demo, Subdomain, Target, target_of
from langchain_convsync.cli._logs import Format, Level, LogFormat, LogLevel, begin_logs
from langchain_convsync.errors import MissingExtraError

if TYPE_CHECKING:
    from langchain_convsync.workbench.chat import Chat

#: Seconds that a bot may take to start.
START = 60.0
PROMPT = "> "
#: How each kind of line is shown: what stands before it, and its style.
STYLES = {
    "you": ("you  ", "bold"),
    "bot": ("bot  ", "bold green"),
    "sign": ("     ", "dim"),
    "step": ("     ⚙ ", "magenta"),
    "state": ("     ↳ ", "cyan"),
    "note": ("     · ", "dim"),
    "log": ("     ", "dim"),
    "error": ("     ✗ ", "red"),
    "trace": ("", "red"),
    "help": ("", ""),
}


def chat(
    runner: Target = None,
    *,
    demo: Demo = False,
    subdomain: Subdomain = "restaurant-abc",
    bot_id: BotId = "65a1b2c3d4e5f60718293a4b",
    log_level: LogLevel = Level.ERROR,
    log_format: LogFormat = Format.TEXT,
) -> None:
    """Talk to your bot in the terminal, through the whole pipeline; /help tells what else it takes.

    API server, WAHA and store are local and end with it. In a pipe each line is a message, and
    waits for its answer.
    """
    begin_logs(log_level, log_format)
    target = target_of(runner, demo=demo)
    try:
        from langchain_convsync.workbench import chat as talk
        from langchain_convsync.workbench.world import World
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("langchain_convsync"):
            raise
        raise MissingExtraError("convsync chat", "server") from error
    console = Console(highlight=False, soft_wrap=True)
    alone = sys.stdin.isatty()
    lines = _Lines(console, alone=alone)
    with World(target, subdomain=subdomain, bot_id=bot_id) as world:
        spoken = talk.Chat(world, lines.show)
        spoken.begin()
        if not world.ready(START):
            raise typer.Exit(1)
        if alone:
            lines.show("note", "write as the customer; /help tells what else there is")
            for line in lines.read():
                if not spoken.do(line):
                    break
        else:
            _play(spoken, lines)
        lines.show("note", spoken.counted())


def _play(spoken: Chat, lines: _Lines) -> None:
    """Each line of a pipe waits for what becomes of the one before."""
    for line in lines.read():
        if line.strip():
            lines.show("you", line.strip())
        if not spoken.do(line):
            return
        if not spoken.settle():
            lines.show("error", "it is still not answered; /state tells why")
            spoken.do("/state")
            raise typer.Exit(1)


class _Lines:
    """A terminal that is written to while a line is typed."""

    def __init__(self, console: Console, *, alone: bool) -> None:
        self._console, self._alone = console, alone
        self._lock = threading.Lock()
        self._typed: IO[str] = sys.stdin
        self._reading = False

    def show(self, kind: str, words: str) -> None:
        """Print a line above the one that is typed."""
        before, style = STYLES[kind]
        indented = words.replace("\n", f"\n{' ' * len(before)}")
        with self._lock:
            if self._reading:
                self._console.file.write("\r\x1b[K")
            self._console.print(Text(f"{before}{indented}", style=style))
            if self._reading:
                self._console.file.write(f"{PROMPT}{_typed()}")
                self._console.file.flush()

    def read(self) -> Iterator[str]:
        """The lines that are typed; with readline's keys and history in a terminal."""
        if not self._alone:
            yield from self._typed
            return
        with _history():
            while True:
                self._reading = True
                try:
                    line = input(PROMPT)
                except (EOFError, KeyboardInterrupt):
                    self._console.print()
                    return
                finally:
                    self._reading = False
                yield line


def _typed() -> str:
    """What stands in the line that is being typed."""
    with suppress(ImportError, AttributeError):
        import readline

        return readline.get_line_buffer()
    return ""


class _history:  # noqa: N801 - reads like a word
    """What was typed before, kept in a file of the user's."""

    file = Path.home() / ".convsync_history"

    def __enter__(self) -> None:
        with suppress(ImportError, OSError):
            import readline

            readline.read_history_file(self.file)

    def __exit__(self, *_: object) -> None:
        with suppress(ImportError, OSError):
            import readline

            readline.set_history_length(1000)
            readline.write_history_file(self.file)
            self.file.chmod(0o600)
