"""The pages in ``docs`` and the README: their Python blocks, each of which stands alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


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

    def run(self) -> dict[str, Any]:
        """Run it as pasted; everything it named."""
        names: dict[str, Any] = {"__name__": "pasted"}
        exec(compile("\n" * (self.line - 1) + self.code, self.page, "exec"), names)
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
