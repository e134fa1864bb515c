"""What is passed as ``agent=`` and is none: each in one line that says what to pass instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import ModuleType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable
from pydantic import BaseModel

from langchain_convsync.models import Conversation, InboundEvent

_P = inspect.Parameter
_AS_RUNNABLE = (
    "one that answers is passed as RunnableLambda(function) and gets the list of messages, one "
    "that makes agents takes a Tenant"
)
#: What functions call the words that they answer, and no tenant is called.
_WORDS = frozenset(
    {"text", "texts", "message", "messages", "msg", "msgs", "state", "input", "inputs", "prompt"}
    | {"user_input", "question", "query", "history", "event", "events"}
)
#: Kinds of values that no factory takes, and none makes.
_VALUES = (str, bytes, int, float, list, tuple, Mapping, Sequence, BaseMessage)


def no_agent(given: object) -> str | None:  # noqa: PLR0911 - one mistake after the other
    """Why a value is no agent, and what to pass; None where it may be one, or a factory."""
    if given is None:
        return "is None: pass a Runnable; does the function that makes it end with `return`?"
    if isinstance(given, str):
        return (
            "is a text: pass a Runnable, as init_chat_model(…) makes one of a model's name and "
            "create_agent(…) an agent"
        )
    if isinstance(given, ModuleType):
        return _module(given)
    if isinstance(given, Coroutine):
        given.close()  # never awaited, and that is said better here
        return "is a coroutine: await it first, and pass what it makes"
    if isinstance(given, type):
        return _class(given)
    if not isinstance(given, Runnable) and hasattr(given, "compile") and hasattr(given, "add_node"):
        return f"is a {type(given).__name__} that is not compiled: pass what its compile() returns"
    return None


def no_factory(given: object) -> str | None:  # noqa: PLR0911 - one mistake after the other
    """Why a value is no function that makes agents, as far as can be seen without a call."""
    if not callable(given):
        return (
            "must be a Runnable, such as a compiled graph, or a function that makes one of a "
            f"Tenant; it is of type {type(given).__name__}"
        )
    if isinstance(getattr(given, "__self__", None), Runnable):
        return f"is the method {getattr(given, '__name__', '')} of an agent: pass the agent itself"
    if inspect.iscoroutinefunction(given):
        return f"is an async function: {_AS_RUNNABLE} and is not async"
    try:
        parameters = [*inspect.signature(given).parameters.values()]
    except (ValueError, TypeError):  # some builtins tell none
        return None
    if not parameters:
        return "is a function of nothing: pass the agent that it makes, or let it take a Tenant"
    several = (_P.VAR_POSITIONAL, _P.VAR_KEYWORD)
    needed = [p for p in parameters if p.default is _P.empty and p.kind not in several]
    if len(needed) > 1 or parameters[0].kind in (_P.KEYWORD_ONLY, _P.VAR_KEYWORD):
        names = ", ".join(p.name for p in needed or parameters)
        return f"is a function of {names}: {_AS_RUNNABLE}, and nothing else"
    return _answers(given, parameters[0])


def _answers(function: Callable[..., Any], parameter: inspect.Parameter) -> str | None:
    """Whether a function takes words, or makes them, by what it says of itself."""
    told = function if inspect.isroutine(function) else type(function).__call__
    try:
        hints = get_type_hints(told)
    except Exception:  # noqa: BLE001 - whatever an annotation refers to need not be there
        hints = {}
    takes, makes = hints.get(parameter.name), hints.get("return")
    is_named = takes in (None, Any, object) and parameter.name in _WORDS
    if is_named or _is_value(takes) or _takes_ours(takes) or _is_value(makes):
        return f"is a function of `{parameter.name}` that seems to answer: {_AS_RUNNABLE}"
    return None


def _is_value(hint: object) -> bool:
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        return all(map(_is_value, get_args(hint)))
    return isinstance(kind, type) and issubclass(kind, _VALUES)


def _takes_ours(hint: object) -> bool:
    return isinstance(hint, type) and issubclass(hint, InboundEvent | Conversation)


def _module(module: ModuleType) -> str:
    name = module.__name__
    has = [each for each, value in vars(module).items() if isinstance(value, Runnable)]
    example = f", {name}.{has[0]}" if has else ""
    return f"is the module {name}: pass the agent that it defines{example}"


def _class(given: type) -> str | None:
    """A class is a factory where its objects are agents that are made of one argument."""
    if issubclass(given, Runnable) and not issubclass(given, BaseModel):
        return None
    name = given.__name__
    also = ", compiled" if hasattr(given, "compile") and hasattr(given, "add_node") else ""
    return f"is the class {name}: pass an object of it{also}, {name}(…)"
