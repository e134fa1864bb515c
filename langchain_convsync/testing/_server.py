"""The reference server, running inside the test or notebook that uses it."""

from __future__ import annotations

import ssl
import threading
import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import httpx

from langchain_convsync import phone
from langchain_convsync._checked import checked
from langchain_convsync.client import AsyncConvSyncClient, ConvSyncClient
from langchain_convsync.errors import (
    ClosedError,
    ConversationNotFoundError,
    InvalidPhoneNumberError,
)
from langchain_convsync.models import Conversation
from langchain_convsync.server.access import ApiKey
from langchain_convsync.server.api import guard_of, reference_api
from langchain_convsync.server.customers import Customer, Tenant
from langchain_convsync.server.forwarder import Forwarder, Forwarding
from langchain_convsync.server.jwts import JwtRules
from langchain_convsync.server.limits import RateLimit
from langchain_convsync.server.quirks import Quirks
from langchain_convsync.server.service import Service
from langchain_convsync.server.serving import PromptServer, listen, server_for
from langchain_convsync.server.store import Clock, ConversationStore, wall_clock
from langchain_convsync.server.wire import StateSync
from langchain_convsync.waha.groups import Groups

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


LOOPBACK = "127.0.0.1"


class RecordedRequest(NamedTuple):
    """One request that the server answered.

    Attributes:
        method: ``"GET"``, ``"PUT"`` or ``"POST"``.
        path: The route without its values, e.g. ``/api/v1/whatsapp/lookup/tenant/{phoneNumber}``.
        status_code: The answer's status.
    """

    method: str
    path: str
    status_code: int


@checked
class ReferenceServer:
    """The reference API server over real HTTP on loopback, for tests and notebooks.

    Starts in milliseconds on a free port, beside any running event loop. Its conversations are in
    memory, outlive ``stop()`` and ``start()``, and leave no file, thread or socket behind: not
    even when the process is killed::

        with ReferenceServer() as server:
            server.create_conversation(
                phone_number="+51999999999", subdomain="restaurant-abc", bot_id="bot123"
            )
            client = ConvSyncClient(server.base_url)  # or server.client()

    Args:
        database_url: An SQLAlchemy URL to keep the conversations elsewhere.
        tenants: The tenant and bot of each WAHA session, for :meth:`deliver`.
        clock: Tells the time, in UTC.
        quirks: Deviations seen in the wild, by the names in ``langchain_convsync.server.QUIRKS``;
            ``"observed"`` for all that one public server shows.
        api_keys: The keys that agents may call with; without any, every client may.
        jwt: What a token must be like to be as good as a key.
        rate_limit: How often each key, or each address where no keys are asked for, may call.
        forwarding: The agent's webhook, which is told of what is delivered while the server runs.
        answer_cap: Messages that the answer to a write shows at most, the newest; None for all.
        groups: What in groups it takes, as ``create_app(groups=…)`` does.

    Attributes:
        requests: What was asked of the server over HTTP, oldest first.
        profile: What a client should know about this server.
    """

    def __init__(
        self,
        database_url: str = "sqlite://",
        *,
        tenants: Mapping[str, Tenant] | None = None,
        clock: Clock = wall_clock,
        quirks: Iterable[str] | Literal["observed"] = (),
        api_keys: Iterable[ApiKey] = (),
        jwt: JwtRules | None = None,
        rate_limit: RateLimit | None = None,
        forwarding: Forwarding | None = None,
        answer_cap: int | None = None,
        groups: Groups = False,
    ) -> None:
        self.requests: list[RecordedRequest] = []
        self._quirks = Quirks.of(quirks)
        self.profile = self._quirks.profile
        self._store = ConversationStore(
            database_url, clock=clock, quirks=self._quirks, answer_cap=answer_cap
        )
        self._forwarder = Forwarder(self._store.forwards, forwarding) if forwarding else None
        service = Service(
            store=self._store,
            tenants=tenants or {},
            waha_secrets=None,
            quirks=self._quirks,
            guard=guard_of(api_keys, jwt, rate_limit),
            forwarder=self._forwarder,
            groups=groups,
        )
        self._app = _Recorder(reference_api(service), self.requests)
        self._port = 0
        # Finalizers also run at interpreter exit, the youngest first, for users who forgot to stop.
        weakref.finalize(self, self._store.close)
        self._stop: weakref.finalize[..., ReferenceServer] | None = None

    @property
    def base_url(self) -> str:
        """Where the server answers, or answered before it was stopped.

        Raises:
            ClosedError: It was never started.
        """
        if not self._port:
            message = "the reference server is not running: call start(), or use it in a with block"
            raise ClosedError(message)
        return f"http://{LOOPBACK}:{self._port}"

    def start(self) -> Self:
        """Listen, on the same port as before after :meth:`stop`; nothing while it is running."""
        if self._stop is None or not self._stop.alive:
            listener = listen(LOOPBACK, self._port)
            self._port = listener.getsockname()[1]
            server = server_for(self._app, grace=1)
            thread = threading.Thread(
                target=server.run, args=([listener],), name="convsync-reference", daemon=True
            )
            thread.start()
            if self._forwarder is not None:
                self._forwarder.start()
            self._stop = weakref.finalize(self, _stop, server, thread, self._forwarder)
        return self

    def stop(self) -> None:
        """Finish the running requests, then close every connection; the conversations stay."""
        if self._stop is not None:
            self._stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def create_conversation(
        self,
        phone_number: str,
        *,
        subdomain: str = "restaurant-abc",
        bot_id: str = "65a1b2c3d4e5f60718293a4b",
        intent: str = "idle",
        step: str = "initial",
        context: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Conversation:
        """Begin a conversation, as a first WhatsApp message would.

        Args:
            phone_number: The customer in any spelling: a number, ``…@lid``, BSUID or an id of the
                server's own; or a group. With the quirk ``exact_phone`` a number is stored as a
                chat id, as :attr:`profile` says.
            subdomain: The tenant.
            bot_id: The bot.
            intent: The current intent.
            step: The current step.
            context: The tenant's own keys, and ``previousMessages``.
            metadata: Added to ``{"platform": "whatsapp"}``.

        Raises:
            InvalidPhoneNumberError: ``phone_number`` names no customer.
            ConfigurationError: ``subdomain`` or ``bot_id`` is malformed, or no look-up finds it
                under the quirk ``hex_bot_ids``.
            ValueError: ``context`` holds malformed messages.
        """
        customer = Customer.of(phone_number)
        if customer == Customer(None, None):
            phone.normalize(phone_number)  # tells what is wrong with it, unless it is a group
            message = "phone_number names a group: pass a customer's id, such as +51999999999"
            raise InvalidPhoneNumberError(message)
        state = StateSync.model_validate(
            {"intent": intent, "step": step, "context": context or {}, "metadata": metadata or {}}
        )
        self._quirks.require_bot_id(bot_id)
        customer = self._quirks.sender(customer)
        created = self._store.create(customer, Tenant(subdomain, bot_id), state)
        return Conversation.model_validate(created)

    def conversation(self, phone_number: str, bot_id: str | None = None) -> Conversation:
        """A customer's newest conversation as the server holds it, closed and expired ones too.

        Read past HTTP: it leaves no trace in :attr:`requests`.

        Raises:
            ConversationNotFoundError: There never was one.
        """
        stored = self._quirks.sender(Customer.of(phone_number))
        names = phone_number, stored.phone_number or stored.lid or phone_number
        found = next(filter(None, (self._store.find(n, bot_id, closed=True) for n in names)), None)
        if found is None:
            message = "the reference server has no conversation for this phone number"
            raise ConversationNotFoundError(message, status_code=404)
        return Conversation.model_validate(found)

    def expire(self, session_id: str) -> None:
        """Let a conversation expire now, as it would 24 hours after its last message."""
        self._store.expire(session_id)

    def deliver(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Post a WAHA event to the server's webhook.

        Returns:
            What became of it: ``accepted``, ``sessionId`` and ``reason``.
        """
        url = f"{self.base_url}{self.profile.prefix}/webhook/waha"
        # Nothing is encrypted here, and loading the certificates takes longer than the request.
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        answer = httpx.post(
            url, json=event, trust_env=False, verify=tls, timeout=60
        ).raise_for_status()
        data: dict[str, Any] = answer.json()["data"]
        return data

    def client(self, **settings: Any) -> ConvSyncClient:
        """A client of this server; the caller closes it.

        Args:
            settings: Passed to ``ConvSyncClient``.
        """
        return ConvSyncClient(self.base_url, **{"profile": self.profile, **settings})

    def async_client(self, **settings: Any) -> AsyncConvSyncClient:
        """An async client of this server; the caller closes it.

        Args:
            settings: Passed to ``AsyncConvSyncClient``.
        """
        return AsyncConvSyncClient(self.base_url, **{"profile": self.profile, **settings})


def _stop(server: PromptServer, thread: threading.Thread, forwarder: Forwarder | None) -> None:
    server.stop()
    thread.join()
    if forwarder is not None:
        forwarder.stop()


class _Recorder:
    """ASGI middleware that notes what was asked and how it was answered, before it is sent."""

    def __init__(self, app: ASGIApp, requests: list[RecordedRequest]) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "(no route)")
                self._requests.append(RecordedRequest(scope["method"], path, message["status"]))
            await send(message)

        await self._app(scope, receive, noting)
