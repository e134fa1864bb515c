"""The face of :class:`Api` that is awaited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import httpx

from langchain_convsync._checked import ELSEWHERE, CountOrZero, PositiveSeconds, checked
from langchain_convsync._flow import arun
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
class AsyncConvSyncClient(Unpicklable):
    """The API server, awaited: :class:`ConvSyncClient` with ``await`` before every call.

    It may be used on several event loops; its connections end with the loop they were opened on.
    Close it with ``aclose()``, or use it in ``async with``. Arguments, checks, retries and errors
    are those of :class:`ConvSyncClient`, except for one argument.

    Args:
        base_url: Where the API server is; else ``CONVSYNC_BASE_URL``.
        api_key: The key, or a callable that returns one, or something to await for it; else
            ``CONVSYNC_API_KEY``, else none. A callable that does not await must not block.
        timeout: Seconds for one whole call: all attempts, and the pauses between them.
        max_retries: How often a failed attempt is repeated.
        profile: What this API server does differently from the documented one.
        transport: What awaited calls travel over: ``"httpx"``, or ``"aiohttp"``, which takes less
            CPU (``pip install 'langchain-convsync[aiohttp]'``); else ``CONVSYNC_TRANSPORT``, else
            httpx. Mocks of httpx do not see aiohttp's calls.
        allow_http: Hosts of a private network to which plain http may go, besides those that
            ``CONVSYNC_ALLOW_HTTP`` names.
        trust_env: Whether the environment's ``HTTPS_PROXY``, ``NO_PROXY`` and ``SSL_CERT_FILE``
            are used; else ``CONVSYNC_TRUST_ENV``, else they are not.
        http_client: An ``httpx.AsyncClient`` of yours to send requests with (proxies, certificates,
            hooks); you close it, and use it on one event loop only. Redirects are not followed.

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
        http_client: Annotated[httpx.AsyncClient | None, ELSEWHERE] = None,
    ) -> None:
        # What a client is made of takes a while to import, and who names one may have none yet.
        from langchain_convsync.client._api import Api

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

    async def lookup_tenant(
        self, phone_number: str, bot_id: str | None = None
    ) -> models.TenantInfo:
        """Find the tenant that a phone number talks to: :meth:`ConvSyncClient.lookup_tenant`."""
        return await arun(self.api.lookup_tenant(phone_number, bot_id))

    async def get_conversation(
        self,
        phone_number: str,
        bot_id: str | None = None,
        *,
        target: CallTarget | None = None,
    ) -> models.Conversation:
        """Read a conversation: :meth:`ConvSyncClient.get_conversation`."""
        return await arun(self.api.get_conversation(phone_number, bot_id, target=target))

    async def sync_conversation(
        self,
        session_id: str,
        update: models.StateUpdate | Mapping[str, Any],
        *,
        target: CallTarget | None = None,
        idempotency_key: str | None = None,
    ) -> models.PartialConversation:
        """Write intent, step, context, metadata: :meth:`ConvSyncClient.sync_conversation`."""
        flow = self.api.sync_conversation(
            session_id, update, target=target, idempotency_key=idempotency_key
        )
        return await arun(flow)

    async def add_message(
        self,
        session_id: str,
        role: models.Role,
        content: str,
        *,
        target: CallTarget | None = None,
        idempotency_key: str | None = None,
    ) -> models.PartialConversation:
        """Append a message to the history: :meth:`ConvSyncClient.add_message`."""
        flow = self.api.add_message(
            session_id, role, content, target=target, idempotency_key=idempotency_key
        )
        return await arun(flow)

    async def health(self) -> bool:
        """Ask the API server whether it is healthy, once: :meth:`ConvSyncClient.health`."""
        return await arun(self.api.health())

    async def aclose(self) -> None:
        """Close the connections; calls after it raise ``ClosedError``, until a block begins."""
        await self.api.aclose()

    async def __aenter__(self) -> Self:
        self.api.reopen()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
