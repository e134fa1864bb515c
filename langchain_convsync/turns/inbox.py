"""The way into the store: which conversation an event belongs to, and what is done to it there."""

from __future__ import annotations

import json
import logging
import math
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import InitVar, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from langchain_convsync import phone, telemetry, waha
from langchain_convsync._flow import Flow
from langchain_convsync._lines import cut, is_name, span
from langchain_convsync._platform import now
from langchain_convsync.errors import InvalidEventError, StoreError
from langchain_convsync.models import InboundEvent, zoned
from langchain_convsync.outbox import echo_note, is_ours
from langchain_convsync.outbox.account import FIRST_PAUSE, LONGEST_PAUSE, pause_until
from langchain_convsync.outbox.arrival import ArrivalState, Undelivered, is_news, state_of
from langchain_convsync.stores.base import (
    Accepted,
    AcceptRules,
    AccountKey,
    Commit,
    ConversationView,
    EventStore,
    NewEvent,
    new_token,
)
from langchain_convsync.surfaces.context import current_turn
from langchain_convsync.turns.bounds import LONGEST_TEXT, is_telling, shortened
from langchain_convsync.turns.naming import Naming, OwnMessage
from langchain_convsync.turns.note import Note
from langchain_convsync.turns.operators import conversation_key_of
from langchain_convsync.turns.saying import Saying, Wanted
from langchain_convsync.turns.turn import QueuedMessage, payload_of
from langchain_convsync.waha.limits import meanwhile, why_limited

#: Kinds of messages that a metric tells apart.
MOST_KINDS = 100
logger = logging.getLogger(__name__)
#: What happened to conversations, at INFO.
turns = logging.getLogger("langchain_convsync.turns")

#: What tells that no human wrote a message of the business.
Automatic: TypeAlias = Literal["text", "promptness", "repetition"]


def spelled(text: str) -> str:
    """Words as they are compared: the app and those who configure them differ in how they look."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def exchange_in(view: ConversationView) -> Note:
    """When a customer has begun to write, what waits in the inbox included."""
    times: list[float] = []
    for queued in view.events:
        message, _ = QueuedMessage.read(queued.payload)
        if message is not None and message.by == "customer":
            sent = message.sent_at
            times.append(queued.accepted_at if sent is None else sent.timestamp())
    return Note.read(view.note).hearing(times)


def has_newer(view: ConversationView, number: int) -> bool:
    """Whether someone has written since the turn of this number, or the customer's words wait.

    What the bot has said of its own accord since then is no such words.
    """
    if view.turns - Note.read(view.note).own != number:
        return True
    read = (QueuedMessage.read(queued.payload)[0] for queued in view.events)
    return any(one and one.by == "customer" and not one.revoked for one in read)


@dataclass(slots=True)
class Inbox:
    """Offers events to a store; ``TurnRunner`` describes the rules."""

    store: EventStore
    rules: AcceptRules
    naming: Naming
    automatic_texts: InitVar[Iterable[str]] = ()
    keeps_groups: bool = True
    max_age: float = math.inf
    automatic: frozenset[str] = field(init=False)

    def __post_init__(self, automatic_texts: Iterable[str]) -> None:
        self.automatic = frozenset(filter(None, map(spelled, automatic_texts)))

    def named(self, event: InboundEvent, account: AccountKey | None = None) -> Flow[NewEvent]:
        """The event under its keys; of an account, where that is known already.

        Raises:
            InvalidEventError: It names no customer, or a group that the API server does not keep.
        """
        if event.is_group and not self.keeps_groups:
            message = (
                "the event is a group's, whose conversations the API server does not keep: its "
                "profile is ServerProfile(groups=False)"
            )
            raise InvalidEventError(message)
        if event.unread_kind:
            telemetry.count("unread_kinds", what=_label(event.unread_kind))
        event = shortened(event)
        return (yield from self.naming.event(event, payload_of(event), account))

    def offer(self, new: NewEvent, *, acquire: bool = True) -> Flow[Accepted]:
        """Record an event, and acquire its conversation in the same step if that is possible."""
        token = new_token() if acquire else None
        return (yield from self.store.accept(new, self.rules, token=token))

    def saying(self, customer: str, account: str, wanted: Wanted) -> Flow[NewEvent]:
        """What the bot is to say of its own accord, as an event of the customer's conversation.

        Raises:
            ConfigurationError: The customer has written to several accounts.
            InvalidPhoneNumberError: It is not a customer id.
        """
        identity, reply = phone.normalize(customer), wanted.reply
        named = yield from conversation_key_of(self.store, identity, account)
        keys = yield from self.naming.keys()
        view = yield from self.store.view(named, most=1)
        conversation_key = view.conversation_key
        turn = current_turn.get()
        own = turn if turn is not None and turn.conversation_key == conversation_key else None
        at = 0.0 if wanted.at is None else view.now + (wanted.at - now()).total_seconds()
        key = wanted.key
        if key is None:  # a turn that runs again says it once, though its clock has gone on
            key = new_token() if own is None else f"{own.ref.turn_id} {reply.text}"
        saying = Saying.of(
            reply,
            at=at,
            unless_heard=wanted.unless_heard,
            colleague=wanted.colleague,
            turn=None if own is None else own.ref.turn_id,
        )
        said = QueuedMessage(
            event_id=keys.facts({"e": key}),
            text=reply.text,
            by="bot",
            saying=saying,
            chat_id=identity if "@" in identity else None,
            phone_number=None if "@" in identity else identity,
        )
        return NewEvent(
            event_key=keys.event(
                AccountKey(conversation_key[:15]), "", f"say {conversation_key}", key
            ),
            conversation_key=conversation_key,
            digest=keys.facts({"t": reply.text}),
            payload=payload_of(said),
            names=keys,
        )

    def take_over(self, message: waha.OperatorMessage, seconds: float) -> Flow[bool]:
        """Give a conversation to the human who wrote in it, and record the words.

        False where it was not a human who is there: WAHA's ``source`` is not always right, so one
        of our own sends is taken for its echo here, whatever it is reported as. What the business
        app sends by itself, and what is older than ``max_age``, is recorded and pauses nothing.

        Raises:
            InvalidEventError: The message names no customer.
        """
        if (yield from self._is_ours(message)):
            telemetry.count("own_echoes_from_app")
            yield from self.record_echo(message)
            return False
        places = yield from self.naming.conversations_of(message)
        account = yield from self._home_in(places)
        by = yield from self._machine(message, account, places)
        if by is not None or self._is_old(message):
            telemetry.count("automatic_messages", by=by or "age")
            yield from self._record(message, account)
            return False
        conversation_key = yield from self._record(message, account, pause=seconds)
        turns.info(
            "Conversation %s was taken over by a human, for %g s",
            conversation_key,
            seconds,
            extra={"conversation": conversation_key, "seconds": seconds},
        )
        return True

    def _is_old(self, message: waha.OperatorMessage) -> bool:
        """Whether it was sent so long ago that its writer is not there any more."""
        sent = message.sent_at
        return sent is not None and (now() - zoned(sent)).total_seconds() > self.max_age

    def _record(
        self, own: OwnMessage, account: AccountKey | None, *, pause: float = 0.0
    ) -> Flow[str]:
        """Record words of the business; the conversation that they stand in.

        Raises:
            StoreError: Too many messages wait there.
        """
        facts: dict[str, Any] = {
            name: getattr(own, name) for name in QueuedMessage.model_fields if hasattr(own, name)
        }
        if "event_id" not in facts:
            facts["event_id"] = waha.event_id(own.message_id or "", from_me=True)
        said = QueuedMessage(**facts, by="operator", paused=pause > 0)
        new = replace((yield from self.named(said, account)), pause=pause)
        accepted = yield from self.offer(new, acquire=False)
        if accepted.status == "busy":
            reason = (
                "the business's words were not recorded, too many messages wait: deliver them again"
            )
            raise StoreError(reason)
        return accepted.conversation_key

    def _machine(
        self,
        message: waha.OperatorMessage,
        account: AccountKey | None,
        places: Mapping[str, AccountKey],
    ) -> Flow[Automatic | None]:
        """What tells that the business app has written this by itself; None where nothing does."""
        words = spelled(message.text)
        if words and words in self.automatic:
            return "text"
        if phone.is_group(message.chat_id):  # the app greets nobody there
            return None
        sent = None if message.sent_at is None else zoned(message.sent_at).timestamp()
        conversation_key = ""
        for key in places:
            view = yield from self.store.view(key)
            conversation_key = conversation_key or view.conversation_key
            if view.turns or view.events:
                conversation_key = view.conversation_key
                if sent is not None and exchange_in(view).is_prompt(sent):
                    return "promptness"
        if conversation_key and is_telling(words):
            side = account or next(iter(places.values()))
            if (yield from self._is_said_elsewhere(side, conversation_key, words)):
                return "repetition"
        return None

    def _is_said_elsewhere(self, account: AccountKey, conversation: str, words: str) -> Flow[bool]:
        """Whether the business has written these words to another customer before."""
        keys = yield from self.naming.keys()
        key = keys.claim(f"said by {account}", keys.facts({"h": words}))
        first = NewEvent(event_key=key, conversation_key=key, names=keys)
        accepted = yield from self.store.accept(first, token=new_token())
        if accepted.acquired is None:
            return accepted.outcome not in {None, conversation}
        where = Commit(event_keys=[key], outcomes={}, fact=conversation)
        yield from self.store.commit_turn(accepted.acquired.lease, where)
        return False

    def _home_in(self, places: Mapping[str, AccountKey]) -> Flow[AccountKey | None]:
        """The account in whose conversation the customer has written, else the first one."""
        for conversation_key, account in places.items():
            view = yield from self.store.view(conversation_key, most=1)
            if view.turns or view.events:
                return account
        return next(iter(places.values()), None)

    def _is_ours(self, own: OwnMessage) -> Flow[bool]:
        for conversation_key in (yield from self.naming.conversations_of(own, and_unnamed=True)):
            view = yield from self.store.view(conversation_key, most=1)
            if is_ours(own.message_id, own.text, view.replies, view.now):
                return True
        return False

    def amend(self, change: waha.Ignored) -> Flow[bool]:
        """Change the message that was edited or revoked; False where it waits no more."""
        change = replace(change, text=cut(change.text, LONGEST_TEXT))
        if change.target_id is None or (change.reason == "edited" and not change.text):
            return False
        target = waha.event_id(change.target_id, from_me=bool(change.from_me))
        if (event_key := (yield from self.naming.changed(change, target))) is None:
            return False
        held = yield from self.store.amend(event_key, "", "")
        while held is not None:
            message, damage = QueuedMessage.read(held)
            if message is None or damage:  # its turn makes it a dead letter
                return False
            if not (changes := message.changed_by(change)):
                break
            facts = message.model_copy(update=changes).model_dump(mode="json", include=set(changes))
            wanted = json.dumps({**json.loads(held), **facts})  # fields of newer versions stay
            now_held = yield from self.store.amend(event_key, held, wanted)
            if now_held == wanted:
                break
            if now_held == held:  # its bytes are no text: they are not what was read of them
                return False
            held = now_held
        return held is not None

    def record_ack(
        self, told: waha.Ignored, tell: Callable[[Undelivered], Flow[None]]
    ) -> Flow[ArrivalState | None]:
        """Keep how far a reply got, where that is news; ``tell`` is told first that it failed."""
        message_id, state = told.target_id, state_of(told.ack)
        if message_id is None or state is None or told.ack is None or " " in message_id:
            return None
        for conversation_key in (yield from self.naming.conversations_of(told, and_unnamed=True)):
            view = yield from self.store.view(conversation_key, most=1)
            if not is_news(view, message_id, told.ack):
                continue
            telemetry.count("replies_arrived", state=state)
            if state == "failed":
                failed = Undelivered(
                    conversation_key=view.conversation_key,
                    reason="WhatsApp reported an error (message.ack)",
                    message_id=message_id,
                    chat_id=told.chat_id,
                )
                key, line = view.conversation_key, "a reply did not arrive: %s"
                telemetry.log(logger, logging.ERROR, key, line, failed.reason)
                yield from tell(failed)
            yield from self.store.record_ack(conversation_key, message_id, told.ack)
            return state
        return None

    def restrict(self, told: waha.Ignored) -> Flow[bool]:
        """Note whether an account may send, as ``session.status`` tells it; whether it may not."""
        accounts = yield from self.naming.accounts_of(told)
        if told.limits_over:
            yield from self._try_again(accounts, told.limits_over)
        kind, seconds = "session", LONGEST_PAUSE["session"]
        why = f"WAHA's session is {told.status or 'not WORKING'}"
        if told.status == "WORKING":
            for account in accounts:
                yield from self.store.lift(account, kind="session")
            if told.limit is None:
                return False
        if told.limit is not None and told.status in {"WORKING", None}:
            kind, why = told.limit, why_limited(told.limit, told.limited_until)
            seconds = pause_until(told.limited_until, FIRST_PAUSE[told.limit])
        for account in accounts:
            yield from self.store.restrict(account, kind=kind, seconds=seconds, why=why)
            telemetry.count("account_restrictions", kind=kind)
            logger.error("Account %s %s for %s: %s", account, meanwhile(kind), span(seconds), why)
        return True

    def _try_again(self, accounts: Collection[AccountKey], kinds: Collection[str]) -> Flow[None]:
        """A limit is over by WAHA's clock, if not by WhatsApp's: the next reply tries it."""
        for found in (yield from self.store.restrictions()):
            account = AccountKey(found.account)
            if account in accounts and found.kind in kinds:
                yield from self.store.restrict(account, kind=found.kind, seconds=0.0, why=found.why)

    def record_echo(
        self, own: OwnMessage, *, seconds: float | None = None
    ) -> Flow[Literal["reply", "other"] | None]:
        """Note that a message of the business was seen, and whether it is of interest.

        It may be the sign that a reply waits for, or the words of another program.

        Args:
            own: The message.
            seconds: Where another program may have sent it: for how long it pauses its
                conversation then, whose history it enters as the bot's words.
        """
        if own.message_id is None:
            return None
        places = yield from self.naming.conversations_of(own, and_unnamed=True)
        for conversation_key in places:
            if (
                yield from self.store.record_echo(
                    conversation_key, echo_note(own.message_id, own.text)
                )
            ):
                return "reply"
        if seconds is None or not own.content:
            return None
        home = yield from self._home_of_others(own, places)
        if home is None:
            return None
        telemetry.count("automatic_messages", by="program")
        yield from self._record(own, home, pause=seconds)
        return "other"

    def _home_of_others(
        self, own: OwnMessage, places: Mapping[str, AccountKey]
    ) -> Flow[AccountKey | None]:
        """The account in whose conversation another program wrote; None for a send of ours.

        And where the store knows no such conversation: others may write to thousands.
        """
        known = None
        for conversation_key, account in places.items():
            view = yield from self.store.view(conversation_key, most=1)
            if is_ours(own.message_id, own.text, view.replies, view.now):
                return None
            if view.turns or view.events:
                known = account
        return known


def _label(kind: str) -> str:
    """The kind as a metric's label: a name as programs give them, and one of not too many."""
    known = {labels["what"] for labels, _ in telemetry.counts("unread_kinds")}
    is_told = kind in known or (len(known) < MOST_KINDS and len(kind) <= 64 and is_name(kind))
    return kind if is_told else "other"
