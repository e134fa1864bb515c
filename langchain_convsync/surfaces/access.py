"""How a surface reads and writes its conversation: through the turn that runs, else directly.

Every surface goes through :class:`Access`. Inside a ``TurnRunner`` no write touches the wire: it is
recorded, and the turn writes it once. Outside, a write is one request to where a fresh read says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self, cast

from langchain_convsync._flow import Flow
from langchain_convsync.client import Api
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


class Access:
    """One conversation, as one operation of a surface reaches it.

    Args:
        api: The API server.
        ref: The conversation.
        turn: The turn that is running.

    Attributes:
        turn: The turn that is running; None outside a ``TurnRunner``.
    """

    def __init__(self, api: Api, ref: ConversationRef, turn: TurnRecord | None) -> None:
        self.turn = turn
        self._api = api
        self._ref = ref
        self._read: Conversation | None = None

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
        before = yield from self.read()
        if update.is_active is None:  # servers take a missing one for true, and reopen
            update = update.model_copy(update={"is_active": before.is_active})
        return (
            yield from self._api.sync_conversation(before.session_id, update, target=self._target)
        )

    def append(self, message: ConversationMessage) -> Flow[None]:
        """Write one message at the end of the history.

        Raises:
            APIError: The API server did not accept it.
            ConversationMismatchError: It told about another conversation.
        """
        if self.turn is not None:
            self.turn.add(message)
            return
        if message.role == "user" and self._api.profile.records_inbound:
            return  # the server did, when the message arrived
        session_id = self._ref.session_id or (yield from self.read()).session_id
        role = cast("Role", message.role)  # the client refuses any other
        yield from self._api.add_message(session_id, role, message.content, target=self._target)

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
        rest = before.context if self._api.profile.context_sync == "replace" else {}
        yield from self._api.sync_conversation(
            before.session_id,
            StateUpdate(is_active=before.is_active),
            target=self._target,
            carried={**rest, "previousMessages": [], "lastUserMessage": ""},
        )
        self._read = None
        after = yield from self.read()
        if any(message in before.messages for message in after.messages):
            message = (
                "the API server keeps its history although it was told to clear it: it ends with "
                "the conversation, when that expires"
            )
            raise APIError(message)

    @property
    def _target(self) -> CallTarget:
        return CallTarget(subdomain=self._ref.subdomain, bot_id=self._ref.bot_id)
