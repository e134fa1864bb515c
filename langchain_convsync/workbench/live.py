"""A store at work, looked at and left alone: its timeline, as two looks differ, and what waits.

It acquires nothing, writes nothing and has no lever. Without ``texts`` it holds no words.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Self

from langchain_convsync._flow import run
from langchain_convsync._lines import count_of
from langchain_convsync.errors import ConvSyncError
from langchain_convsync.models import SERVER_KEYS
from langchain_convsync.stores import EventStore
from langchain_convsync.stores.base import ConversationView
from langchain_convsync.turns import operators
from langchain_convsync.turns.operators import OperatorView
from langchain_convsync.turns.reasons import silent_for
from langchain_convsync.turns.result import Snapshot
from langchain_convsync.turns.turn import QueuedMessage
from langchain_convsync.workbench.timeline import Timeline
from langchain_convsync.workbench.whatsapp import Customer

#: Seconds between looks, where no process tells that it left something.
LOOK = 1.0
#: As many conversations are looked at: those that were asked for, then the last that were active.
MOST = 40
#: The name under which the page shows the store as a whole.
WHOLE = "store"

State = dict[str, Any]


class Live:
    """What ``convsync dev --read-only`` shows.

    Args:
        store: The store; its owner closes it.
        texts: Whether words are shown.
        asked: Conversation keys to look at in any case.

    Attributes:
        timeline: What happened since this began.
        customers: What is looked at: the store, and conversations by their keys.
        target: What the page calls it.
    """

    def __init__(
        self, store: EventStore, *, texts: bool = False, asked: Sequence[str] = ()
    ) -> None:
        self.timeline, self.target = Timeline(), "a live store, read only"
        self.customers = {WHOLE: Customer("The store", WHOLE, "")}
        self._store, self._texts, self._asked = store, texts, [*asked]
        self._views: dict[str, OperatorView] = {}
        self._states: dict[str, State] = {}
        self._listeners: list[Callable[[State], None]] = []
        self._lock, self._over = threading.Lock(), threading.Event()
        self._hints = store.listen()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        for key in self._asked:
            self._see(key)
        self._see_store()
        self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._hints.end()
        self._looking.join()

    def listen(self, listener: Callable[[State], None]) -> list[State]:
        """Be told the state of a conversation whenever it has changed; those of now."""
        with self._lock:
            self._listeners.append(listener)
            return [*self._states.values()]

    def unlisten(self, listener: Callable[[State], None]) -> None:
        """Be told no more."""
        with self._lock:
            self._listeners.remove(listener)

    def _look(self) -> None:
        """Look again whenever another process has left something, and every second."""
        last = 0.0
        try:
            while not self._over.is_set():
                hints = run(self._hints.wait(LOOK)) or ()
                active = {hint.conversation_key for hint in hints} - {""}
                if not active and time.monotonic() - last < LOOK:
                    self._over.wait(LOOK / 10)
                    continue
                last = time.monotonic()
                try:
                    for key in [*self._views, *(active - self._views.keys())]:
                        self._see(key)
                    self._see_store()
                except ConvSyncError as error:  # a store that is away comes back
                    self._tell(WHOLE, f"the store does not answer: {type(error).__name__}", "fault")
        finally:
            self._hints.close()

    def _see(self, key: str) -> None:
        """Look at a conversation, and tell what has changed since."""
        now = run(operators.inspect_conversation(self._store, key))
        name = now.view.conversation_key
        before = self._views.get(name)
        happened = [] if before is None else [*changes(before, now, texts=self._texts)]
        if happened:  # the last that was active is the last to go
            del self._views[name]
        self._views[name] = now
        if before is None:
            self._meet(name)
        for text, tone in happened:
            self._tell(name, text, tone)
        self._show(state_of(now, texts=self._texts))

    def _meet(self, name: str) -> None:
        """Look at one more conversation; beyond the limit, no more at the one that was silent."""
        self.customers = {**self.customers, name: Customer(name[-6:], name, "")}
        self.timeline.add("met", who=name, name=name[-6:])
        spare = [each for each in self._views if each not in {*self._asked, name}]
        if len(self._views) > MOST and spare:
            self._part(spare[0])

    def _part(self, name: str) -> None:
        """Show a conversation no more, until something of it happens again."""
        del self._views[name]
        self.customers = {key: each for key, each in self.customers.items() if key != name}
        with self._lock:
            self._states.pop(name, None)
        self.timeline.add("parted", who=name)

    def _see_store(self) -> None:
        """Look at the store as a whole; its dead letters lead to conversations."""
        backlog, loads = run(self._store.backlog()), run(self._store.loads())
        letters = run(self._store.dead_letters(most=MOST))
        for letter in letters:
            if letter.conversation_key not in self._views and len(self._views) < MOST:
                self._see(letter.conversation_key)
        waits = [
            f"{load.account}: {count_of(load.conversations, 'conversation')} in {load.queue}, "
            f"overdue for {-load.due_in:.0f} s"
            for load in loads
            if load.due_in < -LOOK and not load.held
        ]
        limits = [f"{each.account}: {each.why}" for each in run(self._store.restrictions())]
        self._show(
            _blank(WHOLE)
            | {
                "queues": {
                    "inbox": backlog.queued,
                    "outbox": backlog.writes,
                    "replies": backlog.replies,
                },
                "reasons": waits + limits,
                "dead": [_dead(each) for each in letters],
                "letters": backlog.dead_letters,
            }
        )

    def _show(self, state: State) -> None:
        with self._lock:
            if self._states.get(state["who"]) == state:
                return
            self._states[state["who"]] = state
            for listener in self._listeners:
                with suppress(RuntimeError):
                    listener(state)

    def _tell(self, name: str, text: str, tone: str) -> None:
        self.timeline.add("happened", who=name, text=text, tone=tone)


def _whose(view: ConversationView) -> tuple[str, str]:
    """Who answers from now on."""
    if view.paused_until is None:
        return "the agent answers again", "good"
    return ("a human has it", "") if silent_for(view) is None else ("it went too fast", "fault")


def changes(before: OperatorView, now: OperatorView, *, texts: bool) -> Iterator[tuple[str, str]]:
    """What happened between two looks: a sentence, and ``good``, ``fault`` or nothing. Pure."""
    was, view = before.view, now.view
    known = {event.event_key for event in was.events}
    for event in view.events:
        if event.event_key not in known:
            message, _ = QueuedMessage.read(event.payload)
            words = f": {message.words}" if texts and message is not None else ""
            yield f"a message is recorded{words}", ""
    if view.inbox.held_since is not None and view.inbox.held_since != was.inbox.held_since:
        yield "a worker has acquired it", ""
    if view.turns > was.turns:
        yield f"{count_of(view.turns - was.turns, 'turn')} committed", "good"
    yield from _moves(was.replies.depth, view.replies.depth, "reply", "replies")
    yield from _moves(was.outbox.depth, view.outbox.depth, "write")
    yield from _letters(before, now)
    if (view.paused_until is None) != (was.paused_until is None):
        yield _whose(view)
    for queue, other in (
        (view.inbox, was.inbox),
        (view.outbox, was.outbox),
        (view.replies, was.replies),
    ):
        if queue.why and queue.why != other.why:
            yield f"it waits: {queue.why}", "fault"


def _letters(before: OperatorView, now: OperatorView) -> Iterator[tuple[str, str]]:
    known = {letter.id for letter in before.dead_letters}
    for letter in now.dead_letters:
        if letter.id not in known:
            yield f"a dead letter: {operators.reason_of(letter)}", "fault"
    if gone := known - {letter.id for letter in now.dead_letters}:
        yield f"{count_of(len(gone), 'dead letter')} decided", ""


def _moves(before: int, now: int, *name: str) -> Iterator[tuple[str, str]]:
    if now > before:
        yield f"{count_of(now - before, *name)} queued", ""
    elif now < before:
        yield f"{count_of(before - now, *name)} done", "good"


def state_of(inspected: OperatorView, *, texts: bool) -> State:
    """A conversation as the page shows it."""
    view = inspected.view
    found = None if view.snapshot is None else Snapshot(view.snapshot).conversation
    document = None
    if found is not None:
        document = found.model_dump(mode="json", by_alias=True)
        context = document["context"]
        if not texts:
            context = {key: "…" for key in context if key not in SERVER_KEYS}
        document["context"] = context
        document = {name: document[name] for name in _SHOWN if name in document}
    paused = view.paused_until
    return _blank(view.conversation_key) | {
        "conversation": document,
        "queues": {
            "inbox": view.inbox.depth,
            "outbox": view.outbox.depth,
            "replies": view.replies.depth,
        },
        "paused": None if paused is None else max(0, round(paused - view.now)),
        "turns": view.turns,
        "reasons": inspected.reasons(),
        "dead": [_dead(each) for each in inspected.dead_letters],
    }


#: What of a conversation's document is shown: nothing that names the customer.
_SHOWN = (
    *("currentIntent", "previousIntent", "currentStep", "previousStep"),
    *("context", "subDomain", "isActive", "expiresAt"),
)


def _blank(who: str) -> State:
    counted = dict.fromkeys(("sent", "lost", "doubled"), 0)
    shown: State = {"conversation": None, "queues": {}, "paused": None, "turns": 0, "reasons": []}
    return {"who": who, **shown, "dead": [], "settled": False, **counted}


def _dead(letter: Any) -> dict[str, str]:
    return {"queue": letter.queue, "reason": operators.reason_of(letter)}
