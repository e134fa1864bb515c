"""Which conversation a run serves, and what a turn records instead of writing.

Identity reaches every surface through one order (:func:`resolve`): constructor,
``runtime.context``, :func:`in_conversation`, ``config["configurable"]``. Two that disagree raise.
A phone number belongs into none of a run's metadata, tags, names or thread ids: tracers export
those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_convsync import _forks, phone
from langchain_convsync.errors import (
    ConversationMismatchError,
    InvalidEventError,
    UnknownConversationError,
    UnknownOutcomeError,
)
from langchain_convsync.models import Conversation, ConversationMessage, StateUpdate

if TYPE_CHECKING:
    from langchain_convsync.surfaces.calls import TurnCalls


@dataclass(frozen=True, slots=True)
class ConversationRef:
    """Names one conversation: a customer, and as much of the tenant as is known.

    Args:
        phone_number: The customer: E.164 in any spelling, or a chat id.
        bot_id: The bot; without it the newest conversation of the phone number is meant.
        subdomain: The tenant, once it is known.
        session_id: The conversation's key on the API server, once it is known.
        turn_id: The turn that is running, inside a ``TurnRunner``.
        event_id: The event that is being answered, where something is to be done once for it.

    Raises:
        InvalidPhoneNumberError: ``phone_number`` is neither.
        InvalidEventError: ``event_id`` is empty, or no text.
    """

    phone_number: str = field(repr=False)
    bot_id: str | None = None
    subdomain: str | None = None
    session_id: str | None = field(default=None, repr=False)
    turn_id: str | None = None
    event_id: str | None = field(default=None, repr=False)  # WAHA's own hold the phone number

    def __post_init__(self) -> None:
        given: object = self.event_id  # whatever the annotation says
        if given is not None and not (isinstance(given, str) and given):
            message = "event_id must be the event's own id as text, the same for every delivery"
            raise InvalidEventError(message)
        object.__setattr__(self, "phone_number", phone.normalize(self.phone_number))

    @classmethod
    def of(cls, conversation: ConversationLike) -> ConversationRef:
        """The reference itself, or one made of a phone number or chat id.

        Inside a turn its thread id stands for its conversation: what an agent's own memory is keyed
        by must not be a phone number.
        """
        if isinstance(conversation, ConversationRef):
            return conversation
        turn = current_turn.get()
        if turn is not None and conversation == turn.thread:
            return turn.ref
        return cls(conversation)

    def at(self, conversation: Conversation) -> ConversationRef:
        """This reference, completed by the conversation that was read for it."""
        return replace(
            self,
            bot_id=conversation.bot_id,
            subdomain=conversation.subdomain,
            session_id=conversation.session_id,
        )

    def tool_key(self, index: int) -> str:
        """An idempotency key for the ``index``-th side effect of this turn.

        After a crash before its turn was committed an agent runs again. The key is the same then,
        so e.g. a payment provider recognises the repetition.

        Raises:
            UnknownConversationError: No turn is running.
        """
        if self.turn_id is None:
            message = "tool_key() needs a turn: run the agent through TurnRunner"
            raise UnknownConversationError(message)
        return hashlib.sha256(f"{self.turn_id}/{index}".encode()).hexdigest()[:32]

    def agreeing(self, other: ConversationRef) -> ConversationRef:
        """This reference with what only ``other`` knows.

        Raises:
            ConversationMismatchError: They name different conversations.
        """
        if not phone.same_subscriber(self.phone_number, other.phone_number):
            message = "two sources name different customers for one run; pass the conversation once"
            raise ConversationMismatchError(message)
        known: dict[str, Any] = {}
        for name in ("bot_id", "subdomain", "session_id", "turn_id", "event_id"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None and theirs is not None and mine != theirs:
                message = f"two sources name different conversations for one run: {name} differs"
                raise ConversationMismatchError(message)
            known[name] = theirs if mine is None else mine
        return replace(self, **known)


ConversationLike: TypeAlias = str | ConversationRef
#: Makes a conversation of a user's own ``runtime.context``; None where it names none.
Identity: TypeAlias = Callable[[Any], ConversationLike | None]


class TurnRecord:
    """What the surfaces of one turn decided, to be written once when the turn commits.

    Attributes:
        ref: The conversation.
        conversation: The conversation as read for this turn, unconfirmed writes included.
        thread: The id by which the agent's own memory knows the conversation.
        history_given: Whether the agent's input holds the history already.
        update: Everything that was decided so far about the state.
        added: Messages that the agent added besides its reply.
        calls: What the turn keeps of its tools' calls; None where nothing is kept.
    """

    def __init__(
        self,
        ref: ConversationRef,
        conversation: Conversation,
        *,
        thread: str = "",
        history_given: bool,
        calls: TurnCalls | None = None,
    ) -> None:
        self.ref = ref
        self.conversation = conversation
        self.thread = thread
        self.history_given = history_given
        self.calls = calls
        self.update = StateUpdate()
        self.added: list[ConversationMessage] = []
        self._lock = _forks.lock()  # an agent calls its tools in parallel

    @property
    def held(self) -> UnknownOutcomeError | None:
        """Why an operator has to decide before the turn goes on."""
        return None if self.calls is None else self.calls.held

    def decide(self, update: StateUpdate) -> None:
        """Note a state update; later ones win."""
        with self._lock:
            self.update = self.update.updated_by(update)

    def add(self, message: ConversationMessage) -> None:
        """Note a message besides the customer's own and the reply."""
        with self._lock:
            self.added.append(message)

    def present(self) -> Conversation:
        """The conversation with everything recorded so far on top."""
        with self._lock:
            seen, update, added = self.conversation, self.update, list(self.added)
        changes: dict[str, Any] = {
            "context": {**seen.context, **update.context},
            "metadata": {**seen.metadata, **update.metadata},
        }
        if added:
            said = [message.model_dump(by_alias=True, mode="json") for message in added]
            changes["context"]["previousMessages"] = [*seen.entries, *said]
        decided = {
            "current_intent": update.intent,
            "current_step": update.step,
            "is_active": update.is_active,
        }
        changes.update({name: value for name, value in decided.items() if value is not None})
        return seen.model_copy(update=changes)


current_turn: ContextVar[TurnRecord | None] = ContextVar("convsync_current_turn", default=None)
_current_ref: ContextVar[ConversationRef | None] = ContextVar("convsync_conversation", default=None)


@contextmanager
def in_conversation(
    conversation: ConversationLike, *, bot_id: str | None = None, event_id: str | None = None
) -> Iterator[ConversationRef]:
    """Serve one conversation inside the block, sync and async and in everything called from it.

    Args:
        conversation: The customer's phone number or chat id, or a reference.
        bot_id: The bot, where a phone number may talk to several.
        event_id: The event that is answered here: callback handlers with a store sync once for it.
            It travels with the context, not with the run's metadata, which tracers export.

    Raises:
        ConversationMismatchError: ``bot_id`` or ``event_id`` is not the reference's.
        InvalidEventError: ``event_id`` is empty, or no text.
    """
    ref = ConversationRef.of(conversation)
    named = {"bot_id": bot_id, "event_id": event_id}
    given = {name: value for name, value in named.items() if value is not None}
    ref = ref.agreeing(replace(ref, **given))
    token = _current_ref.set(ref)
    try:
        yield ref
    finally:
        _current_ref.reset(token)


def resolve(
    constructor: ConversationLike | None = None,
    *,
    context: object = None,
    identity: Identity | None = None,
    config: Mapping[str, Any] | None = None,
) -> ConversationRef:
    """The conversation that a surface serves.

    Args:
        constructor: What the surface was built with.
        context: ``runtime.context``; counts where it is a :class:`ConversationRef`, or where
            ``identity`` makes one of it.
        identity: What to make of a context of the user's own kind.
        config: The run's config; counts are ``configurable["conversation"]`` (a phone number, chat
            id or reference) or ``configurable["phone_number"]`` with an optional ``"bot_id"``.

    Raises:
        UnknownConversationError: Nothing names one.
        ConversationMismatchError: Two name different ones.
        InvalidPhoneNumberError: One of them names no customer.
    """
    turn = current_turn.get()
    sources = [
        None if constructor is None else ConversationRef.of(constructor),
        _contextual(context, identity),
        _current_ref.get(),
        None if turn is None else turn.ref,
        _configured((config or {}).get("configurable") or {}),
    ]
    named = [source for source in sources if source is not None]
    if not named:
        message = (
            "no conversation to act on: pass conversation=…, run inside "
            "in_conversation(phone_number), or through TurnRunner"
        )
        raise UnknownConversationError(message)
    ref = named[0]
    for other in named[1:]:
        ref = ref.agreeing(other)
    return ref


def _contextual(context: object, identity: Identity | None) -> ConversationRef | None:
    if isinstance(context, ConversationRef):
        return context
    if identity is None or context is None:
        return None
    named = identity(context)
    return None if named is None else ConversationRef.of(named)


def _configured(configurable: Mapping[str, Any]) -> ConversationRef | None:
    if (conversation := configurable.get("conversation")) is not None:
        return ConversationRef.of(conversation)
    if (number := configurable.get("phone_number")) is not None:
        return ConversationRef(number, bot_id=configurable.get("bot_id"))
    return None
