"""What becomes of a delivery, and what probes are told."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from langchain_convsync import _machine, telemetry, waha
from langchain_convsync._bodies import BodyReader, UnreadBodyError
from langchain_convsync._flow import arun, running_loop
from langchain_convsync._forks import Unpicklable
from langchain_convsync._lines import whole
from langchain_convsync._platform import now
from langchain_convsync.errors import (
    InvalidEventError,
    InvalidPhoneNumberError,
    MissingExtraError,
    StoreDamagedError,
    StoreError,
)
from langchain_convsync.models import InboundEvent, zoned
from langchain_convsync.turns import TurnRunner
from langchain_convsync.turns.threads import OwnThreads
from langchain_convsync.waha.groups import Groups, is_for_us
from langchain_convsync.waha.signature import Signers
from langchain_convsync.waha.wire import Json, as_object

try:
    from fastapi import APIRouter
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
except ImportError as error:
    raise MissingExtraError("create_app", "server") from error

logger = logging.getLogger(__name__)

#: What tells a forwarded event from a delivery of WAHA's.
_FORWARDED = frozenset({"event_id", "phone_number"})
#: The same as the API server spells its own fields: not understood here, and not to be ignored.
_MISSPELT = {"eventId": "event_id", "phoneNumber": "phone_number"}
#: Where its words may stand, the customer's own first.
_WORDS = ("text", "message", "content")
#: Either of these says something.
_SAYING = frozenset({*_WORDS, "media", "notes", "choice", "location", "contacts", "poll_votes"})
#: What is known of a message that says nothing.
_UNTOLD = {"text": "", "unread_kind": "unknown"}
_NEEDED = "a forwarded event needs event_id, phone_number and message; see "


class Webhook(Unpicklable):
    """Takes deliveries; ``create_app`` describes the settings."""

    def __init__(
        self,
        runner: TurnRunner,
        signers: Signers | None,
        *,
        takeover: float,
        api_takeover: float,
        groups: Groups,
    ) -> None:
        self.runner = runner
        self._signers = signers
        self._bodies = BodyReader()
        self._takeover = takeover
        self._api_takeover = api_takeover
        self._groups = groups

    def router(self, path: str) -> APIRouter:
        """The webhook at a path, whose lifespan is the runner's block."""
        router = APIRouter(lifespan=self.runner.lifespan)
        for spelled in dict.fromkeys((path, path.rstrip("/") or "/", f"{path.rstrip('/')}/")):
            router.add_route(spelled, self.receive, methods=["POST"])
        return router

    async def receive(self, request: Request) -> Response:
        """One delivery; whatever it is, the sender is told whether to repeat it."""
        try:
            status = await self._act(await self._read(request))
        except _Refusal as refusal:
            return refusal.answer()
        except (InvalidEventError, InvalidPhoneNumberError) as error:
            return _Refusal(400, str(error)).answer()
        except StoreDamagedError:  # the store tells of it by itself, once in a while
            return _Refusal(503, "the event store is damaged; see the log", 60).answer()
        except StoreError as error:
            told = "a delivery was not recorded: %s"
            telemetry.log(logger, logging.WARNING, None, told, error, repeats=True)
            return _Refusal(503, "the event store is away; deliver it again", 1).answer()
        except ClientDisconnect:
            telemetry.count("deliveries", status="aborted")
            return Response(status_code=400)  # the connection is gone
        telemetry.count("deliveries", status=status)
        return JSONResponse({"status": status})

    async def _read(self, request: Request) -> Json:
        """What a delivery says, if its sender knows a secret."""
        if not self.runner.is_at_work:
            reason = "not started: run this app's lifespan, or include create_router()"
            raise _Refusal(503, reason)
        headers, ends = request.headers, request.scope.get("http_version", "")[:1] == "1"
        if self._signers and not self._signers.offered(headers):
            raise _unsigned("X-Webhook-Hmac is missing, or no SHA-512 in hex", ends=ends)
        try:
            raw = await self._bodies.read(request.stream(), headers.get("content-length"))
        except UnreadBodyError as error:
            status, wait = error.status_code, error.retry_after
            raise _Refusal(status, str(error), wait, ends=ends) from error
        if self._signers and not self._signers.verify(raw, headers):
            raise _unsigned("the signature fits no secret in waha_secrets for this session")
        return as_object(waha.parse_json(raw))

    async def _act(self, body: Json) -> str:
        forwarded = _forwarded(body)
        if forwarded is not None and not is_for_us(forwarded, self._groups):
            return "ignored"
        event = forwarded or waha.parse_event(body, groups=self._groups)
        if not isinstance(event, waha.Ignored) and self._forgotten(event):
            return "too old"
        match event:
            case InboundEvent():
                status = (await self.runner.aaccept(event)).status
                if status == "busy":
                    raise _Refusal(503, "too many messages of this customer wait", 5)
                return status
            case waha.OperatorMessage():
                human = await self.runner.atake_over(event, seconds=self._takeover)
                return "taken over" if human else "ignored"
            case waha.Ignored(reason="own echo"):
                await self.runner.arecord_echo(event, seconds=self._api_takeover)
            case waha.Ignored(reason="ack"):
                await self.runner.arecord_ack(event)
            case waha.Ignored(reason="session status"):
                await self.runner.arecord_status(event)
            case waha.Ignored(reason="edited" | "revoked") if await self.runner.aamend(event):
                return "amended"
        return "ignored"

    def _forgotten(self, event: InboundEvent | waha.OperatorMessage) -> bool:
        """Whether it was sent so long ago that the store may have answered and forgotten it.

        The signature does not age, so a delivery that was recorded on its way could come again.
        What no turn would answer is recorded all the same.
        """
        sent_at, retention = event.sent_at, self.runner.store.retention
        is_stale = isinstance(event, InboundEvent) and self.runner.max_age <= retention
        if sent_at is None or is_stale:
            return False
        return (now() - zoned(sent_at)).total_seconds() > retention


def _forwarded(body: Json) -> InboundEvent | None:
    """The event in a delivery of the API server's; None for any other delivery.

    Raises:
        InvalidEventError: It has the form of one, but not what it needs.
    """
    if "event" in body:
        return None
    if wrong := sorted(_MISSPELT.keys() & body.keys()):
        raise InvalidEventError(
            _NEEDED + ", ".join(f"{name}: it is {_MISSPELT[name]}" for name in wrong)
        )
    if not _FORWARDED & body.keys():
        return None
    body = _told(body)
    needed = _FORWARDED - ({"phone_number"} if {"chat_id", "lid"} & body.keys() else set())
    needed |= set() if _SAYING & body.keys() else {"message"}
    if missing := sorted(needed - body.keys()):
        raise InvalidEventError(_NEEDED + ", ".join(missing))
    facts = {name: body[name] for name in InboundEvent.model_fields if name in body}
    named = [name for name in _WORDS if name in body]  # the words alone, where others follow
    for name in named:
        event = _read({**facts, "text": body[name]}, name)
        if event.content.strip():
            return event
    event = _read({**facts, "text": ""}, "message")
    # A server that keeps words alone forwards a file, say, as none.
    return event if event.content.strip() else event.model_copy(update=_UNTOLD)


def _told(value: Any) -> Any:
    """The same without nulls, by which servers tell nothing; what a form asked stays as it is."""
    if isinstance(value, dict):
        return {
            name: inner if name == "params" else _told(inner)
            for name, inner in value.items()
            if inner is not None
        }
    return [_told(each) for each in value] if isinstance(value, list) else value


def _read(facts: Json, words: str) -> InboundEvent:
    """The event, whose text is called ``words`` where it came from."""
    # Servers cut texts in the middle of an emoji, too; and they may say more than is known here.
    written = whole(json.dumps(facts, ensure_ascii=False))
    try:
        return InboundEvent.model_validate_json(written)
    except ValidationError as error:  # it repeats the values, so it is not a cause of ours
        flaws = {str(flaw["loc"][0]): flaw["msg"] for flaw in error.errors() if flaw["loc"]}
    told = [f"{words if name == 'text' else name} ({flaws[name]})" for name in sorted(flaws)]
    raise InvalidEventError(_NEEDED + ", ".join(told))


def _unsigned(reason: str, *, ends: bool = False) -> _Refusal:
    """The answer to whom knows no secret; WAHA keeps it to itself, so the log tells it, too."""
    told = "deliveries are refused (401): %s (CONVSYNC_WAHA_SECRETS, WAHA's hmac.key)"
    telemetry.log(logger, logging.WARNING, None, told, reason, repeats=True)
    return _Refusal(401, reason, ends=ends)


class _Refusal(Exception):  # noqa: N818 - an answer, not an error
    """A delivery that is not taken; ``retry_after`` seconds later it may be.

    Where its connection ``ends``, the rest of it is not waited for: HTTP/2 ends the stream alone.
    """

    def __init__(
        self, status: int, detail: str, retry_after: int | None = None, *, ends: bool = False
    ) -> None:
        super().__init__(detail)
        self._status = status
        self._headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if ends:
            self._headers["Connection"] = "close"

    def answer(self) -> JSONResponse:
        telemetry.count("deliveries", status=str(self._status))
        return JSONResponse({"detail": str(self)}, self._status, self._headers)


def app_with(router: APIRouter, runner: TurnRunner) -> Starlette:
    """An app of its own around the webhook."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        running_loop().set_default_executor(OwnThreads())  # the process is ours
        async with runner.lifespan(app):
            gc.collect()  # 0.1 s with LangChain imported, which a delivery would wait for
            yield

    app = Starlette(routes=router.routes, lifespan=lifespan)
    app.add_route("/health", _healthy)
    app.add_route("/ready", _Readiness(runner).tell)
    app.add_route("/metrics", _Metrics(runner).tell)
    return app


async def _healthy(_request: Request) -> JSONResponse:
    """The process is alive."""
    return JSONResponse({"status": "ok"})


class _Metrics:
    def __init__(self, runner: TurnRunner) -> None:
        self.runner = runner

    async def tell(self, _request: Request) -> Response:
        """What Prometheus reads."""
        return Response(await self.runner.ametrics(), media_type=telemetry.CONTENT_TYPE)


class _Readiness:
    def __init__(self, runner: TurnRunner) -> None:
        self.runner = runner

    async def tell(self, _request: Request) -> JSONResponse:
        """The workers run, and the store is there; what it still has to do."""
        if not self.runner.is_at_work:
            return _Refusal(503, "the workers do not run").answer()
        try:
            left = await arun(self.runner.store.backlog())
        except StoreDamagedError:
            return _Refusal(503, "the event store is damaged; see the log").answer()
        except StoreError as error:
            return _Refusal(503, _machine.noticed(error) or "the event store is away").answer()
        if shortage := self.runner.shortage:  # it can be read, and takes nothing
            return _Refusal(503, shortage).answer()
        return JSONResponse({"status": "ready", **asdict(left)})
