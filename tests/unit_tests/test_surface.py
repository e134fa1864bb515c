"""The exported surface: complete, typed, and loadable without any extra."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Set as AbstractSet
from importlib import import_module
from pathlib import Path

import pytest
from fastapi import FastAPI
from langchain_core.runnables import RunnableLambda

import langchain_convsync
from langchain_convsync import (
    ConvSyncClient,
    SQLiteEventStore,
    TurnRunner,
    errors,
)

ROOT = Path(__file__).parents[2]

#: Top-level modules that each extra brings, and that a bare install may lack.
EXTRAS = {
    "openai": {"langchain_openai", "openai", "tiktoken"},
    "agents": {"langchain", "langgraph"},
    "server": {"fastapi", "starlette", "uvicorn", "sqlalchemy"},
    "cli": {"typer", "click", "rich"},
    "aiohttp": {"aiohttp"},
    "otel": {"opentelemetry"},
}
EVERY_EXTRA = set().union(*EXTRAS.values())

#: Dependencies that take longer to import than all of ours together.
SLOW = {"aiohttp", "langchain_core", "langsmith", "requests", "redis", "phonenumbers"}


def declared() -> dict[str, str]:
    """Each name that type checkers see in `__init__`, and the module it comes from."""
    source = Path(langchain_convsync.__file__).read_text(encoding="utf-8")
    return {
        alias.asname or alias.name: node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("langchain_convsync")
        for alias in node.names
        if node.module and not node.module.startswith("langchain_convsync._")
    }


def python(code: str, *, absent: AbstractSet[str] = frozenset()) -> str:
    """What a fresh interpreter prints, in which the modules `absent` are not installed."""
    install = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(absent)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
    command = [sys.executable, "-I", "-c", install + code]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_is_what_type_checkers_and_dir_see() -> None:
    """Editors, type checkers and `import *` offer the same names."""
    exported = {name for name in langchain_convsync.__all__ if name != "__version__"}

    assert exported == set(declared())
    assert exported == {name for name in dir(langchain_convsync) if not name.startswith("_")}


@pytest.mark.parametrize("name", sorted(declared()))
def test_a_name_is_at_run_time_what_type_checkers_say(name: str) -> None:
    """The lazy loader and the typed imports name the same object."""
    home = import_module(declared()[name])

    assert getattr(langchain_convsync, name) is getattr(home, name)


def test_every_error_of_the_tree_is_exported() -> None:
    """What can be raised can be caught by its public name."""
    tree = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.ConvSyncError)
    }

    assert tree <= set(langchain_convsync.__all__)


def test_a_misspelt_name_is_an_attribute_error() -> None:
    """The lazy loader answers as any module does."""
    with pytest.raises(AttributeError, match="ConvSyncErorr"):
        _ = langchain_convsync.ConvSyncErorr  # type: ignore[attr-defined]  # misspelt on purpose


def test_the_extras_are_the_declared_ones() -> None:
    """The table above keeps up with `pyproject.toml`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert {*EXTRAS, "all"} == set(project["optional-dependencies"])


def test_importing_the_package_loads_no_extra() -> None:
    """An installed extra costs nothing until it is used."""
    loaded = python("import json, sys, langchain_convsync; print(json.dumps([*sys.modules]))")

    assert {name.partition(".")[0] for name in json.loads(loaded)} & EVERY_EXTRA == set()


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        ("AsyncConvSyncClient, ConvSyncClient, SQLiteEventStore", set()),
        ("AsyncWAHAClient, WAHAClient", set()),
        ("TurnRunner, WAHAReply, aonce, create_app, once", set()),
        ("RedisEventStore", {"redis"}),
    ],
)
def test_a_name_loads_no_dependency_that_it_can_do_without(names: str, needed: set[str]) -> None:
    """Who has no agent yet, or none at all, does not wait for LangChain, nor for another store."""
    code = f"from langchain_convsync import {names}; import json, sys"

    loaded = json.loads(python(f"{code}; print(json.dumps([*sys.modules]))"))

    assert {name.partition(".")[0] for name in loaded} & SLOW == needed


#: What their instances are made of; `turns.engine` stands for a whole turn, `_api` for a request.
MADE_OF = {
    *("httpcore", "sqlite3", "langchain_core", "langchain_convsync.models"),
    *("langchain_convsync.client._api", "langchain_convsync.client._waha"),
    *("langchain_convsync.outbox", "langchain_convsync.turns.engine", "langchain_convsync.waha"),
}


def test_the_main_names_load_nothing_that_their_instances_are_made_of() -> None:
    """A process that only might answer has them for little more than httpx and redis."""
    code = """import httpx, json, redis, sys; known = {*sys.modules}
from langchain_convsync import TurnRunner, RedisEventStore, ConvSyncClient
print(json.dumps([*{*sys.modules} - known]))"""

    assert MADE_OF & set(json.loads(python(code))) == set()


def new_runner() -> TurnRunner:
    client, store = ConvSyncClient("http://localhost"), SQLiteEventStore(":memory:")
    return TurnRunner(RunnableLambda(str), client=client, store=store)


def test_a_runners_call_can_be_the_route_of_an_app() -> None:
    """FastAPI finds the event in the request's body, although the name loads little."""
    app = FastAPI()

    app.post("/events", response_model=None)(new_runner().aaccept)

    route = app.openapi()["paths"]["/events"]["post"]
    body = route["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/InboundEvent"}


def test_every_exported_name_works_on_a_bare_install() -> None:
    """`pip install langchain-convsync`, without extras, is enough for the whole top level."""
    code = "import langchain_convsync as c; print(*(n for n in c.__all__ if getattr(c, n) is None))"

    assert python(code, absent=EVERY_EXTRA).split() == []


@pytest.mark.parametrize(
    ("code", "unneeded"),
    [
        ("import langchain_convsync.workbench.bot", {"fastapi", "sqlalchemy", "jwt"}),
        ("import langchain_convsync.workbench.page", {"sqlalchemy", "jwt", "langsmith"}),
        ("import langchain_convsync.workbench.world", {"langsmith"}),
        ("from langchain_convsync.cli import command_line; command_line()", {"langsmith"}),
    ],
)
def test_nobody_waits_for_what_another_process_needs(code: str, unneeded: set[str]) -> None:
    """A bot answers sooner without a server's parts, and a command without those of tracing."""
    loaded = python(f"{code}\nimport json, sys; print(json.dumps([*sys.modules]))")

    assert unneeded & {*json.loads(loaded)} == set()


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ("agents", "from langchain_convsync.middleware import ConvSyncMiddleware"),
        (
            "server",
            (
                "from langchain_convsync import *; "
                "client = ConvSyncClient('https://api.example'); "
                "runner = TurnRunner(print, on_reply=print, client=client, store=':memory:'); "
                "create_app(runner, waha_secrets='x')"
            ),
        ),
        ("server", "from langchain_convsync.testing import ReferenceServer; ReferenceServer()"),
    ],
)
def test_a_missing_extra_names_the_pip_command(extra: str, code: str) -> None:
    """The error of a missing dependency is the command that brings it."""
    told = python(
        f"try: {code}\nexcept ImportError as error: print(error)",
        absent=EXTRAS[extra],
    )

    assert "pip install" in told
    assert f"langchain-convsync[{extra}]" in told


def checked_by(checker: str, source: str, folder: Path) -> str:
    """What a type checker says about a user's file."""
    (folder / "user.py").write_text(source, encoding="utf-8")
    # Only our own annotations are read; following all of LangChain would take a minute.
    (folder / "mypy.ini").write_text(
        "[mypy]\nstrict = true\nfollow_imports = skip\n"
        "[mypy-langchain_convsync.*]\nfollow_imports = silent\n",
        encoding="utf-8",
    )
    command = {
        "mypy": ["mypy", "--config-file", "mypy.ini", "user.py"],
        "pyright": ["pyright", "--pythonpath", sys.executable, "user.py"],
    }[checker]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, check=False, capture_output=True, text=True
    )
    return done.stdout + done.stderr


USER = """\
import langchain_convsync as c
from langchain_convsync import APIError

reveal_type(APIError('x').retry_after)
"""


@pytest.mark.parametrize("checker", ["mypy", pytest.param("pyright", marks=pytest.mark.slow)])
def test_a_lazy_name_is_to_a_type_checker_what_it_is(checker: str, tmp_path: Path) -> None:
    """The class itself and never an `Any`; a misspelt one is the only error."""
    names = sorted({*declared()} - {"waha"})
    shown = "".join(f"reveal_type(c.{name})\n" for name in names)

    said = checked_by(
        checker, f"{USER}{shown}from langchain_convsync import ConvSyncErorr\n", tmp_path
    )

    assert "ConvSyncErorr" in said
    assert "1 error" in said
    attribute, *told = [
        line for line in said.splitlines() if re.search("Revealed type|Type of", line)
    ]
    assert "float | None" in attribute
    assert len(told) == len(names)
    untyped = re.compile(r'is "(builtins\.)?(Any|Unknown|object|Module.*)"$')
    assert [line for line in told if untyped.search(line)] == []
