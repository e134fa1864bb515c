"""The README's code runs as pasted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import langchain_convsync

README = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


# LangChain deprecates it; those who have it learn from the README how to go on with it.
@pytest.mark.filterwarnings("ignore:.*RunnableWithMessageHistory.*:DeprecationWarning")
@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_a_code_block_runs_as_pasted(code: str) -> None:
    """Every block stands alone."""
    exec(compile(code, "README.md", "exec"), {"__name__": "pasted"})


def test_the_first_screen_holds_at_most_nine_names() -> None:
    """A newcomer can hold that many."""
    screen = README.split("## What do I pick")[0]
    names = {
        name
        for name in (*langchain_convsync.__all__, "ConvSyncMiddleware", "ReferenceServer")
        if re.search(rf"\b{name}\b", screen)
    } | set(re.findall(r"\bScriptedChatModel\b", screen))

    assert 0 < len(names) <= 9


def test_every_public_name_that_is_promised_exists() -> None:
    """The table of what to pick names what can be imported."""
    table = README.split("## What do I pick")[1].split("###")[0]
    promised = set(re.findall(r"`((?:Async)?ConvSync\w+|TurnRunner|a?once)`", table))

    assert promised - {"ConvSyncMiddleware"} <= set(langchain_convsync.__all__)
