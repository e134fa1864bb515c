"""``python -m langchain_convsync``: where the documentation lies on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

from langchain_convsync._version import __version__

_PACKAGE = Path(__file__).parent
#: A wheel brings the pages; a clone has them beside the package.
PAGES = min(_PACKAGE / "docs", _PACKAGE.parent / "docs", key=lambda folder: not folder.is_dir())


def told(pages: Path) -> str:
    """What there is to read, one path a line."""
    lines = [f"langchain-convsync {__version__}: WhatsApp conversations for LangChain agents", ""]
    for name, what in (
        ("skill.md", "for coding assistants: what to use, and what to avoid"),
        ("llms.txt", "every page with its title"),
        ("llms-full.txt", "all pages in one file"),
        ("start/first-turn.md", "for humans: where to begin"),
    ):
        if (pages / name).exists():
            lines.append(f"{pages / name}  {what}")
    return "\n".join([*lines, "", "The command line is `convsync` (extra: cli)."])


if __name__ == "__main__":
    sys.stdout.write(told(PAGES) + "\n")
