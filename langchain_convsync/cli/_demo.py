"""``convsync demo``: the main job, end to end.

A module of its own, so that no other command loads LangChain with the restaurant.
"""

from __future__ import annotations

from typing import Annotated

import typer

from langchain_convsync.cli._logs import Format, Level, LogFormat, LogLevel, begin_logs
from langchain_convsync.errors import MissingExtraError


def demo(
    *,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="The final state as one JSON object; all else goes to standard error."
        ),
    ] = False,
    log_level: LogLevel = Level.WARNING,
    log_format: LogFormat = Format.TEXT,
) -> None:
    """Play a WhatsApp conversation through an agent, and show what was synced.

    Runs on its own reference server. Without OPENAI_API_KEY the model is scripted; with it,
    ChatOpenAI answers (OPENAI_BASE_URL and OPENAI_MODEL are honoured).
    """
    begin_logs(log_level, log_format)
    try:
        from langchain_convsync.cli._restaurant import play  # LangChain takes a while to import
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("langchain_convsync"):
            raise
        raise MissingExtraError("convsync demo", "cli") from error
    play(as_json=as_json)
