"""The face of :class:`Waha` that blocks."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Annotated, Self

import httpx
from pydantic import SecretStr

from langchain_convsync._checked import ELSEWHERE, Count, PositiveSeconds, checked
from langchain_convsync._flow import run
from langchain_convsync._forks import Unpicklable
from langchain_convsync.client._waha import ChatMessage, Waha, WahaSession
from langchain_convsync.settings import TransportSetting


@checked
class WAHAClient(Unpicklable):
    """WAHA, blocking. Safe to share between threads; close it, or use it in ``with``.

    Nothing is repeated, since WAHA knows no idempotency keys: a text whose answer was lost may have
    been sent, and the error's ``ambiguous`` says so. ``WAHAReply`` sends a runner's replies once.
    No error shows a phone number, session, key or text.

    Protocol: https://waha.devlike.pro/docs/how-to/send-messages/, …/chats/, …/contacts/ (for LIDs)
    and …/sessions/.

    Args:
        base_url: Where WAHA is, e.g. ``https://waha.example.com``; else
            ``CONVSYNC_WAHA_BASE_URL``. Plain http is for this machine; see ``allow_http``.
        api_key: Its ``X-Api-Key``; else ``CONVSYNC_WAHA_API_KEY``, else none.
        transport: What awaited calls travel over: ``"httpx"``, or ``"aiohttp"``, which takes less
            CPU (``pip install 'langchain-convsync[aiohttp]'``); else ``CONVSYNC_TRANSPORT``, else
            httpx. Blocking calls always travel over httpx.
        allow_http: Hosts of a private network to which plain http may go, besides those that
            ``CONVSYNC_ALLOW_HTTP`` names.
        trust_env: Whether the environment's ``HTTPS_PROXY``, ``NO_PROXY`` and ``SSL_CERT_FILE``
            are used; else ``CONVSYNC_TRUST_ENV``, else they are not.
        http_client: An ``httpx.Client`` of yours to send requests with (proxies, certificates,
            hooks); you close it. Redirects are not followed. Timeouts are approximate then.

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
        http_client: Annotated[httpx.Client | None, ELSEWHERE] = None,
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

    def send_text(
        self, session: str, chat_id: str, text: str, *, timeout: PositiveSeconds = 10.0
    ) -> str | None:
        """Send a text.

        Args:
            session: The WAHA session that sends it, e.g. ``default``.
            chat_id: The chat: ``51999999999@c.us``, ``…@lid`` or a group's ``…@g.us``.
            text: The text, in WhatsApp's markup.
            timeout: Seconds for the whole call.

        Returns:
            The id of the message without WAHA's prefixes, the same in every engine; None where
            WAHA sent it and does not tell.

        Raises:
            WAHAError: It was not sent; or, if ``ambiguous``, that is unknown.
            ConfigurationError: The timeout is not a positive number.
        """
        return run(self.waha.send_text(session, chat_id, text, timeout=timeout))

    def seen(self, session: str, chat_id: str, *, timeout: PositiveSeconds = 10.0) -> None:
        """Mark a chat as read: the customer's ticks turn blue.

        Args:
            session: The WAHA session.
            chat_id: The chat, as for :meth:`send_text`.
            timeout: Seconds for the whole call.

        Raises:
            WAHAError: It did not work, or that is unknown.
            ConfigurationError: The timeout is not a positive number.
        """
        run(self.waha.seen(session, chat_id, timeout=timeout))

    def typing(
        self, session: str, chat_id: str, *, on: bool = True, timeout: PositiveSeconds = 10.0
    ) -> None:
        """Show in a chat that the business is typing, or no longer is.

        Args:
            session: The WAHA session.
            chat_id: The chat, as for :meth:`send_text`.
            on: Whether it is typing; WhatsApp stops showing it by itself after a while.
            timeout: Seconds for the whole call.

        Raises:
            WAHAError: It did not work, or that is unknown.
            ConfigurationError: The timeout is not a positive number.
        """
        run(self.waha.typing(session, chat_id, on=on, timeout=timeout))

    def phone_number(
        self, session: str, lid: str, *, timeout: PositiveSeconds = 10.0
    ) -> str | None:
        """The phone number behind a LID.

        Args:
            session: The WAHA session that met the customer.
            lid: The LID, e.g. ``38000000000001@lid``.
            timeout: Seconds for the whole call.

        Returns:
            The number as E.164, ``+51999999999``; None where WAHA does not know it (yet).

        Raises:
            WAHAError: It cannot be asked.
            ConfigurationError: Session or LID cannot stand in a URL, or the timeout is invalid.
        """
        return run(self.waha.lid(session, lid, timeout=timeout))

    def chats(
        self, session: str, *, most: Count = 100, timeout: PositiveSeconds = 10.0
    ) -> list[str]:
        """The chats of a session, last active first.

        Args:
            session: The WAHA session.
            most: How many chats to ask for.
            timeout: Seconds for the whole call.

        Returns:
            Their chat ids, of people and groups; channels and what cannot be read are left out.

        Raises:
            WAHAError: They cannot be listed; ``status_code`` tells an engine that keeps none.
            ConfigurationError: The session cannot stand in a URL, or the timeout is invalid.
        """
        return run(self.waha.chats(session, most=most, timeout=timeout))

    def messages(
        self,
        session: str,
        chat_id: str,
        *,
        most: Count = 100,
        own_only: bool = False,
        timeout: PositiveSeconds = 10.0,
    ) -> list[ChatMessage]:
        """The last messages of a chat.

        Args:
            session: The WAHA session.
            chat_id: The chat, as for :meth:`send_text`.
            most: How many messages to ask for.
            own_only: Asks for those of the business alone; some engines do not filter, so look at
                each message's ``own``.
            timeout: Seconds for the whole call.

        Returns:
            Messages with ``id`` (as :meth:`send_text` tells it), ``text``, ``sent_at`` and ``own``,
            in the engine's order.

        Raises:
            WAHAError: They cannot be read; ``status_code`` tells an engine that keeps none.
            ConfigurationError: Session or chat cannot stand in a URL, or the timeout is invalid.
        """
        flow = self.waha.chat(session, chat_id, most=most, own_only=own_only, timeout=timeout)
        return run(flow)

    def sessions(self, *, timeout: PositiveSeconds = 10.0) -> list[WahaSession]:
        """Every session, stopped ones included.

        Args:
            timeout: Seconds for the whole call.

        Returns:
            Sessions with ``name`` and ``status``; only a ``WORKING`` one sends and receives.

        Raises:
            WAHAError: They cannot be read.
            ConfigurationError: The timeout is not a positive number.
        """
        return run(self.waha.sessions(timeout=timeout))

    def close(self) -> None:
        """Close the connections; calls after it raise ``ClosedError``, until a block begins."""
        self.waha.close()

    def __enter__(self) -> Self:
        self.waha.reopen()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
