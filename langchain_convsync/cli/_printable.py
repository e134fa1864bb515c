"""Errors as a terminal may show them: an argument that is repeated in one steers nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.core import TyperGroup

from langchain_convsync._lines import one_line


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
            error.message = one_line(told)  # type: ignore[attr-defined]
        raise
