"""What the model is told in a turn besides the customer's messages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage

from langchain_convsync._lines import span
from langchain_convsync._platform import now
from langchain_convsync.surfaces.prompts import about_section
from langchain_convsync.turns.result import Attempt, handed_over_in

#: Begins the id of what is told.
ABOUT = "convsync-about-"
#: A message that was sent so long ago is not one of now.
LATE = timedelta(minutes=10)
#: Of so many messages at most it is told when they were sent.
MOST_TOLD = 20


def about(attempt: Attempt) -> list[BaseMessage]:
    """What there is to tell of a turn's messages, before them.

    When they were sent, if that is not now, and what a customer who returns was about before.
    """
    facts = _facts(attempt, now())
    if not facts:
        return []
    section = about_section({"now": _minute(now()), **facts})
    return [HumanMessage(content=section, id=f"{ABOUT}{attempt.batch.turn_id}")]


def _facts(attempt: Attempt, at: datetime) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    late = [
        {"message": number, "sent": _minute(event.sent_at), "ago": _ago(at - event.sent_at)}
        for number, (_, event) in enumerate(attempt.batch.asked, 1)
        if event.sent_at is not None and at - event.sent_at >= LATE
    ]
    if late:
        facts["sent_earlier"] = late[-MOST_TOLD:]
    if attempt.current is not None and (told := handed_over_in(attempt.current.conversation)):
        facts["handed_over"] = _handed_over(attempt, told)
    note = attempt.note
    if note.follows(attempt.session):
        ended = datetime.fromtimestamp(note.at, UTC)
        facts["last_conversation"] = {
            "intent": note.intent,
            "step": note.step,
            "ended": _minute(ended),
            "ago": _ago(at - ended),
        }
    return facts


def _handed_over(attempt: Attempt, told: Mapping[str, Any]) -> dict[str, Any]:
    """Why the agent has handed over, and what the human has said since."""
    said: list[str] = []
    history = [] if attempt.current is None else attempt.current.conversation.said
    for message in reversed(history):
        if attempt.hashed(message.content) == told.get("after"):
            break
        if message.role == "bot":
            said.append(message.content)
    else:
        said = []  # what it was said after is gone
    said = [*reversed(said), *(e.words for _, e in attempt.batch.said if e.by == "operator")]
    passed = attempt.acquired.now - told["at"] if isinstance(told.get("at"), int | float) else None
    return {
        "reason": told.get("reason"),
        "summary": told.get("summary"),
        "ago": None if passed is None else span(passed),
        "colleague_said": said[-MOST_TOLD:],
    }


def _minute(at: datetime) -> str:
    try:
        return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except OverflowError:  # in the first or the last hours that Python knows
        return at.isoformat(" ", "minutes")


def _ago(passed: timedelta) -> str:
    return span(passed.total_seconds())
