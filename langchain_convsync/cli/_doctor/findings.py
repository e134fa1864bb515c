"""What the checks found, for people and programs, in words that name no customer and no key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from langchain_convsync.phone import masked
from langchain_convsync.settings import ServerProfile, is_loopback
from langchain_convsync.waha.wire import one_line

Status: TypeAlias = Literal["ok", "warning", "failed", "skipped"]

_HEX_ID = re.compile(r"[0-9a-fA-F]{24}")
_NUMBER = re.compile(r"\+?[0-9]{7,}")
_DEFAULT = ServerProfile()
_NAMES = tuple(setting.name for setting in fields(ServerProfile))
_STYLES: dict[Status, str] = {
    "ok": "green",
    "warning": "yellow",
    "failed": "bold red",
    "skipped": "dim",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found.

    Attributes:
        area: What was looked at, e.g. ``"API server"``.
        check: Which side of it.
        status: ``failed`` keeps the bot from working; ``warning`` may surprise.
        message: What was seen.
        advice: What to do next; empty where nothing is to be done.
        profile: The settings of ``ServerProfile`` that were seen.
    """

    area: str
    check: str
    status: Status
    message: str
    advice: str = ""
    profile: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Area:
    """Makes the findings of one area."""

    name: str

    def ok(self, check: str, message: str, **profile: Any) -> Finding:
        """It is as it should be."""
        return Finding(area=self.name, check=check, status="ok", message=message, profile=profile)

    def warning(self, check: str, message: str, advice: str, **profile: Any) -> Finding:
        """It works, and may surprise."""
        return self._other("warning", check, message, advice, profile)

    def failed(self, check: str, message: str, advice: str) -> Finding:
        """It does not work."""
        return self._other("failed", check, message, advice, {})

    def skipped(self, check: str, message: str, advice: str) -> Finding:
        """It was not checked, or it cannot be told."""
        return self._other("skipped", check, message, advice, {})

    def encrypted(self, base_url: str) -> Finding:
        """Whether what is said to a server that answers can be read on the way."""
        url = urlsplit(base_url)
        if url.scheme == "https":
            return self.ok("TLS", "the certificate is good")
        if is_loopback(url.hostname or ""):
            return self.ok("TLS", "none: plain http on this machine")
        message = f"none: keys and customers' words go to {url.hostname} over plain http"
        advice = "only your own services may reach that network; else put TLS in front of it"
        return self.warning("TLS", message, advice)

    def _other(
        self, status: Status, check: str, message: str, advice: str, profile: Mapping[str, Any]
    ) -> Finding:
        return Finding(
            area=self.name,
            check=check,
            status=status,
            message=message,
            advice=advice,
            profile=profile,
        )


def safe_name(name: str) -> str:
    """A name that a server or a user chose, on one line; some look like phone numbers."""
    line = one_line(name, 60)
    if _HEX_ID.fullmatch(line):
        return line  # a database id, whatever digits it holds
    return _NUMBER.sub(lambda number: masked(number[0]), line)


def report_json(findings: Sequence[Finding]) -> str:
    """One JSON object; ``seen`` names the settings of the profile that were seen."""
    settings = seen_settings(findings)
    names = ("area", "check", "status", "message", "advice")
    report = {
        "ok": nothing_failed(findings),
        "findings": [{name: getattr(finding, name) for name in names} for finding in findings],
        "profile": profile_expression(settings) if settings else None,
        "seen": list(settings),
    }
    return json.dumps(report)


def print_report(findings: Sequence[Finding], console: Console) -> None:
    """One line per check, what to do below it, and the profile at the end."""
    for finding in findings:
        status = (f"{finding.status:<8}", _STYLES[finding.status])
        line = Text.assemble(status, f"{finding.area}, {finding.check}: {finding.message}")
        console.print(line, soft_wrap=True)
        if finding.advice:
            console.print(Text(f"{'':8}next: {finding.advice}", "bold"), soft_wrap=True)
    failed = sum(finding.status == "failed" for finding in findings)
    console.print(Text(f"\n{failed} failed" if failed else "\nnothing failed"))
    if settings := seen_settings(findings):
        console.print("\nWhat was seen fits this profile:\n")
        console.print(Text(profile_expression(settings)), soft_wrap=True)


def nothing_failed(findings: Sequence[Finding]) -> bool:
    """Whether the command succeeds."""
    return all(finding.status != "failed" for finding in findings)


def seen_settings(findings: Iterable[Finding]) -> dict[str, Any]:
    """The settings that any of the findings saw."""
    merged = {name: value for finding in findings for name, value in finding.profile.items()}
    return {name: merged[name] for name in _NAMES if name in merged}


def profile_expression(settings: Mapping[str, Any]) -> str:
    """The ``ServerProfile`` to paste; what was not seen is in a comment, left at its default."""
    differing = [
        f"    {name}={_literal(value)},"
        for name, value in settings.items()
        if value != getattr(_DEFAULT, name)
    ]
    unseen = ", ".join(name for name in _NAMES if name not in settings)
    lines = [*differing, *([f"    # not seen, left at the default: {unseen}"] if unseen else [])]
    return "\n".join(["ServerProfile(", *lines, ")"])


def _literal(value: Any) -> str:
    if isinstance(value, frozenset):
        return f"frozenset({{{', '.join(json.dumps(each) for each in sorted(value))}}})"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
