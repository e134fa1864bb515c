"""``convsync doctor``: what works, what does not, why, and what to do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated

import typer
from rich.console import Console

from langchain_convsync._flow import run
from langchain_convsync.cli._doctor import api_server, customer
from langchain_convsync.cli._doctor.api_server import API, UNKNOWN_CUSTOMER, Probe
from langchain_convsync.cli._doctor.customer import CONVERSATION
from langchain_convsync.cli._doctor.findings import (
    Area,
    Finding,
    nothing_failed,
    print_report,
    report_json,
)
from langchain_convsync.cli._doctor.judging import WRITING
from langchain_convsync.cli._doctor.store import store as store_findings
from langchain_convsync.cli._doctor.trial import Trial, tried_out
from langchain_convsync.cli._doctor.whatsapp import waha
from langchain_convsync.client import Answer, Api, chosen, recommended
from langchain_convsync.client._outgoing import mount_point
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.phone import EXPECTED, PhoneFormat, identity_of
from langchain_convsync.settings import (
    DOCUMENTED_PREFIX,
    OBSERVED_PREFIX,
    ServerProfile,
    base_url_setting,
    optional_setting,
)

TRANSPORT = Area("transport")


def doctor(
    *,
    base_url: Annotated[
        str | None, typer.Option(help="The API server; CONVSYNC_BASE_URL when absent.")
    ] = None,
    phone: Annotated[
        str | None,
        typer.Option(help="A customer to look up: a phone number, chat id, BSUID or other id."),
    ] = None,
    bot_id: Annotated[str | None, typer.Option(help="The bot that --phone talks to.")] = None,
    prefix: Annotated[
        str | None,
        typer.Option(help="The path of the endpoints, if it is neither of the known ones."),
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="The event store; CONVSYNC_STORE_URL when absent.")
    ] = None,
    waha_url: Annotated[
        str | None, typer.Option(help="WAHA; CONVSYNC_WAHA_BASE_URL when absent.")
    ] = None,
    write: Annotated[
        bool,
        typer.Option(
            "--write",
            help="WRITES into the conversation of --phone, so take a test customer: posts two or "
            "three messages that begin with “convsync doctor”, sets two context keys, tries "
            "intents, and puts back what it can.",
        ),
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for each answer.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Tell what works, what does not, why, and what to do next.

    Looks at the API server, at the event store and at WAHA, with the keys in CONVSYNC_API_KEY and
    CONVSYNC_WAHA_API_KEY. Only reads, unless --write is given. Ends with 1 if a check failed.
    """
    if write and phone is None:
        message = "--write needs --phone: the test customer whose conversation it writes into"
        raise ConfigurationError(message)
    # What the store would warn of is among the findings.
    logging.getLogger("langchain_convsync").addHandler(logging.NullHandler())
    findings = [
        *_api(base_url, prefix, phone, bot_id, write=write, timeout=timeout),
        *store_findings(store, _addresses(base_url, prefix)),
        *waha(waha_url, timeout=timeout),
        *_transports(),
    ]
    if as_json:
        typer.echo(report_json(findings))
    else:
        print_report(findings, Console(highlight=False))
    if not nothing_failed(findings):
        raise typer.Exit(1)


def _prefixes(prefix: str | None) -> tuple[str, ...]:
    """Where the endpoints may be mounted, the likeliest first."""
    return tuple(dict.fromkeys([prefix or DOCUMENTED_PREFIX, DOCUMENTED_PREFIX, OBSERVED_PREFIX]))


def _addresses(base_url: str | None, prefix: str | None) -> list[str]:
    """Where the API server's endpoints may be; none where it is not configured."""
    try:
        url = base_url_setting(base_url)
        return [mount_point(url, each) for each in _prefixes(prefix)]
    except ConfigurationError:  # which is told beside the API server
        return []


def _api(
    base_url: str | None,
    prefix: str | None,
    phone: str | None,
    bot_id: str | None,
    *,
    write: bool,
    timeout: float,
) -> Iterator[Finding]:
    try:
        url = base_url_setting(base_url)
        probes = api_server.probed(url, _prefixes(prefix), timeout=timeout)
    except ConfigurationError as error:
        advice = "correct --base-url (CONVSYNC_BASE_URL), CONVSYNC_API_KEY or --prefix"
        yield API.failed("configuration", str(error), advice)
        return
    last = api_server.likeliest(probes)
    yield from api_server.reached(url, last.outcome)
    if not isinstance(last.outcome, Answer):
        yield API.skipped("everything else", "there is no answer to look at", "mend that first")
        return
    yield api_server.prefix(url, probes)
    yield api_server.clock(last, last.outcome.headers.get("Date"))
    if not (last.is_api or api_server.speaks(last.outcome)):
        yield API.skipped("everything else", "the API was not found", "mend that first")
        return
    yield api_server.health(last.outcome)
    key, *rest = _key_and_envelope(url, last, timeout=timeout)
    yield from (key, *rest)
    if key.status != "failed":
        yield from _conversation(url, last.prefix, phone, bot_id, write=write, timeout=timeout)


def _key_and_envelope(url: str, last: Probe, *, timeout: float) -> Iterator[Finding]:
    unknown = api_server.asked(url, last.prefix, UNKNOWN_CUSTOMER, timeout=timeout).outcome
    bare = api_server.asked(
        url, last.prefix, UNKNOWN_CUSTOMER, timeout=timeout, with_key=False
    ).outcome
    has_key = optional_setting(None, "CONVSYNC_API_KEY") is not None
    yield api_server.key(unknown, bare, has_key=has_key, base_url=url)
    yield api_server.envelope(unknown)


def _conversation(
    url: str,
    prefix: str,
    phone: str | None,
    bot_id: str | None,
    *,
    write: bool,
    timeout: float,
) -> Iterator[Finding]:
    if phone is None:
        yield CONVERSATION.skipped("lookup", "no customer is named", "pass --phone")
        return
    if identity_of(phone) is None:
        message = f"--phone: {EXPECTED}"
        yield CONVERSATION.failed("lookup", message, "pass one such as +51999999999")
        return

    def api_for(style: PhoneFormat) -> Api:
        return Api(
            url,
            timeout=timeout,
            profile=ServerProfile(prefix=prefix, phone_format=style),
            transport="httpx",
        )

    findings, found = customer.looked_up(api_for, phone, bot_id)
    yield from findings
    if found is None or not write:
        advice = "make it found first" if write else "pass --write, with a test customer as --phone"
        yield WRITING.skipped("everything", "nothing was written", advice)
        return
    with closing(api_for(found.phone_format)) as api:
        yield from run(tried_out(Trial(api=api, found=found, bot_id=bot_id)))


def _transports() -> list[Finding]:
    """Whether what ``CONVSYNC_TRANSPORT`` names works, and a word where aiohttp lies idle."""
    try:
        used = chosen(None, None)
    except ConfigurationError as error:
        return [TRANSPORT.failed("async calls", str(error), "correct CONVSYNC_TRANSPORT")]
    if message := recommended(used):
        advice = "set CONVSYNC_TRANSPORT=aiohttp where async calls cost too much CPU"
        return [TRANSPORT.skipped("async calls", message, advice)]
    return [TRANSPORT.ok("async calls", f"they travel over {used}")]
