"""What a run decided about the conversation: one extraction for every surface.

In this order, the first that decides anything wins: the user's extractor, ``structured_response``,
the state keys ``intent``/``step``/``context`` that changed in this run, the ``sync_state`` calls of
this run, metadata of the last message.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from enum import Enum
from typing import Any, TypeAlias

from langchain_core.load.serializable import Serializable
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import BaseModel, ValidationError

from langchain_convsync import telemetry
from langchain_convsync._checked import unknown
from langchain_convsync._flow import Flow, Io
from langchain_convsync._lines import is_name
from langchain_convsync.errors import ConfigurationError
from langchain_convsync.models import SPELLINGS, PartialConversation, StateUpdate, as_json
from langchain_convsync.surfaces.bounds import LONGEST_NAME, fitting, flaw_in_context
from langchain_convsync.surfaces.messages import cut_off, messages_of
from langchain_convsync.surfaces.prompts import SyncStateArgs

SYNC_TOOL = "sync_state"
STATE_TYPES: Mapping[str, type] = {
    "intent": str,
    "step": str,
    "context": Mapping,
    "metadata": Mapping,
    "is_active": bool,
}

logger = logging.getLogger(__name__)
#: Keys that this process has warned of, and of how many it does.
_warned: set[str] = set()
_MOST_WARNINGS = 20

Decision: TypeAlias = StateUpdate | Mapping[str, Any] | None
Extractor: TypeAlias = Callable[[Any], Decision | Awaitable[Decision]] | Runnable[Any, Decision]
#: A question about a run is not a part of it: its callbacks must not see it.
_APART: RunnableConfig = {"callbacks": []}


def extract(
    output: object,
    *,
    baseline: Mapping[str, Any] | None = None,
    known_messages: int = 0,
    noted: StateUpdate | None = None,
) -> StateUpdate:
    """What a run's output says about the state; an empty update when it says nothing.

    Args:
        output: What the runnable returned: an agent's or graph's final state, a message, an object
            with ``intent`` and ``step``, a mapping.
        baseline: The state before the run. A checkpointer brings old values back; only what differs
            from the baseline was decided now.
        known_messages: How many of the output's messages were there before the run.
        noted: What the ``sync_state`` tool has noted, where that is kept apart. Then its calls do
            not count here, and of the last message its metadata only where it has noted nothing.
            None: its calls count that it has run, as its answer among the messages shows; failed
            ones never do, nor those whose tool has written itself.
    """
    before = baseline or {}
    values = output if isinstance(output, Mapping) else {"structured_response": output}
    messages = messages_of(output)[known_messages:]
    structured = values.get("structured_response")
    found = StateUpdate()
    # LangChain's own objects decide nothing: a retriever's document has metadata of another kind.
    if not isinstance(structured, Serializable) and structured != before.get("structured_response"):
        found = as_update(structured)
    found = found or _changed_keys(values, before)
    if noted is None:
        found = found or called(messages)
    spoken = messages[-1] if messages else None
    if found or noted or not isinstance(spoken, AIMessage):
        return found
    return as_update(_metadata(spoken))


def without(output: object, before: Mapping[str, Any]) -> object:
    """The output without the messages that the state had before the run."""
    known = {message.id for message in messages_of(before)}
    if not isinstance(output, Mapping) or not known:
        return output
    fresh = [message for message in messages_of(output) if message.id not in known]
    return {**output, "messages": fresh}


def ask(extractor: Extractor, output: object) -> Flow[Decision]:
    """What the user's extractor says; None where it leaves the decision to :func:`extract`.

    Raises:
        ConfigurationError: An async extractor in a blocking run.
    """
    decision: Decision
    if isinstance(extractor, Runnable):
        decision = yield from Io(extractor.invoke, extractor.ainvoke, output, _APART)
    else:
        is_async = "the extractor is async: run the agent async, or pass a plain function"
        decision = yield from consult(extractor, output, is_async=is_async)
    for told in _flaws_in(decision):
        _warn("What the extractor says is left out: %s", told)
    return decision


def _warn(message: str, told: str) -> None:
    """Log it once."""
    if told not in _warned and len(_warned) < _MOST_WARNINGS:
        _warned.add(told)
        logger.warning(message, told)


def _leave_out(told: str) -> None:
    telemetry.count("state_rejected")
    _warn("What a run decides is left out: %s", told)


def _shown(key: object) -> str:
    """A key, if it is a name: it may stand in a log."""
    return key[:40] if isinstance(key, str) and is_name(key) else "a key that is no name"


def _flaws_in(decision: object) -> Iterator[str]:
    """What of an extractor's decision means nothing; a key that is no name is not repeated."""
    if decision is None or isinstance(decision, StateUpdate):
        return
    if not isinstance(decision, Mapping):
        if not any(hasattr(decision, name) for name in STATE_TYPES):
            yield f"it is of type {type(decision).__name__}: return a StateUpdate, a dict, or None"
        return
    for key, value in decision.items():
        name = SPELLINGS.get(key, key) if isinstance(key, str) else key
        if name not in STATE_TYPES:
            yield unknown("a state update", "field", _shown(key), STATE_TYPES)
        elif value is not None and not isinstance(value, STATE_TYPES[name]):
            yield f"{name} is of type {type(value).__name__}"


def said_by(function: Callable[..., Any], *given: object, is_async: str) -> Any:
    """What a function of the user's says that cannot be awaited here.

    Raises:
        ConfigurationError: It is async, told as ``is_async``.
    """
    said = function(*given)
    if isinstance(said, Awaitable):
        if isinstance(said, Coroutine):
            said.close()  # never awaited, and that is said better below
        raise ConfigurationError(is_async)
    return said


def consult(function: Callable[..., Any], *given: object, is_async: str) -> Flow[Any]:
    """What a function of the user's says, which may be async where it can be awaited.

    Raises:
        ConfigurationError: It is async in a blocking run, told as ``is_async``.
    """

    def block() -> Any:
        return said_by(function, *given, is_async=is_async)

    async def wait() -> Any:
        said = function(*given)
        return await said if isinstance(said, Awaitable) else said

    return (yield from Io(block, wait))


def called(output: object) -> StateUpdate:
    """What ``sync_state`` calls in a run's output leave to be written, the later ones on top.

    What a model asked for is no decision before a tool has run it: its answer follows the call. So
    a call counts as far as the tool itself takes it, and one that was cut off may say anything: of
    the intent "order", half is "or".
    """
    asked: dict[str | None, Mapping[str, Any]] = {}
    update = StateUpdate()
    for message in messages_of(output):
        if isinstance(message, AIMessage):
            calls = () if cut_off(message) else message.tool_calls
            asked |= {call["id"]: call["args"] for call in calls if call["name"] == SYNC_TOOL}
        elif isinstance(message, ToolMessage):
            args = asked.pop(message.tool_call_id, None)
            if args is not None and _leaves_a_decision(message):
                update = update.updated_by(_accepted(args))
    return update


def _leaves_a_decision(answer: ToolMessage) -> bool:
    """Whether a tool took what it was asked, and left the writing to the end of the run."""
    ran = answer.status != "error" and answer.name in {None, SYNC_TOOL}
    return ran and not _is_answer(answer.artifact)


def _accepted(args: Mapping[str, Any]) -> StateUpdate:
    """The arguments, as far as the tool's own schema knows them."""
    try:
        return as_update(SyncStateArgs.model_validate(args).model_dump())
    except ValidationError:
        telemetry.count("state_rejected")
        return StateUpdate()


def as_update(decision: object) -> StateUpdate:
    """A state update from anything that has its fields; enums, dates and models become JSON.

    Fields of another type are not ours: a retrieval chain's ``context`` is a list of
    documents. A blank text decides nothing. A field that cannot be sent, or is longer than a run
    may decide on, is left out, and counted; of a context, the entries that are.
    """
    if isinstance(decision, StateUpdate):
        return bounded(decision)
    fields = {}
    for key, kind in STATE_TYPES.items():
        value = _field(decision, key)
        if isinstance(value, kind) and value != "":
            fields[key] = _sendable(key, value)
    return bounded(StateUpdate.model_validate(fields))


def _sendable(name: str, value: object) -> Any:
    """The value as JSON; of a mapping, the entries that can be sent; None where it cannot be."""
    try:
        return as_json(value)
    except ValueError:
        if not isinstance(value, Mapping):
            _leave_out(f"{name} cannot be sent as JSON")
            return None
    kept: dict[str, Any] = {}
    for key, inner in value.items():
        try:
            kept |= as_json({key: inner})
        except ValueError:
            what = f"of type {type(inner).__name__}"
            _leave_out(f"{name}.{_shown(key)} is {what}, and cannot be sent as JSON")
    return kept


def bounded(update: StateUpdate) -> StateUpdate:
    """The update without what is longer than a run may decide on: half of a name is another one."""
    changes: dict[str, Any] = {}
    for name in ("intent", "step"):
        if len(getattr(update, name) or "") > LONGEST_NAME:
            _leave_out(f"{name} is longer than {LONGEST_NAME} characters")
            changes[name] = None
    for name in ("context", "metadata"):
        if flaw := flaw_in_context(getattr(update, name)):
            _leave_out(flaw if name == "context" else f"{name}, like context: {flaw}")
            changes[name] = fitting(getattr(update, name))
    return update.model_copy(update=changes) if changes else update


def _field(decision: object, name: str) -> object:
    """A field by its own name, else by one of the API server's."""
    found = _named(decision, name)
    spellings = (spelling for spelling, meant in SPELLINGS.items() if meant == name)
    while found is None and (spelling := next(spellings, None)) is not None:
        found = _named(decision, spelling)
    return found


def _named(decision: object, name: str) -> object:
    if isinstance(decision, Mapping):
        value = decision.get(name)
    elif isinstance(decision, BaseModel) and name not in type(decision).model_fields:
        value = (decision.model_extra or {}).get(name)  # not whatever else a model class has
    else:
        value = getattr(decision, name, None)
    if isinstance(value, Enum):
        value = value.value
    return value.strip() if isinstance(value, str) else value


def _changed_keys(values: Mapping[str, Any], before: Mapping[str, Any]) -> StateUpdate:
    """What differs; of a mapping, the keys that do."""
    changed: dict[str, Any] = {}
    for key in STATE_TYPES:
        new, old = values.get(key), before.get(key)
        if isinstance(new, Mapping) and isinstance(old, Mapping):
            changed[key] = {k: v for k, v in new.items() if k not in old or v != old[k]}
        elif key in values and new != old:
            changed[key] = new
    return as_update(changed)


def _is_answer(artifact: object) -> bool:
    """Whether a tool came back with the server's answer; checkpoints make a mapping of it."""
    if isinstance(artifact, Mapping):
        return "session_id" in artifact
    return isinstance(artifact, PartialConversation)


def _metadata(message: BaseMessage) -> Mapping[str, Any]:
    metadata = {**message.additional_kwargs, **message.response_metadata}
    return {key: metadata.get(key) for key in ("intent", "step", "context")}
