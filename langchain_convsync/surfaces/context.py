"""Which conversation a run serves, and what a turn records instead of writing.

Identity reaches every surface through one order (:func:`resolve`): constructor,
``runtime.context``, :func:`in_conversation`, ``config["configurable"]``. Two that disagree raise.
A phone number belongs into none of a run's metadata, tags, names or thread ids: tracers export
those.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeAlias

from langchain_convsync import _forks, phone
from langchain_convsync._checked import ELSEWHERE, checked
from langchain_convsync.errors import (
    ConfigurationError,
    ConversationMismatchError,
    InvalidEventError,
    LoopError,
    UnknownConversationError,
    UnknownOutcomeError,
)
from langchain_convsync.models import Conversation, ConversationMessage, StateUpdate
from langchain_convsync.reply import Handoff, Reply

if TYPE_CHECKING:
    from langchain_convsync.surfaces.calls import TurnCalls
    from langchain_convsync.surfaces.usage import Meter


@checked
@dataclass(frozen=True, slots=True)
class ConversationRef:
    """Names one conversation: a customer, and as much of the tenant as is known.

    Args:
        phone_number: The customer: E.164 in any spelling, a chat id, a BSUID or another id.
        bot_id: The bot; without it the newest conversation of the phone number is meant.
        subdomain: The tenant, once it is known.
        session_id: The conversation's key on the API server, once it is known.
        turn_id: The turn that is running, inside a ``TurnRunner``.
        event_id: The event that is being answered, where something is to be done once for it.

    Raises:
        InvalidPhoneNumberError: ``phone_number`` is not a customer id.
        InvalidEventError: ``event_id`` is empty.
        ConfigurationError: Something is no text.
    """

    phone_number: str = field(repr=False)
    bot_id: str | None = None
    subdomain: str | None = None
    session_id: str | None = field(default=None, repr=False)
    turn_id: str | None = None
    event_id: str | None = field(default=None, repr=False)  # WAHA's own hold the phone number

    def __post_init__(self) -> None:
        if self.event_id == "":
            message = "event_id must be the event's own id as text, the same for every delivery"
            raise InvalidEventError(message)
        object.__setattr__(self, "phone_number", phone.normalize(self.phone_number))

    @classmethod
    def of(cls, conversation: ConversationLike) -> ConversationRef:
        """The reference itself, or one made of a customer id.

        Inside a turn its thread id stands for its conversation: what an agent's own memory is keyed
        by must not be a phone number.
        """
        if isinstance(conversation, ConversationRef):
            return conversation
        given: object = conversation  # whatever the annotation says
        if isinstance(given, Tenant):
            raise _no_customer(given, "phone_number")
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

    def tool_key(self, name: str | int) -> str:
        """An idempotency key for one thing that this turn does elsewhere.

        An agent whose process died before its turn was committed runs again. The key is the same
        then, so a payment provider, for example, recognises the repetition. Outside a turn it is
        the same for each run that answers the event of ``in_conversation(…, event_id=…)``.

        Args:
            name: What is done, ``"order"`` for example; what is done twice in a turn has two names.

        Raises:
            UnknownConversationError: There is neither a turn nor an event, so the key would be the
                same for two of them.
            ConfigurationError: ``name`` is empty, or neither a text nor a number.
        """
        if not str(name).strip():
            message = 'tool_key() takes a name of what is done: tool_key("order"), for example'
            raise ConfigurationError(message)
        if self.turn_id is None and self.event_id is None:
            message = (
                "tool_key() needs a turn or an event, else two of them would share their keys: run "
                "the agent through TurnRunner, or inside in_conversation(…, event_id=…)"
            )
            raise UnknownConversationError(message)
        answered = self.turn_id or event_name(self)
        return hashlib.sha256(f"{answered}/{name}".encode()).hexdigest()[:32]

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


def event_name(ref: ConversationRef) -> str:
    """The event that is answered, among all customers' events: sources number theirs alike."""
    return json.dumps([ref.event_id, ref.phone_number, ref.bot_id, ref.subdomain])


class NoCustomerError(AttributeError):
    """A tenant was asked for what only one of its conversations has."""


@checked
@dataclass(frozen=True, slots=True)
class Tenant:
    """The business that a ``TurnRunner``'s factory makes an agent for, and its bot.

    It is about no customer. What only a :class:`ConversationRef` has, a phone number for example,
    it has not; a factory or an agent of its making that reads it all the same is called with the
    ``ConversationRef`` of each turn from then on, and what it makes is used for that turn alone.
    """

    subdomain: str | None = None
    bot_id: str | None = None

    if not TYPE_CHECKING:  # to which it would have every attribute

        def __getattr__(self, name: str) -> NoReturn:
            if hasattr(ConversationRef, name):
                raise _no_customer(self, name)
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=self)


def _no_customer(tenant: Tenant, name: str) -> NoCustomerError:
    message = (
        f"a Tenant has no {name}, since it is about no customer: inside a run, "
        "current_conversation() tells whose it is"
    )
    return NoCustomerError(message, name=name, obj=tenant)


ConversationLike: TypeAlias = Annotated[str | ConversationRef, ELSEWHERE]
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
        said: What tools have set to be said, before the agent's own words.
        handoff: Why a human is to go on, where a tool has said so.
        calls: What the turn keeps of its tools' calls; None where nothing is kept.
        loop: Why the run is over, where it went round in a loop.
        notes: Names of the single updates: the step of the graph that noted it, and its values.
        files: What belongs to the customer's messages, by their ids, and to no thread: the
            middleware gives it to the model.
        meter: Adds up what the run's models take.
    """

    def __init__(
        self,
        ref: ConversationRef,
        conversation: Conversation,
        *,
        thread: str = "",
        history_given: bool,
        calls: TurnCalls | None = None,
        noted: Sequence[str] = (),
        files: Mapping[str, Sequence[dict[str, Any]]] | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.ref = ref
        self.conversation = conversation
        self.thread = thread
        self.history_given = history_given
        self.calls = calls
        self.files = files or {}
        self.meter = meter
        self.loop: LoopError | None = None
        self.update = StateUpdate()
        self.added: list[ConversationMessage] = []
        self.said: list[Reply] = []
        self.handoff: Handoff | None = None
        self.notes: list[str] = []
        self._noted = Counter(noted)  # by a run that was interrupted, whose steps may run again
        self._lock = _forks.lock()  # an agent calls its tools in parallel

    @property
    def conversation_key(self) -> str | None:
        """The key under which an operator finds the conversation."""
        return key_in(self.thread)

    @property
    def held(self) -> UnknownOutcomeError | None:
        """Why an operator has to decide before the turn goes on."""
        return None if self.calls is None else self.calls.held

    def decide(self, update: StateUpdate) -> None:
        """Note a state update; later ones win, and one that a step notes again says nothing new."""
        name = _note_name(update)
        with self._lock:
            if self._noted[name]:
                self._noted[name] -= 1
                return
            self.notes.append(name)
            self.update = self.update.updated_by(update)

    def add(self, message: ConversationMessage) -> None:
        """Note a message besides the customer's own and the reply."""
        with self._lock:
            self.added.append(message)

    def say(self, reply: Reply) -> None:
        """Note what a tool says to the customer, before the agent's own words."""
        with self._lock:
            self.said.append(reply)

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


def _note_name(update: StateUpdate) -> str:
    """The same for a step of a graph that runs again; another step has another name."""
    place = (_run_config() or {}).get("configurable", {}).get("checkpoint_ns", "")
    return hashlib.sha256(f"{place}/{update.model_dump_json()}".encode()).hexdigest()[:16]


current_turn: ContextVar[TurnRecord | None] = ContextVar("convsync_current_turn", default=None)
_current_ref: ContextVar[ConversationRef | None] = ContextVar("convsync_conversation", default=None)


def key_in(thread: str) -> str | None:
    """The conversation key that the name of a thread of ours begins with."""
    return ".".join(thread.split(".")[:3]) or None


def key_for_logs() -> str | None:
    """The key of the conversation whose turn runs now; None outside of turns, where none is."""
    turn = current_turn.get()
    return None if turn is None else turn.conversation_key


@checked
@contextmanager
def in_conversation(
    conversation: ConversationLike, *, bot_id: str | None = None, event_id: str | None = None
) -> Iterator[ConversationRef]:
    """Serve one conversation inside the block, sync and async and in everything called from it.

    Args:
        conversation: The customer's phone number, chat id, BSUID or other id, or a reference.
        bot_id: The bot, where a phone number may talk to several.
        event_id: The event that is answered here: callback handlers with a store sync once for it.
            It travels with the context, not with the run's metadata, which tracers export.

    Inside a turn the turn's own conversation is known by what the turn knows of it, too.

    Raises:
        ConversationMismatchError: ``bot_id`` or ``event_id`` is not the reference's, or the
            customer's turn is running, and is another bot's.
        InvalidEventError: ``event_id`` is empty, or no text.
    """
    ref = ConversationRef.of(conversation)
    named = {"bot_id": bot_id, "event_id": event_id}
    given = {name: value for name, value in named.items() if value is not None}
    ref = ref.agreeing(replace(ref, **given))
    turn = current_turn.get()
    if turn is not None and phone.same_subscriber(ref.phone_number, turn.ref.phone_number):
        ref = ref.agreeing(turn.ref)
    token = _current_ref.set(ref)
    try:
        yield ref
    finally:
        _current_ref.reset(token)


def current_conversation() -> ConversationRef:
    """Whose conversation runs: for tools, nodes and functions of your own that an agent calls.

    ::

        @tool(description="Order a product for the customer.")
        def place_order(product: str) -> str:
            customer = current_conversation()
            return shop.order(product, customer.phone_number, key=customer.tool_key("order"))

    It is that of the ``TurnRunner``'s turn, of :func:`in_conversation`, of ``runtime.context``
    where that is a :class:`ConversationRef`, or of ``config["configurable"]``. It is known in
    tasks, and in threads that LangChain starts.

    Raises:
        UnknownConversationError: No run names a conversation here.
        ConversationMismatchError: Two of them name different ones.
    """
    try:
        return resolve(context=graph_context(), config=_run_config())
    except UnknownConversationError:
        message = (
            "no run names a conversation here: call current_conversation() in what an agent calls "
            "through TurnRunner or inside in_conversation(phone_number); start a thread of your "
            "own with contextvars.copy_context().run"
        )
        raise UnknownConversationError(message) from None


def graph_context() -> object:
    """``runtime.context`` of the graph that runs; None outside of any.

    Asked for here instead of being injected as an argument: only arguments can be forged.
    """
    graphs = sys.modules.get("langgraph.runtime")
    if graphs is None:  # never loaded, so no graph runs
        return None
    try:
        return getattr(graphs.get_runtime(), "context", None)
    except (RuntimeError, KeyError):
        return None


def _run_config() -> Mapping[str, Any] | None:
    configs = sys.modules.get("langchain_core.runnables.config")
    if configs is None:  # never loaded, so nothing runs
        return None
    config: Mapping[str, Any] = configs.ensure_config()
    return config


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
    contextual = _contextual(context, identity)
    configurable = (config or {}).get("configurable") or {}
    if contextual is not None:
        configurable = _unmirrored(configurable, context)
    sources = [
        None if constructor is None else ConversationRef.of(constructor),
        contextual,
        _current_ref.get(),
        None if turn is None else turn.ref,
        _configured(configurable),
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


def _unmirrored(configurable: Mapping[str, Any], context: object) -> Mapping[str, Any]:
    """What is configured besides what LangGraph's server copies there from a run's ``context``."""
    read = context.get if isinstance(context, Mapping) else partial(getattr, context)
    return {name: value for name, value in configurable.items() if read(name, None) != value}


def _configured(configurable: Mapping[str, Any]) -> ConversationRef | None:
    if (conversation := configurable.get("conversation")) is not None:
        return ConversationRef.of(conversation)
    if (number := configurable.get("phone_number")) is not None:
        return ConversationRef(number, bot_id=configurable.get("bot_id"))
    return None
