"""``convsync status``: what a store still has to do; and how a command finds its store."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from langchain_convsync._flow import run
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.settings import required_setting
from langchain_convsync.stores import EventStore, SQLiteEventStore, open_store

_MEANINGS = {
    "queued": "events that no turn has answered yet",
    "interrupts": "runs of the agent that wait for an answer",
    "writes": "API writes that are not confirmed yet",
    "replies": "replies that are not confirmed sent yet",
    "dead_letters": "events, writes and replies that wait for an operator",
}


def status(
    store: Annotated[
        str | None, typer.Option(help="The event store; CONVSYNC_STORE_URL when absent.")
    ] = None,
    *,
    accounts: Annotated[
        bool, typer.Option("--accounts", help="Tell each account's part, too, by its key.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Tell what a store still has to do: events, writes, and what waits for an operator."""
    url = required_setting(store, argument="--store", variable="CONVSYNC_STORE_URL")
    opened = existing_store(url)
    try:
        left = asdict(run(opened.backlog()))
        loads = [asdict(load) for load in run(opened.loads())] if accounts else []
    finally:
        opened.close()
    if as_json:
        typer.echo(json.dumps({**left, "accounts": loads} if accounts else left))
        return
    table = Table("", "how many", "")
    for name, amount in left.items():
        table.add_row(name, str(amount), _MEANINGS[name])
    Console().print(table)
    if accounts:
        Console().print(_by_account(loads))


def existing_store(url: str) -> EventStore:
    """The event store at a URL; looking for a file creates none.

    Raises:
        ConfigurationError: The URL names no store, or a file that does not exist, or is empty.
    """
    opened = open_store(url)
    if isinstance(opened, SQLiteEventStore) and not Path(opened.path).exists():
        name = "here" if "@" in opened.path else opened.path  # a URL without scheme has a password
        message = f"there is no event store {name}: check --store or CONVSYNC_STORE_URL"
        raise ConfigurationError(message)
    if isinstance(opened, SQLiteEventStore) and not Path(opened.path).stat().st_size:
        message = (
            f"{opened.path} is empty (0 bytes), so it holds no event store: if there was work in "
            "it, it was truncated, by a power cut or a copy that failed: restore a backup"
        )
        raise ConfigurationError(message)
    return opened


def _by_account(loads: list[dict[str, Any]]) -> Table:
    table = Table("account", "queue", "conversations", "oldest is due")
    for load in loads:
        due = load["due_in"]
        since = f"in {due:.0f} s" if due > 0 else f"for {-due:.0f} s"
        table.add_row(load["account"], load["queue"], str(load["conversations"]), since)
    return table
