"""What a turn is, and how its outcome is remembered."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from langchain_convsync import phone, waha
from langchain_convsync._display import Displayed, Summary
from langchain_convsync._lines import count_of, one_line
from langchain_convsync.models import (
    InboundEvent,
    Role,
    SentAt,
    StateUpdate,
    StoredUpdate,
    zoned,
)
from langchain_convsync.outbox import words_like
from langchain_convsync.reply import Handoff, Reply
from langchain_convsync.stores.base import QueuedEvent
from langchain_convsync.surfaces.usage import Usage
from langchain_convsync.turns.handoffs import HandoffEntry
from langchain_convsync.turns.interrupts import Answer, Interrupt, WaitingRun
from langchain_convsync.turns.naming import known_as, names_of
from langchain_convsync.turns.saying import Saying

Status: TypeAlias = Literal[
    "answered",
    "merged",
    "duplicate",
    "queued",
    "dropped",
    "paused",
    "interrupted",
    "no_conversation",
    "busy",
    "failed",
    "stale",
    "silent",
    "said",
]
#: How a committed turn ended.
FinalStatus: TypeAlias = Literal[
    "answered", "dropped", "paused", "interrupted", "failed", "stale", "silent", "said"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn(Displayed):
    """What became of one event.

    Attributes:
        status: ``answered``: this call committed the turn; send ``reply``. ``merged``: another call
            answered this event together with others. ``duplicate``: it was answered before.
            ``queued``: it is recorded and waits. ``dropped``: the conversation is closed, or the
            customer took everything back; nothing is sent. ``paused``: a human has the
            conversation, or it went faster than ``max_turns_per_minute``; it is recorded, and not
            answered. ``stale``: it was sent longer ago than ``max_age``; likewise. ``silent``:
            it is recorded, and nothing is said: the agent's answer is silence, or the business
            wrote it by itself.
            ``interrupted``: the agent waits for what ``interrupts`` tell; send ``reply``, which is
            a question to the customer, if there is one. ``no_conversation``: the API server knows
            none; the event stays queued. ``busy``: too many queued events, nothing recorded.
            ``failed``: the agent could not answer; ``reply`` is the fallback. ``said``: what
            ``say()`` was told; send it. There ``dropped`` means that the customer wrote first, or
            that the conversation is closed, and ``paused`` that a human has it.
        reply: The text for the customer, several and a file's caption joined; the stored one for
            ``merged`` and ``duplicate``, None once the store keeps it no longer (an hour, by
            default).
        said: The same as it is to be sent, in order: texts one by one, files with their bytes.
            Known in the call that committed the turn, hence in ``on_reply``.
        state: What the run decided about the conversation.
        turn_id: The turn, the same when it is run again after a crash.
        events: The event ids that this turn answered, in order.
        chat_id: Where ``reply`` goes: the chat that the customer wrote in last. Known in the call
            that committed the turn, hence in ``on_reply``.
        waha_session: WAHA's session to send it from, where the event named one.
        interrupts: What the agent waits for: texts are questions to the customer, all else waits
            for a human, see ``TurnRunner.resume_interrupt``.
        error: The exception behind ``failed``, ``queued`` or ``no_conversation``, in the call that
            met it.
        conversation_key: The conversation, as logs and ``convsync show`` name it; known in the call
            that committed the turn.
        phases: Seconds that each phase took in that call: ``read``, ``agent`` and ``commit``, and
            ``media`` where files came along.
        handoff: Why the agent has handed the conversation over to a human, where it has; known in
            that call.
        usage: Tokens that the agent's models took in that call, by model: LangChain's
            ``usage_metadata``. Subagents are included, runs of an earlier call that failed are not.
    """

    status: Status
    reply: str | None = field(default=None, repr=False)
    state: StateUpdate = field(default_factory=StateUpdate)
    turn_id: str | None = None
    events: tuple[str, ...] = field(default=(), repr=False)  # WAHA's own ids hold the chat id
    chat_id: str | None = field(default=None, repr=False, compare=False)
    waha_session: str | None = field(default=None, repr=False, compare=False)
    interrupts: tuple[Interrupt, ...] = ()
    error: BaseException | None = field(default=None, repr=False, compare=False)
    conversation_key: str | None = field(default=None, repr=False, compare=False)
    said: tuple[Reply, ...] = field(default=(), repr=False, compare=False)
    phases: Mapping[str, float] = field(default_factory=dict, repr=False, compare=False)
    handoff: Handoff | None = field(default=None, repr=False, compare=False)
    usage: Usage = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        length = len(self.reply or "")
        told = f"a reply of {length} characters" if length else "no reply"
        events = count_of(len(self.events), "event")
        return f"{self.status}: {told}, {events}; show() shows the words"

    @property
    def is_committed(self) -> bool:
        """Whether this call has a reply to send, if there is one."""
        return self.status in {"answered", "failed", "interrupted", "said"}

    def _summary(self) -> Summary:
        speaker = "bot" if self.is_committed else "bot, said before"
        facts = {
            "events": str(len(self.events) or ""),
            "intent": self.state.intent,
            "step": self.state.step,
            "context": ", ".join(self.state.context),
            "asks": ", ".join(each.question or each.subject for each in self.interrupts),
        }
        return Summary(self.status, facts, [(speaker, self.reply)] if self.reply else [])


class Outcome(BaseModel):
    """A committed turn, as the store keeps it for repeated events."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    status: FinalStatus
    reply: str | None = Field(default=None, repr=False)
    state: StoredUpdate = StateUpdate()
    turn_id: str
    events: tuple[str, ...] = Field(default=(), repr=False)
    interrupts: tuple[Interrupt, ...] = Field(default=(), repr=False)

    def turn(self, status: Status | None = None, *, error: BaseException | None = None) -> Turn:
        """The outcome as a caller sees it."""
        return Turn(
            status=status or self.status,
            reply=self.reply,
            state=self.state,
            turn_id=self.turn_id,
            events=self.events,
            interrupts=self.interrupts,
            error=error,
        )

    @property
    def stored(self) -> str:
        """As a store keeps it for a while."""
        return self.model_dump_json(exclude_defaults=True)

    @property
    def fact(self) -> str:
        """As a store keeps it afterwards: without a word, or an id that names the customer."""
        return f"{self.status} {self.turn_id}"

    @classmethod
    def read(cls, kept: str) -> Outcome:
        """What a store kept of one.

        Raises:
            ValueError: It is neither ``stored`` nor a ``fact``.
        """
        if kept.startswith("{"):
            return cls.model_validate_json(kept)
        status, _, turn_id = kept.partition(" ")
        return cls.model_validate({"status": status, "turn_id": turn_id})


class QueuedMessage(InboundEvent):
    """A message as the store keeps it until a turn has recorded it.

    Attributes:
        kind: Tells it from what else an inbox may hold.
        by: Who wrote it: a human colleague's words are recorded and not answered.
        saying: What the bot is to say of its own accord, and when.
        revoked: Whether its writer took it back since.
        edited_at: When its writer edited it last, where that is known.
        was: What it said before, as the API server may have recorded it.
        retried: Whether an operator wants it answered, however old it is.
        paused: Whether its writer was taken for a human, and has paused the conversation.
    """

    kind: Literal["message"] = "message"
    by: Literal["customer", "operator", "bot"] = "customer"
    revoked: bool = False
    edited_at: SentAt | None = None
    was: tuple[str, ...] = Field(default=(), repr=False)
    retried: bool = False
    paused: bool = False
    saying: Saying | None = Field(default=None, repr=False)

    @property
    def role(self) -> Role:
        """Whose words the history takes them for."""
        return "user" if self.by == "customer" else "bot"

    @property
    def words(self) -> str:
        """What enters the history: its content, in a group with who said it."""
        return self.spoken(self.content)

    def spoken(self, content: str) -> str:
        """The content, in a group with who said it."""
        if not (self.is_group and self.by == "customer" and content):
            return content
        who = one_line(self.sender_name or "") or phone.masked(self.participant)
        return f"{who}: {content}"

    @property
    def possible_records(self) -> set[str]:
        """What an API server that records messages itself may have recorded of it."""
        return {self.text, self.content, *self.was}

    @property
    def quotes_unknown(self) -> bool:
        """Whether it quotes a message of which only the id was told."""
        return self.quoted is not None and not self.quoted.text and self.quoted.media is None

    def quoting(self, known: Mapping[str | None, Any]) -> Self:
        """The same with the words that it quotes, if they are known by their id."""
        words = known.get(self.quoted.id) if self.quoted and self.quoted.id else None
        if not self.quotes_unknown or not self.quoted or not isinstance(words, str):
            return self
        quoted = self.quoted.model_copy(update={"text": words})
        return self.model_copy(update={"quoted": quoted, "was": (*self.was, self.content)})

    def changed_by(self, change: waha.Ignored) -> dict[str, Any]:
        """The fields that are others after an edit or a revocation; none where it came too late.

        Deliveries come in any order: the latest edit counts, and a revocation for good.
        """
        was = tuple(dict.fromkeys((*self.was, self.text, self.content)))
        if change.reason == "revoked":
            return {"revoked": True, "was": was}
        at = self.edited_at if change.sent_at is None else zoned(change.sent_at)
        older = self.edited_at and at and at < self.edited_at
        if older or change.text == self.text:
            return {}
        return {"text": change.text, "was": was, "edited_at": at}

    @classmethod
    def read(cls, payload: str) -> tuple[Self | None, str]:
        """A message from a store, and why it cannot be read: then without what is damaged of it.

        None where it cannot even be told whose message it is, for which tenant, and from whom.
        """
        try:
            message = cls.model_validate_json(payload)
        except ValidationError as error:
            damaged = {str(one["loc"][0]) if one["loc"] else "" for one in error.errors()}
        except ValueError:
            damaged = {""}
        else:
            named = message.phone_number or message.lid or message.chat_id or message.aliases
            return (message, "") if named else (None, "the stored event names no customer")
        if "" in damaged:
            return None, "the stored event is no JSON object"
        reason = f"the stored event cannot be read: {', '.join(sorted(damaged))}"
        if not damaged <= _SPARE:
            return None, reason
        whole = {name: each for name, each in json.loads(payload).items() if name not in damaged}
        return cls.read(json.dumps(whole))[0], reason


#: What names the message, its customer and its receiving side; without all else it can be recorded
#: and apologised for.
_NEEDED = frozenset(
    """event_id phone_number chat_id lid account bot_id subdomain waha_session business_number kind
    by revoked
    """.split()  # noqa: SIM905  # one name a line is no better to read
)
_SPARE = frozenset(QueuedMessage.model_fields) - _NEEDED


def payload_of(event: InboundEvent) -> str:
    """The event as the store keeps it."""
    return json.dumps({"kind": "message", **event.model_dump(mode="json", exclude_defaults=True)})


def retried(payload: str) -> str | None:
    """A stored message that an operator wants answered; None where it cannot be read."""
    message, damage = QueuedMessage.read(payload)
    if message is None or damage:
        return None
    return json.dumps({**json.loads(payload), "retried": True})  # fields of newer versions stay


@dataclass(frozen=True, slots=True)
class Batch:
    """The events that one turn answers.

    Args:
        queued: In order of arrival; the first one names the turn. None where all that there is
            waits for its time.
        events: (event key, event), in the order in which the agent reads them.
        damage: Why its only event cannot be read; then it holds what is left of it, if anything.
        waiting: The run that goes on in this turn; its entry is the first of ``queued``.
        stale: Whether all that the customer wrote is too old to be answered.
        counted: The first event of the inbox: a store counts starts and failures with it.
        kept: Events that stand among ``queued``, and stay where they are: their time has not come.
        due: Store time at which the first of what waits for its time is due.
        is_heard: Whether the customer has written since the bot was to say this of its own accord.
        handoff: The hand-over that a human is to be told of: then it is all that the batch holds.
    """

    queued: tuple[QueuedEvent, ...]
    events: tuple[tuple[str, QueuedMessage], ...]
    damage: str = ""
    waiting: WaitingRun | None = None
    stale: bool = False
    counted: QueuedEvent | None = None
    kept: tuple[str, ...] = ()
    due: float = math.inf
    is_heard: bool = False
    handoff: HandoffEntry | None = None

    @classmethod
    def of(cls, queued: tuple[QueuedEvent, ...], *, now: float = math.inf) -> Batch:
        """The batch, its events in the order in which they are read: as sent, then as arrived.

        It ends before the first event that cannot be read, which is a batch by itself, and before a
        run that waits, which is the first one of a batch, with what its answer takes along. What
        the bot says of its own accord is a batch by itself, too, at store time ``now`` or later,
        and so is a hand-over: a run that waits before it waits on.
        """
        head = _Head(now)
        for place, item in enumerate(queued):
            if not head.takes(item):
                rest = queued[place:] if head.is_alone else ()
                is_heard = any(map(_is_customers, rest))
                return replace(head.batch(), counted=queued[0], is_heard=is_heard)
        return replace(head.batch(), counted=queued[0])

    def known_as(self, phone_number: str) -> Batch:
        """The batch of a customer whose phone number none of its events tells."""
        return replace(
            self,
            events=tuple((event_key, known_as(e, phone_number)) for event_key, e in self.events),
            waiting=self.waiting and self.waiting.known_as(phone_number),
        )

    @property
    def quotes_unknown(self) -> bool:
        """Whether an event quotes a message of which only the id was told."""
        return any(event.quotes_unknown for _, event in self.events)

    def quoting(
        self, history: Sequence[Mapping[str, Any]], sent: Mapping[str, str] | None = None
    ) -> Batch:
        """The batch with the words of what its events quote, where only an id told of it.

        They are those of another event, of an entry of the history that has such an id, or of one
        of our own that was sent under it.

        Args:
            history: The entries, oldest first.
            sent: What our own messages say, by their ids, see :func:`.outbox.reply.said_by`.
        """
        if not self.quotes_unknown:
            return self
        quoted = {event.quoted.id for _, event in self.events if event.quoted is not None}
        own = [f"{entry.get('content')}" for entry in history[::-1] if entry.get("role") == "bot"]
        known: dict[str | None, Any] = {
            name: words_like(words, own) for name, words in (sent or {}).items() if name in quoted
        }
        known |= {waha.stanza_id(event.event_id): event.content for _, event in self.events}
        for entry in history:
            ids = (value for name, value in entry.items() if name not in {"role", "content"})
            known |= {waha.stanza_id(value): entry.get("content") for value in ids}
        events = tuple((key, event.quoting(known)) for key, event in self.events)
        return replace(self, events=events)

    @property
    def saying(self) -> Saying | None:
        """What the bot says of its own accord: then it is all that the batch holds."""
        return None if not self.events else self.events[0][1].saying

    @property
    def by_colleague(self) -> bool:
        """Whether it is what a human says, who may have the conversation."""
        return self.saying is not None and self.saying.colleague

    def through(self, waha_session: str) -> Batch:
        """The batch of a customer who has written through this session of WAHA's."""
        changes = {"waha_session": waha_session}
        events = ((event_key, event.model_copy(update=changes)) for event_key, event in self.events)
        return replace(self, events=tuple(events))

    @property
    def said(self) -> list[tuple[str, QueuedMessage]]:
        """What stands: everything that was not taken back."""
        return [(event_key, event) for event_key, event in self.events if not event.revoked]

    @property
    def asked(self) -> list[tuple[str, QueuedMessage]]:
        """What the customer wrote: what there is to answer."""
        if self.stale:
            return []
        return [(event_key, event) for event_key, event in self.said if event.by == "customer"]

    def judged(self, *, before: datetime) -> Batch:
        """The batch, stale if all that the customer wrote in it was sent before this."""
        ages = [
            event.sent_at is not None and event.sent_at < before and not event.retried
            for _, event in self.said
            if event.by == "customer"
        ]
        return replace(self, stale=self.waiting is None and bool(ages) and all(ages))

    @property
    def heard(self) -> list[float]:
        """When the customer wrote, in seconds since 1970: on WhatsApp's clock where it tells."""
        return [at for at, event in self._times if event.by == "customer"]

    @property
    def taken_over(self) -> list[float]:
        """When someone wrote who was taken for a human, where WhatsApp's clock tells it."""
        return [at for at, event in self._times if event.paused and event.sent_at is not None]

    @property
    def _times(self) -> list[tuple[float, QueuedMessage]]:
        arrived = {item.event_key: item.accepted_at for item in self.queued}
        return [
            (arrived[key] if event.sent_at is None else event.sent_at.timestamp(), event)
            for key, event in self.events
        ]

    @property
    def latest(self) -> InboundEvent:
        """The newest event that tells the customer's phone number, else the newest one."""
        told = self._told
        numbered = (event for event in reversed(told) if any(map(phone.phone_of, names_of(event))))
        return next(numbered, told[-1])

    @property
    def names(self) -> list[str]:
        """Every customer id that its events tell, the surest of :attr:`latest` first."""
        events = (self.latest, *reversed(self._told))
        return list(dict.fromkeys(name for event in events for name in names_of(event)))

    def told(self, name: Literal["bot_id", "subdomain"]) -> str | None:
        """What any of the events tells of the receiving side, which is the same for all."""
        return next((told for event in self._told if (told := getattr(event, name))), None)

    @property
    def _told(self) -> list[InboundEvent]:
        """Whatever tells whose conversation it is."""
        asked = [] if self.waiting is None else [self.waiting.customer]
        return [*asked, *(event for _, event in self.events)]

    @property
    def newest(self) -> InboundEvent:
        """The event that the customer sent last."""
        said = self.asked or self.events
        return said[-1][1] if said else self._told[-1]

    @property
    def customer(self) -> InboundEvent:
        """Whom it is about and how to reach them, without a word of theirs."""
        latest, newest = self.latest, self.newest
        return InboundEvent.model_construct(  # it says nothing
            event_id=self.turn_id,
            phone_number=latest.phone_number,
            lid=latest.lid,
            aliases=latest.aliases,
            chat_id=newest.chat_id,
            account=newest.account,
            bot_id=self.told("bot_id"),
            subdomain=self.told("subdomain"),
            waha_session=newest.waha_session,
            business_number=newest.business_number,
        )

    @property
    def chat_id(self) -> str:
        """Where a reply goes: the chat that the customer wrote in last."""
        event = self.newest  # accepted, so one of these names the customer
        names = [phone.identity_of(event.chat_id), *names_of(event)]
        found = [name for name in names if name is not None]
        return phone.chat_id(next(filter(phone.is_chat, found), found[0]))

    @property
    def chat(self) -> tuple[str, str]:
        """The same with the WAHA session to send from."""
        return self.newest.waha_session or "default", self.chat_id

    @property
    def other_chats(self) -> tuple[str, ...]:
        """Where a reply goes if that chat is refused: the customer's other names, the surest first.

        A group has none.
        """
        if phone.is_group(self.chat_id):
            return ()
        names = [name for _, event in reversed(self.events) for name in names_of(event)]
        chats = dict.fromkeys(phone.chat_id(name) for name in names if phone.is_chat(name))
        return tuple(chat for chat in chats if chat != self.chat_id)

    @property
    def quotable(self) -> str | None:
        """WAHA's id of the message that the customer sent last; None where it has none."""
        event = self.newest
        stanza = waha.stanza_id(event.event_id) if event.event_id.startswith("false_") else None
        if stanza is None:
            return None
        who = phone.chat_id(event.participant) if event.participant else ""
        return "_".join(filter(None, ("false", self.chat_id, stanza, who)))

    def addressed(self, turn: Turn) -> Turn:
        """The turn with where its reply goes."""
        return replace(turn, chat_id=self.chat_id, waha_session=self.newest.waha_session)

    @property
    def turn_id(self) -> str:
        """The turn's id: its head event, wherever it runs and how often."""
        return self.queued[0].event_key

    @property
    def head(self) -> QueuedEvent:
        """The event that names the turn."""
        return self.queued[0]

    @property
    def counts(self) -> QueuedEvent:
        """The event that starts and failures of the turn are counted with."""
        return self.counted or self.head

    @property
    def since(self) -> float:
        """Store time at which its first event came, or at which what waited was decided, or due."""
        if self.waiting is None:
            due = 0.0 if self.saying is None else self.saying.at
            return max(self.head.accepted_at, due)
        if self.waiting.answer is not None:
            return self.waiting.answer.at
        return self.queued[min(1, len(self.queued) - 1)].accepted_at

    def wait(self, now: float) -> float:
        """Seconds until the first of what waits for its time is due; 0.0 without any."""
        return 0.0 if self.due == math.inf else max(0.0, self.due - now)

    @property
    def event_keys(self) -> tuple[str, ...]:
        """The event keys to commit, in order of arrival."""
        return tuple(event.event_key for event in self.queued)


@dataclass(slots=True)
class _Head:
    """As much of an inbox as one turn answers, event by event."""

    now: float
    taken: list[QueuedEvent] = field(default_factory=list)
    events: list[tuple[str, QueuedMessage]] = field(default_factory=list)
    waiting: WaitingRun | None = None
    damage: str = ""
    is_alone: bool = False
    handoff: HandoffEntry | None = None
    due: float = math.inf
    #: What waits for its time: its place, how many of ``taken`` stand before it, its key.
    waits: list[tuple[int, int, str]] = field(default_factory=list)
    place: int = 0
    run_place: int = 0

    def takes(self, item: QueuedEvent) -> bool:
        """Whether the next event belongs to what the turn looks at."""
        if self.damage or self.is_alone:
            return False
        self.place += 1
        if (handoff := HandoffEntry.read(item.payload)) is not None:
            return self._takes_alone(item, handoff.at, handoff)
        if (run := WaitingRun.read(item.payload)) is None:
            return self._takes_message(item)
        if self.taken:
            return False
        self.taken, self.waiting, self.run_place = [item], run, self.place
        return True

    def _takes_message(self, item: QueuedEvent) -> bool:
        if self.answer is not None and len(self.events) >= self.answer.messages:
            return False
        message, damage = QueuedMessage.read(item.payload)
        if message is not None and message.saying is not None and not damage:
            return self._takes_alone(item, message.saying.at, message)
        if damage and not self.taken:
            self.taken, self.damage = [item], damage
            self.events = [] if message is None else [(item.event_key, message)]
        elif damage or message is None:
            return False
        else:
            self.taken.append(item)
            self.events.append((item.event_key, message))
        return True

    @property
    def answer(self) -> Answer | None:
        """What the run that waits goes on with."""
        return None if self.waiting is None else self.waiting.answer

    def _takes_alone(
        self, item: QueuedEvent, at: float, what: HandoffEntry | QueuedMessage
    ) -> bool:
        """Take what is a batch by itself, or keep it until its time has come."""
        if at > self.now:
            self.waits.append((self.place, len(self.taken), item.event_key))
            self.due = min(self.due, at)
            return True
        if self.events or self.answer is not None:
            return False
        if self.waiting is not None:  # it waits on
            entry = self.taken.pop()
            self.waits.append((self.run_place, 0, entry.event_key))
            self.due = min(self.due, entry.accepted_at + self.waiting.life)
            self.waiting = None
        self.taken, self.is_alone = [item], True
        self.waits = sorted((place, 0, key) for place, _, key in self.waits)
        if isinstance(what, HandoffEntry):
            self.handoff = what
        else:
            self.events = [(item.event_key, what)]
        return True

    def batch(self) -> Batch:
        """What the turn answers; what waits behind the last of that is no business of its."""
        events = list(self.events)
        if all(event.sent_at for _, event in events):  # else only the order of arrival is known
            events.sort(key=_sent)
        kept = tuple(key for _, before, key in self.waits if before < len(self.taken))
        return Batch(
            queued=tuple(self.taken),
            events=tuple(events),
            damage=self.damage,
            waiting=self.waiting,
            kept=kept,
            due=self.due,
            handoff=self.handoff,
        )


def _is_customers(item: QueuedEvent) -> bool:
    message, _ = QueuedMessage.read(item.payload)
    return message is not None and message.by == "customer" and not message.revoked


def _sent(item: tuple[str, QueuedMessage]) -> float:
    sent_at = item[1].sent_at
    return 0.0 if sent_at is None else sent_at.timestamp()
