"""WAHA's events: a customer who writes has a conversation, and keeps it for another 24 hours.

The text itself is not recorded: the documented flow leaves that to the agent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool

from langchain_convsync import waha
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.models import InboundEvent
from langchain_convsync.server.customers import Customer, Tenant
from langchain_convsync.server.store import ConversationStore
from langchain_convsync.server.transport import documented, success
from langchain_convsync.server.wire import Success, WebhookData

logger = logging.getLogger(__name__)

WahaSecrets: TypeAlias = str | SecretStr | Sequence[str | SecretStr]

# Without the session's name, which may be a phone number.
NO_TENANT = (
    "no tenant is known for this WAHA session: configure it (--tenant SESSION=SUBDOMAIN:BOT), or "
    "give the session the metadata subdomain and bot.id"
)
ANY_OBJECT = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object", "title": "WAHA event"}}},
    }
}


def add_webhook(
    router: APIRouter,
    store: ConversationStore,
    *,
    tenants: Mapping[str, Tenant],
    secrets: WahaSecrets | None,
) -> None:
    """Serve ``POST /webhook/waha``.

    Raises:
        ConfigurationError: One of the secrets is empty.
    """
    if secrets is not None:
        waha.verify(b"", {}, secrets)  # an empty key fails now, not at the first event

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
    async def receive_event(request: Request) -> Response:
        """Note that a customer wrote.

        What concerns no conversation is answered with 200 too, `accepted` false and the reason:
        WAHA would only deliver it again.
        """
        # The signature is over the raw bytes, and whoever cannot sign has nothing parsed.
        if secrets is not None and not waha.verify(await request.body(), request.headers, secrets):
            raise HTTPException(401, "The X-Webhook-Hmac signature is missing or wrong.")
        event = waha.parse_event(await request.json())
        if not isinstance(event, InboundEvent):
            reason = getattr(event, "reason", "the business wrote it")
            return _answered("Event ignored", reason=reason)
        tenant = tenant_of(event, tenants)
        if tenant is None:
            logger.warning(NO_TENANT)
            return _answered("Event ignored", reason=NO_TENANT)
        customer = Customer(event.phone_number, event.lid)
        session_id = await run_in_threadpool(store.receive, customer, tenant)
        return _answered("Event accepted", session_id=session_id)


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
