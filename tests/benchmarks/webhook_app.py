"""A webhook under uvicorn, in a process of its own that ends when its standard input does.

``python -m tests.benchmarks.webhook_app KIND PLACE QUIET``
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Any

import redis.asyncio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse

from langchain_convsync import AsyncConvSyncClient, TurnRunner, create_app, waha
from tests.benchmarks.agents import decided, new_agent
from tests.benchmarks.ours import STORES, new_store
from tests.benchmarks.place import Place

SECRET = "what WAHA signs with"
BARE = "bare Starlette, SET NX"


def our_app(place: Place, kind: str, debounce: float) -> Any:
    """``create_app``; what is accepted is due after ``debounce`` seconds."""
    (store_kind,) = [known for known in STORES if known == kind]
    runner = TurnRunner(
        new_agent(),
        client=AsyncConvSyncClient(place.api_url),
        store=new_store(place, store_kind),
        extractor=decided,
        on_reply=lambda _turn: None,
        debounce=debounce,
        max_debounce=debounce,
        shutdown_timeout=0.0,
        max_turns_per_minute=None,  # these customers are machines
    )
    return create_app(runner, waha_secrets=SECRET)


def bare_app(place: Place) -> Any:
    """What people write: verified, and noted as seen; what the message was is lost with us."""
    client = redis.asyncio.Redis.from_url(place.redis_url)

    async def receive(request: Request) -> JSONResponse:
        raw = await request.body()
        if not waha.verify(raw, request.headers, SECRET):
            return JSONResponse({}, 401)
        event = waha.parse_json(raw)
        assert isinstance(event, dict)
        new = await client.set(f"seen:{event['payload']['id']}", 1, nx=True, ex=86400)
        return JSONResponse({"status": "queued" if new else "duplicate"})

    app = Starlette()
    app.add_route("/webhook", receive, methods=["POST"])
    return app


async def serve(app: Any) -> None:
    """Print the port and the process id, and serve until this process is ended."""
    config = uvicorn.Config(app, port=0, log_level="warning", access_log=False, backlog=1000)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn tells it this way alone
        await asyncio.sleep(0.01)
    sys.stdout.write(f"{server.servers[0].sockets[0].getsockname()[1]} {os.getpid()}\n")
    sys.stdout.flush()
    await serving


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    kind, *told, debounce = sys.argv[1:]
    where = Place.from_told(*told)
    asyncio.run(serve(bare_app(where) if kind == BARE else our_app(where, kind, float(debounce))))
