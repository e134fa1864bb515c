"""``convsync serve``: the reference API server."""

from __future__ import annotations

import json
import signal
import sys
from typing import Annotated, NoReturn

import typer

from langchain_convsync.errors import ConfigurationError

IN_MEMORY = "sqlite://"


def serve(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")
    ] = 8000,
    database_url: Annotated[
        str,
        typer.Option(
            envvar="CONVSYNC_DATABASE_URL",
            help="Where conversations are kept, e.g. sqlite:///conversations.db; in memory by "
            "default.",
        ),
    ] = IN_MEMORY,
    tenant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SESSION=SUBDOMAIN:BOT",
            help="The tenant and bot of a WAHA session; may be repeated. Other sessions are known "
            "by their metadata: subdomain and bot.id.",
        ),
    ] = None,
    waha_secret: Annotated[
        str | None,
        typer.Option(
            envvar="CONVSYNC_WAHA_SECRET",
            help="The HMAC key that WAHA signs its events with; without one, unsigned events are "
            "accepted.",
        ),
    ] = None,
    quirks: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="Differ from the document as servers in the wild do: observed for all that one "
            "public server shows, or a comma list such as prefix,intent_enum.",
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Say where it listens as JSON.")] = False,
) -> None:
    """Run the reference API server until it is interrupted."""
    from langchain_convsync.server import Tenant, create_reference_api
    from langchain_convsync.server.serving import listen, server_for, url_of

    tenants = {session: Tenant(*names) for session, *names in map(_tenant, tenant or [])}
    app = create_reference_api(
        database_url,
        tenants=tenants,
        waha_secrets=waha_secret,
        quirks=[name.strip() for name in quirks.split(",") if name.strip()],
    )
    listener = listen(host, port)
    # uvicorn raises the signal again once it has shut down.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    _announce(url_of(listener), in_memory=database_url == IN_MEMORY, as_json=as_json)
    server_for(app, grace=5).run([listener])


def _tenant(option: str) -> tuple[str, str, str]:
    session, assigned, names = option.partition("=")
    subdomain, colon, bot_id = names.partition(":")
    if not (session and assigned and colon):
        message = "--tenant must look like SESSION=SUBDOMAIN:BOT"
        raise ConfigurationError(message)
    return session, subdomain, bot_id


def _announce(url: str, *, in_memory: bool, as_json: bool) -> None:
    if as_json:
        line = json.dumps({"base_url": url})
    else:
        kept = "in memory: gone when it stops" if in_memory else "kept in the database"
        line = f"The API server answers at {url} (API: {url}/docs; conversations {kept})"
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()  # whoever started it may be waiting for this line


def _leave(*_: object) -> NoReturn:
    sys.exit(0)
