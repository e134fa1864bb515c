"""The code of the README and of every page runs as pasted; what is a test there is a test here."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path
from types import FrameType

import pytest

from langchain_convsync.testing.pytest_plugin import convsync_server, convsync_waha
from tests.pages import PAGES, ROOT, Block, blocks, page

__all__ = ["convsync_server", "convsync_waha"]

OURS = "https://github.com/langchain-convsync/langchain-convsync"
#: Everything with links: GitHub's own files, too.
LINKED = [
    *PAGES,
    ROOT / "CONTRIBUTING.md",
    ROOT / ".github" / "SECURITY.md",
    ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml",
]
TESTING = page("build/testing")
BLOCKS = [block for each in PAGES for block in blocks(each)]

for shown in BLOCKS:
    if shown.has_tests:
        named = re.sub(r"\W", "_", f"{Path(shown.page).stem}_{shown.line}")
        for name, value in shown.run().items():
            if name.startswith("test_"):
                globals()[f"{name}__{named}"] = value  # pytest collects it with its fixtures


# LangChain deprecates it; those who have it learn from a page how to go on with it.
@pytest.mark.filterwarnings("ignore:.*RunnableWithMessageHistory.*:DeprecationWarning")
@pytest.mark.parametrize("block", [block for block in BLOCKS if not block.has_tests], ids=str)
def test_a_code_block_runs_as_pasted(block: Block) -> None:
    """Every block stands alone, and calls whatever it defines."""
    called: set[str] = set()

    def note(frame: FrameType, what: str, _: object) -> None:
        if what == "call" and frame.f_code.co_filename == block.page:
            called.add(frame.f_code.co_name)

    for profile in (sys.setprofile, threading.setprofile):
        profile(note)
    try:
        block.run()
    finally:
        for profile in (sys.setprofile, threading.setprofile):
            profile(None)

    assert block.functions - called == set()


@pytest.mark.parametrize("path", LINKED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_link_leads_somewhere(path: Path) -> None:
    """To a file of the repository, and to a heading or an anchor of it."""
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"(?:\]\(|^\[[\w-]+\]: |\burl: )([^)\s]+)", text, re.MULTILINE):
        ours = re.fullmatch(rf"{OURS}/(?:blob|tree|raw)/main/(.*)", target)
        if "://" in target and ours is None:
            continue
        name, _, anchor = (ours[1] if ours else target).partition("#")
        there = (ROOT if ours else path.parent) / name if name else path
        assert there.exists(), target
        assert anchor == "" or anchor in anchors(there.read_text(encoding="utf-8")), target


def anchors(text: str) -> set[str]:
    """What a link may name after its ``#``."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}
    return slugs | set(re.findall(r'<a id="(.+?)">', text))


@pytest.mark.parametrize(
    "section",
    re.split(r"^## ", TESTING, flags=re.MULTILINE)[1:-1],
    ids=lambda section: section.split("\n")[0],
)
def test_each_way_of_testing_is_shown_sync_and_async(section: str) -> None:
    """Blocking and awaited; the last section tells what does not work."""
    assert re.search(r"^def test_", section, re.MULTILINE)
    assert re.search(r"^async def test_", section, re.MULTILINE)
