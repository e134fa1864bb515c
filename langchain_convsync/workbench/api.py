"""The API server of the workbench: it tells who asked for what, and fails when it is told to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from langchain_convsync.testing import ReferenceServer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FAILURE = json.dumps({"type": "3", "message": "The workbench fails here.", "data": None}).encode()


class ApiServer(ReferenceServer):
    """A reference server that tells of every request.

    Args:
        tell: Called with a kind and facts.

    Attributes:
        failing: How many of the next writes are carried out and answered with 500.
    """

    def __init__(self, tell: Callable[..., Any]) -> None:
        super().__init__(groups="all")
        self.failing = 0
        self._app: ASGIApp = _Told(self._app, self, tell)  # type: ignore[assignment]  # wraps it


class _Told:
    """ASGI middleware that tells of each request, and may hide its answer behind a failure."""

    def __init__(self, app: ASGIApp, server: ApiServer, tell: Callable[..., Any]) -> None:
        self._app, self._server, self._tell = app, server, tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "webhook" in scope["path"]:
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        fails = scope["method"] in {"PUT", "POST"} and self._server.failing > 0
        if fails:
            self._server.failing -= 1

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            if not fails:
                await send(message)

        await self._app(scope, receive, sent)
        if fails:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 500, "headers": headers})
            await send({"type": "http.response.body", "body": _FAILURE})
        told = {
            "method": scope["method"],
            "path": getattr(scope.get("route"), "path", "").rpartition("/whatsapp")[2],
            "status": 500 if fails else status,
            "applied": status < 400,
            "seconds": time.perf_counter() - began,
        }
        self._tell("api", ids=[str(each) for each in scope.get("path_params", {}).values()], **told)
