"""The code of every page in ``docs`` runs as pasted; what is a test there is a test here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from langchain_convsync.testing.pytest_plugin import convsync_server, convsync_waha
from tests.pages import PAGES, ROOT, Block, blocks

__all__ = ["convsync_server", "convsync_waha"]

TESTING = (ROOT / "docs" / "build" / "testing.md").read_text(encoding="utf-8")
BLOCKS = [block for page in PAGES for block in blocks(page)]

for shown in BLOCKS:
    if shown.has_tests:
        named = re.sub(r"\W", "_", f"{Path(shown.page).stem}_{shown.line}")
        for name, value in shown.run().items():
            if name.startswith("test_"):
                globals()[f"{name}__{named}"] = value  # pytest collects it with its fixtures


@pytest.mark.parametrize("block", [block for block in BLOCKS if not block.has_tests], ids=str)
def test_a_code_block_runs_as_pasted(block: Block) -> None:
    """Every block stands alone."""
    block.run()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_link_leads_somewhere(page: Path) -> None:
    """To a heading of the page, or to a file of the repository."""
    text = page.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        assert path == "" or (page.parent / path).exists(), target
        assert path != "" or anchor in headings, target


@pytest.mark.parametrize(
    "section",
    re.split(r"^## ", TESTING, flags=re.MULTILINE)[1:-1],
    ids=lambda section: section.split("\n")[0],
)
def test_each_way_of_testing_is_shown_sync_and_async(section: str) -> None:
    """Blocking and awaited; the last section tells what does not work."""
    assert re.search(r"^def test_", section, re.MULTILINE)
    assert re.search(r"^async def test_", section, re.MULTILINE)
