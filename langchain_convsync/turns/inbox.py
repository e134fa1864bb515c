"""The way into the store: which conversation an event belongs to, and what is done to it there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from langchain_convsync import phone, telemetry, waha
from langchain_convsync._flow import Flow
from langchain_convsync._lines import cut
from langchain_convsync.errors import InvalidEventError, StoreError
from langchain_convsync.models import InboundEvent
from langchain_convsync.outbox import echo_note, is_ours
from langchain_convsync.outbox.plan import digest
from langchain_convsync.stores.base import (
    Accepted,
    AcceptRules,
    EventStore,
    Keys,
    NewEvent,
    new_token,
)
from langchain_convsync.turns.bounds import LONGEST_TEXT, shortened
from langchain_convsync.turns.turn import QueuedMessage, payload_of

#: A message of the business itself.
OwnMessage: TypeAlias = waha.OperatorMessage | waha.Ignored


@dataclass(slots=True)
class Inbox:
    """Offers events to a store; ``TurnRunner`` describes the rules."""

    store: EventStore
    rules: AcceptRules
    _keys: Keys | None = field(default=None, init=False)

    def named(self, event: InboundEvent) -> Flow[NewEvent]:
        """The event under its keys.

        Raises:
            InvalidEventError: It names no customer.
        """
        event = shortened(event)
        keys, customer = (yield from self._named()), _customer_of(event)
        if customer is None:
            message = "the event names no customer: set phone_number or chat_id"
            raise InvalidEventError(message)
        alias = None
        if event.phone_number and event.lid:
            alias = keys.conversation(event.account, phone.normalize(event.lid))
        return NewEvent(
            event_key=keys.event(event.account, "message", event.event_id),
            conversation_key=keys.conversation(event.account, customer),
            alias=alias,
            digest=digest(event.content),
            payload=payload_of(event),
        )

    def offer(self, new: NewEvent, *, acquire: bool = True) -> Flow[Accepted]:
        """Record an event, and acquire its conversation in the same step if that is possible."""
        token = new_token() if acquire else None
        return (yield from self.store.accept(new, self.rules, token=token))

    def pause(self, customer: str, account: str, seconds: float) -> Flow[None]:
        """Give a conversation to a human for a while, or back."""
        keys = yield from self._named()
        conversation_key = keys.conversation(account, phone.normalize(customer))
        yield from self.store.pause(conversation_key, seconds=seconds)

    def take_over(self, message: waha.OperatorMessage, seconds: float) -> Flow[bool]:
        """Give a conversation to the human who wrote in it, and record the words.

        False, and nothing of it is done, where it was not a human: WAHA's ``source`` is not always
        right, so one of our own sends is taken for its echo here, whatever it is reported as.

        Raises:
            InvalidEventError: The message names no customer.
        """
        if (yield from self._is_ours(message)):
            telemetry.count("own_echoes_from_app")
            yield from self.record_echo(message)
            return False
        facts: dict[str, Any] = {
            name: getattr(message, name)
            for name in QueuedMessage.model_fields
            if hasattr(message, name)
        }
        said = QueuedMessage(**facts, by="operator")
        new = replace((yield from self.named(said)), pause=seconds)
        accepted = yield from self.offer(new, acquire=False)
        if accepted.status == "busy":
            reason = (
                "the human's words were not recorded, too many messages wait: deliver them again"
            )
            raise StoreError(reason)
        return True

    def _is_ours(self, own: OwnMessage) -> Flow[bool]:
        for conversation_key in (yield from self._conversation_keys(own)):
            view = yield from self.store.view(conversation_key, most=1)
            if is_ours(own.message_id, own.text, view.replies, view.now):
                return True
        return False

    def amend(self, change: waha.Ignored) -> Flow[bool]:
        """Change the message that was edited or revoked; False where it waits no more."""
        change = replace(change, text=cut(change.text, LONGEST_TEXT))
        if change.target_id is None or (change.reason == "edited" and not change.text):
            return False
        keys = yield from self._named()
        target = waha.event_id(change.target_id, from_me=bool(change.from_me))
        event_key = keys.event(change.account, "message", target)
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

    def record_echo(self, own: OwnMessage) -> Flow[bool]:
        """Note that a message of the business was seen; whether a reply waits for such a sign."""
        if own.message_id is None:
            return False
        for conversation_key in (yield from self._conversation_keys(own)):
            if (
                yield from self.store.record_echo(
                    conversation_key, echo_note(own.message_id, own.text)
                )
            ):
                return True
        return False

    def _conversation_keys(self, own: OwnMessage) -> Flow[list[str]]:
        """Every conversation that a message of the business may stand in.

        Its customer's phone number may lead to another one than their LID, as long as no event of
        theirs told both.
        """
        keys = yield from self._named()
        identities = map(phone.identity_of, (own.phone_number, own.lid, own.chat_id))
        names = dict.fromkeys(name for name in identities if name is not None)
        return [keys.conversation(own.account, name) for name in names]

    def _named(self) -> Flow[Keys]:
        if self._keys is None:
            self._keys = yield from self.store.keys()
        return self._keys


def _customer_of(message: InboundEvent) -> str | None:
    named = message.phone_number or message.lid or message.chat_id
    return None if named is None else phone.normalize(named)
