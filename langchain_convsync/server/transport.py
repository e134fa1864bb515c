"""Between HTTP and the routes: a bounded, strict body in; the envelope and a request id out."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from langchain_convsync._bodies import BodyReader, UnreadBodyError
from langchain_convsync.server.database import DatabaseAwayError
from langchain_convsync.server.histories import SpelledHistory
from langchain_convsync.server.strict_json import InvalidBodyError, strict_json
from langchain_convsync.server.wire import Failure
from langchain_convsync.settings import DOCUMENTED_PREFIX

_JSON = re.compile(r"application/([\w.-]+\+)?json\s*(;.*)?", re.IGNORECASE)
#: What may be a field of the API; anything else may be what a customer wrote.
_FIELD = re.compile(r"[A-Za-z][A-Za-z-]{0,39}")

AWAY = "The server's database does not answer: send the request again"
#: Seconds after which it is worth a try.
COME_AGAIN = "1"

_REQUEST_ID = {
    "X-Request-Id": {"schema": {"type": "string"}, "description": "Names it in the server's log."}
}

logger = logging.getLogger(__name__)


class StrictRequest(Request):
    """A request whose body is at most 1 MiB, and JSON that has one meaning only."""

    async def body(self) -> bytes:
        """The body, read up to the limits.

        Raises:
            HTTPException: 413, 408 or 503; 400 for one that broke off.
        """
        if not hasattr(self, "_body"):
            bodies: BodyReader = self.app.state.bodies
            declared = self.headers.get("content-length")
            try:
                self._body = await bodies.read(self.stream(), declared)
            except UnreadBodyError as error:
                headers = {"Connection": "close"}
                if error.retry_after is not None:
                    headers["Retry-After"] = str(error.retry_after)
                raise HTTPException(error.status_code, _sentence(error), headers) from error
            except ClientDisconnect:  # the connection is gone
                raise HTTPException(400, "The body broke off.") from None
        return self._body

    async def json(self) -> Any:
        """The JSON object in the body.

        Raises:
            HTTPException: 400.
        """
        try:
            return strict_json(await self.body())
        except InvalidBodyError as error:
            raise HTTPException(400, str(error)) from error


def _sentence(error: Exception) -> str:
    told = str(error)
    return f"{told[:1].upper()}{told[1:]}."


class StrictRoute(APIRoute):
    """A route that reads its body through :class:`StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, given the stricter request."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly


def success(message: str, data: Any, headers: dict[str, str] | None = None) -> JSONResponse:
    """The documented envelope of an answer that worked."""
    return _Answer({"type": "1", "message": message, "data": data}, headers=headers)


class _Answer(JSONResponse):
    """JSON in which a :class:`SpelledHistory` stands as it is, not spelled anew."""

    def render(self, content: Any) -> bytes:
        """The body."""
        context = (content["data"].get("context") or {}) if content["data"] else {}
        history = context.get("previousMessages")
        if not isinstance(history, SpelledHistory):
            return super().render(content)
        mark = secrets.token_hex(16)
        marked = {**content["data"], "context": {**context, "previousMessages": mark}}
        rest = super().render({**content, "data": marked})
        return rest.replace(f'"{mark}"'.encode(), history.json.encode(), 1)


def failure(status_code: int, message: str, headers: Any = None) -> JSONResponse:
    """The documented envelope of an error."""
    return JSONResponse({"type": "3", "message": message, "data": None}, status_code, headers)


def documented(
    refusals: dict[int, str], *, headers: dict[str, str] | None = None
) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI tells of a route's answers besides the shape of the data.

    Args:
        refusals: The statuses with which it refuses, and why.
        headers: What its success carries besides the request id, each with its description.
    """
    more = {
        name: {"schema": {"type": "string"}, "description": description}
        for name, description in (headers or {}).items()
    }
    answers: dict[int | str, dict[str, Any]] = {200: {"headers": {**_REQUEST_ID, **more}}}
    for status_code, description in refusals.items():
        answers[status_code] = refusal(description)
    answers["default"] = refusal("Any other refusal")
    return answers


def refusal(description: str, *headers: str) -> dict[str, Any]:
    """What OpenAPI tells of one refusal, and of the headers it has besides the request id."""
    more = {name: {"schema": {"type": "string"}} for name in headers}
    return {"model": Failure, "description": description, "headers": {**_REQUEST_ID, **more}}


def add_error_handlers(app: FastAPI) -> None:
    """Answer every refusal in the envelope."""

    @app.exception_handler(StarletteHTTPException)
    async def _(_request: Request, error: StarletteHTTPException) -> Response:
        no_route = error.status_code == 404 and error.detail == HTTPStatus.NOT_FOUND.phrase
        message = (
            f"No such endpoint; they are under {DOCUMENTED_PREFIX}" if no_route else error.detail
        )
        return failure(error.status_code, message, error.headers)

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        whole_body = any(tuple(each["loc"]) == ("body",) for each in error.errors())
        if whole_body and not _JSON.fullmatch(request.headers.get("content-type", "")):
            return failure(415, "The body must be sent as application/json")
        # Pydantic's sentence, without the input: that may be what a customer wrote.
        return failure(400, "; ".join(_complaint(each) for each in error.errors()[:5]))


def _complaint(error: dict[str, Any]) -> str:
    place = ".".join(map(_name, error["loc"][1:]))
    if not place:
        return "The body must be a JSON object"
    return f"{place[:80]}: {error['msg']}"


def _name(part: int | str) -> str:
    known = isinstance(part, int) or _FIELD.fullmatch(part)
    return str(part) if known else "(a key)"


class Envelope:
    """ASGI middleware: a request id on every answer, and the envelope for crashes too.

    It sees everything that leaves the app; crashes are logged with the same id, and a database
    that is away with one line.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except DatabaseAwayError as error:
            logger.error("request %s failed, the database is away: %s", request_id, error)  # noqa: TRY400 - one line
            await failure(503, AWAY, {"Retry-After": COME_AGAIN})(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s failed", request_id)
            if started:
                raise
            answer = failure(500, "Internal server error; the server's log has the request id.")
            await answer(scope, receive, send_with_id)
