"""What tools return, as text that a store keeps: messages and commands, made of plain JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langgraph.types import Command, Send

from langchain_convsync._platform import unique
from langchain_convsync.errors import InvalidEventError
from langchain_convsync.surfaces import results

#: Bytes that are kept of one result at most.
LARGEST_RESULT = 256 * 1024
#: Kept instead of a result that cannot be kept: the tool has run, and what it returned is gone.
NOT_KEPT = ""


class Kept(NamedTuple):
    """A result as it is kept, and what of it is not."""

    text: str
    missing: Literal["", "artifact", "result"] = ""


def kept(result: Any, tool_call_id: str | None) -> Kept:
    """What can be kept of a tool's result.

    What tells of the call itself comes back as it was, to a thread that may hold it already. Its
    messages get ids here, which the thread knows again.
    """
    if _tells_of(tool_call_id, result):
        for message in _messages(result):
            message.id = message.id or unique()
    if (text := _written(result, tool_call_id)) is not None:
        return Kept(text)
    if isinstance(result, ToolMessage) and result.artifact is not None:
        without = result.model_copy(update={"artifact": None})
        if (text := _written(without, tool_call_id)) is not None:
            return Kept(text, "artifact")
    return Kept(NOT_KEPT, "result")


def restored(text: str, tool_call_id: str | None) -> Any:
    """The result, as the answer to another call of the model; None where it cannot be read."""
    try:
        found = results.decode(text)
        return _answering(_restored(found["result"]), found["call"], tool_call_id)
    except Exception:  # noqa: BLE001 - whatever stands there, the tool must not run again for it
        return None


def _written(result: Any, tool_call_id: str | None) -> str | None:
    try:
        text = results.encode({"call": tool_call_id, "result": _plain(result)})
    except (InvalidEventError, TypeError, ValueError):  # a damaged message's, too
        return None
    is_readable = restored(text, tool_call_id) is not None
    return text if is_readable and len(text) <= LARGEST_RESULT else None


def _plain(result: Any) -> Any:
    match result:
        case ToolMessage():
            return result
        case Command(resume=None):
            goto, update = result.goto, result.update
            if not isinstance(update, Mapping | list | tuple | None):
                raise TypeError(type(update).__name__)
            return {
                "graph": result.graph,
                "update": update,
                "goto": [_plain_goto(each) for each in goto]
                if isinstance(goto, list | tuple)
                else _plain_goto(goto),
            }
        case list():
            return [_plain(each) for each in result]
    raise TypeError(type(result).__name__)


def _plain_goto(goto: Any) -> Any:
    return {"node": goto.node, "arg": goto.arg} if isinstance(goto, Send) else goto


def _restored(found: Any) -> Any:
    if isinstance(found, ToolMessage):
        return found
    if isinstance(found, list):
        return [_restored(each) for each in found]
    goto, update = found["goto"], found["update"]
    if isinstance(update, list):  # pairs, which LangGraph tells from other lists by their type
        update = [tuple(each) for each in update]
    is_parent = found["graph"] == Command.PARENT  # which LangGraph knows by its identity
    return Command(
        graph=Command.PARENT if is_parent else found["graph"],
        update=update,
        goto=[_restored_goto(each) for each in goto] or ()
        if isinstance(goto, list)
        else _restored_goto(goto),
    )


def _restored_goto(goto: Any) -> Any:
    return Send(goto["node"], goto["arg"]) if isinstance(goto, dict) else goto


def _answering(result: Any, was: str | None, tool_call_id: str | None) -> Any:
    """The result with the model's new id of the call, unless it tells of the old call itself."""
    if _tells_of(was, result):
        return result

    def renamed(value: Any) -> Any:
        if isinstance(value, ToolMessage) and value.tool_call_id == was:
            return value.model_copy(update={"tool_call_id": tool_call_id, "id": None})
        if isinstance(value, Command):
            return Command(graph=value.graph, update=renamed(value.update), goto=value.goto)
        if isinstance(value, dict):
            return {key: renamed(item) for key, item in value.items()}
        if type(value) in {list, tuple}:
            return type(value)(renamed(item) for item in value)
        return value

    return renamed(result)


def _tells_of(tool_call_id: str | None, result: Any) -> bool:
    """Whether a result holds the model's message that asked for it."""
    asking = (message for message in _messages(result) if isinstance(message, AIMessage))
    return any(call["id"] == tool_call_id for message in asking for call in message.tool_calls)


def _messages(value: Any) -> Iterator[BaseMessage]:
    """Every message in a result."""
    if isinstance(value, BaseMessage):
        yield value
    elif isinstance(value, Command):
        yield from _messages(value.update)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _messages(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _messages(item)
