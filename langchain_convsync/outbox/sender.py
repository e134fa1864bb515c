"""Who sends replies, and how: what ``WAHAReply`` is told, and what it makes of an agent's words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Literal, TypeAlias

import httpx
from pydantic import SecretStr

from langchain_convsync._checked import ELSEWHERE, Count, Range, Seconds, checked
from langchain_convsync._forks import Unpicklable
from langchain_convsync._lines import whole
from langchain_convsync.client import Waha
from langchain_convsync.errors import ConfigurationError, raised_by
from langchain_convsync.reply import Reply
from langchain_convsync.settings import TransportSetting
from langchain_convsync.waha import from_markdown
from langchain_convsync.waha.bubbles import bubbles

#: Seconds that a customer may see the typing sign at most: the replies behind it wait as well.
LONGEST_TYPING = 20.0

Format: TypeAlias = Callable[[str], str]
TypingTime: TypeAlias = Annotated[float, Range("a number of seconds", 0, LONGEST_TYPING)]
Frequency: TypeAlias = Annotated[float, Range("a number of messages", 0, 10_000, above=True)]
OnUnverifiableReply: TypeAlias = Literal["drop", "resend"]


class WAHAReply(Unpicklable):
    """Sends a runner's replies through WAHA, to the chat that the customer wrote in.

    ::

        TurnRunner(agent, reply=WAHAReply("https://waha.example.com"))

    A reply is queued with its turn's commit, so it survives every crash. Before it is sent that is
    noted; a send without a clear answer is looked for, among our own echoes (see
    ``TurnRunner.record_echo``) and in the chat, and sent again only if it is not there.

    Args:
        base_url: Where WAHA is; else ``CONVSYNC_WAHA_BASE_URL``.
        api_key: Its ``X-Api-Key``; else ``CONVSYNC_WAHA_API_KEY``, else no key.
        on_unverifiable: What becomes of such a reply where WAHA does not tell what stands in the
            chat (e.g. NOWEB without its store): ``"drop"`` may lose it, ``"resend"`` may double it.
            Both are counted.
        settle: Seconds after which a request without an answer was surely carried out, or never
            will be.
        seen: Whether the customer sees that the message was read, right before the reply is sent,
            or before typing is shown.
        typing: Seconds for which the customer sees the typing sign before that, at most: a
            short text takes less. The delivery waits so long: a worker, or outside a block the
            call. It is shown from the turn's begin, too. Signs may fail, and then the reply is sent
            without them.
        bubbles: Characters beyond which a text is sent as several messages, split on blank lines
            and never inside code; a pause by length lies between them. None splits nothing.
        format: Makes WhatsApp's formatting of the agent's texts: text → text. None sends them as
            they are.
        pace: Messages that an account sends a minute at most, in all processes together: each a
            little later than that, at random. None: as they come.
        first_contacts: Of those, messages an hour at most to customers who have had none of the
            account's before, as far as the store knows. None: as many as ``pace``.
        transport: What awaited calls travel over: ``"httpx"``, or ``"aiohttp"``, which takes less
            CPU (``pip install 'langchain-convsync[aiohttp]'``); else ``CONVSYNC_TRANSPORT``, else
            httpx. Mocks of httpx do not see aiohttp's calls.
        allow_http: Hosts of a private network to which plain http may go, besides those that
            ``CONVSYNC_ALLOW_HTTP`` names.
        trust_env: Whether the environment's ``HTTPS_PROXY``, ``NO_PROXY`` and ``SSL_CERT_FILE``
            are used; else ``CONVSYNC_TRUST_ENV``, else they are not.
        http_client: An httpx client of yours to send requests with; you close it.

    Raises:
        ConfigurationError: A setting is missing or malformed.
    """

    @checked
    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | SecretStr | None = None,
        on_unverifiable: OnUnverifiableReply = "drop",
        settle: Seconds = 10.0,
        seen: bool = False,
        typing: TypingTime = 0.0,
        bubbles: Count | None = None,
        format: Format | None = from_markdown,  # noqa: A002 - what it is for whoever passes it
        pace: Frequency | None = None,
        first_contacts: Frequency | None = None,
        transport: TransportSetting = None,
        allow_http: Iterable[str] | None = None,
        trust_env: bool | None = None,
        http_client: Annotated[httpx.Client | httpx.AsyncClient | None, ELSEWHERE] = None,
    ) -> None:
        self.waha = Waha(
            base_url,
            api_key=api_key,
            transport=transport,
            allow_http=allow_http,
            trust_env=trust_env,
            http_client=http_client,
        )
        self.on_unverifiable: OnUnverifiableReply = on_unverifiable
        self.settle = settle
        self.seen = seen
        self.typing = typing
        self.bubbles = bubbles
        self.format = format
        self.pace = pace
        self.first_contacts = first_contacts

    def as_sent(self, said: Iterable[Reply]) -> list[Reply]:
        """What an agent says as it is sent: formatted, and each text as one message or several.

        Raises:
            ConfigurationError: ``format=`` returned no text.
        """
        return [reply for each in said if not (reply := self._as_sent(each)).is_silent]

    def _as_sent(self, reply: Reply) -> Reply:
        texts = [b for text in reply.texts for b in bubbles(self._formatted(text), self.bubbles)]
        caption = self._formatted(reply.caption) if reply.caption else ""
        return reply.model_copy(update={"texts": tuple(texts), "caption": caption.strip()})

    def _formatted(self, text: str) -> str:
        if self.format is None:
            return text
        with raised_by("format="):
            formatted: object = self.format(text)
            if not isinstance(formatted, str):
                told = f"format= returned an object of {type(formatted).__name__}: return a text"
                raise ConfigurationError(told)
        return whole(formatted)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.waha.base_url!r})"

    def close(self) -> None:
        """Close the connections."""
        self.waha.close()

    async def aclose(self) -> None:
        """Close the connections, sync and async."""
        await self.waha.aclose()
