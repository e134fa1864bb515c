"""What async calls of this environment travel over, and whether there is something cheaper."""

from __future__ import annotations

from langchain_convsync.cli._doctor.findings import Area, Finding
from langchain_convsync.client import chosen, recommended
from langchain_convsync.errors import ConfigurationError

TRANSPORT = Area("transport")


def transports() -> list[Finding]:
    """Whether what ``CONVSYNC_TRANSPORT`` names works, and a word where aiohttp lies idle."""
    try:
        used = chosen(None, None)
    except ConfigurationError as error:
        return [TRANSPORT.failed("async calls", str(error), "correct CONVSYNC_TRANSPORT")]
    if told := recommended(used):
        advice = "set CONVSYNC_TRANSPORT=aiohttp where async calls cost too much CPU"
        return [TRANSPORT.skipped("async calls", told, advice)]
    return [TRANSPORT.ok("async calls", f"they travel over {used}")]
