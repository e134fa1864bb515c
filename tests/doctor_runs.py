"""Running ``convsync doctor`` and reading what it found."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from typer.testing import CliRunner

from langchain_convsync import ServerProfile
from langchain_convsync.cli import command_line
from tests.faulty_server import Deed, FaultyServer, Received, Script, answers

NOT_FOUND = {"type": "3", "message": "No active conversation found", "data": None}


@dataclass(frozen=True)
class Report:
    """What ``--json`` prints."""

    exit_code: int
    json: dict[str, Any]

    def of(self, area: str, check: str) -> dict[str, str]:
        """The one finding of a check."""
        (found,) = self.all_of(area, check)
        return found

    def all_of(self, area: str, check: str) -> list[dict[str, str]]:
        """Every finding of a check."""
        return [f for f in self.json["findings"] if (f["area"], f["check"]) == (area, check)]

    def status(self, area: str, check: str) -> str:
        """How a check ended."""
        return self.of(area, check)["status"]

    @property
    def failed(self) -> list[tuple[str, str]]:
        """The checks that failed."""
        found = self.json["findings"]
        return [(f["area"], f["check"]) for f in found if f["status"] == "failed"]

    @property
    def profile(self) -> ServerProfile:
        """The profile, pasted."""
        pasted = eval(self.json["profile"], {"ServerProfile": ServerProfile})
        assert isinstance(pasted, ServerProfile)
        return pasted


def printed(*arguments: str) -> str:
    """What people read."""
    return CliRunner().invoke(command_line(), ["doctor", *arguments]).output


def doctor(*arguments: str) -> Report:
    """What programs read."""
    done = CliRunner().invoke(command_line(), ["doctor", *arguments, "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Report(done.exit_code, json.loads(done.stdout))


@dataclass
class Routes:
    """An API server that answers by path; other paths are a look-up of an unknown customer."""

    health: Script = field(default_factory=lambda: answers({"type": "1", "data": {}}))
    lookup: Script = field(default_factory=lambda: answers(NOT_FOUND, 404))
    unknown: Script = field(default_factory=lambda: answers(NOT_FOUND, 404))

    def __call__(self, request: Received) -> Iterable[bytes | float | Deed]:
        if request.target.endswith("/health"):
            return self.health(request)
        if "10000000000" in request.target:
            return self.unknown(request)
        return self.lookup(request)


def examined(script: Script, *arguments: str) -> Report:
    """What doctor finds at a server that plays a script."""
    with FaultyServer() as server:
        server.plays(script)
        return doctor("--base-url", server.url, *arguments)
