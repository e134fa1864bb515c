"""The page of ``convsync dev``: one HTML file, server-sent events, and a token that opens it.

It listens on loopback. A page of another origin, or of a name that leads here (DNS rebinding), gets
nothing: the token is in the address, ``Host`` must be this machine's, and what changes something
must come from the page itself.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp, Receive, Scope, Send

from langchain_convsync.errors import ConvSyncError
from langchain_convsync.workbench.live import Live, State
from langchain_convsync.workbench.timeline import Fact

if TYPE_CHECKING:  # who shows a store needs none
    from langchain_convsync.workbench.world import World

READ_ONLY = "convsync dev --read-only shows a store, and does nothing to it"
#: Seconds after which a silent stream says that it lives.
ALIVE = 15.0
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Deed(BaseModel):
    """What the page asks for."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    do: Literal[
        "meet",
        "write",
        "burst",
        "edit",
        "revoke",
        "colleague",
        "fault",
        "expire",
        "pause",
        "resume",
        "retry",
        "discard",
        "case",
    ]
    who: str = ""
    text: str = Field("", max_length=4000)
    texts: list[str] = Field(default_factory=list, max_length=20)
    times: int = Field(1, ge=1, le=20)
    twin: bool = False
    quotes: str | None = None
    image: bool = False
    fault: str = ""


def create_page(world: World | Live, *, token: str, port: int) -> FastAPI:
    """The page's app.

    Args:
        world: What it shows; a live store is shown, and nothing can be done about it.
        token: What opens it.
        port: Where it will listen.
    """
    app = FastAPI(openapi_url=None)
    html = files(__package__).joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/")
    def page() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        people = [{"name": c.name, "number": c.phone_number} for c in world.customers.values()]
        told = {"target": world.target, "customers": people, "readOnly": isinstance(world, Live)}
        config = json.dumps(told).replace("<", "\\u003c")
        shown = html.replace("{{nonce}}", nonce).replace("{{config}}", config)
        return HTMLResponse(
            shown, headers={"Content-Security-Policy": _POLICY.format(nonce=nonce), **_HEADERS}
        )

    @app.get("/events")
    async def events(request: Request, after: int = 0) -> StreamingResponse:
        return StreamingResponse(
            _events(world, after, request.is_disconnected),
            media_type="text/event-stream",
            headers=_HEADERS,
        )

    @app.post("/do", response_model=None)
    def do(deed: Deed) -> dict[str, Any] | PlainTextResponse:
        if isinstance(world, Live):
            return PlainTextResponse(READ_ONLY, 403, headers=_HEADERS)
        try:
            return {"done": _done(world, deed)}
        except (LookupError, ConvSyncError) as error:  # the page tells it; no error of the page's
            return {"refused": str(error.args[0] if error.args else error)}

    app.add_middleware(_Gate, token=token, port=port)
    return app


def _done(world: World, deed: Deed) -> Any:
    if deed.do == "meet":
        met = world.meet()
        return {"name": met.name, "number": met.phone_number}
    if deed.do == "fault":
        return world.fault(deed.fault)
    if deed.who not in world.customers:
        message = "there is no such customer"
        raise LookupError(message)
    who = world.customers[deed.who]
    deeds: dict[str, Callable[[], Any]] = {
        "write": lambda: world.write(
            who,
            deed.text,
            times=deed.times,
            twin=deed.twin,
            quotes=deed.quotes,
            image=deed.image,
        ),
        "burst": lambda: [world.write(who, text) for text in deed.texts],
        "edit": lambda: world.edit(who, deed.text),
        "revoke": lambda: world.revoke(who),
        "colleague": lambda: world.colleague(who, deed.text),
        "expire": lambda: world.expire(who),
        "pause": lambda: world.pause(who, 3600.0),
        "resume": lambda: world.pause(who, 0.0),
        "retry": lambda: world.retry(who),
        "discard": lambda: world.discard(who),
        "case": lambda: world.case(who),
    }
    return deeds[deed.do]()


async def _events(
    world: World | Live, after: int, is_gone: Callable[[], Any]
) -> AsyncIterator[str]:
    """Every fact after one, then each as it happens; and states as they change."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[str, Any]]()

    def put(kind: str, told: Any) -> None:
        try:
            loop.call_soon_threadsafe(queue.put_nowait, (kind, told))
        except RuntimeError:  # the loop has ended before this page knew
            return

    def fact(told: Fact) -> None:
        put("fact", told)

    def state(told: State) -> None:
        put("state", told)

    world.timeline.listen(fact, since=after)
    for each in world.listen(state):
        state(each)
    try:
        yield "retry: 500\n\n"
        while not await is_gone():
            try:
                kind, told = await asyncio.wait_for(queue.get(), ALIVE)
            except TimeoutError:
                yield ": still here\n\n"
                continue
            data = json.dumps(told, default=str, ensure_ascii=False)
            yield f"event: {kind}\ndata: {data}\n\n"
    finally:
        world.timeline.unlisten(fact)
        world.unlisten(state)


class _Gate:
    """Lets in who has the token, by this machine's name, from this page."""

    def __init__(self, app: ASGIApp, *, token: str, port: int) -> None:
        self._app, self._token = app, token
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope)):
            await PlainTextResponse(refusal, 403, headers=_HEADERS)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        host = headers.get("host", "")
        if host not in self._hosts:
            return "convsync dev answers on this machine alone: http://127.0.0.1"
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            return "open the address that convsync dev has printed, with its token"
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
        at_home = origin in {None, f"http://{host}"} and site in {"same-origin", "none"}
        if scope["path"] != "/" and not at_home:
            return "only the page itself may ask for this"
        if scope["method"] == "POST" and headers.get("content-type") != "application/json":
            return "only the page itself may ask for this"
        return None
