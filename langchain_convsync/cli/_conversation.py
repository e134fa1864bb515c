"""One conversation as ``convsync show`` tells it: no phone number, and texts only if asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from langchain_convsync._lines import count_of, often, one_line, span
from langchain_convsync.stores import (
    DeadLetter,
    Operation,
    QueuedEvent,
    QueueView,
)

if TYPE_CHECKING:
    from langchain_convsync.turns.operators import OperatorView

#: How far a reply got of which there is no ack: message.ack is off, or WhatsApp has not got it.
_TAKEN = "taken by WAHA, and WhatsApp has told nothing of it (message.ack)"


def facts(inspected: OperatorView, *, texts: bool) -> dict[str, Any]:
    """What a program reads; seconds count back from now on the store's clock."""
    from langchain_convsync.outbox.arrival import arrivals
    from langchain_convsync.turns.reasons import silent_for

    view = inspected.view
    paused, silent = view.paused_until, silent_for(view)
    found: dict[str, Any] = {
        "conversation": view.conversation_key,
        "account": view.conversation_key[:15],
        "turns": view.turns,
        "paused_for": None if paused is None else round(paused - view.now, 3),
        "paused_by": None if paused is None else "human" if silent is None else "pace",
        "asks": _asked(inspected, texts),
        "queued": _events(inspected),
        "writes": _operations(view.outbox, view.now),
        "replies": _operations(view.replies, view.now),
        "arrivals": [
            {"id": each.message_id, "state": each.state, "ago": _ago(each.at, view.now)}
            for each in arrivals(view)
        ],
        "dead_letters": [
            letter_facts(one, view.now, texts=texts) for one in inspected.dead_letters
        ],
        "why": inspected.reasons(),
    }
    if texts:
        found["queued"]["texts"] = list(_texts(view.events))
        found["writes"]["texts"] = list(_texts(view.outbox.operations))
        found["replies"]["texts"] = list(_texts(view.replies.operations))
    return found


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What people read, line by line."""
    yield f"conversation  {found['conversation']}"
    paused, by = found["paused_for"], found["paused_by"]
    yield f"turns         {found['turns']}"
    yield f"human         {f'has it for {span(paused)} more' if by == 'human' else 'no'}"
    if by == "pace":
        yield f"silent        for {span(paused)} more: it went too fast; convsync resume ends that"
    if (asks := found["asks"]) is not None:
        left = "until it is answered" if asks["for"] is None else f"for {span(asks['for'])} more"
        left = f"answered by {asks['answered_by']}" if asks["answered_by"] else left
        yield f"agent waits   {', '.join(asks['subjects'])}, {left}"
        yield from _quoted(asks)
    kinds = ("queued", "event"), ("writes", "API write"), ("replies", "reply", "replies")
    for name, *of in kinds:
        queue = found[name]
        tried = f", tried {often(queue['tries'])}" if queue["tries"] else ""
        age = queue.get("oldest_age")
        old = f", the oldest for {span(age)}" if age is not None else ""
        yield f"{name:<13} {count_of(queue['depth'], *of)}{old}{tried}"
        yield from _quoted(queue)
    if found["arrivals"]:
        last = found["arrivals"][-1]
        ago = "" if last["ago"] is None else f", {span(last['ago'])} ago"
        failed = sum(each["state"] == "failed" for each in found["arrivals"])
        more = f"; {failed} of the last {len(found['arrivals'])} failed" if failed else ""
        state = _TAKEN if last["state"] == "taken" else last["state"]
        yield f"arrival       the last reply: {state}{ago}{more}"
    yield f"dead letters  {len(found['dead_letters'])}"
    for one in found["dead_letters"]:
        yield f"  {one['kind']} {one['id']}, for {span(one['age'])}: {one_line(one['reason'])}"
        if one["unclear"]:
            yield "    it may have arrived: look into the conversation before you retry it"
        yield from _quoted(one)
    for reason in found["why"]:
        yield f"why           {reason}"


def _asked(inspected: OperatorView, texts: bool) -> dict[str, Any] | None:
    """What the agent waits for; with texts, what it asks."""
    if (found := inspected.waiting) is None:
        return None
    entry, waiting = found
    ends = None if waiting.seconds is None else entry.accepted_at + waiting.life
    if waiting.question is not None:
        ends = entry.accepted_at + waiting.life
    asks = {
        "subjects": [each.subject for each in waiting.interrupts],
        "for": None if ends is None else round(max(0.0, ends - inspected.view.now), 3),
        "answered_by": waiting.answer and waiting.answer.by,
    }
    if texts:
        said = [each.question or json.dumps(each.value) for each in waiting.interrupts]
        asks["texts"] = said
    return asks


def _events(inspected: OperatorView) -> dict[str, Any]:
    """The messages, and runs that go on; one that waits for its answer is told by itself."""
    view, waiting = inspected.view, inspected.waiting
    run = waiting[0] if waiting is not None and waiting[1].answer is None else None
    head = next((event for event in view.events if event is not run), None)
    return {
        **_queue(view.inbox, view.now),
        "depth": view.inbox.depth - (run is not None),
        "oldest_age": None if head is None else round(view.now - head.accepted_at, 3),
        "tries": 0 if head is None else head.starts + head.errors,
    }


def _operations(queue: QueueView, now: float) -> dict[str, Any]:
    return {**_queue(queue, now), "tries": queue.cursor.tries if queue.cursor else 0}


def _queue(queue: QueueView, now: float) -> dict[str, Any]:
    leased = queue.held_until is not None and queue.held_until > now
    return {
        "depth": queue.depth,
        "due_in": queue.due_in,
        "leased_for": round(queue.held_until - now, 3) if leased and queue.held_until else None,
        "leased_since": _ago(queue.held_since if leased else None, now),
        "why": queue.why,
        "since": _ago(queue.since, now),
    }


def _ago(at: float | None, now: float) -> float | None:
    return None if at is None else round(now - at, 3)


def letter_facts(one: DeadLetter, now: float, *, texts: bool = False) -> dict[str, Any]:
    """What a program reads of a dead letter."""
    from langchain_convsync.turns.operators import reason_of

    body = _object(one.body)
    kind = {"inbox": "event", "replies": "reply"}.get(one.queue) or str(body.get("kind", "write"))
    found = {
        "kind": kind,
        "id": one.id,
        "reason": reason_of(one),
        "age": round(now - one.since, 3),
        "confirmed": one.pos,
        "tries": one.tries,
        "unclear": one.sent_at is not None,
    }
    return {**found, "texts": _texts_in(body)} if texts else found


def _texts(queue: Iterable[QueuedEvent | Operation]) -> Iterator[str]:
    for one in queue:
        body = one.payload if isinstance(one, QueuedEvent) else one.body
        yield from _texts_in(_object(body))


def _object(stored: str) -> dict[str, Any]:
    """What stands in a store; what cannot be read says nothing."""
    try:
        found = json.loads(stored)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _texts_in(body: dict[str, Any]) -> list[str]:
    """The words in an event, a write or a reply."""
    if isinstance(messages := body.get("messages"), list):
        return [str(each.get("content", "")) for each in messages if isinstance(each, dict)]
    return [str(body["text"])] if "text" in body else []


def _quoted(found: dict[str, Any]) -> Iterator[str]:
    for text in found.get("texts", ()):
        yield f"    « {one_line(text)} »"
