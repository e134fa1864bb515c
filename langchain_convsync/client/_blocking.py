"""The face of :class:`Api` that blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import httpx

from langchain_convsync._checked import ELSEWHERE, CountOrZero, PositiveSeconds, checked
from langchain_convsync._flow import run
from langchain_convsync._forks import Unpicklable
from langchain_convsync._lazy import module_on_first_use
from langchain_convsync.settings import (
    DOCUMENTED_SERVER,
    APIKey,
    CallTarget,
    ServerProfile,
    TransportSetting,
)

if TYPE_CHECKING:
    from langchain_convsync import models
else:  # loaded when a client is made
    models = module_on_first_use("langchain_convsync.models")


@checked
class ConvSyncClient(Unpicklable):
    """The API server, blocking. Safe to share between threads; close it, or use it in ``with``.

    Every answer is checked: that it is the documented one, and that it belongs to the customer,
    bot, tenant and session that were asked for. No error shows a phone number, key or body.

    Args:
        base_url: Where the API server is, e.g. ``https://api.example.com``; else
            ``CONVSYNC_BASE_URL``. Plain http is for this machine; see ``allow_http``.
        api_key: The key, or a callable that returns one: a fresh JWT, or the key of the tenant in
            the :class:`CallTarget` that it gets if it takes an argument. It is asked before each
            attempt, and once more after a 401. Else ``CONVSYNC_API_KEY``, else none.
        timeout: Seconds for one whole call: all attempts, and the pauses between them.
        max_retries: How often a failed attempt is repeated. Reads and ``sync_conversation`` are
            repeated when no answer came or the server was not ready; ``add_message`` only when it
            surely was not applied.
        profile: What this API server does differently from the documented one.
        transport: What awaited calls travel over: ``"httpx"``, or ``"aiohttp"``, which takes less
            CPU (``pip install 'langchain-convsync[aiohttp]'``); else ``CONVSYNC_TRANSPORT``, else
            httpx. Blocking calls always travel over httpx.
        allow_http: Hosts of a private network to which plain http may go, e.g. ``["api"]``, besides
            those that ``CONVSYNC_ALLOW_HTTP`` names, with commas between. Keys and customers' words
            are not encrypted on their way there.
        trust_env: Whether the environment's ``HTTPS_PROXY``, ``NO_PROXY`` and ``SSL_CERT_FILE``
            are used; else ``CONVSYNC_TRUST_ENV``, else they are not.
        http_client: An ``httpx.Client`` of yours to send requests with (proxies, certificates,
            hooks); you close it. Redirects are not followed. The timeout is approximate then:
            an answer whose headers trickle in can outlast it.

    Raises:
        ConfigurationError: A setting is missing or malformed.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: APIKey = None,
        timeout: PositiveSeconds = 10.0,
        max_retries: CountOrZero = 2,
        profile: ServerProfile = DOCUMENTED_SERVER,
        transport: TransportSetting = None,
        allow_http: Iterable[str] | None = None,
        trust_env: bool | None = None,
        http_client: Annotated[httpx.Client | None, ELSEWHERE] = None,
    ) -> None:
        # What a client is made of takes a while to import, and who names one may have none yet.
        from langchain_convsync.client._api import Api
        from langchain_convsync.client._keys import require_blocking

        require_blocking(api_key)
        self.api = Api(
            base_url,
            api_key=api_key,
            timeout=timeout,
            max_retries=max_retries,
            profile=profile,
            transport=transport,
            allow_http=allow_http,
            trust_env=trust_env,
            http_client=http_client,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.api.base_url!r})"

    @property
    def profile(self) -> ServerProfile:
        """What the API server does differently from the documented one."""
        return self.api.profile

    def lookup_tenant(self, phone_number: str, bot_id: str | None = None) -> models.TenantInfo:
        """Find the tenant that a phone number talks to.

        Args:
            phone_number: The customer: a phone number in any spelling, a chat id, a BSUID, or the
                server's own id.
            bot_id: The bot. With it, the answer is remembered for an hour, and many equal calls at
                once make one request. Without it, a customer of two bots gets the newest one, and
                nothing is remembered.

        Returns:
            The tenant, with the session id that writes need.

        Raises:
            ConversationNotFoundError: The customer has no active conversation.
            ConversationMismatchError: The answer is about another customer.
            InvalidPhoneNumberError: It is not a customer id.
            APIError: Anything else that went wrong.
        """
        return run(self.api.lookup_tenant(phone_number, bot_id))

    def get_conversation(
        self,
        phone_number: str,
        bot_id: str | None = None,
        *,
        target: CallTarget | None = None,
    ) -> models.Conversation:
        """Read a conversation with its history, context and state.

        Args:
            phone_number: The customer: a phone number in any spelling, a chat id, a BSUID, or the
                server's own id.
            bot_id: The bot; without it, a customer of two bots gets the newest conversation.
            target: The tenant and bot that you know already; the answer must be of them.

        Raises:
            ConversationNotFoundError: The customer has no active conversation.
            ConversationMismatchError: The answer is about another customer.
            InvalidPhoneNumberError: It is not a customer id.
            APIError: Anything else that went wrong.
        """
        return run(self.api.get_conversation(phone_number, bot_id, target=target))

    def sync_conversation(
        self,
        session_id: str,
        update: models.StateUpdate | Mapping[str, Any],
        *,
        target: CallTarget | None = None,
        idempotency_key: str | None = None,
    ) -> models.PartialConversation:
        """Write intent, step, context and metadata back.

        Args:
            session_id: The conversation, as a read named it.
            update: What to change. ``isActive`` is always sent, and is true unless the update
                closes the conversation, because servers take its absence for true.
            target: The tenant and bot that you know already; the answer must be of them.
            idempotency_key: Sent as ``Idempotency-Key``; by default a new one for every call, the
                same for its repetitions.

        Raises:
            ConversationNotFoundError: The session is gone, e.g. it has expired.
            ConversationMismatchError: The answer is about another customer.
            ConfigurationError: The update cannot be sent, or its intent is not in the profile.
            APIError: Anything else; ``ambiguous`` tells whether it may have been applied.
        """
        flow = self.api.sync_conversation(
            session_id, update, target=target, idempotency_key=idempotency_key
        )
        return run(flow)

    def add_message(
        self,
        session_id: str,
        role: models.Role,
        content: str,
        *,
        target: CallTarget | None = None,
        idempotency_key: str | None = None,
    ) -> models.PartialConversation:
        """Append a message to the history.

        Args:
            session_id: The conversation, as a read named it.
            role: ``"user"`` or ``"bot"``.
            content: The text.
            target: The tenant and bot that you know already; the answer must be of them.
            idempotency_key: Sent as ``Idempotency-Key``; by default a new one for every call, the
                same for its repetitions.

        Raises:
            ConversationNotFoundError: The session is gone, e.g. it has expired.
            ConversationMismatchError: The answer is about another customer.
            ConfigurationError: The role is not one of the two, the text cannot be sent, or the
                server forgets what is posted (``ServerProfile(history="sync")``).
            APIError: Anything else; ``ambiguous`` tells whether it may have been recorded.
        """
        flow = self.api.add_message(
            session_id, role, content, target=target, idempotency_key=idempotency_key
        )
        return run(flow)

    def health(self) -> bool:
        """Ask the API server whether it is healthy, once.

        Returns:
            True if it says so; False if it answers with an error of its own.

        Raises:
            APIError: It could not be asked: not reached, wrong prefix, key not accepted.
        """
        return run(self.api.health())

    def close(self) -> None:
        """Close the connections; calls after it raise ``ClosedError``, until a block begins."""
        self.api.close()

    def __enter__(self) -> Self:
        self.api.reopen()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
