"""How often the server is asked what, how it answers and how fast; and ``GET /metrics``."""

from __future__ import annotations

import logging
from time import perf_counter

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langchain_convsync import telemetry

PATH = "/metrics"
logger = logging.getLogger("langchain_convsync.server.requests")


class Measured:
    """ASGI middleware around everything else: it needs no key, for it tells nothing of a tenant."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] == PATH and scope["method"] == "GET":
            text = Response(telemetry.exposition(), media_type=telemetry.CONTENT_TYPE)
            await text(scope, receive, send)
            return
        began, status, code = perf_counter(), "none", 0

        async def send_noted(message: Message) -> None:
            nonlocal status, code
            if message["type"] == "http.response.start":
                code = message["status"]
                status = f"{code // 100}xx"
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            took, route = perf_counter() - began, scope.get("route")
            operation = "unknown" if route is None else route.name
            telemetry.conceal("…" if route is None else route.path)
            telemetry.observe("server_request", took, operation=operation, status=status)
            _log(scope["method"], "(no route)" if route is None else route.path, code, took)


def _log(method: str, path: str, status: int, took: float) -> None:
    """One line for each request; its path without values, which are phone numbers and sessions."""
    ms = round(took * 1000)
    logger.info(
        "%s %s: %d in %d ms",
        method,
        path,
        status,
        ms,
        extra={"method": method, "path": path, "status": status, "ms": ms},
    )
