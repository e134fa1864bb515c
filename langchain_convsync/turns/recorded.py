"""What an API server has recorded of a turn's events by itself, as the turn's own read shows it.

Servers differ in which of the customer's messages they record, and when. So nothing is taken from
their profile: words that are new since the last turn, and that no write of ours explains, are the
server's own record of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from difflib import SequenceMatcher

from langchain_convsync.models import Conversation, Said, Words
from langchain_convsync.outbox import Anchor
from langchain_convsync.outbox.compose import readable
from langchain_convsync.stores.base import Acquired
from langchain_convsync.turns.turn import Batch, QueuedMessage

#: Messages of the history that a snapshot keeps.
SNAPSHOT_MESSAGES = 50
#: What the clocks of WhatsApp and of an API server may differ by.
SKEW = timedelta(seconds=60)


def own_records(
    current: Conversation,
    acquired: Acquired,
    batch: Batch,
    last: Conversation | None,
    *,
    expected: bool,
) -> dict[int, str]:
    """Where the server's own records of the turn's events stand, with what the events say.

    They are new since the last turn, and may stand before its reply: the customer wrote while the
    agent was thinking. Where nothing is known of it, they are at the tail, behind what we wrote.

    Args:
        current: As it was read, with what is on its way.
        acquired: What was acquired before.
        batch: The turn's events.
        last: The conversation as the last turn left it.
        expected: Whether the profile says that the server records them. Then the words at the tail
            count where nothing else is known, whoever wrote them, and whenever.
    """
    history = current.said
    wanted = [event for _, event in batch.events if event.by == "customer"]
    known = last.said if last is not None and last.session_id == current.session_id else ()
    places = _new(history, known, len(wanted))
    if places is None:
        if acquired.operations and not expected:
            return {}  # what is on its way may be those very words
        anchor = _anchor(acquired, current.session_id)
        behind = None if anchor is None else anchor.index(history)
        places = range(max(_tail(history), 0 if behind is None else behind + 1), len(history))
        if behind is None and not expected:
            places = [p for p in places if _is_recent(history[p], wanted)]
    own: dict[int, str] = {}
    for place in reversed(places):
        words = history[place]
        told = (each for each in reversed(wanted) if words.content in each.possible_records)
        if words.role == "user" and (event := next(told, None)) is not None:
            own[place] = event.words
            wanted.remove(event)
    return own


def seen_recording(current: Conversation, acquired: Acquired) -> bool | None:
    """Whether the server was seen to record the customer's words by itself.

    None at the beginning of a history: some servers record what begins one, and nothing else, and
    they may do so a moment after a turn has read it.
    """
    for write in readable(acquired):
        if write.records is not False:
            return write.records
    anchor = _anchor(acquired, current.session_id)
    if anchor is not None:
        return anchor.records
    return None if not current.entries else False


def without(conversation: Conversation, places: Collection[int]) -> Conversation:
    """A conversation without the messages at these places."""
    if not places:
        return conversation
    entries = enumerate(conversation.entries)
    return conversation.with_history([entry for place, entry in entries if place not in places])


def _new(history: Sequence[Words], known: Sequence[Said], most: int) -> Sequence[int] | None:
    """Where messages stand that are new since the last turn; None where that cannot be told."""
    if not known:
        return None
    start = max(0, len(history) - len(known) - most)
    before, now = ([(m.role, m.content) for m in some] for some in (known, history[start:]))
    blocks = SequenceMatcher(None, before, now, autojunk=False).get_matching_blocks()
    old = {start + block.b + offset for block in blocks for offset in range(block.size)}
    if not old:  # it was cleared, or all of it was pushed out
        return None
    if len(known) >= SNAPSHOT_MESSAGES:  # what stands before them is older
        start = min(old)
    return [place for place in range(start, len(history)) if place not in old]


def _anchor(acquired: Acquired, session_id: str) -> Anchor | None:
    """The last message of the session that is known to be written; None where none is."""
    anchor = None if acquired.anchor is None else Anchor.stored(acquired.anchor)
    return None if anchor is None or anchor.session_id != session_id else anchor


def _tail(history: Sequence[Words]) -> int:
    """Where the customer's last words begin, after everything that was answered."""
    start = len(history)
    while start and history[start - 1].role == "user":
        start -= 1
    return start


def _is_recent(words: Words, events: Iterable[QueuedMessage]) -> bool:
    """Whether no clock says that the words are older than the events that say the same."""
    at = words.timestamp
    sent = [each.sent_at for each in events if words.content in each.possible_records]
    return at is None or any(each is None or _utc(at) >= _utc(each) - SKEW for each in sent)


def _utc(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)
