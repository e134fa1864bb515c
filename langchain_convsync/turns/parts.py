"""What an agent is made of, as far as it shows: parts that can only be awaited, or only block.

LangChain takes both kinds of everything, and says which of them is missing when it is called: in
the middle of a customer's turn. What is looked for here are the usual ones: tools of MCP servers,
nodes and hooks that are coroutine functions, checkpointers of one kind.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

from langchain_convsync.errors import ConfigurationError

#: Objects that are looked at; an agent of a hundred tools has a tenth of them.
_MOST = 20_000
#: Hooks of a middleware that LangChain calls by their own kind, or not at all.
_WRAPPERS = ("wrap_model_call", "wrap_tool_call")
_HOOKS = ("before_agent", "before_model", "after_model", "after_agent")


@dataclass(frozen=True, slots=True)
class Parts:
    """The names of an agent's parts that are of one kind only."""

    awaited: tuple[str, ...] = ()
    blocking: tuple[str, ...] = ()

    def require_one_kind(self) -> None:
        """Refuse what can be called in no way.

        Raises:
            ConfigurationError: Some parts can only be awaited, and others only block.
        """
        if self.awaited and self.blocking:
            message = (
                f"{_listed(self.awaited)} can only be awaited, and {_listed(self.blocking)} can "
                "only block: no call serves both. Take what has both kinds, such as "
                "AsyncPostgresSaver for PostgresSaver, or awrap_model_call beside wrap_model_call"
            )
            raise ConfigurationError(message)

    def require_blocking(self) -> None:
        """Refuse what a blocking call would fail in.

        Raises:
            ConfigurationError: Some parts can only be awaited.
        """
        self.require_one_kind()
        require_no_awaited(self.awaited)


def require_no_awaited(names: Sequence[str]) -> None:
    """Refuse to block where something can only be awaited.

    Raises:
        ConfigurationError: There is such a thing.
    """
    if names:
        message = (
            f"{_listed(names)} can only be awaited, and this call blocks: use `async with runner` "
            "and arun(), create_app() or `convsync worker`, which await"
        )
        raise ConfigurationError(message)


def parts_of(agent: object) -> Parts:
    """The parts of an agent that are of one kind only."""
    awaited, blocking = dict[str, None](), dict[str, None]()
    left, seen = [agent], dict[int, object]()
    while left and len(seen) < _MOST:
        part = left.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part  # kept alive for its id
        kind, name = _kind(part)
        if kind:
            (awaited if kind == "awaited" else blocking)[name] = None
        left += _inside(part)
    return Parts(tuple(awaited), tuple(blocking))


def _kind(part: Any) -> tuple[str, str]:
    """Which kind alone a part is of, if of one, and what to call it."""
    for module, name, look in _LOOKS:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(part, kind):
            return look(part)
    return "", ""


def _tool(part: Any) -> tuple[str, str]:
    if hasattr(part, "func"):  # structured answers are tools of no function at all
        waits = part.func is None and getattr(part, "coroutine", None) is not None
    else:
        waits = _is_refusal(type(part)._run)  # noqa: SLF001 - what its author wrote
    return _of_pair(not waits, True, f"the tool {part.name!r}")


def _function(part: Any) -> tuple[str, str]:
    return _of_pair(hasattr(part, "func"), True, f"the function {part.get_name()!r}")


def _node(part: Any) -> tuple[str, str]:
    if isinstance(part.afunc, MethodType) and not isinstance(part.afunc.__self__, Runnable):
        return "", ""  # a hook, which its middleware tells about
    return _of_pair(part.func is not None, True, f"the node {part.get_name()!r}")


def _saver(part: Any) -> tuple[str, str]:
    named = f"the checkpointer {type(part).__name__}"
    return _of_pair(_serves_threads(part), not _is_refusal(type(part).aget_tuple), named)


def _remote(part: Any) -> tuple[str, str]:
    named = f"the RemoteGraph {part.assistant_id!r}"
    return _of_pair(part.sync_client is not None, part.client is not None, named)


def _of_pair(blocks: bool, waits: bool, name: str) -> tuple[str, str]:
    if blocks == waits:
        return "", ""
    return "blocking" if blocks else "awaited", name


def _middleware(part: Any) -> tuple[str, str]:
    """A middleware whose hooks are of one kind; LangChain takes plain ones of most for both."""
    kind, base = type(part), sys.modules["langchain.agents.middleware.types"].AgentMiddleware

    def has(hook: str) -> bool:
        return getattr(kind, hook) is not getattr(base, hook)

    for hook in (*_WRAPPERS, *_HOOKS):
        name = f"the middleware {kind.__name__}"
        if has(f"a{hook}") and not has(hook):
            return "awaited", name
        if hook in _WRAPPERS and has(hook) and not has(f"a{hook}"):
            return "blocking", name
    return "", ""


def _tool_blocks(tool: Any) -> bool:
    if hasattr(tool, "func"):
        return tool.func is not None
    return not _is_refusal(type(tool)._run)  # noqa: SLF001 - what its author wrote


#: What looks at which class; nothing is loaded to find out, and what is not loaded has no objects.
_LOOKS: tuple[tuple[str, str, Callable[[Any], tuple[str, str]]], ...] = (
    ("langchain_core.tools", "BaseTool", _tool),
    ("langchain_core.runnables", "RunnableLambda", _function),
    ("langgraph._internal._runnable", "RunnableCallable", _node),
    ("langchain.agents.middleware.types", "AgentMiddleware", _middleware),
    ("langgraph.checkpoint.base", "BaseCheckpointSaver", _saver),
    ("langgraph.pregel.remote", "RemoteGraph", _remote),
)


def _serves_threads(saver: Any) -> bool:
    """Whether a checkpointer may be called blocking; an async one does that by its running loop."""
    loop = getattr(saver, "loop", None)
    if not isinstance(loop, asyncio.AbstractEventLoop):
        return True
    return loop.is_running() and loop is not asyncio._get_running_loop()  # noqa: SLF001


def _is_refusal(method: Any) -> bool:
    """Whether a method does nothing but raise ``NotImplementedError``."""
    names = getattr(getattr(method, "__code__", None), "co_names", ())
    return "NotImplementedError" in names and not any(name.islower() for name in names)


def _inside(part: Any) -> Iterator[object]:
    """What a part is made of; what is inside of users' own functions and tools is theirs."""
    if isinstance(part, Mapping):
        yield from part.values()
    elif isinstance(part, list | tuple | set | frozenset):
        yield from part
    elif isinstance(part, partial):
        yield from (part.func, *part.args, *part.keywords.values())
    elif isinstance(part, MethodType):
        yield part.__self__
        yield part.__func__
    elif isinstance(part, FunctionType):
        if _is_theirs(part.__module__):
            yield from _closed_over(part)
    elif isinstance(part, BaseTool | BaseLanguageModel):
        return
    elif isinstance(part, Runnable) or _is_theirs(type(part).__module__):
        yield from getattr(part, "__dict__", {}).values()


def _closed_over(function: FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue


def _is_theirs(module: object) -> bool:
    """Whether LangChain put something together, rather than its user."""
    return str(module).partition(".")[0] in {"langchain", "langgraph", "langsmith"}


def _listed(names: Sequence[str]) -> str:
    shown = names if len(names) <= 3 else (*names[:3], f"{len(names) - 3} more")
    return ", ".join(shown)
