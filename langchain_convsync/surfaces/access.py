"""How a surface reads and writes its conversation: through the turn that runs, else directly.

Every surface goes through :class:`Access`. Inside a ``TurnRunner`` no write touches the wire: it is
recorded, and the turn writes it once. Outside, a write is one request to where a fresh read says.
Where a write replaces what is on the server, it carries what was just read, and this process writes
one at a time: two at once would undo each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any, Self, cast

from langchain_convsync import _forks
from langchain_convsync._flow import Flow, Polling, sleep
from langchain_convsync._platform import now
from langchain_convsync.client import Api
from langchain_convsync.client import _outgoing as outgoing
from langchain_convsync.errors import APIError, ConfigurationError
from langchain_convsync.models import (
    Conversation,
    ConversationMessage,
    PartialConversation,
    Role,
    StateUpdate,
    TenantInfo,
)
from langchain_convsync.settings import CallTarget
from langchain_convsync.surfaces.context import (
    ConversationLike,
    ConversationRef,
    Identity,
    TurnRecord,
    current_turn,
    resolve,
)
from langchain_convsync.surfaces.recorded import unanswered


class _Rewrites:
    """The histories that this process is replacing now, each by one writer."""

    def __init__(self) -> None:
        self._under_way: set[Hashable] = set()
        self._lock = _forks.lock()
        _forks.in_child(self, _Rewrites._begin_anew)

    def begin(self, conversation: Hashable) -> Flow[None]:
        """Wait until no one else replaces it."""
        polling = Polling()
        while not self._claim(conversation):
            yield from sleep(polling.pause())

    def end(self, conversation: Hashable) -> None:
        """The next one may."""
        self._under_way.discard(conversation)

    def _claim(self, conversation: Hashable) -> bool:
        with self._lock:
            if conversation in self._under_way:
                return False
            self._under_way.add(conversation)
            return True

    def _begin_anew(self) -> None:
        self._under_way = set()


_rewrites = _Rewrites()


class Access:
    """One conversation, as one operation of a surface reaches it.

    Args:
        api: The API server.
        ref: The conversation.
        turn: The turn that is running.

    Attributes:
        turn: The turn that is running; None outside a ``TurnRunner``.
        before: The conversation as it was read before anything was answered, where it was.
    """

    def __init__(self, api: Api, ref: ConversationRef, turn: TurnRecord | None) -> None:
        self.turn = turn
        self.before: Conversation | None = None
        self._api = api
        self._ref = ref
        self._read: Conversation | None = None
        #: The customer's words of this operation that are known to stand in the history.
        self._accounted: Counter[str] = Counter()

    @classmethod
    def to(
        cls,
        api: Api,
        conversation: ConversationLike | None = None,
        *,
        context: object = None,
        identity: Identity | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Access:
        """Access to the conversation that :func:`.context.resolve` finds.

        Raises:
            UnknownConversationError: Nothing names one.
            ConversationMismatchError: Two sources name different ones.
        """
        ref = resolve(conversation, context=context, identity=identity, config=config)
        return cls(api, ref, current_turn.get())

    @property
    def ref(self) -> ConversationRef:
        """The conversation, as far as it is known by now."""
        return self._ref

    def within(self, *, bot_id: str | None, subdomain: str | None) -> Self:
        """This access, held to a tenant that was seen before.

        Raises:
            ConversationMismatchError: Another one is named already.
        """
        self._ref = self._ref.agreeing(replace(self._ref, bot_id=bot_id, subdomain=subdomain))
        return self

    def read(
        self, *, timeout: float | None = None, attempts: int | None = None
    ) -> Flow[Conversation]:
        """The conversation: the turn's with its records on top, or read once for this operation.

        Args:
            timeout: Seconds that reading may take; None leaves it to the client, as for attempts.
            attempts: How often to ask, the first time included.

        Raises:
            APIError: The API server did not tell.
            ConversationMismatchError: It told about another conversation.
        """
        if self.turn is not None:
            return self.turn.present()
        if self._read is None:
            ref = self._ref
            found = yield from self._api.get_conversation(
                ref.phone_number,
                ref.bot_id,
                target=self._target,
                timeout=timeout,
                attempts=attempts,
            )
            self._ref = ref.agreeing(ref.at(found))
            self._read = found
        return self._read

    def tenant(self) -> Flow[TenantInfo]:
        """The tenant of the conversation; may come from the client's cache.

        Raises:
            APIError: The API server did not tell.
            ConversationMismatchError: It told about another tenant.
        """
        if self.turn is not None:
            seen = self.turn.present()
            return TenantInfo(
                subdomain=seen.subdomain,
                bot_id=seen.bot_id,
                session_id=seen.session_id,
                is_active=seen.is_active,
            )
        ref = self._ref
        found = yield from self._api.lookup_tenant(ref.phone_number, ref.bot_id)
        ref.agreeing(replace(ref, bot_id=found.bot_id, subdomain=found.subdomain))
        return found

    def decide(self, update: StateUpdate) -> Flow[PartialConversation | None]:
        """Write a state update; a closed conversation stays closed unless the update opens it.

        Returns:
            The server's answer; None where the turn recorded the update, to write it when it ends.

        Raises:
            APIError: The API server did not accept it.
            ConversationMismatchError: It told about another conversation.
        """
        if self.turn is not None:
            self.turn.decide(update)
            return None
        if update.context and self._api.profile.context_sync == "replace":
            return (yield from self._rewrite(update))
        before = yield from self.read()
        return (yield from self._sync(before, update))

    def append(self, message: ConversationMessage) -> Flow[None]:
        """Write one message at the end of the history, by whatever persists it on this server.

        Where the server may have recorded the customer's words itself, they are looked for first.

        Raises:
            APIError: The API server did not accept it.
            ConfigurationError: The message cannot be sent.
            ConversationMismatchError: It told about another conversation.
        """
        if self.turn is not None:
            self.turn.add(message)
            return
        profile = self._api.profile
        if profile.records_inbound and message.role == "user":
            known = self.before is not None and self._stands_in(self.before, message)
            if not known:
                self._read = None
                known = self._stands_in((yield from self.read()), message)
            if known:
                self._accounted[message.content] += 1
                return
        if profile.history == "sync":
            self._api.require_sendable(message.role, message.content)
            yield from self._rewrite(StateUpdate(), message)
        else:
            session_id = self._ref.session_id or (yield from self.read()).session_id
            role = cast("Role", message.role)  # the client refuses any other
            yield from self._api.add_message(session_id, role, message.content, target=self._target)
        self._accounted[message.content] += message.role == "user"

    def _stands_in(self, conversation: Conversation, message: ConversationMessage) -> bool:
        """Whether the server has recorded the message, besides those that are known here."""
        recorded = unanswered(conversation.said)[message.content]
        return recorded > self._accounted[message.content]

    def clear(self) -> Flow[None]:
        """Empty the history: one sync that carries an empty list, and a look whether it helped.

        Raises:
            ConfigurationError: A turn is running; it records, and takes nothing back.
            APIError: The API server did not do it, or keeps its history.
            ConversationMismatchError: It told about another conversation.
        """
        if self.turn is not None:
            message = (
                "the history cannot be cleared inside a turn: do it outside of TurnRunner, or give "
                "the model less with limit=…"
            )
            raise ConfigurationError(message)
        before = yield from self.read()
        if not before.messages:
            return
        context = outgoing.carried(before, [], now(), self._api.profile)
        context |= {"previousMessages": [], "lastUserMessage": ""}
        yield from self._sync(before, StateUpdate(), context)
        self._read = None
        after = yield from self.read()
        if any(message in before.messages for message in after.messages):
            message = (
                "the API server keeps its history although it was told to clear it: it ends with "
                "the conversation, when that expires"
            )
            raise APIError(message)

    def _rewrite(
        self, update: StateUpdate, *messages: ConversationMessage
    ) -> Flow[PartialConversation]:
        """One sync that replaces what a fresh read shows, so that it carries the rest of it."""
        conversation = self._api.base_url, self._ref.phone_number
        yield from _rewrites.begin(conversation)
        try:
            self._read = None
            before = yield from self.read()
            context = outgoing.carried(before, messages, now(), self._api.profile)
            return (yield from self._sync(before, update, context))
        finally:
            _rewrites.end(conversation)

    def _sync(
        self, before: Conversation, update: StateUpdate, carried: dict[str, Any] | None = None
    ) -> Flow[PartialConversation]:
        if update.is_active is None:  # servers take a missing one for true, and reopen
            update = update.model_copy(update={"is_active": before.is_active})
        request = self._api.sync_conversation(
            before.session_id, update, target=self._target, carried=carried
        )
        return (yield from request)

    @property
    def _target(self) -> CallTarget:
        return CallTarget(subdomain=self._ref.subdomain, bot_id=self._ref.bot_id)
