"""``convsync serve``: the reference API server."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from langchain_convsync.cli._logs import Format, Level, LogFormat, LogLevel, begin_logs
from langchain_convsync.errors import ConfigurationError

if TYPE_CHECKING:
    from langchain_convsync.server.configuration import Configuration

IN_MEMORY = "sqlite://"


def serve(
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file with tenants, keys, limits and forwarding; options count for more."
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port to listen on; 0 picks a free one.", show_default="8000"
        ),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="CONVSYNC_DATABASE_URL",
            help="Where conversations are kept, e.g. sqlite:///conversations.db; in memory by "
            "default.",
        ),
    ] = None,
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
        str | None,
        typer.Option(
            metavar="NAME,…",
            help="Differ from the document as servers in the wild do: observed for all that one "
            "public server shows, or a comma list such as prefix,intent_enum.",
        ),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="A proxy, or a network of them, whose X-Forwarded-For tells who calls; may be "
            "repeated. Without one, no such header counts.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say where it listens as JSON.")] = False,
    log_level: LogLevel = Level.INFO,
    log_format: LogFormat = Format.TEXT,
) -> None:
    """Run the reference API server until it is interrupted."""
    from langchain_convsync.server import create_reference_api
    from langchain_convsync.server.configuration import Configuration
    from langchain_convsync.server.serving import listen, server_for, url_of

    begin_logs(log_level, log_format)
    chosen = Configuration() if config is None else Configuration.read(config)
    options: dict[str, Any] = {"host": host, "port": port, "database_url": database_url}
    options["trusted_proxies"] = tuple(trusted_proxy) if trusted_proxy else None
    options |= _from_options(chosen, tenant or [], waha_secret, quirks)
    chosen = replace(chosen, **{k: value for k, value in options.items() if value is not None})
    app = create_reference_api(
        chosen.database_url,
        tenants=chosen.tenants,
        waha_secrets=chosen.waha_secrets,
        quirks=chosen.quirks,
        api_keys=chosen.api_keys,
        jwt=chosen.jwt,
        rate_limit=chosen.rate_limit,
        forwarding=chosen.forwarding,
        answer_cap=chosen.answer_cap,
    )
    listener = listen(chosen.host, chosen.port)
    # uvicorn raises the signal again once it has shut down.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    _announce(url_of(listener), chosen, as_json=as_json)
    server_for(app, grace=5, trusted_proxies=chosen.trusted_proxies).run([listener])


def _from_options(
    chosen: Configuration, tenant: list[str], waha_secret: str | None, quirks: str | None
) -> dict[str, Any]:
    from pydantic import SecretStr

    from langchain_convsync.server import Tenant

    named = {session: Tenant(*names) for session, *names in map(_tenant, tenant)}
    return {
        "tenants": {**chosen.tenants, **named},
        "waha_secrets": None if waha_secret is None else (SecretStr(waha_secret),),
        "quirks": None
        if quirks is None
        else tuple(name.strip() for name in quirks.split(",") if name.strip()),
    }


def _tenant(option: str) -> tuple[str, str, str]:
    session, assigned, names = option.partition("=")
    subdomain, colon, bot_id = names.partition(":")
    if not (session and assigned and colon):
        message = "--tenant must look like SESSION=SUBDOMAIN:BOT"
        raise ConfigurationError(message)
    return session, subdomain, bot_id


def _announce(url: str, chosen: Configuration, *, as_json: bool) -> None:
    served = _served(chosen)
    if as_json:
        text = json.dumps({"base_url": url, "serves": served})
    else:
        in_memory = chosen.database_url == IN_MEMORY
        kept = "in memory: gone when it stops" if in_memory else "kept in the database"
        text = f"The API server answers at {url} (API: {url}/docs; conversations {kept})"
        text += "".join(f"\n  {name}: {value}" for name, value in served.items())
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()  # a script that started it may be waiting for this line


def _served(chosen: Configuration) -> dict[str, str]:
    """What there is, without secrets and WAHA's sessions, which are named after phone numbers."""
    from urllib.parse import urlsplit

    keys = [f"{key.name} ({_all_of(key.tenants)})" for key in chosen.api_keys]
    keys += [f"JWTs by {chosen.jwt.algorithm}"] if chosen.jwt else []
    limit, to = chosen.rate_limit, chosen.forwarding
    tenants = sorted({f"{each.subdomain}:{each.bot_id}" for each in chosen.tenants.values()})
    return {
        "keys": ", ".join(keys) or "none: every client may call, and sees every tenant",
        "limit": f"{limit.per_minute} requests a minute, {limit.capacity} at once"
        if limit
        else "none",
        "tenants": ", ".join([*tenants, "and what WAHA's metadata says"]),
        "WAHA's events": "signed" if chosen.waha_secrets else "accepted unsigned",
        "forwarded to": urlsplit(to.url).netloc.rpartition("@")[2] if to else "no webhook",
    }


def _all_of(tenants: object) -> str:
    return ", ".join(sorted(map(str, tenants))) if isinstance(tenants, frozenset) else "all tenants"


def _leave(*_: object) -> NoReturn:
    sys.exit(0)
