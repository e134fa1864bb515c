"""The ``ServerProfile`` that fits what was seen, as a line to paste."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from langchain_convsync.cli._doctor.findings import Finding
from langchain_convsync.settings import ServerProfile

_DEFAULT = ServerProfile()
_NAMES = tuple(setting.name for setting in fields(ServerProfile))


def seen(findings: Iterable[Finding]) -> dict[str, Any]:
    """The settings that any of the findings saw."""
    merged = {name: value for finding in findings for name, value in finding.profile.items()}
    return {name: merged[name] for name in _NAMES if name in merged}


def expression(settings: Mapping[str, Any]) -> str:
    """The Python expression; what was not seen is named in a comment, and left at its default."""
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
