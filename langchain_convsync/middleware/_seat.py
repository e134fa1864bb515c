"""An agent in an exchange: what of the conversation joins its thread, and leaves it again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.types import Overwrite

from langchain_convsync.middleware._exchange import Exchange, Share, Work
from langchain_convsync.models import Conversation, ConversationMessage
from langchain_convsync.surfaces.access import Access
from langchain_convsync.surfaces.recorded import unanswered_left_out
from langchain_convsync.surfaces.thread import (
    Placed,
    Watermark,
    as_users,
    beside,
    last_words,
    without_history,
)


@dataclass(frozen=True, slots=True)
class Seat:
    """An agent in an exchange, as one of its hooks finds it.

    Attributes:
        access: Its way to the conversation.
        exchange: The exchange.
        share: What the exchange keeps for the conversation.
        graph: The run of the agent.
        namespace: Where a checkpointer keeps the agent's thread.
        work: What was so when it began; None where that is not known.
    """

    access: Access
    exchange: Exchange
    share: Share
    graph: UUID | None
    namespace: str
    work: Work | None

    @property
    def is_outermost(self) -> bool:
        """Whether the agent is the outermost graph."""
        return self.graph == self.exchange.root

    def unmixed(
        self, conversation: Conversation, thread: Sequence[BaseMessage]
    ) -> Sequence[BaseMessage]:
        """The agent's thread without a history that another agent's hand-over has copied there.

        It stands behind the customer's words, where the graph around both has appended it.
        """
        if self.is_outermost or self._is_given():
            return thread
        return without_history(thread, conversation.messages)

    def others(
        self,
        conversation: Conversation,
        thread: Sequence[BaseMessage],
        words: Mapping[str, str],
        *,
        recorded_inbound: bool,
        most: int,
    ) -> Sequence[Placed]:
        """What others said in the conversation, in its places in the agent's thread.

        Args:
            conversation: The conversation as it was read.
            thread: The thread; its messages have ids.
            words: What the customer says now, by ids.
            recorded_inbound: Whether the server may have recorded that already.
            most: Messages that would join.
        """
        ids = [message.id for message in thread]
        said = words or self.share.notes.pending
        begins = (place for place, key in enumerate(ids) if key in said)
        now = next(begins, len(ids) - len(last_words(thread)))
        if self.is_outermost and (not self.exchange.goes_on or _is_condensed(thread)):
            return self._since(
                conversation,
                thread,
                said=as_users(words.values()),
                now=now,
                recorded_inbound=recorded_inbound,
                most=most,
            )
        if not self.is_outermost:
            now = self.exchange.place_in(thread, default=now)
        if self._is_given() and (now or not self.exchange.brings_before):
            return []
        history = conversation.messages
        if recorded_inbound:
            history = unanswered_left_out(history, self.exchange.texts)
        if now < len(ids) and ids[now] in self.share.notes.recorded:
            # A replay: what came after these words is not said yet.
            return [each for each in beside(history, thread) if each[0] <= now]
        return beside(history, thread[:now])

    def _since(
        self,
        conversation: Conversation,
        thread: Sequence[BaseMessage],
        *,
        said: Sequence[ConversationMessage],
        now: int,
        recorded_inbound: bool,
        most: int,
    ) -> Sequence[Placed]:
        """What others said since the thread's conversation was read last."""
        notes = self.share.notes
        mark, is_first = Watermark.of(notes.watermark), notes.watermark is None
        if recorded_inbound:
            mark = mark.after_saying(said)
        others, read = mark.read(conversation.messages, most)
        notes.watermark = (read if recorded_inbound else read.after_saying(said)).plain()
        turn = self.access.turn
        if turn is not None and turn.history_given:
            return []
        if is_first and any(isinstance(message, AIMessage) for message in thread):
            return []
        if mark.seen is None:  # all of it is older than the thread
            system = itertools.takewhile(lambda message: message.type == "system", thread)
            now = sum(1 for _ in system)
        return [(now, message) for message in others]

    def _is_given(self) -> bool:
        """Whether the input of the exchange holds the history already."""
        turn = self.access.turn
        if turn is not None and turn.history_given:
            return True
        return self.exchange.brings_history and self.share.notes.watermark is None


def end_of_words(thread: Sequence[BaseMessage]) -> int:
    """How much of a thread was there when the agent began: all up to the customer's last words."""
    places = (place for place, message in enumerate(thread) if message.type == "human")
    return max(places, default=-1) + 1


def changed(before: Sequence[BaseMessage], thread: Sequence[BaseMessage]) -> dict[str, Any] | None:
    """The state's new thread; streams of messages do not take it for what the agent says."""
    if [message.id for message in before] == [message.id for message in thread]:
        return None
    return {"messages": Overwrite(list(thread))}


def without(thread: Sequence[BaseMessage], ids: AbstractSet[str]) -> dict[str, Any] | None:
    """The thread without what joined it: the graph around this agent would append that."""
    left = [message for message in thread if message.id not in ids]
    return {"messages": Overwrite(left)} if len(left) < len(thread) else None


def _is_condensed(thread: Iterable[BaseMessage]) -> bool:
    return any("lc_source" in message.additional_kwargs for message in thread)
