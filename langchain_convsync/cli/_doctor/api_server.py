"""Whether the API server is there, under which path, and whether its answers make sense."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from langchain_convsync._flow import run
from langchain_convsync.cli._doctor.findings import Area, Finding
from langchain_convsync.client import Answer, Caller, Failure, Outcome, Pace, http_date
from langchain_convsync.client._answers import is_no_endpoint
from langchain_convsync.settings import (
    DOCUMENTED_PREFIX,
    CallTarget,
    ServerProfile,
    is_loopback,
)

API = Area("API server")
#: Seconds that the two clocks may differ.
TOLERATED = 5.0
#: A phone number that belongs to no customer: asking for it tells how the server says so.
UNKNOWN_CUSTOMER = "/lookup/tenant/%2B10000000000"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one plain request came to, and when; ``is_api`` if the API's envelope was seen there."""

    prefix: str
    outcome: Outcome
    sent_at: datetime
    received_at: datetime
    is_api: bool = False


def asked(
    base_url: str | None, prefix: str, path: str, *, timeout: float, with_key: bool = True
) -> Probe:
    """The outcome of one GET, once, with the key or without.

    Raises:
        ConfigurationError: base_url or the key is missing or malformed.
    """
    caller = Caller(
        base_url,
        api_key=None,
        timeout=timeout,
        max_retries=0,
        profile=ServerProfile(prefix=prefix),
        transport="httpx",
        trust_env=None,
        http_client=None,
        pace=Pace(),
    )
    request = caller.request("GET", path)
    sent_at = datetime.now(UTC)
    try:
        asking = caller.ask(
            request,
            lambda outcome: outcome,
            target=CallTarget() if with_key else None,
            operation="probe",
            until=caller.until(),
        )
        outcome = run(asking)
    finally:
        caller.connections.close()
    return Probe(prefix=prefix, outcome=outcome, sent_at=sent_at, received_at=datetime.now(UTC))


def probed(base_url: str, prefixes: Sequence[str], *, timeout: float) -> list[Probe]:
    """Health under each prefix, until the API is under one, or nothing can be reached.

    Another router may be under the same path, and refuse all that it does not know. So where health
    is answered without the envelope, a customer is asked for who does not exist.
    """
    probes: list[Probe] = []
    for prefix in prefixes:
        probe = asked(base_url, prefix, "/health", timeout=timeout)
        if isinstance(probe.outcome, Answer):
            unknown = partial(asked, base_url, prefix, UNKNOWN_CUSTOMER, timeout=timeout)
            is_api = _is_enveloped(probe.outcome) or _is_enveloped(unknown().outcome)
            probe = replace(probe, is_api=is_api)
        probes.append(probe)
        if probe.is_api or isinstance(probe.outcome, Failure):
            break
    return probes


def _is_enveloped(outcome: Outcome) -> bool:
    said = json_object(outcome) or {}
    return "type" in said and not (
        status_of(outcome) == HTTPStatus.NOT_FOUND and is_no_endpoint(said)
    )


def likeliest(probes: Sequence[Probe]) -> Probe:
    """The probe that looks most like the API; the last one where none does."""
    best = max(probes, key=_likeness)
    return best if _likeness(best) else probes[-1]


def _likeness(probe: Probe) -> int:
    """The API, something that speaks JSON, something that refuses, or nothing."""
    if probe.is_api:
        return 3
    if not speaks(probe.outcome):
        return 0
    return 1 if status_of(probe.outcome) in {401, 403} else 2


def reached(base_url: str, outcome: Outcome) -> list[Finding]:
    """Reachability and TLS."""
    url = urlsplit(base_url)
    if isinstance(outcome, Failure):
        check = "TLS" if isinstance(outcome.cause, ssl.SSLError) else "reachable"
        return [
            API.failed(
                check, f"{base_url}: {outcome.reason}", _what_to_check(outcome, url.hostname)
            )
        ]
    return [API.ok("reachable", f"{base_url} answers"), API.encrypted(base_url)]


def _what_to_check(failure: Failure, host: str | None) -> str:
    advice = _usual_check(failure, host)
    return f"{advice}; {failure.hint}" if failure.hint else advice


def _usual_check(failure: Failure, host: str | None) -> str:
    if isinstance(failure.cause, socket.gaierror):
        return f"check the spelling of {host} in base_url, and this machine's DNS"
    if isinstance(failure.cause, ConnectionRefusedError):
        return "nothing listens there: start the API server, or check the port in base_url"
    if isinstance(failure.cause, ssl.SSLCertVerificationError):
        return "renew the certificate, use the name that it was made for, or trust its authority"
    if isinstance(failure.cause, ssl.SSLError):
        return "check that this port speaks TLS (https) at all"
    if failure.kind == "timeout":
        return "check that the API server is not overloaded, and the firewalls on the way"
    return "check that base_url leads to the API server, and its log"


def speaks(outcome: Outcome) -> bool:
    """Whether something of the API is at this path, be it a refusal."""
    return (
        isinstance(outcome, Answer)
        and json_object(outcome) is not None
        and not 300 <= outcome.status < 400
        and outcome.status not in {404, 405}
    )


def prefix(base_url: str, probes: Sequence[Probe]) -> Finding:
    """Under which path the endpoints are."""
    best = likeliest(probes)
    found = best.prefix if _likeness(best) else None
    answers = "; ".join(f"{p.prefix}/health: {described(p.outcome)}" for p in probes)
    if found == DOCUMENTED_PREFIX:
        return API.ok("prefix", f"the endpoints are under {found}, as documented", prefix=found)
    if found is not None:
        return API.warning(
            "prefix",
            f"the endpoints are under {found}, not under the documented prefix ({answers})",
            f"pass ServerProfile(prefix={json.dumps(found)}) to the client",
            prefix=found,
        )
    if any(status_of(probe.outcome) in {401, 403} for probe in probes):
        return API.failed(
            "prefix",
            f"something refuses every path before the API sees it ({answers})",
            "check CONVSYNC_API_KEY, and what the proxy in front of the API server asks for",
        )
    if any(300 <= (status_of(probe.outcome) or 0) < 400 for probe in probes):
        return API.failed(
            "prefix",
            f"the API server redirects, which is not followed because of the key ({answers})",
            "pass the URL that it redirects to (https? another host?) as base_url",
        )
    if any((status_of(probe.outcome) or 0) >= 500 for probe in probes):
        return API.failed(
            "prefix",
            f"the API server, or the proxy in front of it, fails ({answers})",
            "look into both their logs",
        )
    path = urlsplit(base_url).path
    hint = f"leave the path {path} out of base_url, or " if path else ""
    return API.failed(
        "prefix",
        f"the API is under none of the prefixes ({answers})",
        f"{hint}check base_url, and pass --prefix if the endpoints are mounted elsewhere",
    )


def health(outcome: Answer) -> Finding:
    """What the server says of itself."""
    if outcome.status in {401, 403}:
        return API.skipped("health", "it asks for a key", "see the key")
    if outcome.status < 300 and (json_object(outcome) or {}).get("type", "1") in {"1", 1}:
        return API.ok("health", "the API server calls itself healthy")
    return API.failed(
        "health",
        f"the API server does not call itself healthy ({described(outcome)})",
        "look into its log, and at its database",
    )


def key(with_key: Outcome, without: Outcome, *, has_key: bool, base_url: str) -> Finding:
    """Whether the key is accepted, and whether one is needed.

    Args:
        with_key: The answer to a look-up as it is asked by a client.
        without: The answer to the same look-up without a key.
        has_key: Whether there is a key at all.
        base_url: Where it was asked.
    """
    status = status_of(with_key)
    if status is None or status >= 500:
        message = f"a look-up fails ({described(with_key)})"
        return API.failed("key", message, "look into the API server's log")
    if status in {401, 403}:
        return _refused(status, has_key=has_key)
    if status_of(without) in {401, 403}:
        return API.ok("key", "the key is accepted, and needed")
    if is_loopback(urlsplit(base_url).hostname or ""):
        return API.ok("key", "none is asked for, on this machine")
    return API.warning(
        "key",
        "the API server answers without a key: every client that reaches it reads conversations",
        "have it check keys, or let only your agents reach it",
    )


def _refused(status: int, *, has_key: bool) -> Finding:
    if not has_key:
        message = f"the API server asks for a key ({status})"
        return API.failed("key", message, "set CONVSYNC_API_KEY")
    if status == 401:
        message = "the API server does not accept the key (401)"
        return API.failed("key", message, "set CONVSYNC_API_KEY to a valid key")
    return API.warning(
        "key",
        "the key may not ask for a number without a customer (403): it may be of one tenant",
        "pass --phone of a customer of that tenant",
    )


def envelope(outcome: Outcome) -> Finding:
    """How the server says that there is no such customer."""
    answer = json_object(outcome) if isinstance(outcome, Answer) else None
    status = status_of(outcome)
    if answer is None or ("type" not in answer and status != 403):
        return API.failed(
            "envelope",
            f"an unknown customer is answered without the envelope ({described(outcome)})",
            'the document asks for 404 and {"type": "3", "message": …, "data": null}',
        )
    if status == 200 and answer["type"] not in {"1", 1}:
        return API.ok("envelope", "errors come with status 200 and type 3, which is understood")
    return API.ok("envelope", f"answers have type, message and data (unknown customer: {status})")


def clock(probe: Probe, date: str | None) -> Finding:
    """How far the server's clock is from ours; its ``Date`` has whole seconds."""
    server_time = None if date is None else http_date(date)
    if server_time is None:
        return API.skipped(
            "clock", "the API server tells no time (no Date header)", "compare the clocks by hand"
        )
    early = (server_time - probe.received_at).total_seconds()
    late = (probe.sent_at - timedelta(seconds=1) - server_time).total_seconds()
    skew = max(early, late, 0.0)
    if skew <= TOLERATED:
        return API.ok("clock", "the API server's clock agrees with this machine's")
    direction = "ahead of" if early > 0 else "behind"
    return API.warning(
        "clock",
        f"the API server's clock is {skew:.0f} s {direction} this machine's",
        "let both follow NTP: tokens, expiry and the order of messages hang on it",
    )


def described(outcome: Outcome) -> str:
    """An answer's status and kind: never its text, which may repeat what was sent."""
    if isinstance(outcome, Failure):
        return outcome.reason
    if outcome.flaw is not None:
        return f"{outcome.status}, {outcome.flaw.reason}"
    if json_object(outcome) is not None:
        return f"{outcome.status}, JSON"
    html = "html" in outcome.headers.get("Content-Type", "").lower()
    return f"{outcome.status}, {'HTML' if html else 'no JSON object'}"


def status_of(outcome: Outcome) -> int | None:
    """The HTTP status, where a whole answer arrived."""
    return outcome.status if isinstance(outcome, Answer) and outcome.flaw is None else None


def json_object(answer: Outcome) -> dict[str, Any] | None:
    """The JSON object in an answer, if there is one."""
    if isinstance(answer, Failure) or answer.flaw is not None:
        return None
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
