"""What can be told of a notebook without running it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import langchain_convsync
from langchain_convsync import testing
from tests.notebooks import NOTEBOOKS, read, text_of

PUBLIC = {
    "langchain_convsync": set(langchain_convsync.__all__),
    "langchain_convsync.middleware": {"ConvSyncMiddleware", "OnceToolsMiddleware"},
    "langchain_convsync.testing": set(testing.__all__),
}
#: What changes from run to run, or from machine to machine.
PASSING = re.compile(
    r"0x[0-9a-f]{6,}|127\.0\.0\.1|localhost:\d|\d\d:\d\d:\d\d|\b20\d\d-\d\d-\d\d\b|[0-9a-f]{12,}"
)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(path: Path) -> list[str]:
    """The Python of each code cell; a file that a cell writes is Python, too."""
    sources = [cell.source for cell in read(path).cells if cell.cell_type == "code"]
    return [source.removeprefix("%%writefile dies.py\n") for source in sources]


def foreign(source: str) -> Iterator[str]:
    """What a reader of the documentation could not import or call."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
                yield from (name for name in modules if _is_ours(name))
            case ast.ImportFrom(module=module, names=names) if module and _is_ours(module):
                given = PUBLIC.get(module, set())
                yield from (f"{module}.{n.name}" for n in names if n.name not in given)
            case ast.Attribute(attr=name) if re.fullmatch(r"_(?!_|exit$)\w+", name):
                yield name
            case ast.Constant(value=str(text)) if "sys.path" in text or "/tests" in text:
                yield text
            case ast.Attribute(value=ast.Name(id="sys"), attr="path"):
                yield "sys.path"


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in {"langchain_convsync", "tests"}


def test_there_are_four() -> None:
    """The page of the first turn names them."""
    assert [path.stem for path in NOTEBOOKS] == [
        "01_quickstart",
        "02_agent_with_memory",
        "03_webhooks_effectively_once",
        "04_ten_customers",
    ]


@each_notebook
def test_a_notebook_uses_public_names_only(path: Path) -> None:
    """It runs wherever the package is installed, without the repository."""
    assert [name for source in code_of(path) for name in foreign(source)] == []


@pytest.mark.parametrize(
    "source",
    [
        "from tests.notebooks import read",
        "import tests",
        "import langchain_convsync.stores",
        "from langchain_convsync.stores import open_store",
        "from langchain_convsync.testing import _server",
        "from langchain_convsync import settings",
        "runner._handles",
        "import sys\nsys.path.insert(0, '..')",
    ],
)
def test_a_private_name_is_recognised(source: str) -> None:
    """The guard above is worth what it finds."""
    assert list(foreign(source))


@each_notebook
def test_a_notebook_explains_each_step(path: Path) -> None:
    """Prose stands before code; at most two cells of code follow one another."""
    kinds = "".join(cell.cell_type[0] for cell in read(path).cells)

    assert kinds.startswith("m")
    assert "ccc" not in kinds


@each_notebook
def test_outputs_are_small_and_the_same_everywhere(path: Path) -> None:
    """No times, ports, addresses or random ids, so that a diff shows what changed."""
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    shown = [text for cell in cells for output in cell.outputs for text in texts(output)]

    assert shown
    assert [text for text in shown if PASSING.search(text)] == []
    assert all(len(text) < 6_000 for text in shown)
    assert len(path.read_bytes()) < 50_000


def texts(output: Any) -> list[str]:
    """Whatever an output says, in every format."""
    return [output.text] if "text" in output else list(output.get("data", {}).values())


@each_notebook
def test_a_notebook_was_run_from_top_to_bottom(path: Path) -> None:
    """What it shows came about in the order in which it is read."""
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]

    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@each_notebook
def test_a_notebook_is_stored_as_the_runner_stores_it(path: Path) -> None:
    """No editor's own settings, and a diff only where something changed."""
    assert text_of(read(path)) == path.read_text(encoding="utf-8")


def test_with_a_key_the_agent_asks_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one the script answers, which is what the committed outputs show."""
    [source] = [code for code in code_of(NOTEBOOKS[1]) if "OPENAI_API_KEY" in code]
    scripted: dict[str, Any] = {}
    exec(source, scripted)
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    keyed: dict[str, Any] = {}
    exec(source, keyed)

    assert type(scripted["model"]).__name__ == "ScriptedChatModel"
    assert type(keyed["model"]).__name__ == "ChatOpenAI"
