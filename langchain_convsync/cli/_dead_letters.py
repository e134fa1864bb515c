"""``convsync dead-letters``: from the number of dead letters in a store to the customers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langchain_convsync._flow import run
from langchain_convsync._lines import one_line, span
from langchain_convsync.cli._conversation import letter_facts
from langchain_convsync.cli._printable import wrapped
from langchain_convsync.cli._store import AsJson, Store, opened_store

if TYPE_CHECKING:
    from langchain_convsync.turns.operators import DeadLetters


def dead_letters(
    store: Store = None,
    account: Annotated[
        str,
        typer.Option(
            help="Of this receiving side only: its subdomain, bot id, number, WAHA session, or key."
        ),
    ] = "default",
    *,
    most: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, max=1000, help="Tell so many at most.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """Tell what waits for an operator in the whole store: whose it is, since when, and why.

    What waits longest comes first. No phone number and no text is printed: the key leads on.
    """
    from langchain_convsync.turns import operators

    with opened_store(store) as opened:
        found = run(operators.list_dead_letters(opened, account=account, most=most))
    if as_json:
        typer.echo(json.dumps(_facts(found)))
        return
    for line in _lines(_facts(found)):
        typer.echo(wrapped(line))


def _facts(found: DeadLetters) -> dict[str, Any]:
    """What a program reads."""
    return {
        "total": found.total,
        "dead_letters": [
            {
                "conversation": one.conversation_key,
                "account": one.conversation_key[:15],
                "since": datetime.fromtimestamp(one.since, UTC).isoformat(timespec="seconds"),
                **letter_facts(one, found.now),
            }
            for one in found.letters
        ],
    }


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """What people read: under each conversation's key what is dead of it."""
    key = ""
    for one in found["dead_letters"]:
        if one["conversation"] != key:
            key = one["conversation"]
            yield key
        unclear = "; it may have arrived" if one["unclear"] else ""
        yield f"  {one['kind']}, for {span(one['age'])}: {one_line(one['reason'])}{unclear}"
    told, total = len(found["dead_letters"]), found["total"]
    if not total:
        yield "no dead letters"
        return
    yield ""
    if told < total:
        yield f"These are {told} of {total}: --most tells more."
    yield "One conversation: convsync show KEY, retry KEY, discard KEY."
    yield "All that have one reason: convsync retry --all --reason TEXT, or discard."
