"""The wires of one configuration: a blocking one, and one for every event loop.

An async connection works on its own event loop alone, and LangChain runs an async callback handler
under a blocking ``invoke`` on a new loop per event. So every loop gets a wire that ends with it:
``asyncio.run`` and ``asyncio.Runner`` close a loop's async generators at its end, and each wire is
kept open by one.
"""

from __future__ import annotations

import asyncio
import ssl
import weakref
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import httpx

from langchain_convsync import _forks, _machine
from langchain_convsync._flow import Io, monotonic, running_loop
from langchain_convsync.client import _environment as environment
from langchain_convsync.client._exchange import TOO_LATE, Answer, Failure, Outcome, Request
from langchain_convsync.client._lent import LentAsyncWire, LentWire
from langchain_convsync.client._transports import chosen, trusts
from langchain_convsync.client._wires import (
    AsyncWire,
    OwnAsyncWire,
    OwnWire,
    Wire,
)
from langchain_convsync.errors import ClosedError, ConfigurationError
from langchain_convsync.settings import Transport


class _LoopWire(NamedTuple):
    wire: AsyncWire
    ending: AsyncGenerator[None]


_Loops: TypeAlias = dict[asyncio.AbstractEventLoop, _LoopWire]
#: Until they are closed: a loop waits at its end for a generator, but not for a collected one.
_kept: dict[AsyncWire, AsyncGenerator[None]] = {}


class Connections:
    """Opens wires when they are first needed and closes them all.

    Args:
        base_url: Where all requests go.
        lent: An httpx client to use instead of our own connections. A blocking one serves async
            calls too, on threads; an async one serves async calls only.
        transport: What our own async connections are made of; None takes ``CONVSYNC_TRANSPORT``.
        trust_env: Whether our own connections use the environment's proxy and certificates; None
            takes ``CONVSYNC_TRUST_ENV``.

    Raises:
        ConfigurationError: There is no such transport, or it is not installed; the environment's
            proxy or certificates cannot be used; or what is lent is no client of httpx.
    """

    def __init__(
        self,
        base_url: str,
        lent: httpx.Client | httpx.AsyncClient | None,
        *,
        transport: Transport | None,
        trust_env: bool | None,
    ) -> None:
        picked = chosen(transport, lent)
        self.transport = picked if lent is None else None
        self._lent = lent
        self._base_url = base_url
        self._trusts = trusts(trust_env, lent)
        self._proxy: httpx.Proxy | None = None
        if self._trusts:
            self._proxy = environment.proxy_for(base_url)
        proxy_url = "" if self._proxy is None else str(self._proxy.url)
        self._secure = any(url.startswith("https:") for url in (base_url, proxy_url))
        self._lock = _forks.lock()
        self._tls: ssl.SSLContext | None = None
        if self._trusts:
            self._context()  # what the environment names is told when a client is made
        self._wire: Wire | None = None
        self._loops: _Loops = {}
        self._closed = False
        # A caller may never close us: no wire is garbage before it is closed.
        weakref.finalize(self, _close_running, self._loops).atexit = False
        _forks.in_child(self, Connections._begin_anew)

    @property
    def only_awaits(self) -> bool:
        """Whether no blocking call can be served: an ``httpx.AsyncClient`` was lent."""
        return isinstance(self._lent, httpx.AsyncClient)

    def exchange(self, request: Request, seconds: float) -> Io[Outcome]:
        """Send a request over the wire of the thread or loop that performs the step.

        It ends so many seconds after this call. A process that stood still in between sends
        nothing any more: another one may have its lease by now.
        """
        return Io(self._exchange, self._aexchange, request, monotonic() + seconds)

    def _exchange(self, request: Request, until: float) -> Outcome:
        if (seconds := until - monotonic()) <= 0:
            return TOO_LATE
        try:
            return self._told(self._blocking().exchange(request, seconds))
        except Exception as error:  # noqa: BLE001 - raised again, unless the machine is short
            return self._told(_starved(error))

    async def _aexchange(self, request: Request, until: float) -> Outcome:
        if isinstance(self._lent, httpx.Client):
            return await asyncio.to_thread(self._exchange, request, until)
        if (seconds := until - monotonic()) <= 0:
            return TOO_LATE
        try:
            wire = await self._awaited()
            return self._told(await wire.exchange(request, seconds))
        except Exception as error:  # noqa: BLE001 - as above
            return self._told(_starved(error))

    def _told(self, outcome: Outcome) -> Outcome:
        """A failure may be one of this machine, or of the network that it is in."""
        if isinstance(outcome, Answer):
            if outcome.flaw is None or not (shortage := _machine.noticed(outcome.flaw.cause)):
                return outcome
            return replace(outcome, flaw=replace(outcome.flaw, shortage=shortage))
        if shortage := _machine.noticed(outcome.cause):
            return replace(outcome, shortage=shortage)
        if self._lent is not None:
            return outcome
        return environment.hinted(outcome, self._base_url, trust_env=self._trusts)

    def _begin_anew(self) -> None:
        """In a forked child: what the parent opened is the parent's; a lent client heals itself."""
        _forks.sever(self._lent, self._wire, self._loops)
        _forks.abandon(self._wire)  # what awaits is kept until its loop ends
        self._wire = None
        self._loops.clear()

    def require_open(self) -> None:
        """Raise :class:`ClosedError` after :meth:`close`."""
        if self._closed:
            message = "the client is closed: make calls before close(), or inside its `with` block"
            raise ClosedError(message)

    def _blocking(self) -> Wire:
        with self._lock:
            self.require_open()
            if self._wire is None:
                self._wire = self._new_wire()
            return self._wire

    def _new_wire(self) -> Wire:
        if isinstance(self._lent, httpx.Client):
            return LentWire(self._lent)
        if self._lent is not None:
            message = (
                "http_client is an httpx.AsyncClient, which cannot serve blocking calls: "
                "await the call, or pass an httpx.Client"
            )
            raise ConfigurationError(message)
        return OwnWire(self._context(), self._proxy)

    async def _awaited(self) -> AsyncWire:
        loop = asyncio.get_running_loop()
        self.require_open()
        found = self._loops.get(loop)
        if found is not None:
            return found.wire
        with self._lock:
            opened = self._new_async_wire()
            ending = _until_end_of(loop, opened, self._loops)
            for ended in [other for other in self._loops if other.is_closed()]:
                _kept.pop(self._loops.pop(ended).wire, None)
            self._loops[loop], _kept[opened] = _LoopWire(opened, ending), ending
        await anext(ending)  # does not suspend: no task sees a wire without its end
        return opened

    def _new_async_wire(self) -> AsyncWire:
        if isinstance(self._lent, httpx.AsyncClient):
            return LentAsyncWire(self._lent)
        if self.transport == "httpx":
            return OwnAsyncWire(self._context(), self._proxy)
        from langchain_convsync.client._aiohttp import AiohttpWire

        return AiohttpWire(self._context(), self._proxy)

    def _context(self) -> ssl.SSLContext | None:
        if self._secure and self._tls is None:  # once: it reads the certificates from disk
            self._tls = environment.tls_context(trust_env=self._trusts)
        return self._tls

    def reopen(self) -> None:
        """Open wires anew when they are needed, after :meth:`close` as well."""
        self._closed = False

    def close(self) -> None:
        """Close everything; a wire of another running loop is closed by that loop, in a moment."""
        with self._lock:
            self._closed = True
            wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()
        _close_running(self._loops)

    async def aclose(self) -> None:
        """Close everything, the wire of the running loop before returning."""
        with self._lock:
            mine = self._loops.pop(running_loop(), None)
        self.close()
        if mine is not None:
            await mine.ending.aclose()


def _starved(error: Exception) -> Failure:
    """The failure that an error is where the machine lacked something, as no transport expects it.

    Raises:
        Exception: It is another one.
    """
    if _machine.lacking(error) is None:
        raise error
    # Threads look names up, and certificates are read, before anything is sent.
    sent = isinstance(error, MemoryError)
    return Failure(kind="connection", reason="no connection", sent=sent, cause=error)


async def _until_end_of(
    loop: asyncio.AbstractEventLoop, wire: AsyncWire, loops: _Loops
) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        _kept.pop(wire, None)
        if (found := loops.get(loop)) is not None and found.wire is wire:  # else there is a newer
            del loops[loop]
        await wire.aclose()


def _close_running(loops: _Loops) -> None:
    for loop, (_, ending) in list(loops.items()):
        if loop.is_running():  # one at rest closes its wire when it ends
            loops.pop(loop, None)
            with suppress(RuntimeError):  # it ended just now
                loop.call_soon_threadsafe(_close_soon, ending)


def _close_soon(ending: AsyncGenerator[None]) -> None:
    asyncio.ensure_future(_ended(ending))  # noqa: RUF006 - it is always in the loop's own queue


async def _ended(ending: AsyncGenerator[None]) -> None:
    """Its end, as a task that may be cancelled before it begins: then the loop ends it.

    ``aclose()`` as a task of its own would then neither begin nor let the loop begin it.
    """
    await ending.aclose()
