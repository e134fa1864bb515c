"""The README and the pages in ``docs``: blocks, each of which stands alone, and tables."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A block of Python on a page.

    Attributes:
        page: The page, relative to the repository.
        line: The page's line on which its code begins.
        code: Its code.
    """

    page: str
    line: int
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def has_tests(self) -> bool:
        """Whether it shows tests, which pytest is to run."""
        return re.search(r"^(async )?def test_", self.code, re.MULTILINE) is not None

    @property
    def functions(self) -> set[str]:
        """The names of what it defines to be called."""
        found = ast.walk(ast.parse(self.code))
        return {e.name for e in found if isinstance(e, ast.FunctionDef | ast.AsyncFunctionDef)}

    def run(self) -> dict[str, Any]:
        """Run it as pasted; everything it named."""
        names: dict[str, Any] = {"__name__": "pasted"}
        if self.has_tests:  # a file of theirs is a module, where tools that stop clocks find it
            module = ModuleType(f"pasted from {self}")
            sys.modules[module.__name__] = module
            names = vars(module)
        code = "\n" * (self.line - 1) + self.code
        # Without this module's own `from __future__`, which a reader has not pasted.
        exec(compile(code, self.page, "exec", dont_inherit=True), names)
        return names


def blocks(page: Path) -> list[Block]:
    """Every block of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page.relative_to(ROOT).as_posix(),
            text.count("\n", 0, found.start(1)) + 1,
            found.group(1),
        )
        for found in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def page(name: str) -> str:
    """The text of a page in ``docs``: ``run/security``, say."""
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def files(text: str) -> dict[str, str]:
    """The blocks that a page tells to keep as files, by their names."""
    found = re.findall(r'^```\w+ title="(.+?)"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    return dict(found)


def commands(text: str) -> list[str]:
    """What a page tells to type, line by line."""
    typed = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return "".join(typed).replace("\\\n", " ").splitlines()


def prose(text: str) -> str:
    """A page without its blocks, tables and the targets of its links."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^(?:\||\[[\w-]+\]: ).*\n", "", text, flags=re.MULTILINE)


def rows(text: str) -> list[list[str]]:
    """The cells of every row below a table's head."""
    tables = re.findall(r"^\| --- .*\n((?:\| .*(?:\n|$))+)", text, re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])] for line in lines]
