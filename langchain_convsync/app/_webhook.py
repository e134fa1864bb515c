"""What becomes of a delivery, and what probes are told."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import SecretStr, ValidationError

from langchain_convsync import telemetry, waha
from langchain_convsync._flow import arun
from langchain_convsync.errors import (
    InvalidEventError,
    InvalidPhoneNumberError,
    MissingExtraError,
    StoreError,
)
from langchain_convsync.models import InboundEvent
from langchain_convsync.turns import TurnRunner

try:
    from fastapi import APIRouter
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
except ImportError as error:
    raise MissingExtraError("create_app", "server") from error

logger = logging.getLogger(__name__)

#: Bytes of a delivery at most; WAHA sends links to media, not media.
LARGEST_BODY = 1024 * 1024


class Webhook:
    """Takes deliveries; ``create_app`` describes the settings."""

    def __init__(
        self,
        runner: TurnRunner,
        secrets: Sequence[SecretStr],
        *,
        takeover: float,
        groups: bool,
    ) -> None:
        self._runner = runner
        self._secrets = secrets
        self._takeover = takeover
        self._groups = groups

    def router(self, path: str) -> APIRouter:
        """The webhook at a path, whose lifespan is the runner's block."""
        router = APIRouter(lifespan=self._runner.lifespan)
        router.add_route(path, self.receive, methods=["POST"])
        return router

    async def receive(self, request: Request) -> JSONResponse:
        """One delivery; whatever it is, the sender is told whether to repeat it."""
        try:
            status = await self._act(await self._read(request))
        except _Refusal as refusal:
            return refusal.answer()
        except (InvalidEventError, InvalidPhoneNumberError) as error:
            return _Refusal(400, str(error)).answer()
        except StoreError as error:
            logger.warning("A delivery was not recorded: %s", error)
            return _Refusal(503, "the event store is away; deliver it again", 1).answer()
        telemetry.count("deliveries", status=status)
        return JSONResponse({"status": status})

    async def _read(self, request: Request) -> object:
        """What a delivery says, if its sender knows a secret."""
        if not self._runner.is_at_work:
            reason = "not started: run this app's lifespan, or include create_router()"
            raise _Refusal(503, reason)
        raw = await _body(request)
        if self._secrets and not waha.verify(raw, request.headers, self._secrets):
            raise _Refusal(401, "the signature fits none of waha_secrets")
        return waha.parse_json(raw)

    async def _act(self, body: object) -> str:
        event = _forwarded(body) or waha.parse_event(body, groups=self._groups)
        match event:
            case InboundEvent():
                status = (await self._runner.aaccept(event)).status
                if status == "busy":
                    raise _Refusal(503, "too many messages of this customer wait", 5)
                return status
            case waha.OperatorMessage():
                human = await self._runner.atake_over(event, seconds=self._takeover)
                return "taken over" if human else "ignored"
            case waha.Ignored(reason="own echo"):
                await self._runner.arecord_echo(event)
            case waha.Ignored(reason="edited" | "revoked") if await self._runner.aamend(event):
                return "amended"
        return "ignored"


def _forwarded(body: object) -> InboundEvent | None:
    """The event in a delivery of the API server's; None for any other delivery.

    Raises:
        InvalidEventError: It has the form of one, but not what it needs.
    """
    if not isinstance(body, Mapping) or "event" in body or "event_id" not in body:
        return None
    facts: dict[str, Any] = {**body, "text": body.get("message", "")}
    try:
        return InboundEvent.model_validate(facts)
    except ValidationError as error:  # it repeats the values, so it is not a cause of ours
        names = sorted({str(flaw["loc"][0]) for flaw in error.errors() if flaw["loc"]})
    message = f"a forwarded event needs event_id, phone_number and message; see {', '.join(names)}"
    raise InvalidEventError(message)


async def _body(request: Request) -> bytes:
    """The body as it was sent."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_BODY:
            raise _Refusal(413, f"a delivery is at most {LARGEST_BODY} bytes")
        parts.append(part)
    return b"".join(parts)


class _Refusal(Exception):  # noqa: N818 - an answer, not an error
    """A delivery that is not taken; ``retry_after`` seconds later it may be."""

    def __init__(self, status: int, detail: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self._status = status
        self._retry_after = retry_after

    def answer(self) -> JSONResponse:
        telemetry.count("deliveries", status=str(self._status))
        headers = None if self._retry_after is None else {"Retry-After": str(self._retry_after)}
        return JSONResponse({"detail": str(self)}, self._status, headers)


def app_with(router: APIRouter, runner: TurnRunner) -> Starlette:
    """An app of its own around the webhook."""
    app = Starlette(routes=router.routes, lifespan=runner.lifespan)
    app.add_route("/health", _healthy)
    app.add_route("/ready", _Readiness(runner).tell)
    app.add_route("/metrics", _Metrics(runner).tell)
    return app


async def _healthy(_request: Request) -> JSONResponse:
    """The process is alive."""
    return JSONResponse({"status": "ok"})


class _Metrics:
    def __init__(self, runner: TurnRunner) -> None:
        self._runner = runner

    async def tell(self, _request: Request) -> Response:
        """What Prometheus reads."""
        return Response(await self._runner.ametrics(), media_type=telemetry.CONTENT_TYPE)


class _Readiness:
    def __init__(self, runner: TurnRunner) -> None:
        self._runner = runner

    async def tell(self, _request: Request) -> JSONResponse:
        """The workers run, and the store is there; what it still has to do."""
        if not self._runner.is_at_work:
            return _Refusal(503, "the workers do not run").answer()
        try:
            left = await arun(self._runner.store.backlog())
        except StoreError:
            return _Refusal(503, "the event store is away").answer()
        return JSONResponse({"status": "ready", **asdict(left)})
