"""Why what waits in a conversation does wait, and what to do about it, in plain words: pure."""

from __future__ import annotations

from collections.abc import Iterator

from langchain_convsync._lines import count_of, often, span
from langchain_convsync.stores.base import ConversationView, QueuedEvent, QueueView
from langchain_convsync.turns.handoffs import HandoffEntry
from langchain_convsync.turns.interrupts import NEVER, WaitingRun
from langchain_convsync.turns.note import Note
from langchain_convsync.turns.turn import QueuedMessage
from langchain_convsync.waha.limits import meanwhile

_NO_WORKER = "due now, and no worker has acquired them: is one running?"
#: Seconds from a turn's acquiring to its commit, where its agent is not run.
_COMMIT = 15.0


def waiting_in(view: ConversationView) -> tuple[QueuedEvent, WaitingRun] | None:
    """The run of the agent that waits in an inbox, and its entry there."""
    for event in view.events:
        if (waiting := WaitingRun.read(event.payload)) is not None:
            return event, waiting
    return None


def reasons(view: ConversationView) -> Iterator[str]:
    """One cause for each queue that has work: that which has to end first."""
    if view.events:
        yield f"events{_known(view.inbox, view.now) or f': {_of_events(view)}'}"
    if (held := view.restriction) is not None and view.replies.depth:
        since, left = span(view.now - held.since), max(0.0, held.until - view.now)
        again = f"again in {span(left)}" if left else "the next reply shows if that is over"
        yield f"replies, for {since}: the account {meanwhile(held.kind)}: {held.why}; {again}"
    for queue, name in ((view.outbox, "writes"), (view.replies, "replies")):
        if queue.depth and not (queue is view.replies and view.restriction):
            tries = queue.cursor.tries if queue.cursor else 0
            why = f"the first one was tried {often(tries)}" if tries else "they are not due yet"
            yield f"{name}{_known(queue, view.now) or f': {_later(queue, why) or _NO_WORKER}'}"


def silent_for(view: ConversationView) -> float | None:
    """Seconds for which it is paused since it went too fast; None where a human has it, or no one.

    The commit of a silence begins it a little later than the turn has reckoned.
    """
    if view.paused_until is None or view.paused_until > Note.read(view.note).pace.until + _COMMIT:
        return None
    return view.paused_until - view.now


def _known(queue: QueueView, now: float) -> str | None:
    """What a worker does about the queue, or has said when it gave it back."""
    since = "" if queue.since is None else f", for {span(now - queue.since)}"
    if queue.held_until is not None and queue.held_until > now:
        took = "" if queue.held_since is None else f" for {span(now - queue.held_since)}"
        before = "" if queue.why is None else f"; they waited{since}: {queue.why}"
        left = span(queue.held_until - now)
        return f": a worker is at them{took}, its lease ends in {left}{before}"
    if queue.why is None:
        return None
    later = f"again in {span(queue.due_in)}" if queue.due_in else "due again: is a worker running?"
    return f"{since}: {queue.why}; {later}"


def _of_events(view: ConversationView) -> str:
    queue, head = view.inbox, view.events[0]
    if own := _own_words(view):
        return own
    waiting = WaitingRun.read(head.payload)
    if waiting is not None and waiting.answer is None:
        subjects = ", ".join(each.subject for each in waiting.interrupts)
        left = "" if waiting.life >= NEVER else f", {span(queue.due_in or 0)} more at most"
        by = "the customer has one" if waiting.question is not None else "convsync answer gives one"
        return f"the agent waits for an answer: {subjects}{left}; {by}"
    if paused := _paused(view):
        return paused
    failed = count_of(head.errors, "failed run")
    why = f"after {failed} of the agent" if head.errors else "for more messages"
    if later := _later(queue, why):
        return later
    if view.running:
        turns = count_of(view.running, "turn")
        return (
            f"due now, while {turns} of the account run: as many as account_concurrency= allows, "
            "or the workers have other work: start more of them"
        )
    return _NO_WORKER


def _paused(view: ConversationView) -> str | None:
    if view.paused_until is None:
        return None
    left = span(view.paused_until - view.now)
    if silent_for(view) is not None:
        return (
            f"it went too fast (max_turns_per_minute=) and is silent for {left} more: they are "
            "recorded, not answered; convsync resume ends that"
        )
    return (
        f"a human has the conversation for {left} more: they are recorded, not answered; "
        "convsync resume gives it back to the agent"
    )


def _own_words(view: ConversationView) -> str | None:
    """What the bot is to tell a human; or to say later, where nothing else waits."""
    if (handoff := HandoffEntry.read(view.events[0].payload)) is not None:
        tries = f": on_handoff= failed {often(handoff.tries)}" if handoff.tries else ""
        return f"a human is to be told that the agent hands over{tries}"
    messages = [QueuedMessage.read(event.payload)[0] for event in view.events]
    sayings = [message.saying for message in messages if message and message.saying]
    if len(sayings) < len(messages) or any(each.at <= view.now for each in sayings):
        return None
    many = count_of(len(sayings), "message")
    first = min(each.at for each in sayings)
    return f"the bot is to say {many} later, the first in {span(first - view.now)}"


def _later(queue: QueueView, why: str) -> str | None:
    return f"due in {span(queue.due_in)}, {why}" if queue.due_in else None
