"""The face of :class:`Waha` that is awaited."""
# ruff: noqa: ASYNC109 - a timeout bounds the exchange sync and async, by a deadline of its own

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Annotated, Self

import httpx
from pydantic import SecretStr

from langchain_convsync._checked import ELSEWHERE, Count, PositiveSeconds, checked
from langchain_convsync._flow import arun
from langchain_convsync._forks import Unpicklable
from langchain_convsync.client._waha import ChatMessage, Waha, WahaSession
from langchain_convsync.settings import TransportSetting


@checked
class AsyncWAHAClient(Unpicklable):
    """WAHA, awaited: :class:`WAHAClient` with ``await`` before every call.

    It may be used on several event loops; its connections end with the loop they were opened on.
    Close it with ``aclose()``, or use it in ``async with``. Arguments, answers and errors are those
    of :class:`WAHAClient`, except for one argument.

    Args:
        base_url: Where WAHA is; else ``CONVSYNC_WAHA_BASE_URL``.
        api_key: Its ``X-Api-Key``; else ``CONVSYNC_WAHA_API_KEY``, else none.
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
        api_key: str | SecretStr | None = None,
        transport: TransportSetting = None,
        allow_http: Iterable[str] | None = None,
        trust_env: bool | None = None,
        http_client: Annotated[httpx.AsyncClient | None, ELSEWHERE] = None,
    ) -> None:
        self.waha = Waha(
            base_url,
            api_key=api_key,
            transport=transport,
            allow_http=allow_http,
            trust_env=trust_env,
            http_client=http_client,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.waha.base_url!r})"

    async def send_text(
        self, session: str, chat_id: str, text: str, *, timeout: PositiveSeconds = 10.0
    ) -> str | None:
        """Send a text: :meth:`WAHAClient.send_text`."""
        return await arun(self.waha.send_text(session, chat_id, text, timeout=timeout))

    async def seen(self, session: str, chat_id: str, *, timeout: PositiveSeconds = 10.0) -> None:
        """Mark a chat as read: :meth:`WAHAClient.seen`."""
        await arun(self.waha.seen(session, chat_id, timeout=timeout))

    async def typing(
        self, session: str, chat_id: str, *, on: bool = True, timeout: PositiveSeconds = 10.0
    ) -> None:
        """Show that the business is typing, or no longer is: :meth:`WAHAClient.typing`."""
        await arun(self.waha.typing(session, chat_id, on=on, timeout=timeout))

    async def phone_number(
        self, session: str, lid: str, *, timeout: PositiveSeconds = 10.0
    ) -> str | None:
        """The phone number behind a LID: :meth:`WAHAClient.phone_number`."""
        return await arun(self.waha.lid(session, lid, timeout=timeout))

    async def chats(
        self, session: str, *, most: Count = 100, timeout: PositiveSeconds = 10.0
    ) -> list[str]:
        """The chats of a session, last active first: :meth:`WAHAClient.chats`."""
        return await arun(self.waha.chats(session, most=most, timeout=timeout))

    async def messages(
        self,
        session: str,
        chat_id: str,
        *,
        most: Count = 100,
        own_only: bool = False,
        timeout: PositiveSeconds = 10.0,
    ) -> list[ChatMessage]:
        """The last messages of a chat: :meth:`WAHAClient.messages`."""
        flow = self.waha.chat(session, chat_id, most=most, own_only=own_only, timeout=timeout)
        return await arun(flow)

    async def sessions(self, *, timeout: PositiveSeconds = 10.0) -> list[WahaSession]:
        """Every session, stopped ones included: :meth:`WAHAClient.sessions`."""
        return await arun(self.waha.sessions(timeout=timeout))

    async def aclose(self) -> None:
        """Close the connections; calls after it raise ``ClosedError``, until a block begins."""
        await self.waha.aclose()

    async def __aenter__(self) -> Self:
        self.waha.reopen()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
