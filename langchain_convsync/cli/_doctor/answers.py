"""Whether the API server's answers can be understood. Pure."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlsplit

from langchain_convsync.cli._doctor.findings import Finding
from langchain_convsync.cli._doctor.reach import API, Probe, described, json_object, status_of
from langchain_convsync.client import Answer, Outcome, http_date
from langchain_convsync.settings import is_loopback

#: Seconds that the two clocks may differ.
TOLERATED = 5.0


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
        told = f"a look-up fails ({described(with_key)})"
        return API.failed("key", told, "look into the API server's log")
    if status in {401, 403}:
        return _refused(status, has_key=has_key)
    if status_of(without) in {401, 403}:
        return API.ok("key", "the key is accepted, and needed")
    if is_loopback(urlsplit(base_url).hostname or ""):
        return API.ok("key", "none is asked for, on this machine")
    return API.warning(
        "key",
        "the API server answers without a key: whoever reaches it reads conversations",
        "have it check keys, or let nobody else reach it",
    )


def _refused(status: int, *, has_key: bool) -> Finding:
    if not has_key:
        told = f"the API server asks for a key ({status})"
        return API.failed("key", told, "set CONVSYNC_API_KEY")
    if status == 401:
        told = "the API server does not accept the key (401)"
        return API.failed("key", told, "set CONVSYNC_API_KEY to a valid key")
    return API.warning(
        "key",
        "the key may not ask for a number that is nobody's (403): it may be of one tenant",
        "pass --phone of a customer of that tenant",
    )


def envelope(nobody: Outcome) -> Finding:
    """How the server says that there is no such customer."""
    told = json_object(nobody) if isinstance(nobody, Answer) else None
    status = status_of(nobody)
    if told is None or ("type" not in told and status != 403):
        return API.failed(
            "envelope",
            f"an unknown customer is answered without the envelope ({described(nobody)})",
            'the document asks for 404 and {"type": "3", "message": …, "data": null}',
        )
    if status == 200 and told["type"] not in {"1", 1}:
        return API.ok("envelope", "errors come with status 200 and type 3, which is understood")
    return API.ok("envelope", f"answers have type, message and data (unknown customer: {status})")


def clock(probe: Probe, date: str | None) -> Finding:
    """How far the server's clock is from ours; its ``Date`` has whole seconds."""
    told = None if date is None else http_date(date)
    if told is None:
        return API.skipped(
            "clock", "the API server tells no time (no Date header)", "compare the clocks by hand"
        )
    early = (told - probe.received_at).total_seconds()
    late = (probe.sent_at - timedelta(seconds=1) - told).total_seconds()
    skew = max(early, late, 0.0)
    if skew <= TOLERATED:
        return API.ok("clock", "the API server's clock agrees with this machine's")
    direction = "ahead of" if early > 0 else "behind"
    return API.warning(
        "clock",
        f"the API server's clock is {skew:.0f} s {direction} this machine's",
        "let both follow NTP: tokens, expiry and the order of messages hang on it",
    )
