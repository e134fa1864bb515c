"""What a conversation's history tells: who recorded it, and whether it is in order. Pure."""

from __future__ import annotations

from datetime import UTC, timedelta
from itertools import accumulate

from langchain_convsync.cli._doctor.findings import Area, Finding
from langchain_convsync.models import Conversation

CONVERSATION = Area("conversation")
#: What the messages that doctor writes begin with.
MARK = "convsync doctor"
#: What a message may be older than one before it: some servers keep whole seconds.
ROUNDED = timedelta(seconds=1)


def inbound(read: Conversation) -> Finding:
    """Whether the server records what the customer writes, as far as the history tells."""
    said = [m for m in read.messages if not m.content.startswith(MARK)]
    agent = "convsync" in read.metadata or any(message.role == "bot" for message in said)
    if not said and not agent:
        return CONVERSATION.ok(
            "inbound",
            "nothing of what the customer wrote is in the history: agents record it",
            records_inbound=False,
        )
    if agent or not any(message.role == "user" for message in said):
        return CONVERSATION.skipped(
            "inbound",
            "an agent was here, so nobody can tell who recorded what the customer wrote",
            "let a new customer write once while no agent runs, and ask for that --phone",
        )
    return CONVERSATION.warning(
        "inbound",
        "the API server records what the customer writes: no agent was here",
        "pass ServerProfile(records_inbound=True) to the client, or messages are there twice",
        records_inbound=True,
    )


def ordered(read: Conversation) -> Finding:
    """Whether the messages stand in the order of their times."""
    told = [message.timestamp for message in read.messages if message.timestamp is not None]
    times = [time if time.tzinfo else time.replace(tzinfo=UTC) for time in told]
    if len(times) < 2:
        return CONVERSATION.ok("order", "fewer than two messages tell when they were recorded")
    newest = accumulate(times, max)
    late = sum(time < before - ROUNDED for time, before in zip(times[1:], newest, strict=False))
    if not late:
        return CONVERSATION.ok("order", "the messages stand in the order of their times")
    return CONVERSATION.warning(
        "order",
        f"{late} of {len(times)} messages stand behind newer ones: writers do not wait for each "
        "other, or their clocks differ",
        "let all that writes be one TurnRunner with one store, and follow NTP",
    )
