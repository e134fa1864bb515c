"""What a Redis server's own words tell about losing data, each with what to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from langchain_convsync._lines import often

#: The oldest version that has every command of the store's scripts.
OLDEST = (6, 2)


class Risk(NamedTuple):
    """Why a server can lose what it acknowledged.

    Attributes:
        what: What is wrong with it.
        remedy: What to change.
    """

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


def risks(info: Mapping[str, Any]) -> list[Risk]:
    """What a server's ``INFO`` tells about losing data, each with what to do."""
    found = []
    if info.get("role", "master") != "master":
        found.append(Risk("this server is a replica", "connect to the primary"))
    if not info.get("aof_enabled", 1):
        found.append(Risk("it keeps no append-only file", "set `appendonly yes`"))
    if late := info.get("aof_delayed_fsync", 0):
        what = f"its disk was too slow for the append-only file {often(late)}"
        remedy = "set `appendfsync always`: with everysec a killed server loses up to 2 s then"
        found.append(Risk(what, remedy))
    if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction":
        found.append(Risk(f"it evicts keys ({policy})", "set `maxmemory-policy noeviction`"))
    version = str(info.get("redis_version", ""))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
        found.append(Risk(f"it is Redis {version}, too old", "use 6.2 or newer, or Valkey"))
    return found
