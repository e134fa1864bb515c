"""What a log may say of an error: class and place in the user's code, and nobody's words."""

from __future__ import annotations

import asyncio
import functools
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from langchain_convsync import ConvSyncClient, phone
from langchain_convsync.errors import (
    ConfigurationError,
    InvalidPhoneNumberError,
    is_ours,
    loggable,
    raised_at,
    raised_by,
)

WORDS = "canary-words +51944333222"
PAY = f'''
def pay():
    raise ValueError("{WORDS}")

def wrapped():
    try:
        pay()
    except ValueError as error:
        raise RuntimeError("{WORDS}") from error

def calls(function):
    function()

async def apay():
    pay()

async def in_parallel():
    import asyncio
    async with asyncio.TaskGroup() as group:
        group.create_task(apay())
'''


def module(path: str | Path, source: str = PAY, **names: Any) -> dict[str, Any]:
    """A module as if it stood in this file."""
    names = {"__name__": "module", "__file__": str(path), **names}
    exec(compile(source, str(path), "exec"), names)
    return names


def raised(function: Callable[[], object]) -> BaseException:
    """What a function raises."""
    try:
        function()
    except BaseException as error:  # noqa: BLE001 - groups too
        return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    raise AssertionError


ANA, ANA_ON_MACOS = (f"/{folder}/ana" for folder in ("home", "Users"))
LIBRARY = Path(sysconfig.get_path("purelib"), "shop", "api.py")
PYTHON = Path(sysconfig.get_path("stdlib"), "shop.py")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/srv/deploy/my_bot/agent.py", "my_bot/agent.py:3 in pay"),
        ("my_bot/agent.py", "my_bot/agent.py:3 in pay"),
        ("agent.py", "agent.py:3 in pay"),
        ("/agent.py", "agent.py:3 in pay"),
        (f"{ANA}/my_bot/agent.py", "my_bot/agent.py:3 in pay"),
        (f"{ANA}/agent.py", "agent.py:3 in pay"),
        (f"{ANA_ON_MACOS}/agent.py", "agent.py:3 in pay"),
        (str(Path.home() / "agent.py"), "agent.py:3 in pay"),
        ("/srv/ipykernel_7/381.py", "ipykernel_7/381.py:3 in pay"),
    ],
)
def test_a_place_is_the_file_with_its_folder_and_the_line(path: str, told: str) -> None:
    """And never the folder of a person."""
    error = raised(module(path)["pay"])

    assert raised_at(error) == told
    assert loggable(error) == f"ValueError at {told}"


@pytest.mark.parametrize(
    "name", ["<ipython-input-3-0f>", "<stdin>", "<string>", "<python-input-1>"]
)
def test_what_is_typed_is_the_users_code(name: str) -> None:
    """Cells of notebooks and lines of a prompt stand in no file."""
    names = {"__name__": "__main__"}
    exec(compile(PAY, name, "exec"), names)

    pay: Any = names["pay"]
    assert raised_at(raised(pay)) == f"{name}:3 in pay"


def test_the_innermost_place_of_the_users_is_told_whatever_it_called() -> None:
    """A library that raises was called with something, and there one looks first."""
    library, user = module(LIBRARY), module("/srv/my_bot/agent.py")

    error = raised(lambda: user["calls"](library["pay"]))

    assert raised_at(error) == "my_bot/agent.py:12 in calls"


def test_a_package_whose_name_begins_like_ours_is_the_users() -> None:
    """It may well stand beside ours."""
    user = module("/srv/my_bot/agent.py")
    beside = module(f"{Path(phone.__file__).parent}_bot/agent.py")

    error = raised(lambda: user["calls"](beside["pay"]))

    assert raised_at(error) == "langchain_convsync_bot/agent.py:3 in pay"


@pytest.mark.parametrize("inner", [PYTHON, Path(phone.__file__)])
def test_where_no_code_of_the_users_ran_the_library_is_told(inner: Path) -> None:
    """Rather than Python's own, or ours."""
    library = module(LIBRARY)

    error = raised(lambda: library["calls"](module(inner)["pay"]))
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # this test's frame

    assert raised_at(error) == "shop/api.py:12 in calls"


def test_a_cause_is_followed_to_the_users_code() -> None:
    """Libraries wrap what they meet; the class that was caught is told too."""
    error = raised(module("/srv/my_bot/agent.py")["wrapped"])

    assert loggable(error) == "RuntimeError, caused by ValueError, at my_bot/agent.py:3 in pay"


def test_of_a_group_the_first_error_is_told() -> None:
    """As ``asyncio.TaskGroup`` and parallel nodes of a graph raise them."""
    in_parallel = module("/srv/my_bot/agent.py")["in_parallel"]

    error = raised(lambda: asyncio.run(in_parallel()))

    assert isinstance(error, ExceptionGroup)
    assert loggable(error) == "ValueError at my_bot/agent.py:3 in pay"
    outer = ExceptionGroup("two", [ExceptionGroup("one", [error, KeyError(WORDS)])])
    assert loggable(outer) == loggable(error)


def test_an_error_that_is_its_own_cause_is_told_once() -> None:
    """Python allows it, and so do libraries that raise an error again."""
    error = raised(module("/srv/my_bot/agent.py")["pay"])
    error.__cause__ = RuntimeError()
    error.__cause__.__cause__ = error

    assert loggable(error).startswith("ValueError, caused by RuntimeError, at my_bot/agent.py:3")


def test_an_error_that_was_not_raised_has_no_place() -> None:
    """One that a library made and never raised."""
    assert loggable(ValueError(WORDS)) == "ValueError at an unknown place"


def test_one_of_ours_says_itself() -> None:
    """Its text holds nobody's words; where the user's code led to it, that place is told too."""
    error = raised(functools.partial(phone.normalize, "abc"))
    source = 'def pay():\n    normalize("abc")'
    user = module("/srv/my_bot/agent.py", source, normalize=phone.normalize)

    called = raised(user["pay"])

    assert loggable(error) == f"InvalidPhoneNumberError: {error}"
    assert loggable(called) == f"InvalidPhoneNumberError at my_bot/agent.py:2 in pay: {called}"


def test_one_of_ours_that_tells_the_place_tells_it_once() -> None:
    """As that of a callable ``api_key=`` does."""
    pay = module("/srv/my_bot/agent.py")["pay"]
    client = ConvSyncClient("http://127.0.0.1:9", api_key=pay)

    error = raised(functools.partial(client.get_conversation, "+51999999999"))

    assert loggable(error).count("my_bot/agent.py:3 in pay") == 1
    assert "the callable api_key= raised ValueError at my_bot/agent.py:3" in loggable(error)
    assert WORDS not in loggable(error)
    client.close()


def test_one_of_ours_that_a_user_raises_does_not() -> None:
    """Whatever its class, its text is the user's."""
    source = f"def pay():\n    raise error({WORDS!r})"
    user = module("/srv/my_bot/agent.py", source, error=InvalidPhoneNumberError)

    error = raised(user["pay"])

    assert not is_ours(error)
    assert loggable(error) == "InvalidPhoneNumberError at my_bot/agent.py:2 in pay"


def test_the_argument_whose_function_raised_is_told() -> None:
    """Once, however often it is raised again."""
    pay = module("/srv/my_bot/agent.py")["pay"]

    def prepared() -> None:
        with raised_by("prepare="), raised_by("prepare="):
            pay()

    error = raised(prepared)

    assert loggable(error) == "ValueError of prepare= at my_bot/agent.py:3 in pay"
    assert error.__notes__ == ["raised by the function of prepare="]


@contextmanager
def deep(frames: int) -> Iterator[None]:
    """More recursion than usual."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(frames)
    yield
    sys.setrecursionlimit(before)


def test_an_endless_recursion_is_told_like_any_other() -> None:
    """Its traceback has thousands of places."""
    user = module("/srv/my_bot/agent.py", "def pay():\n    return pay()")

    with deep(5000):
        assert loggable(raised(user["pay"])) == "RecursionError at my_bot/agent.py:2 in pay"


def test_a_configuration_error_is_raised_by_our_own_code() -> None:
    """Else it would be told without its text."""
    from langchain_convsync import TurnRunner

    error = raised(lambda: TurnRunner("openai:gpt-4o"))  # type: ignore[arg-type]  # a mistake

    assert isinstance(error, ConfigurationError)
    assert is_ours(error)
