"""Whether WAHA can be reached, which of its sessions work, and whether their signatures fit."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing

from langchain_convsync._flow import run
from langchain_convsync.cli._doctor.findings import Area, Finding, safe_name
from langchain_convsync.client import Waha, WahaSession
from langchain_convsync.errors import ConfigurationError, WAHAError
from langchain_convsync.settings import optional_setting
from langchain_convsync.waha.limits import meanwhile

WAHA = Area("WAHA")
_SET = "pass --waha-url or set CONVSYNC_WAHA_BASE_URL"


def waha(url: str | None, *, timeout: float) -> list[Finding]:
    """Every finding about the WAHA that ``--waha-url`` or the environment names."""
    url = optional_setting(url, "CONVSYNC_WAHA_BASE_URL")
    if url is None:
        return [WAHA.skipped("reachable", "none is named", _SET)]
    try:
        with closing(Waha(url, transport="httpx")) as server:
            found = run(server.sessions(timeout=timeout))
    except ConfigurationError as error:
        return [WAHA.failed("reachable", str(error), "correct that, then run doctor again")]
    except WAHAError as error:
        return [refused(error)]
    answers = [
        WAHA.ok("reachable", "WAHA answers"),
        WAHA.encrypted(url),
        WAHA.ok("key", "the key is accepted"),
    ]
    if not found:
        advice = "create a session in WAHA's dashboard, and scan its QR code"
        return [*answers, WAHA.failed("sessions", "WAHA has no session", advice)]
    own = optional_setting(None, "CONVSYNC_WAHA_SECRETS") or ""
    secrets = {secret.strip() for secret in own.split(",")} - {""}
    working = [each for each in found if each.status == "WORKING"]
    return [*answers, *map(session, found), *(webhook(each, secrets) for each in working)]


def refused(error: WAHAError) -> Finding:
    """Why the sessions could not be listed."""
    if error.status_code in {401, 403}:
        message = f"WAHA does not accept the key (status {error.status_code})"
        return WAHA.failed("key", message, "set CONVSYNC_WAHA_API_KEY to WAHA's API key")
    if error.status_code is None:
        return WAHA.failed("reachable", str(error), f"start WAHA, or {_SET}")
    if error.status_code == 404 or error.status_code < 400:
        message = f"there is no WAHA under this URL (status {error.status_code})"
        return WAHA.failed("reachable", message, f"{_SET}: without WAHA's own /api or /dashboard")
    message = f"WAHA fails (status {error.status_code})"
    return WAHA.failed("reachable", message, "look into WAHA's log")


def session(found: WahaSession) -> Finding:
    """Whether a session sends and receives. Statuses: WAHA's ``session.status``."""
    name, status = safe_name(found.name), safe_name(found.status or "no status")
    message = f"{name} is {status}"
    if found.limit is not None:
        ends = "" if found.limit.ends is None else f", until {found.limit.ends:%Y-%m-%d %H:%M} UTC"
        advice = "write first to fewer people: convsync tries again by itself when that ends"
        message = f"{name} {meanwhile(found.limit.kind)}: WhatsApp's {found.limit.kind}{ends}"
        return WAHA.failed("session", message, advice)
    if status == "WORKING":
        return WAHA.ok("session", message)
    if status == "SCAN_QR_CODE":
        return WAHA.failed("session", message, "scan its QR code with the phone that it belongs to")
    if status == "FAILED":
        advice = "restart it in WAHA; if that does not help, log it out and scan its QR code again"
        return WAHA.failed("session", message, advice)
    if status == "STOPPED":
        return WAHA.warning("session", message, "start it in WAHA, if customers are to be answered")
    return WAHA.warning("session", message, "wait a minute, then run doctor again")


def webhook(found: WahaSession, secrets: Collection[str]) -> Finding:
    """Whether a session's deliveries reach a webhook that accepts their signature."""
    name, hooks = safe_name(found.name), found.webhooks
    if not hooks:
        message = f"{name} has no webhook of its own"
        return WAHA.skipped("webhook", message, "check WHATSAPP_HOOK_URL and its HMAC key by hand")
    if not any({"message", "message.any"} & {*hook.events} for hook in hooks):
        advice = "switch on message.any, message.edited and message.revoked"
        return WAHA.failed("webhook", f"{name} delivers no messages", advice)
    keys = {hook.key.get_secret_value() for hook in hooks if hook.key is not None}
    if not keys:
        advice = "set hmac.key in the session's webhook, and CONVSYNC_WAHA_SECRETS to the same"
        return WAHA.failed("webhook", f"{name} does not sign what it delivers", advice)
    if not secrets:
        advice = "set CONVSYNC_WAHA_SECRETS as the app has it, then run doctor again"
        return WAHA.skipped("webhook", f"{name} signs; no secret to compare with", advice)
    if not keys & {*secrets}:
        message = f"{name} signs with a key that is not in CONVSYNC_WAHA_SECRETS"
        return WAHA.failed("webhook", message, "set it to the session's hmac.key")
    return WAHA.ok("webhook", f"{name} signs with a key of CONVSYNC_WAHA_SECRETS")
