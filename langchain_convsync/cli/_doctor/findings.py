"""What one check found, in words that name no customer and no key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from langchain_convsync.phone import masked
from langchain_convsync.waha.wire import one_line

Status: TypeAlias = Literal["ok", "warning", "failed", "skipped"]

_HEX_ID = re.compile(r"[0-9a-fA-F]{24}")
_NUMBER = re.compile(r"\+?[0-9]{7,}")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found.

    Attributes:
        area: What was looked at, e.g. ``"API server"``.
        check: Which side of it.
        status: ``failed`` keeps the bot from working; ``warning`` may surprise.
        told: What was seen.
        advice: What to do next; empty where nothing is to be done.
        profile: The settings of ``ServerProfile`` that were seen.
    """

    area: str
    check: str
    status: Status
    told: str
    advice: str = ""
    profile: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Area:
    """Makes the findings of one area."""

    name: str

    def ok(self, check: str, told: str, **profile: Any) -> Finding:
        """It is as it should be."""
        return Finding(area=self.name, check=check, status="ok", told=told, profile=profile)

    def warning(self, check: str, told: str, advice: str, **profile: Any) -> Finding:
        """It works, and may surprise."""
        return self._other("warning", check, told, advice, profile)

    def failed(self, check: str, told: str, advice: str) -> Finding:
        """It does not work."""
        return self._other("failed", check, told, advice, {})

    def skipped(self, check: str, told: str, advice: str) -> Finding:
        """It was not looked at, or nobody can tell."""
        return self._other("skipped", check, told, advice, {})

    def _other(
        self, status: Status, check: str, told: str, advice: str, profile: Mapping[str, Any]
    ) -> Finding:
        return Finding(
            area=self.name, check=check, status=status, told=told, advice=advice, profile=profile
        )


def shown(name: str) -> str:
    """A name that somebody else chose, on one line; some are called like phone numbers."""
    line = one_line(name, 60)
    if _HEX_ID.fullmatch(line):
        return line  # a database id, whatever digits it holds
    return _NUMBER.sub(lambda number: masked(number[0]), line)
