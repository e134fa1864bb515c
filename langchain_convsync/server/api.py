"""The reference API server: the Agent Conversation Sync API, to the letter."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, FastAPI, Header, HTTPException, Path, Query, Request, Response
from pydantic.json_schema import SkipJsonSchema

from langchain_convsync import waha
from langchain_convsync._bodies import BodyReader
from langchain_convsync._checked import checked
from langchain_convsync.server import webhook
from langchain_convsync.server.access import ApiKey, Keyring
from langchain_convsync.server.answers import KeyReusedError
from langchain_convsync.server.customers import Tenant
from langchain_convsync.server.forwarder import Forwarder, Forwarding
from langchain_convsync.server.guard import CurrentCaller, Guard, GuardedRoute
from langchain_convsync.server.jwts import JwtRules
from langchain_convsync.server.limits import Limiter, RateLimit
from langchain_convsync.server.measured import Measured
from langchain_convsync.server.mount import MountedElsewhere
from langchain_convsync.server.quirks import BrokenRequestError, Quirks
from langchain_convsync.server.service import CurrentService, Service, WahaSecrets
from langchain_convsync.server.store import (
    Applied,
    Clock,
    ConversationStore,
    UnknownSessionError,
    wall_clock,
)
from langchain_convsync.server.transport import (
    Envelope,
    StrictRoute,
    add_error_handlers,
    documented,
    failure,
    success,
)
from langchain_convsync.server.wire import (
    ConversationData,
    HealthData,
    MessagesData,
    NewMessage,
    StateSync,
    Success,
    SyncedData,
    TenantData,
)
from langchain_convsync.settings import DOCUMENTED_PREFIX
from langchain_convsync.waha.groups import Groups

NO_CONVERSATION = "No active conversation found for this phone number"
UNKNOWN = "Conversation not found"
KEY_REUSED = "This Idempotency-Key was used for another request: a new request needs a new key"

PhoneNumber = Annotated[
    str,
    Path(
        alias="phoneNumber",
        description="The customer: a number in any spelling, a chat id, a BSUID or another id.",
        examples=["+51999999999", "51999999999@c.us", "PE.1A2b3C"],
    ),
]
BotId = Annotated[
    str | SkipJsonSchema[None], Query(alias="botId", description="Only conversations of this bot.")
]
SessionId = Annotated[str, Path(alias="sessionId")]
IdempotencyKey = Annotated[
    str | SkipJsonSchema[None],
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="A request with the same key is applied once. For 24 hours it is answered "
        "alike, later with the conversation as it is then.",
    ),
]


LOOKUP_ANSWERS = documented({404: NO_CONVERSATION})
WRITE_ANSWERS = documented(
    {
        400: "The request is malformed",
        404: UNKNOWN,
        413: "The body is larger than 1 MiB",
        415: "The body is not sent as application/json",
        422: "The Idempotency-Key was used for another request",
    },
    headers={"Idempotent-Replayed": "true where an earlier request had been applied."},
)

agents = APIRouter(prefix=DOCUMENTED_PREFIX, route_class=GuardedRoute)
probes = APIRouter(prefix=DOCUMENTED_PREFIX, route_class=StrictRoute)


@checked
def create_reference_api(
    database_url: str = "sqlite://",
    *,
    clock: Clock = wall_clock,
    tenants: Mapping[str, Tenant] | None = None,
    waha_secrets: WahaSecrets | None = None,
    quirks: Iterable[str] | Literal["observed"] = (),
    api_keys: Iterable[ApiKey] = (),
    jwt: JwtRules | None = None,
    rate_limit: RateLimit | None = None,
    forwarding: Forwarding | None = None,
    answer_cap: int | None = None,
    groups: Groups = False,
) -> FastAPI:
    """The reference API server as an ASGI application.

    Args:
        database_url: An SQLAlchemy URL; in memory by default.
        clock: Tells the time, in UTC.
        tenants: The tenant and bot of each WAHA session. A session not named here belongs to the
            ``subdomain`` and ``bot.id`` of its own metadata.
        waha_secrets: The HMAC key, or keys, that every WAHA event must be signed with one of; None
            accepts unsigned events.
        quirks: Deviations seen in the wild, by the names in :data:`~.quirks.QUIRKS`;
            ``"observed"`` for all that one public server shows.
        api_keys: The keys that agents may call with. Without any, and without ``jwt``, every
            client may call and sees every tenant: for development.
        jwt: What a token must be like to be as good as a key.
        rate_limit: How often each key, or each address where no keys are asked for, may call.
        forwarding: The agent's webhook, which is told what customers write.
        answer_cap: Messages that the answer to a write shows at most, the newest; None for all.
            What is stored and looked up is always the whole history.
        groups: What in groups begins or prolongs a conversation, and is forwarded: as that of
            ``create_app``. It is the group's, under its chat id.

    Raises:
        ConfigurationError: The database cannot be opened, a secret is empty, the cap is less than
            1, or there is no such quirk.
    """
    if waha_secrets is not None:
        waha.verify(b"", {}, waha_secrets)  # an empty key fails now, not at the first event
    chosen = Quirks.of(quirks)
    store = ConversationStore(database_url, clock=clock, quirks=chosen, answer_cap=answer_cap)
    forwarder = Forwarder(store.forwards, forwarding) if forwarding else None
    app = reference_api(
        Service(
            store=store,
            tenants=tenants or {},
            waha_secrets=waha_secrets,
            quirks=chosen,
            guard=guard_of(api_keys, jwt, rate_limit),
            forwarder=forwarder,
            groups=groups,
        )
    )
    if forwarder is not None:
        forwarder.start()
    weakref.finalize(app, _close, store, forwarder)
    return app


def _close(store: ConversationStore, forwarder: Forwarder | None) -> None:
    if forwarder is not None:
        forwarder.stop()
    store.close()


def guard_of(
    api_keys: Iterable[ApiKey], jwt: JwtRules | None, rate_limit: RateLimit | None
) -> Guard:
    """The guard of a server with these settings.

    Raises:
        ConfigurationError: Two keys are the same.
    """
    keys = tuple(api_keys)
    return Guard(
        Keyring(keys, jwt) if keys or jwt else None, Limiter(rate_limit) if rate_limit else None
    )


def reference_api(service: Service) -> FastAPI:
    """The reference API server over a store that its caller opened, and closes."""
    app = FastAPI(
        title="Agent Conversation Sync API",
        description="The reference server of langchain-convsync.",
        version="1",  # of the API, as in its path
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = replace(service, store=service.store.spelling)
    app.state.bodies = BodyReader()
    app.add_middleware(Envelope)
    if "prefix" in service.quirks:
        app.add_middleware(MountedElsewhere)
    app.add_middleware(Measured)
    add_error_handlers(app)
    app.add_exception_handler(UnknownSessionError, _unknown)
    app.add_exception_handler(KeyReusedError, _key_reused)
    app.add_exception_handler(BrokenRequestError, _broken)
    app.include_router(agents, **service.guard.documentation)
    for routes in (probes, webhook.router):
        app.include_router(routes)
    return app


@agents.get(
    "/lookup/tenant/{phoneNumber}", response_model=Success[TenantData], responses=LOOKUP_ANSWERS
)
def lookup_tenant(
    service: CurrentService, caller: CurrentCaller, phone_number: PhoneNumber
) -> Response:
    """The tenant that a phone number talks to: that of its newest active conversation."""
    found = service.store.find_tenant(phone_number, caller=caller)
    if found is None:
        raise HTTPException(404, NO_CONVERSATION)
    return success("Tenant information retrieved successfully", found)


@agents.get(
    "/lookup/conversation/{phoneNumber}",
    response_model=Success[ConversationData],
    responses=LOOKUP_ANSWERS,
)
def lookup_conversation(
    service: CurrentService,
    caller: CurrentCaller,
    phone_number: PhoneNumber,
    bot_id: BotId = None,
) -> Response:
    """The active conversation of a phone number: the newest, or that with one bot."""
    found = service.store.find(phone_number, bot_id, caller=caller)
    if found is None:
        raise HTTPException(404, NO_CONVERSATION)
    return success("Conversation retrieved successfully", found)


@probes.get("/health", response_model=Success[HealthData], responses=documented({}))
def health(service: CurrentService) -> Response:
    """Whether the server and its database answer."""
    service.store.ping()
    return success("WhatsApp service is healthy", {"status": "ok"})


@agents.put(
    "/agent/conversations/{sessionId}/sync",
    response_model=Success[SyncedData],
    responses=WRITE_ANSWERS,
)
def sync_conversation(
    service: CurrentService,
    caller: CurrentCaller,
    session_id: SessionId,
    update: StateSync,
    key: IdempotencyKey = None,
) -> Response:
    """Merge what the agent decided into the conversation.

    Top-level keys of `context` and `metadata` replace those of the conversation; keys that are not
    named stay, and so do `intent`, `step` and `isActive`. Extends the conversation by 24 hours.
    """
    applied = service.store.sync(session_id, update, key=key, caller=caller)
    return _applied("Conversation synced successfully from agent", applied)


@agents.post(
    "/agent/conversations/{sessionId}/messages",
    response_model=Success[MessagesData],
    responses=WRITE_ANSWERS,
)
def add_message(
    service: CurrentService,
    caller: CurrentCaller,
    session_id: SessionId,
    message: NewMessage,
    key: IdempotencyKey = None,
) -> Response:
    """Append a message to the history, with the server's time.

    Extends the conversation by 24 hours.
    """
    applied = service.store.add_message(session_id, message, key=key, caller=caller)
    return _applied("Message added successfully", applied)


def _applied(message: str, applied: Applied) -> Response:
    headers = {"Idempotent-Replayed": "true"} if applied.replayed else None
    return success(message, applied.data, headers)


def _unknown(_request: Request, _error: Exception) -> Response:
    return failure(404, UNKNOWN)


def _key_reused(_request: Request, _error: Exception) -> Response:
    return failure(422, KEY_REUSED)


def _broken(_request: Request, error: Exception) -> Response:
    return failure(500, str(error))
