"""Calling the user's agent: any Runnable, graphs with their own memory included."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_convsync._flow import Flow, Io
from langchain_convsync.errors import FencedError
from langchain_convsync.stores.heartbeat import Watch
from langchain_convsync.surfaces.context import TurnRecord, current_turn
from langchain_convsync.surfaces.limits import limit_in
from langchain_convsync.surfaces.messages import (
    flaw_in,
    last_reply,
    messages_of,
    text_in,
    text_of,
)
from langchain_convsync.turns.remote import RemoteAgent, is_a, layers

#: What tracers call a turn's run of an agent, unless its user named it.
RUN_NAME, TAG = "convsync turn", "convsync"
#: Names of agents that were not named by a user: LangGraph's own, and none.
UNNAMED = (None, "LangGraph")


class AgentTimeoutError(TimeoutError):
    """The agent did not finish within the turn's deadline."""


class EmptyReplyError(ValueError):
    """The agent ended without a text for the customer."""


class LimitReachedError(ValueError):
    """A limit ended the agent's run, and its words for that are LangChain's."""


class OverlongReplyError(ValueError):
    """The agent's text is longer than a WhatsApp message."""


class IncompleteReplyError(ValueError):
    """What the agent's model said was cut off, or calls a tool with arguments that are not JSON."""


#: What finds the state that a thread's last input met.
LAST_INPUT: Mapping[str, Any] = {"filter": {"source": "input"}, "limit": 1}
#: Characters that WhatsApp takes as one message.
LONGEST_REPLY = 65_536


@dataclass(frozen=True, slots=True)
class Call:
    """One run of an agent: what goes in, and what was known before."""

    agent: Runnable[Any, Any]
    input: Any
    config: RunnableConfig
    options: Mapping[str, Any] = field(default_factory=dict)


def has_memory(agent: Runnable[Any, Any]) -> bool:
    """Whether the agent brings the history itself: a checkpointer or a message history."""
    inner = _unbound(agent)
    if isinstance(inner, RunnableWithMessageHistory):
        return True
    return bool(getattr(inner, "checkpointer", None))


def is_graph(agent: Runnable[Any, Any]) -> bool:
    """Whether the agent is a compiled graph, which takes ``{"messages": […]}``."""
    inner = _unbound(agent)
    return is_a(inner, "protocol", "PregelProtocol") or hasattr(inner, "checkpointer")


def takes_context(agent: Runnable[Any, Any]) -> bool:
    """Whether a call of the agent takes a ``context=``, as those of graphs do."""
    with_fallbacks = (each for each in layers(agent) if isinstance(each, RunnableWithFallbacks))
    if (several := next(with_fallbacks, None)) is not None:
        return all(map(takes_context, several.runnables))
    inner = _unbound(agent)
    if isinstance(inner, RunnableSequence):  # its first step gets what its call gets
        return takes_context(inner.first)
    if isinstance(inner, RemoteAgent):
        return True
    return "context" in inspect.signature(inner.invoke).parameters


def _unbound(agent: Runnable[Any, Any]) -> Runnable[Any, Any]:
    found = agent
    for found in layers(agent):
        if isinstance(found, RemoteAgent):
            break
    return found


def call_for(
    agent: Runnable[Any, Any],
    history: Sequence[BaseMessage],
    new: Sequence[BaseMessage],
    *,
    thread: str,
    facts: Mapping[str, str | None] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Call:
    """The default call: history and new messages.

    Args:
        agent: The agent.
        history: The conversation before this turn; nothing where the agent remembers it.
        new: The customer's new messages; their ids are the same when the turn is run again.
        thread: The id for the agent's own memory; it reveals no phone number.
        facts: What tracers get besides; nothing that names a customer.
        options: What the agent's own kind of call takes besides: a graph its ``context``.
    """
    given = [*history, *new]
    config = _traced(agent, {"thread_id": thread, **(facts or {})})
    if has_memory(agent):
        config["configurable"] = {"thread_id": thread, "session_id": thread}
    return Call(agent, {"messages": given} if is_graph(agent) else given, config, options or {})


def _traced(agent: Runnable[Any, Any], facts: Mapping[str, str | None]) -> RunnableConfig:
    """How a run appears in LangSmith and other tracers; what the user named keeps its name.

    LangSmith shows the runs with the same ``thread_id`` in their metadata as one thread.
    """
    named, known, inner = False, set[str](), agent
    for inner in layers(agent):
        given = getattr(inner, "config", None) or {}  # of a binding, or of a compiled graph
        named = named or bool(given.get("run_name"))
        known |= set(given.get("metadata") or ())
    metadata = {
        name: fact for name, fact in facts.items() if fact is not None and name not in known
    }
    config: RunnableConfig = {"tags": [TAG], "metadata": metadata}
    if not named and getattr(inner, "name", None) in UNNAMED:
        config["run_name"] = RUN_NAME
    return config


@dataclass(frozen=True, slots=True)
class Before:
    """What a checkpointed agent knew before this run.

    Attributes:
        values: Its state; for one that waits, the state before the run that was interrupted: what
            was decided in there is still to be synced.
        waiting: Whether it was interrupted, and waits for an answer.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    waiting: bool = False


def baseline(call: Call) -> Flow[Before]:
    """The agent's state before the run; a checkpointer brings old values back afterwards."""
    graph: Any = _unbound(call.agent)
    if not getattr(graph, "checkpointer", None):
        return Before()
    state = yield from Io(graph.get_state, graph.aget_state, call.config)
    if not state.interrupts:
        return Before(state.values)

    def block() -> Mapping[str, Any]:
        last = graph.get_state_history(call.config, **LAST_INPUT)
        return next((each.values for each in last), {})

    async def wait() -> Mapping[str, Any]:
        async for each in graph.aget_state_history(call.config, **LAST_INPUT):
            return dict(each.values)
        return {}

    return Before((yield from Io(block, wait)), waiting=True)


def invoke(
    call: Call, record: TurnRecord, watch: Watch, *, before: Before, deadline: float
) -> Flow[Any]:
    """Run the agent inside the turn; surfaces called from it record instead of writing.

    An interrupted agent is resumed with the customer's words.

    Raises:
        AgentTimeoutError: It took longer than ``deadline`` seconds (async; a blocking run cannot be
            stopped, it is discarded when it comes back).
        FencedError: Another process took the conversation over meanwhile.
        UnknownOutcomeError: A tool is held for an operator.
    """
    given = _resumption(call.input) if before.waiting else call.input

    def block() -> Any:
        token, until = current_turn.set(record), time.monotonic() + deadline
        try:
            output = call.agent.invoke(given, call.config, **call.options)
        finally:
            current_turn.reset(token)
        if time.monotonic() > until:
            raise _too_late(deadline)
        return output

    async def wait() -> Any:
        token = current_turn.set(record)
        try:
            running = call.agent.ainvoke(given, call.config, **call.options)
            return await _unless_lost(running, watch, deadline)
        finally:
            current_turn.reset(token)

    try:
        output = yield from Io(block, wait)
    except Exception as error:
        if (held := record.held) is not None:
            raise held from error
        raise
    if (held := record.held) is not None:
        raise held  # whatever the agent made of it
    return output


def _resumption(given: Any) -> Any:
    from langgraph.types import Command  # a graph is waiting, so langgraph is there

    words = [text_of(message) for message in given["messages"]]
    return Command(resume="\n".join(words))


async def _unless_lost(work: Any, watch: Watch, deadline: float) -> Any:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)

    def cancel() -> None:
        with suppress(RuntimeError):  # the loop is closed: nothing is left to cancel
            loop.call_soon_threadsafe(task.cancel)

    watch.on_lost(cancel)
    try:
        async with asyncio.timeout(deadline):
            return await task
    except TimeoutError as error:
        if task.cancelled():
            raise _too_late(deadline) from error
        raise
    except asyncio.CancelledError:
        if watch.lost:
            message = "another process took the conversation over; the agent was cancelled"
            raise FencedError(message) from None
        raise


def _too_late(deadline: float) -> AgentTimeoutError:
    return AgentTimeoutError(f"the agent did not finish within {deadline:g} s")


def is_interrupted(output: object) -> bool:
    """Whether the graph stopped to wait for a human."""
    return isinstance(output, Mapping) and bool(output.get("__interrupt__"))


def reply_of(output: object, before: Mapping[str, Any] | None = None) -> str:
    """The text for the customer.

    Args:
        output: What the agent returned.
        before: Its state before the run: only what was said since counts.

    Raises:
        IncompleteReplyError: A message of the model's was cut off, or calls a tool in no JSON. The
            agent may have acted on the half of it, so nothing it said later is relied on.
        LimitReachedError: A limit ended the run, and LangChain says so instead of the agent.
        EmptyReplyError: There is no text.
        OverlongReplyError: There is more than a WhatsApp message holds: a model that does not end.
    """
    known = {message.id for message in messages_of(before or {})}
    messages = [m for m in messages_of(output) if m.id is None or m.id not in known]
    if flaw := flaw_in(messages):
        raise IncompleteReplyError(flaw)
    if limit := limit_in(output if isinstance(output, Mapping) else {}, messages):
        raise LimitReachedError(limit)
    text = _reply(output, messages).strip()
    if len(text) > LONGEST_REPLY:
        message = f"the agent's text is longer than a WhatsApp message, {LONGEST_REPLY} characters"
        raise OverlongReplyError(message)
    if text:
        return text
    message = "the agent ended without a text for the customer"
    if isinstance(output, Mapping) and output.get("structured_response") is not None:
        message += ": give its response_format a field `reply`"
    raise EmptyReplyError(message)


def _reply(output: object, messages: Sequence[BaseMessage]) -> str:
    structured = None
    if isinstance(output, Mapping):
        for key in ("output", "reply"):
            if text := text_in(output.get(key)):
                return text
        structured = output.get("structured_response")
    if messages or isinstance(output, Mapping):
        return last_reply(messages, structured)
    return text_in(output) or text_in(getattr(output, "reply", None))
