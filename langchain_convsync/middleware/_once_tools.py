"""Tools that act once in a turn, however often its agent is run."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias
from weakref import WeakValueDictionary

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool

from langchain_convsync import telemetry
from langchain_convsync._checked import checked
from langchain_convsync._flow import Flow, Io, arun, run
from langchain_convsync._forks import Unpicklable
from langchain_convsync.errors import (
    FencedError,
    MissingExtraError,
    StoreError,
    UnknownConversationError,
    UnknownOutcomeError,
)
from langchain_convsync.stores import store_of
from langchain_convsync.stores.base import StoreLike
from langchain_convsync.surfaces.calls import EventCalls, TurnCalls, number_of
from langchain_convsync.surfaces.context import current_turn, key_for_logs, resolve

try:
    from langchain.agents.middleware.types import AgentMiddleware, ToolCallRequest
    from langgraph.errors import GraphInterrupt
    from langgraph.types import Command

    from langchain_convsync.middleware._once_results import (
        LARGEST_RESULT,
        NOT_KEPT,
        kept,
        restored,
    )
    from langchain_convsync.middleware._repeats import answer_to_repeated
except ImportError as error:
    raise MissingExtraError("OnceToolsMiddleware", "agents") from error

logger = logging.getLogger(__name__)

Unknown: TypeAlias = Literal["ask", "retry", "hold"]
Guarded: TypeAlias = Iterable[str | BaseTool] | Mapping[str, Unknown] | None
_Result: TypeAlias = ToolMessage | Command[Any]

#: Where this package's own tools come from: they note what a run decides, which acts on nothing.
_OWN = ("langchain_convsync.tools", "langchain_convsync.middleware")
_UNKNOWN = (
    "This very call was begun before, in a run that did not end, and what came of it is unknown: "
    "it may have taken effect. It was not done again. Find out whether it took effect before you "
    "call it again: a further call is carried out."
)
_GONE = (
    "This very call was carried out before, in an earlier run. What it returned could not be kept. "
    "It was not done again. Take it as done, and look up what you need to know: a further call is "
    "carried out."
)


class OnceToolsMiddleware(AgentMiddleware[Any, Any, Any], Unpicklable):
    """Lets a tool's call act once in a turn of a ``TurnRunner``, however often the turn is run.

    ::

        agent = create_agent(model, tools=[charge], middleware=[OnceToolsMiddleware()])
        runner = TurnRunner(agent, store=RedisEventStore())

    A turn is run again when its model fails, its process is killed, or another message came. The
    turn's store keeps what each call returned until the turn is committed, and the same call of a
    later run is answered from there. It is the same if tool and arguments are the same, and if it
    is the first, second, … of its kind in the run. An error that a tool *returns* is such a result.

    A call that was begun and has no result is of unknown outcome: its process died, it was
    cancelled, or the tool raised. ``unknown`` says what a later run does. Within one run, a retry
    middleware runs a tool that raised as often as it would without this one.

    A call that was made three times in a row with the same arguments and result is not run again:
    the model is told so, and a fourth one ends the run with a ``LoopError``.

    Outside a turn it is the same for the runs that answer one event, with ``store=`` and inside
    ``in_conversation(…, event_id=…)``: results are kept for an hour (``replies_kept=``), and a
    second process that meets a call under way gets an ``EventInProgressError``. All other runs call
    their tools as they are, and a warning says so once.

    Args:
        store: Where calls outside of turns are kept. A turn's are kept in its runner's store.
        tools: The tools, or their names, that are guarded; a mapping gives each name an ``unknown``
            of its own. None guards all but those of this package, which only note.
        unknown: What a later run does with a call whose outcome is unknown. ``"ask"`` tells the
            model, which is to find out before it calls again. ``"retry"`` runs the tool again, as
            is right for one that may be repeated. ``"hold"`` ends the turn: the customer gets the
            fallback, and an operator decides about the dead letter; outside a turn the run raises
            ``UnknownOutcomeError``.

    Raises:
        ConfigurationError: ``unknown`` is not one of these, here or in ``tools``; ``tools`` holds
            something else than tools and names; ``store`` is no store.
    """

    @checked
    def __init__(
        self,
        store: StoreLike | None = None,
        *,
        tools: Guarded = None,
        unknown: Unknown = "ask",
    ) -> None:
        super().__init__()
        self._guarded = _policies(tools, unknown)
        self._unknown = unknown
        self._store = None if store is None else store_of(store)
        self._warned = False
        self._failures: WeakValueDictionary[str, Any] = WeakValueDictionary()

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], _Result]
    ) -> _Result:
        """Run a tool, or answer its call with what an earlier run of the turn left."""
        return run(self._once(request, Io(handler, handler, request)))  # type: ignore[arg-type]

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[_Result]]
    ) -> _Result:
        """Run a tool, or answer its call with what an earlier run of the turn left."""
        return await arun(self._once(request, Io(handler, handler, request)))  # type: ignore[arg-type]

    def _once(self, request: ToolCallRequest, running: Io[_Result]) -> Flow[_Result]:
        if (repeated := answer_to_repeated(request)) is not None:
            return repeated
        policy = self._policy(request)
        calls = None if policy is None else self._calls(request)
        if policy is None or calls is None:
            return (yield from running)
        called: Any = request.tool_call
        occasion: object = request.runtime  # the same for the retries of an outer middleware
        occasion = request if occasion is None else occasion
        name = calls.name(called["name"], called["args"], occasion)
        found = yield from calls.begin(name)
        told = None if found.result is None else _result_of(request, found.result)
        if told is None and (found.result is not None or not calls.is_begun_here(found)):
            if policy != "retry":
                yield from calls.left_open(name)
            told = self._of_unknown_outcome(request, calls, policy, gone=found.result is not None)
        if told is None:
            told = yield from self._run(request, calls, name, running)
        if isinstance(told, ToolMessage) and told.status == "error":
            calls.failed(name)
        return told

    def _run(
        self,
        request: ToolCallRequest,
        calls: TurnCalls | EventCalls,
        name: str,
        running: Io[_Result],
    ) -> Flow[_Result]:
        try:
            result = yield from running
        except GraphInterrupt:  # a human decides first: neither result nor failure
            yield from calls.end(name, None)
            raise
        except Exception:
            yield from calls.raised(name)
            raise
        text, missing = kept(result, request.tool_call["id"])
        if missing:
            telemetry.count("once_calls", outcome=f"{missing} not kept")
            telemetry.log(
                logger,
                logging.WARNING,
                key_for_logs(),
                "the %s of tool %s cannot be kept: more than %d KiB, or no kind that is stored. %s",
                missing,
                request.tool_call["name"],
                LARGEST_RESULT // 1024,
                "A later run of the turn gets the rest"
                if missing == "artifact"
                else "A later run of the turn is told that it was carried out",
            )
        try:
            yield from calls.end(name, text)
        except FencedError:
            raise
        except StoreError as error:
            # The turn goes on with what the tool returned; should it be run again, the outcome of
            # this call is unknown.
            telemetry.count("once_calls", outcome="result not kept")
            told, tool = "the result of tool %s was not kept: %s", request.tool_call["name"]
            telemetry.log(logger, logging.WARNING, key_for_logs(), told, tool, error)
        return result

    def _of_unknown_outcome(
        self,
        request: ToolCallRequest,
        calls: TurnCalls | EventCalls,
        policy: Unknown,
        *,
        gone: bool,
    ) -> ToolMessage | None:
        """What the model is told of a call that nobody can tell about; None runs the tool."""
        tool = request.tool_call["name"]
        telemetry.count("once_calls", outcome="gone" if gone else "unknown")
        if policy == "retry":
            return None
        if policy == "hold":
            end = "its result could not be kept" if gone else "its outcome is unknown"
            message = f"a call of tool {tool} was begun in an earlier run of the turn, and {end}"
            calls.held = UnknownOutcomeError(message)
            raise calls.held
        told = "a call of tool %s has no known outcome, and is not repeated: the model is asked"
        telemetry.log(logger, logging.WARNING, key_for_logs(), told, tool)
        return ToolMessage(
            _GONE if gone else _UNKNOWN,
            tool_call_id=request.tool_call["id"],
            name=tool,
            status="error",
        )

    def _policy(self, request: ToolCallRequest) -> Unknown | None:
        """What follows on an unknown outcome; None for a tool that is not guarded."""
        if self._guarded is not None:
            return self._guarded.get(request.tool_call["name"])
        return None if request.tool is None or _is_own(request.tool) else self._unknown

    def _calls(self, request: ToolCallRequest) -> TurnCalls | EventCalls | None:
        turn = current_turn.get()
        if turn is not None and turn.calls is not None:
            return turn.calls
        if self._store is not None and (event := _event_of(request)) is not None:
            state: Any = request.state
            is_plain = isinstance(state, Mapping)
            messages = state.get("messages", ()) if is_plain else getattr(state, "messages", ())
            return EventCalls(
                self._store, event, number_of(request.tool_call, messages), self._failures
            )
        telemetry.count("once_calls", outcome="unguarded")
        if not self._warned:
            self._warned = True
            logger.warning(
                "OnceToolsMiddleware guards the tools of a TurnRunner's turns, and with store=… "
                "those of in_conversation(…, event_id=…); all others are run as they are"
            )
        return None


def _event_of(request: ToolCallRequest) -> str | None:
    """The event that is answered, outside of a turn."""
    runtime = request.runtime
    try:
        ref = resolve(context=runtime.context, config=runtime.config)
    except UnknownConversationError:
        return None
    if ref.event_id is None:
        return None
    return json.dumps([ref.event_id, ref.phone_number, ref.bot_id, ref.subdomain])


def _policies(tools: Guarded, unknown: Unknown) -> Mapping[str, Unknown] | None:
    if tools is None or isinstance(tools, Mapping):
        return tools
    return {tool if isinstance(tool, str) else tool.name: unknown for tool in tools}


def _is_own(tool: BaseTool) -> bool:
    made_by = getattr(tool, "func", None) or getattr(tool, "coroutine", None) or type(tool)
    return str(getattr(made_by, "__module__", "")).startswith(_OWN)


def _result_of(request: ToolCallRequest, text: str) -> Any:
    """The result that an earlier run left; None where it cannot be told."""
    result = None if text == NOT_KEPT else restored(text, request.tool_call["id"])
    if result is not None:
        telemetry.count("once_calls", outcome="answered")
    elif text != NOT_KEPT:
        telemetry.count("unreadable", what="tool result")
    return result
