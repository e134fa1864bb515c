"""What an operator does about one conversation: see why it waits, and decide what is set aside.

Each change is one step of the store and is written into the log ``langchain_convsync.audit``: what
was done, to which handle, how much of it, and by whom. Never a phone number or a text.
"""

from __future__ import annotations

import getpass
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from langchain_convsync import phone, telemetry
from langchain_convsync._flow import Flow, Io
from langchain_convsync.outbox import Write
from langchain_convsync.stores.base import (
    ConversationView,
    EventStore,
    LaneView,
    SetAside,
    new_token,
)

audit = logging.getLogger("langchain_convsync.audit")
#: As many things as are decided in one step of a loop.
_BATCH = 100


def handle_of(store: EventStore, customer: str, account: str) -> Flow[str]:
    """The handle under which the store and the logs know a conversation.

    Raises:
        InvalidPhoneNumberError: ``customer`` is neither a phone number nor a chat id.
    """
    identity = phone.normalize(customer)
    handles = yield from store.handles()
    return handles.conversation(account, identity)


@dataclass(frozen=True, slots=True)
class Seen:
    """One conversation as an operator sees it.

    Args:
        view: What is in its queues.
        aside: What is set aside, oldest first.
    """

    view: ConversationView
    aside: tuple[SetAside, ...]

    @property
    def known(self) -> bool:
        """Whether the store keeps anything of it."""
        view = self.view
        lanes = view.turn, view.write, view.say
        work = sum(lane.depth for lane in lanes)
        return bool(work or view.turns or self.aside or view.paused_until is not None)

    def reasons(self) -> list[str]:
        """In words, why what waits does wait; empty where nothing does."""
        view = self.view
        found = [
            *_why_events_wait(view),
            *_why_operations_wait(view.write, view.now, "writes"),
            *_why_operations_wait(view.say, view.now, "replies"),
        ]
        if self.aside:
            found.append(f"{len(self.aside)} set aside: retry or discard them")
        return found


def look(store: EventStore, cid: str) -> Flow[Seen]:
    """See one conversation, and take nothing of it."""
    view = yield from store.view(cid)
    return Seen(view, (yield from store.set_aside(cid, most=1000)))


def retry(store: EventStore, cid: str) -> Flow[int]:
    """Give everything that is set aside in a conversation back to the workers; how many it was.

    What was confirmed of a write before it was parked is not sent again. What comes back arrives
    behind what came later, and the message of a dead letter stands in the history a second time,
    before its late answer.
    """

    def step(one: SetAside) -> Io[str | None]:
        return store.requeue(one, token=new_token(), body=rest_of(one))

    return (yield from _decide(store, cid, "retry", step))


def discard(store: EventStore, cid: str) -> Flow[int]:
    """Give up everything that is set aside in a conversation; how many it was."""

    def step(one: SetAside) -> Io[bool]:
        return store.discard(one, token=new_token())

    return (yield from _decide(store, cid, "discard", step))


def pause(store: EventStore, cid: str, seconds: float) -> Flow[None]:
    """Give a conversation to a human for so many seconds; 0.0 gives it back."""
    yield from store.pause(cid, seconds=seconds)
    _audited("pause" if seconds else "resume", cid, 1)


def forget(store: EventStore, cid: str) -> Flow[None]:
    """Erase what the store keeps of a conversation; see :meth:`EventStore.forget`."""
    yield from store.forget(cid)
    telemetry.count("operator", what="forget")
    _audited("forget", cid, 1)


def rest_of(aside: SetAside) -> str | None:
    """The body of what is still to be done; None where it is the one that it has.

    The messages that are confirmed are left out, and so is the end of the history as the turn read
    it: by now it tells nothing about what was recorded since.
    """
    if aside.lane != "write":
        return None
    write = Write.model_validate_json(aside.body)
    left = write.messages[aside.pos :]
    rest = write.model_copy(update={"messages": left, "base": None})
    return rest.model_dump_json(exclude_defaults=True)


def _decide(
    store: EventStore, cid: str, what: str, step: Callable[[SetAside], Io[str | None] | Io[bool]]
) -> Flow[int]:
    """Decide what is set aside now, oldest first; what is parked anew meanwhile is left alone."""
    done, now = 0, (yield from store.view(cid, most=1)).now
    while True:
        found = yield from store.set_aside(cid, most=_BATCH)
        before = done
        for one in found:
            if one.since <= now and (yield from step(one)):
                done += 1
        if len(found) < _BATCH or done == before:
            break
    if done:
        telemetry.count("operator", done, what=what)
        _audited(what, cid, done)
    return done


def _audited(what: str, cid: str, amount: int) -> None:
    audit.info("%s %s: %d, by %s", what, cid, amount, _operator())


def _operator() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"


def _why_events_wait(view: ConversationView) -> Sequence[str]:
    if not view.events:
        return []
    lane, head = view.turn, view.events[0]
    if lane.held_until is not None and lane.held_until > view.now:
        return [f"events: a worker is at them, its lease ends in {_until(lane, view.now)}"]
    reasons = []
    if lane.due_in:
        tried = head.errors or head.starts
        told = f"after {head.errors} failed runs of the agent" if tried else "for more messages"
        reasons.append(f"events: due in {lane.due_in:.1f} s, {told}")
    else:
        reasons.append("events: due now, no worker has taken them: is one running?")
    if view.paused_until is not None:
        reasons.append("events: a human has the conversation, they are recorded and not answered")
    return reasons


def _why_operations_wait(lane: LaneView, now: float, name: str) -> Sequence[str]:
    if not lane.depth:
        return []
    if lane.held_until is not None and lane.held_until > now:
        return [f"{name}: a worker is at them, its lease ends in {_until(lane, now)}"]
    if lane.due_in:
        tries = lane.cursor.tries if lane.cursor else 0
        return [f"{name}: the first one was tried {tries} times, again in {lane.due_in:.1f} s"]
    return [f"{name}: due now, no worker has taken them: is one running?"]


def _until(lane: LaneView, now: float) -> str:
    return f"{(lane.held_until or now) - now:.1f} s"
