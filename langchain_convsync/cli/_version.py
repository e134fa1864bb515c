"""``convsync --version``."""

from __future__ import annotations

from typing import Annotated

import typer

from langchain_convsync._version import __version__


def _tell(asked: bool) -> None:
    if asked:
        typer.echo(f"convsync {__version__}")
        raise typer.Exit


def options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell, is_eager=True, help="Tell the version and exit."),
    ] = False,
) -> None:
    """Keeps a LangChain agent and a WhatsApp API server in step."""
