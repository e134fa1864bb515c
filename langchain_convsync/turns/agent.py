"""Calling the user's agent: any Runnable, graphs with their own memory included."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolMessage
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_convsync import telemetry
from langchain_convsync._flow import Flow, Io, on_thread
from langchain_convsync.errors import ConfigurationError, FencedError, LoopError
from langchain_convsync.stores.heartbeat import Watch
from langchain_convsync.surfaces.context import TurnRecord, current_turn, key_in
from langchain_convsync.surfaces.messages import messages_of
from langchain_convsync.turns.interrupts import Interrupt
from langchain_convsync.turns.remote import RemoteAgent, is_a, layers
from langchain_convsync.turns.shapes import is_async_only, unfit_input
from langchain_convsync.turns.stopping import CANCEL_TIME, StoppedRun, Stopper, endless

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: What tracers call a turn's run of an agent, unless its user named it.
RUN_NAME, TAG = "convsync turn", "convsync"
#: Names of agents that were not named by a user: LangGraph's own, and none.
UNNAMED = (None, "LangGraph")
#: Steps that a turn's run may take unless its user says otherwise: a call of the model is one, so
#: are the tools that it calls, and each hook of a middleware.
MOST_STEPS = 50
#: What ``create_agent`` and deepagents set, in place of a limit.
UNBOUNDED = 9_999
#: Keys of a state that say something to the customer.
SPEAKING = ("output", "reply", "structured_response")


class AsyncAgentError(TypeError):
    """A part of the agent can only be awaited, and the run is a blocking one."""


@dataclass(frozen=True, slots=True)
class Call:
    """One run of an agent: what goes in, and how it is called.

    Where the agent ``blocks``, a turn on an event loop calls it on a thread.
    """

    agent: Runnable[Any, Any]
    input: Any
    config: RunnableConfig
    options: Mapping[str, Any] = field(default_factory=dict)
    blocks: bool = False

    def io(self, block: Callable[..., T], wait: Callable[..., Awaitable[T]], *given: Any) -> Io[T]:
        """A step with the agent, or with its memory."""
        return Io(block, partial(on_thread, block) if self.blocks else wait, *given)

    @property
    def conversation_key(self) -> str | None:
        """The conversation, which the name of the agent's thread begins with."""
        return key_in(self.config.get("metadata", {}).get("thread_id") or "")


def has_memory(agent: Runnable[Any, Any]) -> bool:
    """Whether the agent brings the history itself: a checkpointer or a message history."""
    inner = _unbound(agent)
    if isinstance(inner, RunnableWithMessageHistory):
        return True
    return bool(getattr(inner, "checkpointer", None))


def shows_files(agent: Runnable[Any, Any]) -> bool:
    """Whether a ``ConvSyncMiddleware`` of the agent's own gives its model what no thread holds."""
    nodes: Mapping[str, Any] = getattr(_unbound(agent), "nodes", None) or {}
    hooks = (getattr(getattr(node, "bound", None), "func", None) for node in nodes.values())
    owners = (type(getattr(hook, "__self__", None)).__mro__ for hook in hooks)
    return any(kind.__name__ == "ConvSyncMiddleware" for kinds in owners for kind in kinds)


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
    blocks: bool = False,
) -> Call:
    """The default call: history and new messages.

    Args:
        agent: The agent.
        history: The conversation before this turn; nothing where the agent remembers it.
        new: The customer's new messages; their ids are the same when the turn is run again.
        thread: The id for the agent's own memory; it reveals no phone number.
        facts: What tracers get besides; nothing that names a customer.
        options: What the agent's own kind of call takes besides: a graph its ``context``.
        blocks: Whether the agent cannot be awaited.
    """
    given = [*history, *new]
    config = _traced(agent, {"thread_id": thread, **(facts or {})})
    config["recursion_limit"] = _most_steps(agent)
    if has_memory(agent):
        config["configurable"] = {"thread_id": thread, "session_id": thread}
    taken = {"messages": given} if is_graph(agent) else given
    return Call(agent, taken, config, options or {}, blocks)


def _most_steps(agent: Runnable[Any, Any]) -> int:
    """What the user allows the agent, if anything: what LangChain sets by itself ends no loop."""
    for layer in layers(agent):
        allowed = (getattr(layer, "config", None) or {}).get("recursion_limit")
        if type(allowed) is int and allowed != UNBOUNDED:  # LangGraph's default is of its own type
            return allowed
    return MOST_STEPS


def require_input(call: Call) -> None:
    """Look at what ``prepare=`` made, before the agent gets it.

    Raises:
        ConfigurationError: It is no input of this agent's.
    """
    if flaw := unfit_input(call.input, _unbound(call.agent)):
        raise ConfigurationError(flaw)


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
        values: Its state.
        interrupts: What it waits for.
        turn: The turn that ran it last, as far as it was one of ours.
        steps: When each of its keys was set last, where some of them say something.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    interrupts: tuple[Interrupt, ...] = ()
    turn: str | None = None
    steps: Mapping[str, Any] = field(default_factory=dict)


def baseline(call: Call) -> Flow[Before]:
    """The agent's state before the run; a checkpointer brings old values back afterwards."""
    graph: Any = _unbound(call.agent)
    if not getattr(graph, "checkpointer", None):
        return Before()
    blocking = partial(_blocking, graph.get_state)
    state = yield from call.io(blocking, graph.aget_state, call.config)
    return (yield from _before(call, state))


def said_anew(call: Call, output: object, before: Before) -> Flow[object]:
    """The output, without what an earlier run has said: a checkpointer brings that back.

    The same may be said again. So it is looked up whether this run has set it.
    """
    if not isinstance(output, Mapping):
        return output
    old = before.values
    alike = {name for name in SPEAKING if name in before.steps and _is_like(output, old, name)}
    if not alike:
        return output
    steps = yield from _steps(call, {"thread_id": call.config["configurable"]["thread_id"]})
    return {
        name: value
        for name, value in output.items()
        if name not in alike or steps.get(name) != before.steps[name]
    }


def _is_like(output: Mapping[str, Any], old: Mapping[str, Any], name: str) -> bool:
    """Whether a value may be the old one; of some objects two are never equal."""
    if output.get(name) is None or old.get(name) is None:
        return False
    compares: Any = type(old[name]).__eq__
    return compares is object.__eq__ or bool(output[name] == old[name])


def _steps(
    call: Call, place: Mapping[str, Any], *, is_begin: bool = False
) -> Flow[Mapping[str, Any]]:
    """When each key of the state was set last; nothing where the agent's memory does not tell.

    Args:
        call: The call.
        place: The thread, and a checkpoint of it, unless the last one is meant.
        is_begin: Whether that is meant with which the thread's last run began.
    """
    saver = _unbound(call.agent).checkpointer  # type: ignore[attr-defined]
    if not hasattr(saver, "get_tuple"):  # LangGraph's server
        return {}
    config = {"configurable": {"checkpoint_ns": "", **place}}
    first: dict[str, Any] = {"filter": {"source": "input"}, "limit": 1}

    def block() -> Any:
        return (
            next(iter(saver.list(config, **first)), None) if is_begin else saver.get_tuple(config)
        )

    async def wait() -> Any:
        if not is_begin:
            return await saver.aget_tuple(config)
        return await anext(saver.alist(config, **first), None)

    found = yield from call.io(partial(_blocking, block), wait)
    steps: Mapping[str, Any] = {} if found is None else found.checkpoint["channel_versions"]
    return steps


def _blocking(part: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """Call a part of the agent in a blocking run.

    Raises:
        AsyncAgentError: It can only be awaited.
    """
    try:
        return part(*given, **options)
    except Exception as error:
        if is_async_only(error):
            raise AsyncAgentError(_IS_ASYNC) from error
        raise


def earlier(call: Call, turn: str) -> Flow[tuple[Call, Before] | None]:
    """The agent's state before a turn began, and the call that goes on from there.

    An attempt at the turn that was not committed is as if it had not been: what it noted is lost,
    so its steps run again.

    Returns:
        None where the turn was the first one.
    """
    graph: Any = _unbound(call.agent)

    def block() -> Any:
        found = graph.get_state_history(call.config)
        return next((state for state in found if _turn_of(state) != turn), None)

    async def wait() -> Any:
        async for state in graph.aget_state_history(call.config):
            if _turn_of(state) != turn:
                return state
        return None

    if (found := (yield from call.io(block, wait))) is None:
        return None
    place = {**found.config["configurable"], **call.config["configurable"]}
    config: RunnableConfig = {**call.config, "configurable": place}
    return replace(call, config=config), (yield from _before(call, found))


def undo(call: Call, turn: str, why: str) -> Flow[tuple[Call, Before]]:
    """:func:`earlier`, also where the turn was the first one."""
    if (found := (yield from earlier(call, turn))) is not None:
        return found
    saver, thread = _unbound(call.agent).checkpointer, call.config["configurable"]["thread_id"]  # type: ignore[attr-defined]
    try:
        yield from call.io(saver.delete_thread, saver.adelete_thread, thread)
    except Exception as error:  # noqa: BLE001 - one that cannot delete may raise anything
        told = "a thread could not be begun anew: %s"
        telemetry.log(logger, logging.WARNING, call.conversation_key, told, error)
        yield from abandon(call, why)
    return call, Before()


def _before(call: Call, state: Any) -> Flow[Before]:
    """What it knew: of a run that waits, what it has set itself is not said yet."""
    values, steps = _values(state), dict[str, Any]()
    if any(values.get(name) is not None for name in SPEAKING):
        place, waits = state.config["configurable"], bool(state.interrupts)
        at = {"thread_id": place["thread_id"]} if waits else place
        steps = {**(yield from _steps(call, at, is_begin=waits))}
    return Before(
        values=values,
        interrupts=tuple(map(Interrupt.of, state.interrupts)),
        turn=_turn_of(state),
        steps=steps,
    )


def _turn_of(state: Any) -> str | None:
    turn: str | None = (state.metadata or {}).get("convsync_turn")
    return turn


def _values(state: Any) -> Mapping[str, Any]:
    """The state's values; of a function that is an agent they may be of any kind."""
    return state.values if isinstance(state.values, Mapping) else {}


def abandon(call: Call, why: str) -> Flow[None]:
    """End a run that waits, or stopped half-way, in the agent's own memory.

    Its next run begins anew. Calls of tools that were not run are answered with ``why``: providers
    refuse a thread that leaves one unanswered. Where the memory cannot be changed, the next run
    begins on it as it is.
    """
    graph: Any = _unbound(call.agent)
    if not getattr(graph, "checkpointer", None):
        return
    config = {"configurable": call.config["configurable"]}  # as nobody's turn
    try:
        state = yield from call.io(graph.get_state, graph.aget_state, config)
        if not state.next:
            return
        telemetry.count("runs_abandoned")
        if answers := _tool_answers(messages_of(_values(state)), why):
            changes = {"messages": answers}
            yield from call.io(
                graph.update_state, graph.aupdate_state, config, changes, state.next[0]
            )
        yield from call.io(graph.update_state, graph.aupdate_state, config, None, "__end__")
    except Exception as error:  # noqa: BLE001 - whatever a graph or its memory raises ends here
        told = "a run that waits could not be ended: %s"
        telemetry.log(logger, logging.WARNING, call.conversation_key, told, error)


def _tool_answers(messages: Sequence[BaseMessage], why: str) -> list[BaseMessage]:
    """Answers to every call of the last message that calls tools: those it has, and ``why``."""
    place = next((n for n in reversed(range(len(messages))) if _calls(messages[n])), None)
    if place is None:
        return []
    has = {each.tool_call_id: each for each in messages[place:] if isinstance(each, ToolMessage)}
    calls = _calls(messages[place])
    if all(call["id"] in has for call in calls):
        return []
    return [
        has.get(call["id"] or "")
        or ToolMessage(why, name=call["name"], tool_call_id=call["id"] or "", status="error")
        for call in calls
    ]


def _calls(message: BaseMessage) -> Sequence[ToolCall]:
    return message.tool_calls if isinstance(message, AIMessage) else ()


def invoke(call: Call, record: TurnRecord, watch: Watch, *, deadline: float) -> Flow[Any]:
    """Run the agent inside the turn; surfaces called from it record instead of writing.

    Raises:
        AsyncAgentError: It can only be awaited, and this is a blocking run.
        AgentTimeoutError: It took longer than ``deadline`` seconds. An awaited run is cancelled, a
            blocking one ends at its next step.
        FencedError: Another process took the conversation over meanwhile.
        LoopError: It went on and on.
        UnknownOutcomeError: A tool is held for an operator.
    """
    stopper = Stopper(record, watch, deadline, call.config["recursion_limit"])

    def block() -> Any:
        token = current_turn.set(record)
        try:
            with stopper.watching():
                return _blocking(call.agent.invoke, call.input, call.config, **call.options)
        finally:
            current_turn.reset(token)

    def running() -> Awaitable[Any]:
        if call.blocks:
            return on_thread(block)
        return call.agent.ainvoke(call.input, call.config, **call.options)

    async def wait() -> Any:
        token = current_turn.set(record)
        try:
            with stopper.watching():
                return await _unless_over(running(), watch, stopper)
        finally:
            current_turn.reset(token)

    try:
        output = yield from Io(block, wait)
    except (Exception, StoppedRun) as error:
        over = record.held or stopper.reason or _too_many_steps(error, call)
        if over is None or over is error:
            raise
        raise over from (None if isinstance(error, StoppedRun) else error)
    if (over := record.held or stopper.reason) is not None:
        raise over  # whatever the agent made of it
    return output


async def _unless_over(work: Any, watch: Watch, stopper: Stopper) -> Any:
    """What the agent returns, unless it takes too long; it is left behind if it does not end."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)

    def cancel() -> None:
        with suppress(RuntimeError):  # the loop is closed: nothing is left to cancel
            loop.call_soon_threadsafe(task.cancel)

    watch.on_lost(cancel)
    try:
        done, _ = await asyncio.wait({task}, timeout=stopper.left)
        if not done:
            await _cancelled(task, stopper)
            raise stopper.too_late()
        return task.result()
    except asyncio.CancelledError:
        await _cancelled(task, stopper)
        if watch.lost:
            message = "another process took the conversation over; the agent was cancelled"
            raise FencedError(message) from None
        raise


_IS_ASYNC = "this agent is async: use arun(), or convsync worker, which runs it on an event loop"


async def _cancelled(task: asyncio.Task[Any], stopper: Stopper) -> None:
    task.cancel()
    late = stopper.left + CANCEL_TIME
    asyncio.get_running_loop().call_later(late, stopper.look_for_threads)
    stopper.leave_behind()  # a process that ends now waits for no thread of its
    done, _ = await asyncio.wait({task}, timeout=CANCEL_TIME)
    if not done:
        stopper.report()
    elif not task.cancelled():
        task.exception()  # retrieved: the run is over in any case


def _too_many_steps(error: BaseException, call: Call) -> LoopError | None:
    """LangGraph's own error in our words; its class is not loaded to find out."""
    if not isinstance(error, RecursionError) or type(error).__name__ != "GraphRecursionError":
        return None
    return endless(call.config["recursion_limit"])
