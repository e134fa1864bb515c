"""Whether WAHA can be reached, and which of its sessions work."""

from __future__ import annotations

from contextlib import closing

from langchain_convsync._flow import run
from langchain_convsync.cli._doctor.findings import Area, Finding, shown
from langchain_convsync.client import Waha, WahaSession
from langchain_convsync.errors import ConfigurationError, WAHAError
from langchain_convsync.settings import optional_setting

WAHA = Area("WAHA")
_SET = "pass --waha-url or set CONVSYNC_WAHA_BASE_URL"


def waha(url: str | None, *, timeout: float) -> list[Finding]:
    """Every finding about the WAHA that ``--waha-url`` or the environment names."""
    url = optional_setting(url, "CONVSYNC_WAHA_BASE_URL")
    if url is None:
        return [WAHA.skipped("reachable", "none is named", _SET)]
    try:
        with closing(Waha(url)) as server:
            found = run(server.sessions(timeout=timeout))
    except ConfigurationError as error:
        return [WAHA.failed("reachable", str(error), "correct that, then run doctor again")]
    except WAHAError as error:
        return [refused(error)]
    answers = [WAHA.ok("reachable", "WAHA answers"), WAHA.ok("key", "the key is accepted")]
    if not found:
        advice = "create a session in WAHA's dashboard, and scan its QR code"
        return [*answers, WAHA.failed("sessions", "WAHA has no session", advice)]
    return [*answers, *map(session, found)]


def refused(error: WAHAError) -> Finding:
    """Why the sessions could not be listed."""
    if error.status_code in {401, 403}:
        told = f"WAHA does not accept the key (status {error.status_code})"
        return WAHA.failed("key", told, "set CONVSYNC_WAHA_API_KEY to WAHA's API key")
    if error.status_code is None:
        return WAHA.failed("reachable", str(error), f"start WAHA, or {_SET}")
    if error.status_code == 404 or error.status_code < 400:
        told = f"there is no WAHA under this URL (status {error.status_code})"
        return WAHA.failed("reachable", told, _SET)
    told = f"WAHA fails (status {error.status_code})"
    return WAHA.failed("reachable", told, "look into WAHA's log")


def session(found: WahaSession) -> Finding:
    """Whether a session sends and receives. Statuses: WAHA's ``session.status``."""
    name, status = shown(found.name), shown(found.status or "no status")
    told = f"{name} is {status}"
    if status == "WORKING":
        return WAHA.ok("session", told)
    if status == "SCAN_QR_CODE":
        return WAHA.failed("session", told, "scan its QR code with the phone that it belongs to")
    if status == "FAILED":
        advice = "restart it in WAHA; if that does not help, log it out and scan its QR code again"
        return WAHA.failed("session", told, advice)
    if status == "STOPPED":
        return WAHA.warning("session", told, "start it in WAHA, if anybody is to be answered")
    return WAHA.warning("session", told, "wait a minute, then run doctor again")
