"""One exchange with a customer: what was said in it, what was decided, and who works on it.

It is the outermost graph's run with everything in it. The agent that is that graph records it; one
that is a node or a tool of a graph without our middleware is recorded when that graph ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias
from uuid import UUID

from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages

from langchain_convsync import _forks, phone
from langchain_convsync._flow import Flow
from langchain_convsync._platform import token
from langchain_convsync.middleware._notes import Memory, Notes
from langchain_convsync.models import Conversation, StateUpdate
from langchain_convsync.surfaces.context import ConversationRef, TurnRecord
from langchain_convsync.surfaces.messages import messages_of, text_of
from langchain_convsync.surfaces.thread import Watermark, as_users, last_words, places_of

#: Records a share at the end of the outermost graph, which returned this.
Ending: TypeAlias = Callable[["Share", object], Flow[None]]


@dataclass(slots=True)
class Work:
    """One agent at work: what was so when it began.

    Attributes:
        before: The state that a checkpointer brought back: nothing of it is decided now.
        known: Ids of the messages in its thread, those that joined it included.
        joined: Ids of those that joined it.
        prompt: What its system prompt tells of the conversation.
        is_cut_off: Whether the last message of its model was.
    """

    before: dict[str, Any] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)
    prompt: str = ""
    is_cut_off: bool = False


class Share:
    """What an exchange keeps for one conversation. Thread-safe: agents may work side by side.

    Attributes:
        ref: The conversation.
        notes: What is kept beside the thread, once it is loaded.
        conversation: The conversation, once it was read in this exchange.
        owned: Whether the outermost graph is an agent of ours, which records by itself.
        reply: Id and text of what the agent said that ended last.
        ending: Set by an agent that does not record by itself.
    """

    def __init__(self, ref: ConversationRef, memory: Memory) -> None:
        self.ref = ref
        self.notes = Notes()
        self.conversation: Conversation | None = None
        self.owned = False
        self.reply = ("", "")
        self.ending: Ending | None = None
        self._memory = memory
        self._is_loaded = False
        self._interrupted_in: str | None = None
        self._heard: dict[str, str] | None = None
        self._instruction: dict[str, str] = {}
        self._lock = _forks.lock()

    def load(self, exchange: Exchange) -> Flow[None]:
        """Load the notes, unless they are."""
        if self._is_loaded:
            return
        found = yield from self._memory.load()
        self._take(found or Notes(), exchange)

    def _take(self, notes: Notes, exchange: Exchange) -> None:
        with self._lock:
            if self._is_loaded:  # by an agent beside this one
                return
            self._is_loaded = True
            if self._interrupted_in not in {None, notes.exchange}:  # it went on elsewhere
                self.reply, self.ending = ("", ""), None
            if not exchange.goes_on:
                notes.exchange, notes.open, notes.agents = exchange.id, True, {}
            notes.open = notes.open or exchange.resumes
            self.notes = notes

    def save(self) -> Flow[None]:
        """Keep the notes as they are now."""
        with self._lock:
            saving = self._memory.prepared(self.notes)
        if saving is not None:
            yield from saving

    def continued(self, exchange: Exchange) -> Share:
        """This share for the run that goes on with its interrupted exchange."""
        share = Share(self.ref, self._memory)
        share.reply, share.ending = self.reply, self.ending
        share._interrupted_in = exchange.id
        return share

    def hear(
        self, exchange: Exchange, thread: Sequence[BaseMessage], *, outermost: bool
    ) -> dict[str, str]:
        """What the customer says in this exchange, by ids; told to the agent that begins it."""
        with self._lock:
            if self._heard is not None or exchange.goes_on:
                return {}
            known = {*self.notes.recorded, *self.notes.pending}
            said = exchange.said_in(thread, outermost=outermost)
            self._heard = {key: text for key, text in said.items() if key not in known}
            if not outermost:
                self._instruction = {str(m.id): text_of(m) for m in last_words(thread)}
            return self._heard

    def owe(self, words: Mapping[str, str]) -> None:
        """Note the customer's words, to be written when the exchange ends."""
        with self._lock:
            self.notes.pending |= words

    def separate(self) -> None:
        """Of several conversations in one run, each gets the words that its own agent was given."""
        with self._lock:
            if self._instruction:
                pending, heard = self.notes.pending, self._heard or {}
                left = {key: text for key, text in pending.items() if key not in heard}
                self.notes.pending = left | self._instruction

    def reread(self, messages: Iterable[BaseMessage]) -> None:
        """Take the customer's words as the thread holds them: a hook may have redacted them."""
        now = {str(message.id): text_of(message) for message in messages}
        with self._lock:
            notes = self.notes
            rewritten = {
                key: now[key]
                for key, text in notes.pending.items()
                if text and now.get(key, text) != text
            }
            notes.pending |= rewritten
            if notes.watermark is not None:  # the history will hold them as they are recorded
                mark = Watermark.of(notes.watermark)
                notes.watermark = mark.after_saying(as_users(rewritten.values())).plain()

    def decide(self, update: StateUpdate) -> None:
        """Note a decision, to be synced when the exchange ends; later ones win."""
        with self._lock:
            decided = self.decided.updated_by(update)
            self.notes.decided = decided.model_dump(mode="json", exclude_defaults=True)

    @property
    def decided(self) -> StateUpdate:
        """What was decided and is not synced yet."""
        return StateUpdate.model_validate(self.notes.decided)

    def present(self, conversation: Conversation) -> Conversation:
        """A conversation with what was decided on top of it."""
        record = TurnRecord(self.ref, conversation, history_given=False)
        record.decide(self.decided)
        return record.present()


class Exchange:
    """The run of an outermost graph.

    Args:
        root: That run; None where it is not known.
        given: Its input.
        state: The state that its first node saw: the input, with ids.
        thread: Its thread, if it has a checkpointer.

    Attributes:
        runs: The runs below it that are under way.
        works: The agents at work, each with its share, by the runs of their graphs.
        interrupted: Whether it waits for a human.
    """

    def __init__(
        self, root: UUID | None, *, given: object, state: object = None, thread: str | None = None
    ) -> None:
        self.root, self.thread = root, thread
        self.id = token()
        self.runs: set[UUID] = set()
        self.works: dict[UUID | None, tuple[Share, Work]] = {}
        self.interrupted = False
        self._given, self._state = given, state
        self._shares: list[Share] = []
        self._lock = _forks.lock()

    @property
    def goes_on(self) -> bool:
        """Whether it goes on from a checkpoint, without words of the customer's."""
        return self._given is None or self.resumes

    @property
    def resumes(self) -> bool:
        """Whether it answers an interrupt."""
        return getattr(self._given, "resume", None) is not None

    @cached_property
    def messages(self) -> list[BaseMessage]:
        """The messages of its input."""
        return _messages_in(self._given)

    @cached_property
    def words(self) -> list[BaseMessage]:
        """What the customer says now: the last messages of the input, with ids where they have."""
        words = last_words(self.messages)
        state = messages_of(self._state)
        places = places_of(words, state)
        return [
            word if place is None else state[place]
            for word, place in zip(words, places, strict=True)
        ]

    @property
    def brings_history(self) -> bool:
        """Whether the input holds more than the customer's words."""
        return any(isinstance(message, AIMessage) for message in self.messages)

    @property
    def brings_before(self) -> bool:
        """Whether the input holds anything before the customer's words."""
        return len(self.messages) > len(self.words)

    @property
    def texts(self) -> list[str]:
        """What the customer says now."""
        return [text_of(message) for message in self.words]

    def place_in(self, thread: Sequence[BaseMessage], *, default: int) -> int:
        """Where in an agent's thread the customer's words of now begin."""
        places = (place for place in places_of(self.words, thread) if place is not None)
        return min(places, default=default)

    def said_in(self, thread: Sequence[BaseMessage], *, outermost: bool) -> dict[str, str]:
        """The customer's words by their ids, as an agent's thread holds them."""
        words, places = self.words, places_of(self.words, thread)
        if not words:  # the input is of another kind
            said = last_words(thread)
        elif outermost and None in places:  # a hook has changed them
            said = last_words(thread)[-len(words) :] or words
        else:
            said = [
                word if place is None else thread[place]
                for word, place in zip(words, places, strict=True)
            ]
        return {message.id or token(): text_of(message) for message in said}

    def share(self, ref: ConversationRef, memory: Memory) -> Share:
        """The share of a conversation."""
        with self._lock:
            for share in self._shares:
                same = phone.same_subscriber(share.ref.phone_number, ref.phone_number)
                if same and (
                    None in {share.ref.bot_id, ref.bot_id} or share.ref.bot_id == ref.bot_id
                ):
                    return share
            self._shares.append(share := Share(ref, memory))
            return share

    def continue_from(self, interrupted: Exchange) -> None:
        """Go on with an exchange that waited for a human."""
        self._shares = [share.continued(interrupted) for share in interrupted._shares]

    @property
    def is_due(self) -> bool:
        """Whether something is to be recorded when the outermost graph ends."""
        return any(share.ending is not None and not share.owned for share in self._shares)

    def finish(self, output: object) -> Flow[None]:
        """Record what no agent has recorded by itself."""
        alone = len(self._shares) == 1
        for share in self._shares:
            if share.owned:
                continue
            yield from share.load(self)
            if not alone:
                share.separate()
            if (ending := share.ending) is not None:
                yield from ending(share, output if alone else None)


def _messages_in(given: object) -> list[BaseMessage]:
    if hasattr(given, "resume"):
        given = getattr(given, "update", None)
    found: Any = given
    if isinstance(given, Mapping):
        found = given.get("messages")
    elif not isinstance(given, str | BaseMessage | Sequence):
        found = getattr(given, "messages", None)
    if found is None:
        return []
    try:
        return convert_to_messages(found if isinstance(found, list) else [found])
    except (ValueError, TypeError, NotImplementedError):  # the user's own kind of input
        return []
