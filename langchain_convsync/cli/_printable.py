"""What a terminal shows: errors whose quoted arguments steer nothing, lines cut between words."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.core import TyperCommand, TyperGroup

from langchain_convsync._lines import one_line

#: Seconds between two looks where ``--watch`` names none.
WATCH = "2"


class PrintableErrors(TyperGroup):
    """A group of commands whose usage errors can be shown, whatever they quote."""

    def make_context(self, *args: Any, **settings: Any) -> Any:
        """The context; what is wrong in the command line is told here."""
        with _printable_messages():
            return super().make_context(*args, **settings)

    def invoke(self, ctx: Any) -> Any:
        """Run a command, whose own part of the command line is read here."""
        with _printable_messages():
            return super().invoke(ctx)


def wrapped(line: str) -> str:
    """A line as a terminal shows it, which would break it inside a word; elsewhere as it is."""
    if not sys.stdout.isatty():
        return line
    start = line[: len(line) - len(line.lstrip())]
    label = re.match(r"\S[\S ]*?\S?  +", line.lstrip())
    hang = " " * (len(start) + (label.end() if label else 2))
    width = max(40, shutil.get_terminal_size().columns)
    return textwrap.fill(
        line,
        width,
        subsequent_indent=hang,
        drop_whitespace=True,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )


@contextmanager
def _printable_messages() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # By its form: typer brings a click of its own, or uses the one that is installed.
        told = getattr(error, "message", None)
        if hasattr(error, "format_message") and isinstance(told, str):
            error.message = one_line(told)  # type: ignore[attr-defined]
        raise


class OptionalValue(TyperCommand):
    """A command whose option ``--watch`` may stand without its value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with the value that is meant where none is given."""
        meant = []
        for number, each in enumerate(args):
            meant.append(each)
            following = args[number + 1] if number + 1 < len(args) else "-"
            if each == "--watch" and following.startswith("-"):
                meant.append(WATCH)
        return super().parse_args(ctx, meant)
