"""A module as gunicorn, Celery and a forkserver preload it: its clients worked before any fork."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from langchain_convsync.client import AsyncConvSyncClient, ConvSyncClient

CLIENT = ConvSyncClient(max_retries=0, timeout=60.0)
CLIENT.health()
ASYNC_CLIENT = AsyncConvSyncClient(max_retries=0, timeout=60.0)
LOOP = asyncio.new_event_loop()
LOOP.run_until_complete(ASYNC_CLIENT.health())  # its connection stays open


def tenant(phone: str) -> str:
    """The tenant that a phone number talks to, as both clients know it."""
    found = {CLIENT.lookup_tenant(phone).subdomain, asyncio.run(_tenant(phone))}
    return "/".join(sorted(found))


async def _tenant(phone: str) -> str:
    return (await ASYNC_CLIENT.lookup_tenant(phone)).subdomain


def application(environ: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
    """For gunicorn: ``/+51…`` is answered by the tenant of that number."""
    told = tenant(environ["PATH_INFO"].strip("/"))
    start("200 OK", [("Content-Type", "text/plain")])
    return [told.encode()]
