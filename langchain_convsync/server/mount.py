"""The ``prefix`` quirk: the endpoints elsewhere, and HTML for everything else."""

from __future__ import annotations

from html import escape

from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langchain_convsync.settings import DOCUMENTED_PREFIX, OBSERVED_PREFIX


class MountedElsewhere:
    """ASGI middleware that serves the documented endpoints under another prefix."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path: str = scope.get("path", "")
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = _cannot(scope["method"], path)
        if not path.startswith(f"{OBSERVED_PREFIX}/"):
            await refusal(scope, receive, send)
            return
        refused = False

        async def send_html_for_no_route(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start":
                unrouted = message["status"] == 404 and "route" not in scope
                refused = unrouted or message["status"] == 405
            if not refused:
                await send(message)

        # In place: middleware outside reads the route from this very scope.
        scope["path"] = DOCUMENTED_PREFIX + path.removeprefix(OBSERVED_PREFIX)
        await self._app(scope, receive, send_html_for_no_route)
        if refused:
            await refusal(scope, receive, send)


def _cannot(method: str, path: str) -> HTMLResponse:
    return HTMLResponse(
        "<!DOCTYPE html>\n<html><head><title>Error</title></head>"
        f"<body><pre>Cannot {escape(method)} {escape(path)}</pre></body></html>\n",
        404,
    )
