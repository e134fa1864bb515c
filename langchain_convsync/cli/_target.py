"""What ``MODULE:RUNNER`` names, in each spelling that people try."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

import typer

from langchain_convsync.errors import ConfigurationError, ConvSyncError

if TYPE_CHECKING:
    from langchain_convsync.turns import TurnRunner

#: Where code lies that imports the user's, rather than being it.
_NOT_THEIRS = (str(Path(__file__).parents[1]), "<frozen importlib")


async def load(target: str, opened: AsyncExitStack) -> TurnRunner:
    """The runner that ``MODULE:RUNNER`` names, or that a function makes on this event loop.

    Args:
        target: A module, or its file, and what it calls the runner, an app with one, or a function
            without arguments that makes one: plain, async, or an async context manager. Without a
            name, the only runner of the module.
        opened: Leaves such a context manager in the end.

    Raises:
        ConfigurationError: It names none, or one that cannot send its replies.
    """
    module_name, attribute = _split(target)
    module = _imported(module_name, target)
    found = _named(module, attribute, target) if attribute else _only_one(module, target)
    if not (runners := [*_runners_in(found)]) and callable(found) and not hasattr(found, "routes"):
        found = await _made(found, target, opened)
        runners = [*_runners_in(found)]
    if not runners:
        kind = type(found).__name__
        message = (
            f"{target} is a {kind}, not a TurnRunner, nor an app of create_app(), nor a function "
            f"that makes one{_advice(module)}"
        )
        raise ConfigurationError(message)
    if len(runners) > 1:
        message = f"{target} has {len(runners)} runners, and a worker is one's: name that itself"
        raise ConfigurationError(message)
    [runner] = runners
    if runner.is_record_only:
        message = f"{target} only records (record_only=True): name a runner that answers"
        raise ConfigurationError(message)
    if not runner.sends_replies:
        message = f"{target} cannot send replies: give it reply=WAHAReply(…) or on_reply=…"
        raise ConfigurationError(message)
    return runner


def _split(target: str) -> tuple[str, str]:
    """The module, or its file, and the name in it."""
    module, colon, attribute = target.rpartition(":")
    if not colon or "/" in attribute or "\\" in attribute:  # C:\bot.py has no name
        module, attribute = target, ""
    if not module or (module.startswith(".") and not {"/", "\\"} & {*module}):
        message = f"{target!r} is not a MODULE:RUNNER, e.g. my_bot.agent:runner"
        raise ConfigurationError(message)
    return module, attribute


def _imported(name: str, target: str) -> ModuleType:
    """The user's module; its own errors are shown as Python shows them."""
    here = Path.cwd()
    if name.endswith(".py") or "/" in name or "\\" in name:
        folder, name = _module_of(Path(name), target)
        _look_in(folder)
    if not {"", str(here)} & set(sys.path):
        _look_in(here)  # as `python -m` does
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            message = f"there is no module {name!r} here: {_meant(name)}"
            raise ConfigurationError(message) from error
        _show(error)
    except ConvSyncError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the user's module raises
        _show(error)
    raise typer.Exit(1)


def _meant(name: str) -> str:
    """What to do about a module that is not here: its last part may be a name in another one."""
    module, _, attribute = name.rpartition(".")
    file = Path(*module.split("."))
    if module and (file.with_suffix(".py").is_file() or (file / "__init__.py").is_file()):
        return f"did you mean {module}:{attribute}?"
    return "run this in the folder that holds it"


def _module_of(file: Path, target: str) -> tuple[Path, str]:
    """The folder to look in for a file's module, and the module's name."""
    if file.is_dir() and (file / "__init__.py").is_file():
        file /= "__init__.py"
    if not file.is_file():
        meant = _meant(".".join(file.parts)) if file.suffix != ".py" else ""
        message = f"there is no file {str(file)!r} here, as {target!r} says"
        message += f": {meant}" if meant else ""
        raise ConfigurationError(message)
    file = file.resolve()
    names = [] if file.stem == "__init__" else [file.stem]
    folder = file.parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(names)


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _show(error: BaseException) -> None:
    """An error of the user's code, without the frames that led to it."""
    frames: TracebackType | None = error.__traceback__
    while frames and frames.tb_frame.f_code.co_filename.startswith(_NOT_THEIRS):
        frames = frames.tb_next
    traceback.print_exception(type(error), error.with_traceback(frames), frames)


def _named(module: ModuleType, attribute: str, target: str) -> Any:
    try:
        return attrgetter(attribute)(module)
    except AttributeError as error:
        message = f"the module {module.__name__!r} has no {attribute!r}{_advice(module)}"
        raise ConfigurationError(message) from error


def _only_one(module: ModuleType, target: str) -> Any:
    """The only runner of a module, or the only app with one."""
    found = _named_runners(module)
    if len({id(runner) for runner in found.values()}) == 1:
        return next(iter(found.values()))
    advice = _advice(module) or f": name a function that makes one, e.g. {target}:make_runner"
    message = f"{target} names a module with {len(found) or 'no'} TurnRunner{'s' * bool(found)}"
    raise ConfigurationError(message + advice)


def _named_runners(module: ModuleType) -> dict[str, TurnRunner]:
    """The names of a module that lead to one runner each."""
    names = {name: [*_runners_in(value)] for name, value in vars(module).items()}
    return {name: found[0] for name, found in names.items() if len(found) == 1}


def _advice(module: ModuleType) -> str:
    names = [f"{module.__name__}:{name}" for name in _named_runners(module)]
    return f": name {' or '.join(names[:5])}" if names else ""


def _runners_in(found: object) -> Iterator[TurnRunner]:
    """The runner itself, or those whose webhooks an app serves."""
    from langchain_convsync.turns import TurnRunner  # LangChain takes a while to import

    if isinstance(found, TurnRunner):
        yield found
        return
    seen = set[int]()
    left = [found] if isinstance(getattr(found, "routes", None), list) else []
    while left:
        part = left.pop()
        runner = getattr(getattr(getattr(part, "endpoint", None), "__self__", None), "runner", None)
        if isinstance(runner, TurnRunner) and id(runner) not in seen:
            seen.add(id(runner))
            yield runner
        left += getattr(part, "routes", None) or ()  # of an app, a router, or what is mounted
        if (included := getattr(part, "original_router", None)) is not None:  # FastAPI keeps it
            left.append(included)


async def _made(maker: Callable[..., Any], target: str, opened: AsyncExitStack) -> object:
    """What a function without arguments makes.

    Raises:
        ConfigurationError: It is another function: one that wants arguments makes no runner, and
            is not called to find out.
    """
    if not _needs_nothing(maker):
        message = f"{target} is not a TurnRunner, nor a function that makes one without arguments"
        raise ConfigurationError(message)
    try:
        made = maker()
        if inspect.isawaitable(made):
            made = await made
        if isinstance(made, AbstractAsyncContextManager) and not [*_runners_in(made)]:
            made = await opened.enter_async_context(made)
    except ConvSyncError:
        raise
    except Exception as error:  # whatever the user's function raises
        _show(error)
        raise typer.Exit(1) from error
    return made


def _needs_nothing(maker: Callable[..., object]) -> bool:
    if inspect.isbuiltin(maker):  # sys:exit, say: they make no runner
        return False
    try:
        inspect.signature(maker).bind()
    except (TypeError, ValueError):
        return False
    return True
