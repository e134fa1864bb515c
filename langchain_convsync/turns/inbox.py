"""The way into the store: which conversation an event belongs to, and what is done to it there."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from typing import Any

from langchain_convsync import telemetry, waha
from langchain_convsync._flow import Flow
from langchain_convsync._lines import cut, is_name
from langchain_convsync.errors import StoreError
from langchain_convsync.models import InboundEvent
from langchain_convsync.outbox import echo_note, is_ours
from langchain_convsync.stores.base import (
    Accepted,
    AcceptRules,
    AccountKey,
    EventStore,
    NewEvent,
    new_token,
)
from langchain_convsync.turns.bounds import LONGEST_TEXT, shortened
from langchain_convsync.turns.naming import Naming, OwnMessage
from langchain_convsync.turns.turn import QueuedMessage, payload_of

#: Kinds of messages that a metric tells apart.
MOST_KINDS = 100
#: What happened to conversations, at INFO.
turns = logging.getLogger("langchain_convsync.turns")


@dataclass(slots=True)
class Inbox:
    """Offers events to a store; ``TurnRunner`` describes the rules."""

    store: EventStore
    rules: AcceptRules
    naming: Naming

    def named(self, event: InboundEvent, account: AccountKey | None = None) -> Flow[NewEvent]:
        """The event under its keys; of an account, where that is known already.

        Raises:
            InvalidEventError: It names no customer.
        """
        if event.unread_kind:
            telemetry.count("unread_kinds", what=_label(event.unread_kind))
        event = shortened(event)
        return (yield from self.naming.event(event, payload_of(event), account))

    def offer(self, new: NewEvent, *, acquire: bool = True) -> Flow[Accepted]:
        """Record an event, and acquire its conversation in the same step if that is possible."""
        token = new_token() if acquire else None
        return (yield from self.store.accept(new, self.rules, token=token))

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
        account = yield from self._home_of(message)
        new = replace((yield from self.named(said, account)), pause=seconds)
        accepted = yield from self.offer(new, acquire=False)
        if accepted.status == "busy":
            reason = (
                "the human's words were not recorded, too many messages wait: deliver them again"
            )
            raise StoreError(reason)
        turns.info(
            "Conversation %s was taken over by a human, for %g s",
            accepted.conversation_key,
            seconds,
            extra={"conversation": accepted.conversation_key, "seconds": seconds},
        )
        return True

    def _home_of(self, message: waha.OperatorMessage) -> Flow[AccountKey | None]:
        """The account in whose conversation the customer has written; None for the one it tells."""
        conversations = yield from self.naming.conversations_of(message)
        for conversation_key, account in conversations.items():
            view = yield from self.store.view(conversation_key, most=1)
            if view.turns or view.events:
                return account
        return next(iter(conversations.values()), None)

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

    def record_echo(self, own: OwnMessage) -> Flow[bool]:
        """Note that a message of the business was seen; whether a reply waits for such a sign."""
        if own.message_id is None:
            return False
        for conversation_key in (yield from self.naming.conversations_of(own, and_unnamed=True)):
            if (
                yield from self.store.record_echo(
                    conversation_key, echo_note(own.message_id, own.text)
                )
            ):
                return True
        return False


def _label(kind: str) -> str:
    """The kind as a metric's label: a name as programs give them, and one of not too many."""
    known = {labels["what"] for labels, _ in telemetry.counts("unread_kinds")}
    is_told = kind in known or (len(known) < MOST_KINDS and len(kind) <= 64 and is_name(kind))
    return kind if is_told else "other"
