"""``convsync adopt``: tell a store that it serves an API server under another address, too."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from langchain_convsync._flow import run
from langchain_convsync.cli._store import AsJson, Store, opened_store
from langchain_convsync.stores.served import address_of, adopted


def adopt(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="The API server with its prefix; without a path, the documented one.",
        ),
    ],
    store: Store = None,
    *,
    only: Annotated[
        bool, typer.Option("--only", help="Forget the addresses that it was served under before.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let a store serve its API server under this address, too: it moved, or has several names."""
    address = address_of(url)
    with opened_store(store) as opened:
        amount = run(adopted(opened, address, only=only))
    if as_json:
        typer.echo(json.dumps({"adopted": address, "addresses": amount}))
        return
    known = "the only one" if amount == 1 else f"one of {amount} addresses"
    typer.echo(f"the store serves {address} now, {known}; processes see it within a minute")
