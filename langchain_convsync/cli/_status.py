"""``convsync status``: what a store still has to do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from langchain_convsync._flow import run
from langchain_convsync._lines import one_line, span
from langchain_convsync.cli._store import Store, opened_store
from langchain_convsync.errors import StoreError
from langchain_convsync.stores import EventStore

_MEANINGS = {
    "queued": "events that no turn has answered yet",
    "interrupts": "conversations in which something waits for an answer, or for its time",
    "writes": "API writes that are not confirmed yet",
    "replies": "replies that are not confirmed sent yet",
    "dead_letters": "events, writes, replies that wait for an operator",
}
_WHICH = "convsync dead-letters tells which, and why."


def status(
    store: Store = None,
    *,
    accounts: Annotated[
        bool, typer.Option("--accounts", help="Tell each account's part, too, by its key.")
    ] = False,
    watch: Annotated[
        float | None,
        typer.Option(
            metavar="[SECONDS]",
            min=0.1,
            max=3600.0,
            help="Look again every so many seconds, every 2 if none are given, until Ctrl-C.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a look.")] = False,
) -> None:
    """Tell what a store still has to do: events, writes, and what waits for an operator."""
    with opened_store(store) as opened:
        if watch is None:
            _tell(_look(opened, accounts=accounts), as_json=as_json)
            return
        with suppress(KeyboardInterrupt):  # how a watch ends
            _watch(opened, watch, accounts=accounts, as_json=as_json)


def _look(store: EventStore, *, accounts: bool) -> dict[str, Any]:
    left = asdict(run(store.backlog()))
    return {**left, "accounts": [asdict(load) for load in run(store.loads())]} if accounts else left


def _tell(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found))
    else:
        Console(highlight=False).print(_as_tables(found))


def _watch(store: EventStore, seconds: float, *, accounts: bool, as_json: bool) -> None:
    """Look again and again; a store that does not answer meanwhile is told, and asked again."""
    console = Console(highlight=False)
    if as_json or not console.is_terminal:
        while True:
            found = _look(store, accounts=accounts)
            typer.echo(json.dumps(found) if as_json else _as_line(found))
            time.sleep(seconds)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            at = Text(f"{_clock()}, again every {span(seconds)}, Ctrl-C ends it")
            try:
                shown: Any = _as_tables(_look(store, accounts=accounts))
            except StoreError as error:
                shown = Text(one_line(str(error)), style="red")
            live.update(Group(at, shown), refresh=True)
            time.sleep(seconds)


def _as_line(found: dict[str, Any]) -> str:
    numbers = ", ".join(f"{name} {found[name]}" for name in _MEANINGS)
    loads = (
        f"{load['account']} {load['queue']} {load['conversations']} {_since(load)}"
        for load in found.get("accounts", ())
    )
    return "; ".join([f"{_clock()} {numbers}", *loads])


def _clock() -> str:
    return f"{datetime.now().astimezone():%H:%M:%S}"


def _as_tables(found: dict[str, Any]) -> Group:
    """What people read; only what explains a number may go on in a second line."""
    table = _table("", "", "")
    for name, meaning in _MEANINGS.items():
        amount = found[name]
        bad = "bold red" if name == "dead_letters" else "bold"
        style = bad if amount else "dim"
        table.add_row(Text(name, style), Text(str(amount), style), Text(meaning, "dim"))
    told: list[Any] = [table]
    if found["dead_letters"]:
        told.append(Text(_WHICH, "red"))
    if "accounts" in found:
        told += ["", _by_account(found["accounts"])]
    return Group(*told)


def _by_account(loads: Iterable[dict[str, Any]]) -> Table:
    table = _table("account", "chats", "queue", "the first of them")
    for load in loads:
        late = not load["held"] and load["due_in"] < -60
        since = Text(_since(load), "yellow" if late else "")
        table.add_row(load["account"], str(load["conversations"]), load["queue"], since)
    return table


def _since(load: dict[str, Any]) -> str:
    """Since when the account's first work is due; what a worker has is due when it loses it."""
    due = load["due_in"]
    if load["held"]:
        return "a worker has it"
    return f"is due in {span(due)}" if due > 0 else f"is due for {span(-due)}"


def _table(*names: str) -> Table:
    """A table whose columns are as wide as what is in them, but the last one."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_header=any(names))
    for number, name in enumerate(names):
        is_last = number == len(names) - 1
        table.add_column(name, justify="right" if number == 1 else "left", no_wrap=not is_last)
    return table
