"""How the pages read: a README of one sitting, short cells, names that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import langchain_convsync
from tests.pages import PAGES, ROOT, blocks, prose, rows

README = PAGES[0]
TEXT = README.read_text(encoding="utf-8")

each_page = pytest.mark.parametrize(
    "path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix()
)


def test_the_readme_is_read_in_one_sitting() -> None:
    """Everything else is a page of its own."""
    assert len(TEXT.splitlines()) <= 250
    assert len(TEXT.split()) <= 1800


def test_the_first_screen_holds_at_most_nine_names() -> None:
    """A newcomer can hold that many."""
    screen = TEXT.split("## What do I pick")[0]
    known = {*langchain_convsync.__all__, "ConvSyncMiddleware", "ReferenceServer"}
    names = {name for name in {*known, "ScriptedChatModel"} if re.search(rf"\b{name}\b", screen)}

    assert 0 < len(names) <= 9


def test_every_public_name_that_is_to_be_picked_exists() -> None:
    """The table names what can be imported."""
    table = TEXT.split("## What do I pick")[1].split("\n## ")[0]
    promised = set(re.findall(r"`((?:Async)?ConvSync\w+|TurnRunner|a?once)`", table))

    assert len(promised) > 5
    assert promised - {"ConvSyncMiddleware"} <= set(langchain_convsync.__all__)


def test_the_readmes_code_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Who pastes it sees that it worked: the reply, the duplicate, and the history."""
    [block] = blocks(README)
    block.run()

    assert capsys.readouterr().out.splitlines() == [
        "¿Qué pizza te gustaría?",
        "duplicate",
        "user Quiero una pizza",
        "bot ¿Qué pizza te gustaría?",
    ]


@each_page
def test_no_line_of_prose_is_long(path: Path) -> None:
    """120 characters; blocks, tables and links' targets are as long as they are."""
    lines = prose(path.read_text(encoding="utf-8")).splitlines()

    assert [line for line in lines if len(line) > 120] == []


@each_page
def test_no_cell_of_a_table_is_a_paragraph(path: Path) -> None:
    """120 characters as they are shown; a test's name or a query is as long as it is."""
    cells = [cell for row in rows(path.read_text(encoding="utf-8")) for cell in row]
    shown = [re.sub(r"\[(.*?)\](?:\(.*?\)|\[.*?\])", r"\1", cell) for cell in cells]

    assert [cell for cell in shown if len(cell) > 120 and not re.fullmatch("`[^`]+`", cell)] == []


@each_page
def test_a_sentence_is_read_in_one_breath(path: Path) -> None:
    """25 words at most; a colon or a semicolon is a breath, too."""
    text = re.sub(r"(?m)<!--.*-->|^(?:#|:::).*", "", prose(path.read_text(encoding="utf-8")))
    text = re.sub(r"\[(.*?)\](?:\(.*?\)|\[.*?\])", r"\1", re.sub(r"`[^`]*`", "code", text))
    parts = re.split(r"\n\s*\n|\n(?=\s*[-*] |\d+\. )|(?<=[.!?:;])(?:\*\*)?\s+", text)

    assert [part for part in parts if len(part.split()) > 25] == []
