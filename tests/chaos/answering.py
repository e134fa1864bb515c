"""How a worker answers: with ``TurnRunner``, or with the API document's sample flow."""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from langchain.agents.middleware.types import ToolCallRequest
from langchain_core.messages import ToolMessage
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_convsync import (
    AsyncConvSyncClient,
    ConvSyncClient,
    ServerProfile,
    WAHAReply,
    waha,
)
from langchain_convsync.middleware import OnceToolsMiddleware
from langchain_convsync.models import Conversation, ConversationMessage, InboundEvent
from langchain_convsync.stores import open_store
from langchain_convsync.turns import Turn, TurnRunner
from tests.chaos.fake_api import CAP, Manners
from tests.chaos.oracle import number_of, reply_to
from tests.chaos.script import SLOWLY
from tests.document_client import ConversationSyncClient

#: Seconds. Everything that takes its time in production is short here, so that a run is dense:
#: one request, the time after which a write is surely applied or never will be, a lease.
ATTEMPT, SETTLE, LEASE = 0.4, 0.8, 1.5
#: Seconds that the slow agent takes: longer than a lease lasts without a heartbeat.
SLOW = 1.5 * LEASE

#: A line of JSON, to the driver or from it.
Line: TypeAlias = dict[str, Any]
Tell: TypeAlias = Callable[[Line], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a worker works with.

    Attributes:
        number: Workers differ: the first one delivers writes within its calls, the others have a
            block of ``TurnRunner`` do it; the second one is async; all but the first one wait a
            moment for further events.
        folder: Where it notes its runs of the agent, and logs.
        manners: What the API server does.
        waha_url: Where replies are sent; None only tells of them.
        naive: Use the document's sample flow instead of ``TurnRunner``.
        without: The guard to take out.
    """

    number: int
    folder: Path
    base_url: str
    store_url: str
    manners: Manners
    waha_url: str | None = None
    naive: bool = False
    without: str | None = None


class Agent:
    """Charges once, says which events it answers, after which reply, and notes when it ran."""

    def __init__(self, notes: Path) -> None:
        self._once = OnceToolsMiddleware(tools=["charge"])
        self._notes = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.runnable: Runnable[Any, Any] = RunnableLambda(self._run, self._arun)

    @staticmethod
    def prepare(conversation: Conversation, events: Sequence[InboundEvent]) -> dict[str, Any]:
        """What the agent is asked: everything is decided by what it sees of the conversation."""
        number = int(conversation.context.get("number", 0)) + 1
        previous = _last_turn(conversation.messages)
        ids = [event.event_id for event in events]
        return {
            "session_id": conversation.session_id,
            "number": number,
            "reply": reply_to(conversation.subdomain, number, previous, ids),
            "head": ids[0],
            "seconds": SLOW if any(SLOWLY in event.text for event in events) else 0.0,
        }

    def _run(self, asked: dict[str, Any]) -> dict[str, Any]:
        with self._noted(asked):
            self._once.wrap_tool_call(*self._charge(asked))
            time.sleep(asked["seconds"])
        return _decided(asked)

    async def _arun(self, asked: dict[str, Any]) -> dict[str, Any]:
        with self._noted(asked):
            request, charge = self._charge(asked)

            async def acharge(call: ToolCallRequest) -> ToolMessage:
                return charge(call)

            await self._once.awrap_tool_call(request, acharge)
            await asyncio.sleep(asked["seconds"])
        return _decided(asked)

    def _charge(
        self, asked: dict[str, Any]
    ) -> tuple[ToolCallRequest, Callable[[ToolCallRequest], ToolMessage]]:
        """A model's call of a tool that charges for what the turn's first event ordered."""
        order = f"{asked['session_id']} {asked['head']}"
        call: Any = {"name": "charge", "args": {"order": order}, "id": uuid.uuid4().hex}
        request = ToolCallRequest(call, None, {}, runtime=None)  # type: ignore[arg-type]

        def charge(_: ToolCallRequest) -> ToolMessage:
            self.note({"charged": order})
            return ToolMessage("Paid.", tool_call_id=call["id"])

        return request, charge

    @contextmanager
    def _noted(self, asked: dict[str, Any]) -> Iterator[None]:
        run = {"run": uuid.uuid4().hex, "pid": os.getpid(), "session_id": asked["session_id"]}
        self.note({**run, "start": time.monotonic()})
        try:
            yield
        finally:
            self.note({**run, "end": time.monotonic()})

    def note(self, note: dict[str, Any]) -> None:
        """One line, whole or not at all: it is short, and appended by one call."""
        os.write(self._notes, json.dumps(note).encode() + b"\n")


def _last_turn(history: Sequence[ConversationMessage]) -> int:
    return max((number_of(m.content) for m in history[-CAP:] if m.role == "bot"), default=0)


def _decided(asked: dict[str, Any]) -> dict[str, Any]:
    number, reply = asked["number"], asked["reply"]
    context = {"number": number, "reply": reply}
    return {"reply": reply, "intent": "order", "step": f"step {number}", "context": context}


def new_runner(setup: Setup, agent: Agent, tell: Tell) -> TurnRunner:
    """The engine; it tells of each reply that it does not send itself."""
    profile = ServerProfile(
        settle=SETTLE,
        history_cap=CAP,
        idempotency_keys=setup.manners.keys,
        context_sync="replace" if setup.manners.replace else "merge",
        history="sync" if setup.manners.by_sync else "messages",
    )
    sending: dict[str, Any] = {"on_reply": lambda turn: tell({"sent": told(turn)})}
    if setup.waha_url is not None:
        sending = {"reply": WAHAReply(setup.waha_url, settle=SETTLE)}
    client = AsyncConvSyncClient if setup.number == 1 else ConvSyncClient
    return TurnRunner(
        agent.runnable,
        client=client(setup.base_url, profile=profile),
        store=open_store(setup.store_url),
        prepare=agent.prepare,
        **sending,
        lease=LEASE,
        debounce=0.03 if setup.number else 0.0,
        max_debounce=0.1,
        shutdown_timeout=3.0,
        max_starts=100,  # so many crashes at one event are no sign of a crashing event here
        max_turns_per_minute=None,  # these customers are machines
    )


def echo_of(request: Line) -> waha.Ignored | waha.OperatorMessage:
    """Our own message, as WAHA's webhook reports it: as an echo, or as a human's."""
    echo = waha.parse_event(request["echo"])
    assert not isinstance(echo, InboundEvent)
    return echo


def told(turn: Turn) -> Line:
    """A turn as the driver is told of it."""
    return {
        "status": turn.status,
        "reply": turn.reply,
        "turn_id": turn.turn_id,
        "events": list(turn.events),
    }


class Naive:
    """The document's sample flow, its webhook's set of processed events included."""

    def __init__(self, setup: Setup, agent: Agent, tell: Tell) -> None:
        self._client = ConversationSyncClient(setup.base_url)
        self._agent = agent
        self._tell = tell
        self._processed: dict[str, Line] = {}

    def answer(self, event: InboundEvent) -> Line:
        """What became of the event."""
        if event.event_id in self._processed:
            return {**self._processed[event.event_id], "status": "duplicate"}
        phone_number = event.phone_number or event.lid or ""
        session_id = self._client.lookup_tenant(phone_number)["sessionId"]
        conversation = self._client.get_conversation(phone_number)
        asked = self._agent.prepare(Conversation.model_validate(conversation), [event])
        decided = self._agent.runnable.invoke(asked)
        self._client.add_message(session_id, "user", event.text)
        self._client.add_message(session_id, "bot", decided["reply"])
        self._client.sync_conversation(
            session_id=session_id,
            intent=decided["intent"],
            step=decided["step"],
            context=decided["context"],
        )
        turn = Turn(
            status="answered",
            reply=decided["reply"],
            turn_id=f"{event.account}/{event.event_id}",
            events=(event.event_id,),
        )
        self._tell({"sent": told(turn)})
        self._processed[event.event_id] = told(turn)
        return told(turn)
