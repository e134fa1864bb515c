"""``convsync adopt``: tell a store that it serves an API server under another address, too."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from langchain_convsync._flow import run
from langchain_convsync.cli._status import existing_store
from langchain_convsync.settings import required_setting
from langchain_convsync.stores.served import address_of, adopted


def adopt(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="The API server with its prefix; without a path, the documented one.",
        ),
    ],
    store: Annotated[
        str | None, typer.Option(help="The event store; CONVSYNC_STORE_URL when absent.")
    ] = None,
    *,
    only: Annotated[
        bool, typer.Option("--only", help="Forget the addresses that it was served under before.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Let a store serve its API server under this address, too: it moved, or has several names."""
    address = address_of(url)
    opened = existing_store(
        required_setting(store, argument="--store", variable="CONVSYNC_STORE_URL")
    )
    try:
        amount = run(adopted(opened, address, only=only))
    finally:
        opened.close()
    if as_json:
        typer.echo(json.dumps({"adopted": address, "addresses": amount}))
        return
    known = "the only one" if amount == 1 else f"one of {amount} addresses"
    typer.echo(f"the store serves {address} now, {known}; processes see it within a minute")
