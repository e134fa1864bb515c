"""The API server's endpoints, sync and async at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

import httpx

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow
from langchain_convsync._forks import Unpicklable
from langchain_convsync.client import _outgoing as outgoing
from langchain_convsync.client._answers import Question, data_of, parsed
from langchain_convsync.client._caller import Caller, Pace
from langchain_convsync.client._exchange import Request
from langchain_convsync.client._identity import joined, require_same
from langchain_convsync.client._posted import Posted
from langchain_convsync.client._tenants import Flights, Key, TenantCache
from langchain_convsync.errors import (
    APIStatusError,
    ConfigurationError,
    ConversationNotFoundError,
)
from langchain_convsync.models import (
    Conversation,
    PartialConversation,
    Role,
    StateUpdate,
    TenantInfo,
)
from langchain_convsync.phone import formatted, normalize, path_segment
from langchain_convsync.settings import (
    DOCUMENTED_SERVER,
    APIKey,
    CallTarget,
    ServerProfile,
    Transport,
)

L = TypeVar("L", TenantInfo, Conversation)

SYSTEM_PACE = Pace()

_READ, _WRITE = Question(write=False), Question(write=True)
_HEALTH = Question(write=False, about="path")

#: What metrics call a request: the method of the client.
_OPERATIONS = {
    "tenant": "lookup_tenant",
    "conversation": "get_conversation",
    "PUT": "sync_conversation",
    "POST": "add_message",
}
_FORGOTTEN = (
    'this API server forgets messages that are posted, says its ServerProfile(history="sync"), and '
    "a session id is not enough to read the history that a sync would have to carry: write with "
    "ConvSyncChatMessageHistory(phone_number, client=client).add_messages([…]), which does"
)


class Api(Unpicklable):
    """One API server under one configuration; every method is a flow.

    :func:`langchain_convsync._flow.run` performs a flow blocking, ``arun`` awaits it; connections
    for either are opened when they are first needed, and async ones end with their event loop.
    ``ConvSyncClient`` and ``AsyncConvSyncClient`` are its two faces, and document its arguments.

    ``target`` is the tenant and bot that a caller already knows: a callable ``api_key`` picks the
    key by it, and an answer of another tenant or bot raises ``ConversationMismatchError``.
    ``timeout`` is in seconds, for the whole call; ``attempts`` counts the first one, too.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: APIKey = None,
        timeout: float = 10.0,
        max_retries: int = 2,
        profile: ServerProfile = DOCUMENTED_SERVER,
        transport: Transport | None = None,
        allow_http: Iterable[str] | None = None,
        trust_env: bool | None = None,
        http_client: httpx.Client | httpx.AsyncClient | None = None,
        pace: Pace = SYSTEM_PACE,
    ) -> None:
        telemetry.connect()
        self.profile = profile
        self._caller = Caller(
            base_url,
            api_key=api_key,
            timeout=timeout,
            max_retries=max_retries,
            profile=profile,
            transport=transport,
            allow_http=allow_http,
            trust_env=trust_env,
            http_client=http_client,
            pace=pace,
        )
        self._tenants = TenantCache(pace.clock)
        self._flights = Flights()
        self._posted = Posted()

    @property
    def base_url(self) -> str:
        """Where the API server is, without a trailing slash."""
        return self._caller.base_url

    @property
    def address(self) -> str:
        """Where its endpoints are: the prefix included, without a trailing slash."""
        return self._caller.address

    @property
    def transport(self) -> Transport | None:
        """What awaited calls travel over; None where a lent client carries them."""
        return self._caller.connections.transport

    @property
    def only_awaits(self) -> bool:
        """Whether it cannot serve blocking calls, for what it was lent, or an async ``api_key``."""
        return self._caller.only_awaits

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"

    def lookup_tenant(self, phone_number: str, bot_id: str | None = None) -> Flow[TenantInfo]:
        """The tenant that a phone number talks to; see ``ConvSyncClient.lookup_tenant``."""
        with telemetry.timed("tenant_lookup"):
            return (yield from self._lookup_tenant(phone_number, bot_id))

    def _lookup_tenant(self, phone_number: str, bot_id: str | None) -> Flow[TenantInfo]:
        self._caller.connections.require_open()
        identity, until = normalize(phone_number), self._caller.until()
        if not bot_id:
            target = CallTarget()
            return (yield from self._look_up("tenant", identity, target, TenantInfo, until=until))
        key = (bot_id, identity)
        if (known := self._tenants.get(key)) is not None:
            return known
        flight = yield from self._flights.board(key)
        if not flight.leads:
            found = yield from flight.landing(self._caller.left(until))
            # None: the caller that asked for us failed or was cancelled; ours may still succeed.
            return found or (yield from self._find_tenant(key, until))
        found = None
        try:
            found = self._tenants.get(key) or (yield from self._find_tenant(key, until))
            return found
        finally:
            flight.land(found)

    def _find_tenant(self, key: Key, until: float) -> Flow[TenantInfo]:
        bot_id, identity = key
        # The documented tenant look-up has no bot, and answers with the newest conversation.
        found = yield from self._look_up(
            "conversation", identity, CallTarget(bot_id=bot_id), Conversation, until=until
        )
        tenant = TenantInfo(
            subdomain=found.subdomain,
            bot_id=found.bot_id,
            session_id=found.session_id,
            is_active=found.is_active,
        )
        self._tenants.put(key, tenant)
        return tenant

    def forget_tenant(self, phone_number: str, bot_id: str) -> None:
        """Look the tenant up anew next time; a 404 on any later call does the same by itself.

        Raises:
            InvalidPhoneNumberError: It is not a customer id.
        """
        self._tenants.forget((bot_id, normalize(phone_number)))

    def get_conversation(
        self,
        phone_number: str,
        bot_id: str | None = None,
        *,
        target: CallTarget | None = None,
        timeout: float | None = None,
        attempts: int | None = None,
        known_as: Iterable[str] = (),
    ) -> Flow[Conversation]:
        """The conversation of a customer; see ``ConvSyncClient.get_conversation``.

        ``known_as`` are further ids of theirs, by which the answer may call them.
        """
        identity, target = normalize(phone_number), joined(target, bot_id or None)
        flow = self._look_up(
            "conversation",
            identity,
            target,
            Conversation,
            until=self._caller.until(timeout),
            attempts=attempts,
            known_as=known_as,
        )
        posted = self._posted.number
        try:
            found = yield from flow
        except ConversationNotFoundError:
            self._tenants.forget((target.bot_id or "", identity))
            raise
        self._posted.miss(found, posted)
        return found

    def _look_up(
        self,
        what: Literal["tenant", "conversation"],
        identity: str,
        target: CallTarget,
        model: type[L],
        *,
        until: float,
        attempts: int | None = None,
        known_as: Iterable[str] = (),
    ) -> Flow[L]:
        customer = path_segment(formatted(identity, self.profile.phone_format))
        path = f"/lookup/{what}/{customer}{outgoing.query('botId', target.bot_id)}"
        found = yield from self._caller.ask(
            self._caller.request("GET", path),
            lambda outcome: parsed(outcome, _READ, model),
            target=target,
            operation=_OPERATIONS[what],
            until=until,
            attempts=attempts,
        )
        require_same(found, target=target, identity=identity, known_as=known_as)
        return found

    def sync_conversation(
        self,
        session_id: str,
        update: StateUpdate | Mapping[str, Any],
        *,
        target: CallTarget | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        attempts: int | None = None,
        carried: Mapping[str, Any] | None = None,
    ) -> Flow[PartialConversation]:
        """Write a conversation's state; see ``ConvSyncClient.sync_conversation``.

        ``carried`` is context that goes along unchanged, ``previousMessages`` included.
        """
        body = outgoing.sync_body(update, self.profile, carried)
        path = f"/agent/conversations/{path_segment(session_id)}/sync"
        request = self._caller.request("PUT", path, body, idempotency_key)
        return (yield from self._write(request, session_id, target, timeout, attempts))

    def require_sendable(self, role: str, content: str) -> None:
        """Say before a message is kept for later whether it can be sent at all.

        Raises:
            ConfigurationError: It is not text that JSON can carry, or the role is not the API's.
        """
        outgoing.message_body(role, content)

    def add_message(
        self,
        session_id: str,
        role: Role,
        content: str,
        *,
        target: CallTarget | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        attempts: int | None = None,
    ) -> Flow[PartialConversation]:
        """Append a message to a conversation; see ``ConvSyncClient.add_message``."""
        body = outgoing.message_body(role, content)
        if self.profile.history == "sync":
            raise ConfigurationError(_FORGOTTEN)
        path = f"/agent/conversations/{path_segment(session_id)}/messages"
        request = self._caller.request("POST", path, body, idempotency_key)
        answer = yield from self._write(request, session_id, target, timeout, attempts)
        self._posted.note(session_id, content)
        return answer

    def _write(
        self,
        request: Request,
        session_id: str,
        target: CallTarget | None,
        timeout: float | None,
        attempts: int | None,
    ) -> Flow[PartialConversation]:
        try:
            found = yield from self._caller.ask(
                request,
                lambda outcome: parsed(outcome, _WRITE, PartialConversation),
                target=target or CallTarget(),
                operation=_OPERATIONS[request.method],
                until=self._caller.until(timeout),
                attempts=attempts,
            )
        except ConversationNotFoundError:
            self._tenants.forget_session(session_id)
            raise
        require_same(found, target=target or CallTarget(), session_id=session_id)
        return found

    def health(self) -> Flow[bool]:
        """Whether the API server calls itself healthy; see ``ConvSyncClient.health``."""
        request = self._caller.request("GET", "/health")
        try:
            yield from self._caller.ask(
                request,
                lambda outcome: data_of(outcome, _HEALTH),
                target=CallTarget(),
                operation="health",
                until=self._caller.until(),
                attempts=1,
            )
        except APIStatusError as error:
            if error.status_code is None or 300 <= error.status_code < 500:
                raise
            return False
        return True

    def reopen(self) -> None:
        """Open connections anew when they are needed, after :meth:`close` as well."""
        self._caller.connections.reopen()

    def close(self) -> None:
        """Close the connections of sync and async; a lent ``http_client`` stays open."""
        self._caller.connections.close()

    async def aclose(self) -> None:
        """Close the connections of sync and async; a lent ``http_client`` stays open."""
        await self._caller.connections.aclose()
