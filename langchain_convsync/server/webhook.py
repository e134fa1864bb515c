"""WAHA's events: a customer who writes has a conversation, and keeps it for another 24 hours.

The text itself is not recorded: the documented flow leaves that to the agent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import APIRouter, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool

from langchain_convsync import waha
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.models import InboundEvent
from langchain_convsync.server.customers import Customer, Tenant
from langchain_convsync.server.forwards import QueueFullError
from langchain_convsync.server.service import CurrentService
from langchain_convsync.server.transport import StrictRoute, documented, success
from langchain_convsync.server.wire import Success, WebhookData
from langchain_convsync.settings import DOCUMENTED_PREFIX
from langchain_convsync.waha.signature import Signers
from langchain_convsync.waha.wire import as_object

logger = logging.getLogger(__name__)

# Without the session's name, which may be a phone number.
NO_TENANT = (
    "no tenant is known for this WAHA session: configure it (--tenant SESSION=SUBDOMAIN:BOT), or "
    "give the session the metadata subdomain and bot.id"
)
BACKLOG = "Too many events wait for the agent's webhook: deliver it again"
ANY_OBJECT = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object", "title": "WAHA event"}}},
    }
}

router = APIRouter(prefix=DOCUMENTED_PREFIX, route_class=StrictRoute)


@router.post("/webhook/waha/", include_in_schema=False)
@router.post(
    "/webhook/waha",
    response_model=Success[WebhookData],
    responses=documented(
        {
            400: "The event is malformed",
            401: "The signature is missing or wrong",
            413: "The body is larger than 1 MiB",
        }
    ),
    openapi_extra=ANY_OBJECT,
)
async def receive_event(service: CurrentService, request: Request) -> Response:
    """Note that a customer wrote.

    What concerns no conversation is answered with 200 too, `accepted` false and the reason: WAHA
    would only deliver it again.
    """
    await _check_signature(request, service.signers)
    event = waha.parse_event(as_object(await request.json()), groups=service.groups)
    if not isinstance(event, InboundEvent):
        return _answered("Event ignored", reason=getattr(event, "reason", "the business wrote it"))
    tenant = tenant_of(event, service.tenants)
    if tenant is None:
        logger.warning(NO_TENANT)
        return _answered("Event ignored", reason=NO_TENANT)
    customer = Customer(event.phone_number, event.lid)
    if event.is_group:
        customer = Customer.of(event.chat_id or "")
        if (
            service.groups != "all" and event.business_number
        ):  # where it goes no LID of ours is known
            mentions = dict.fromkeys((*event.mentions, event.business_number))
            event = event.model_copy(update={"mentions": tuple(mentions)})
    try:
        session_id = await run_in_threadpool(
            service.store.receive,
            customer,
            tenant,
            event.content,
            forward=event if service.forwarder else None,
        )
    except QueueFullError:
        raise HTTPException(503, BACKLOG, {"Retry-After": "5"}) from None
    if service.forwarder:
        service.forwarder.wake()
    return _answered("Event accepted", session_id=session_id)


async def _check_signature(request: Request, signers: Signers | None) -> None:
    # It is over the raw bytes, and nothing is read or parsed for a sender that cannot sign.
    if signers is None:
        return
    wrong = "The X-Webhook-Hmac signature is missing or wrong."
    if not signers.offered(request.headers):
        raise HTTPException(401, wrong, {"Connection": "close"})
    if not signers.verify(await request.body(), request.headers):
        raise HTTPException(401, wrong)


def tenant_of(event: InboundEvent, tenants: Mapping[str, Tenant]) -> Tenant | None:
    """The tenant that an event is for: by configuration, else by the WAHA session's metadata."""
    configured = tenants.get(event.waha_session or "")
    if configured is not None:
        return configured
    if event.subdomain is None or event.bot_id is None:
        return None
    try:
        return Tenant(event.subdomain, event.bot_id)
    except ConfigurationError:
        return None


def _answered(
    message: str, *, session_id: str | None = None, reason: str | None = None
) -> Response:
    data = {"accepted": session_id is not None, "sessionId": session_id, "reason": reason}
    return success(message, data)
