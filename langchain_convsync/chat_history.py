"""A conversation as a LangChain chat message history: the classic path, for chains.

LangChain deprecates ``BaseChatMessageHistory`` and ``RunnableWithMessageHistory``; for agents, use
``ConvSyncMiddleware``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage

from langchain_convsync import telemetry
from langchain_convsync._checked import Count, checked
from langchain_convsync._flow import Flow, arun, run
from langchain_convsync._forks import Unpicklable
from langchain_convsync.client import AsyncConvSyncClient, ConvSyncClient, api_of
from langchain_convsync.errors import ConvSyncError
from langchain_convsync.models import ConversationMessage
from langchain_convsync.outbox.journal import Journal
from langchain_convsync.stores import StoreLike, store_of
from langchain_convsync.surfaces.access import Access
from langchain_convsync.surfaces.bounds import recent
from langchain_convsync.surfaces.context import (
    ConversationLike,
    ConversationRef,
    current_turn,
    key_for_logs,
)
from langchain_convsync.surfaces.limits import limit_in
from langchain_convsync.surfaces.messages import as_messages, from_langchain, to_langchain

logger = logging.getLogger(__name__)


class ConvSyncChatMessageHistory(BaseChatMessageHistory, Unpicklable):
    """The messages of one conversation, read from and written to the API server.

    ::

        RunnableWithMessageHistory(chain, ConvSyncChatMessageHistory)

    Reading costs one API call, adding n messages n calls, and one more where the session is not
    known. Inside a ``TurnRunner`` both cost none: the turn has read the conversation, and records
    the customer's message and the reply itself.

    What is recorded are words: a bot's text, a customer's with ``[image]`` and the like, and
    nothing for tool calls, tool results and system messages, which are the agent's own business.

    With ``store`` a message counts as added once the store has it. It is then delivered for two
    seconds at most; what is left stays in the store, for the conversation's next write or for a
    worker, and this process reads it back. While the API server does not answer, reads are served
    from what this process has read last.

    Args:
        session_id: The conversation: a phone number, chat id, BSUID or other id, or a reference.
        bot_id: The bot, where a phone number may talk to several.
        client: The API server, sync or async; None takes it from the environment.
        limit: Read the last so many messages; None reads as many as a prompt holds: the last 100,
            and 100,000 characters, of which the first says how many are left out.
        store: Where messages live until they are delivered; stays its owner's to close. Share one
            among all histories of a process. None writes at once or fails.
        on_error: Called with the error when a message could not be written. The error is raised
            all the same, but ``RunnableWithMessageHistory`` turns it into one line of a log.

    Attributes:
        last_error: Why the last write failed; None once one succeeded.

    Raises:
        InvalidPhoneNumberError: ``session_id`` is not a customer id.
        ConversationMismatchError: ``bot_id`` is not the reference's.
        ConfigurationError: ``limit`` is less than 1, or ``client`` is None and
            the environment names no API server.
    """

    @checked
    def __init__(
        self,
        session_id: ConversationLike,
        *,
        bot_id: str | None = None,
        client: ConvSyncClient | AsyncConvSyncClient | None = None,
        limit: Count | None = None,
        store: StoreLike | None = None,
        on_error: Callable[[Exception], object] | None = None,
    ) -> None:
        super().__init__()
        turn = current_turn.get()
        if turn is not None and session_id == turn.thread:  # how a turn names it to a memory
            session_id = turn.ref
        ref = ConversationRef.of(session_id)
        self.last_error: Exception | None = None
        self._ref = ref.agreeing(replace(ref, bot_id=bot_id or None))
        self._api = api_of(client)
        self._journal = None if store is None else Journal(self._api, store_of(store))
        self._limit = limit
        self._on_error = on_error
        self._known: set[str] = set()

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]  # LangChain's own idiom
        """The history, oldest first: one API call per access.

        Raises:
            APIError: The API server did not tell.
        """
        return run(self._read())

    async def aget_messages(self) -> list[BaseMessage]:
        """:attr:`messages`, awaited."""
        return await arun(self._read())

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Write messages in their order; after a failure, none of the later ones.

        A message is recognised by its id: one that was read from this history or written by it is
        not written again, the same words under another id are.

        Raises:
            APIError: The API server did not accept one of them; with a store, it cannot be told
                whose conversation it is.
            StoreError: The store did not accept them; nothing is recorded.
            ConversationMismatchError: It is not the conversation of this run.
        """
        run(self._add(messages))

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """:meth:`add_messages`, awaited."""
        await arun(self._add(messages))

    def clear(self) -> None:
        """Empty the history on the API server, and look whether it is empty.

        The rest of the conversation stays: its state, and whether it is open.

        Raises:
            APIError: The API server did not do it, keeps its history, or has to be told earlier
                messages first that wait in the store.
            ConfigurationError: A turn is running; it records, and takes nothing back.
        """
        run(self._clear())

    async def aclear(self) -> None:
        """:meth:`clear`, awaited."""
        await arun(self._clear())

    def __len__(self) -> int:
        """How many messages :attr:`messages` holds: one API call."""
        return len(self.messages)

    def __bool__(self) -> bool:
        """True: whether there is a history is not worth a question to the API server."""
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._ref!r})"

    def _read(self) -> Flow[list[BaseMessage]]:
        access = Access.to(self._api, self._ref)
        if access.turn is not None and access.turn.history_given:
            return []  # it stands in the agent's input; here it would come a second time
        if access.turn is None and self._journal is not None:
            conversation = yield from self._journal.read(access.ref)
        else:
            conversation = yield from access.read()
        history = to_langchain(conversation.said)
        self._known.update(message.id for message in history if message.id)
        return recent(history) if self._limit is None else history[-self._limit :]

    def _add(self, messages: Sequence[BaseMessage]) -> Flow[None]:
        with self._failures_reported("A message was not written to the history"):
            access = Access.to(self._api, self._ref)
            if access.turn is not None:
                return  # the turn records what the customer wrote and what was answered
            if self._journal is None:
                for message in self._unknown(messages):
                    if (recorded := _words(message)) is not None:
                        yield from access.append(recorded)
                    self._know(message)
                return
            new = list(self._unknown(messages))
            words = [word for message in new if (word := _words(message)) is not None]
            yield from self._journal.write(access.ref, words)
            self._know(*new)

    def _clear(self) -> Flow[None]:
        with self._failures_reported("The history was not cleared"):
            access = Access.to(self._api, self._ref)
            if access.turn is None and self._journal is not None:
                yield from self._journal.settle(access.ref)
            yield from access.clear()
            self._known.clear()  # an old message that is added again now is meant

    def _unknown(self, messages: Sequence[BaseMessage]) -> Iterator[BaseMessage]:
        seen: set[str] = set()
        for message in as_messages(messages):
            if message.id is None:
                yield message
            elif message.id not in self._known | seen:
                seen.add(message.id)
                yield message

    def _know(self, *messages: BaseMessage) -> None:
        self._known.update(message.id for message in messages if message.id is not None)

    @contextmanager
    def _failures_reported(self, what: str) -> Iterator[None]:
        """Count a failure, log it and tell ``on_error`` about it; raised all the same."""
        try:
            yield
        except ConvSyncError as error:
            self.last_error = error
            telemetry.count("history_failures", error=type(error).__name__)
            telemetry.log(logger, logging.WARNING, key_for_logs(), "%s: %s", what, error)
            if self._on_error is not None:
                self._on_error(error)
            raise
        self.last_error = None


def _words(message: BaseMessage) -> ConversationMessage | None:
    if limit := limit_in({}, [message]):
        telemetry.count("limit_answers")
        told = "a limit ended the agent's run, its words are not recorded: %s"
        telemetry.log(logger, logging.WARNING, key_for_logs(), told, limit)
        return None
    return from_langchain(message)
