"""Reads the bodies of requests before it is known who sent them: bounded in size, time, number.

A body is held in memory until it is verified. Senders who stop half way, or send a byte a second,
hold no more than a fixed share of it, and not for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

#: Bytes of a body at most; WAHA sends links to media, not media.
LARGEST = 1024 * 1024
#: Seconds that a whole body may take, however its bytes are spread over them.
LONGEST = 10.0
#: Bodies that are read at the same time.
AT_ONCE = 64


class UnreadBodyError(Exception):
    """A body that was not read to its end: the connection is of no further use.

    Attributes:
        status_code: What its sender is answered.
        retry_after: Seconds after which the sender may come again; None where that would not help.
    """

    def __init__(self, status_code: int, detail: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status_code = status_code
        self.retry_after = retry_after


class BodyReader:
    """The bodies that one app reads.

    Args:
        largest: Bytes of one at most.
        longest: Seconds that one may take.
        at_once: How many are read at the same time.
    """

    def __init__(
        self, *, largest: int = LARGEST, longest: float = LONGEST, at_once: int = AT_ONCE
    ) -> None:
        self.largest = largest
        self.longest = longest
        self.at_once = at_once
        self._reading = 0

    async def read(self, chunks: AsyncIterator[bytes], declared: str | None = None) -> bytes:
        """The body as it was sent.

        Args:
            chunks: Its bytes as they arrive.
            declared: The request's ``Content-Length``, if it has one.

        Raises:
            UnreadBodyError: 413, 408 or 503; nothing of it is kept.
        """
        if declared is not None and declared.isdecimal() and int(declared[:20]) > self.largest:
            raise self._too_large()
        if self._reading >= self.at_once:
            raise UnreadBodyError(503, "too many requests are being read: send it again", 1)
        self._reading += 1
        try:
            async with asyncio.timeout(self.longest):
                return await self._joined(chunks)
        except TimeoutError:
            detail = f"the body did not arrive within {self.longest:g} seconds: send it again"
            raise UnreadBodyError(408, detail) from None
        finally:
            self._reading -= 1

    async def _joined(self, chunks: AsyncIterator[bytes]) -> bytes:
        received = bytearray()
        async for chunk in chunks:
            received += chunk
            if len(received) > self.largest:
                raise self._too_large()
        return bytes(received)

    def _too_large(self) -> UnreadBodyError:
        return UnreadBodyError(413, f"the body is larger than {self.largest / 1024**2:g} MiB")
