"""Where it was measured: numbers of another machine are not comparable."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

_PACKAGES = (
    "langchain-core",
    "langchain",
    "httpx",
    "httpx-aiohttp",
    "aiohttp",
    "redis",
    "pydantic",
)


def load() -> list[float]:
    """Of the machine, over one, five and fifteen minutes."""
    return [round(each, 2) for each in os.getloadavg()]


def facts() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load": load(),
        "versions": {name: version(name) for name in _PACKAGES},
    }
