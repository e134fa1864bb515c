"""The findings for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from langchain_convsync.cli._doctor import profile
from langchain_convsync.cli._doctor.findings import Finding, Status

_STYLES: dict[Status, str] = {
    "ok": "green",
    "warning": "yellow",
    "failed": "bold red",
    "skipped": "dim",
}


def as_json(findings: Sequence[Finding]) -> str:
    """One JSON object; ``seen`` names the settings of the profile that were seen."""
    settings = profile.seen(findings)
    names = ("area", "check", "status", "told", "advice")
    told = {
        "ok": nothing_failed(findings),
        "findings": [{name: getattr(finding, name) for name in names} for finding in findings],
        "profile": profile.expression(settings) if settings else None,
        "seen": list(settings),
    }
    return json.dumps(told)


def show(findings: Sequence[Finding], console: Console) -> None:
    """One line per check, what to do below it, and the profile at the end."""
    for finding in findings:
        status = (f"{finding.status:<8}", _STYLES[finding.status])
        line = Text.assemble(status, f"{finding.area}, {finding.check}: {finding.told}")
        console.print(line, soft_wrap=True)
        if finding.advice:
            console.print(Text(f"{'':8}next: {finding.advice}", "bold"), soft_wrap=True)
    failed = sum(finding.status == "failed" for finding in findings)
    console.print(Text(f"\n{failed} failed" if failed else "\nnothing failed"))
    if settings := profile.seen(findings):
        console.print("\nWhat was seen fits this profile:\n")
        console.print(Text(profile.expression(settings)), soft_wrap=True)


def nothing_failed(findings: Sequence[Finding]) -> bool:
    """Whether the command succeeds."""
    return all(finding.status != "failed" for finding in findings)
