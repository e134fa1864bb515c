"""The shapes of what agents take and give: of one that is of no use, what would do instead.

Told are types and names of fields, never values: those are customers' words.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage
from pydantic import BaseModel

from langchain_convsync._lines import is_name

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable

#: How many of a mapping's keys are told, and how long they may be.
MOST_KEYS, LONGEST_KEY = 8, 40
_RETURN = "return a text, {'output': text} or {'messages': […]}"
_MAPPING = "{'messages': […]}"
_OR_REPLY = "it has to be a text, or the fields of a Reply alone: texts, file, handoff, …"
_SILENCE = "; if it is to say nothing, return Reply.silent, or a text for silent_marker="
_STRUCTURED = (
    "the agent's answer is its structured_response: give its response_format a field `reply`"
)
#: What LangChain and LangGraph say where a blocking call meets what can only be awaited.
_ASYNC_ONLY = ("synchronous", "sync invocation", "does not support sync", "ainvoke")
_RAISED_FOR_IT = (TypeError, NotImplementedError, RuntimeError, asyncio.InvalidStateError)


def unusable(  # noqa: PLR0911 - one shape after the other
    output: object, messages: Sequence[BaseMessage]
) -> str:
    """Why there is no text for the customer in what an agent returned, and what would do.

    Args:
        output: What it returned.
        messages: The messages in it that are new.
    """
    if messages:
        return _without_a_last_word(output, messages[-1])
    if isinstance(output, Mapping):
        return _mapping_without_text(output)
    if output is None:
        return f"the agent returned None: {_RETURN}"
    if isinstance(output, Coroutine):
        output.close()  # never awaited, and that is said better here
        return (
            "the agent returned a coroutine: pass the async function itself, "
            "RunnableLambda(function), and use arun()"
        )
    if isinstance(output, Iterator | AsyncIterator):
        return f"the agent returned {kind_of(output)}: join what it yields into one text"
    if is_pieces(output):
        return f"the agent returned {kind_of(output)}: join it into one text"
    if isinstance(output, str):
        return f"the agent returned an empty text{_SILENCE}"
    if fields := _fields(output):
        return (
            f"the agent returned {kind_of(output)} with the fields {fields}: give it a field "
            f"`reply`, or {_RETURN}"
        )
    return f"the agent returned {kind_of(output)}: {_RETURN}"


def is_pieces(output: object) -> bool:
    """Whether an output is texts side by side: nothing tells how they would be one."""
    if isinstance(output, tuple):
        return not any(isinstance(each, BaseMessage) for each in output)
    return isinstance(output, list) and bool(output) and all(isinstance(e, str) for e in output)


def _without_a_last_word(output: object, last: BaseMessage) -> str:
    if isinstance(output, Mapping):
        if output.get("structured_response") is not None:
            return _without_reply(output["structured_response"])
        if told := _no_text_in(output):
            return told
    if not isinstance(last, AIMessage):
        name = _with_article(type(last).__name__)
        return (
            f"the agent's messages end with {name}: the last one has to be the agent's own, an "
            "AIMessage with a text"
        )
    if last.tool_calls:
        return "the agent's last message calls tools and has no text: it ended before it answered"
    return f"the agent's last message has no text for the customer{_SILENCE}"


def _mapping_without_text(output: Mapping[Any, Any]) -> str:
    if output.get("structured_response") is not None:
        return _without_reply(output["structured_response"])
    if told := _no_text_in(output):
        return told
    if said := output.get("messages"):
        some = said if isinstance(said, list | tuple) else [said]
        if not isinstance(some[0], BaseMessage):
            return (
                f"the agent's messages are of type {type(some[0]).__name__}: return LangChain's, "
                "AIMessage(text) for example"
            )
    if "messages" in output:
        return "the agent's messages hold none that is new: add its answer, AIMessage(text)"
    if not (keys := _names(output)):
        return f"the agent returned {kind_of(output)}: {_RETURN}"
    first = keys.partition(",")[0]
    return (
        f"the agent returned {kind_of(output)} with the keys {keys}: {_RETURN}, or pass what picks "
        f"the text, agent.pick({first!r}) for example"
    )


def _no_text_in(output: Mapping[Any, Any]) -> str | None:
    for name in ("output", "reply"):
        if output.get(name):
            return f"the agent's {name!r} is {_with_keys(output[name])}: {_OR_REPLY}"
    return None


def _without_reply(structured: object) -> str:
    fields = structured if isinstance(structured, Mapping) else {}
    if isinstance(reply := fields.get("reply"), Mapping):
        return f"the `reply` of the agent's structured_response is {_with_keys(reply)}: {_OR_REPLY}"
    return _STRUCTURED


def _with_keys(given: object) -> str:
    keys = _names(given) if isinstance(given, Mapping) else ""
    return f"{kind_of(given)} with the keys {keys}" if keys else kind_of(given)


def kind_of(given: object) -> str:
    """What something is: ``None``, ``an int``, ``a list of str``."""
    if given is None:
        return "None"
    kind = _with_article(type(given).__name__)
    if isinstance(given, list | tuple) and given:
        inside = dict.fromkeys(type(each).__name__ for each in given)
        return f"{kind} of {', '.join(list(inside)[:MOST_KEYS])}"
    return kind


def _with_article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _fields(output: object) -> str:
    if isinstance(output, BaseModel):
        return _names(type(output).model_fields)
    if dataclasses.is_dataclass(output):
        return _names(field.name for field in dataclasses.fields(output))
    return ""


def _names(keys: Iterable[object]) -> str:
    """Names that a program gives; a key that looks like none may be a customer's number."""
    names = [k for k in keys if isinstance(k, str) and is_name(k) and len(k) <= LONGEST_KEY]
    return ", ".join(names[:MOST_KEYS]) + (", …" if len(names) > MOST_KEYS else "")


def unfit_input(prepared: object, agent: Runnable[Any, Any]) -> str | None:
    """Why what ``prepare=`` returned is no input for an agent; None where it may be one.

    Args:
        prepared: What it returned.
        agent: The agent, without what is bound around it.
    """
    if prepared is None:
        return f"prepare= returned None: return the agent's input, for a graph {_MAPPING}"
    if _takes_state(agent) and _is_no_state(prepared):
        return f"prepare= returned {kind_of(prepared)}, and a graph takes a mapping: {_MAPPING}"
    from langchain_core.language_models import BaseLanguageModel  # who reads a store runs none
    from langchain_core.prompt_values import PromptValue

    is_model = isinstance(agent, BaseLanguageModel)
    if is_model and not isinstance(prepared, str | PromptValue | list | tuple):
        return f"prepare= returned {kind_of(prepared)}, and a chat model takes a list of messages"
    return None


def _takes_state(agent: Runnable[Any, Any]) -> bool:
    """Whether it is a graph whose state has names; not one of a single value, nor a function."""
    channels = getattr(agent, "channels", None)
    return hasattr(agent, "builder") and channels is not None and "__root__" not in channels


def _is_no_state(prepared: object) -> bool:
    if isinstance(prepared, list | tuple):  # LangGraph takes several commands
        return not any(type(each).__name__ == "Command" for each in prepared)
    return isinstance(prepared, str | bytes | int | float | BaseMessage)


def is_async_only(error: BaseException) -> bool:
    """Whether a blocking run failed since a part of the agent can only be awaited."""
    told = str(error).lower()
    return isinstance(error, _RAISED_FOR_IT) and any(words in told for words in _ASYNC_ONLY)
