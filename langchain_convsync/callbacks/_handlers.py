"""The two callback handlers; they differ in how they wait."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.outputs import LLMResult

from langchain_convsync import telemetry
from langchain_convsync._checked import checked
from langchain_convsync._flow import Flow, arun, run
from langchain_convsync._forks import Unpicklable
from langchain_convsync.callbacks._once import sync_once
from langchain_convsync.callbacks._runs import Root, Runs
from langchain_convsync.client import AsyncConvSyncClient, ConvSyncClient, api_of
from langchain_convsync.errors import ConvSyncError, raised_by
from langchain_convsync.stores import StoreLike, store_of
from langchain_convsync.stores.served import require_served
from langchain_convsync.surfaces.access import Access
from langchain_convsync.surfaces.context import (
    ConversationLike,
    ConversationRef,
    current_turn,
    resolve,
)
from langchain_convsync.surfaces.state import Extractor, as_update, ask, extract

if TYPE_CHECKING:
    from langchain_core.callbacks import BaseCallbackHandler as _Handler
else:
    try:  # graphs tell of interrupts only to their own kind of handler
        from langgraph.callbacks import GraphCallbackHandler as _Handler
    except ImportError:  # no graphs, no interrupts
        from langchain_core.callbacks import BaseCallbackHandler as _Handler

logger = logging.getLogger(__name__)


class _StateSync(_Handler, Unpicklable):
    @checked
    def __init__(
        self,
        client: ConvSyncClient | AsyncConvSyncClient | None = None,
        *,
        conversation: ConversationLike | None = None,
        store: StoreLike | None = None,
        extractor: Extractor | None = None,
        on_error: Callable[[Exception], object] | None = None,
        raise_error: bool = False,
    ) -> None:
        super().__init__()
        if conversation is not None:
            ConversationRef.of(conversation)
        self.raise_error = raise_error
        self._api = api_of(client)
        self._conversation = conversation
        self._store = None if store is None else store_of(store)
        self._extractor = extractor
        self._on_error = on_error
        self._runs = Runs()

    def _begin(
        self,
        *args: Any,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        _serialized, inputs = args  # under a name of its own for each kind of run
        self._runs.begin(run_id, parent_run_id, inputs, metadata or {}, self._new_root)

    def _drop(self, *args: object, run_id: UUID, **kwargs: Any) -> None:
        self._runs.end(run_id)

    on_chain_start = on_llm_start = on_chat_model_start = _begin
    on_tool_start = on_retriever_start = _begin
    on_chain_error = on_llm_error = _drop
    # A tool or retriever that runs alone decides nothing.
    on_tool_end = on_tool_error = on_retriever_end = on_retriever_error = _drop

    def on_interrupt(self, event: Any) -> None:
        """A graph waits for a human; nothing is synced before it went on to its end."""
        self._runs.interrupt(event.run_id)

    def _new_root(self) -> Root:
        try:
            ref = resolve(self._conversation)
        except ConvSyncError:  # told at the end, if there is anything to sync
            ref = None
        return Root(ref=ref, turn=current_turn.get())

    def _ended(self, run_id: UUID, output: object, inputs: object = None) -> Flow[None]:
        root = self._runs.end(run_id)
        if root is None or root.interrupted or output is None:  # None: a stream closed early
            return
        try:
            yield from self._sync(root, output, inputs)
        except Exception as error:  # also what the user's extractor raises
            telemetry.count("callback_failures", error=type(error).__name__)
            key = None if root.turn is None else root.turn.conversation_key
            told = "the state was not synced at the end of a run: %s"
            telemetry.log(logger, logging.WARNING, key, told, error)
            if self._on_error is not None:
                self._on_error(error)
            if self.raise_error:
                raise

    def _sync(self, root: Root, output: object, inputs: object) -> Flow[None]:
        decision = None
        if self._extractor is not None:
            with raised_by("extractor="):
                decision = yield from ask(self._extractor, output)
        if decision is None:
            decision = extract(root.fresh(output), baseline=root.before(inputs))
        if update := as_update(decision):
            ref = root.ref or resolve(self._conversation)
            syncing = Access(self._api, ref, root.turn).decide(update)
            if self._store is None or root.turn is not None:  # a turn is once per event by itself
                yield from syncing
            else:
                yield from require_served(self._store, self._api.address)
                yield from sync_once(self._store, ref, syncing)


class ConvSyncCallbackHandler(_StateSync):
    """Syncs what a run decided, once, when the run ends.

    ::

        with in_conversation("+51999999999"):
            chain.invoke(question, {"callbacks": [ConvSyncCallbackHandler()]})

    A run is synced unless it failed, was interrupted or closed early, or decided nothing (see
    :mod:`langchain_convsync.surfaces.state` for what counts as a decision). One handler serves any
    number of runs at once, in every call form; async runs call it on a thread. A sync costs one
    read and one write; inside a ``TurnRunner`` it costs none, the turn writes it.

    With a store, an event is synced once, whichever processes answer it::

        handler = ConvSyncCallbackHandler(store=RedisEventStore("redis://…"))
        with in_conversation(event.phone_number, event_id=event.event_id):
            chain.invoke(question, {"callbacks": [handler]})

    That is the sync alone: the run, and what it costs, happens each time (``deduplicated`` is for
    that). An event of several runs is synced by the first that decides something, so attach the
    handler to the outermost. Inputs of one ``batch`` share the event of its block; where they are
    different events, give each a config with a handler of its ``ConversationRef(…, event_id=…)``.

    Args:
        client: The API server, sync or async; None takes it from the environment.
        conversation: The conversation; None takes that of each run. Not from its metadata: tracers
            export that.
        store: Where the events are kept that were synced; None syncs after each run. While it
            cannot tell, nothing is synced.
        extractor: The run's output → ``StateUpdate``, mapping or None (None leaves it to the
            default extraction).
        on_error: Called with the error when a sync failed. The run itself is not disturbed.
        raise_error: Whether a failed sync fails the run.

    Raises:
        ConfigurationError: ``client`` is None and the environment names no API server.
        InvalidPhoneNumberError: ``conversation`` is not a customer id.
    """

    def on_chain_end(
        self, outputs: Any, *, run_id: UUID, inputs: object = None, **kwargs: Any
    ) -> None:
        """Sync, if that was a root."""
        run(self._ended(run_id, outputs, inputs))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Sync, if that was a chat model that ran alone."""
        run(self._ended(run_id, _message(response)))


class AsyncConvSyncCallbackHandler(_StateSync):
    """:class:`ConvSyncCallbackHandler` for async runs: it awaits its I/O on their event loop.

    Its extractor may be async. Under a blocking run it works too, each sync on an event loop of its
    own, but there a failed sync never fails the run: LangChain logs it, ``raise_error`` or not.
    """

    run_inline = True  # its bookkeeping is not worth a thread; what waits is awaited

    async def on_chain_end(
        self, outputs: Any, *, run_id: UUID, inputs: object = None, **kwargs: Any
    ) -> None:
        """Sync, if that was a root."""
        await arun(self._ended(run_id, outputs, inputs))

    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Sync, if that was a chat model that ran alone."""
        await arun(self._ended(run_id, _message(response)))


def _message(response: LLMResult) -> object:
    from langchain_core.outputs import ChatGeneration  # takes a while; here is one

    for generations in response.generations:
        for generation in generations:
            if isinstance(generation, ChatGeneration):
                return generation.message
    return None
