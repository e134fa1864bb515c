"""Errors as a terminal may show them: an argument that is repeated in one steers nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.core import TyperGroup


def printable(text: str) -> str:
    """The text in one line, with what a terminal does not print spelled out.

    That is control characters, which move the cursor or change a title; marks that turn the
    direction of writing; halves of surrogate pairs.
    """
    one_line = " ".join(text.splitlines())
    return "".join(each if each.isprintable() else _spelled(each) for each in one_line)


def _spelled(character: str) -> str:
    return (
        character.encode("ascii", "backslashreplace").decode()
        if character > "\x7f"
        else repr(character)[1:-1]
    )


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


@contextmanager
def _printable_messages() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # By its form: typer brings a click of its own, or uses the one that is installed.
        told = getattr(error, "message", None)
        if hasattr(error, "format_message") and isinstance(told, str):
            error.message = printable(told)  # type: ignore[attr-defined]
        raise
